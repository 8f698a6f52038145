// RunQueue: the policy, who runs next on a CPU and for how long. Pure: time is given to it, nothing is read or armed here.
//
// Threads with a real-time priority run before all others, the highest first, in order of arrival among equals. Of the
// others the one with the lowest rank runs: the decayed CPU time it has used (`DecayClock`) times its price, which is
// inverse to its weight (nice level, policy). So in the long run each gets CPU time in proportion to its weight, and one that
// slept runs before those that did not, but cannot save up more than tau.
//
// The running thread keeps the CPU until it is ahead of the first in the queue by `slice` of its own time: two equal ones
// change places every 2 * slice. A thread that wakes takes the CPU at once if it is behind by `lead`, or, woken by an event rather
// than by the running thread, by a fraction of that: a sleeper's latency is not bought with switches between the two.
//
// SAFETY of all: nodes lie in control blocks, which are neither moved nor freed. A queue, the nodes in it and that of the
// thread that runs are their CPU's, with interrupts off; other CPUs look at `place` alone, which is atomic.

import Base
import Instructions

/// What the policy knows about a thread.
struct RunNode: ~Copyable, PairingNode {
  var links = PairingLinks<RunNode>()
  /// Price times decayed CPU time, in units of `epoch`.
  var rank: Int64 = 0
  /// The epoch (`DecayClock`) that `rank` belongs to.
  var epoch: UInt32 = 0
  /// 2^16 for the ordinary weight; more is dearer.
  var price: UInt32 = RunNode.price(weight: 1024)
  /// 1 to 99 for real-time policies, else 0.
  var priority: UInt8 = 0
  /// A real-time thread that goes behind its equals when it has run for `RunQueue.roundRobin`.
  var isRoundRobin = false
  /// It does not take the CPU from others when it wakes.
  var isBatch = false
  /// Order of arrival among equals.
  var sequence: UInt64 = 0
  /// When it became runnable or stopped being so.
  var since: UInt64 = 0
  /// The number of the queue that it is in (`RunQueue.number`), or 0. Only that queue's CPU writes a number and takes it away, so
  /// that for its own number a CPU may rely on it.
  let place = Atomic<UInt32>(0)
  /// Whose node this is.
  var owner: UInt

  init(owner: UInt) { self.owner = owner }

  borrowing func precedes(_ other: borrowing RunNode) -> Bool {
    if priority != other.priority { return priority > other.priority }
    if priority == 0 && rank != other.rank { return rank < other.rank }
    return sequence < other.sequence
  }

  /// The price for a weight; the ordinary one is 1024.
  static func price(weight: UInt32) -> UInt32 { (1024 << 16) / weight }

  /// The rank as of the epoch.
  mutating func catchUp(to current: UInt32) {
    if epoch == current { return }
    let shift = (current &- epoch).u64 &* DecayClock.doublingsPerEpoch
    rank = shift > 62 ? 0 : rank &>> shift.i64
    epoch = current
  }

  /// What that much charge costs the thread.
  @inline(__always) borrowing func cost(_ charge: Int64) -> Int64 { Self.cost(charge, price: price) }
  @inline(__always) static func cost(_ charge: Int64, price: UInt32) -> Int64 {
    let product = charge.u64.multipliedFullWidth(by: price.u64)
    return (product.high &<< 48 | product.low &>> 16).i64
  }
}

struct RunQueue: ~Copyable {
  private var heap = PairingHeap<RunNode>()
  /// The moment up to which the running thread has been charged.
  private(set) var reading = DecayClock.Reading()
  private var base = DecayClock.Base()
  /// Later than any sequence number in use, or earlier.
  private var last: UInt64 = 1 << 32
  private var beforeFirst: UInt64 = 1 << 32
  /// Threads that are queued; the running one is not.
  private(set) var count: Int = 0
  /// Told from other queues by this; not 0.
  let number: UInt32

  /// A 64th of a charge is 3.1 ms: how far ahead of an equal the running thread may be.
  private static var sliceShift: Int64 { 6 }
  /// A 256th is 0.8 ms: how far behind a thread must be that the running one wakes to take the CPU at once; less, and two that
  /// work for each other would change places at each step.
  private static var leadShift: Int64 { 8 }
  /// A 4096th is 49 us: the same for a thread that time, a device or another CPU wakes.
  private static var eventShift: Int64 { 12 }
  /// How long a thread has a CPU at least before one that it wakes takes it, ns: of two that are always as far apart as the lead (a
  /// writer and the reader of a pipe, the one working as much as the other), each message would be two switches.
  private static var protectedTime: UInt64 { 250_000 }
  /// The time of such a slice, ns.
  static var slice: UInt64 { DecayClock.tau &>> 6 }
  /// How long a real-time thread of policy RR runs before its equals, ns.
  static var roundRobin: UInt64 { 100_000_000 }
  /// A thread that waits with a rank this much lower than the one that runs elsewhere should go there: 12 ms' charge.
  private static var imbalanceShift: Int64 { 4 }

  init(number: UInt32 = 1) { self.number = number }

  var isEmpty: Bool { count == 0 }
  var first: UnsafeMutablePointer<RunNode>? { heap.first }

  // MARK: Time

  /// Time has come to `now`; `running` has used it since the last call, unless it is nil (idle).
  mutating func advance(to now: UInt64, running: UnsafeMutablePointer<RunNode>?) {
    let before = reading
    reading = base.reading(at: now)
    if reading.epoch != before.epoch { return changeEpoch(from: before, running: running) }
    guard let running else { return }
    running.pointee.catchUp(to: reading.epoch)
    running.pointee.rank &+= running.pointee.cost(max(reading.charge &- before.charge, 0))
  }

  private mutating func changeEpoch(from before: DecayClock.Reading, running: UnsafeMutablePointer<RunNode>?) {
    let epoch = reading.epoch
    // Dividing all by the same number keeps their order; those that become equal keep it by their sequence or lose nothing.
    heap.forEach { $0.pointee.catchUp(to: epoch) }
    guard let running else { return }
    running.pointee.catchUp(to: epoch)
    let shift = (epoch &- before.epoch).u64 &* DecayClock.doublingsPerEpoch
    let then = shift > 62 ? 0 : before.charge &>> shift.i64
    running.pointee.rank &+= running.pointee.cost(max(reading.charge &- then, 0))
  }

  // MARK: Queueing; `reading` is that of now

  /// A thread that was in no queue becomes runnable.
  mutating func add(_ node: UnsafeMutablePointer<RunNode>, now: UInt64) {
    node.pointee.catchUp(to: reading.epoch)
    insertLast(node, now: now)
  }

  /// The running thread goes back, still wanting to run: before its equals, if it is a real-time thread (unless its turn is
  /// over).
  mutating func putBack(_ node: UnsafeMutablePointer<RunNode>, ran: UInt64, now: UInt64) {
    if node.pointee.priority == 0 || (node.pointee.isRoundRobin && ran >= Self.roundRobin) {
      return insertLast(node, now: now)
    }
    beforeFirst &-= 1
    insert(node, sequence: beforeFirst, now: now)
  }

  /// The running thread goes back behind the first, or behind its equals.
  mutating func putBackYielding(_ node: UnsafeMutablePointer<RunNode>, now: UInt64) {
    if let first = heap.first, first.pointee.priority == 0 {
      node.pointee.rank = max(node.pointee.rank, first.pointee.rank)
    }
    insertLast(node, now: now)
  }

  /// Takes out who is to run now.
  mutating func take() -> UnsafeMutablePointer<RunNode>? {
    guard let node = heap.removeFirst() else { return nil }
    node.pointee.place.store(0, ordering: .relaxed)
    count &-= 1
    return node
  }

  /// Takes out a queued thread, to go elsewhere.
  mutating func remove(_ node: UnsafeMutablePointer<RunNode>) {
    heap.remove(node)
    node.pointee.place.store(0, ordering: .relaxed)
    count &-= 1
  }

  /// Whether the node is in this queue. On this queue's CPU.
  @inline(__always) borrowing func contains(_ node: UnsafeMutablePointer<RunNode>) -> Bool {
    node.pointee.place.load(ordering: .relaxed) == number
  }

  private mutating func insertLast(_ node: UnsafeMutablePointer<RunNode>, now: UInt64) {
    last &+= 1
    insert(node, sequence: last, now: now)
  }

  private mutating func insert(_ node: UnsafeMutablePointer<RunNode>, sequence: UInt64, now: UInt64) {
    node.pointee.sequence = sequence
    node.pointee.since = now
    node.pointee.place.store(number, ordering: .relaxed)
    heap.insert(node)
    count &+= 1
  }

  // MARK: Questions; the running thread has been charged up to now

  /// Whether the first queued thread should take the CPU from the running one, which has had it for `ran`; `isWaking`: it
  /// has just become runnable; `isByEvent`: not by the running one's doing.
  borrowing func shouldPreempt(
    _ running: UnsafeMutablePointer<RunNode>, ran: UInt64, isWaking: Bool, isByEvent: Bool = false
  ) -> Bool {
    guard let first = heap.first else { return false }
    if first.pointee.priority != running.pointee.priority { return first.pointee.priority > running.pointee.priority }
    if running.pointee.priority > 0 { return running.pointee.isRoundRobin && ran >= Self.roundRobin }
    if isWaking && (first.pointee.isBatch || !isByEvent && ran < Self.protectedTime) { return false }
    let shift = isWaking ? isByEvent ? Self.eventShift : Self.leadShift : Self.sliceShift
    return excess(running, over: first, shift) >= 0
  }

  /// How far the running thread is beyond what it may be ahead of the other one.
  @inline(__always) private borrowing func excess(
    _ running: UnsafeMutablePointer<RunNode>, over first: UnsafeMutablePointer<RunNode>, _ shift: Int64
  ) -> Int64 {
    running.pointee.rank &- first.pointee.rank &- running.pointee.cost(reading.charge &>> shift)
  }

  /// How long the running thread may still run before `shouldPreempt`, ns; perhaps a little less, never more.
  borrowing func remaining(_ running: UnsafeMutablePointer<RunNode>, ran: UInt64) -> UInt64 {
    guard let first = heap.first else { return .max }
    if first.pointee.priority > running.pointee.priority { return 0 }
    if running.pointee.priority > 0 {
      guard running.pointee.isRoundRobin, first.pointee.priority == running.pointee.priority else { return .max }
      return Self.roundRobin &- min(ran, Self.roundRobin)
    }
    let gap = -excess(running, over: first, Self.sliceShift)
    if gap <= 0 { return 0 }
    // The time t with cost * (e^(t/tau) - 1) = gap is tau * ln(1 + gap/cost), at least tau * 2 gap / (2 cost + gap).
    let cost = max(running.pointee.cost(reading.charge), 1)
    let product = (DecayClock.tau &* 2).multipliedFullWidth(by: gap.u64)
    // The quotient is below 2 tau.
    return instruction_divide128(product.high, product.low, cost.u64 &* 2 &+ gap.u64)
  }

  /// How the running thread of another CPU stood when it got that CPU.
  struct Standing {
    var price: UInt32
    var epoch: UInt32
    var rank: Int64
    var charge: Int64
  }

  /// Whether a queued thread would be better off on a CPU whose running thread stood so, and has run since.
  borrowing func shouldMove(_ node: UnsafeMutablePointer<RunNode>, beside other: Standing) -> Bool {
    guard node.pointee.priority == 0 else { return false }
    let shift = (reading.epoch &- other.epoch).u64 &* DecayClock.doublingsPerEpoch
    let charge = shift > 62 ? 0 : other.charge &>> shift.i64
    let rank = shift > 62 ? 0 : other.rank &>> shift.i64
    let now = rank &+ RunNode.cost(max(reading.charge &- charge, 0), price: other.price)
    return node.pointee.rank &+ node.pointee.cost(reading.charge &>> Self.imbalanceShift) < now
  }
}
