// Changing the regions of an address space: cutting, merging, removing. All under the write lock, except where said.
import Base
import Locks
import Pages

extension AddressSpace {
  /// Refuses ranges that are not whole pages of the programs' part.
  func check(_ range: VirtualRange, empty error: Errno) throws(Errno) {
    guard !range.isEmpty, range.start.isAligned(), range.end.isAligned() else { throw error }
    guard range.end <= AddressMap.programEnd else { throw .EINVAL }
  }

  /// Throws ENOMEM if some page of a range is not mapped.
  func requireMapped(_ range: VirtualRange) throws(Errno) {
    var address = range.start.rawValue
    while address < range.end.rawValue {
      guard let region = regions.find(address) else { throw .ENOMEM }
      address = region.pointee.end
    }
  }

  /// Calls `body` with every region that has a page in a range, in order.
  func forEachRegion(in range: VirtualRange, _ body: (RegionPointer) throws(Errno) -> Void) throws(Errno) {
    var address = range.start.rawValue
    while address < range.end.rawValue, let region = regions.first(endingAbove: address),
      region.pointee.start < range.end.rawValue
    {
      address = region.pointee.end
      try body(region)
    }
  }

  /// Puts a new region in, and joins it with its neighbours if they are alike.
  func adopt(_ region: RegionPointer) {
    // SAFETY: a region that is in an object's list is in its space's tree, and `deinit` drops all of them.
    region.pointee.space = Unmanaged.passUnretained(self)
    regions.insert(region)
    region.pointee.object?.link(region)
    let joined = merge(region)
    if let behind = regions.next(after: joined), behind.pointee.start == joined.pointee.end { _ = merge(behind) }
  }

  /// Takes a region out and frees it; its pages must be gone.
  func drop(_ region: RegionPointer) {
    regions.remove(region)
    region.pointee.object?.unlink(region)
    let patcher = region.pointee.label == .patches ? nil : region.pointee.patcher
    region.discard()
    if let patcher { dropRoom(of: patcher) }
  }

  /// Joins a region with the one right before it if they are alike.
  /// - Returns: the region that now has these addresses.
  func merge(_ region: RegionPointer) -> RegionPointer {
    guard let before = regions.last(startingBelow: region.pointee.start), before.pointee.continues(into: region.pointee)
    else { return region }
    let end = region.pointee.end
    // The object's list and its readers must see one of the two at any moment.
    if let object = before.pointee.object {
      object.mappingsLock.lock()
      regions.remove(region)
      regions.resize(before, start: before.pointee.start, end: end)
      object.unlinkLocked(region)
      object.mappingsLock.unlock()
    } else {
      regions.remove(region)
      regions.resize(before, start: before.pointee.start, end: end)
    }
    region.discard()
    return before
  }

  /// Makes `address` a border between regions, if one contains it, and between pages.
  func cut(at address: UInt64) throws(Errno) {
    guard let region = regions.find(address), region.pointee.start < address else { return }
    guard splitLargePage(at: VirtualAddress(address)) else { throw .ENOMEM }
    var copy = region.pointee
    copy.start = address
    copy.offset = region.pointee.object == nil ? 0 : region.pointee.objectOffset(address)
    copy.nextMapping = nil
    copy.previousMapping = nil
    guard let upper = RegionPointer.make(copy) else { throw .ENOMEM }
    if let object = region.pointee.object {
      object.mappingsLock.lock()
      regions.resize(region, start: region.pointee.start, end: address)
      regions.insert(upper)
      object.linkLocked(upper)
      object.mappingsLock.unlock()
    } else {
      regions.resize(region, start: region.pointee.start, end: address)
      regions.insert(upper)
    }
  }

  /// Removes regions and pages of a range.
  func removeRegions(_ start: UInt64, _ end: UInt64) throws(Errno) {
    guard let first = regions.first(endingAbove: start), first.pointee.start < end else { return }
    try cut(at: start)
    try cut(at: end)
    removePages(VirtualRange(start: VirtualAddress(start), end: VirtualAddress(end)))
    while let region = regions.first(endingAbove: start), region.pointee.start < end { drop(region) }
    // Not before the regions have left their objects' lists: who comes from there walks the tables too.
    if end &- start >= PageSize.large { removeTables(start, end) }
  }

  /// Gives back tables of a range without regions. Smaller ranges keep theirs: they are often mapped again.
  func removeTables(_ start: UInt64, _ end: UInt64) {
    var batch = GatherBatch()
    let range = VirtualRange(start: VirtualAddress(start), end: VirtualAddress(end))
    table.removeTables(in: range) { batch.add(table: $0, at: range.start) }
    batch.finish()
  }

  // MARK: Pages

  /// Turns the 2 MiB page that `address` lies inside into 4 KiB pages; false if memory is out.
  func splitLargePage(at address: VirtualAddress) -> Bool {
    guard !address.isAligned(to: PageSize.large) else { return true }
    let (slot, level) = table.slot(address)
    let entry = slot.entry
    guard level == 2, entry.rawValue != 0, entry.isLarge else { return true }
    guard table.splitLarge(slot) else { return false }
    if Frames.isManaged(entry.frame) { Frames.split(entry.frame, order: 9) }
    return true
  }

  /// Takes all pages of a range out, flushes, and gives them back.
  func removePages(_ range: VirtualRange) {
    guard range.end > range.start else { return }
    var batch = GatherBatch()
    var removed = 0
    // A large unmapping walks from region to region: there are no pages between them.
    var address = range.start.rawValue
    while let region = regions.first(endingAbove: address), region.pointee.start < range.end.rawValue {
      let part = VirtualRange(
        start: VirtualAddress(max(region.pointee.start, range.start.rawValue)),
        end: VirtualAddress(min(region.pointee.end, range.end.rawValue)))
      address = region.pointee.end
      table.forEachPage(in: part) { slot, level, page in
        let old = slot.exchange(.absent)
        guard old.rawValue != 0 else { return }
        removed &+= level == 1 ? 1 : 512
        batch.add(old.frame, at: page)
      }
      region.pointee.faultEnd = 0
    }
    batch.finish()
    residentPages.subtract(removed, ordering: .relaxed)
  }

  /// Brings the entries of a region in line with its rights.
  func updateRights(of region: RegionPointer) {
    let range = VirtualRange(start: VirtualAddress(region.pointee.start), end: VirtualAddress(region.pointee.end))
    let protection = region.pointee.protection
    var batch = GatherBatch()
    table.forEachPage(in: range) { slot, _, page in
      while true {
        let old = slot.entry
        var new = old.withRights(protection)
        if protection.contains(.write) && !old.isWritable && mayWriteInPlace(old, region) { new = new.asWritable }
        if old == new || slot.replace(old, by: new) {
          if new.isWeaker(than: old) {
            batch.noteChange(at: page)
          } else if old.isPresent && old != new {
            batch.noteGain()
          }
          break
        }
      }
    }
    batch.finish()
  }

  /// Whether a page that is mapped read-only needs no copy and no note before it is written.
  func mayWriteInPlace(_ entry: PageTableEntry, _ region: RegionPointer) -> Bool {
    if region.pointee.flags.contains(.shared) { return false }
    return entry.isOwned && Frames.references(entry.frame) == 1
  }
}
