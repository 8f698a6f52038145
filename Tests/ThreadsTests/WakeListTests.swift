import Locks
import ModelChecker
import Testing

@testable import Threads

@Suite struct WakeListTests {
  private final class Shared {
    let list = WakeList<ModelWord>()
    let nodes: UnsafeMutablePointer<WakeNode<ModelWord>>
    var taken: [UInt] = []
    init(_ count: Int) {
      nodes = .allocate(capacity: count)
      for index in 0..<count { (nodes + index).initialize(to: WakeNode(owner: UInt(index))) }
    }
  }

  /// The owner halts when it sees nothing; an interrupt is the model's permit. A lost one is a sleep for ever.
  private func explore(pushers: [[Int]], bound: Int?) -> Exploration {
    let total = pushers.flatMap { $0 }.count
    return ModelChecker.explore(preemptionBound: bound) {
      let shared = Shared(total)
      let owner = {
        while shared.taken.count < total {
          shared.list.startLooking()
          shared.list.takeAll { shared.taken.append($0) }
          if shared.list.stopLooking() { continue }
          if shared.taken.count < total { _ = ModelWord.park(until: .never, interruptible: false) }
        }
      }
      let bodies = pushers.map { indices in
        { for index in indices where shared.list.push(shared.nodes + index) { ModelWord.unpark(1) } }
      }
      return ModelProgram(threads: [owner] + bodies) {
        ModelChecker.check(shared.taken.sorted() == (0..<total).map(UInt.init), "taken: \(shared.taken)")
      }
    }
  }

  @Test func everyScheduleOfOnePusher() {
    let result = explore(pushers: [[0, 1]], bound: nil)
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func everyScheduleOfTwoPushers() {
    let result = explore(pushers: [[0], [1]], bound: nil)
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func orderOfArrivalIsKept() {
    let result = ModelChecker.explore {
      let shared = Shared(3)
      return ModelProgram(threads: [
        {
          for index in 0..<3 { _ = shared.list.push(shared.nodes + index) }
          shared.list.takeAll { shared.taken.append($0) }
        }
      ]) { ModelChecker.check(shared.taken == [0, 1, 2], "\(shared.taken)") }
    }
    #expect(result.violation == nil && result.isComplete)
  }
}
