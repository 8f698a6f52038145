import Locks
import ModelChecker
import Testing

@testable import Threads

@Suite struct TimerQueueTests {
  typealias Queue = TimerQueue<ModelWord>
  typealias Node = TimerNode<ModelWord>

  /// Two CPUs with a queue each, and one timer.
  private final class Machine {
    let queues: UnsafeMutablePointer<Queue>
    let node: UnsafeMutablePointer<Node>
    /// When the timer fired.
    var fired: [UInt] = []

    init() {
      queues = .allocate(capacity: 2)
      for cpu in 0..<2 { (queues + cpu).initialize(to: Queue(cpu: cpu)) }
      node = .allocate(capacity: 1)
      node.initialize(to: Node(owner: 7))
    }

    func arm(_ cpu: Int, at deadline: UInt) {
      queues[cpu].arm(node, at: deadline) { self.queues[$0].push(request: $1) }
    }

    /// What the CPU does on an interrupt at that time.
    func interrupt(_ cpu: Int, at now: UInt) {
      while queues[cpu].serveRequest(post: { self.queues[$0].push(request: $1) }) {}
      while let due = queues[cpu].takeDue(now: now) {
        ModelChecker.check(now >= 5, "fired before any deadline")
        fired.append(now)
        Queue.fired(due)
      }
    }

    /// Both CPUs look until nothing is left; afterwards nobody may hold a request.
    func settle(at now: UInt) {
      for _ in 0..<3 { for cpu in 0..<2 { interrupt(cpu, at: now) } }
    }
  }

  private func explore(
    before: @escaping (Machine) -> Void, _ bodies: @escaping (Machine) -> [() -> Void],
    finally: @escaping (Machine) -> Void
  ) -> Exploration {
    ModelChecker.explore {
      let machine = Machine()
      before(machine)
      return ModelProgram(threads: bodies(machine)) { finally(machine) }
    }
  }

  @Test func everyScheduleOfArmingEarlierFromAnotherCPU() {
    let result = explore(
      before: { $0.arm(0, at: 100) },
      { machine in [{ machine.interrupt(0, at: 50) }, { machine.arm(1, at: 20) }] },
      finally: { machine in
        machine.settle(at: 60)
        ModelChecker.check(machine.fired.count == 1, "fired \(machine.fired)")
      })
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func everyScheduleOfArmingLaterWhileItComesDue() {
    let result = explore(
      before: { $0.arm(0, at: 10) },
      { machine in [{ machine.interrupt(0, at: 15) }, { machine.arm(1, at: 40) }] },
      finally: { machine in
        let early = machine.fired
        machine.settle(at: 50)
        // Either the first time came before the change and both fired, or the change came first.
        ModelChecker.check(machine.fired.last == 50 && machine.fired.count == early.count + 1, "fired \(machine.fired)")
      })
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func everyScheduleOfCancelling() {
    let result = explore(
      before: { $0.arm(0, at: 10) },
      { machine in
        [
          { machine.interrupt(0, at: 15) },
          {
            let isCancelled = machine.node.pointee.cancel()
            // A handler that still runs holds `firing`; afterwards the outcome is final.
            if machine.node.pointee.firing.load() == 0 {
              ModelChecker.check(
                machine.fired.count == (isCancelled ? 0 : 1), "cancelled \(isCancelled), \(machine.fired)")
            }
          },
        ]
      },
      finally: { machine in
        machine.settle(at: 50)
        ModelChecker.check(machine.fired.count <= 1, "fired \(machine.fired)")
      })
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func everyScheduleOfArmingAfterCancelling() {
    let result = explore(
      before: { $0.arm(0, at: 10) },
      { machine in
        [
          { machine.interrupt(0, at: 15) },
          {
            _ = machine.node.pointee.cancel()
            machine.fired = []
            machine.arm(1, at: 30)
          },
        ]
      },
      finally: { machine in
        machine.settle(at: 50)
        ModelChecker.check(machine.fired.last == 50, "fired \(machine.fired)")
      })
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func nodesComeOutInOrder() {
    let result = ModelChecker.explore {
      var order: [UInt] = []
      return ModelProgram(threads: [
        {
          var queue = Queue(cpu: 0)
          let nodes = UnsafeMutablePointer<Node>.allocate(capacity: 50)
          for index in 0..<50 {
            (nodes + index).initialize(to: Node(owner: UInt(index)))
            queue.arm(nodes + index, at: UInt(index * 37 % 50)) { _, _ in }
          }
          while let due = queue.takeDue(now: 100) { order.append(due.pointee.owner * 37 % 50) }
        }
      ]) { ModelChecker.check(order == (0..<50).map(UInt.init), "\(order)") }
    }
    #expect(result.violation == nil && result.isComplete)
  }
}
