// Semaphore: a count of units; taking waits while there are too few.
//
// Invariants: `units` never goes below 0: it is lowered only by a compare-exchange from a value that is large enough. A
// `post` raises it before it wakes, and a waiter looks at it after it has queued (WaitQueue 6), so no unit lies there
// unseen. A waiter that gives up has taken nothing.

import Base

/// A counting semaphore. Waiting is for threads; posting is allowed in any context.
public struct SemaphoreCore<Word: LockWord & ~Copyable>: ~Copyable {
  private let units: Word
  private let queue: WaitQueueCore<Word>

  /// A semaphore with that many units.
  @inline(__always) public init(_ initial: Int = 0) {
    units = Word(initial.uint)
    queue = WaitQueueCore()
  }

  /// Takes one unit if there is one, and says whether.
  public borrowing func tryWait() -> Bool {
    while true {
      let present = units.load()
      if present == 0 { return false }
      if units.compareExchange(present, present &- 1) { return true }
    }
  }

  /// Takes one unit; sleeps while there is none. Only `.woken` means that it was taken.
  public borrowing func wait(until deadline: Deadline = .never, interruptible: Bool = false) -> WaitResult {
    queue.wait(until: deadline, interruptible: interruptible) { !tryWait() }
  }

  /// Adds units (1 or more). The semaphore must stay until this returns, though a waiter may have the unit before.
  public borrowing func post(_ number: Int = 1) {
    _ = units.add(number.uint)
    for _ in 0..<number { queue.wakeOne() }
  }

  /// Where its waiters sleep; for `WaitAny`, whose attempt is `tryWait`. The semaphore must stay in place meanwhile.
  public var waiters: UnsafePointer<WaitQueueCore<Word>> {
    // SAFETY: an object with atomic words lies where it is as long as it exists.
    withUnsafePointer(to: queue) { $0 }
  }

  /// The units present; a hint.
  public var count: Int { units.load().int }
}

/// The kernel's semaphore.
public typealias Semaphore = SemaphoreCore<LiveWord>

// Locks are made to be shared.
// SAFETY: all that changes is an atomic word.
extension SemaphoreCore: @unchecked Sendable where Word: ~Copyable {}
