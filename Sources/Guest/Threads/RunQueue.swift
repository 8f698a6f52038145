// RunQueue: the policy, who runs next on a CPU and for how long. Pure: time is given to it, nothing is read or armed here.
//
// Each thread has a rank: the CPU time it has used, as far as it still counts. The lowest rank runs. `floor` is the rank of
// the last thread picked, and never goes back. While in no queue, a thread's rank is its distance to the floor, which makes
// it valid on any CPU. A thread that wakes has moved down by the time it slept, to `credit` below the floor at most: a
// sleeper runs before those that did not sleep, but cannot save up time.
//
// This is the simple member of a family: decayed runtimes and priorities change only this file.

import Base

/// What the policy knows about a thread.
struct RunNode: ~Copyable, PairingNode {
  var links = PairingLinks<RunNode>()
  /// Nanoseconds; see above.
  var rank: Int64 = 0
  /// Order of arrival among equal ranks.
  var sequence: UInt64 = 0
  /// When it became runnable or stopped being so.
  var since: UInt64 = 0
  /// Whose node this is.
  var owner: UInt

  init(owner: UInt) { self.owner = owner }

  borrowing func precedes(_ other: borrowing RunNode) -> Bool {
    rank != other.rank ? rank < other.rank : sequence < other.sequence
  }
}

struct RunQueue: ~Copyable {
  private var heap = PairingHeap<RunNode>()
  private var floor: Int64 = 0
  private var sequence: UInt64 = 0
  /// Threads that are queued; the running one is not.
  private(set) var count: Int = 0

  /// How long a thread runs before an equal one gets the CPU, ns.
  static var slice: Int64 { 4_000_000 }
  /// How far below the floor a waking thread may start, ns.
  static var credit: Int64 { 3_000_000 }
  /// A sleep that counts no more than this, ns.
  static var longSleep: UInt64 { 1_000_000_000 }
  /// How far below the running thread's rank a waking thread must be to take the CPU at once, ns.
  static var lead: Int64 { 1_000_000 }

  init() {}

  var isEmpty: Bool { count == 0 }
  var first: UnsafeMutablePointer<RunNode>? { heap.first }

  /// A thread that was in no queue becomes runnable. A new one starts at the floor: its `since` is `now`.
  mutating func add(_ node: UnsafeMutablePointer<RunNode>, now: UInt64) {
    let slept = min(now &- node.pointee.since, Self.longSleep).i64
    node.pointee.rank = floor &+ max(min(node.pointee.rank, Self.slice) &- slept, -Self.credit)
    insert(node, now: now)
  }

  /// The running thread goes back, still wanting to run.
  mutating func putBack(_ node: UnsafeMutablePointer<RunNode>, now: UInt64) { insert(node, now: now) }

  /// The running thread goes back behind the first.
  mutating func putBackYielding(_ node: UnsafeMutablePointer<RunNode>, now: UInt64) {
    if let first = heap.first { node.pointee.rank = max(node.pointee.rank, first.pointee.rank) }
    insert(node, now: now)
  }

  /// The running thread stops running here: to wait, or to go to another CPU.
  mutating func leave(_ node: UnsafeMutablePointer<RunNode>, now: UInt64) {
    node.pointee.rank &-= floor
    node.pointee.since = now
  }

  /// Takes out who is to run now.
  mutating func take() -> UnsafeMutablePointer<RunNode>? {
    guard let node = heap.removeFirst() else { return nil }
    count &-= 1
    floor = max(floor, node.pointee.rank)
    return node
  }

  /// Takes out a queued thread, to go to another CPU.
  mutating func remove(_ node: UnsafeMutablePointer<RunNode>, now: UInt64) {
    heap.remove(node)
    count &-= 1
    leave(node, now: now)
  }

  /// The running thread has used that much time.
  mutating func charge(_ node: UnsafeMutablePointer<RunNode>, _ nanoseconds: UInt64) {
    node.pointee.rank &+= nanoseconds.i64
    if isEmpty { floor = max(floor, node.pointee.rank) }
  }

  /// Whether the first queued thread should take the CPU from the running one, which has run for `ran` since it was last
  /// charged; `isWaking`: it has just become runnable.
  borrowing func shouldPreempt(_ running: UnsafeMutablePointer<RunNode>, ran: UInt64, isWaking: Bool) -> Bool {
    guard let first = heap.first else { return false }
    let rank = running.pointee.rank &+ ran.i64
    return isWaking ? first.pointee.rank &+ Self.lead <= rank : first.pointee.rank &+ Self.slice <= rank
  }

  /// How long the running thread may still run before `shouldPreempt`, ns.
  borrowing func remaining(_ running: UnsafeMutablePointer<RunNode>, ran: UInt64) -> UInt64 {
    guard let first = heap.first else { return .max }
    return max(first.pointee.rank &+ Self.slice &- running.pointee.rank &- ran.i64, 0).u64
  }

  private mutating func insert(_ node: UnsafeMutablePointer<RunNode>, now: UInt64) {
    sequence &+= 1
    node.pointee.sequence = sequence
    node.pointee.since = now
    heap.insert(node)
    count &+= 1
  }
}
