// Mutex: sleeping, lock-free, with responsibility hand-off.
//
// After Gidenstam and Papatriantafilou, "Blocking without Locking" (2007), as OSv uses it: no spin lock protects the queue
// of waiters; instead unlock and lock settle between them, by one word, who takes the next waiter out of it.
//
// State. `count`: threads that hold the mutex or want it. `newcomers`: a stack that waiters push themselves on.
// `queue`: waiters in order of arrival, moved there from `newcomers` by whoever pops. `handoff`: 0, or the number of
// an unlock that has left the duty to wake somebody to whoever finds it. `sequence`: the last such number.
//
// Invariants, and why they hold:
//  1. At most one thread holds the mutex. It is got by raising `count` from 0, or by being popped. From the moment that
//     `count` leaves 0 until an unlock brings it back, nobody raises it from 0; and the holder's unlock either brings
//     it to 0 (nobody wants it) or pops exactly one waiter.
//  2. At most one thread at a time has the duty: the right to pop. The holder in `unlock` has it first; it may
//     put it into `handoff`, and one compare-exchange takes it out, by a newcomer or by that unlock itself. Between
//     the two the mutex has no holder, so no other unlock runs. `queue` and `sequence` are touched only with the duty.
//  3. The duty is not lost: unlock puts it down only when it saw no waiter, while `count` says one is coming. It puts it
//     down (exchange), then looks again. The newcomer pushes (compare-exchange), then looks for the duty. Both are
//     sequentially consistent, so one of them sees the other, and takes up the duty or loses it to somebody who did.
//  4. Who takes the duty finds a waiter to pop: it takes it only after it saw one, or its own push came before; nobody
//     else pops meanwhile (2).
//  5. `handoff` numbers differ: who saw a waiter, was delayed, and then finds the same number still there knows that
//     nobody has popped in between (4 rests on this).
//  6. A record leaves the queue exactly once, by a pop, before its waiter goes on: the popper reads the parker, then sets
//     the state, and then touches the record no more.
//  7. A waiter that has been made the holder does not sleep: it is unparked after its state was set. The one exception is the
//     waiter that pops its own record in `lockContended`, because it looks at its state after that. Whether the popper runs as the
//     waiter's thread would not do: an interrupt handler that moves waiters of a condition variable here may have interrupted
//     the waiter between its look at the state and its sleep.
// Orders: lock acquires by its read-modify-write or by loading the state that the popper's store released; unlock
// releases by `count` or by that store.

import Base

/// A sleeping mutual exclusion lock, first come first served under contention; not recursive. 40 bytes; free is zero.
/// Thread context only (never in interrupt handlers).
public struct MutexCore<Word: LockWord & ~Copyable>: ~Copyable {
  private let count: Word
  private let newcomers: Word
  private let queue: Word
  private let handoff: Word
  private let sequence: Word

  /// A free mutex.
  @inline(__always) public init() {
    count = Word(0)
    newcomers = Word(0)
    queue = Word(0)
    handoff = Word(0)
    sequence = Word(0)
  }

  /// Takes the mutex; sleeps while another thread has it. The caller must not have it already.
  @inline(__always) public borrowing func lock() {
    if count.add(1) != 0 { lockContended() }
  }

  /// Takes the mutex if it is free, and says whether.
  @inline(__always) public borrowing func tryLock() -> Bool {
    count.compareExchange(0, 1)
  }

  /// Gives the mutex back, to the waiter that came first if there is one. The caller must have it.
  @inline(__always) public borrowing func unlock() {
    if count.add(UInt.max) != 1 { unlockContended() }
  }

  /// Runs the body with the mutex.
  @inline(__always) public borrowing func withLock<R: ~Copyable, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
    lock()
    defer { unlock() }
    return try body()
  }

  /// Whether some thread has the mutex or wants it; a hint, or an assertion by the holder.
  public var isLocked: Bool { count.load() != 0 }

  @inline(never) private borrowing func lockContended() {
    WaitRecord<Word>.withRecord { record in
      enqueue(record, isOwn: true)
      while record.pointee.state.load() == 0 { _ = Word.park(until: .never, interruptible: false) }
    }
  }

  /// Pushes the record of a thread that has been counted, and takes up the duty if it lies there. `isOwn`: the thread is the caller,
  /// which looks at the record's state next.
  private borrowing func enqueue(_ record: UnsafeMutablePointer<WaitRecord<Word>>, isOwn: Bool) {
    var head = newcomers.load()
    while true {
      record.pointee.newer.poke(head)
      if newcomers.compareExchange(head, record.word) { break }
      head = newcomers.load()
    }
    let duty = handoff.load()
    if duty != 0, !isQueueEmpty, handoff.compareExchange(duty, 0) {
      wakeNext(but: isOwn ? record : nil)
    }
  }

  /// Takes the mutex for another thread, which sleeps until its record's state is 1: now, or as soon as it is free. From any
  /// context; neither sleeps nor waits.
  borrowing func lock(for record: UnsafeMutablePointer<WaitRecord<Word>>) {
    if count.add(1) != 0 { return enqueue(record, isOwn: false) }
    let parker = record.pointee.parker
    record.pointee.state.store(1)
    Word.unpark(parker)
  }

  @inline(never) private borrowing func unlockContended() {
    while true {
      if !isQueueEmpty { return wakeNext(but: nil) }
      // Somebody has raised `count` and has yet to push: leave the duty to them.
      var number = sequence.peek() &+ 1
      if number == 0 { number = 1 }
      sequence.poke(number)
      _ = handoff.exchange(number)
      if isQueueEmpty { return }
      if !handoff.compareExchange(number, 0) { return }
    }
  }

  /// Whether no waiter is queued: exact for the one with the duty, as far as pops go; a hint for others.
  @inline(__always) private var isQueueEmpty: Bool { queue.load() == 0 && newcomers.load() == 0 }

  /// Pops the oldest waiter and makes it the holder. With the duty, and a waiter there (4). `own` needs no unparking (7).
  private borrowing func wakeNext(but own: UnsafeMutablePointer<WaitRecord<Word>>?) {
    if queue.peek() == 0 {
      var rest = newcomers.exchange(0)
      while let record = WaitRecord<Word>.at(rest) {
        rest = record.pointee.newer.peek()
        record.pointee.next.poke(queue.peek())
        queue.store(record.word)
      }
    }
    guard let record = WaitRecord<Word>.at(queue.peek()) else { fatalError("the mutex has a duty and no waiter") }
    queue.store(record.pointee.next.peek())
    let parker = record.pointee.parker
    record.pointee.state.store(1)
    if record != own { Word.unpark(parker) }
  }
}

/// The kernel's mutex.
public typealias Mutex = MutexCore<LiveWord>

// Locks are made to be shared.
// SAFETY: all that changes is an atomic word. Those of the queue hold 0 or addresses of records (`WaitRecord.at`), each in
// the frame of a thread that does not return before its record has been taken out and told so.
extension MutexCore: @unchecked Sendable where Word: ~Copyable {}
