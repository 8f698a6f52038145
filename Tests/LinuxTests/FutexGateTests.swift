// Whether a wake may go by without the bucket's lock: every interleaving with waiters that come and go, and real threads.
import Base
import Foundation
import Locks
import ModelChecker
import Testing

@testable import Linux

@Suite struct FutexGateTests {
  /// A bucket, and the word its waiters sleep on while it is 7.
  private final class Shared {
    let lock = MutexCore<ModelWord>()
    let head = ModelWord(0)
    let word = ModelWord(7)
    var queue: [UInt] = []

    func enter(_ waiter: UInt) {
      queue.append(waiter)
      head.store(queue[0])
    }
    func takeOut(_ index: Int) -> UInt {
      let waiter = queue.remove(at: index)
      head.store(queue.first ?? 0)
      return waiter
    }

    /// Sleeps on the word; `givesUp`: only as long as it likes.
    func wait(_ waiter: UInt, givesUp: Bool) {
      lock.lock()
      let sleeps = word.load() == 7
      if sleeps { enter(waiter) }
      lock.unlock()
      while sleeps {
        _ = ModelWord.park(until: givesUp ? .now : .never, interruptible: false)
        lock.lock()
        let index = queue.firstIndex(of: waiter)
        if let index, givesUp { _ = takeOut(index) }
        lock.unlock()
        if index == nil || givesUp { return }
      }
    }

    /// Changes the word and wakes all; `look` says whether there may be somebody.
    func wake(_ look: (Shared) -> Bool) {
      word.store(8)
      guard look(self) else { return }
      lock.lock()
      while !queue.isEmpty { ModelWord.unpark(takeOut(0)) }
      lock.unlock()
    }

    func mayHaveWaiters() -> Bool { FutexGate<ModelWord>.mayHaveWaiters(lock: lock, head: head) }
  }

  /// Waiters that never give up would sleep for ever if the waker missed them: the checker says so.
  private func explore(
    givingUp: [Bool], bound: Int? = nil, look: @escaping (Shared) -> Bool = { $0.mayHaveWaiters() }
  ) -> Exploration {
    ModelChecker.explore(preemptionBound: bound) {
      let shared = Shared()
      let waiters = givingUp.enumerated().map { index, givesUp in
        { shared.wait(UInt(index + 1), givesUp: givesUp) }
      }
      return ModelProgram(threads: waiters + [{ shared.wake(look) }]) {
        ModelChecker.check(shared.queue.isEmpty, "left in the queue: \(shared.queue)")
      }
    }
  }

  @Test func everyScheduleOfOneWaiter() {
    let result = explore(givingUp: [false])
    #expect(result.violation == nil && result.isComplete)
    #expect(result.schedules > 10)
  }

  @Test func everyScheduleOfAWaiterThatGivesUp() {
    let result = explore(givingUp: [true])
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func twoWaitersWithFewPreemptions() {
    let result = explore(givingUp: [false, false], bound: 3)
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func oneStaysWhileAnotherGivesUp() {
    let result = explore(givingUp: [false, true], bound: 3)
    #expect(result.violation == nil && result.isComplete)
  }

  /// The two looks the other way round miss a waiter that is just queueing: the tests above can fail.
  @Test func theOrderOfTheLooksMatters() {
    let result = explore(givingUp: [false]) { shared in
      if shared.head.load() != 0 { return true }
      return shared.lock.isLocked
    }
    #expect(result.violation != nil)
  }

  /// Threads that answer each other by words in one bucket, without a deadline that would hide a lost wake.
  @Test func noWakeIsLostAmongThreads() {
    final class Words: @unchecked Sendable {
      let pointer = UnsafeMutablePointer<UInt32>.allocate(capacity: 1)
      init() { pointer.initialize(to: 0) }
      deinit { pointer.deallocate() }
      var key: FutexKey { try! FutexKey(VirtualAddress(UnsafeRawPointer(pointer)), space: 1) }
      // SAFETY: the word is aligned, and every access is a locked instruction of the kernel's own routines.
      func add() {
        _ = FutexTable.changeWithoutFault(key.address) { $0 &+ 1 }
      }
      var value: UInt32 { FutexTable.loadWithoutFault(key.address)! }
    }
    let words = Words()
    let rounds: UInt32 = 20_000
    let done = DispatchSemaphore(value: 0)
    for me in 0..<2 as Range<UInt32> {
      Thread.detachNewThread {
        while true {
          let value = words.value
          if value >= rounds { break }
          if value & 1 == me {
            words.add()
            _ = FutexTable.wake(words.key, count: 1)
          } else {
            try? FutexTable.wait(words.key, expected: value, bitset: .max, until: .never)
          }
        }
        _ = FutexTable.wake(words.key, count: 9)
        done.signal()
      }
    }
    for _ in 0..<2 { #expect(done.wait(timeout: .now() + 60) == .success) }
    #expect(words.value == rounds)
  }
}
