import Locks
import Testing

@testable import Threads

/// Threads that only stand for somebody, and a wait for each.
private final class Cast {
  let threads: [Thread]
  let waits: UnsafeMutablePointer<PriorityWait>

  init(priorities: [UInt8]) {
    threads = priorities.map {
      let thread = Thread(ThreadControl.allocate()!)
      thread.policy = Cast.policy($0)
      return thread
    }
    waits = .allocate(capacity: threads.count)
    for (index, thread) in threads.enumerated() { (waits + index).initialize(to: PriorityWait(of: thread)) }
  }

  deinit { waits.deallocate() }

  static func policy(_ priority: UInt8) -> SchedulingPolicy {
    priority == 0 ? .ordinary : SchedulingPolicy(kind: .fifo, priority: priority)
  }

  /// Thread `waiter` waits for what `owner` has.
  @discardableResult func begin(_ waiter: Int, behind owner: Int) -> Bool {
    PriorityInheritance.begin(waits + waiter, behind: threads[owner])
  }
  func end(_ waiter: Int) { PriorityInheritance.end(waits + waiter) }
  func move(_ waiter: Int, behind owner: Int) { PriorityInheritance.move(waits + waiter, behind: threads[owner]) }

  var priorities: [UInt8] { threads.map(\.effectivePriority) }
}

@Suite struct PriorityInheritanceTests {
  @Test func anOwnerInheritsTheHighestAndGivesItBack() {
    let cast = Cast(priorities: [10, 20, 30, 0])
    cast.begin(1, behind: 0)
    #expect(cast.priorities == [20, 20, 30, 0])
    cast.begin(2, behind: 0)
    cast.begin(3, behind: 0)
    #expect(cast.priorities == [30, 20, 30, 0])
    cast.end(2)
    #expect(cast.priorities == [20, 20, 30, 0])
    cast.end(1)
    cast.end(3)
    #expect(cast.priorities == [10, 20, 30, 0])
    #expect(cast.threads[0].policy == Cast.policy(10))
  }

  @Test func chainsPassItOn() {
    let cast = Cast(priorities: [0, 5, 10, 40])
    cast.begin(1, behind: 0)
    cast.begin(2, behind: 1)
    #expect(cast.priorities == [10, 10, 10, 40])
    cast.begin(3, behind: 2)
    #expect(cast.priorities == [40, 40, 40, 40])
    cast.end(3)
    #expect(cast.priorities == [10, 10, 10, 40])
    // The middle link goes.
    cast.end(2)
    #expect(cast.priorities == [5, 5, 10, 40])
  }

  @Test func aChainThatIsHungUpBelowAnotherTakesItsPriorityAlong() {
    let cast = Cast(priorities: [1, 2, 3])
    cast.begin(2, behind: 1)
    cast.begin(1, behind: 0)
    #expect(cast.priorities == [3, 3, 3])
  }

  @Test func theNextOwnerInheritsFromThoseWhoWaitOn() {
    let cast = Cast(priorities: [1, 10, 20, 15])
    for waiter in 1...3 { cast.begin(waiter, behind: 0) }
    cast.end(1)
    cast.move(2, behind: 1)
    cast.move(3, behind: 1)
    #expect(cast.priorities == [1, 20, 20, 15])
    cast.end(2)
    #expect(cast.priorities == [1, 15, 20, 15])
    cast.end(3)
    #expect(cast.priorities == [1, 10, 20, 15])
  }

  @Test func aCircleIsRefusedAndLeavesNothing() {
    let cast = Cast(priorities: [1, 2, 3])
    #expect(cast.begin(1, behind: 0))
    #expect(cast.begin(2, behind: 1))
    #expect(!cast.begin(0, behind: 2))
    #expect(!cast.begin(0, behind: 0))
    cast.end(0)
    #expect(cast.priorities == [3, 3, 3])
    cast.end(1)
    #expect(cast.priorities == [1, 3, 3])
    #expect(cast.begin(0, behind: 2))
  }

  @Test func aNewPolicyIsPassedOn() {
    let cast = Cast(priorities: [1, 2, 3])
    cast.begin(1, behind: 0)
    cast.begin(2, behind: 1)
    cast.threads[2].policy = Cast.policy(50)
    PriorityInheritance.refresh(cast.threads[2])
    #expect(cast.priorities == [50, 50, 50])
    cast.threads[2].policy = Cast.policy(0)
    PriorityInheritance.refresh(cast.threads[2])
    #expect(cast.priorities == [2, 2, 0])
    // Its own may be higher than what it inherits.
    cast.threads[0].policy = Cast.policy(9)
    #expect(cast.priorities == [9, 2, 0])
  }

  @Test func whoEndsIsLeft() {
    let cast = Cast(priorities: [1, 2, 3])
    cast.begin(1, behind: 0)
    cast.begin(2, behind: 0)
    PriorityInheritance.abandon(cast.threads[0])
    #expect(cast.priorities == [1, 2, 3])
    cast.end(1)
    cast.move(2, behind: 1)
    #expect(cast.priorities == [1, 3, 3])
    cast.end(2)
  }

  /// Random histories against the plain definition: a thread's priority is the highest of its own and of all that wait for it.
  @Test func historiesAgreeWithTheDefinition() {
    var random = SystemRandomNumberGenerator()
    for _ in 0..<50 {
      let count = 12
      var own = (0..<count).map { _ in UInt8.random(in: 0...99, using: &random) }
      let cast = Cast(priorities: own)
      var owners = [Int?](repeating: nil, count: count)
      for _ in 0..<300 {
        let one = Int.random(in: 0..<count, using: &random)
        let other = Int.random(in: 0..<count, using: &random)
        switch Int.random(in: 0..<4, using: &random) {
        case 0, 1:
          if owners[one] != nil { continue }
          var next: Int? = other
          while let thread = next, thread != one { next = owners[thread] }
          #expect(cast.begin(one, behind: other) == (next == nil))
          if next == nil { owners[one] = other }
        case 2:
          cast.end(one)
          owners[one] = nil
        default:
          own[one] = UInt8.random(in: 0...99, using: &random)
          cast.threads[one].policy = Cast.policy(own[one])
          PriorityInheritance.refresh(cast.threads[one])
        }
        var expected = own
        for _ in 0..<count {
          for (waiter, owner) in owners.enumerated() {
            if let owner { expected[owner] = max(expected[owner], expected[waiter]) }
          }
        }
        #expect(cast.priorities == expected)
      }
      for index in 0..<count { cast.end(index) }
      #expect(cast.priorities == own)
    }
  }

  @Test func aQueuedThreadKnowsItsQueue() {
    var queue = RunQueue(number: 3)
    let other = RunQueue(number: 4)
    let nodes = UnsafeMutablePointer<RunNode>.allocate(capacity: 2)
    defer { nodes.deallocate() }
    for index in 0..<2 { (nodes + index).initialize(to: RunNode(owner: UInt(index))) }
    nodes[0].adopt(Cast.policy(10))
    nodes[1].adopt(Cast.policy(20), inheriting: 5)
    queue.add(nodes, now: 0)
    queue.add(nodes + 1, now: 0)
    let isThere = [queue.contains(nodes), queue.contains(nodes + 1), other.contains(nodes)]
    #expect(isThere == [true, true, false])
    // Reviewed: out, with another priority, and in again.
    queue.remove(nodes)
    let isThereStill = queue.contains(nodes)
    #expect(!isThereStill)
    nodes[0].adopt(Cast.policy(10), inheriting: 30)
    queue.add(nodes, now: 0)
    let taken = [queue.take(), queue.take(), queue.take()]
    #expect(taken == [nodes, nodes + 1, nil])
    let isThereAfter = queue.contains(nodes)
    #expect(!isThereAfter)
  }
}
