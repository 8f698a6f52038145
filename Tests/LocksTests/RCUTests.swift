import Locks
import ModelChecker
import Testing

/// Deferred calls and the table, with a reader on CPU 0 that switches or idles, and everybody else on CPU 1.
@Suite struct RCUTests {
  private final class Periods {
    let words: UnsafeMutablePointer<ModelWord>
    let core: GracePeriodsCore<ModelWord>
    init() {
      words = .allocate(capacity: 2 * GracePeriodsCore<ModelWord>.stride)
      core = GracePeriodsCore(cpus: words, count: 2)
      core.leaveIdle(0)
    }
    deinit {
      words.deinitialize(count: 2 * GracePeriodsCore<ModelWord>.stride)
      words.deallocate()
    }
  }

  // MARK: Deferred calls

  /// Two objects that readers find by a word each; the call marks its object as freed.
  private final class Objects {
    let periods = Periods()
    let calls = DeferredCallsCore<ModelWord>()
    let isLinked = UnsafeMutablePointer<ModelWord>.allocate(capacity: 2)
    let isFreed = UnsafeMutablePointer<ModelWord>.allocate(capacity: 2)
    let records = UnsafeMutablePointer<DeferredCall<ModelWord>>.allocate(capacity: 2)
    /// The order in which the calls were made.
    var made: [Int] = []
    init() {
      for index in 0..<2 {
        (records + index).initialize(to: DeferredCall())
        (isLinked + index).initialize(to: ModelWord(1))
        (isFreed + index).initialize(to: ModelWord(0))
      }
    }
    deinit {
      isLinked.deinitialize(count: 2)
      isFreed.deinitialize(count: 2)
      records.deinitialize(count: 2)
      records.deallocate()
    }

    func read(_ index: Int) {
      if isLinked[index].load() == 1 { ModelChecker.check(isFreed[index].load() == 0, "read after free") }
    }

    nonisolated(unsafe) static var current: Objects!

    /// Unlinks the object and leaves a call that frees it. True: the worker must come.
    func free(_ index: Int) -> Bool {
      isLinked[index].store(0)
      Objects.current = self
      return calls.leave(
        records + index,
        { context in
          let index = Int(bitPattern: context) - 1
          Objects.current.isFreed[index].store(1)
          Objects.current.made.append(index)
        }, UnsafeMutableRawPointer(bitPattern: index + 1))
    }

    /// The worker, which looks so often.
    func work(times: Int) {
      for _ in 0..<times {
        let progress = calls.work(begin: { periods.core.begin() }, isOver: { periods.core.hasPassed($0, on: 0) })
        if case .done = progress { return }
      }
    }

    func finish() {
      periods.core.enterIdle(0)
      work(times: 3)
      ModelChecker.check(calls.count == 0, "\(calls.count) calls were not made")
    }
  }

  @Test func aCallIsMadeAfterItsReaders() {
    let result = ModelChecker.explore(preemptionBound: 4) {
      let objects = Objects()
      return ModelProgram(threads: [
        {
          objects.read(0)
          objects.periods.core.quiescent(0)
          objects.read(0)
          objects.read(1)
        },
        { if objects.free(0) { objects.work(times: 2) } },
      ]) {
        objects.finish()
        ModelChecker.check(objects.made == [0], "\(objects.made)")
      }
    }
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func callsLeftWhileTheWorkerIsAtItComeLater() {
    let result = ModelChecker.explore(preemptionBound: 2) {
      let objects = Objects()
      return ModelProgram(threads: [
        {
          objects.read(1)
          objects.periods.core.quiescent(0)
          objects.read(1)
        },
        {
          _ = objects.free(0)
          objects.work(times: 2)
        },
        { _ = objects.free(1) },
      ]) {
        objects.finish()
        ModelChecker.check(objects.made.sorted() == [0, 1], "\(objects.made)")
      }
    }
    #expect(result.violation == nil && result.isComplete)
  }

  /// Who finds no calls need not wait for any: what those before have done is done.
  @Test func callsAreCountedUntilTheyHaveBeenMade() {
    let result = ModelChecker.explore(preemptionBound: 4) {
      let objects = Objects()
      objects.periods.core.enterIdle(0)
      return ModelProgram(threads: [
        {
          _ = objects.free(0)
          if objects.calls.count == 0 { ModelChecker.check(objects.isFreed[0].load() == 1, "a call under way") }
        },
        { objects.work(times: 2) },
      ]) { objects.finish() }
    }
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func theCheckerSeesACallThatDoesNotWait() {
    let result = ModelChecker.explore(preemptionBound: 4) {
      let objects = Objects()
      return ModelProgram(threads: [
        { objects.read(0) },
        {
          _ = objects.free(0)
          _ = objects.calls.work(begin: { objects.periods.core.begin() }, isOver: { _ in true })
        },
      ])
    }
    #expect(result.violation?.hasPrefix("read after free") == true)
  }

  // MARK: The table

  private final class Table {
    let periods = Periods()
    let table: RCUTableCore<ModelWord>
    let nodes = UnsafeMutablePointer<RCUTableNode<ModelWord>>.allocate(capacity: 4)
    init() {
      table = RCUTableCore(.allocate(capacity: 2), size: 1)
      // Hashes that fall together and apart as the table grows.
      for index in 0..<4 { (nodes + index).initialize(to: RCUTableNode(hash: UInt(index), owner: UInt(10 + index))) }
    }
    deinit {
      Self.free(table.buckets)
      nodes.deinitialize(count: 4)
      nodes.deallocate()
    }

    static func free(_ buckets: UnsafeMutablePointer<ModelWord>) {
      let size = Int(buckets.pointee.peek() >> 1)
      buckets.deinitialize(count: 1 + size)
    }

    func checkFound(_ index: Int) {
      let found = table.find(UInt(index)) { $0 == UInt(10 + index) }
      ModelChecker.check(found == UInt(10 + index), "node \(index) was not found")
    }

    /// Grows if that is wanted; frees the old array if the reader is past it, else leaves it.
    func grow() {
      guard let size = table.wantedSize else { return }
      let old = table.grow(.allocate(capacity: 1 + size), size: size)
      let number = periods.core.begin()
      for _ in 0..<2 where periods.core.hasPassed(number, on: 0) {
        Self.free(old)
        table.hasGrown()
        return
      }
    }
  }

  @Test func aReaderFindsWhatIsThereWhileTheTableGrows() {
    let result = ModelChecker.explore(preemptionBound: 3) {
      let table = Table()
      table.table.insert(table.nodes)
      table.table.insert(table.nodes + 1)
      return ModelProgram(threads: [
        {
          table.checkFound(0)
          table.periods.core.quiescent(0)
          table.checkFound(1)
        },
        {
          table.grow()
          table.table.insert(table.nodes + 2)
          table.grow()
        },
      ]) {
        for index in 0..<3 { table.checkFound(index) }
        ModelChecker.check(table.table.count == 3, "\(table.table.count)")
      }
    }
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func aReaderFindsWhatIsThereWhileOthersGo() {
    let result = ModelChecker.explore(preemptionBound: 4) {
      let table = Table()
      for index in 0..<3 { table.table.insert(table.nodes + index) }
      return ModelProgram(threads: [
        { table.checkFound(0) },
        {
          ModelChecker.check(table.table.remove(table.nodes + 1), "not there")
          table.table.insert(table.nodes + 3)
          table.grow()
          ModelChecker.check(table.table.remove(table.nodes + 2), "not there")
          ModelChecker.check(!table.table.remove(table.nodes + 1), "there again")
        },
      ]) {
        var owners: [UInt] = []
        table.table.forEach { owners.append($0) }
        ModelChecker.check(owners.sorted() == [10, 13], "\(owners)")
      }
    }
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func pointersAreReplacedAsAWhole() {
    let first = UnsafeMutablePointer<Int>.allocate(capacity: 1)
    let second = UnsafeMutablePointer<Int>.allocate(capacity: 1)
    let pointer = RCUPointer<Int>(first)
    #expect(pointer.load() == first)
    #expect(pointer.replace(second) == first)
    #expect(pointer.load() == second && pointer.replace(nil) == second && pointer.load() == nil)
  }
}
