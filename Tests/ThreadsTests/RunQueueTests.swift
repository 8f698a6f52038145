import Testing

@testable import Threads

@Suite struct RunQueueTests {
  /// Simulated threads on one queue, with time given in.
  private final class Simulation {
    var queue = RunQueue()
    let nodes: UnsafeMutablePointer<RunNode>
    var time: UInt64 = 1_000_000_000
    var used: [UInt64]

    init(_ count: Int) {
      nodes = .allocate(capacity: count)
      for index in 0..<count { (nodes + index).initialize(to: RunNode(owner: UInt(index))) }
      used = Array(repeating: 0, count: count)
    }
    deinit { nodes.deallocate() }

    func wake(_ index: Int) { queue.add(nodes + index, now: time) }

    /// Runs whoever is next until the policy takes the CPU away, or for `most`; puts it back.
    func runOne(most: UInt64 = .max) -> Int? {
      guard let node = queue.take() else { return nil }
      let span = min(queue.remaining(node, ran: 0), most)
      time += span
      queue.charge(node, span)
      used[Int(node.pointee.owner)] += span
      queue.putBack(node, now: time)
      return Int(node.pointee.owner)
    }
  }

  @Test func equalsShareEvenly() {
    let simulation = Simulation(3)
    for index in 0..<3 { simulation.wake(index) }
    for _ in 0..<300 { _ = simulation.runOne() }
    let most = simulation.used.max()!
    let least = simulation.used.min()!
    #expect(most - least <= UInt64(2 * RunQueue.slice))
  }

  @Test func aloneNobodyIsPreempted() {
    let simulation = Simulation(1)
    simulation.wake(0)
    let node = simulation.queue.take()!
    let remaining = simulation.queue.remaining(node, ran: 1_000_000_000)
    #expect(remaining == .max)
    let isPreempted = simulation.queue.shouldPreempt(node, ran: 1_000_000_000, isWaking: false)
    #expect(!isPreempted)
  }

  @Test func aSleeperRunsSoonButCannotSaveTimeUp() {
    let simulation = Simulation(2)
    simulation.wake(0)
    // Alone for ten seconds.
    let hog = simulation.queue.take()!
    simulation.queue.charge(hog, 10_000_000_000)
    simulation.time += 10_000_000_000
    simulation.wake(1)
    let isPreempted = simulation.queue.shouldPreempt(hog, ran: 0, isWaking: true)
    #expect(isPreempted)
    simulation.queue.putBack(hog, now: simulation.time)
    #expect(simulation.runOne() == 1)
    // It has had its credit and a slice, not ten seconds.
    #expect(simulation.used[1] <= UInt64(RunQueue.credit + RunQueue.slice))
    #expect(simulation.runOne() == 0)
  }

  @Test func aThreadThatJustRanDoesNotPreempt() {
    let simulation = Simulation(2)
    simulation.wake(0)
    simulation.wake(1)
    let first = simulation.queue.take()!
    let isPreempted = simulation.queue.shouldPreempt(first, ran: 10_000, isWaking: true)
    #expect(!isPreempted)
  }

  @Test func yieldingLetsEqualsGoFirst() {
    let simulation = Simulation(2)
    simulation.wake(0)
    simulation.wake(1)
    let first = simulation.queue.take()!
    simulation.queue.putBackYielding(first, now: simulation.time)
    let second = simulation.queue.take()!
    #expect(second.pointee.owner == 1)
  }

  @Test func rankTravelsBetweenCPUs() {
    let busy = Simulation(1)
    busy.wake(0)
    let node = busy.queue.take()!
    busy.queue.charge(node, 5_000_000_000)
    busy.queue.leave(node, now: 0)
    var other = RunQueue()
    other.add(node, now: 0)
    // Its distance to the floor, not its five seconds, came along.
    #expect(abs(node.pointee.rank) <= RunQueue.slice)
  }
}
