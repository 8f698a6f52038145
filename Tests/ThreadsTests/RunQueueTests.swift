import Testing

@testable import Threads

/// Simulated threads on simulated CPUs, with time given in: the scheduler's mathematics without the scheduler.
final class Simulation {
  var queues: UnsafeMutablePointer<RunQueue>
  let nodes: UnsafeMutablePointer<RunNode>
  let cpus: Int
  var running: [Int?]
  var startedAt: [UInt64]
  var time: UInt64
  var used: [UInt64]
  /// The longest time that each thread waited in a queue.
  var longestWait: [UInt64]
  var switches = 0

  init(_ policies: [SchedulingPolicy], cpus: Int = 1, start: UInt64 = 1_000_000_000) {
    self.cpus = cpus
    queues = .allocate(capacity: cpus)
    for cpu in 0..<cpus { (queues + cpu).initialize(to: RunQueue()) }
    nodes = .allocate(capacity: policies.count)
    for index in policies.indices {
      (nodes + index).initialize(to: RunNode(owner: UInt(index)))
      nodes[index].adopt(policies[index])
    }
    running = Array(repeating: nil, count: cpus)
    startedAt = Array(repeating: 0, count: cpus)
    used = Array(repeating: 0, count: policies.count)
    longestWait = used
    time = start
    for cpu in 0..<cpus { queues[cpu].advance(to: time, running: nil) }
  }

  deinit {
    queues.deallocate()
    nodes.deallocate()
  }

  convenience init(nice: [Int8], cpus: Int = 1, start: UInt64 = 1_000_000_000) {
    self.init(nice.map { SchedulingPolicy(nice: $0) }, cpus: cpus, start: start)
  }

  func charge(_ cpu: Int, since: UInt64) {
    queues[cpu].advance(to: time, running: running[cpu].map { nodes + $0 })
    if let thread = running[cpu] { used[thread] += time - since }
  }

  /// The thread becomes runnable on that CPU; true if it takes the CPU.
  @discardableResult func wake(_ index: Int, on cpu: Int = 0) -> Bool {
    queues[cpu].advance(to: time, running: running[cpu].map { nodes + $0 })
    queues[cpu].add(nodes + index, now: time)
    guard let current = running[cpu] else {
      pick(cpu)
      return true
    }
    guard queues[cpu].shouldPreempt(nodes + current, ran: time - startedAt[cpu], isWaking: true) else { return false }
    giveUp(cpu)
    return running[cpu] == index
  }

  /// The running thread of that CPU sleeps.
  func sleep(_ cpu: Int = 0) {
    running[cpu] = nil
    pick(cpu)
  }

  func giveUp(_ cpu: Int) {
    if let current = running[cpu] { queues[cpu].putBack(nodes + current, ran: time - startedAt[cpu], now: time) }
    pick(cpu)
  }

  private func pick(_ cpu: Int) {
    guard let node = queues[cpu].take() else {
      running[cpu] = nil
      return
    }
    let index = Int(node.pointee.owner)
    longestWait[index] = max(longestWait[index], time - node.pointee.since)
    if running[cpu] != index { startedAt[cpu] = time }
    running[cpu] = index
    switches += 1
  }

  /// Lets that much time go by, with the timer interrupts of the real scheduler (and its balance between CPUs).
  func run(_ duration: UInt64) {
    let end = time + duration
    while time < end {
      var step = end - time
      for cpu in 0..<cpus {
        guard let current = running[cpu] else { continue }
        let wait = queues[cpu].remaining(nodes + current, ran: time - startedAt[cpu])
        // A timer is not armed for less than 20 us.
        step = min(step, max(wait, 20_000))
      }
      let before = time
      time += step
      for cpu in 0..<cpus { charge(cpu, since: before) }
      for cpu in 0..<cpus {
        guard let current = running[cpu] else { continue }
        if let waiting = queues[cpu].first { balance(cpu, waiting) }
        if queues[cpu].shouldPreempt(nodes + current, ran: time - startedAt[cpu], isWaking: false) { giveUp(cpu) }
      }
    }
  }

  private func balance(_ cpu: Int, _ waiting: UnsafeMutablePointer<RunNode>) {
    for other in 0..<cpus where other != cpu && queues[other].count < queues[cpu].count {
      guard let current = running[other] else { continue }
      let node = nodes + current
      let standing = RunQueue.Standing(
        price: node.pointee.price, epoch: node.pointee.epoch, rank: node.pointee.rank,
        charge: queues[other].reading.charge)
      let lead = queues[cpu].count - queues[other].count
      guard lead > 1 || queues[cpu].shouldMove(waiting, beside: standing) else { continue }
      queues[cpu].remove(waiting)
      wake(Int(waiting.pointee.owner), on: other)
      return
    }
  }

  /// The largest distance between a share and the ideal one, as a part of all CPU time.
  func error(weights: [UInt32]) -> Double {
    let total = Double(used.reduce(0, +))
    let weight = Double(weights.reduce(0, +))
    return zip(used, weights).map { abs(Double($0) / total - Double($1) / weight) }.max() ?? 0
  }
}

@Suite struct RunQueueTests {
  @Test(arguments: [2, 3, 7, 40]) func equalsShareEvenly(count: Int) {
    let simulation = Simulation(nice: Array(repeating: 0, count: count))
    for index in 0..<count { simulation.wake(index) }
    simulation.run(2_000_000_000)
    #expect(simulation.error(weights: Array(repeating: 1, count: count)) < 0.005)
    // Each ran about twice a slice at a time: neither a storm of switches nor long turns.
    #expect(simulation.switches < 2_000_000_000 / Int(RunQueue.slice) + count)
  }

  @Test(arguments: [[0, 5], [0, 0, 10], [-20, 0], [-5, 0, 5], [0, 1, 2, 3, 4, 5, 6], [0, 19]] as [[Int8]])
  func sharesFollowTheWeights(nice: [Int8]) {
    let simulation = Simulation(nice: nice)
    for index in nice.indices { simulation.wake(index) }
    simulation.run(2_000_000_000)
    let error = simulation.error(weights: nice.map { SchedulingPolicy(nice: $0).weight })
    #expect(error < 0.02, "\(simulation.used)")
  }

  @Test func nobodyStarves() {
    let nice: [Int8] = [-20, 0, 0, 19]
    let simulation = Simulation(nice: nice)
    for index in nice.indices { simulation.wake(index) }
    simulation.run(60_000_000_000)
    #expect(simulation.used.allSatisfy { $0 > 0 })
    // Weight 15 of 90,000 still gets on, if seldom.
    #expect(simulation.longestWait[3] < 30_000_000_000)
    #expect(simulation.longestWait[1] < 2_000_000_000)
  }

  @Test func aloneNobodyIsPreempted() {
    let simulation = Simulation(nice: [0])
    simulation.wake(0)
    let remaining = simulation.queues[0].remaining(simulation.nodes, ran: 1_000_000_000)
    #expect(remaining == .max)
    let isPreempted = simulation.queues[0].shouldPreempt(simulation.nodes, ran: 1_000_000_000, isWaking: false)
    #expect(!isPreempted)
  }

  @Test func aSleeperRunsAtOnceButSavesUpLittle() {
    let simulation = Simulation(nice: [0, 0])
    simulation.wake(0)
    simulation.run(10_000_000_000)
    #expect(simulation.wake(1))
    let before = simulation.used[0]
    simulation.run(200_000_000)
    // It may have tau * ln 2 = 139 ms to itself, and not ten seconds.
    #expect(simulation.used[0] - before > 20_000_000)
    #expect(simulation.used[1] > 100_000_000)
    simulation.run(2_000_000_000)
    #expect(abs(Int64(simulation.used[1]) - 1_100_000_000) < 100_000_000)
  }

  @Test func aThreadThatJustRanDoesNotPreempt() {
    let simulation = Simulation(nice: [0, 0])
    simulation.wake(0)
    #expect(!simulation.wake(1))
    simulation.run(100_000)
    let isPreempted = simulation.queues[0].shouldPreempt(simulation.nodes, ran: 100_000, isWaking: true)
    #expect(!isPreempted)
  }

  @Test func anEventGivesItsThreadTheCPUSoonerThanTheRunningThreadDoes() {
    let simulation = Simulation(nice: [0, 0])
    simulation.wake(0)
    simulation.run(300_000)
    simulation.queues[0].add(simulation.nodes + 1, now: simulation.time)
    func preempts(isByEvent: Bool) -> Bool {
      simulation.queues[0].shouldPreempt(simulation.nodes, ran: 300_000, isWaking: true, isByEvent: isByEvent)
    }
    // 0.3 ms ahead: more than 49 us, less than 0.8 ms.
    #expect(preempts(isByEvent: true) && !preempts(isByEvent: false))
  }

  @Test func anEventGivesNothingToAThreadThatHasHadAsMuch() {
    let simulation = Simulation(nice: [0, 0])
    simulation.wake(0)
    simulation.run(20_000)
    simulation.queues[0].add(simulation.nodes + 1, now: simulation.time)
    let isPreempted = simulation.queues[0].shouldPreempt(
      simulation.nodes, ran: 20_000, isWaking: true, isByEvent: true)
    #expect(!isPreempted)
  }

  @Test func yieldingLetsOthersGoFirst() {
    let simulation = Simulation(nice: [0, 0])
    simulation.wake(0)
    simulation.wake(1)
    simulation.queues[0].putBackYielding(simulation.nodes, now: simulation.time)
    let second = simulation.queues[0].take()!
    #expect(second.pointee.owner == 1)
  }

  @Test func theTimerIsNeverLate() {
    let simulation = Simulation(nice: [0, 3])
    simulation.wake(0)
    simulation.wake(1)
    for _ in 0..<2_000 {
      let current = simulation.running[0]!
      let wait = simulation.queues[0].remaining(simulation.nodes + current, ran: 0)
      #expect(wait <= 2 * DecayClock.tau)
      // Just before that time it is not over yet, or by less than the charge of 2 us.
      let before = simulation.time
      simulation.time += wait &- min(wait, 2_000)
      simulation.charge(0, since: before)
      let isEarly = simulation.queues[0].shouldPreempt(simulation.nodes + current, ran: 0, isWaking: false)
      #expect(!isEarly || wait < 2_000)
      let middle = simulation.time
      simulation.time += 40_000
      simulation.charge(0, since: middle)
      let isOver = simulation.queues[0].shouldPreempt(simulation.nodes + current, ran: 0, isWaking: false)
      if isOver { simulation.giveUp(0) }
    }
  }

  @Test func epochsChangeNothing() {
    // The same story, begun in the middle of an epoch and just before its end.
    let epoch = DecayClock.epochLength
    let stories = [epoch * 3 + epoch / 2, epoch * 4 - 50_000_000].map { start -> [UInt64] in
      let simulation = Simulation(nice: [0, 5, -5], start: start)
      for index in 0..<3 { simulation.wake(index) }
      simulation.run(300_000_000)
      return simulation.used
    }
    for (one, two) in zip(stories[0], stories[1]) { #expect(abs(Int64(one) - Int64(two)) < 10_000_000) }
  }

  @Test func aLongSleepIsForgotten() {
    let simulation = Simulation(nice: [0])
    simulation.wake(0)
    simulation.run(5_000_000_000)
    simulation.sleep()
    simulation.time += 100 * DecayClock.epochLength
    simulation.wake(0)
    #expect(simulation.nodes[0].rank == 0)
  }

  @Test func migrationKeepsTheRank() {
    let simulation = Simulation(nice: [0, 0, 0], cpus: 2)
    simulation.wake(0, on: 0)
    simulation.wake(1, on: 0)
    simulation.wake(2, on: 1)
    simulation.run(500_000_000)
    let rank = simulation.nodes[2].rank
    simulation.running[1] = nil
    simulation.wake(2, on: 0)
    #expect(simulation.nodes[2].rank == rank)
  }

  @Test(arguments: [[0, 0, 0], [0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 5, 5]] as [[Int8]])
  func twoCPUsShareWhatDoesNotDivide(nice: [Int8]) {
    let simulation = Simulation(nice: nice, cpus: 2)
    for index in nice.indices { simulation.wake(index, on: index % 2) }
    simulation.run(10_000_000_000)
    let error = simulation.error(weights: nice.map { SchedulingPolicy(nice: $0).weight })
    #expect(error < 0.05, "\(simulation.used)")
  }

  @Test func allOnOneCPUSpread() {
    let simulation = Simulation(nice: Array(repeating: 0, count: 7), cpus: 2)
    simulation.wake(0, on: 1)
    for index in 1..<7 { simulation.wake(index, on: 0) }
    simulation.run(10_000_000_000)
    #expect(simulation.error(weights: Array(repeating: 1, count: 7)) < 0.02, "\(simulation.used)")
  }

  @Test func realTimeComesFirst() {
    let fifo = SchedulingPolicy(kind: .fifo, priority: 10)
    let high = SchedulingPolicy(kind: .roundRobin, priority: 20)
    let simulation = Simulation([.ordinary, fifo, high, high])
    simulation.wake(0)
    #expect(simulation.wake(1))
    #expect(simulation.wake(2))
    #expect(!simulation.wake(3))
    simulation.run(1_000_000_000)
    #expect(simulation.used[0] == 0 && simulation.used[1] == 0)
    #expect(abs(Int64(simulation.used[2]) - Int64(simulation.used[3])) <= Int64(RunQueue.roundRobin))
    simulation.sleep()
    simulation.sleep()
    // The one with lower priority goes on where it was.
    #expect(simulation.running[0] == 1)
  }

  @Test func idleThreadsGetWhatIsLeft() {
    let simulation = Simulation([.ordinary, SchedulingPolicy(kind: .idle)])
    simulation.wake(0)
    simulation.wake(1)
    simulation.run(10_000_000_000)
    #expect(simulation.used[1] < 100_000_000)
    #expect(simulation.used[1] > 0)
  }
}

@Suite struct DecayClockTests {
  /// Readings for less stay within 4 parts in 10^9 of the exact ones, and never decrease within an epoch.
  @Test func shortStepsFollowTheCurve() {
    var base = DecayClock.Base()
    var time = DecayClock.epochLength * 3 - 40_000
    var last = DecayClock.Reading()
    for step in 0..<200_000 {
      time += UInt64(step * 7_919 % 1_000)
      let reading = base.reading(at: time)
      let exact = DecayClock.reading(at: time)
      #expect(reading.epoch == exact.epoch)
      let tooLittle = exact.charge - reading.charge
      #expect(tooLittle >= -1 && Double(tooLittle) <= 4e-9 * Double(exact.charge) + 2, "step \(step)")
      if reading.epoch == last.epoch { #expect(reading.charge >= last.charge) }
      last = reading
    }
    // A time before the base, as another CPU's clock may say, is read afresh.
    let earlier = base.reading(at: time - 20_000)
    #expect(earlier.charge == DecayClock.reading(at: time - 20_000).charge)
  }

  @Test func chargesDoubleInTime() {
    let start = DecayClock.epochLength * 7
    for step in 0..<20 as Range<UInt64> {
      let reading = DecayClock.reading(at: start + step * DecayClock.doubling)
      #expect(reading.epoch == 7)
      #expect(abs(reading.charge - Int64(1) << (32 + Int64(step))) <= Int64(1) << Int64(step + 2))
    }
    let last = DecayClock.reading(at: start + DecayClock.epochLength - 1)
    #expect(last.charge < 1 << 52 && last.charge > 1 << 51)
  }

  @Test func chargesNeverFall() {
    var before: Int64 = 0
    for step in 0..<400_000 as Range<UInt64> {
      let charge = DecayClock.reading(at: step * 6_931).charge
      #expect(charge >= before)
      before = charge
    }
  }

  @Test func chargesFollowTheExponential() {
    for step in 0..<1_000 as Range<UInt64> {
      let time = step * 2_700_001
      let charge = DecayClock.reading(at: time).charge
      var exact = 4_294_967_296.0
      // 2^(t/D) by squaring the root, without a mathematics library.
      var x = Double(time) / Double(DecayClock.doubling) * 0.693147180559945309
      var halvings = 0
      while x > 0.01 {
        x /= 2
        halvings += 1
      }
      var root = 1 + x * (1 + x / 2 * (1 + x / 3 * (1 + x / 4)))
      for _ in 0..<halvings { root *= root }
      exact *= root
      #expect(abs(Double(charge) / exact - 1) < 2e-9)
    }
  }
}
