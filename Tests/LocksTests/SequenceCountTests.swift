import Locks
import ModelChecker
import Testing

/// Two words that are always changed together, under every interleaving of a writer and readers.
@Suite struct SequenceCountTests {
  private final class Pair {
    let sequence = SequenceCountCore<ModelWord>()
    let first = ModelWord(1)
    let second = ModelWord(1)

    func write(_ value: UInt, isCounted: Bool = true) {
      let store = {
        self.first.store(value)
        self.second.store(value)
      }
      if isCounted { sequence.write(store) } else { store() }
    }

    /// Reads both; what was believed.
    func read() -> UInt? {
      guard let found = sequence.read({ (first.load(), second.load()) }) else { return nil }
      ModelChecker.check(found.0 == found.1, "\(found.0) with \(found.1)")
      return found.0
    }
  }

  @Test func aReaderGetsWordsOfOneMoment() {
    let result = ModelChecker.explore(preemptionBound: 4) {
      let pair = Pair()
      return ModelProgram(threads: [
        {
          let before = pair.read()
          let after = pair.read()
          if let before, let after { ModelChecker.check(before <= after, "\(before), then \(after)") }
        },
        {
          pair.write(2)
          pair.write(3)
        },
      ]) { ModelChecker.check(pair.read() == 3, "the last write is lost") }
    }
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func aReaderThatIsAlwaysDisturbedGivesUp() {
    let result = ModelChecker.explore {
      let pair = Pair()
      return ModelProgram(threads: [
        {
          pair.sequence.write {
            pair.first.store(2)
            ModelChecker.check(pair.read() == nil, "half a write was believed")
            pair.second.store(2)
          }
        }
      ])
    }
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func theCheckerSeesAWriteThatIsNotCounted() {
    let result = ModelChecker.explore(preemptionBound: 4) {
      let pair = Pair()
      return ModelProgram(threads: [{ _ = pair.read() }, { pair.write(2, isCounted: false) }])
    }
    #expect(result.violation?.contains("with") == true)
  }
}
