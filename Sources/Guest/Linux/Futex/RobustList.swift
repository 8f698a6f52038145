// Robust mutexes: what happens to the ones a thread holds when it ends (get_robust_list(2)).
import Base
import Memory
import Platform

/// The list of robust mutexes in program memory: `struct robust_list_head`.
enum RobustList {
  /// Size of the head.
  static let headByteCount: UInt64 = 24
  /// Entries that are looked at, in case the list is a circle.
  private static let limit = 2048

  /// Marks every mutex of the list that `owner` holds as left behind, and wakes one of its waiters. Stops at anything odd.
  static func release(head: VirtualAddress, owner: Int32, in space: AddressSpace) {
    guard head.rawValue != 0 else { return }
    try? walk(head: head, owner: owner, in: space)
  }

  private static func walk(head: VirtualAddress, owner: Int32, in space: AddressSpace) throws(Errno) {
    var entry = try UserSpan.read(UInt64.self, at: head)
    let offset = try UserSpan.read(UInt64.self, at: head + 8)
    let pending = try UserSpan.read(UInt64.self, at: head + 16)
    var seen = 0
    while entry & ~1 != head.rawValue, seen < limit {
      let next = try UserSpan.read(UInt64.self, at: VirtualAddress(entry & ~1))
      if entry & ~1 != pending & ~1 { try leave(entry, offset, owner: owner, in: space) }
      entry = next
      seen &+= 1
    }
    if pending != 0 { try leave(pending, offset, owner: owner, in: space, isPending: true) }
  }

  /// One entry; its lowest bit says that the kernel hands this lock over (PI).
  private static func leave(
    _ entry: UInt64, _ offset: UInt64, owner: Int32, in space: AddressSpace, isPending: Bool = false
  ) throws(Errno) {
    let address = VirtualAddress(entry & ~1 &+ offset)
    let key = try FutexKey(address, in: space)
    if entry & 1 != 0 {
      do throws(Errno) {
        try FutexTable.unlockOwned(key, identifier: owner.u32, died: true)
      } catch { if error != .EPERM { throw error } }
      return
    }
    while true {
      let word = try UserSpan.read(UInt32.self, at: address)
      guard word & FutexTable.ownerMask == owner.u32 else {
        // It was about to wake somebody after having given the lock back.
        if isPending && word & FutexTable.ownerMask == 0 { _ = FutexTable.wake(key, count: 1) }
        return
      }
      let left = word & FutexTable.waitersFlag | FutexTable.ownerDied
      guard let found = UserCopy.compareExchange32(address, expected: word, desired: left) else { throw .EFAULT }
      if found == word {
        if word & FutexTable.waitersFlag != 0 { _ = FutexTable.wake(key, count: 1) }
        return
      }
    }
  }
}
