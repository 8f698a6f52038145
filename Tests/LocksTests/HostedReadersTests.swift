// RCU's readers as unit tests have them: grace periods end although there is always a reader, and none ends before its readers.
import Glibc
import ModelChecker
import Synchronization
import Testing

@testable import Locks

@Suite(.serialized) struct HostedReadersTests {
  /// Two threads take turns such that there is a reader at every moment, until somebody has waited for a grace period.
  @Test func whoWaitsIsNotKeptByReadersThatComeLater() {
    let entered = Atomic<Int>(0)
    let isDone = Atomic<Bool>(false)
    let hasGivenUp = Atomic<Bool>(false)
    let end = HostThreads.deadline(milliseconds: 10_000)
    HostThreads.run(3) { index in
      if index == 2 {
        while entered.load(ordering: .acquiring) < 10 { sched_yield() }
        HostedReaders.wait()
        isDone.store(true, ordering: .releasing)
        return
      }
      var round = index
      while !isDone.load(ordering: .acquiring) && !hasGivenUp.load(ordering: .acquiring) {
        if entered.load(ordering: .acquiring) < round {
          sched_yield()
          continue
        }
        RCU.read {
          entered.store(round + 1, ordering: .releasing)
          // Until the other one has entered, too.
          while entered.load(ordering: .acquiring) < round + 2 && !isDone.load(ordering: .acquiring) {
            if HostThreads.deadline(milliseconds: 0) > end {
              hasGivenUp.store(true, ordering: .releasing)
              break
            }
            sched_yield()
          }
        }
        round += 2
      }
    }
    let isStarved = hasGivenUp.load(ordering: .acquiring)
    #expect(!isStarved)
  }

  /// What was replaced is marked after a grace period: no reader that has found it is still there.
  @Test func noGracePeriodEndsBeforeItsReaders() {
    final class Shared: @unchecked Sendable {
      let values = UnsafeMutablePointer<Atomic<Int>>.allocate(capacity: 1000)
      let current = Atomic<Int>(0)
      let isOver = Atomic<Bool>(false)
      let violations = Atomic<Int>(0)
      init() { for index in 0..<1000 { (values + index).initialize(to: Atomic(0)) } }
      deinit {
        values.deinitialize(count: 1000)
        values.deallocate()
      }
    }
    let shared = Shared()
    HostThreads.run(4) { index in
      if index == 0 {
        for next in 1..<1000 {
          let old = shared.current.exchange(next, ordering: .sequentiallyConsistent)
          HostedReaders.wait()
          shared.values[old].store(1, ordering: .releasing)
        }
        shared.isOver.store(true, ordering: .releasing)
        return
      }
      while !shared.isOver.load(ordering: .acquiring) {
        RCU.read {
          let found = shared.current.load(ordering: .acquiring)
          for _ in 0..<3 {
            if shared.values[found].load(ordering: .acquiring) != 0 { shared.violations.add(1, ordering: .relaxed) }
            // A reader in a reader.
            _ = RCU.read { sched_yield() }
          }
        }
      }
    }
    let violations = shared.violations.load(ordering: .relaxed)
    #expect(violations == 0)
  }

  @Test func goneMeansThatNobodyIsLeft() {
    let isIn = Atomic<Bool>(false)
    let isSeen = Atomic<Bool>(false)
    HostThreads.run(2) { index in
      if index == 0 {
        RCU.read {
          isIn.store(true, ordering: .releasing)
          while !isSeen.load(ordering: .acquiring) { sched_yield() }
        }
        return
      }
      while !isIn.load(ordering: .acquiring) { sched_yield() }
      #expect(!HostedReaders.areGone)
      isSeen.store(true, ordering: .releasing)
      HostedReaders.wait()
    }
  }
}
