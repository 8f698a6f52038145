// ConditionVariable: waiting for a change of what a mutex guards.
//
// Invariant: no wake is missed that is sent after the mutex was released, because the waiter is in the queue before it
// releases it; a sender that changed the guarded state under the mutex comes after. Wakes may be spurious: callers loop.
// Waiters that are woken are not made runnable to wait for the mutex at once: they are moved to the mutex's queue (wait
// morphing), and each runs when it has the mutex.

import Base

/// A condition variable. Waiting is for threads; waking is allowed in any context.
public struct ConditionVariableCore<Word: LockWord & ~Copyable>: ~Copyable {
  private let queue: WaitQueueCore<Word>

  /// One that nobody waits for.
  @inline(__always) public init() { queue = WaitQueueCore() }

  /// Releases the mutex, sleeps until a wake, the deadline or an interrupt, and takes the mutex again, always.
  public borrowing func wait(
    _ mutex: borrowing MutexCore<Word>, until deadline: Deadline = .never, interruptible: Bool = false
  ) -> WaitResult {
    let (result, hasMutex) = queue.waitOnce(
      reacquiring: mutex, until: deadline, interruptible: interruptible, after: { mutex.unlock() })
    if !hasMutex { mutex.lock() }
    return result
  }

  /// Wakes the thread that has waited longest, if any.
  @inline(__always) public borrowing func wakeOne() { queue.wakeOne() }
  /// Wakes every thread that waits now.
  @inline(__always) public borrowing func wakeAll() { queue.wakeAll() }
}

/// The kernel's condition variable.
public typealias ConditionVariable = ConditionVariableCore<LiveWord>

// Locks are made to be shared.
// SAFETY: all that changes is an atomic word, or guarded by such a lock; it is made to be shared.
extension ConditionVariableCore: @unchecked Sendable where Word: ~Copyable {}
