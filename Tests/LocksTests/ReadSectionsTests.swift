import Locks
import ModelChecker
import Testing

@Suite struct ReadSectionsTests {
  /// An object that readers find by a word; what the writer frees is marked.
  private final class Shared {
    let counters = UnsafeMutablePointer<ModelWord>.allocate(capacity: 2 * ReadSectionsCore<ModelWord>.stride)
    let sections: ReadSectionsCore<ModelWord>
    let isLinked = ModelWord(1)
    let isFreed = ModelWord(0)

    init(_ cpus: [Int]) {
      sections = ReadSectionsCore(counters: counters, cpuCount: 2)
      ModelWord.cpus = cpus
    }
    deinit {
      counters.deinitialize(count: 2 * ReadSectionsCore<ModelWord>.stride)
      counters.deallocate()
    }

    func read(movingTo destination: Int? = nil) {
      let section = sections.enter()
      if isLinked.load() == 1 {
        if let destination { ModelWord.currentCPU = destination }
        ModelChecker.check(isFreed.load() == 0, "read after free")
      }
      sections.leave(section)
    }

    func replace(waits: Bool = true) {
      isLinked.store(0)
      if waits { sections.synchronize() }
      isFreed.store(1)
    }
  }

  private func explore(_ bound: Int?, _ cpus: [Int], _ bodies: (Shared) -> [() -> Void]) -> Exploration {
    ModelChecker.explore(preemptionBound: bound) {
      let shared = Shared(cpus)
      return ModelProgram(threads: bodies(shared))
    }
  }

  private func expectRight(_ result: Exploration) { #expect(result.violation == nil && result.isComplete) }

  @Test func aReaderAndAWriter() {
    expectRight(explore(6, [0, 1]) { shared in [{ shared.read() }, { shared.replace() }] })
  }

  @Test func aReaderThatMovesAndAWriter() {
    expectRight(explore(5, [0, 1]) { shared in [{ shared.read(movingTo: 1) }, { shared.replace() }] })
  }

  @Test func readersThatMoveAndAWriter() {
    expectRight(
      explore(2, [0, 1, 0]) { shared in
        [{ shared.read(movingTo: 1) }, { shared.read(movingTo: 0) }, { shared.replace() }]
      })
  }

  /// Who has read the phase long ago is not waited for by two writers in turn and reads on.
  @Test func aReaderAndTwoWriters() {
    expectRight(
      explore(3, [0, 1, 1]) { shared in
        [{ shared.read() }, { shared.sections.synchronize() }, { shared.replace() }]
      })
  }

  @Test func theCheckerSeesAWriterThatDoesNotWait() {
    let result = explore(3, [0, 1]) { shared in [{ shared.read() }, { shared.replace(waits: false) }] }
    #expect(result.violation?.hasPrefix("read after free") == true)
  }

  @Test func hostThreadsInParallel() {
    final class State: @unchecked Sendable {
      let sections = ReadSectionsCore<LiveWord>(
        counters: .allocate(capacity: 4 * ReadSectionsCore<LiveWord>.stride), cpuCount: 4)
      let object = LiveWord(UInt(bitPattern: UnsafeMutablePointer<Int>.allocate(capacity: 1)))
    }
    let state = State()
    UnsafeMutablePointer<Int>(bitPattern: state.object.load())!.initialize(to: 7)
    HostThreads.run(4) { index in
      for _ in 0..<(index == 0 ? 500 : 20_000) {
        if index == 0 {
          let new = UnsafeMutablePointer<Int>.allocate(capacity: 1)
          new.initialize(to: 7)
          let old = UnsafeMutablePointer<Int>(bitPattern: state.object.exchange(UInt(bitPattern: new)))!
          state.sections.synchronize()
          old.initialize(to: 0)
          old.deallocate()
        } else {
          let section = state.sections.enter()
          let value = UnsafeMutablePointer<Int>(bitPattern: state.object.load())!.pointee
          if value != 7 { Issue.record("read after free: \(value)") }
          state.sections.leave(section)
        }
      }
    }
  }
}
