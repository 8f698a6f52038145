// The self-test's checks that one CPU can make by itself.
#if GUEST
  import Base
  import Instructions
  import Synchronization
  import VirtioABI

  /// Vectors of the self-test, below those of devices.
  enum TestVector {
    static let own: UInt32 = 0x20
    static let other: UInt32 = 0x21
    static let command: UInt32 = 0x22
  }

  /// What the handlers of the test's vectors note.
  struct TestEvent: ~Copyable {
    let count: Atomic<UInt64>
    let cycles: Atomic<UInt64>

    init() {
      count = Atomic(0)
      cycles = Atomic(0)
    }

    func note() {
      cycles.store(instruction_rdtsc(), ordering: .relaxed)
      count.wrappingAdd(1, ordering: .releasing)
    }
  }

  let testTimerEvent = TestEvent()
  let testOwnEvent = TestEvent()
  let testOtherEvent = TestEvent()

  extension SelfTestCheck {
    static func nanoseconds(_ cycles: UInt64) -> UInt64 { cycles.scaled(by: Boot.clockPage.pointee.multiplier) }
    static func cycles(microseconds: UInt64) -> UInt64 {
      Boot.clockPage.pointee.frequency / 1_000_000 &* microseconds
    }

    /// Spins until `event` has come `count` times; false after 100 ms.
    static func wait(_ event: borrowing TestEvent, until count: UInt64) -> Bool {
      let end = instruction_rdtsc() &+ cycles(microseconds: 100_000)
      while event.count.load(ordering: .acquiring) < count {
        if instruction_rdtsc() > end { return false }
        instruction_pause()
      }
      return true
    }

    static func spin(microseconds: UInt64) {
      let end = instruction_rdtsc() &+ cycles(microseconds: microseconds)
      while instruction_rdtsc() < end { instruction_pause() }
    }

    static func installHandlers() {
      InterruptTable.register(BootVectors.timer, handler: { _ in testTimerEvent.note() })
      InterruptTable.register(TestVector.own, handler: { _ in testOwnEvent.note() })
      InterruptTable.register(TestVector.other, handler: { _ in testOtherEvent.note() })
      InterruptTable.register(TestVector.command, handler: { _ in })
    }

    /// A disabled interrupt waits, and comes as soon as they are enabled.
    static func interruptMasking(_ report: inout SelfTestReport) {
      installHandlers()
      report.require(!Interrupts.disable(), "interrupts were enabled at the start")
      var worst: UInt64 = 0
      for round in 1...50 as ClosedRange<UInt64> {
        report.require(!Interrupts.areEnabled, "the flag reads enabled")
        InterProcessor.send(TestVector.own, to: CPU.current)
        spin(microseconds: 5)
        report.require(testOwnEvent.count.load(ordering: .acquiring) == round &- 1, "came while disabled")
        let start = instruction_rdtsc()
        Interrupts.enable()
        report.require(Interrupts.areEnabled, "the flag reads disabled")
        report.require(testOwnEvent.count.load(ordering: .acquiring) == round, "did not come when enabled")
        worst = max(worst, testOwnEvent.cycles.load(ordering: .relaxed) &- start)
        report.require(Interrupts.disable(), "enabling had no effect")
      }
      let outer = Interrupts.disable()
      Interrupts.restore(outer)
      report.require(!Interrupts.areEnabled, "restoring enabled them")
      report.figure("pending interrupt after enabling at most", nanoseconds(worst), " ns")
    }

    /// The clock runs, never back, and agrees with the counter.
    static func clock(_ report: inout SelfTestReport) {
      // The host may interrupt between two readings: the best of some pairs counts.
      var best = UInt64.max
      var difference = UInt64.max
      var last = Clock.now()
      for _ in 0..<20 {
        let start = instruction_rdtsc()
        let first = Clock.now()
        for _ in 0..<1_000 {
          let now = Clock.now()
          report.require(now >= last, "went back")
          last = now
        }
        let cycles = instruction_rdtsc() &- start
        let span = nanoseconds(cycles)
        best = min(best, cycles / 1_001)
        difference = min(difference, span > last &- first ? span &- (last &- first) : last &- first &- span)
      }
      report.require(difference < 2_000, "differs from the counter by ns", difference)
      var target: UInt64 = 3_000
      while target < 100_000_000_000 {
        let deadline = Clock.now() &+ target
        target &*= 10
        let counter = Clock.cycles(at: deadline)
        let back =
          Boot.clockPage.pointee.baseNanoseconds
          &+ nanoseconds(counter &- Boot.clockPage.pointee.baseTSC)
        let error = back > deadline ? back &- deadline : deadline &- back
        report.require(error < 10, "deadlines are off by ns", error)
      }
      report.require(Clock.realtime() > 1_700_000_000_000_000_000, "the date is in the past")
      report.figure("a reading", nanoseconds(best), " ns")
    }

    /// The timer comes, never early, and once.
    static func timer(_ report: inout SelfTestReport) {
      installHandlers()
      Interrupts.enable()
      var best = UInt64.max
      var sum: UInt64 = 0
      let rounds: UInt64 = 40
      for round in 0..<rounds {
        let count = testTimerEvent.count.load(ordering: .acquiring)
        let deadline = Clock.now() &+ 40_000 &+ round &* 3_000
        LocalTimer.arm(at: deadline)
        guard wait(testTimerEvent, until: count &+ 1) else {
          report.require(false, "did not come within 100 ms")
          break
        }
        let came = testTimerEvent.cycles.load(ordering: .relaxed)
        let wanted = Clock.cycles(at: deadline)
        report.require(came &+ cycles(microseconds: 1) >= wanted, "came early")
        let late = came > wanted ? nanoseconds(came &- wanted) : 0
        best = min(best, late)
        sum &+= late
      }
      let count = testTimerEvent.count.load(ordering: .acquiring)
      let deadline = Clock.now() &+ 1_000_000
      LocalTimer.arm(at: deadline)
      LocalTimer.disarm()
      // Unless the host took so long over it.
      let isInTime = Clock.now() < deadline
      spin(microseconds: 1_200)
      let came = testTimerEvent.count.load(ordering: .acquiring) != count
      report.require(!came || !isInTime, "came although disarmed")
      let last = testTimerEvent.count.load(ordering: .acquiring)
      LocalTimer.arm(at: 0)
      report.require(wait(testTimerEvent, until: last &+ 1), "a time in the past did not come")
      _ = Interrupts.disable()
      report.figure("late by", best, " ns at best")
      report.figure("mean", sum / rounds, " ns")
    }

    /// Halting ends with the interrupt, whenever it comes.
    static func idleWakeUp(_ report: inout SelfTestReport) {
      installHandlers()
      var random: UInt64 = instruction_rdtsc() | 1
      var spurious: UInt64 = 0
      var best = UInt64.max
      for _ in 0..<200 {
        random = random &* 6_364_136_223_846_793_005 &+ 1
        let count = testTimerEvent.count.load(ordering: .acquiring)
        let deadline = Clock.now() &+ 20_000 &+ random &>> 46
        LocalTimer.arm(at: deadline)
        while true {
          _ = Interrupts.disable()
          if testTimerEvent.count.load(ordering: .acquiring) != count { break }
          Idle.wait()
          spurious &+= 1
        }
        spurious &-= 1
        let late = testTimerEvent.cycles.load(ordering: .relaxed) &- Clock.cycles(at: deadline)
        if late < UInt64.max / 2 { best = min(best, nanoseconds(late)) }
      }
      report.require(!Interrupts.areEnabled, "interrupts are enabled after the loop")
      report.figure("woken 200 times, for nothing", spurious)
      report.figure("late by", best, " ns at best")
    }

    /// FS base holds what it is given; GS base is the per-CPU area.
    static func threadPointer(_ report: inout SelfTestReport) {
      var value: UInt64 = 0x7fff_ffff_f000
      while value != 0 {
        value &>>= 9
        ThreadPointer.current = value
        report.require(ThreadPointer.current == value, "lost", value)
      }
      ThreadPointer.current = 0
      report.require(
        instruction_rdgsbase() == VirtualAddress(CPUArea.pointer(CPU.current)).rawValue, "GS base is not the area")
      let start = instruction_rdtsc()
      for index in 0..<1_000 as Range<UInt64> { ThreadPointer.current = index }
      report.figure("a write", nanoseconds((instruction_rdtsc() &- start) / 1_000), " ns")
      ThreadPointer.current = 0
    }
  }
#endif
