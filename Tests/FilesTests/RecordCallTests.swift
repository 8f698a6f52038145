// The call in a name's record under every interleaving of who makes it for the table and who gives the entry another record.
import ModelChecker
import Testing

@testable import Files

@Suite struct RecordCallTests {
  private final class Record {
    let use = RecordCallCore<ModelWord>()
    let isCallFree = ModelWord(1)
    let isEnded = ModelWord(0)

    func takeOut() {
      use.begin()
      isCallFree.store(0)
    }

    func end() {
      ModelChecker.check(isCallFree.load() == 1, "the end of a record whose call is to be made")
      ModelChecker.check(isEnded.exchange(1) == 0, "a record's second end")
    }

    func makeCall() {
      // Whoever makes calls has let go of this one.
      isCallFree.store(1)
      if use.finish() { end() }
    }
  }

  private func explore(_ replace: @escaping (Record) -> Void) -> Exploration {
    ModelChecker.explore(preemptionBound: 4) {
      let record = Record()
      record.takeOut()
      return ModelProgram(threads: [{ record.makeCall() }, { replace(record) }]) {
        ModelChecker.check(record.isEnded.load() == 1, "a record without an end")
      }
    }
  }

  @Test func aRecordEndsOnceAndAfterItsCall() {
    let result = explore { if $0.use.replace() { $0.end() } }
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func theCheckerSeesAnEndThatDoesNotAsk() {
    let result = explore { $0.end() }
    #expect(result.violation?.contains("call is to be made") == true)
  }

  @Test func aRecordThatNobodyTookOutIsEndedAtOnce() {
    let result = ModelChecker.explore {
      let record = Record()
      return ModelProgram(threads: [
        { ModelChecker.check(record.use.replace(), "its call is free") }
      ])
    }
    #expect(result.violation == nil && result.isComplete)
  }
}
