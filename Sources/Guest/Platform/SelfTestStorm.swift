// The interrupt storm: four threads, on all CPUs, run a program that fills every register and looks whether they stay, while
// timers, interrupts to itself and between CPUs, page faults, system calls and preemptive switches (in the program and in
// the kernel, back to any CPU) fall on it. Then the same with deliberate damage, to show that damage would be seen.
#if GUEST
  import Base
  import Instructions
  import Synchronization
  import VirtioABI

  enum Storm {
    /// What a storm may damage on purpose.
    enum Damage: Int {
      case none, register, redZone, flags, vector, framePointer
    }

    static func run(
      _ bench: TestBench, interrupts: UInt64, _ report: inout SelfTestReport, _ reporting: (TextLine) -> Void
    ) {
      InterruptTable.register(BootVectors.timer, handler: { _ in Storm.interrupt(armTimer: true) })
      InterruptTable.register(TestVector.own, handler: { _ in Storm.interrupt(armTimer: false) })
      InterruptTable.register(TestVector.other, handler: { _ in Storm.interrupt(armTimer: false) })
      InterruptTable.register(TestVector.command, handler: { _ in Storm.interrupt(armTimer: false) })
      InterruptTable.register(
        InterruptTable.nonMaskable, handler: { _ in nonMaskableCount.wrappingAdd(1, ordering: .relaxed) })
      testFaultMode = .map
      calibrate()

      report.begin("interrupt storm")
      let start = Clock.now()
      let adopted = per_cpu_adopted()
      blow(bench, interrupts: interrupts, damage: .none, &report)
      let duration = Clock.now() &- start
      let sum = sum(bench)
      report.require(rounds(bench) > 0, "the program made no progress")
      report.require(failedCheck == 0, "the program found wrong: check", failedCheck)
      report.figure("interrupts", sum.interrupts)
      report.figure("nested", sum.nested)
      report.figure("non-maskable", nonMaskableCount.load(ordering: .relaxed))
      report.figure("on the way back", per_cpu_adopted() &- adopted)
      report.figure("switches", sum.switches)
      report.figure("migrations", sum.migrations)
      report.figure("faults", sum.faults)
      report.figure("calls", sum.calls)
      report.figure("rounds", rounds(bench))
      report.figure("deepest stack", sum.deepestStack, " B")
      report.figure("in", duration / 1_000_000, " ms")
      reporting(report.line())

      report.begin("the storm sees damage")
      var seen: UInt64 = 0
      for kind in 1...5 {
        blow(bench, interrupts: 50_000, damage: Damage(rawValue: kind) ?? .none, &report)
        report.require(failedCheck != 0, "not to damage of kind", kind.u64)
        if failedCheck != 0 { seen &+= 1 }
      }
      report.figure("kinds", seen)
      testFaultMode = .refuse
      reporting(report.line())
    }

    /// One storm, from start to end, on all CPUs.
    private static func blow(
      _ bench: TestBench, interrupts: UInt64, damage kind: Damage, _ report: inout SelfTestReport
    ) {
      for index in 0..<TestBench.threadCount {
        let thread = bench.threads + index
        bench.prepare(index, program: address_of_vector_storm_program())
        let block = thread.pointee.block
        for word in 0..<16 {
          let value = bench.cpus[0].next()
          block.storeBytes(of: value, toByteOffset: STORM_PATTERN.int &+ word &* 8, as: UInt64.self)
        }
        let frame = ContextSwitch.programFrame(stackTop: thread.pointee.kernelStackTop)
        block.storeBytes(of: 2_000, toByteOffset: STORM_COUNT.int, as: UInt64.self)
        block.storeBytes(of: frame.pointee.rsp, toByteOffset: STORM_STACK.int, as: UInt64.self)
        block.storeBytes(of: features, toByteOffset: STORM_FEATURES.int, as: UInt64.self)
        block.storeBytes(of: 0, toByteOffset: STORM_ITERATIONS.int, as: UInt64.self)
        block.storeBytes(of: 0, toByteOffset: STORM_FAILED_CHECK.int, as: UInt64.self)
        thread.pointee.isReady.store(true, ordering: .releasing)
      }
      for cpu in 0..<TestBench.cpuLimit {
        bench.cpus[cpu].interrupts = 0
        bench.cpus[cpu].nested = 0
        bench.cpus[cpu].switches = 0
        bench.cpus[cpu].calls = 0
        bench.cpus[cpu].faults = 0
        bench.cpus[cpu].migrations = 0
        bench.cpus[cpu].deepestStack = 0
      }
      failedCheck = 0
      damage = kind
      limit = interrupts
      timeLimit = Clock.now() &+ max(4_000_000_000, interrupts &* 20_000)
      isOver.store(false, ordering: .sequentiallyConsistent)
      if SelfTestCheck.otherCPUs > 0 {
        report.require(SelfTestCheck.command(TestCommand.storm), "another CPU does not answer")
      }
      take(part: bench)
      if SelfTestCheck.otherCPUs > 0 {
        report.require(SelfTestCheck.command(TestCommand.rest), "another CPU does not answer any more")
      }
    }

    /// A CPU's part: runs threads until the storm is over.
    static func take(part bench: TestBench) {
      let wasEnabled = Interrupts.disable()
      while !isOver.load(ordering: .acquiring) {
        guard let thread = claim(bench) else {
          instruction_pause()
          continue
        }
        arm(bench.cpus + CPU.current)
        bench.enter(thread)
      }
      LocalTimer.disarm()
      Preemption.isRequested = false
      Interrupts.restore(wasEnabled)
    }

    /// Takes a thread that nobody runs.
    private static func claim(_ bench: TestBench) -> UnsafeMutablePointer<TestThread>? {
      let first = bench.cpus[CPU.current].next().int & (TestBench.threadCount &- 1)
      for step in 0..<TestBench.threadCount {
        let thread = bench.threads + (first &+ step) & (TestBench.threadCount &- 1)
        if thread.pointee.isReady.exchange(false, ordering: .acquiring) { return thread }
      }
      return nil
    }

    private static func arm(_ cpu: UnsafeMutablePointer<TestCPU>) {
      // Closer than LocalTimer would allow: many come while the last is still served, or on its way back.
      let delay = cpu.pointee.next() % (interruptCycles &* 3)
      ModelSpecificRegister.write(.timerDeadline, instruction_rdtsc() &+ delay)
    }

    /// Measures what an interrupt costs here, 5 us or 500, so that the storm leaves the threads some of the time.
    private static func calibrate() {
      limit = UInt64.max
      interruptCycles = UInt64.max
      Interrupts.enable()
      for _ in 0..<20 {
        let start = instruction_rdtsc()
        let before = testBench.unsafelyUnwrapped.cpus[0].interrupts
        InterProcessor.send(TestVector.own, to: 0)
        while testBench.unsafelyUnwrapped.cpus[0].interrupts == before { instruction_compiler_barrier() }
        interruptCycles = min(interruptCycles, instruction_rdtsc() &- start)
      }
      _ = Interrupts.disable()
    }

    // MARK: What falls on the threads

    private static func interrupt(armTimer: Bool) {
      let bench = testBench.unsafelyUnwrapped
      let cpu = bench.cpus + CPU.current
      if limit == UInt64.max {  // calibrating
        cpu.pointee.interrupts &+= 1
        return
      }
      let depth = CPU.kernelStackTop.rawValue &- instruction_frame_pointer()
      if depth < CPU.kernelStackByteCount { cpu.pointee.deepestStack = max(cpu.pointee.deepestStack, depth) }
      cpu.pointee.interrupts &+= 1
      cpu.pointee.depth &+= 1
      if cpu.pointee.depth > 1 { cpu.pointee.nested &+= 1 }
      let random = cpu.pointee.next()

      if random & 0x7 == 0 { InterProcessor.send(TestVector.own, to: CPU.current) }
      if random & 0x38 == 0, SelfTestCheck.otherCPUs > 0 {
        InterProcessor.send(TestVector.other, to: CPU.current == 0 ? 1 : 0)
      }
      if random >> 56 < 8 {
        InterProcessor.sendNonMaskable(to: random >> 55 & 1 == 0 || SelfTestCheck.otherCPUs == 0 ? CPU.current : 1)
      }
      if random & 0x1c0 == 0 {
        let page = (random &>> 16).int & (TestBench.regionPages &- 1)
        bench.unmap(page)
        TLB.flushEverywhere(bench.page(page))
      }
      if armTimer { arm(cpu) }
      // Let others in, now and then, as deep as the stack safely holds.
      if cpu.pointee.depth < 6 && random & 0x600 == 0 {
        Interrupts.enable()
        for _ in 0..<20 { instruction_pause() }
        _ = Interrupts.disable()
      }
      if random & 0x1800 == 0 { Preemption.isRequested = true }
      if damage != .none && random & 0x1e000 == 0 { inflict(cpu) }
      cpu.pointee.depth &-= 1
      if cpu.pointee.interrupts >= limit || Clock.now() > timeLimit || isOver.load(ordering: .relaxed) { end() }
    }

    /// A system call of the storm: touches pages that come and go, with interrupts enabled.
    static func systemCall(_ bench: TestBench) {
      Preemption.disable()
      let random = bench.cpus[CPU.current].next()
      bench.cpus[CPU.current].calls &+= 1
      Preemption.enable()
      for step in 0..<4 as Range<UInt64> {
        let page = (random &>> (step &* 8)).int & (TestBench.regionPages &- 1)
        _ = UserCopy.store32(VirtualAddress(bench.page(page).rawValue &+ 64), random.u32)
      }
    }

    /// Preemption.isRequested was found set: run another thread, or end.
    static func preempt(_ bench: TestBench) {
      Preemption.isRequested = false
      guard bench.cpus[CPU.current].current != nil else { return }
      if isOver.load(ordering: .acquiring) {
        bench.leave(for: nil)
      } else if let next = claim(bench) {
        bench.leave(for: next)
      }
    }

    /// Whether an exception is the program's report that it found something wrong.
    static func isFailure(_ frame: UnsafeMutablePointer<TrapFrame>) -> Bool {
      let offset = frame.pointee.rip &- UInt(bitPattern: address_of_vector_storm_failed()).u64
      return frame.pointee.vector == 6 && offset < 32
    }

    /// The running thread found something wrong: ends the storm.
    static func failed(_ bench: TestBench) {
      if let current = bench.cpus[CPU.current].current {
        failedCheck = current.pointee.block.load(fromByteOffset: STORM_FAILED_CHECK.int, as: UInt64.self)
      }
      end()
      bench.leave(for: nil)
    }

    private static func end() {
      isOver.store(true, ordering: .sequentiallyConsistent)
      Preemption.isRequested = true
    }

    /// Spoils something of the thread that was interrupted.
    private static func inflict(_ cpu: UnsafeMutablePointer<TestCPU>) {
      guard cpu.pointee.current != nil else { return }
      let frame = ContextSwitch.programFrame(stackTop: CPU.kernelStackTop)
      switch damage {
      case .none: break
      case .register: frame.pointee.r9 ^= 1
      case .redZone:
        // SAFETY: program stacks of the bench are kernel memory, and the program lies 4 KiB below their ends.
        VirtualAddress(frame.pointee.rsp &- 64).unsafePointer.storeBytes(of: 0, as: UInt64.self)
      case .flags: frame.pointee.rflags ^= 1
      case .vector: vector_spoil()
      case .framePointer: frame.pointee.rbp ^= 0x100
      }
    }

    // MARK: Figures

    private static var features: UInt64 {
      let mask = Boot.information.pointee.extendedStateMask
      var features: UInt64 = 0
      if ExtendedState.byteCount > 512 && mask & 4 != 0 { features |= STORM_FEATURE_AVX.u64 }
      if ExtendedState.byteCount > 512 && mask & 0xe4 == 0xe4 { features |= STORM_FEATURE_AVX512.u64 }
      return features
    }

    private static func sum(_ bench: TestBench) -> TestCPU {
      var sum = TestCPU()
      for cpu in 0..<TestBench.cpuLimit {
        sum.interrupts &+= bench.cpus[cpu].interrupts
        sum.nested &+= bench.cpus[cpu].nested
        sum.switches &+= bench.cpus[cpu].switches
        sum.migrations &+= bench.cpus[cpu].migrations
        sum.faults &+= bench.cpus[cpu].faults
        sum.calls &+= bench.cpus[cpu].calls
        sum.deepestStack = max(sum.deepestStack, bench.cpus[cpu].deepestStack)
      }
      return sum
    }

    private static func rounds(_ bench: TestBench) -> UInt64 {
      var sum: UInt64 = 0
      for index in 0..<TestBench.threadCount {
        sum &+= bench.threads[index].block.load(fromByteOffset: STORM_ITERATIONS.int, as: UInt64.self)
      }
      return sum
    }
  }

  private let nonMaskableCount = Atomic<UInt64>(0)
  private let isOver = Atomic<Bool>(false)
  // SAFETY: set before the storm begins; `failedCheck` also by whoever finds a failure: any of several will do.
  nonisolated(unsafe) private var damage: Storm.Damage = .none
  nonisolated(unsafe) private var limit: UInt64 = 0
  nonisolated(unsafe) private var timeLimit: UInt64 = 0
  nonisolated(unsafe) private var interruptCycles: UInt64 = 0
  nonisolated(unsafe) private var failedCheck: UInt64 = 0
#endif
