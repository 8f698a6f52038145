// Scheduler: switching, sleeping and waking, on top of each CPU's own queue.
//
// Rules. Interrupts are off wherever a `CPUScheduler` is touched. A thread is in a run queue, or in one wake list, or runs, or
// sleeps; it leaves sleep exactly once (`ParkWord`). A thread whose stack is still in use on a CPU (`onCPU`), or whose
// registers are still in one (`unsaved`), is only ever given to that CPU. A woken thread runs where its waker runs, if it
// may: no interrupt between CPUs, which costs more than a switch. If it then waits too long for the CPU, the CPU gives it
// to an idle one.
#if GUEST
  import Base
  import Instructions
  import Locks
  import Pages
  import Platform
  import VirtioABI

  /// The scheduler.
  public enum Scheduler {
    /// Called with interrupts off when a thread gets the CPU whose `ThreadSlot.addressSpace` is not nil and not what
    /// `CPUSlot.addressSpace` holds: makes that address space the CPU's and sets the CPU slot. Set by Memory, once.
    nonisolated(unsafe) public static var switchAddressSpace: (@convention(c) (UnsafeMutableRawPointer) -> Void)? = nil

    /// What all CPUs share. Made by `begin`, not by the language at first use: an interrupt handler may be the first.
    struct Shared: ~Copyable {
      /// The CPUs that idle: bit i is taken out by who gives CPU i something to do, or by itself.
      let idleCPUs = Atomic<UInt64>(0)
      /// The CPUs that schedule.
      let activeCPUs = Atomic<UInt64>(0)
      /// The next thread's number.
      let nextNumber = Atomic<UInt64>(1)
      let periods: GracePeriods
      var schedulers: InlineArray<64, UnsafeMutablePointer<CPUScheduler>?> = InlineArray(repeating: nil)
    }
    nonisolated(unsafe) private static var sharedPointer: UnsafeMutablePointer<Shared>? = nil
    @inline(__always) static var shared: UnsafeMutablePointer<Shared> { sharedPointer.unsafelyUnwrapped }

    /// Makes what all CPUs share; false if memory is out.
    static func makeShared() -> Bool {
      let words = CPU.limit &* GracePeriods.stride
      guard let memory = KernelHeap.allocate(byteCount: MemoryLayout<Shared>.size, alignment: 64),
        let periods = KernelHeap.allocate(byteCount: words &* MemoryLayout<LiveWord>.size, alignment: 64)
      else { return false }
      // SAFETY: fresh memory of those sizes, never freed.
      let cpus = periods.bindMemory(to: LiveWord.self, capacity: words)
      sharedPointer = memory.bindMemory(to: Shared.self, capacity: 1)
      shared.initialize(to: Shared(periods: GracePeriods(cpus: cpus, count: CPU.limit)))
      return true
    }

    /// The running thread.
    @inline(__always) static var current: UnsafeMutablePointer<ThreadControl> {
      // SAFETY: set before a CPU's first thread runs.
      CPU.currentThread.unsafelyUnwrapped.assumingMemoryBound(to: ThreadControl.self)
    }

    @inline(__always) static func scheduler(of cpu: Int) -> UnsafeMutablePointer<CPUScheduler> {
      shared.pointee.schedulers[cpu].unsafelyUnwrapped
    }

    /// Announces a CPU's scheduler, before the CPU uses it.
    static func add(_ scheduler: UnsafeMutablePointer<CPUScheduler>) {
      shared.pointee.schedulers[scheduler.pointee.cpu] = scheduler
      shared.pointee.activeCPUs.bitwiseOr(1 << scheduler.pointee.cpu.u64, ordering: .sequentiallyConsistent)
    }

    // MARK: Switching

    /// Why the running thread gives up the CPU.
    enum Reason {
      /// It sleeps, or ends: it is in no queue, or was made runnable meanwhile.
      case sleeping
      /// It was asked to; it still wants to run.
      case preempted
      /// It lets others go first.
      case yielding
    }

    /// Lets the CPU run whom the policy says. Interrupts are off; returns when the thread runs again, likewise.
    static func reschedule(_ reason: Reason) {
      let here = CPUScheduler.here
      let current = here.pointee.current
      let now = Clock.now()
      let ran = now &- here.pointee.since
      here.pointee.since = now
      Preemption.isRequested = false
      current.pointee.runTime &+= ran
      if current != here.pointee.idle {
        here.pointee.queue.charge(current.runNode, ran)
        leave(current, reason, here, now: now)
      }
      here.pointee.incoming.startLooking()
      repeat { here.takeIncoming(now: now) } while here.pointee.incoming.stopLooking()
      let node = here.pointee.queue.take()
      let next = node.map { ThreadControl.at($0.pointee.owner) } ?? here.pointee.idle
      here.noteQueued()
      Preemption.isRequested = false
      notePeriod(here.pointee.cpu, isIdle: next == here.pointee.idle, wasIdle: current == here.pointee.idle)
      if next == current { return }
      if reason == .preempted { current.pointee.involuntarySwitches &+= 1 }
      if current == here.pointee.idle {
        shared.pointee.idleCPUs.bitwiseAnd(~(1 << here.pointee.cpu.u64), ordering: .relaxed)
      }
      here.pointee.current = next
      here.armTimer(now: now)
      switchTo(next, from: current, here)
    }

    /// Nobody reads under RCU here and now: preemption is on.
    @inline(__always) private static func notePeriod(_ cpu: Int, isIdle: Bool, wasIdle: Bool) {
      if isIdle {
        shared.pointee.periods.enterIdle(cpu)
      } else if wasIdle {
        shared.pointee.periods.leaveIdle(cpu)
      } else {
        shared.pointee.periods.quiescent(cpu)
      }
    }

    /// The running thread leaves the CPU: back into the queue, to another CPU, or nowhere.
    private static func leave(
      _ thread: UnsafeMutablePointer<ThreadControl>, _ reason: Reason, _ here: UnsafeMutablePointer<CPUScheduler>,
      now: UInt64
    ) {
      if reason == .sleeping { return here.pointee.queue.leave(thread.runNode, now: now) }
      if thread.pointee.affinity.load(ordering: .relaxed) >> here.pointee.cpu.u64 & 1 == 0 {
        // It goes where it may run once its stack is free: `finishSwitch` sends it.
        here.pointee.queue.leave(thread.runNode, now: now)
        thread.pointee.isLeaving = true
      } else if reason == .yielding {
        here.pointee.queue.putBackYielding(thread.runNode, now: now)
      } else {
        here.pointee.queue.putBack(thread.runNode, now: now)
      }
    }

    private static func switchTo(
      _ next: UnsafeMutablePointer<ThreadControl>, from current: UnsafeMutablePointer<ThreadControl>,
      _ here: UnsafeMutablePointer<CPUScheduler>
    ) {
      here.pointee.previous = current
      next.pointee.onCPU.store(1, ordering: .relaxed)
      next.pointee.cpu.store(here.pointee.cpu.u32, ordering: .relaxed)
      here.load(next)
      if let space = next.pointee.slots[ThreadSlot.addressSpace.rawValue], space != CPU.slot(.addressSpace) {
        switchAddressSpace?(space)
      }
      CPU.currentThread = UnsafeMutableRawPointer(next)
      CPU.kernelStackTop = next.pointee.stackTop
      // SAFETY: control blocks do not move.
      withUnsafeMutablePointer(to: &current.pointee.saved) { from in
        withUnsafePointer(to: next.pointee.saved) { ContextSwitch.run(from: from, to: $0) }
      }
      finishSwitch()
    }

    /// The first thing on the stack switched to (perhaps on another CPU than it left): the old stack is free now.
    static func finishSwitch() {
      let here = CPUScheduler.here
      guard let previous = here.pointee.previous else { return }
      here.pointee.previous = nil
      if previous.pointee.isLeaving {
        previous.pointee.isLeaving = false
        here.saveIfLoaded(previous)
        previous.pointee.onCPU.store(0, ordering: .releasing)
        makeRunnable(previous)
      } else if previous.pointee.isEnding {
        if here.pointee.loaded == previous {
          here.pointee.loaded = nil
          previous.pointee.unsaved.store(0, ordering: .relaxed)
        }
        previous.pointee.onCPU.store(0, ordering: .releasing)
        reap(previous, here)
      } else {
        previous.pointee.onCPU.store(0, ordering: .releasing)
      }
    }

    /// Lets other threads of this CPU run.
    static func yield() {
      let wasEnabled = Interrupts.disable()
      reschedule(.yielding)
      Interrupts.restore(wasEnabled)
    }

    // MARK: Sleeping

    /// See `Parking.park`.
    static func park(until deadline: UInt64, interruptible: Bool) -> WaitResult {
      assert(Preemption.count == 0 && !CPU.isInInterrupt, "a thread sleeps where it must not")
      let thread = current
      while true {
        let wasEnabled = Interrupts.disable()
        defer { Interrupts.restore(wasEnabled) }
        if let result = thread.pointee.park.begin(interruptible: interruptible) { return result }
        let hasDeadline = deadline != .max
        let now = hasDeadline ? Clock.now() : 0
        if hasDeadline && deadline <= now && thread.pointee.park.timeOut() { return thread.pointee.park.end() }
        if hasDeadline {
          let here = CPUScheduler.here
          here.pointee.timers.arm(thread.timerNode, at: deadline.uint, post: post)
          here.armTimer(now: now)
        }
        thread.pointee.voluntarySwitches &+= 1
        reschedule(.sleeping)
        let result = thread.pointee.park.end()
        if hasDeadline { _ = thread.pointee.timer.cancel() }
        if result != .timedOut || Clock.now() >= deadline { return result }
      }
    }

    // MARK: Waking; from any context

    /// See `Parking.unpark`.
    static func unpark(_ thread: UnsafeMutablePointer<ThreadControl>) {
      if thread.pointee.park.unpark() { makeRunnable(thread) }
    }

    /// Puts a thread that has left its sleep where it will run.
    static func makeRunnable(_ thread: UnsafeMutablePointer<ThreadControl>) {
      let wasEnabled = Interrupts.disable()
      let now = Clock.now()
      place(thread, now: now)
      CPUScheduler.here.armTimer(now: now)
      Interrupts.restore(wasEnabled)
    }

    /// Puts a runnable thread into this CPU's queue or sends it to another's. Interrupts are off.
    static func place(_ thread: UnsafeMutablePointer<ThreadControl>, now: UInt64) {
      let here = CPUScheduler.here
      let home = thread.pointee.cpu.load(ordering: .relaxed).int
      if home != here.pointee.cpu {
        let isBound =
          thread.pointee.onCPU.load(ordering: .acquiring) != 0 || thread.pointee.unsaved.load(ordering: .acquiring) != 0
        if isBound { return send(thread, to: home) }
      }
      let allowed = thread.pointee.affinity.load(ordering: .relaxed)
      if allowed >> here.pointee.cpu.u64 & 1 == 0 && here.pointee.current != thread {
        here.saveIfLoaded(thread)
        return send(thread, to: target(allowed))
      }
      here.enqueue(thread, now: now)
    }

    /// A CPU for a thread that may run on those: an idle one, or any.
    private static func target(_ allowed: UInt64) -> Int {
      if let idle = claimIdleCPU(allowed) { return idle }
      let usable = allowed & shared.pointee.activeCPUs.load(ordering: .relaxed)
      return usable == 0 ? 0 : usable.trailingZeroBitCount
    }

    /// Takes an idle CPU among those out of the idle ones; the caller gives it something to do.
    static func claimIdleCPU(_ allowed: UInt64) -> Int? {
      while true {
        let idle = shared.pointee.idleCPUs.load(ordering: .relaxed)
        let candidates = idle & allowed
        if candidates == 0 { return nil }
        let bit = candidates & (0 &- candidates)
        if shared.pointee.idleCPUs.bitwiseAnd(~bit, ordering: .sequentiallyConsistent).oldValue & bit != 0 {
          return bit.trailingZeroBitCount
        }
      }
    }

    /// Gives a runnable thread to another CPU.
    static func send(_ thread: UnsafeMutablePointer<ThreadControl>, to cpu: Int) {
      if scheduler(of: cpu).pointee.incoming.push(thread.wakeNode) { InterProcessor.send(BootVectors.wake, to: cpu) }
    }

    /// Arms a timer of a `TimerControl`.
    static func arm(_ node: UnsafeMutablePointer<TimerNode<LiveWord>>, at nanoseconds: UInt64) {
      let wasEnabled = Interrupts.disable()
      let here = CPUScheduler.here
      here.pointee.timers.arm(node, at: nanoseconds.uint, post: post)
      here.armTimer(now: Clock.now())
      Interrupts.restore(wasEnabled)
    }

    /// A moment's wait for another CPU.
    @inline(__always) static func pause() { instruction_pause() }

    /// Gives a timer to the CPU in whose queue it is.
    static func post(_ cpu: Int, _ node: UnsafeMutablePointer<TimerNode<LiveWord>>) {
      scheduler(of: cpu).pointee.timers.push(request: node)
      InterProcessor.send(BootVectors.wake, to: cpu)
    }

    /// A timer's time has come: its owner is a thread, or, with the lowest bit set, a `TimerControl`.
    static func fire(_ owner: UInt) {
      if owner & 1 != 0 { return TimerControl.fire(owner & ~1) }
      let thread = ThreadControl.at(owner)
      if thread.pointee.park.timeOut() { makeRunnable(thread) }
    }

    /// See `Thread.interrupt`.
    static func interrupt(_ thread: UnsafeMutablePointer<ThreadControl>) {
      let wasEnabled = Interrupts.disable()
      defer { Interrupts.restore(wasEnabled) }
      if thread.pointee.park.interrupt() { return makeRunnable(thread) }
      // If it runs its program on another CPU, that CPU must come to the kernel to see it.
      let cpu = thread.pointee.cpu.load(ordering: .relaxed).int
      if thread.pointee.onCPU.load(ordering: .acquiring) != 0 && cpu != CPU.current {
        InterProcessor.send(BootVectors.wake, to: cpu)
      }
    }

    // MARK: Idling

    /// What an idle thread does.
    static func idle() -> Never {
      while true {
        _ = Interrupts.disable()
        let here = CPUScheduler.here
        here.pointee.incoming.startLooking()
        here.takeIncoming(now: Clock.now())
        if !here.pointee.queue.isEmpty {
          reschedule(.sleeping)
          Interrupts.enable()
          continue
        }
        shared.pointee.idleCPUs.bitwiseOr(1 << here.pointee.cpu.u64, ordering: .sequentiallyConsistent)
        if here.pointee.incoming.stopLooking() {
          Interrupts.enable()
          continue
        }
        // Threads that slept with their registers here may then be woken anywhere.
        if let loaded = here.pointee.loaded { here.saveIfLoaded(loaded) }
        askForWork(here.pointee.cpu)
        Idle.wait()
      }
    }

    /// Interrupts a CPU where threads wait, so that it sends one here.
    private static func askForWork(_ here: Int) {
      var others = shared.pointee.activeCPUs.load(ordering: .relaxed) & ~(1 << here.u64)
      while others != 0 {
        let cpu = others.trailingZeroBitCount
        others &= others &- 1
        if scheduler(of: cpu).pointee.queued.load(ordering: .relaxed) > 0 {
          return InterProcessor.send(BootVectors.wake, to: cpu)
        }
      }
    }
  }
#endif
