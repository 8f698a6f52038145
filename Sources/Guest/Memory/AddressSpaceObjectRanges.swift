// msync and mincore: what a range's objects have, and writing it back.
import Base
import Locks
import Pages

extension AddressSpace {
  /// Writes changes to shared objects back (msync).
  /// - Parameters:
  ///   - waits: MS_SYNC; otherwise only the range is checked, writing back comes in its time.
  ///   - invalidates: MS_INVALIDATE, which locked memory refuses.
  /// - Throws: ENOMEM (something is not mapped: the rest has been written), EBUSY, EIO.
  public func synchronise(_ range: VirtualRange, waits: Bool = true, invalidates: Bool = false) throws(Errno) {
    try check(range, empty: .EINVAL)
    if invalidates {
      try withReadLock { () throws(Errno) in
        try forEachRegion(in: range) { region throws(Errno) in
          if region.pointee.flags.contains(.locked) { throw .EBUSY }
        }
      }
    }
    try forEachObject(in: range) { (object, offset, count) throws(Errno) in
      if waits { try object.writeBack(offset: offset, byteCount: count) }
    }
  }

  /// Whether each page of a range is in memory (mincore): mapped here, or in its object's cache.
  /// - Throws: ENOMEM (something is not mapped), whatever `each` throws.
  public func residency(_ range: VirtualRange, _ each: (Bool) throws(Errno) -> Void) throws(Errno) {
    try check(range, empty: .EINVAL)
    try withReadLock { () throws(Errno) in try requireMapped(range) }
    var address = range.start
    while address < range.end {
      let isPresent = withReadLock { () -> Bool in
        if table.slot(address).slot.entry.isPresent { return true }
        guard let region = regions.find(address.rawValue), let object = region.pointee.object else { return false }
        return object.holds(page: region.pointee.objectOffset(address.rawValue) >> frameShift)
      }
      try each(isPresent)
      address += PageSize.small
    }
  }

  /// Calls `body` with each shared object mapped in a range, without locks.
  /// - Parameter evenPrivate: objects behind private mappings too.
  /// - Throws: what `body` throws; ENOMEM at the end if something was not mapped.
  func forEachObject(
    in range: VirtualRange, evenPrivate: Bool = false,
    _ body: (MemoryObject, UInt64, UInt64) throws(Errno) -> Void
  ) throws(Errno) {
    var address = range.start.rawValue
    var hasHole = false
    while address < range.end.rawValue {
      var found: MemoryObject?
      var owner: (any MappingOwner)?
      var offset: UInt64 = 0
      var start = address
      withReadLock {
        guard let region = regions.first(endingAbove: address), region.pointee.start < range.end.rawValue else {
          hasHole = true
          address = range.end.rawValue
          return
        }
        if region.pointee.start > address { hasHole = true }
        start = max(address, region.pointee.start)
        if evenPrivate || region.pointee.flags.contains(.shared) {
          (found, owner) = (region.pointee.object, region.pointee.owner)
        }
        offset = region.pointee.objectOffset(start)
        address = min(region.pointee.end, range.end.rawValue)
      }
      if let found {
        // The owner keeps the object's pager alive, even if the mapping goes meanwhile.
        try withExtendedLifetime(owner) { () throws(Errno) in try body(found, offset, address &- start) }
      }
    }
    if hasHole { throw .ENOMEM }
  }
}

extension MemoryObject {
  /// Whether a page needs no reading.
  func holds(page: UInt64) -> Bool {
    lock.lock()
    defer { lock.unlock() }
    return page < pageCount && (word(page).isPresent || directFrame(page) != nil)
  }

  /// Whether somebody may store to the object through a mapping, now or after mprotect.
  public var hasWritableMappings: Bool {
    mappingsLock.lock()
    defer { mappingsLock.unlock() }
    var next = mappings
    while let region = next {
      let flags = region.pointee.flags
      if flags.contains(.shared) && !flags.contains(.neverWrite) { return true }
      next = region.pointee.nextMapping
    }
    return false
  }

  /// How many regions map the object.
  public var mappingCount: Int {
    mappingsLock.lock()
    defer { mappingsLock.unlock() }
    var count = 0
    var next = mappings
    while let region = next {
      count &+= 1
      next = region.pointee.nextMapping
    }
    return count
  }
}
