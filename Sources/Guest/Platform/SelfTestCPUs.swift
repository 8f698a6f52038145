// The self-test's checks that need another CPU: that it starts, is interrupted, flushed and woken.
#if GUEST
  import Base
  import Instructions
  import Synchronization
  import VirtioABI

  /// What the other CPUs are told to do.
  enum TestCommand {
    static let rest: UInt64 = 0
    /// Read a page of the region all the time.
    static let read: UInt64 = 1
    /// Interrupt CPU 0 at odd times.
    static let interrupt: UInt64 = 2
    /// Take part in the storm.
    static let storm: UInt64 = 3
  }

  let testCommand = Atomic<UInt64>(0)
  /// How many CPUs are at the current command, and what the reader last saw.
  let testBusyCPUs = Atomic<UInt64>(0)
  let testSeen = Atomic<UInt64>(0)
  let testReads = Atomic<UInt64>(0)

  extension SelfTestCheck {
    static var otherCPUs: Int { min(CPU.count, TestBench.cpuLimit) &- 1 }

    /// Gives all other CPUs a command, and waits until all are at it (or, for `rest`, have left it). With interrupts
    /// enabled: another CPU may be waiting for this one to flush.
    static func command(_ command: UInt64) -> Bool {
      let wasEnabled = Interrupts.areEnabled
      Interrupts.enable()
      defer { if !wasEnabled { _ = Interrupts.disable() } }
      testCommand.store(command, ordering: .sequentiallyConsistent)
      for cpu in 1...max(1, otherCPUs) where cpu <= otherCPUs { InterProcessor.send(TestVector.command, to: cpu) }
      let wanted = command == TestCommand.rest ? 0 : otherCPUs.u64
      let end = instruction_rdtsc() &+ cycles(microseconds: 10_000_000)
      while testBusyCPUs.load(ordering: .acquiring) != wanted {
        if instruction_rdtsc() > end { return false }
        instruction_pause()
      }
      return true
    }

    /// What the other CPUs do until the end.
    static func otherCPU() {
      let bench = testBench.unsafelyUnwrapped
      var random = instruction_rdtsc() | 1
      while true {
        Interrupts.enable()
        let command = testCommand.load(ordering: .acquiring)
        if command == TestCommand.rest {
          _ = Interrupts.disable()
          if testCommand.load(ordering: .acquiring) == TestCommand.rest { Idle.wait() }
          continue
        }
        testBusyCPUs.wrappingAdd(1, ordering: .sequentiallyConsistent)
        while testCommand.load(ordering: .acquiring) == command {
          switch command {
          case TestCommand.read:
            if let value = UserCopy.load32(bench.page(0)) { testSeen.store(value.u64, ordering: .releasing) }
            testReads.wrappingAdd(1, ordering: .sequentiallyConsistent)
          case TestCommand.interrupt:
            random = random &* 6_364_136_223_846_793_005 &+ 1
            let end = instruction_rdtsc() &+ random &>> 49
            while instruction_rdtsc() < end { instruction_pause() }
            // One at a time: the next only when the last was served.
            let served = testOtherEvent.count.load(ordering: .acquiring)
            InterProcessor.send(TestVector.other, to: 0)
            while testOtherEvent.count.load(ordering: .acquiring) == served
              && testCommand.load(ordering: .acquiring) == command
            { instruction_pause() }
          default:
            Storm.take(part: bench)
          }
        }
        testBusyCPUs.wrappingSubtract(1, ordering: .sequentiallyConsistent)
      }
    }

    static func secondCPU(_ bench: TestBench, _ report: inout SelfTestReport) {
      guard otherCPUs > 0 else { return report.skip("one CPU") }
      for cpu in 1...otherCPUs {
        let top = VirtualAddress(bench.stacks + (cpu &+ 1) &* CPU.kernelStackByteCount.int)
        let start = instruction_rdtsc()
        CPU.start(cpu, stackTop: top, entry: { _ in SelfTestCheck.otherCPU() }, argument: nil)
        let end = start &+ cycles(microseconds: 1_000_000)
        while !CPU.isRunning(cpu) && instruction_rdtsc() < end { instruction_pause() }
        report.require(CPU.isRunning(cpu), "did not start: CPU", cpu.u64)
        report.figure("started in", nanoseconds(instruction_rdtsc() &- start), " ns")
      }
    }

    /// Interrupts reach another CPU, which halts in between.
    static func interProcessor(_ bench: TestBench, _ report: inout SelfTestReport) {
      guard otherCPUs > 0 else { return report.skip("one CPU") }
      installHandlers()
      var best = UInt64.max
      var sending = UInt64.max
      for round in 1...60 as ClosedRange<UInt64> {
        let count = testOtherEvent.count.load(ordering: .acquiring)
        let start = instruction_rdtsc()
        InterProcessor.send(TestVector.other, to: 1)
        let sent = instruction_rdtsc()
        guard wait(testOtherEvent, until: count &+ 1) else { return report.require(false, "lost number", round) }
        best = min(best, testOtherEvent.cycles.load(ordering: .relaxed) &- start)
        sending = min(sending, sent &- start)
        spin(microseconds: 20)
      }
      report.figure("to the handler", nanoseconds(best), " ns at best")
      report.figure("the sender pays", nanoseconds(sending), " ns")
    }

    /// A flush everywhere reaches a CPU that reads the page in a loop.
    static func remoteFlush(_ bench: TestBench, _ report: inout SelfTestReport) {
      guard otherCPUs > 0 else { return report.skip("one CPU") }
      Interrupts.enable()
      for index in 0..<2 { bench.frame(index)[0] = 0xb0 &+ index.u64 }
      bench.map(0, frame: 0)
      TLB.flushAllEverywhere()
      report.require(command(TestCommand.read), "the CPU does not answer")
      var best = UInt64.max
      var worst: UInt64 = 0
      for round in 1...100 {
        let reads = testReads.load(ordering: .acquiring)
        while testReads.load(ordering: .acquiring) < reads &+ 20 { instruction_pause() }
        bench.map(0, frame: round & 1)
        let start = instruction_rdtsc()
        TLB.flushEverywhere(bench.page(0))
        let took = instruction_rdtsc() &- start
        best = min(best, took)
        worst = max(worst, took)
        // A read may have been under way.
        let after = testReads.load(ordering: .acquiring)
        while testReads.load(ordering: .acquiring) < after &+ otherCPUs.u64 &* 2 { instruction_pause() }
        report.require(
          testSeen.load(ordering: .acquiring) == 0xb0 &+ (round & 1).u64, "the old page was still seen in round",
          round.u64)
      }
      report.require(command(TestCommand.rest), "the CPU does not answer any more")
      _ = Interrupts.disable()
      bench.unmap(0)
      TLB.flushAllEverywhere()
      report.figure("took", nanoseconds(best), " ns at best")
      report.figure("at worst", nanoseconds(worst), " ns")
      report.figure("senders halted", remoteFlushHalts.load(ordering: .relaxed))
    }

    /// A CPU that halts is woken by another's interrupt, at whatever moment that comes; the timer tells if not.
    static func remoteWakeUp(_ bench: TestBench, _ report: inout SelfTestReport) {
      guard otherCPUs > 0 else { return report.skip("one CPU") }
      installHandlers()
      report.require(command(TestCommand.interrupt), "the CPU does not answer")
      let timers = testTimerEvent.count.load(ordering: .acquiring)
      var lost: UInt64 = 0
      for _ in 0..<2_000 {
        let count = testOtherEvent.count.load(ordering: .acquiring)
        while true {
          _ = Interrupts.disable()
          if testOtherEvent.count.load(ordering: .acquiring) != count { break }
          LocalTimer.arm(at: Clock.now() &+ 500_000_000)
          Idle.wait()
        }
        Interrupts.enable()
        if testTimerEvent.count.load(ordering: .acquiring) != timers &+ lost { lost &+= 1 }
      }
      LocalTimer.disarm()
      report.require(lost == 0, "slept through", lost)
      report.require(command(TestCommand.rest), "the CPU does not answer any more")
      _ = Interrupts.disable()
      report.figure("woken", 2_000, " times")
    }
  }
#endif
