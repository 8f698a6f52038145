import Locks
import ModelChecker
import Testing

@Suite struct ReaderWriterLockTests {
  private final class Shared {
    let lock = ReaderWriterLockCore<ModelWord>()
    let writers = ModelWord(0)
    let readers = ModelWord(0)

    func read() {
      lock.readLock()
      _ = readers.add(1)
      ModelChecker.check(writers.load() == 0, "a reader beside a writer")
      _ = readers.add(UInt.max)
      lock.readUnlock()
    }

    func write() {
      lock.writeLock()
      ModelChecker.check(writers.exchange(1) == 0, "two writers")
      ModelChecker.check(readers.load() == 0, "a writer beside a reader")
      writers.store(0)
      lock.writeUnlock()
    }
  }

  private func explore(_ bound: Int?, _ bodies: (Shared) -> [() -> Void]) -> Exploration {
    ModelChecker.explore(preemptionBound: bound) {
      let shared = Shared()
      return ModelProgram(threads: bodies(shared)) {
        ModelChecker.check(shared.lock.tryWriteLock(), "not free at the end")
      }
    }
  }

  @Test func aReaderAndAWriter() {
    let result = explore(4) { shared in [{ shared.read() }, { shared.write() }] }
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func twoWriters() {
    let result = explore(3) { shared in [{ shared.write() }, { shared.write() }] }
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func twoReadersAndAWriter() {
    let result = explore(2) { shared in [{ shared.read() }, { shared.write() }, { shared.read() }] }
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func hostThreadsInParallel() {
    final class State: @unchecked Sendable {
      let lock = ReaderWriterLock()
      var first = 0
      var second = 0
    }
    let state = State()
    HostThreads.run(4) { index in
      for _ in 0..<5_000 {
        if index < 2 {
          state.lock.withWriteLock {
            state.first += 1
            state.second += 1
          }
        } else {
          let isWhole = state.lock.withReadLock { state.first == state.second }
          if !isWhole { Issue.record("a reader saw half a change") }
        }
      }
    }
    #expect(state.first == 10_000 && state.second == 10_000)
  }
}
