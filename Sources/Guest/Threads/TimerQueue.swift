// TimerQueue: one CPU's pending deadlines, with timers that may be armed from any CPU and moved without being touched.
//
// A node is in at most one CPU's heap; only that CPU changes the heap, with interrupts off. Others never take a node out of
// it: they change what the node is to do. A node that comes out of a heap too early looks and goes back in.
//
// A node's words. `requested`: the deadline wanted now, or `never`. `place`: 0 while it is in no heap, else the deadline it
// is sorted by and the CPU whose heap it is in, together. `queued`: it is on (or on its way to) a CPU's list of requests.
//
// Invariants, and why they hold:
//  1. `place` leaves 0 by a compare-exchange, whose winner inserts the node on its own CPU; only the CPU it names changes it
//     further. So a node is never in two heaps.
//  2. An armed node fires no earlier than requested, and is in a heap under a deadline no later than requested, or its home
//     CPU is about to look at it. The armer sets `requested` (exchange), then looks at `place`. The home CPU clears `place`
//     (exchange), then looks at `requested`. Both sequentially consistent: either the armer sees 0 and claims the node, or
//     the home CPU sees the new request. If the armer finds a deadline that is too late, on another CPU, it queues a request
//     and interrupts that CPU; `queued` is set after `requested` and cleared before it is read, so no request is missed.
//  3. A request fires at most once: by the compare-exchange that takes it out of `requested`. A cancel that takes it first
//     (exchange) keeps it from firing.
//  4. `firing` is set before that compare-exchange and cleared after the handler: who has cancelled and sees 0 knows that
//     the handler does not run.

import Base
import Locks

struct TimerNode<Word: LockWord & ~Copyable>: ~Copyable, PairingNode {
  let requested = Word(TimerNode.never)
  let place = Word(0)
  let queued = Word(0)
  let firing = Word(0)
  let nextRequest = Word(0)
  var links = PairingLinks<TimerNode>()
  /// What the time comes for; given to whoever fires the node.
  var owner: UInt

  init(owner: UInt) { self.owner = owner }

  static var never: UInt { .max }
  /// Later deadlines count as this (two years of uptime); the node then looks again.
  static var latest: UInt { 1 << 56 }

  /// The deadline by which the heap sorts.
  var key: UInt { place.peek() >> 7 }
  borrowing func precedes(_ other: borrowing TimerNode) -> Bool { key < other.key }

  static func place(_ deadline: UInt, cpu: Int) -> UInt { min(deadline, latest) << 7 | (cpu.uint &+ 1) }

  /// Takes the request back. True: it will not fire.
  borrowing func cancel() -> Bool { requested.exchange(Self.never) != Self.never }
}

struct TimerQueue<Word: LockWord & ~Copyable>: ~Copyable {
  private var heap = PairingHeap<TimerNode<Word>>()
  private let requests = Word(0)
  /// What is left of the requests taken last.
  private var served: UInt = 0
  private let cpu: Int

  init(cpu: Int) { self.cpu = cpu }

  /// When the first node must be looked at; `never` if there is none.
  var firstDeadline: UInt { heap.first.map { $0.pointee.key } ?? TimerNode<Word>.never }

  /// Arms the node, from this queue's CPU. `post` gives a node to another CPU's queue (`push(request:)`) and interrupts
  /// that CPU. Afterwards `firstDeadline` may be earlier than before.
  mutating func arm(
    _ node: UnsafeMutablePointer<TimerNode<Word>>, at deadline: UInt,
    post: (Int, UnsafeMutablePointer<TimerNode<Word>>) -> Void
  ) {
    _ = node.pointee.requested.exchange(min(deadline, TimerNode<Word>.never &- 1))
    settle(node, post: post)
  }

  /// Sees to it that some CPU looks at the node in time (2).
  private mutating func settle(
    _ node: UnsafeMutablePointer<TimerNode<Word>>, post: (Int, UnsafeMutablePointer<TimerNode<Word>>) -> Void
  ) {
    while true {
      let place = node.pointee.place.load()
      let requested = node.pointee.requested.load()
      if requested == TimerNode<Word>.never { return }
      if place == 0 {
        guard node.pointee.place.compareExchange(0, TimerNode<Word>.place(requested, cpu: cpu)) else { continue }
        heap.insert(node)
        return
      }
      if place >> 7 <= requested { return }
      let home = (place & 127).int &- 1
      if home == cpu {
        heap.remove(node)
        node.pointee.place.store(TimerNode<Word>.place(requested, cpu: cpu))
        heap.insert(node)
        return
      }
      if node.pointee.queued.exchange(1) == 0 { post(home, node) }
      return
    }
  }

  /// From any CPU: has this queue's CPU look at the node. Interrupt it after.
  borrowing func push(request node: UnsafeMutablePointer<TimerNode<Word>>) {
    while true {
      let head = requests.load()
      node.pointee.nextRequest.poke(head)
      if requests.compareExchange(head, UInt(bitPattern: node)) { return }
    }
  }

  /// Looks at one of the nodes that other CPUs have asked about; false if there are none. Follows a node that has moved on.
  mutating func serveRequest(post: (Int, UnsafeMutablePointer<TimerNode<Word>>) -> Void) -> Bool {
    if served == 0 {
      guard requests.load() != 0 else { return false }
      served = requests.exchange(0)
    }
    // SAFETY: words of the list are addresses of nodes; `queued` keeps a node from being pushed twice.
    guard let node = UnsafeMutablePointer<TimerNode<Word>>(bitPattern: served) else { return false }
    served = node.pointee.nextRequest.peek()
    _ = node.pointee.queued.exchange(0)
    settle(node, post: post)
    return true
  }

  /// A node to be fired now, or nil if none is due: the caller fires its owner, then calls `fired`.
  mutating func takeDue(now: UInt) -> UnsafeMutablePointer<TimerNode<Word>>? {
    while let node = heap.first, node.pointee.key <= now {
      _ = heap.removeFirst()
      if look(node, now: now) { return node }
    }
    return nil
  }

  /// The handler of a node from `takeDue` has returned.
  static func fired(_ node: UnsafeMutablePointer<TimerNode<Word>>) { node.pointee.firing.store(0) }

  /// The node has just left this heap: puts it back, lets it go, or says that it is to be fired.
  private mutating func look(_ node: UnsafeMutablePointer<TimerNode<Word>>, now: UInt) -> Bool {
    _ = node.pointee.place.exchange(0)
    let requested = node.pointee.requested.load()
    if requested == TimerNode<Word>.never { return false }
    if requested > now {
      if node.pointee.place.compareExchange(0, TimerNode<Word>.place(requested, cpu: cpu)) { heap.insert(node) }
      return false
    }
    _ = node.pointee.firing.exchange(1)
    if node.pointee.requested.compareExchange(requested, TimerNode<Word>.never) { return true }
    // Somebody has changed the request after our look, has seen `place` empty, and sees to it.
    node.pointee.firing.store(0)
    return false
  }
}
