import Locks
import ModelChecker
import Testing

@Suite struct MutexTests {
  private final class Shared {
    let mutex = MutexCore<ModelWord>()
    let inside = ModelWord(0)
    var turns = 0

    func turn() {
      ModelChecker.check(inside.exchange(1) == 0, "two holders")
      turns += 1
      inside.store(0)
    }
  }

  private func explore(
    turns: [Int], preemptionBound: Int? = nil, tryFirst: Bool = false
  ) -> Exploration {
    ModelChecker.explore(preemptionBound: preemptionBound) {
      let shared = Shared()
      let bodies = turns.map { number in
        {
          for _ in 0..<number {
            if !tryFirst || !shared.mutex.tryLock() { shared.mutex.lock() }
            shared.turn()
            shared.mutex.unlock()
          }
        }
      }
      return ModelProgram(threads: bodies) {
        ModelChecker.check(shared.turns == turns.reduce(0, +), "turns are missing")
        ModelChecker.check(!shared.mutex.isLocked, "locked at the end")
      }
    }
  }

  @Test func everyScheduleOfTwoThreads() {
    let result = explore(turns: [2, 1])
    #expect(result.violation == nil)
    #expect(result.isComplete)
    #expect(result.schedules > 100)
  }

  @Test func everyScheduleOfTwoThreadsThatTryFirst() {
    let result = explore(turns: [1, 1], tryFirst: true)
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func twoThreadsThatComeBackWithFewPreemptions() {
    let result = explore(turns: [2, 2], preemptionBound: 3)
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func threeThreadsWithFewPreemptions() {
    let result = explore(turns: [1, 1, 1], preemptionBound: 3)
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func theCheckerSeesALockThatIsNone() {
    let result = ModelChecker.explore {
      let shared = Shared()
      return ModelProgram(threads: [{ shared.turn() }, { shared.turn() }])
    }
    #expect(result.violation?.hasPrefix("two holders") == true)
  }

  @Test func theCheckerSeesALostWakeUp() {
    let result = ModelChecker.explore {
      let flag = Box(0)
      return ModelProgram(threads: [
        { if flag.word.load() == 0 { _ = ModelWord.park(until: .never, interruptible: false) } },
        { flag.word.store(1) },
      ])
    }
    #expect(result.violation?.hasPrefix("somebody sleeps for ever") == true)
  }

  @Test func hostThreadsInParallel() {
    final class Counter: @unchecked Sendable {
      let mutex = Mutex()
      var count = 0
    }
    let counter = Counter()
    HostThreads.run(4) { _ in
      for _ in 0..<20_000 { counter.mutex.withLock { counter.count += 1 } }
    }
    #expect(counter.count == 80_000)
    let isLocked = counter.mutex.isLocked
    #expect(!isLocked)
  }
}

/// A word that closures can share.
final class Box {
  let word: ModelWord
  init(_ value: UInt) { word = ModelWord(value) }
}
