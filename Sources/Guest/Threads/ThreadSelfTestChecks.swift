// The checks of `ThreadSelfTest`.
// SAFETY of all: an argument that stands for a number of rounds is never followed. The work item lies in the frame of its
// check, which waits for the last call; the work thread touches no item that it has called.
#if GUEST
  import Base
  import Instructions
  import Locks
  import Platform

  extension ThreadSelfTest {
    static func createAndJoin() -> Outcome {
      shared.atomicCount.store(0, ordering: .relaxed)
      let start = Clock.now()
      for _ in 0..<10 {
        var threads: InlineArray<20, Thread?> = InlineArray(repeating: nil)
        for index in 0..<20 { threads[index] = spawn(countMain) }
        for index in 0..<20 { threads[index]?.join() }
      }
      let each = (Clock.now() &- start) / 200
      return Outcome(shared.atomicCount.load(ordering: .relaxed) == 200).with("ns each", each)
    }

    static func pingPong(_ first: UInt64, _ second: UInt64) -> Outcome {
      let start = Clock.now()
      let rounds: UInt64 = 2_000
      let one = spawn(pingMain, UnsafeMutableRawPointer(bitPattern: rounds.uint), affinity: first)
      let two = spawn(pongMain, UnsafeMutableRawPointer(bitPattern: rounds.uint), affinity: second)
      one?.join()
      two?.join()
      let each = (Clock.now() &- start) / rounds
      return Outcome(shared.ping.count == 0 && shared.pong.count == 0).with("ns a round", each)
    }

    static func contention() -> Outcome {
      shared.guardedCount = 0
      let start = Clock.now()
      var threads: InlineArray<4, Thread?> = InlineArray(repeating: nil)
      for index in 0..<4 { threads[index] = spawn(contendMain) }
      for index in 0..<4 { threads[index]?.join() }
      let each = (Clock.now() &- start) / 20_000
      return Outcome(shared.guardedCount == 20_000 && !shared.mutex.isLocked).with("ns a turn", each)
    }

    static func sleeping() -> Outcome {
      var latest: UInt64 = 0
      var sum: UInt64 = 0
      var isEarly = false
      for _ in 0..<20 {
        let deadline = Clock.now() &+ 1_000_000
        let result = Thread.sleep(until: Deadline(nanoseconds: deadline))
        let now = Clock.now()
        isEarly = isEarly || now < deadline || result != .timedOut
        latest = max(latest, now &- deadline)
        sum &+= now &- deadline
      }
      return Outcome(!isEarly).with("ns late at most", latest).with("mean", sum / 20)
    }

    static func preemption() -> Outcome {
      shared.stop.store(false, ordering: .relaxed)
      let here = Thread.current.affinity
      Thread.current.affinity = 1
      let spinner = spawn(spinMain, affinity: 1)
      var latest: UInt64 = 0
      var sum: UInt64 = 0
      for _ in 0..<10 {
        let deadline = Clock.now() &+ 2_000_000
        _ = Thread.sleep(until: Deadline(nanoseconds: deadline))
        let late = Clock.now() &- deadline
        latest = max(latest, late)
        sum &+= late
      }
      shared.stop.store(true, ordering: .relaxed)
      let switches = spinner?.involuntarySwitches ?? 0
      spinner?.join()
      Thread.current.affinity = here
      return Outcome(switches >= 5).with("times", switches).with("ns late at most", latest).with("mean", sum / 10)
    }

    static func spinning() -> Outcome {
      shared.stop.store(false, ordering: .relaxed)
      shared.atomicCount.store(0, ordering: .relaxed)
      let one = spawn(spinMain)
      let two = spawn(spinMain)
      let start = Clock.now()
      _ = Thread.sleep(until: .after(60_000_000))
      shared.stop.store(true, ordering: .relaxed)
      // Asleep again until both have seen it.
      while shared.atomicCount.load(ordering: .relaxed) != 2 { _ = Thread.sleep(until: .after(1_000_000)) }
      let elapsed = Clock.now() &- start
      let first = one?.runTime ?? 0
      let second = two?.runTime ?? 0
      one?.join()
      two?.join()
      let wanted = CPU.count > 1 ? elapsed / 3 : elapsed / 5
      return Outcome(first > wanted && second > wanted).with("of us", elapsed / 1_000).with("one", first / 1_000)
        .with("other", second / 1_000)
    }

    static func deadlines() -> Outcome {
      let timedOut = shared.queue.wait(until: .after(2_000_000)) { true }
      let passed = shared.queue.wait(until: .now) { true }
      let waiter = spawn(interruptedMain)
      shared.atomicCount.store(0, ordering: .relaxed)
      _ = Thread.sleep(until: .after(2_000_000))
      waiter?.interrupt()
      waiter?.join()
      let interrupted = shared.atomicCount.load(ordering: .relaxed) == 1
      return Outcome(timedOut == .timedOut && passed == .timedOut && interrupted && shared.queue.isEmpty)
    }

    static func migration() -> Outcome {
      let before = Thread.current.affinity
      var isRight = true
      let start = Clock.now()
      let moves: UInt64 = 200
      for index in 0..<moves {
        let cpu = (index % CPU.count.u64).int
        Thread.current.affinity = 1 << cpu.u64
        isRight = isRight && CPU.current == cpu
      }
      let each = (Clock.now() &- start) / moves
      Thread.current.affinity = before
      return Outcome(isRight).with("ns a move", CPU.count > 1 ? each : 0)
    }

    static func timers() -> Outcome {
      shared.atomicCount.store(0, ordering: .relaxed)
      do throws(Errno) {
        let timer = try TimerEvent(handler: timerMain, context: nil)
        timer.arm(at: .after(1_000_000))
        let deadline = Deadline.after(3_000_000)
        timer.arm(at: deadline)
        _ = shared.ping.wait(until: .after(1_000_000_000))
        let isFired = shared.atomicCount.load(ordering: .relaxed) == 1
        let firedAt = shared.firedAt.load(ordering: .relaxed)
        let isEarly = firedAt < deadline.nanoseconds
        timer.arm(at: .after(1_000_000_000))
        let isCancelled = timer.cancel()
        _ = Thread.sleep(until: .after(2_000_000))
        let isQuiet = shared.atomicCount.load(ordering: .relaxed) == 1
        timer.destroy()
        return Outcome(!isEarly && isFired && isCancelled && isQuiet).with("ns late", firedAt &- deadline.nanoseconds)
      } catch { return Outcome(false) }
    }

    static func work() -> Outcome {
      shared.atomicCount.store(0, ordering: .relaxed)
      var item = WorkItem(countMain, context: nil)
      return withUnsafeMutablePointer(to: &item) { item in
        for round in 1...10 as ClosedRange<UInt64> {
          WorkQueue.submit(item)
          while shared.atomicCount.load(ordering: .relaxed) != round { _ = Thread.sleep(until: .after(50_000)) }
        }
        return Outcome()
      }
    }
  }

  extension ThreadSelfTest {
    static func gracePeriod() -> Outcome {
      shared.stop.store(false, ordering: .relaxed)
      let spinner = spawn(spinMain)
      _ = Thread.sleep(until: .after(1_000_000))
      let start = Clock.now()
      for _ in 0..<10 { RCU.synchronize() }
      let each = (Clock.now() &- start) / 10
      shared.stop.store(true, ordering: .relaxed)
      spinner?.join()
      return Outcome().with("ns each", each)
    }
  }

  extension ThreadSelfTest {
    static func yielding() -> Outcome {
      var best: UInt64 = .max
      for _ in 0..<10 {
        let start = Clock.cycles()
        let one = spawn(yieldMain, affinity: 1)
        let two = spawn(yieldMain, affinity: 1)
        one?.join()
        two?.join()
        best = min(best, (Clock.cycles() &- start) / 2_000)
      }
      return Outcome().with("cycles a switch", best)
    }

    /// How soon the last of as many spinning threads as there are CPUs runs, though this thread goes on.
    static func spreading() -> Outcome {
      guard CPU.count > 1 else { return Outcome() }
      var longest: UInt64 = 0
      var sum: UInt64 = 0
      for _ in 0..<20 {
        shared.stop.store(false, ordering: .relaxed)
        shared.atomicCount.store(0, ordering: .relaxed)
        _ = Thread.sleep(until: .after(300_000))
        let start = Clock.now()
        let one = spawn(arriveMain)
        while shared.atomicCount.load(ordering: .relaxed) == 0 && Clock.now() &- start < 1_000_000_000 {
          instruction_pause()
        }
        let took = Clock.now() &- start
        longest = max(longest, took)
        sum &+= took
        shared.stop.store(true, ordering: .relaxed)
        one?.join()
      }
      return Outcome(longest < 500_000_000).with("ns to run at most", longest).with("mean", sum / 20)
    }
  }

  // What the threads of the checks run.

  private func yieldMain(_ argument: UnsafeMutableRawPointer?) {
    for _ in 0..<1_000 { Thread.yield() }
  }

  private func arriveMain(_ argument: UnsafeMutableRawPointer?) {
    ThreadSelfTest.shared.atomicCount.wrappingAdd(1, ordering: .relaxed)
    while !ThreadSelfTest.shared.stop.load(ordering: .relaxed) { instruction_pause() }
  }

  private func countMain(_ argument: UnsafeMutableRawPointer?) {
    ThreadSelfTest.shared.atomicCount.wrappingAdd(1, ordering: .relaxed)
  }

  private func pingMain(_ rounds: UnsafeMutableRawPointer?) {
    for _ in 0..<UInt(bitPattern: rounds) {
      ThreadSelfTest.shared.ping.post()
      _ = ThreadSelfTest.shared.pong.wait()
    }
  }

  private func pongMain(_ rounds: UnsafeMutableRawPointer?) {
    for _ in 0..<UInt(bitPattern: rounds) {
      _ = ThreadSelfTest.shared.ping.wait()
      ThreadSelfTest.shared.pong.post()
    }
  }

  private func contendMain(_ argument: UnsafeMutableRawPointer?) {
    for index in 0..<5_000 {
      ThreadSelfTest.shared.mutex.withLock {
        let count = ThreadSelfTest.shared.guardedCount
        for _ in 0..<20 { instruction_pause() }
        ThreadSelfTest.shared.guardedCount = count &+ 1
      }
      if index % 64 == 0 { Thread.yield() }
    }
  }

  private func spinMain(_ argument: UnsafeMutableRawPointer?) {
    while !ThreadSelfTest.shared.stop.load(ordering: .relaxed) { instruction_pause() }
    ThreadSelfTest.shared.atomicCount.wrappingAdd(1, ordering: .relaxed)
  }

  private func interruptedMain(_ argument: UnsafeMutableRawPointer?) {
    let first = ThreadSelfTest.shared.queue.wait(interruptible: true) { true }
    let second = ThreadSelfTest.shared.queue.wait(interruptible: true) { true }
    Thread.current.clearInterrupt()
    let third = ThreadSelfTest.shared.queue.wait(until: .after(1_000_000), interruptible: true) { true }
    if first == .interrupted && second == .interrupted && third == .timedOut {
      ThreadSelfTest.shared.atomicCount.wrappingAdd(1, ordering: .relaxed)
    }
  }

  private func timerMain(_ argument: UnsafeMutableRawPointer?) {
    ThreadSelfTest.shared.firedAt.store(Clock.now(), ordering: .relaxed)
    ThreadSelfTest.shared.atomicCount.wrappingAdd(1, ordering: .relaxed)
    ThreadSelfTest.shared.ping.post()
  }
#endif
