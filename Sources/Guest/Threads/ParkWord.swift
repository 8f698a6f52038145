// ParkWord: one thread's permit, its sleep, and what ended it, in one atomic word.
//
// The low bits say where the thread stands; bit 3 says that it has been interrupted and not cleared that yet, bit 4 that it has lost the
// CPU or got another one, which some programs want to hear of (`notice`).
//
//   running ──begin──▶ parked or parkedInterruptible ──unpark──▶ running
//      │                         ├──timeOut────▶ timedOut ──end──▶ running
//      └──unpark──▶ permit       └──interrupt──▶ interrupted ──end──▶ running   (from parkedInterruptible only)
//
// Invariants, and why they hold:
//  1. The thread is made runnable exactly once for each sleep: only by the one whose compare-exchange took the word out of
//     `parked` or `parkedInterruptible`; it is told so by `true` and must put the thread into a run queue.
//  2. A permit is never lost: `unpark` ends the sleep that it finds, or else leaves `permit`, and only `begin` and `end` take that. (A
//     second one that comes before the woken thread runs is taken by its `end`, or by its next `begin`.)
//  3. An interrupt is never lost: it is a bit that only `clearInterrupt` takes away; `begin` sees it before it sleeps, in the
//     same compare-exchange, or `interrupt` sees the sleep.
// All changes are read-modify-writes, sequentially consistent; loads are acquiring: what a waker wrote before it is seen by the
// sleeper after.

import Instructions
import Locks

struct ParkWord<Word: LockWord & ~Copyable>: ~Copyable {
  private let word = Word(0)

  private static var running: UInt { 0 }
  private static var permit: UInt { 1 }
  private static var parked: UInt { 2 }
  private static var parkedInterruptible: UInt { 3 }
  private static var timedOut: UInt { 4 }
  private static var interrupted: UInt { 5 }
  private static var stateMask: UInt { 7 }
  /// The way back from system calls looks at it too.
  private static var interruptFlag: UInt { UInt(truncatingIfNeeded: THREAD_INTERRUPTED) }
  private static var noticeFlag: UInt { UInt(truncatingIfNeeded: THREAD_NOTICED) }
  private static var flags: UInt { interruptFlag | noticeFlag }

  init() {}

  /// The thread wants to sleep. Nil: it now counts as sleeping and must give up the CPU, then call `end`. Otherwise there is
  /// no need to: this is the result.
  borrowing func begin(interruptible: Bool) -> WaitResult? {
    while true {
      let value = word.load()
      if value & Self.stateMask == Self.permit {
        if word.compareExchange(value, value & Self.flags) { return .woken }
        continue
      }
      if interruptible && value & Self.interruptFlag != 0 { return .interrupted }
      let sleep = interruptible ? Self.parkedInterruptible : Self.parked
      if word.compareExchange(value, value & Self.flags | sleep) { return nil }
    }
  }

  /// The thread runs again after `begin` said nil: why.
  borrowing func end() -> WaitResult {
    while true {
      let value = word.load()
      // Woken, the usual case: the waker has left nothing to be put right.
      if value & Self.stateMask == Self.running { return .woken }
      guard word.compareExchange(value, value & Self.flags) else { continue }
      switch value & Self.stateMask {
      case Self.timedOut: return .timedOut
      case Self.interrupted: return .interrupted
      default: return .woken
      }
    }
  }

  /// Gives the permit. True: the caller must make the thread runnable.
  borrowing func unpark() -> Bool {
    while true {
      let value = word.load()
      let state = value & Self.stateMask
      if state == Self.permit {
        // Written again all the same, so that what the caller did before is seen by who takes the permit.
        if word.compareExchange(value, value) { return false }
        continue
      }
      let isAsleep = state == Self.parked || state == Self.parkedInterruptible
      if word.compareExchange(value, value & Self.flags | (isAsleep ? Self.running : Self.permit)) { return isAsleep }
    }
  }

  /// The deadline has passed. True: the caller must make the thread runnable. False: it is not asleep.
  borrowing func timeOut() -> Bool {
    while true {
      let value = word.load()
      let state = value & Self.stateMask
      guard state == Self.parked || state == Self.parkedInterruptible else { return false }
      if word.compareExchange(value, value & Self.flags | Self.timedOut) { return true }
    }
  }

  /// Sets the interrupt. True: the caller must make the thread runnable.
  borrowing func interrupt() -> Bool {
    while true {
      let value = word.load()
      let state = value & Self.stateMask
      let next = state == Self.parkedInterruptible ? Self.interrupted : state
      guard word.compareExchange(value, next | value & Self.flags | Self.interruptFlag) else { continue }
      return state == Self.parkedInterruptible
    }
  }

  /// Takes the interrupt away; by the thread itself.
  borrowing func clearInterrupt() {
    while true {
      let value = word.load()
      if word.compareExchange(value, value & ~Self.interruptFlag) { return }
    }
  }

  /// Sets the notice: ends no sleep, but the way back to the program looks at it.
  borrowing func notice() {
    while true {
      let value = word.load()
      if word.compareExchange(value, value | Self.noticeFlag) { return }
    }
  }

  /// Takes the notice away; by the thread itself. Whether it stood.
  borrowing func takeNotice() -> Bool {
    while true {
      let value = word.load()
      if value & Self.noticeFlag == 0 { return false }
      if word.compareExchange(value, value & ~Self.noticeFlag) { return true }
    }
  }

  /// Whether the thread sleeps: a look, which may be past by the time it is told.
  borrowing func isAsleep() -> Bool {
    let state = word.load() & Self.stateMask
    return state == Self.parked || state == Self.parkedInterruptible
  }

  /// Whether the interrupt or the notice stands.
  borrowing func hasFlags() -> Bool { word.load() & Self.flags != 0 }

  /// Whether the interrupt stands.
  borrowing func isInterrupted() -> Bool { word.load() & Self.interruptFlag != 0 }
}
