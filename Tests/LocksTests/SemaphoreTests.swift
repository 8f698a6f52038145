import Locks
import ModelChecker
import Testing

@Suite struct SemaphoreTests {
  typealias Semaphore = SemaphoreCore<ModelWord>

  private final class Shared {
    let first = Semaphore()
    let second = Semaphore()
    /// Units that waiters have taken.
    let taken = ModelWord(0)

    func wait(_ semaphore: borrowing Semaphore, until deadline: Deadline = .never) {
      if semaphore.wait(until: deadline) == .woken { _ = taken.add(1) }
    }

    /// Waits for a unit of either; says of which.
    @discardableResult func waitForAny(until deadline: Deadline = .never) -> Int {
      let queues = [first.waiters, second.waiters]
      let outcome = queues.withUnsafeBufferPointer {
        WaitAny<ModelWord>.wait($0, until: deadline) { $0 == 0 ? first.tryWait() : second.tryWait() }
      }
      ModelChecker.check((outcome.result == .woken) == (outcome.index >= 0), "\(outcome)")
      if outcome.index >= 0 { _ = taken.add(1) }
      return outcome.index
    }

    func giveBack() {
      _ = taken.add(UInt.max)
      second.post()
    }
  }

  /// - Parameter posted: how many units the bodies post; all that were not taken must be there at the end.
  private func explore(_ bound: Int?, posted: Int, _ bodies: (Shared) -> [() -> Void]) -> Exploration {
    ModelChecker.explore(preemptionBound: bound) {
      let shared = Shared()
      return ModelProgram(threads: bodies(shared)) {
        let rest = shared.first.count + shared.second.count
        ModelChecker.check(rest + Int(shared.taken.load()) == posted, "units lost or found: \(rest)")
      }
    }
  }

  private func expectRight(_ result: Exploration) { #expect(result.violation == nil && result.isComplete) }

  private var soon: Deadline { Deadline(nanoseconds: 1) }

  @Test func twoWaitersAndTwoPosts() {
    expectRight(
      explore(2, posted: 2) { shared in
        [{ shared.wait(shared.first) }, { shared.wait(shared.first) }, { shared.first.post(2) }]
      })
  }

  /// The one with a deadline may miss the unit, but must not take it from the other and leave.
  @Test func aWaiterWithADeadlineBesideOneWithout() {
    expectRight(
      explore(2, posted: 2) { shared in
        [
          { shared.wait(shared.first, until: soon) }, { shared.wait(shared.first) },
          {
            shared.first.post()
            shared.first.post()
          },
        ]
      })
  }

  @Test func waitingForAnyOfTwo() {
    expectRight(explore(4, posted: 1) { shared in [{ shared.waitForAny() }, { shared.second.post() }] })
    expectRight(
      explore(3, posted: 2) { shared in
        [
          { shared.waitForAny() },
          {
            shared.first.post()
            shared.second.post()
          },
        ]
      })
  }

  @Test func waitingForAnyWithADeadline() {
    expectRight(explore(4, posted: 1) { shared in [{ shared.waitForAny(until: soon) }, { shared.first.post() }] })
  }

  /// Who waits for both and takes the first one's unit leaves the wake for the second's to who waits for that alone. (If it took
  /// the second's, it gives it back.)
  @Test func aWakeIsNotLostOnWhoTookAnother() {
    expectRight(
      explore(3, posted: 2) { shared in
        [
          { if shared.waitForAny() == 1 { shared.giveBack() } }, { shared.wait(shared.second) },
          {
            shared.first.post()
            shared.second.post()
          },
        ]
      })
  }

  @Test func nothingToWaitFor() {
    let result = ModelChecker.explore {
      ModelProgram(threads: [
        {
          let outcome = WaitAny<ModelWord>.wait(.init(start: nil, count: 0), until: Deadline(nanoseconds: 1)) { _ in
            false
          }
          ModelChecker.check(outcome.result == .timedOut && outcome.index == -1, "\(outcome)")
        }
      ])
    }
    expectRight(result)
  }

  @Test func hostThreadsThatWaitForAny() {
    final class State: @unchecked Sendable {
      let semaphores = UnsafeMutablePointer<SemaphoreCore<LiveWord>>.allocate(capacity: 3)
      let taken = LiveWord(0)
      init() { for index in 0..<3 { (semaphores + index).initialize(to: SemaphoreCore()) } }
    }
    let state = State()
    let each = 3_000
    HostThreads.run(6) { index in
      if index < 3 {
        for _ in 0..<each { state.semaphores[index].post() }
        return
      }
      let queues = (0..<3).map { state.semaphores[$0].waiters }
      for _ in 0..<each {
        let outcome = queues.withUnsafeBufferPointer {
          WaitAny<LiveWord>.wait($0, until: HostThreads.deadline(milliseconds: 20_000)) {
            state.semaphores[$0].tryWait()
          }
        }
        if outcome.result == .woken { _ = state.taken.add(1) }
      }
    }
    #expect(state.taken.load() == UInt(3 * each))
    #expect((0..<3).allSatisfy { state.semaphores[$0].count == 0 })
  }
}
