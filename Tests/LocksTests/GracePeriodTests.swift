import Locks
import ModelChecker
import Testing

@Suite struct GracePeriodTests {
  /// A pointer that readers follow and a writer replaces; "memory" that is freed is marked.
  private final class Shared {
    let words: UnsafeMutablePointer<ModelWord>
    let periods: GracePeriodsCore<ModelWord>
    let pointer = ModelWord(0)
    let isFreed = ModelWord(0)
    init() {
      words = .allocate(capacity: 2 * GracePeriodsCore<ModelWord>.stride)
      periods = GracePeriodsCore(cpus: words, count: 2)
    }

    /// A reader on CPU 0.
    func read() {
      let object = pointer.load()
      // Still the old object: it must not be freed while we look.
      if object == 0 { ModelChecker.check(isFreed.load() == 0, "read after free") }
    }

    /// The writer, on CPU 1, which looks at the other CPU but a few times: how long it waits is not the question.
    func replace() {
      pointer.store(1)
      let number = periods.begin()
      for _ in 0..<3 where periods.hasPassed(number, on: 0) {
        isFreed.store(1)
        return
      }
    }
  }

  @Test func everyScheduleOfAReaderThatSwitches() {
    let result = ModelChecker.explore {
      let shared = Shared()
      shared.periods.leaveIdle(0)
      return ModelProgram(threads: [
        {
          shared.read()
          shared.periods.quiescent(0)
          shared.read()
        },
        { shared.replace() },
      ])
    }
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func everyScheduleOfAReaderThatWasIdle() {
    let result = ModelChecker.explore {
      let shared = Shared()
      return ModelProgram(threads: [
        {
          shared.periods.leaveIdle(0)
          shared.read()
          shared.periods.enterIdle(0)
        },
        { shared.replace() },
      ])
    }
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func theCheckerSeesAnIdleCPUThatReads() {
    let result = ModelChecker.explore {
      let shared = Shared()
      return ModelProgram(threads: [{ shared.read() }, { shared.replace() }])
    }
    #expect(result.violation?.hasPrefix("read after free") == true)
  }
}
