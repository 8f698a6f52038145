// ThreadControl: what the scheduler keeps for each thread. Recycled, never freed.

import Base
import Locks
import Pages
import Platform

/// A thread's control block. Who may touch what:
///   * `park`, `wakeLink`, `onCPU`, `affinity`, `cpu`, `life`: anybody, atomically, as their algorithms say;
///   * `links` and `rank`: the CPU whose run queue the thread is in;
///   * the rest: the thread itself, or the CPU that switches it, with interrupts off.
struct ThreadControl: ~Copyable {
  var number: UInt64 = 0
  var name: StaticString = ""
  var slots: InlineArray<4, UnsafeMutableRawPointer?> = InlineArray(repeating: nil)
  let affinity = Atomic<UInt64>(.max)
  /// The CPU it runs on or ran on last: its run queue, its vector registers.
  let cpu = Atomic<UInt32>(0)
  /// 0 joinable, 1 detached, 2 ended.
  let life = LiveWord(0)
  let enders = WaitQueue()

  var runTime: UInt64 = 0
  var voluntarySwitches: UInt64 = 0
  var involuntarySwitches: UInt64 = 0

  var entry: Thread.Entry?
  var argument: UnsafeMutableRawPointer?
  var stackTop = VirtualAddress(0)
  var threadPointer: UInt64 = 0
  var extendedState: UnsafeMutableRawPointer?
  var nextFree: UnsafeMutablePointer<ThreadControl>?
}
