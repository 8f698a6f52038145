// madvise, msync, mincore, and making pages present ahead of need.
import Base
import Locks
import Pages
import Synchronization

extension AddressSpace {
  /// Takes advice about a range of whole pages (madvise).
  /// - Throws: EINVAL, ENOMEM (something is not mapped), and what the object throws.
  public func advise(_ range: VirtualRange, _ advice: MemoryAdvice) throws(Errno) {
    if range.isEmpty { return }
    try check(range, empty: .EINVAL)
    switch advice {
    case .discard, .free:
      // Forgetting at once is a right way of forgetting some time; memory is given back where it matters.
      lock.writeLock()
      defer { lock.writeUnlock() }
      try requireMapped(range)
      guard splitLargePage(at: range.start), splitLargePage(at: range.end) else { throw .ENOMEM }
      removePages(range)
    case .willNeed:
      try withReadLock { () throws(Errno) in try requireMapped(range) }
      populate(range, forWriting: false)
    case .populateWrite:
      try withReadLock { () throws(Errno) in try requireMapped(range) }
      populate(range, forWriting: true)
    case .hugePages, .noHugePages:
      lock.writeLock()
      defer { lock.writeUnlock() }
      try requireMapped(range)
      try cut(at: range.start.rawValue)
      try cut(at: range.end.rawValue)
      try forEachRegion(in: range) { region in
        region.pointee.flags.subtract([.hugePages, .noHugePages])
        region.pointee.flags.insert(advice == .hugePages ? .hugePages : .noHugePages)
      }
    case .remove:
      try forEachObject(in: range) { (object, offset, count) throws(Errno) in
        try object.discard(offset: offset, byteCount: count)
      }
    case .hint:
      try withReadLock { () throws(Errno) in try requireMapped(range) }
    }
  }

  /// Writes changes to shared objects back (msync with MS_SYNC).
  /// - Throws: ENOMEM (something is not mapped), EIO.
  public func synchronise(_ range: VirtualRange) throws(Errno) {
    try check(range, empty: .EINVAL)
    try forEachObject(in: range) { (object, offset, count) throws(Errno) in
      try object.writeBack(offset: offset, byteCount: count)
    }
  }

  /// Whether each page of a range is present (mincore).
  /// - Throws: ENOMEM (something is not mapped), whatever `each` throws.
  public func residency(_ range: VirtualRange, _ each: (Bool) throws(Errno) -> Void) throws(Errno) {
    try check(range, empty: .EINVAL)
    try withReadLock { () throws(Errno) in try requireMapped(range) }
    var address = range.start
    while address < range.end {
      let isPresent = withReadLock { table.slot(address).slot.entry.isPresent }
      try each(isPresent)
      address += PageSize.small
    }
  }

  /// Makes the pages of a range present, as far as that is possible.
  func populate(_ range: VirtualRange, forWriting: Bool) {
    var address = range.start
    while address < range.end {
      let step: UInt64 = withReadLock {
        let (slot, level) = table.slot(address)
        let entry = slot.entry
        guard level <= 2, entry.isPresent, !forWriting || entry.isWritable else { return 0 }
        return level == 2 ? PageSize.large &- (address.rawValue & (PageSize.large &- 1)) : PageSize.small
      }
      if step == 0 {
        guard fault(at: address, access: forWriting ? .write : .read) == .resolved else { return }
      } else {
        address += step
      }
    }
  }

  /// Calls `body` with each shared object mapped in a range, without locks.
  private func forEachObject(
    in range: VirtualRange, _ body: (MemoryObject, UInt64, UInt64) throws(Errno) -> Void
  ) throws(Errno) {
    var address = range.start.rawValue
    while address < range.end.rawValue {
      var found: MemoryObject?
      var owner: (any MappingOwner)?
      var offset: UInt64 = 0
      let start = address
      try withReadLock { () throws(Errno) in
        guard let region = regions.find(address) else { throw .ENOMEM }
        if region.pointee.flags.contains(.shared) { (found, owner) = (region.pointee.object, region.pointee.owner) }
        offset = region.pointee.objectOffset(address)
        address = min(region.pointee.end, range.end.rawValue)
      }
      if let found {
        // The owner keeps the object's pager alive, even if the mapping goes meanwhile.
        try withExtendedLifetime(owner) { () throws(Errno) in try body(found, offset, address &- start) }
      }
    }
  }

  /// Runs `body` under the read lock.
  @inline(__always)
  func withReadLock<Result, Failure: Error>(_ body: () throws(Failure) -> Result) throws(Failure) -> Result {
    lock.readLock()
    defer { lock.readUnlock() }
    return try body()
  }
}
