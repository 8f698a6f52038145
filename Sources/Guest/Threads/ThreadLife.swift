// The life of threads: making, starting, ending, joining, and the start of scheduling itself.
#if GUEST
  import Base
  import Instructions
  import Locks
  import Pages
  import Platform
  import VirtioABI

  extension Scheduler {
    // MARK: Beginning

    /// Makes the boot CPU schedule: `entry(argument)` runs on the first thread, the boot stack becomes CPU 0's idle thread.
    /// After `Platform.start` and when frames, heap and kernel mappings are up; interrupts are enabled by this.
    public static func begin(
      name: StaticString, entry: @escaping Thread.Entry, argument: UnsafeMutableRawPointer? = nil
    )
      -> Never
    {
      guard makeShared(), let idle = ThreadControl.allocate(), let scheduler = makeScheduler(cpu: 0, idle: idle) else {
        panic("no memory for the scheduler")
      }
      idle.pointee.stackTop = CPU.kernelStackTop
      InterruptTable.register(BootVectors.timer, handler: { _ in CPUScheduler.here.timerFired() })
      InterruptTable.register(BootVectors.wake, handler: { _ in CPUScheduler.here.interrupted() })
      Upcalls.preempt = { Scheduler.reschedule(.preempted) }
      enter(scheduler)
      Parking.install(
        current: { UInt(bitPattern: Scheduler.current) },
        park: {
          switch Scheduler.park(until: $0, interruptible: $1) {
          case .woken: 0
          case .timedOut: 1
          case .interrupted: 2
          }
        },
        unpark: { Scheduler.unpark(ThreadControl.at($0)) })
      do throws(Errno) {
        try WorkQueue.begin()
        try Thread.spawn(name: name, entry: entry, argument: argument).detach()
      } catch {
        panic("no memory for the first thread")
      }
      Self.idle()
    }

    /// Starts the other CPUs. From a thread, once.
    /// - Throws: ENOMEM.
    public static func startOtherCPUs() throws(Errno) {
      for cpu in 1..<max(CPU.count, 1) {
        guard let idle = ThreadControl.allocate(), let stack = KernelStack.allocate(),
          let scheduler = makeScheduler(cpu: cpu, idle: idle)
        else { throw .ENOMEM }
        idle.pointee.stack = stack
        idle.pointee.stackTop = stack.top
        CPU.start(cpu, stackTop: stack.top, entry: { Scheduler.startSecondary($0) }, argument: scheduler)
      }
    }

    /// How many CPUs schedule by now.
    public static var activeCPUCount: Int { shared.pointee.activeCPUs.load(ordering: .relaxed).nonzeroBitCount }

    /// Whether a CPU schedules by now, and takes interrupts.
    public static func isActive(_ cpu: Int) -> Bool {
      shared.pointee.activeCPUs.load(ordering: .relaxed) &>> cpu.u64 & 1 != 0
    }

    private static func startSecondary(_ argument: UnsafeMutableRawPointer?) {
      // SAFETY: what `startOtherCPUs` gave.
      enter(argument.unsafelyUnwrapped.assumingMemoryBound(to: CPUScheduler.self))
      idle()
    }

    private static func makeScheduler(
      cpu: Int, idle: UnsafeMutablePointer<ThreadControl>
    ) -> UnsafeMutablePointer<CPUScheduler>? {
      guard let memory = KernelHeap.allocate(byteCount: MemoryLayout<CPUScheduler>.size, alignment: 64) else {
        return nil
      }
      // SAFETY: fresh memory of that size, never freed.
      let scheduler = memory.bindMemory(to: CPUScheduler.self, capacity: 1)
      scheduler.initialize(to: CPUScheduler(cpu: cpu, idle: idle))
      idle.pointee.name = "idle"
      idle.pointee.cpu.store(cpu.u32, ordering: .relaxed)
      idle.pointee.onCPU.store(1, ordering: .relaxed)
      return scheduler
    }

    /// The current stack becomes the CPU's idle thread. Interrupts are off.
    private static func enter(_ scheduler: UnsafeMutablePointer<CPUScheduler>) {
      scheduler.pointee.since = Clock.now()
      // The way back from system calls finds a thread's interrupt by itself.
      let idle = scheduler.pointee.idle
      _ = idle.pointee.park.interrupt()
      precondition(
        UnsafeRawPointer(idle).load(fromByteOffset: THREAD_PARK_WORD.int, as: UInt8.self) == THREAD_INTERRUPTED.u8)
      idle.pointee.park.clearInterrupt()
      scheduler.pointee.startedAt = scheduler.pointee.since
      scheduler.pointee.beganAt = scheduler.pointee.since
      scheduler.pointee.queue.advance(to: scheduler.pointee.since, running: nil)
      CPU.setSlot(.scheduler, scheduler)
      CPU.setSlot(.idleThread, scheduler.pointee.idle)
      CPU.currentThread = UnsafeMutableRawPointer(scheduler.pointee.idle)
      CPU.kernelStackTop = scheduler.pointee.idle.pointee.stackTop
      add(scheduler)
    }

    // MARK: Making

    static func create(
      name: StaticString, affinity: UInt64, entry: @escaping Thread.Entry, argument: UnsafeMutableRawPointer?
    ) throws(Errno) -> UnsafeMutablePointer<ThreadControl> {
      let thread = try make(name: name, affinity: affinity)
      thread.pointee.entry = entry
      thread.pointee.argument = argument
      thread.pointee.saved = ContextSwitch.prepare(
        stackTop: thread.pointee.stackTop, entry: { Scheduler.run($0) }, argument: thread)
      return thread
    }

    static func createProgram(name: StaticString, affinity: UInt64) throws(Errno) -> UnsafeMutablePointer<ThreadControl>
    {
      let thread = try make(name: name, affinity: affinity)
      guard giveExtendedState(thread) else {
        recycle(thread)
        throw .ENOMEM
      }
      // Its first steps are below the frame with which it will enter the program.
      thread.pointee.saved = ContextSwitch.prepare(
        stackTop: thread.pointee.stackTop - TrapFrame.byteCount, entry: { _ in Scheduler.runProgram() }, argument: nil)
      return thread
    }

    private static func make(name: StaticString, affinity: UInt64) throws(Errno) -> UnsafeMutablePointer<ThreadControl>
    {
      guard affinity & shared.pointee.activeCPUs.load(ordering: .relaxed) != 0 else { throw .EINVAL }
      guard let thread = takeFree() ?? ThreadControl.allocate() else { throw .ENOMEM }
      if thread.pointee.stack == nil {
        guard let stack = KernelStack.allocate() else {
          recycle(thread)
          throw .ENOMEM
        }
        thread.pointee.stack = stack
        thread.pointee.stackTop = stack.top
      }
      thread.pointee.name = name
      thread.pointee.number = shared.pointee.nextNumber.wrappingAdd(1, ordering: .relaxed).oldValue
      thread.pointee.affinity.store(affinity, ordering: .relaxed)
      thread.pointee.life.store(0)
      // A permit or an interrupt that was meant for the block's last thread.
      if thread.pointee.park.begin(interruptible: false) == nil { _ = thread.pointee.park.end() }
      thread.pointee.park.clearInterrupt()
      _ = thread.pointee.park.takeNotice()
      thread.pointee.toldCPU = ThreadControl.nobodyTold
      // As far ahead or behind as its creator: no head start, and none for the others.
      let creator = current
      let policy = creator.pointee.policy.load(ordering: .relaxed)
      thread.pointee.policy.store(SchedulingPolicy.word(policy, inheriting: 0), ordering: .relaxed)
      thread.pointee.run.rank = creator.pointee.run.rank
      thread.pointee.run.epoch = creator.pointee.run.epoch
      thread.pointee.wokeAt = 0
      thread.pointee.passesOn = 2
      thread.pointee.pollCycles = 0
      thread.pointee.runTime = 0
      thread.pointee.voluntarySwitches = 0
      thread.pointee.involuntarySwitches = 0
      thread.pointee.threadPointer = 0
      thread.pointee.isEnding = false
      thread.pointee.isVectorStateDead = false
      thread.pointee.slots = InlineArray(repeating: nil)
      return thread
    }

    /// Lets a new thread run: on an idle CPU if there is one, unless its creator is known to wait for those it wakes.
    static func start(_ thread: UnsafeMutablePointer<ThreadControl>) {
      let wasEnabled = Interrupts.disable()
      let here = CPUScheduler.here
      let isHereIdle = here.pointee.current == here.pointee.idle
      thread.pointee.cpu.store(here.pointee.cpu.u32, ordering: .relaxed)
      let affinity = thread.pointee.affinity.load(ordering: .relaxed)
      let staysHere = !isHereIdle && affinity >> here.pointee.cpu.u64 & 1 != 0 && waitsForOthers(here.pointee.current)
      if !isHereIdle { here.pointee.current.pointee.wokeAt = Clock.now() }
      if !isHereIdle, !staysHere, let cpu = claimIdleCPU(affinity) {
        thread.pointee.cpu.store(cpu.u32, ordering: .relaxed)
        send(thread, to: cpu)
      } else {
        makeRunnable(thread)
      }
      Interrupts.restore(wasEnabled)
    }

    /// The first function on a new thread's stack.
    private static func run(_ argument: UnsafeMutableRawPointer?) {
      finishSwitch()
      Interrupts.enable()
      let thread = current
      thread.pointee.entry.unsafelyUnwrapped(thread.pointee.argument)
      exit()
    }

    private static func runProgram() {
      finishSwitch()
      ContextSwitch.enterProgram()
    }

    // MARK: Ending

    /// See `Thread.exit`.
    static func exit() -> Never {
      let thread = current
      _ = Interrupts.disable()
      thread.pointee.isEnding = true
      reschedule(.sleeping)
      panic("an ended thread runs")
    }

    /// On another stack: the thread has ended, and nobody runs on its stack.
    static func reap(_ thread: UnsafeMutablePointer<ThreadControl>, _ here: UnsafeMutablePointer<CPUScheduler>) {
      if thread.pointee.life.compareExchange(0, 2) { return thread.pointee.joiner.wakeAll() }
      recycle(thread)
    }

    static func join(_ thread: UnsafeMutablePointer<ThreadControl>) {
      _ = thread.pointee.joiner.wait { thread.pointee.life.load() == 0 }
      recycle(thread)
    }

    static func detach(_ thread: UnsafeMutablePointer<ThreadControl>) {
      if !thread.pointee.life.compareExchange(0, 1) { recycle(thread) }
    }

    /// See `Thread.discard`.
    static func discard(_ thread: UnsafeMutablePointer<ThreadControl>) { recycle(thread) }

    /// How many blocks with stacks (and areas for vector registers) a CPU keeps.
    private static var keptStacks: Int { 16 }

    /// The block of a thread that is no more, for the next one.
    private static func recycle(_ thread: UnsafeMutablePointer<ThreadControl>) {
      _ = thread.pointee.timer.cancel()
      var area = thread.pointee.extendedState
      thread.pointee.extendedState = nil
      let wasEnabled = Interrupts.disable()
      let here = CPUScheduler.here
      var stack: KernelStack?
      if here.pointee.freeStacks >= keptStacks {
        stack = thread.pointee.stack
        thread.pointee.stack = nil
      }
      if thread.pointee.stack != nil {
        here.pointee.freeStacks &+= 1
        swap(&area, &thread.pointee.spareState)
      }
      thread.pointee.nextFree = here.pointee.free
      here.pointee.free = thread
      Interrupts.restore(wasEnabled)
      stack?.free()
      if let area { KernelHeap.free(area) }
    }

    private static func takeFree() -> UnsafeMutablePointer<ThreadControl>? {
      let wasEnabled = Interrupts.disable()
      defer { Interrupts.restore(wasEnabled) }
      let here = CPUScheduler.here
      guard let thread = here.pointee.free else { return nil }
      here.pointee.free = thread.pointee.nextFree
      if thread.pointee.stack != nil { here.pointee.freeStacks &-= 1 }
      return thread
    }

    /// See `Thread.trimStacks`.
    static func trimStacks() {
      let wasEnabled = Interrupts.disable()
      let here = CPUScheduler.here
      var next = here.pointee.free
      while let thread = next {
        next = thread.pointee.nextFree
        guard let stack = thread.pointee.stack else { continue }
        thread.pointee.stack = nil
        stack.free()
        if let area = thread.pointee.spareState { KernelHeap.free(area) }
        thread.pointee.spareState = nil
      }
      here.pointee.freeStacks = 0
      Interrupts.restore(wasEnabled)
    }

    // MARK: Properties

    static func clearInterrupt(_ thread: UnsafeMutablePointer<ThreadControl>) { thread.pointee.park.clearInterrupt() }

    static func isInterrupted(_ thread: UnsafeMutablePointer<ThreadControl>) -> Bool {
      thread.pointee.park.isInterrupted()
    }

    static func setAffinity(_ thread: UnsafeMutablePointer<ThreadControl>, _ mask: UInt64) {
      guard mask & shared.pointee.activeCPUs.load(ordering: .relaxed) != 0 else { return }
      thread.pointee.affinity.store(mask, ordering: .relaxed)
      let wasEnabled = Interrupts.disable()
      if thread != current { askToLook(thread) } else if mask >> CPU.current.u64 & 1 == 0 { reschedule(.yielding) }
      Interrupts.restore(wasEnabled)
    }

    static func runTime(_ thread: UnsafeMutablePointer<ThreadControl>) -> UInt64 {
      while true {
        // Where it runs, the CPU's account is open.
        let scheduler = scheduler(of: thread.pointee.cpu.load(ordering: .relaxed).int)
        let before = scheduler.pointee.charges.load(ordering: .acquiring)
        let used = instruction_load64(UnsafeRawPointer(thread.runTimeAddress))
        let since = instruction_load64(UnsafeRawPointer(scheduler.sinceAddress))
        let isRunning = scheduler.pointee.runs.load(ordering: .acquiring) == UInt(bitPattern: thread)
        if before & 1 == 0 && scheduler.pointee.charges.load(ordering: .acquiring) == before {
          let now = Clock.now()
          return isRunning && now > since ? used &+ now &- since : used
        }
        pause()
      }
    }

    // MARK: Programs

    static func threadPointer(_ thread: UnsafeMutablePointer<ThreadControl>) -> UInt64 {
      thread == current && thread.pointee.extendedState != nil ? ThreadPointer.current : thread.pointee.threadPointer
    }

    static func setThreadPointer(_ thread: UnsafeMutablePointer<ThreadControl>, _ value: UInt64) {
      thread.pointee.threadPointer = value
      if thread == current && thread.pointee.extendedState != nil { ThreadPointer.current = value }
    }

    static func becomeProgram(_ thread: UnsafeMutablePointer<ThreadControl>) throws(Errno) {
      guard thread.pointee.extendedState == nil else { return }
      guard giveExtendedState(thread) else { throw .ENOMEM }
      guard thread == current else { return }
      let wasEnabled = Interrupts.disable()
      CPUScheduler.here.load(thread)
      Interrupts.restore(wasEnabled)
    }

    private static func giveExtendedState(_ thread: UnsafeMutablePointer<ThreadControl>) -> Bool {
      let spare = thread.pointee.spareState
      thread.pointee.spareState = nil
      guard let area = spare ?? KernelHeap.allocate(byteCount: ExtendedState.byteCount, alignment: 64) else {
        return false
      }
      ExtendedState.initialise(area)
      thread.pointee.extendedState = area
      return true
    }

    static func saveExtendedState() {
      let wasEnabled = Interrupts.disable()
      if let area = current.pointee.extendedState { ExtendedState.saveForInstructions(area) }
      Interrupts.restore(wasEnabled)
    }

    static func copyExtendedState(to thread: UnsafeMutablePointer<ThreadControl>) {
      let wasEnabled = Interrupts.disable()
      if current.pointee.extendedState != nil, let area = thread.pointee.extendedState {
        ExtendedState.saveForInstructions(area)
      }
      Interrupts.restore(wasEnabled)
    }

    static func reloadExtendedState() {
      let wasEnabled = Interrupts.disable()
      if let area = current.pointee.extendedState { ExtendedState.restore(area) }
      Interrupts.restore(wasEnabled)
    }
  }
#endif
