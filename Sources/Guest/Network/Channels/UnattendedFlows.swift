// UnattendedFlows: flows that have packets while their owner does something else.
//
// Whoever gives a flow packets and finds nobody to wake leaves it here; the thread that serves the list looks a millisecond later and has those
// drained that still have packets. So a peer is answered although the program computes.
//
// State. `first`: a stack of flows, each with a reference that the list has, linked by their `UnattendedLink`s.
//
// Invariants, and why they hold:
//  1. A flow is in the list at most once: who raises its `isListed` from 0 pushes it; who serves takes the whole stack by an exchange, and
//     lowers each flow's word after it has read the link and before it looks at the ring, both sequentially consistent. So whoever adds it
//     later pushes it again, and what was added before is seen.
//  2. A link is written by who raised `isListed`, before the flow is pushed, and read by who has taken the stack, before it lowers the word:
//     one at a time.
//  3. No flow lies there unseen: who pushes onto an empty stack calls `wake`, after the push; the server looks at the stack, before it
//     sleeps and after it has woken.
import Base
import Locks

/// A flow's place in the list.
struct UnattendedLink<Word: LockWord & ~Copyable>: ~Copyable {
  /// 1 from when it is about to be in the list until it has been taken out.
  fileprivate let isListed = Word(0)
  fileprivate let next = Word(0)
}

/// The list, of words that stand for flows.
struct UnattendedListCore<Word: LockWord & ~Copyable>: ~Copyable {
  private let first = Word(0)

  /// Whether there is none.
  @inline(__always) borrowing func isEmpty() -> Bool { first.load() == 0 }

  /// Adds a flow. Any thread.
  /// - Parameter word: gives the word that stands for it, not 0; only called if it is not there.
  /// - Returns: whether the list was empty: the server is to be woken.
  @inline(__always) borrowing func add(_ link: borrowing UnattendedLink<Word>, _ word: () -> UInt) -> Bool {
    if link.isListed.exchange(1) != 0 { return false }
    let word = word()
    while true {
      let head = first.load()
      link.next.poke(head)
      if first.compareExchange(head, word) { return head == 0 }
    }
  }

  /// Takes all out: the first of them, from which `next` leads on; 0: none. One thread at a time.
  @inline(__always) borrowing func takeAll() -> UInt { first.exchange(0) }

  /// A flow that was taken out may be added again.
  /// - Returns: the one that was behind it.
  @inline(__always) static func release(_ link: borrowing UnattendedLink<Word>) -> UInt {
    let next = link.next.peek()
    // An exchange, for its fence: a store could pass the look at the ring, and somebody who has filled it meanwhile would still find the
    // flow in the list.
    _ = link.isListed.exchange(0)
    return next
  }
}

// SAFETY: all that changes is an atomic word.
extension UnattendedLink: @unchecked Sendable where Word: ~Copyable {}
extension UnattendedListCore: @unchecked Sendable where Word: ~Copyable {}

/// Flows that wait for a thread.
public final class UnattendedFlows {
  /// How long they wait for their owners, ns.
  public static var patience: UInt64 { 1_000_000 }

  private let list = UnattendedListCore<LiveWord>()
  /// Called when there is something to do where there was nothing: any context; must not sleep.
  private let wake: () -> Void

  /// An empty list, whose server is woken by `wake`.
  public init(wake: @escaping () -> Void) { self.wake = wake }

  deinit {
    var word = list.takeAll()
    while let flow = Self.flow(word) { word = UnattendedListCore<LiveWord>.release(flow.unattendedLink) }
  }

  /// Whether there is none.
  public var isEmpty: Bool { list.isEmpty() }

  /// Leaves a flow to be drained. Any thread, also with preemption off.
  public func add(_ flow: Flow) {
    if list.add(flow.unattendedLink, { UInt(bitPattern: Unmanaged.passRetained(flow).toOpaque()) }) { wake() }
  }

  /// Drains those that still have packets. One thread at a time, holding nothing.
  public func drain(now: UInt64) {
    var word = list.takeAll()
    while let flow = Self.flow(word) {
      word = UnattendedListCore<LiveWord>.release(flow.unattendedLink)
      if !flow.ring.isEmpty { flow.drain(now: now) }
    }
  }

  private static func flow(_ word: UInt) -> Flow? {
    guard let pointer = UnsafeRawPointer(bitPattern: word) else { return nil }
    // SAFETY: words of the list are flows, each with a reference that was the list's and is the caller's now.
    return Unmanaged<Flow>.fromOpaque(pointer).takeRetainedValue()
  }
}
