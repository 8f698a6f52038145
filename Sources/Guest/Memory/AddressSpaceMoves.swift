// mremap and brk: mappings that change their size or place.
import Base
import Locks
import Pages
import Synchronization

extension AddressSpace {
  /// Grows, shrinks or moves a mapping (mremap).
  /// - Parameters:
  ///   - old: the range now, whole pages; an empty one asks for a second mapping of the shared memory there.
  ///   - byteCount: bytes wanted.
  ///   - mayMove: MREMAP_MAYMOVE.
  ///   - fixed: the new address if MREMAP_FIXED was given.
  ///   - keepOld: MREMAP_DONTUNMAP.
  /// - Returns: where it is now.
  /// - Throws: EINVAL, EFAULT (not mapped), ENOMEM.
  public func remap(
    _ old: VirtualRange, byteCount: UInt64, mayMove: Bool, fixed: VirtualAddress? = nil, keepOld: Bool = false
  ) throws(Errno) -> VirtualAddress {
    guard old.start.isAligned(), old.end.isAligned(), old.end <= AddressMap.programEnd else { throw .EINVAL }
    guard byteCount > 0, byteCount <= AddressMap.program.count else { throw .EINVAL }
    let size = byteCount.alignedUp(to: PageSize.small)
    if fixed != nil && !mayMove { throw .EINVAL }
    if keepOld && (!mayMove || size != old.count) { throw .EINVAL }
    lock.writeLock()
    defer { lock.writeUnlock() }
    guard var region = regions.find(old.start.rawValue) else { throw .EFAULT }
    guard !region.pointee.flags.contains(.hugeOnly) else { throw .EINVAL }
    if fixed == nil && !keepOld && size <= old.count {
      // What stays where it is may be several regions, as by Linux.
      if size < old.count { try removeRegions(old.start.rawValue &+ size, old.end.rawValue) }
      return old.start
    }
    guard region.pointee.end >= old.end.rawValue else { throw .EFAULT }
    if old.isEmpty { return try duplicate(region, old.start.rawValue, size, mayMove: mayMove, fixed: fixed) }
    let isData = region.pointee.isData
    let grown = keepOld ? size : size > old.count ? size &- old.count : 0
    if grown > 0 {
      if limits.addressSpace != .max, regions.byteCount &+ grown > limits.addressSpace { throw .ENOMEM }
      if isData, limits.data != .max, dataByteCount &+ grown > limits.data { throw .ENOMEM }
      if region.pointee.flags.contains(.locked) { try checkLocked(adding: grown) }
      if region.pointee.object == nil, !region.pointee.flags.contains(.noReserve), size > Frames.promisedByteCount {
        throw .ENOMEM
      }
    }

    if fixed == nil && !keepOld {
      let end = old.start.rawValue &+ size
      if region.pointee.end == old.end.rawValue, end <= AddressMap.programEnd.rawValue,
        regions.isFree(old.end.rawValue, end)
      {
        let isAnonymous = region.pointee.object == nil
        extend(region, to: end)
        if isAnonymous { mapFirstPages(old.end.rawValue, end) }
        return old.start
      }
    }
    guard mayMove else { throw .ENOMEM }

    var target: UInt64
    if let fixed {
      target = fixed.rawValue
      guard fixed.isAligned(), fixed >= AddressMap.programStart, target <= AddressMap.programEnd.rawValue &- size,
        target &+ size <= old.start.rawValue || target >= old.end.rawValue
      else { throw .EINVAL }
      try removeRegions(target, target &+ size)
    } else {
      guard let gap = freeRange(size) else { throw .ENOMEM }
      target = gap
    }
    if size < old.count { try removeRegions(old.start.rawValue &+ size, old.end.rawValue) }
    let moved = min(size, old.count)
    try cut(at: old.start.rawValue)
    try cut(at: old.start.rawValue &+ moved)
    region = regions.find(old.start.rawValue).unsafelyUnwrapped

    if region.pointee.label != .patches, let patcher = region.pointee.patcher { removePatches(old, of: patcher) }
    var copy = region.pointee
    copy.patcher = nil
    copy.start = target
    copy.end = target &+ size
    copy.faultEnd = 0
    copy.nextMapping = nil
    copy.previousMapping = nil
    guard let new = RegionPointer.make(copy) else { throw .ENOMEM }
    let source = VirtualRange(start: old.start, count: moved)
    guard splitLargePages(in: source), makeTables(for: source, at: target) else {
      // Nothing has moved yet.
      removeTables(target, target &+ size)
      new.discard()
      throw .ENOMEM
    }
    regions.insert(new)
    if let object = new.pointee.object {
      // Who takes pages out of all mappings finds each page in one of the two places.
      object.mappingsLock.lock()
      object.linkLocked(new)
      movePages(source, to: target)
      object.mappingsLock.unlock()
    } else {
      movePages(source, to: target)
    }
    if !keepOld {
      drop(region)
      if moved >= PageSize.large { removeTables(source.start.rawValue, source.end.rawValue) }
    }
    _ = merge(new)
    return VirtualAddress(target)
  }

  /// A second mapping of what a shared region maps from an address on (mremap with an old size of 0).
  private func duplicate(
    _ region: RegionPointer, _ address: UInt64, _ size: UInt64, mayMove: Bool, fixed: VirtualAddress?
  ) throws(Errno) -> VirtualAddress {
    guard region.pointee.flags.contains(.shared), region.pointee.object != nil else { throw .EINVAL }
    guard mayMove else { throw .ENOMEM }
    try checkLimits(adding: size, replacing: 0, isData: false)
    var copy = region.pointee
    copy.offset = region.pointee.objectOffset(address)
    copy.patcher = nil
    copy.faultEnd = 0
    copy.nextMapping = nil
    copy.previousMapping = nil
    if let fixed {
      guard fixed.isAligned(), fixed >= AddressMap.programStart,
        fixed.rawValue <= AddressMap.programEnd.rawValue &- size
      else { throw .EINVAL }
      try removeRegions(fixed.rawValue, fixed.rawValue &+ size)
      copy.start = fixed.rawValue
    } else {
      guard let gap = freeRange(size) else { throw .ENOMEM }
      copy.start = gap
    }
    copy.end = copy.start &+ size
    guard let new = RegionPointer.make(copy) else { throw .ENOMEM }
    let start = VirtualAddress(new.pointee.start)
    adopt(new)
    return start
  }

  /// Lets a region end later; what follows must be free.
  private func extend(_ region: RegionPointer, to end: UInt64) {
    if let object = region.pointee.object {
      object.mappingsLock.lock()
      regions.resize(region, start: region.pointee.start, end: end)
      object.mappingsLock.unlock()
    } else {
      regions.resize(region, start: region.pointee.start, end: end)
    }
    if let behind = regions.find(end) { _ = merge(behind) }
  }

  /// Turns the 2 MiB pages of a range into small ones, since the new place has other borders; false if memory is out.
  private func splitLargePages(in range: VirtualRange) -> Bool {
    var isDone = true
    table.forEachPage(in: range) { slot, level, page in
      guard level == 2, isDone else { return }
      let frame = slot.entry.frame
      isDone = table.splitLarge(slot)
      if isDone, Frames.isManaged(frame) { Frames.split(frame, order: 9) }
    }
    return isDone
  }

  /// Makes the tables that the pages of `source` need at `target`, so that moving them cannot fail; false if memory is out.
  private func makeTables(for source: VirtualRange, at target: UInt64) -> Bool {
    var isDone = true
    // Where tables exist from here on.
    var end: UInt64 = 0
    table.forEachPage(in: source) { _, _, page in
      let there = target &+ (page - source.start)
      guard isDone, there >= end else { return }
      isDone = table.slotMakingTables(VirtualAddress(there)) != nil
      end = there.alignedDown(to: PageSize.large) &+ PageSize.large
    }
    return isDone
  }

  /// Moves the pages of a range, all of them small, to a place that has tables for them.
  private func movePages(_ source: VirtualRange, to target: UInt64) {
    var batch = GatherBatch()
    table.forEachPage(in: source) { slot, _, page in
      // The tables were made above, under the same hold of the write lock.
      let there = table.slotMakingTables(VirtualAddress(target &+ (page - source.start))).unsafelyUnwrapped
      there.store(slot.exchange(.absent))
      batch.noteChange(at: page)
    }
    batch.finish()
  }

  // MARK: The program break

  /// Sets where the program break starts; called once by the program's loader.
  public func setBreakBase(_ address: VirtualAddress) {
    lock.writeLock()
    breakBase = address.rawValue
    breakEnd = address.rawValue
    lock.writeUnlock()
  }

  /// Moves the program break (brk).
  /// - Parameter address: where to; anything below the base asks for the present place.
  /// - Returns: where it is now: unchanged if the move was not possible.
  public func setBreak(_ address: VirtualAddress) -> VirtualAddress {
    lock.writeLock()
    defer { lock.writeUnlock() }
    let wanted = address.rawValue
    guard wanted >= breakBase, wanted < AddressMap.programEnd.rawValue, wanted &- breakBase <= limits.data else {
      return VirtualAddress(breakEnd)
    }
    let now = breakEnd.alignedUp(to: PageSize.small)
    let then = wanted.alignedUp(to: PageSize.small)
    if then < now {
      guard (try? removeRegions(then, now)) != nil else { return VirtualAddress(breakEnd) }
    } else if then > now {
      guard regions.isFree(now, then), then &- now <= Frames.promisedByteCount,
        (try? checkLimits(adding: then &- now, replacing: 0, isData: true)) != nil,
        let region = RegionPointer.make(
          Region(start: now, end: then, protection: [.read, .write], flags: lockFuture, label: .heap))
      else { return VirtualAddress(breakEnd) }
      adopt(region)
      mapFirstPages(now, then, atMost: Self.breakPages)
    }
    breakEnd = wanted
    return VirtualAddress(breakEnd)
  }
}
