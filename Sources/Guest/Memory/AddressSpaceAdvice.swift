// madvise and making pages present ahead of need.
//
// As Linux does, advice is taken for whatever is mapped in the range, in order; a hole makes the call end with ENOMEM after all
// of it.
import Base
import Locks
import Pages
import Synchronization

extension AddressSpace {
  /// Takes advice about a range of whole pages (madvise).
  /// - Throws: EINVAL (not for such memory), EACCES, ENOMEM (something is not mapped), EFAULT, and what the object throws.
  public func advise(_ range: VirtualRange, _ advice: MemoryAdvice) throws(Errno) {
    if range.isEmpty { return }
    try check(range, empty: .EINVAL)
    switch advice {
    case .discard: try forget(range)
    case .discardLocked: try forget(range, evenLocked: true)
    case .free: try forget(range, anonymousOnly: true)
    case .willNeed: try fetchAhead(range)
    case .populateRead: try makePresent(range, forWriting: false)
    case .populateWrite: try makePresent(range, forWriting: true)
    case .hugePages: try mark(range, remove: .noHugePages, insert: .hugePages)
    case .noHugePages: try mark(range, remove: .hugePages, insert: .noHugePages)
    case .dumping(let isDumped): try mark(range, remove: .notDumped, insert: isDumped ? [] : .notDumped)
    case .copying(let rule): try setCopying(range, rule)
    case .remove: try punch(range)
    case .collapse: try collapse(range)
    case .hint: try withReadLock { () throws(Errno) in try requireMapped(range) }
    }
  }

  /// Forgetting at once is a right way of forgetting some time; memory is given back where it matters.
  private func forget(
    _ range: VirtualRange, anonymousOnly: Bool = false, evenLocked: Bool = false
  ) throws(Errno) {
    lock.writeLock()
    defer { lock.writeUnlock() }
    try forEachRegion(in: range) { region throws(Errno) in
      let flags = region.pointee.flags
      if anonymousOnly && (region.pointee.object != nil || flags.contains(.hugeOnly)) { throw .EINVAL }
      if flags.contains(.locked) && !evenLocked { throw .EINVAL }
      var part = region.pointee.part(of: range)
      if flags.contains(.hugeOnly) {
        guard part.start.isAligned(to: PageSize.large) else { throw .EINVAL }
        part = VirtualRange(start: part.start, end: part.end.alignedDown(to: PageSize.large))
      }
      guard splitLargePage(at: part.start), splitLargePage(at: part.end) else { throw .ENOMEM }
      removePages(part)
    }
    try requireMapped(range)
  }

  private func mark(_ range: VirtualRange, remove: RegionFlags, insert: RegionFlags) throws(Errno) {
    lock.writeLock()
    defer { lock.writeUnlock() }
    try changeFlags(range) { region throws(Errno) in
      if insert == .hugePages || insert == .noHugePages, region.flags.contains(.hugeOnly) { throw .EINVAL }
      return region.flags.subtracting(remove).union(insert)
    }
  }

  private func setCopying(_ range: VirtualRange, _ rule: MemoryAdvice.CopyRule) throws(Errno) {
    lock.writeLock()
    defer { lock.writeUnlock() }
    try changeFlags(range) { region throws(Errno) in
      switch rule {
      case .copied: return region.flags.subtracting(.notCopied)
      case .notCopied: return region.flags.union(.notCopied)
      case .copiedFull: return region.flags.subtracting(.copiedEmpty)
      case .copiedEmpty:
        if region.object != nil { throw .EINVAL }
        return region.flags.union(.copiedEmpty)
      }
    }
  }

  /// Gives each mapped part of a range new flags, cutting and joining regions. Under the write lock.
  /// - Throws: what `flags` throws; ENOMEM at the end if something was not mapped.
  func changeFlags(_ range: VirtualRange, _ flags: (borrowing Region) throws(Errno) -> RegionFlags) throws(Errno) {
    try cut(at: range.start.rawValue)
    try cut(at: range.end.rawValue)
    var address = range.start.rawValue
    var hasHole = false
    while address < range.end.rawValue {
      guard let region = regions.first(endingAbove: address), region.pointee.start < range.end.rawValue else {
        hasHole = true
        break
      }
      if region.pointee.start > address { hasHole = true }
      region.pointee.flags = try flags(region.pointee)
      address = region.pointee.end
      _ = merge(region)
    }
    if let behind = regions.find(range.end.rawValue) { _ = merge(behind) }
    if hasHole { throw .ENOMEM }
  }

  /// Frees the object's pages behind a shared, writable mapping.
  private func punch(_ range: VirtualRange) throws(Errno) {
    try withReadLock { () throws(Errno) in
      try forEachRegion(in: range) { region throws(Errno) in
        if region.pointee.flags.contains(.locked) || region.pointee.object == nil { throw .EINVAL }
        guard region.pointee.flags.contains(.shared), region.pointee.protection.contains(.write) else { throw .EACCES }
      }
    }
    try forEachObject(in: range) { (object, offset, count) throws(Errno) in
      try object.discard(offset: offset, byteCount: count)
    }
  }

  /// Reads what files have in the range into the cache, as far as memory is plentiful; anonymous memory has nothing to fetch.
  private func fetchAhead(_ range: VirtualRange) throws(Errno) {
    var left = Frames.statistics.free >> 2
    try forEachObject(in: range, evenPrivate: true) { (object, offset, count) throws(Errno) in
      guard object.hasPager else { return }
      var page = offset >> frameShift
      let end = min((offset &+ count) >> frameShift, object.pageCount)
      while page < end && left > 0 {
        try object.fetch(page: page, forWriting: false)
        page &+= 1
        left &-= 1
      }
    }
  }

  // MARK: Present pages

  /// Makes all pages of a range present, or says why not.
  private func makePresent(_ range: VirtualRange, forWriting: Bool) throws(Errno) {
    switch populate(range, forWriting: forWriting) {
    case .resolved: return
    case .notMapped, .outOfMemory: throw .ENOMEM
    case .accessDenied: throw .EINVAL
    case .busError: throw .EFAULT
    }
  }

  /// Makes the pages of a range present, as far as that is possible.
  /// - Returns: what stopped it, `resolved` if nothing did.
  @discardableResult
  func populate(_ range: VirtualRange, forWriting: Bool) -> FaultResult {
    var address = range.start
    while address < range.end {
      let step: UInt64 = withReadLock {
        let (slot, level) = table.slot(address)
        let entry = slot.entry
        guard level <= 2, entry.isPresent, !forWriting || entry.isWritable else { return 0 }
        return level == 2 ? PageSize.large &- (address.rawValue & (PageSize.large &- 1)) : PageSize.small
      }
      if step == 0 {
        let result = fault(at: address, access: forWriting ? .write : .read)
        guard result == .resolved else { return result }
      } else {
        address += step
      }
    }
    return .resolved
  }

  /// Runs `body` under the read lock.
  @inline(__always)
  func withReadLock<Result, Failure: Error>(_ body: () throws(Failure) -> Result) throws(Failure) -> Result {
    lock.readLock()
    defer { lock.readUnlock() }
    return try body()
  }
}
