// WaitQueue: threads that wait for a condition, woken from anywhere, interrupt handlers included.
//
// Nobody takes a lock. Whoever has something to be done (wake one, wake all, let me out) writes it down and rings; the
// one whose ring finds `rings` at 0 serves, with preemption off, until it has seen every ring. Others leave at once.
//
// State. `rings`: rings not yet served. `wakes`: how many waiters to wake (one for each `wakeOne`, `all` for each
// `wakeAll`). `newcomers` and `leavers`: lock-free stacks of records. `population`: records that are or will be in the
// queue. `first`, `last`: the queue in order of arrival, the server's own. A record's state goes from `waiting` to `woken`
// (by the server) or to `leaving` (by its thread), and from `leaving` to `left` (by the server).
//
// Invariants, and why they hold:
//  1. At most one thread serves: it raised `rings` from 0, and serves until it lowers it to 0. Only it touches `first`,
//     `last` and the records' `next` and `previous`.
//  2. Every request is served after it was made: a request is written before its ring; the server lowers `rings` by what
//     it had counted before its last look, so a later ring leaves a rest and makes it look again.
//  3. A wake reaches those who came before it: the server takes `wakes` first and `newcomers` after, so a record pushed
//     before the wake was written is in the queue when the wake is dealt out, in order of arrival.
//  4. A wake is not lost on a leaver: a record is woken by the compare-exchange from `waiting`; if the record is
//     leaving, that fails and the wake goes to the next. A waiter that was woken, though it wanted to leave, either looks
//     at its condition once more after that, or passes the wake on.
//  5. A record is gone from the queue before its thread returns. Woken: the server unlinks it, reads its parker, and
//     then wakes it, and touches it no more. Leaving: the thread stays until the server says `left`; the server takes
//     `leavers` before `newcomers`, and a leaver pushed itself on `newcomers` first, so it has been linked when it is let
//     out (or unlinked already by a wake that failed: `next` says so). Handed to a mutex (`moved`, then `woken`): the
//     server unlinks it and touches it no more but through the mutex, whose popper wakes it as any of its waiters.
//     A leaver that is let out by its own thread needs no unparking: an interrupt handler that runs as that thread lets it out only
//     before the thread has rung (2), and so before it looks at its state.
//  6. No wake-up is missed: a waiter raises `population` and pushes its record, then looks at the condition; a waker
//     changes what the condition reads, then looks at `population` behind a full fence. One of them sees the other.

import Base

/// Threads waiting for something, first come first woken. 56 bytes; empty is zero. Waiting is for threads only; waking
/// is allowed in any context, takes no lock and never sleeps.
public struct WaitQueueCore<Word: LockWord & ~Copyable>: ~Copyable {
  private let rings: Word
  private let wakes: Word
  private let newcomers: Word
  private let leavers: Word
  private let population: Word
  private let first: Word
  private let last: Word

  static var waiting: UInt { 0 }
  static var woken: UInt { 1 }
  private static var leaving: UInt { 2 }
  private static var left: UInt { 3 }
  /// Woken, and now in the queue of its mutex, or on its way there; `woken` (1, as the mutex has it) follows.
  private static var moved: UInt { 4 }
  /// More than there can be threads.
  private static var all: UInt { 1 << 32 }
  /// In `next` and `previous` of a record that is not in the queue.
  private static var unlinked: UInt { 1 }

  /// An empty queue.
  @inline(__always) public init() {
    rings = Word(0)
    wakes = Word(0)
    newcomers = Word(0)
    leavers = Word(0)
    population = Word(0)
    first = Word(0)
    last = Word(0)
  }

  /// Whether nobody waits; a hint.
  @inline(__always) public var isEmpty: Bool { population.load() == 0 }

  // MARK: Waiting

  /// Sleeps while the condition holds, until the deadline or an interrupt. The condition is looked at before sleeping and
  /// after every wake, with the caller already in the queue: who makes it false must then wake. It may take mutexes.
  /// Returns `.woken` if the condition does not hold (any more), whatever else happened.
  public borrowing func wait(
    until deadline: Deadline = .never, interruptible: Bool = false, while condition: () -> Bool
  ) -> WaitResult {
    guard condition() else { return .woken }
    return WaitRecord<Word>.withRecord { record in
      while true {
        enter(record)
        guard condition() else {
          if !leave(record) { wakeOne() }
          return .woken
        }
        let result = sleep(record, until: deadline, interruptible: interruptible)
        if result != .woken && leave(record) { return condition() ? result : .woken }
        guard condition() else { return .woken }
        if result != .woken { return result }
      }
    }
  }

  /// Sleeps until one wake, the deadline or an interrupt; `body` runs once the caller is in the queue, so that a wake that
  /// comes after it began is not missed. For waits whose condition another lock guards.
  public borrowing func waitOnce(
    until deadline: Deadline = .never, interruptible: Bool = false, after body: () -> Void
  ) -> WaitResult {
    WaitRecord<Word>.withRecord { record in
      enter(record)
      body()
      let result = sleep(record, until: deadline, interruptible: interruptible)
      if result != .woken && leave(record) { return result }
      return .woken
    }
  }

  /// The same for a caller that holds `mutex`, which `body` releases, and that is to have it again: `hasMutex` says whether it
  /// has. A wake gives it the mutex, or a place in the mutex's queue, rather than the CPU for nothing.
  public borrowing func waitOnce(
    reacquiring mutex: borrowing MutexCore<Word>, until deadline: Deadline, interruptible: Bool, after body: () -> Void
  ) -> (result: WaitResult, hasMutex: Bool) {
    // SAFETY: an object with atomic words lies where it is as long as it is borrowed.
    withUnsafePointer(to: mutex) { mutex in
      WaitRecord<Word>.withRecord { record in
        record.pointee.mutex.poke(UInt(bitPattern: mutex))
        enter(record)
        body()
        let result = sleep(record, until: deadline, interruptible: interruptible)
        if result != .woken && leave(record) { return (result, false) }
        while record.pointee.state.load() != Self.woken { _ = Word.park(until: .never, interruptible: false) }
        return (.woken, true)
      }
    }
  }

  /// Puts the record of the calling thread into the queue.
  borrowing func enter(_ record: UnsafeMutablePointer<WaitRecord<Word>>) {
    record.pointee.state.poke(Self.waiting)
    record.pointee.next.poke(Self.unlinked)
    _ = population.add(1)
    Self.push(record, on: newcomers) { $0.pointee.newer.poke($1) }
  }

  private borrowing func sleep(
    _ record: UnsafeMutablePointer<WaitRecord<Word>>, until deadline: Deadline, interruptible: Bool
  ) -> WaitResult {
    while record.pointee.state.load() == Self.waiting {
      let result = Word.park(until: deadline, interruptible: interruptible)
      if result != .woken { return result }
    }
    return .woken
  }

  /// Takes the record out of the queue; false if it was woken (or moved) before that.
  borrowing func leave(_ record: UnsafeMutablePointer<WaitRecord<Word>>) -> Bool {
    guard record.pointee.state.compareExchange(Self.waiting, Self.leaving) else { return false }
    Self.push(record, on: leavers) { $0.pointee.leaving.poke($1) }
    ring()
    while record.pointee.state.load() != Self.left { _ = Word.park(until: .never, interruptible: false) }
    return true
  }

  private static func push(
    _ record: UnsafeMutablePointer<WaitRecord<Word>>, on stack: borrowing Word,
    link: (UnsafeMutablePointer<WaitRecord<Word>>, UInt) -> Void
  ) {
    while true {
      let head = stack.load()
      link(record, head)
      if stack.compareExchange(head, record.word) { return }
    }
  }

  // MARK: Waking

  /// Wakes the thread that has waited longest, if any.
  @inline(__always) public borrowing func wakeOne() {
    wake(1)
  }

  /// Wakes every thread that waits now.
  @inline(__always) public borrowing func wakeAll() {
    wake(Self.all)
  }

  @inline(__always) private borrowing func wake(_ number: UInt) {
    Word.fence()
    if population.load() != 0 { wakeSome(number) }
  }

  @inline(never) private borrowing func wakeSome(_ number: UInt) {
    _ = wakes.add(number)
    ring()
  }

  /// Has the requests served that were made before the call: by this thread, or by the one that is at it.
  private borrowing func ring() {
    Word.disablePreemption()
    if rings.add(1) == 0 {
      var seen: UInt = 1
      while true {
        serve()
        let before = rings.add(0 &- seen)
        if before == seen { break }
        seen = before &- seen
      }
    }
    Word.enablePreemption()
  }

  private borrowing func serve() {
    var number = wakes.exchange(0)
    var goers = leavers.exchange(0)
    appendNewcomers()
    while let record = WaitRecord<Word>.at(goers) {
      goers = record.pointee.leaving.peek()
      if record.pointee.next.peek() != Self.unlinked { unlink(record) }
      _ = population.add(UInt.max)
      let parker = record.pointee.parker
      record.pointee.state.store(Self.left)
      if parker != Word.currentParker { Word.unpark(parker) }
    }
    while number != 0, let record = WaitRecord<Word>.at(first.peek()) {
      unlink(record)
      let parker = record.pointee.parker
      // SAFETY: the word is 0 or the address of a mutex that the waiter borrows until it is woken.
      if let mutex = UnsafePointer<MutexCore<Word>>(bitPattern: record.pointee.mutex.peek()) {
        guard record.pointee.state.compareExchange(Self.waiting, Self.moved) else { continue }
        _ = population.add(UInt.max)
        mutex.pointee.lock(for: record)
      } else {
        guard record.pointee.state.compareExchange(Self.waiting, Self.woken) else { continue }
        _ = population.add(UInt.max)
        Word.unpark(parker)
      }
      number &-= 1
    }
  }

  private borrowing func appendNewcomers() {
    // The stack has the youngest on top: turn it over, linking backwards, then append.
    var oldest = newcomers.exchange(0)
    guard oldest != 0 else { return }
    let youngest = oldest
    var following: UInt = 0
    while let record = WaitRecord<Word>.at(oldest) {
      record.pointee.next.poke(following)
      following = oldest
      let older = record.pointee.newer.peek()
      record.pointee.previous.poke(older)
      if older == 0 { break }
      oldest = older
    }
    let tail = last.peek()
    if let tail = WaitRecord<Word>.at(tail) { tail.pointee.next.poke(oldest) } else { first.poke(oldest) }
    WaitRecord<Word>.at(oldest).unsafelyUnwrapped.pointee.previous.poke(tail)
    last.poke(youngest)
  }

  private borrowing func unlink(_ record: UnsafeMutablePointer<WaitRecord<Word>>) {
    let next = record.pointee.next.peek()
    let previous = record.pointee.previous.peek()
    if let next = WaitRecord<Word>.at(next) { next.pointee.previous.poke(previous) } else { last.poke(previous) }
    if let previous = WaitRecord<Word>.at(previous) { previous.pointee.next.poke(next) } else { first.poke(next) }
    record.pointee.next.poke(Self.unlinked)
  }
}

/// The kernel's wait queue.
public typealias WaitQueue = WaitQueueCore<LiveWord>

// Locks are made to be shared.
// SAFETY: all that changes is an atomic word, or guarded by such a lock.
extension WaitQueueCore: @unchecked Sendable where Word: ~Copyable {}
