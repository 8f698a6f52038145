// Changing a program's code while it runs: in private, executable mappings of files that were never writable.
//
// A page of code is never written to. It is copied, the copy is changed, and the copy takes its place in the page table:
// every CPU executes either the page as it was or the page as it is, never half of a change. Whoever changes code
// sees to it that a thread which stood anywhere in the old page finds its way in the new one. The file, and who else maps it,
// keep the page as it was.
//
// A patcher has a region of its own near the code, for what its changes lead to; that region lives until the last part of
// the code's mapping has gone.
import Base
import Locks
import Pages
import Platform
import Synchronization

/// Who changes the code of one mapping.
public protocol CodePatcher: AnyObject {
  /// Where the mapping was when the patcher was made.
  var range: VirtualRange { get }
  /// Where its own code is.
  var room: VirtualRange { get }
  /// Whether it has changed the page at `address`.
  func hasChanged(_ address: VirtualAddress) -> Bool
  /// The address in the code as it was that a place in its own code stands for; nil if it stands for none.
  func original(of address: VirtualAddress) -> VirtualAddress?
  /// Where to go on instead of at an address of the code as it was, if there is a better place.
  func replacement(for address: VirtualAddress) -> VirtualAddress?
}

/// Code that may be patched.
public struct CodeMapping {
  /// The file.
  public var object: MemoryObject
  /// Who stands behind it.
  public var owner: (any MappingOwner)?
  /// Where it is.
  public var range: VirtualRange
  /// Offset of its first byte in the file.
  public var offset: UInt64
  /// Its patcher, if it has one.
  public var patcher: (any CodePatcher)?

  /// Bytes of a patcher's own code.
  public static let roomByteCount: UInt64 = 1 << 16
  /// Code and room lie within this distance, so that a 32-bit displacement reaches from each to the other.
  static let reach: UInt64 = (1 << 31) - (1 << 20)
}

extension AddressSpace {
  /// The patcher to whose code, old or new, an address belongs.
  public func patcher(at address: VirtualAddress) -> (any CodePatcher)? {
    lock.readLock()
    defer { lock.readUnlock() }
    return regions.find(address.rawValue)?.pointee.patcher
  }

  /// The code at an address; nil if it may not be patched.
  public func code(at address: VirtualAddress) -> CodeMapping? {
    lock.readLock()
    defer { lock.readUnlock() }
    guard let region = regions.find(address.rawValue), region.pointee.isPatchable, let object = region.pointee.object
    else { return nil }
    return CodeMapping(
      object: object, owner: region.pointee.owner,
      range: VirtualRange(start: VirtualAddress(region.pointee.start), end: VirtualAddress(region.pointee.end)),
      offset: region.pointee.offset, patcher: region.pointee.patcher)
  }

  /// Gives code a patcher.
  /// - Parameters:
  ///   - code: what `code(at:)` said.
  ///   - make: makes the patcher, told where its own code is and through which object it is written. Runs under the address
  ///     space's lock.
  /// - Returns: the patcher; nil if the code has changed since, if there is no room near it, or if memory is out.
  public func addPatcher(
    to code: CodeMapping, _ make: (VirtualRange, MemoryObject) -> (any CodePatcher)?
  ) -> (any CodePatcher)? {
    lock.writeLock()
    defer { lock.writeUnlock() }
    guard let region = regions.find(code.range.start.rawValue), region.pointee.isPatchable,
      region.pointee.start == code.range.start.rawValue, region.pointee.end == code.range.end.rawValue,
      region.pointee.object === code.object, region.pointee.offset == code.offset
    else { return nil }
    if let patcher = region.pointee.patcher { return patcher }
    guard let room = roomForPatches(region.pointee.start, region.pointee.end) else { return nil }
    let object = MemoryObject(byteCount: CodeMapping.roomByteCount)
    guard let patcher = make(VirtualRange(start: VirtualAddress(room), count: CodeMapping.roomByteCount), object),
      let record = RegionPointer.make(
        Region(
          start: room, end: room &+ CodeMapping.roomByteCount, protection: [.read, .execute],
          flags: [.shared, .neverWrite], label: .patches, object: object))
    else { return nil }
    record.pointee.patcher = patcher
    region.pointee.patcher = patcher
    adopt(record)
    return patcher
  }

  /// Puts a changed copy of a page of code in its place.
  /// - Parameters:
  ///   - page: its address.
  ///   - patcher: who changes it.
  ///   - change: changes the copy; false if it will not. Never sleeps.
  /// - Returns: whether the page is changed.
  public func replaceCode(
    at page: VirtualAddress, of patcher: any CodePatcher, _ change: (UnsafeMutableRawBufferPointer) -> Bool
  ) -> Bool {
    lock.readLock()
    defer { lock.readUnlock() }
    guard let region = regions.find(page.rawValue), region.pointee.isPatchable, region.pointee.patcher === patcher
    else {
      return false
    }
    let (slot, level) = table.slot(page)
    let old = slot.entry
    guard level == 1, old.isPresent, old.isExecutable, let copy = Frames.allocate(use: .program) else { return false }
    copyFrame(from: old.frame, to: copy)
    // SAFETY: a fresh frame that nobody else knows.
    let bytes = UnsafeMutableRawBufferPointer(start: LinearMap.pointer(copy), count: PageSize.small.int)
    let new = PageTableEntry.leaf(copy, writable: false, executable: true).asOwned
    guard change(bytes), slot.replace(old, by: new) else {
      Frames.free(copy)
      return false
    }
    var batch = GatherBatch()
    batch.add(old.frame, at: page)
    batch.finish()
    return true
  }

  // MARK: Under the write lock

  /// A free place near some code.
  private func roomForPatches(_ start: UInt64, _ end: UInt64) -> UInt64? {
    let size = CodeMapping.roomByteCount
    let reach = CodeMapping.reach
    let low = max(AddressMap.programStart.rawValue, end > reach ? end &- reach : 0)
    if low < start, let below = regions.highestGap(size: size, low: low, high: start) { return below }
    let high = min(AddressMap.programEnd.rawValue, start &+ reach)
    return end < high ? regions.highestGap(size: size, low: end, high: high) : nil
  }

  /// A region with code has gone: so does its patcher's, if it was the last one.
  func dropRoom(of patcher: any CodePatcher) {
    var address = patcher.range.start.rawValue
    while let region = regions.first(endingAbove: address), region.pointee.start < patcher.range.end.rawValue {
      if region.pointee.patcher === patcher { return }
      address = region.pointee.end
    }
    if let region = regions.find(patcher.room.start.rawValue), region.pointee.patcher === patcher {
      try? removeRegions(patcher.room.start.rawValue, patcher.room.end.rawValue)
    }
  }

  /// Takes changed pages out: the code is to be moved, and its changes hold at one place only.
  func removePatches(_ range: VirtualRange, of patcher: any CodePatcher) {
    var batch = GatherBatch()
    var removed = 0
    table.forEachPage(in: range) { slot, level, page in
      guard level == 1, patcher.hasChanged(page) else { return }
      let old = slot.exchange(.absent)
      removed &+= 1
      batch.add(old.frame, at: page)
    }
    batch.finish()
    residentPages.subtract(removed, ordering: .relaxed)
  }
}
