// DeferredCalls: what is to be done when no reader can see the old any more, without waiting for that.
//
// Anybody leaves a call, in any context; one worker at a time, whenever it comes round, makes those whose grace period is over.
// Calls are intrusive: whoever defers the freeing of an object embeds the call in it, so deferring cannot fail.
//
// State. `incoming`: a lock-free stack of calls that wait for no grace period yet. `batch`: calls, oldest first, that wait for
// grace period `number`; the worker's own. `pending`: calls left that have not returned, for those who want to press.
//
// Invariants, and why they hold:
//  1. Every call is made once: it is taken from `incoming` by an exchange together with all others, is in `batch` then, and is
//     taken out before it is made. It may be left again from within itself.
//  2. A call is made after a grace period that began after it was left: the worker takes `incoming` first and begins a period
//     (a read-modify-write) after; what was unlinked before the call was left (a compare-exchange) is so before the period.
//  3. Calls are made in the order in which they were left: a batch is made whole before the next is taken. So a call that is left
//     last is made when all before it have been (`RCU.barrier`).
//  4. No call lies there unseen: who finds `incoming` empty must see to it that the worker comes (`leave` says so), and the
//     worker, which says whether it must come again, is not done before it has found both lists empty.
//  5. Who finds `pending` 0 sees what all calls that were left before have done: it is raised before a call is left and lowered after
//     the call has returned, by read-modify-writes. So there is nothing to wait for.

import Base

/// Something to be done after a grace period; owned by whoever embeds it, who keeps it in place until it is called.
public struct DeferredCall<Word: LockWord & ~Copyable>: ~Copyable {
  let next = Word(0)
  fileprivate var function: (@convention(c) (UnsafeMutableRawPointer?) -> Void)?
  fileprivate var context: UnsafeMutableRawPointer?

  /// Not left yet.
  public init() {}
}

/// Calls that wait for grace periods.
public struct DeferredCallsCore<Word: LockWord & ~Copyable>: ~Copyable {
  private let incoming = Word(0)
  private let pending = Word(0)
  private let batch = Word(0)
  private let number = Word(0)

  /// None.
  public init() {}

  /// How many calls have been left and have not returned; within a call, that one too.
  public var count: Int { pending.load().int }

  /// Leaves a call of `function(context)`; from any context. True: the worker must be sent for.
  public borrowing func leave(
    _ call: UnsafeMutablePointer<DeferredCall<Word>>,
    _ function: @escaping @convention(c) (UnsafeMutableRawPointer?) -> Void, _ context: UnsafeMutableRawPointer?
  ) -> Bool {
    call.pointee.function = function
    call.pointee.context = context
    _ = pending.add(1)
    while true {
      let older = incoming.load()
      call.pointee.next.poke(older)
      if incoming.compareExchange(older, UInt(bitPattern: call)) { return older == 0 }
    }
  }

  /// What the worker found.
  public enum Progress: Sendable {
    /// Nothing is left.
    case done
    /// A grace period has just begun.
    case begun
    /// Its grace period is not over.
    case waiting
  }

  /// The worker: makes what may be made, begins the next grace period; one caller at a time.
  /// - Parameters:
  ///   - begin: begins a grace period; its number.
  ///   - isOver: whether that one is over.
  public borrowing func work(begin: () -> UInt, isOver: (UInt) -> Bool) -> Progress {
    while true {
      if batch.peek() != 0 {
        if !isOver(number.peek()) { return .waiting }
        makeCalls()
      }
      if incoming.load() == 0 { return .done }
      takeIncoming()
      number.poke(begin())
      if !isOver(number.peek()) { return .begun }
    }
  }

  private borrowing func takeIncoming() {
    var rest = incoming.exchange(0)
    var ordered: UInt = 0
    while let call = Self.at(rest) {
      let older = call.pointee.next.peek()
      call.pointee.next.poke(ordered)
      ordered = rest
      rest = older
    }
    batch.poke(ordered)
  }

  private borrowing func makeCalls() {
    while let call = Self.at(batch.peek()) {
      batch.poke(call.pointee.next.peek())
      let function = call.pointee.function
      let context = call.pointee.context
      // The call may be gone after this.
      function.unsafelyUnwrapped(context)
      _ = pending.add(UInt.max)
    }
  }

  @inline(__always) private static func at(_ word: UInt) -> UnsafeMutablePointer<DeferredCall<Word>>? {
    // SAFETY: words of the lists are 0 or addresses of calls that have been left and not been made.
    UnsafeMutablePointer(bitPattern: word)
  }
}

extension DeferredCallsCore: @unchecked Sendable where Word: ~Copyable {}
