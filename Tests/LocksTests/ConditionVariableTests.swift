import Locks
import ModelChecker
import Testing

/// Condition variables whose waiters are moved to the mutex, and recursive mutexes.
@Suite struct ConditionVariableTests {
  private final class State {
    let mutex = MutexCore<ModelWord>()
    let changed = ConditionVariableCore<ModelWord>()
    let inside = ModelWord(0)
    var units = 0
    var taken = 0

    func enter() { ModelChecker.check(inside.exchange(1) == 0, "two holders") }
    func exit() { inside.store(0) }

    /// Takes a unit, waiting for it.
    func take(until deadline: Deadline = .never) {
      mutex.lock()
      enter()
      while units == 0 {
        exit()
        let result = changed.wait(mutex, until: deadline)
        enter()
        if result == .timedOut { break }
      }
      if units > 0 {
        units -= 1
        taken += 1
      }
      exit()
      mutex.unlock()
    }

    /// Adds units and wakes, inside the mutex or after it.
    func put(_ number: Int, all: Bool, inside isInside: Bool) {
      mutex.lock()
      enter()
      units += number
      exit()
      if isInside { wake(all) }
      mutex.unlock()
      if !isInside { wake(all) }
    }

    private func wake(_ all: Bool) { if all { changed.wakeAll() } else { changed.wakeOne() } }
  }

  private func expectComplete(_ result: Exploration, _ location: SourceLocation = #_sourceLocation) {
    #expect(result.violation == nil, sourceLocation: location)
    #expect(result.isComplete, "\(result.schedules) schedules", sourceLocation: location)
  }

  @Test(arguments: [false, true]) func oneWaiterIsMoved(inside: Bool) {
    expectComplete(
      ModelChecker.explore(preemptionBound: 4) {
        let state = State()
        return ModelProgram(threads: [{ state.take() }, { state.put(1, all: false, inside: inside) }]) {
          ModelChecker.check(state.taken == 1 && !state.mutex.isLocked, "not taken")
        }
      })
  }

  @Test(arguments: [false, true]) func allWaitersAreMoved(inside: Bool) {
    expectComplete(
      ModelChecker.explore(preemptionBound: 2) {
        let state = State()
        return ModelProgram(threads: [
          { state.take() }, { state.take() }, { state.put(2, all: true, inside: inside) },
        ]) { ModelChecker.check(state.taken == 2 && !state.mutex.isLocked, "not taken") }
      })
  }

  @Test func aWaiterThatGivesUpHasTheMutex() {
    expectComplete(
      ModelChecker.explore(preemptionBound: 3) {
        let state = State()
        return ModelProgram(threads: [
          { state.take(until: Deadline(nanoseconds: 1)) }, { state.put(1, all: false, inside: true) },
        ]) { ModelChecker.check(state.taken + state.units == 1 && !state.mutex.isLocked, "lost") }
      })
  }

  @Test func aMovedWaiterContends() {
    expectComplete(
      ModelChecker.explore(preemptionBound: 2) {
        let state = State()
        return ModelProgram(threads: [
          { state.take() }, { state.put(1, all: false, inside: true) },
          {
            state.mutex.lock()
            state.enter()
            state.exit()
            state.mutex.unlock()
          },
        ]) { ModelChecker.check(state.taken == 1 && !state.mutex.isLocked, "not taken") }
      })
  }

  /// The handler moves the waiter that it interrupts to the mutex while the mutex' holder gives it back, and so may be the one that
  /// hands the mutex on: to the thread that it has interrupted just before that sleeps.
  @Test func aHandlerWakesTheThreadItInterrupts() {
    expectComplete(
      ModelChecker.explore(preemptionBound: 3) {
        let state = State()
        return ModelProgram(
          threads: [
            {
              state.mutex.lock()
              while state.units == 0 { _ = state.changed.wait(state.mutex) }
              state.mutex.unlock()
            },
            {
              state.mutex.withLock { state.units = 1 }
              state.changed.wakeOne()
            },
          ],
          interrupts: [(of: 0, body: { state.changed.wakeOne() })]
        ) { ModelChecker.check(!state.mutex.isLocked, "locked at the end") }
      })
  }

  @Test func hostThreadsPassUnitsOn() {
    final class Channel: @unchecked Sendable {
      let mutex = Mutex()
      let changed = ConditionVariable()
      var units = 0
      var taken = 0
    }
    let channel = Channel()
    HostThreads.run(4) { index in
      for round in 0..<5_000 {
        if index < 2 {
          channel.mutex.withLock { channel.units += 1 }
          if round % 2 == 0 { channel.changed.wakeOne() } else { channel.changed.wakeAll() }
          continue
        }
        channel.mutex.lock()
        while channel.units == 0 {
          let deadline = round % 3 == 0 ? HostThreads.deadline(milliseconds: 1) : .never
          _ = channel.changed.wait(channel.mutex, until: deadline)
        }
        channel.units -= 1
        channel.taken += 1
        channel.mutex.unlock()
      }
    }
    #expect(channel.taken == 10_000 && channel.units == 0)
    let isLocked = channel.mutex.isLocked
    #expect(!isLocked)
  }
}

@Suite struct RecursiveMutexTests {
  @Test func everyScheduleOfTwoThreads() {
    final class Shared {
      let mutex = RecursiveMutexCore<ModelWord>()
      let inside = ModelWord(0)
      var turns = 0
    }
    let result = ModelChecker.explore(preemptionBound: 4) {
      let shared = Shared()
      let body = {
        shared.mutex.lock()
        ModelChecker.check(shared.inside.exchange(1) == 0, "two holders")
        ModelChecker.check(shared.mutex.tryLock(), "not recursive")
        shared.mutex.unlock()
        ModelChecker.check(shared.mutex.isMine, "given back too early")
        shared.turns += 1
        shared.inside.store(0)
        shared.mutex.unlock()
      }
      return ModelProgram(threads: [body, body]) { ModelChecker.check(shared.turns == 2, "turns are missing") }
    }
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func hostThreadsInParallel() {
    final class Counter: @unchecked Sendable {
      let mutex = RecursiveMutex()
      var count = 0
    }
    let counter = Counter()
    HostThreads.run(4) { _ in
      for _ in 0..<20_000 { counter.mutex.withLock { counter.mutex.withLock { counter.count += 1 } } }
    }
    #expect(counter.count == 80_000)
  }
}
