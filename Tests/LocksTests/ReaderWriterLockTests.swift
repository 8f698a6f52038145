import Locks
import ModelChecker
import Testing

@Suite struct ReaderWriterLockTests {
  /// A lock, who is in it, and slots of one word for each of two CPUs.
  private final class Shared {
    let lock = ReaderWriterLockCore<ModelWord>()
    let writers = ModelWord(0)
    let readers = ModelWord(0)
    private let slots = UnsafeMutablePointer<ModelWord>.allocate(capacity: 2)

    /// - Parameter cpus: where the threads are; nobody uses slots if it is nil. Else the lock has been read on two CPUs.
    init(_ cpus: [Int]?) {
      for index in 0..<2 { (slots + index).initialize(to: ModelWord(0)) }
      ModelWord.cpus = cpus ?? []
      ModelWord.readerSlots =
        cpus == nil ? .none : ReaderSlots(words: slots, cpuCount: 2, setBits: 0, ways: 1)
      guard cpus != nil else { return }
      for cpu in 0..<2 {
        ModelWord.currentCPU = cpu
        lock.readLock()
        lock.readUnlock()
      }
    }

    deinit {
      slots.deinitialize(count: 2)
      slots.deallocate()
    }

    /// - Parameter destination: the CPU on which the thread finds itself when it has the lock.
    func read(movingTo destination: Int? = nil) {
      lock.readLock()
      _ = readers.add(1)
      if let destination { ModelWord.currentCPU = destination }
      ModelChecker.check(writers.load() == 0, "a reader beside a writer")
      _ = readers.add(UInt.max)
      lock.readUnlock()
    }

    func write() {
      lock.writeLock()
      checkAlone()
      lock.writeUnlock()
    }

    func tryToWrite() {
      guard lock.tryWriteLock() else { return }
      checkAlone()
      lock.writeUnlock()
    }

    private func checkAlone() {
      ModelChecker.check(writers.exchange(1) == 0, "two writers")
      ModelChecker.check(readers.load() == 0, "a writer beside a reader")
      writers.store(0)
    }
  }

  private func explore(_ bound: Int?, cpus: [Int]? = nil, _ bodies: (Shared) -> [() -> Void]) -> Exploration {
    ModelChecker.explore(preemptionBound: bound) {
      let shared = Shared(cpus)
      return ModelProgram(threads: bodies(shared)) {
        ModelChecker.check(shared.lock.tryWriteLock(), "not free at the end")
        shared.lock.writeUnlock()
        ModelChecker.check(shared.lock.tryReadLock(), "not free at the end for readers")
      }
    }
  }

  private func expectRight(_ result: Exploration) { #expect(result.violation == nil && result.isComplete) }

  @Test func aReaderAndAWriter() {
    expectRight(explore(5) { shared in [{ shared.read() }, { shared.write() }] })
  }

  @Test func twoWriters() {
    expectRight(explore(4) { shared in [{ shared.write() }, { shared.write() }] })
  }

  @Test func aWriterAndOneThatGivesUp() {
    expectRight(explore(4) { shared in [{ shared.write() }, { shared.tryToWrite() }] })
  }

  @Test func twoReadersAndAWriter() {
    expectRight(explore(2) { shared in [{ shared.read() }, { shared.write() }, { shared.read() }] })
  }

  @Test func aReaderAndTwoWriters() {
    expectRight(explore(2) { shared in [{ shared.read() }, { shared.write() }, { shared.write() }] })
  }

  @Test func aReaderAndAWriterThatGivesUpBesideAnother() {
    expectRight(explore(2) { shared in [{ shared.read() }, { shared.write() }, { shared.tryToWrite() }] })
  }

  // With slots in use.

  @Test func aReaderInASlotAndAWriter() {
    expectRight(explore(5, cpus: [0, 1]) { shared in [{ shared.read() }, { shared.write() }] })
  }

  @Test func aReaderThatLeavesOnAnotherCPU() {
    expectRight(explore(4, cpus: [0, 1]) { shared in [{ shared.read(movingTo: 1) }, { shared.write() }] })
  }

  @Test func readersInSlotsAndAWriter() {
    expectRight(explore(2, cpus: [0, 1, 1]) { shared in [{ shared.read() }, { shared.read() }, { shared.write() }] })
  }

  @Test func readersThatLeaveOnEachOthersCPUs() {
    expectRight(
      explore(2, cpus: [0, 1, 0]) { shared in
        [{ shared.read(movingTo: 1) }, { shared.read(movingTo: 0) }, { shared.write() }]
      })
  }

  @Test func readersThatShareASlot() {
    expectRight(
      explore(2, cpus: [0, 0, 0]) { shared in
        [{ shared.read(movingTo: 1) }, { shared.read() }, { shared.write() }]
      })
  }

  @Test func readersInSlotsAndAWriterThatGivesUp() {
    expectRight(
      explore(2, cpus: [0, 1, 1]) { shared in [{ shared.read() }, { shared.read() }, { shared.tryToWrite() }] })
  }

  // On the host's CPUs.

  private final class State: @unchecked Sendable {
    let lock = ReaderWriterLock()
    let reads = Counter()
    var first = 0
    var second = 0

    func write() {
      lock.withWriteLock {
        first += 1
        second += 1
      }
    }

    func read() {
      let isWhole = lock.withReadLock { first == second }
      if !isWhole { Issue.record("a reader saw half a change") }
    }
  }

  @Test func hostThreadsInParallel() {
    let state = State()
    HostThreads.run(4) { index in
      for _ in 0..<5_000 { if index < 2 { state.write() } else { state.read() } }
    }
    #expect(state.first == 10_000 && state.second == 10_000)
  }

  @Test func hostThreadsThatMostlyRead() {
    let state = State()
    HostThreads.run(6) { index in
      for round in 0..<20_000 { if round % 100 == index { state.write() } else { state.read() } }
    }
    #expect(state.first == 6 * 200 && state.second == 6 * 200)
    let isFree = state.lock.tryWriteLock()
    #expect(isFree)
  }

  /// Two writers without a pause keep neither each other nor a reader out.
  @Test func nobodyStarves() {
    let state = State()
    let deadline = HostThreads.deadline(milliseconds: 20_000)
    HostThreads.run(3) { index in
      if index == 2 {
        for _ in 0..<300 {
          state.read()
          state.reads.increment()
        }
        return
      }
      var rounds = 0
      while state.reads.value < 300 || rounds < 100 {
        state.write()
        rounds += 1
        if rounds % 1_024 == 0 && HostThreads.deadline(milliseconds: 0) > deadline { break }
      }
    }
    #expect(state.reads.value == 300)
    #expect(HostThreads.deadline(milliseconds: 0) < deadline)
  }
}

/// A number that host threads may count up together.
private final class Counter: @unchecked Sendable {
  private let word = LiveWord(0)
  var value: UInt { word.load() }
  func increment() { _ = word.add(1) }
}
