// UnattendedFlows: flows that have packets while their owner does something else.
//
// Whoever gives a flow packets and finds nobody to wake leaves it here; the thread that serves the list looks a millisecond later and has those
// drained that still have packets. So a peer is answered although the program computes.
//
// State. `first`: a stack of flows, each with a reference that the list has. `since`: when the stack was last empty and got its first one; 0
// while nobody has told the time.
//
// Invariants, and why they hold:
//  1. A flow is in the list at most once: who raises its `isUnattended` from 0 pushes it; who serves takes the whole stack by an exchange, and
//     lowers each flow's word after it has read the link and before it looks at the ring, both sequentially consistent. So whoever adds it
//     later pushes it again, and what was added before is seen.
//  2. No flow lies there unseen: who pushes onto an empty stack calls `wake`, after the push; the server looks at the stack, before it
//     sleeps and after it has woken.
import Base
import Locks

/// Flows that wait for a thread.
public final class UnattendedFlows {
  /// How long they wait for their owners, ns.
  public static var patience: UInt64 { 1_000_000 }

  private let first = LiveWord(0)
  /// Called when there is something to do where there was nothing: any context; must not sleep.
  private let wake: () -> Void

  /// An empty list, whose server is woken by `wake`.
  public init(wake: @escaping () -> Void) { self.wake = wake }

  /// Whether there is none.
  public var isEmpty: Bool { first.load() == 0 }

  /// Leaves a flow to be drained. Any thread, also with preemption off.
  public func add(_ flow: Flow) {
    if flow.isUnattended.exchange(1) != 0 { return }
    let word = UInt(bitPattern: Unmanaged.passRetained(flow).toOpaque())
    while true {
      let head = first.load()
      flow.nextUnattended.poke(head)
      if first.compareExchange(head, word) {
        if head == 0 { wake() }
        return
      }
    }
  }

  /// Drains those that still have packets. One thread at a time, holding nothing.
  public func drain(now: UInt64) {
    var word = first.exchange(0)
    while let pointer = UnsafeRawPointer(bitPattern: word) {
      // SAFETY: words of the list are flows, each with a reference that was the list's and is ours now.
      let flow = Unmanaged<Flow>.fromOpaque(pointer).takeRetainedValue()
      word = flow.nextUnattended.peek()
      // An exchange, for its fence: a store could pass the look at the ring, and somebody who has filled it meanwhile would still find the
      // flow in the list.
      _ = flow.isUnattended.exchange(0)
      if !flow.ring.isEmpty { flow.drain(now: now) }
    }
  }
}
