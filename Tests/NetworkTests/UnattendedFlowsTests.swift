// Flows that nobody attends to: every interleaving of who leaves them and who drains them, real threads, and what becomes of references.
import Base
import Devices
import Glibc
import Locks
import ModelChecker
import Pages
import Testing

@testable import Network

@Suite(.serialized) struct UnattendedFlowsTests {
  /// Two flows with packets to be counted, and the list.
  private final class Shared {
    let list = UnattendedListCore<ModelWord>()
    let links = UnsafeMutablePointer<UnattendedLink<ModelWord>>.allocate(capacity: 2)
    /// Packets in each flow's ring.
    let packets = UnsafeMutablePointer<ModelWord>.allocate(capacity: 2)
    var drained = 0
    /// What is in the list twice was pushed over itself.
    var listed = [0, 0]

    init() {
      for index in 0..<2 {
        (links + index).initialize(to: UnattendedLink())
        (packets + index).initialize(to: ModelWord(0))
      }
    }
    deinit {
      links.deinitialize(count: 2)
      packets.deinitialize(count: 2)
      links.deallocate()
      packets.deallocate()
    }

    /// A packet has come for a flow; the server, thread `server`, is woken if it may sleep.
    func leave(_ flow: Int, wake server: UInt) {
      _ = packets[flow].add(1)
      let isFirst = list.add(links[flow]) {
        listed[flow] += 1
        ModelChecker.check(listed[flow] == 1, "flow \(flow) is listed twice")
        return UInt(flow) + 1
      }
      if isFirst { ModelWord.unpark(server) }
    }

    func drain() {
      var word = list.takeAll()
      while word != 0 {
        let flow = Int(word) - 1
        listed[flow] -= 1
        word = UnattendedListCore<ModelWord>.release(links[flow])
        if packets[flow].load() != 0 { drained += Int(packets[flow].exchange(0)) }
      }
    }

    /// Drains until so many packets have been; sleeps when there is nothing.
    func serve(until count: Int) {
      while true {
        drain()
        if drained == count { return }
        if list.isEmpty() { _ = ModelWord.park(until: .never, interruptible: false) }
      }
    }
  }

  private func expectComplete(_ result: Exploration, _ location: SourceLocation = #_sourceLocation) {
    #expect(result.violation == nil, sourceLocation: location)
    #expect(result.isComplete, "\(result.schedules) schedules", sourceLocation: location)
  }

  @Test func everyScheduleOfOneWhoLeavesTwoFlows() {
    expectComplete(
      ModelChecker.explore {
        let shared = Shared()
        return ModelProgram(threads: [
          { for flow in [0, 1, 0] { shared.leave(flow, wake: 2) } }, { shared.serve(until: 3) },
        ]) { ModelChecker.check(shared.drained == 3, "\(shared.drained) packets") }
      })
  }

  @Test func everyScheduleOfTwoWhoLeaveOneFlow() {
    expectComplete(
      ModelChecker.explore {
        let shared = Shared()
        return ModelProgram(threads: [
          { shared.leave(0, wake: 3) }, { shared.leave(0, wake: 3) }, { shared.serve(until: 2) },
        ]) { ModelChecker.check(shared.drained == 2, "\(shared.drained) packets") }
      })
  }

  @Test func twoWhoLeaveTwoFlowsWithFewPreemptions() {
    expectComplete(
      ModelChecker.explore(preemptionBound: 3) {
        let shared = Shared()
        return ModelProgram(threads: [
          { for flow in [0, 1] { shared.leave(flow, wake: 3) } },
          { for flow in [1, 0] { shared.leave(flow, wake: 3) } },
          { shared.serve(until: 4) },
        ]) { ModelChecker.check(shared.drained == 4, "\(shared.drained) packets") }
      })
  }

  /// A server that looks at the ring before it lowers the flow's word, to see that the tests above would tell.
  @Test func whoLooksTooEarlyLosesAPacket() {
    let result = ModelChecker.explore {
      let shared = Shared()
      return ModelProgram(threads: [
        { for _ in 0..<2 { shared.leave(0, wake: 2) } },
        {
          while true {
            let word = shared.list.takeAll()
            if word != 0 {
              shared.drained += Int(shared.packets[0].exchange(0))
              shared.listed[0] -= 1
              _ = UnattendedListCore<ModelWord>.release(shared.links[0])
            }
            if shared.drained == 2 { return }
            if shared.list.isEmpty() { _ = ModelWord.park(until: .never, interruptible: false) }
          }
        },
      ])
    }
    #expect(result.violation != nil)
  }

  /// A flow that counts what it is drained of.
  private final class CountedFlow: Flow {
    let drained = Atomic<Int>(0)
    static let alive = Atomic<Int>(0)

    init?() {
      super.init(ringCapacity: 256)
      Self.alive.add(1, ordering: .relaxed)
    }
    deinit { Self.alive.add(-1, ordering: .relaxed) }
    override func drain(now: UInt64) {
      while let packet = ring.pop() {
        _ = consume packet
        drained.add(1, ordering: .relaxed)
      }
    }
  }

  @Test func flowsAreKeptAndLetGo() throws {
    HostedArena.prepare()
    let before = CountedFlow.alive.load(ordering: .relaxed)
    final class Wakes { var count = 0 }
    let wakes = Wakes()
    var flows: UnattendedFlows? = UnattendedFlows { wakes.count += 1 }
    do {
      let first = try #require(CountedFlow())
      let second = try #require(CountedFlow())
      _ = first.ring.push(try Packet.of([1]))
      for _ in 0..<3 {
        flows?.add(first)
        flows?.add(second)
      }
    }
    #expect(wakes.count == 1 && flows?.isEmpty == false)
    #expect(CountedFlow.alive.load(ordering: .relaxed) == before + 2)
    flows?.drain(now: 0)
    #expect(flows?.isEmpty == true && CountedFlow.alive.load(ordering: .relaxed) == before)
    // A list that goes lets go of what is in it.
    do { flows?.add(try #require(CountedFlow())) }
    #expect(wakes.count == 2 && CountedFlow.alive.load(ordering: .relaxed) == before + 1)
    flows = nil
    #expect(CountedFlow.alive.load(ordering: .relaxed) == before)
  }

  /// Threads that give packets to a few flows, and one that drains: nothing is left over.
  @Test func threads() throws {
    HostedArena.prepare()
    final class Stress: @unchecked Sendable {
      let flows = (0..<3).map { _ in CountedFlow()! }
      let wakes = Atomic<Int>(0)
      let pushed = Atomic<Int>(0)
      let finished = Atomic<Int>(0)
      var list: UnattendedFlows! = nil
    }
    let stress = Stress()
    stress.list = UnattendedFlows { stress.wakes.add(1, ordering: .sequentiallyConsistent) }
    HostThreads.run(4) { index in
      if index < 3 {
        for round in 0..<30_000 {
          let flow = stress.flows[(round + index) % 3]
          if flow.push(Packet()!) { stress.pushed.add(1, ordering: .relaxed) } else { sched_yield() }
          stress.list.add(flow)
        }
        stress.finished.add(1, ordering: .releasing)
        return
      }
      // It looks when it was woken, and at no other time.
      var seen = 0
      while true {
        let isOver = stress.finished.load(ordering: .acquiring) == 3
        let wakes = stress.wakes.load(ordering: .sequentiallyConsistent)
        if wakes != seen {
          seen = wakes
          stress.list.drain(now: 0)
        } else if isOver {
          break
        } else {
          sched_yield()
        }
      }
    }
    #expect(stress.list.isEmpty)
    let drained = stress.flows.reduce(0) { $0 + $1.drained.load(ordering: .relaxed) }
    #expect(drained == stress.pushed.load(ordering: .relaxed) && drained > 1000)
    stress.list = nil
  }
}
