// futex(2).
import Base
import Locks
import Memory
import Platform

extension SystemCall {
  func futex() throws(Errno) -> Int {
    let operation = argument1.u32 & 0x7f
    let key = try FutexKey(address0, in: process.addressSpace)
    switch operation {
    case 0, 9:  // FUTEX_WAIT (relative time-out), FUTEX_WAIT_BITSET (absolute)
      let bitset = operation == 0 ? FutexTable.anyBit : argument5.u32
      guard bitset != 0 else { throw .EINVAL }
      let deadline = try futexDeadline(isAbsolute: operation == 9)
      try FutexTable.wait(key, expected: argument2.u32, bitset: bitset, until: deadline)
      return 0
    case 1, 10:  // FUTEX_WAKE, FUTEX_WAKE_BITSET
      let bitset = operation == 1 ? FutexTable.anyBit : argument5.u32
      guard bitset != 0 else { throw .EINVAL }
      return FutexTable.wake(key, count: max(1, argument2.i32.int), bitset: bitset)
    case 3, 4:  // FUTEX_REQUEUE, FUTEX_CMP_REQUEUE
      guard argument2.i32 >= 0, argument3.i32 >= 0 else { throw .EINVAL }
      let target = try FutexKey(address4, in: process.addressSpace)
      let result = try FutexTable.requeue(
        from: key, to: target, wakeCount: argument2.i32.int, moveCount: argument3.i32.int,
        expected: operation == 4 ? argument5.u32 : nil)
      return result.woken &+ result.moved
    default: throw .ENOSYS
    }
  }

  /// The deadline of a wait: relative ones, and absolute ones on CLOCK_REALTIME if flag 256 says so, else on CLOCK_MONOTONIC.
  private func futexDeadline(isAbsolute: Bool) throws(Errno) -> Deadline {
    guard !address3.isNull else { return .never }
    guard isAbsolute else { return try TimeSpecification.deadline(timeoutAt: address3) }
    let time = try TimeSpecification.read(at: address3)
    guard argument1 & 256 != 0 else { return Deadline(nanoseconds: time) }
    let now = Clock.realtime()
    return .after(time > now ? time &- now : 0, from: Clock.now())
  }
}
