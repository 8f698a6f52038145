// FutexGate: whether anybody may be waiting in a bucket, asked without taking its lock. A wake that finds nobody is frequent:
// whoever was to be woken has seen the word change before it slept.
//
// `head` is the first waiter in the queue, or 0; it is written only with the lock held, and is 0 only when the queue is empty.
//
// Invariant: a waker that has changed the word and is told "nobody" has missed no waiter that slept on the word as it was.
// A waiter takes the lock (a sequentially consistent read-modify-write of the lock's count), then compares the word, then
// enters the queue, then gives the lock back. The waker changes the word, passes a full fence, then looks at the lock's count,
// then at `head`. If the fence comes first, the waiter sees the changed word and does not sleep. Otherwise the waker sees the
// count raised; or it sees a count that a later unlock has brought back to 0, and with it, acquiring, the queue as that unlock
// left it: the waiter is at or behind `head`, or has been taken out since by somebody who woke or moved it.
import Locks

enum FutexGate<Word: LockWord & ~Copyable> {
  /// Whether there may be somebody in the queue. After the change of the word.
  @inline(__always) static func mayHaveWaiters(lock: borrowing MutexCore<Word>, head: borrowing Word) -> Bool {
    Word.fence()
    return lock.isLocked || head.load() != 0
  }
}
