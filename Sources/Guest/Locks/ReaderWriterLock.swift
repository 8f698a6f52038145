// ReaderWriterLock: many readers or one writer; sleeping. Readers on different CPUs share no cache line that is written.
//
// State, one word. `wanting`: writers that have the lock or want it. `readers`: readers that are counted here. `waiting`:
// readers that sleep until a writer lets them in, and `phase`, which changes whenever that is done. `direct`: a writer has the
// lock without having taken `writers`, the mutex by which all other writers come one after the other. `distributed`:
// readers may stand in `ReaderSlots`, where they do not touch this word. `cpu`: where somebody last read who was counted here;
// a reader on another CPU turns `distributed` on, a writer turns it off. `drainer`: the parker of the writer that waits for
// readers to leave.
//
// A reader is represented by a unit of `readers` or by a slot. Which of a lock's representatives is whose does not matter: a
// reader that leaves takes away any of them, the nearest first.
//
// Invariants, and why they hold:
//  1. Writers exclude each other: one has `writers`, or `direct`, which is set only by a compare-exchange from a word that shows
//     no writer, no reader and no slots in use; and who has `writers` waits until `direct` is clear (`isDrained`).
//  2. No reader comes in while `wanting` is not 0, but by a writer's leave: a count is added by a compare-exchange from a
//     value with `wanting` 0. A reader that fills a slot looks at the word after that (both read-modify-writes or after one:
//     sequentially consistent); the writer raises `wanting` before it looks at the slots. So a reader that the writer does
//     not see in a slot sees the writer; such a reader is doomed: it takes a representative away again and waits.
//  3. A writer that has seen no count and then no slot, one after the other, is alone. Call representatives old that were there
//     when it began to look, and new those that doomed readers have added since. Nobody adds old ones. Readers that are in the
//     lock are never more than the old ones: a reader that leaves takes one, and a doomed reader takes an old one only if
//     its own slot, which it tries first, has been cleared by somebody else, that is, if a leaving reader took a new one (the
//     doomed readers' slots that are still marked are never more than the doomed readers that have not tried theirs). So where
//     each old one was found gone, though at different times, no reader is left.
//  4. Slots are used only while `distributed` is set, and a writer clears it while it is alone: a writer that finds it clear
//     need not look at them.
//  5. Nobody starves. Writers come in order of arrival (`Mutex`); readers that came while a writer had or wanted the lock
//     all come in when the next writer leaves, before the writer after that, which waits for them; later ones wait for it.
//     A waiting reader sees that `phase` has changed; it cannot change again before this reader has left.
//  6. No wake-up is missed: who takes a representative away or gives up `direct` looks at `wanting` and whether the lock is
//     drained after that, and takes the `drainer`; the writer puts itself there (exchange) and looks again before it
//     sleeps. The last one to leave sees the writer or is seen. Readers queue before they look at `phase` (WaitQueue 6).
// Orders: entering acquires by the compare-exchange or, at a slot, by the load that follows it; leaving releases by its
// read-modify-write, which the writer's look acquires.
//
// A lock must not be destroyed while a thread is inside one of its calls.

import Base

/// A fair reader-writer lock; not recursive, not for interrupt handlers. Free is zero.
public struct ReaderWriterLockCore<Word: LockWord & ~Copyable>: ~Copyable {
  private let state: Word
  private let drainer: Word
  private let writers: MutexCore<Word>
  private let readers: WaitQueueCore<Word>

  // Counts have 18 bits each, more than there can be threads.
  private static var direct: UInt { 1 }
  private static var distributed: UInt { 2 }
  private static var phase: UInt { 4 }
  private static var cpuShift: UInt { 3 }
  private static var anyCPU: UInt { 0x7f << 3 }
  private static var countBits: UInt { 18 }
  private static var wanting: UInt { 1 << 10 }
  private static var allWanting: UInt { 0x3ffff << 10 }
  private static var waiting: UInt { 1 << 28 }
  private static var allWaiting: UInt { 0x3ffff << 28 }
  private static var reader: UInt { 1 << 46 }

  /// A free lock.
  @inline(__always) public init() {
    state = Word(0)
    drainer = Word(0)
    writers = MutexCore()
    readers = WaitQueueCore()
  }

  // MARK: Reading

  /// The usual way: no writer, no slots, and this CPU has read last.
  @inline(__always) private borrowing func tryCounting() -> Bool {
    let value = state.load()
    let usual = (Word.currentCPU.uint &+ 1) &<< Self.cpuShift
    return value & (Self.allWanting | Self.distributed | Self.anyCPU) == usual
      && state.compareExchange(value, value &+ Self.reader)
  }

  /// Takes the lock for reading if no writer has it or wants it, and says whether.
  @inline(__always) public borrowing func tryReadLock() -> Bool {
    tryCounting() || tryEveryWay()
  }

  /// Takes the lock for reading.
  @inline(__always) public borrowing func readLock() {
    if !tryCounting() { readLockContended() }
  }

  /// Gives back a lock taken for reading.
  @inline(__always) public borrowing func readUnlock() {
    let value = state.load()
    if value & Self.distributed != 0 || value < Self.reader || !state.compareExchange(value, value &- Self.reader) {
      return leaveEveryWay()
    }
    if value & Self.allWanting != 0 { wakeDrainerIfDrained() }
  }

  @inline(never) private borrowing func tryEveryWay() -> Bool {
    while true {
      let value = state.load()
      if value & Self.allWanting != 0 { return false }
      if value & Self.distributed != 0, let isIn = enterSlot() {
        if isIn { return true }
        continue
      }
      let cpu = Word.currentCPU.uint &+ 1
      var next = value &+ Self.reader
      let last = (value & Self.anyCPU) &>> Self.cpuShift
      if last != cpu {
        next = next & ~Self.anyCPU | cpu &<< Self.cpuShift
        if last != 0 && Word.readerSlots.cpuCount > 1 { next |= Self.distributed }
      }
      if state.compareExchange(value, next) { return true }
    }
  }

  /// Stands in a slot of this CPU. Nil: there is no room. False: the writers do not allow it any more.
  @inline(__always) private borrowing func enterSlot() -> Bool? {
    guard let slot = Word.readerSlots.claim(state.identity, cpu: Word.currentCPU) else { return nil }
    if state.load() & (Self.allWanting | Self.distributed) == Self.distributed { return true }
    if !slot.pointee.compareExchange(state.identity, 0) { removeRepresentative() }
    wakeDrainer()
    return false
  }

  /// Takes away one representative of a reader; there is one for the caller, though it may be another one every moment.
  private borrowing func removeRepresentative() {
    let slots = Word.readerSlots
    let lock = state.identity
    while !slots.leave(lock, cpu: Word.currentCPU) {
      let value = state.load()
      if value >= Self.reader {
        if state.compareExchange(value, value &- Self.reader) { return }
      } else if slots.leaveAnywhere(lock) {
        return
      }
    }
  }

  @inline(never) private borrowing func leaveEveryWay() {
    removeRepresentative()
    wakeDrainer()
  }

  @inline(never) private borrowing func readLockContended() {
    while !tryEveryWay() {
      let value = state.load()
      guard value & Self.allWanting != 0, state.compareExchange(value, value &+ Self.waiting) else { continue }
      let phase = value & Self.phase
      _ = readers.wait { state.load() & Self.phase == phase }
      return
    }
  }

  // MARK: Writing

  /// Takes the lock for writing if it is free, and says whether.
  public borrowing func tryWriteLock() -> Bool {
    if tryDirectly() { return true }
    guard writers.tryLock() else { return false }
    _ = state.add(Self.wanting)
    if isDrained {
      stopDistributing()
      return true
    }
    leaveWriting(as: 0)
    return false
  }

  /// Takes the lock for writing.
  @inline(__always) public borrowing func writeLock() {
    if !tryDirectly() { writeLockContended() }
  }

  /// Gives back a lock taken for writing: to the readers that wait, if there are any, else to the next writer.
  @inline(__always) public borrowing func writeUnlock() {
    leaveWriting(as: state.load() & Self.direct)
  }

  /// The usual way: nobody is near.
  @inline(__always) private borrowing func tryDirectly() -> Bool {
    let value = state.load()
    return value & ~(Self.phase | Self.anyCPU) == 0 && state.compareExchange(value, value | Self.direct | Self.wanting)
  }

  @inline(never) private borrowing func writeLockContended() {
    _ = state.add(Self.wanting)
    writers.lock()
    while !isDrained {
      _ = drainer.exchange(Word.currentParker)
      if isDrained { break }
      _ = Word.park(until: .never, interruptible: false)
    }
    stopDistributing()
  }

  /// Whether neither a reader nor a direct writer is in the lock; exact for who has `writers` and is counted in `wanting`.
  private var isDrained: Bool {
    let value = state.load()
    if value >= Self.reader || value & Self.direct != 0 { return false }
    return value & Self.distributed == 0 || Word.readerSlots.isEmpty(state.identity)
  }

  /// Alone: nobody stands in a slot.
  private borrowing func stopDistributing() {
    while true {
      let value = state.load()
      if value & Self.distributed == 0 || state.compareExchange(value, value & ~Self.distributed) { return }
    }
  }

  /// A writer has what it wanted, or no longer wants it; `held` is `direct` if it took the lock so, else 0: it has `writers`.
  /// While another writer has the lock directly, readers are left to that one.
  @inline(__always) private borrowing func leaveWriting(as held: UInt) {
    var value: UInt
    var next: UInt
    repeat {
      value = state.load()
      next = value &- Self.wanting &- held
      let waiting = value & Self.allWaiting
      if waiting != 0 && next & Self.direct == 0 {
        next = ((next &- waiting) &+ waiting &<< Self.countBits) ^ Self.phase
      }
    } while !state.compareExchange(value, next)
    if (value ^ next) & Self.phase != 0 { readers.wakeAll() }
    if held == 0 { writers.unlock() } else { wakeDrainer() }
  }

  /// Wakes the writer that waits for the lock to be empty, if it is.
  @inline(__always) private borrowing func wakeDrainer() {
    if state.load() & Self.allWanting != 0 { wakeDrainerIfDrained() }
  }

  @inline(never) private borrowing func wakeDrainerIfDrained() {
    guard isDrained else { return }
    let parker = drainer.exchange(0)
    if parker != 0 { Word.unpark(parker) }
  }

  // MARK: For the length of a function

  /// Runs the body with the lock taken for reading.
  @inline(__always) public borrowing func withReadLock<R: ~Copyable, E: Error>(
    _ body: () throws(E) -> R
  ) throws(E) -> R {
    readLock()
    defer { readUnlock() }
    return try body()
  }

  /// Runs the body with the lock taken for writing.
  @inline(__always) public borrowing func withWriteLock<R: ~Copyable, E: Error>(
    _ body: () throws(E) -> R
  ) throws(E) -> R {
    writeLock()
    defer { writeUnlock() }
    return try body()
  }
}

/// The kernel's reader-writer lock.
public typealias ReaderWriterLock = ReaderWriterLockCore<LiveWord>

// Locks are made to be shared.
// SAFETY: all that changes is an atomic word.
extension ReaderWriterLockCore: @unchecked Sendable where Word: ~Copyable {}
