import Locks
import ModelChecker
import Testing

@testable import Threads

@Suite struct ParkWordTests {
  /// One thread that sleeps; others make it runnable by giving the model's permit, which must happen once a sleep.
  private final class Sleeper {
    let word = ParkWord<ModelWord>()
    var wakes = 0
    var sleeps = 0
    var permits = 0
    var bothCame: Bool { permits == 2 }

    func sleep(interruptible: Bool) -> WaitResult {
      if let result = word.begin(interruptible: interruptible) { return result }
      sleeps += 1
      _ = ModelWord.park(until: .never, interruptible: false)
      return word.end()
    }

    func makeRunnable(_ isNeeded: Bool) {
      guard isNeeded else { return }
      wakes += 1
      ModelWord.unpark(1)
    }

    func check() { ModelChecker.check(wakes == sleeps, "made runnable \(wakes) times for \(sleeps) sleeps") }
  }

  @Test func everyScheduleOfAPermitATimeoutAndAnInterrupt() {
    let result = ModelChecker.explore {
      let sleeper = Sleeper()
      return ModelProgram(threads: [
        { _ = sleeper.sleep(interruptible: true) },
        { sleeper.makeRunnable(sleeper.word.unpark()) },
        { sleeper.makeRunnable(sleeper.word.timeOut()) },
        { sleeper.makeRunnable(sleeper.word.interrupt()) },
      ]) { sleeper.check() }
    }
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func aPermitIsNeverLost() {
    let result = ModelChecker.explore {
      let sleeper = Sleeper()
      return ModelProgram(threads: [
        {
          // A time-out does not eat the permit: the second sleep would not end.
          if sleeper.sleep(interruptible: false) == .timedOut { _ = sleeper.sleep(interruptible: false) }
        },
        { sleeper.makeRunnable(sleeper.word.unpark()) },
        { sleeper.makeRunnable(sleeper.word.timeOut()) },
      ]) { sleeper.check() }
    }
    #expect(result.violation == nil && result.isComplete)
  }

  /// Two wakers of one sleep: the second permit is not lost, whether it comes before or after the thread runs.
  @Test func aSecondPermitEndsTheNextSleep() {
    let result = ModelChecker.explore {
      let sleeper = Sleeper()
      return ModelProgram(threads: [
        {
          _ = sleeper.sleep(interruptible: false)
          // Both may have come by now, and count as one; who has not begun by now is still to come.
          if !sleeper.bothCame { _ = sleeper.sleep(interruptible: false) }
        },
        {
          sleeper.permits += 1
          sleeper.makeRunnable(sleeper.word.unpark())
        },
        {
          sleeper.permits += 1
          sleeper.makeRunnable(sleeper.word.unpark())
        },
      ]) { sleeper.check() }
    }
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func anInterruptStandsUntilCleared() {
    let result = ModelChecker.explore {
      let sleeper = Sleeper()
      return ModelProgram(threads: [
        {
          ModelChecker.check(sleeper.sleep(interruptible: true) == .interrupted, "not interrupted")
          ModelChecker.check(sleeper.sleep(interruptible: true) == .interrupted, "the interrupt is gone")
          sleeper.word.clearInterrupt()
          ModelChecker.check(!sleeper.word.isInterrupted(), "the interrupt stays")
        },
        { sleeper.makeRunnable(sleeper.word.interrupt()) },
      ]) { sleeper.check() }
    }
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func aNoticeStandsUntilTakenAndEndsNoSleep() {
    let result = ModelChecker.explore {
      let sleeper = Sleeper()
      return ModelProgram(threads: [
        {
          sleeper.word.notice()
          ModelChecker.check(sleeper.sleep(interruptible: true) != .timedOut, "timed out")
          ModelChecker.check(sleeper.word.hasFlags(), "the notice is gone")
          ModelChecker.check(sleeper.word.takeNotice(), "the notice was lost")
          ModelChecker.check(!sleeper.word.takeNotice(), "the notice was taken twice")
        },
        { sleeper.makeRunnable(sleeper.word.unpark()) },
        { sleeper.makeRunnable(sleeper.word.interrupt()) },
      ]) { sleeper.check() }
    }
    #expect(result.violation == nil && result.isComplete)
  }
}
