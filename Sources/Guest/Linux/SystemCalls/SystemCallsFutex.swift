// futex(2) and futex_waitv(2).
import Base
import Locks
import Memory
import Platform
import Threads

/// struct futex_waitv.
private struct FutexWaitEntry {
  static let stride: UInt64 = 24
  var expected: UInt64 = 0
  var address: UInt64 = 0
  var flags: UInt32 = 0
  var reserved: UInt32 = 0
}

extension SystemCall {
  func futex() throws(Errno) -> Int {
    let isPrivate = argument1 & 128 != 0
    let operation = argument1.u32 & 0x7f
    // Where no program can have a word, nobody waits: a wake reads none.
    if isPrivate, operation == 1 || operation == 10, address0.isAligned(to: 4), address0 < AddressMap.programStart {
      return 0
    }
    let key = try key(address0, isPrivate)
    switch operation {
    case 0, 9:  // FUTEX_WAIT (relative time-out), FUTEX_WAIT_BITSET (absolute)
      let isAbsolute = argument1 & 0x7f == 9
      let bitset = isAbsolute ? argument5.u32 : FutexTable.anyBit
      guard bitset != 0 else { throw .EINVAL }
      let deadline = try futexDeadline(isAbsolute: isAbsolute, isRealtime: argument1 & 256 != 0)
      try FutexTable.wait(key, expected: argument2.u32, bitset: bitset, until: deadline)
      return 0
    case 1, 10:  // FUTEX_WAKE, FUTEX_WAKE_BITSET
      let bitset = argument1 & 0x7f == 1 ? FutexTable.anyBit : argument5.u32
      guard bitset != 0 else { throw .EINVAL }
      return FutexTable.wake(key, count: max(1, argument2.i32.int), bitset: bitset)
    case 3, 4:  // FUTEX_REQUEUE, FUTEX_CMP_REQUEUE
      guard argument2.i32 >= 0, argument3.i32 >= 0 else { throw .EINVAL }
      let result = try FutexTable.requeue(
        from: key, to: try secondKey(isPrivate), wakeCount: argument2.i32.int, moveCount: argument3.i32.int,
        expected: argument1 & 0x7f == 4 ? argument5.u32 : nil)
      return result.woken &+ result.moved
    case 5:  // FUTEX_WAKE_OP
      return try FutexTable.wakeOperation(
        first: key, second: try secondKey(isPrivate), count: max(1, argument2.i32.int),
        secondCount: max(1, argument3.i32.int), operation: try FutexOperation(argument5.u32))
    case 6, 13:  // FUTEX_LOCK_PI (real time), FUTEX_LOCK_PI2 (monotonic, or real time)
      let isRealtime = argument1 & 0x7f == 6 || argument1 & 256 != 0
      let deadline = try futexDeadline(isAbsolute: true, isRealtime: isRealtime)
      return try lockOwned(key, tries: false, until: deadline)
    case 8: return try lockOwned(key, tries: true, until: .never)  // FUTEX_TRYLOCK_PI
    case 7:  // FUTEX_UNLOCK_PI
      try FutexTable.unlockOwned(key, identifier: task.identifier.u32)
      return 0
    case 11:  // FUTEX_WAIT_REQUEUE_PI
      let deadline = try futexDeadline(isAbsolute: true, isRealtime: argument1 & 256 != 0)
      try FutexTable.waitForLock(
        key, expected: argument2.u32, target: try secondKey(isPrivate), identifier: task.identifier.u32,
        until: deadline)
      return 0
    case 12:  // FUTEX_CMP_REQUEUE_PI
      guard argument2.i32 == 1, argument3.i32 >= 0 else { throw .EINVAL }
      let process = process
      return try FutexTable.requeueToLock(
        from: key, to: try secondKey(isPrivate), moveCount: argument3.i32.int, expected: argument5.u32
      ) { process.owner($0) }
    default: throw .ENOSYS
    }
  }

  private func secondKey(_ isPrivate: Bool) throws(Errno) -> FutexKey {
    try key(address4, isPrivate)
  }

  @inline(__always) private func key(_ address: VirtualAddress, _ isPrivate: Bool) throws(Errno) -> FutexKey {
    if isPrivate { return try FutexKey(private: address, in: withProcess { $0.spaceIdentity }) }
    return try FutexKey(address, in: process.addressSpace)
  }

  private func lockOwned(_ key: FutexKey, tries: Bool, until deadline: Deadline) throws(Errno) -> Int {
    let process = process
    do throws(Errno) {
      try FutexTable.lockOwned(key, identifier: task.identifier.u32, tries: tries, until: deadline) {
        process.owner($0)
      }
    } catch {
      // Programs do not expect this call to be cut short.
      if error == .EINTR { task.mustRestart = true }
      throw error
    }
    return 0
  }

  /// The deadline at `address3`: relative ones, and absolute ones on either clock.
  private func futexDeadline(isAbsolute: Bool, isRealtime: Bool) throws(Errno) -> Deadline {
    guard !address3.isNull else { return .never }
    guard isAbsolute else { return try TimeSpecification.deadline(timeoutAt: address3) }
    let time = try TimeSpecification.read(at: address3)
    guard isRealtime else { return Deadline(nanoseconds: time) }
    let now = Clock.realtime()
    return .after(time > now ? time &- now : 0, from: Clock.now())
  }

  func futex_waitv() throws(Errno) -> Int {
    let count = argument1
    guard count >= 1, count <= FutexTable.waitLimit.u64, argument2 == 0 else { throw .EINVAL }
    var deadline = Deadline.never
    if !address3.isNull {
      guard argument4 < 2 else { throw .EINVAL }
      let time = try TimeSpecification.read(at: address3)
      let now = argument4 == 0 ? Clock.realtime() : 0
      deadline = argument4 == 0 ? .after(time > now ? time &- now : 0, from: Clock.now()) : Deadline(nanoseconds: time)
    }
    return try FutexTable.waitAny(count: count.int, until: deadline) { (index) throws(Errno) in
      let entry = try UserSpan.read(FutexWaitEntry.self, at: address0 + index.u64 &* FutexWaitEntry.stride)
      // 32-bit words only, private or not.
      guard entry.flags & ~128 == 2, entry.reserved == 0 else { throw .EINVAL }
      let key = try FutexKey(
        VirtualAddress(entry.address), in: process.addressSpace, isPrivate: entry.flags & 128 != 0)
      return (key, entry.expected.u32)
    }
  }
}
