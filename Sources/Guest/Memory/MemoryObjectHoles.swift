// Where a memory object has pages and where it has none: what lseek calls data and holes.
import Base
import Locks
import Pages
import Platform

extension MemoryObject {
  /// The first byte at or behind `offset` that lies in a page of its own, nil if none does before `end`. For objects without a pager.
  public func findData(from offset: UInt64, end: UInt64) -> UInt64? {
    lock.withLock {
      if offset < directByteCount { return offset }
      var found: UInt64?
      pages.forEach(from: offset >> frameShift) { page, slot in
        guard PageWord(slot.pointee).isPresent else { return true }
        found = max(page << frameShift, offset)
        return false
      }
      guard let found, found < end else { return nil }
      return found
    }
  }

  /// The first byte at or behind `offset` that lies in no page, `end` at the latest. For objects without a pager.
  public func findHole(from offset: UInt64, end: UInt64) -> UInt64 {
    lock.withLock {
      var page = max(offset, directByteCount.alignedUp(to: 4096)) >> frameShift
      pages.forEach(from: page) { number, slot in
        guard number == page, PageWord(slot.pointee).isPresent else { return false }
        page &+= 1
        return true
      }
      return min(max(page << frameShift, offset), end)
    }
  }
}
