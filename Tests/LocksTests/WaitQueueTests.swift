import Locks
import ModelChecker
import Testing

@Suite struct WaitQueueTests {
  private final class Shared {
    let queue = WaitQueueCore<ModelWord>()
    let value = ModelWord(0)
    var results: [WaitResult] = []
    init() {}
    init(_ initial: UInt) { value.poke(initial) }

    /// Takes one unit of the value if there is one.
    func take() -> Bool {
      while true {
        let present = value.load()
        if present == 0 { return false }
        if value.compareExchange(present, present - 1) { return true }
      }
    }
  }

  /// Deadlines in the model may pass at any time.
  private let sometime = Deadline(nanoseconds: 1)

  private func expectComplete(_ result: Exploration, _ location: SourceLocation = #_sourceLocation) {
    #expect(result.violation == nil, sourceLocation: location)
    #expect(result.isComplete, "\(result.schedules) schedules", sourceLocation: location)
  }

  @Test func everyScheduleOfOneWaiterAndOneWaker() {
    expectComplete(
      ModelChecker.explore {
        let shared = Shared()
        return ModelProgram(threads: [
          { _ = shared.queue.wait { shared.value.load() == 0 } },
          {
            shared.value.store(1)
            shared.queue.wakeOne()
          },
        ]) { ModelChecker.check(shared.queue.isEmpty, "somebody is left") }
      })
  }

  @Test func everyScheduleOfAWaiterWithADeadline() {
    expectComplete(
      ModelChecker.explore {
        let shared = Shared()
        return ModelProgram(threads: [
          {
            let result = shared.queue.wait(until: sometime) { shared.value.load() == 0 }
            ModelChecker.check(result != .interrupted, "interrupted")
          },
          {
            shared.value.store(1)
            shared.queue.wakeOne()
          },
        ]) { ModelChecker.check(shared.queue.isEmpty, "somebody is left") }
      })
  }

  @Test func aWakeIsNotLostOnALeaver() {
    // Two want the one unit; one of them may give up. If it does, the other must get the unit.
    expectComplete(
      ModelChecker.explore(preemptionBound: 3) {
        let shared = Shared()
        return ModelProgram(threads: [
          {
            if shared.queue.wait(until: sometime, while: { !shared.take() }) == .woken {
              shared.value.store(1)
              shared.queue.wakeOne()
            }
          },
          { _ = shared.queue.wait { !shared.take() } },
          {
            shared.value.store(1)
            shared.queue.wakeOne()
          },
        ]) {
          ModelChecker.check(shared.queue.isEmpty, "somebody is left")
        }
      })
  }

  @Test func aHandlerWakesTheThreadItInterrupts() {
    expectComplete(
      ModelChecker.explore(preemptionBound: 3) {
        let shared = Shared()
        let handler = {
          shared.value.store(1)
          shared.queue.wakeOne()
        }
        return ModelProgram(
          threads: [{ _ = shared.queue.wait { shared.value.load() == 0 } }, { shared.queue.wakeOne() }],
          interrupts: [(of: 0, body: handler)]
        ) { ModelChecker.check(shared.queue.isEmpty, "somebody is left") }
      })
  }

  @Test func aHandlerLetsTheThreadItInterruptsOut() {
    expectComplete(
      ModelChecker.explore(preemptionBound: 3) {
        let shared = Shared()
        let waiter = { _ = shared.queue.wait(until: sometime) { shared.value.load() == 0 } }
        return ModelProgram(
          threads: [waiter, { shared.queue.wakeOne() }],
          interrupts: [(of: 0, body: { shared.queue.wakeOne() })]
        ) { ModelChecker.check(shared.queue.isEmpty, "somebody is left") }
      })
  }

  @Test func wakeAllWakesAll() {
    expectComplete(
      ModelChecker.explore(preemptionBound: 3) {
        let shared = Shared()
        let waiter = { _ = shared.queue.wait { shared.value.load() == 0 } }
        return ModelProgram(threads: [
          waiter, waiter,
          {
            shared.value.store(1)
            shared.queue.wakeAll()
          },
        ]) { ModelChecker.check(shared.queue.isEmpty, "somebody is left") }
      })
  }

  @Test func twoWakersServeForEachOther() {
    expectComplete(
      ModelChecker.explore(preemptionBound: 2) {
        let shared = Shared()
        let waiter = { _ = shared.queue.wait { !shared.take() } }
        let waker = {
          _ = shared.value.add(1)
          shared.queue.wakeOne()
        }
        return ModelProgram(threads: [waiter, waiter, waker, waker]) {
          ModelChecker.check(shared.queue.isEmpty && shared.value.load() == 0, "somebody is left")
        }
      })
  }

  @Test func everyScheduleOfAConditionVariable() {
    final class State {
      let mutex = MutexCore<ModelWord>()
      let changed = ConditionVariableCore<ModelWord>()
      var isReady = false
    }
    expectComplete(
      ModelChecker.explore(preemptionBound: 3) {
        let state = State()
        return ModelProgram(threads: [
          {
            state.mutex.lock()
            while !state.isReady { _ = state.changed.wait(state.mutex) }
            state.mutex.unlock()
          },
          {
            state.mutex.withLock { state.isReady = true }
            state.changed.wakeOne()
          },
        ])
      })
  }

  @Test func hostThreadsPassUnitsOnWithDeadlinesAndInterrupts() {
    final class Channel: @unchecked Sendable {
      let units = Semaphore()
      let taken = Semaphore()
    }
    let channel = Channel()
    HostThreads.run(4) { index in
      if index < 2 {
        for _ in 0..<5_000 { channel.units.post() }
        return
      }
      var count = 0
      while count < 5_000 {
        // Every third wait gives up almost at once.
        let deadline = count % 3 == 0 ? HostThreads.deadline(milliseconds: 0) : .never
        if channel.units.wait(until: deadline) == .woken {
          count += 1
          channel.taken.post()
        }
      }
    }
    #expect(channel.taken.count == 10_000)
    #expect(channel.units.count == 0)
  }

  @Test func hostWaitsEnd() {
    let queue = WaitQueue()
    #expect(queue.wait(until: HostThreads.deadline(milliseconds: 5)) { true } == .timedOut)
    #expect(queue.wait { false } == .woken)
    let me = Parking.current
    HostedParking.interrupt(me)
    #expect(queue.wait(interruptible: true) { true } == .interrupted)
    HostedParking.clearInterrupt(me)
    let isEmpty = queue.isEmpty
    #expect(isEmpty)
  }
}
