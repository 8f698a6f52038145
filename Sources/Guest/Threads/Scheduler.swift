// Scheduler: switching, sleeping and waking, on top of each CPU's own queue.
//
// Rules. Interrupts are off wherever a `CPUScheduler` is touched. A thread is in a run queue, or in one wake list, or runs, or
// sleeps; it leaves sleep exactly once (`ParkWord`). A thread whose stack is still in use on a CPU (`onCPU`), or whose
// registers are still in one (`unsaved`), is only ever given to that CPU. Where a woken thread runs: SchedulerWaking.
#if GUEST
  import Base
  import Instructions
  import Locks
  import Pages
  import Platform
  import VirtioABI

  /// The scheduler.
  public enum Scheduler {
    // SAFETY: a C function pointer, set once at boot before a thread has an address space.
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
    // SAFETY: set once (`makeShared`), by the only CPU, before scheduling begins.
    nonisolated(unsafe) private static var sharedPointer: UnsafeMutablePointer<Shared>? = nil
    @inline(__always) static var shared: UnsafeMutablePointer<Shared> { sharedPointer.unsafelyUnwrapped }
    /// Whether there is what all CPUs share.
    @inline(__always) static var hasBegun: Bool { sharedPointer != nil }

    /// Makes what all CPUs share; false if memory is out.
    static func makeShared() -> Bool {
      let words = CPU.count &* GracePeriods.stride
      guard let memory = KernelHeap.allocate(byteCount: MemoryLayout<Shared>.size, alignment: 64),
        let periods = KernelHeap.allocate(byteCount: words &* MemoryLayout<LiveWord>.size, alignment: 64)
      else { return false }
      // SAFETY: fresh memory of those sizes, never freed.
      let cpus = periods.bindMemory(to: LiveWord.self, capacity: words)
      sharedPointer = memory.bindMemory(to: Shared.self, capacity: 1)
      shared.initialize(to: Shared(periods: GracePeriods(cpus: cpus, count: CPU.count)))
      if CPU.count > 1 {
        let count = ReaderSlots<LiveWord>.usualCount(cpuCount: CPU.count)
        guard let slots = KernelHeap.allocate(byteCount: count &* MemoryLayout<LiveWord>.size, alignment: 64) else {
          return false
        }
        // SAFETY: fresh memory of that size, never freed.
        let words = slots.bindMemory(to: LiveWord.self, capacity: count)
        LiveReaderSlots.install(words, cpuCount: CPU.count)
      }
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
      let idle = here.pointee.idle
      let now = Clock.now()
      here.charge(now: now)
      if current != idle { leave(current, reason, here, now: now) } else { here.endWatch() }
      takeIncoming(here, reason, isIdle: current == idle, now: now)
      let next = here.pointee.queue.take().map { ThreadControl.at($0.pointee.owner) } ?? idle
      here.noteQueued()
      Preemption.isRequested = false
      notePeriod(here.pointee.cpu, isIdle: next == idle, wasIdle: current == idle)
      if next == current {
        here.pointee.startedAt = now
        here.armTimer(now: now, hasSwitched: true)
        if reason == .yielding { yieldForNothing(here, now: now) }
        return
      }
      if reason == .preempted { current.pointee.involuntarySwitches &+= 1 }
      if current == idle { shared.pointee.idleCPUs.bitwiseAnd(~(1 << here.pointee.cpu.u64), ordering: .relaxed) }
      here.pointee.current = next
      here.pointee.startedAt = now
      here.noteSwitch()
      here.armTimer(now: now, hasSwitched: true)
      switchTo(next, from: current, here)
    }

    /// The running thread, which sleeps by now, gives the CPU to one that is in no queue; nobody else waits. Interrupts are off;
    /// returns when the caller runs again, likewise.
    static func handOver(to next: UnsafeMutablePointer<ThreadControl>, _ here: UnsafeMutablePointer<CPUScheduler>) {
      let current = here.pointee.current
      let now = Clock.now()
      here.charge(now: now)
      if current.pointee.wokeAt != 0 { noteWhatCameOfWaking(current, .sleeping, now: now) }
      current.pointee.run.since = now
      next.pointee.run.catchUp(to: here.pointee.queue.reading.epoch)
      shared.pointee.periods.quiescent(here.pointee.cpu)
      here.pointee.current = next
      here.pointee.startedAt = now
      here.noteSwitch()
      switchTo(next, from: current, here)
    }

    /// Takes what other CPUs have sent. If the CPU may become idle it promises to look again, which spares them an interrupt.
    @inline(__always) private static func takeIncoming(
      _ here: UnsafeMutablePointer<CPUScheduler>, _ reason: Reason, isIdle: Bool, now: UInt64
    ) {
      if isIdle {
        // It may be looking, and ends that before it runs a thread: who gives it another then must interrupt.
        repeat { here.takeIncoming(now: now) } while here.pointee.incoming.stopLooking()
      } else if here.pointee.queue.isEmpty && reason == .sleeping {
        here.pointee.incoming.startLooking()
        // The idle thread keeps the promise.
        if here.pointee.incoming.isEmpty() { return }
        repeat { here.takeIncoming(now: now) } while here.pointee.incoming.stopLooking()
      } else if !here.pointee.incoming.isEmpty() {
        here.takeIncoming(now: now)
      }
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
    @inline(__always) private static func leave(
      _ thread: UnsafeMutablePointer<ThreadControl>, _ reason: Reason, _ here: UnsafeMutablePointer<CPUScheduler>,
      now: UInt64
    ) {
      if thread.pointee.wokeAt != 0 { noteWhatCameOfWaking(thread, reason, now: now) }
      if reason == .sleeping {
        thread.pointee.run.since = now
        return
      }
      thread.adoptPolicy()
      if reason == .preempted && thread.pointee.toldCPU != ThreadControl.nobodyTold { thread.pointee.park.notice() }
      if thread.pointee.affinity.load(ordering: .relaxed) >> here.pointee.cpu.u64 & 1 == 0 {
        // It goes where it may run once its stack is free: `finishSwitch` sends it.
        thread.pointee.isLeaving = true
      } else if reason == .yielding {
        here.pointee.queue.putBackYielding(thread.runNode, now: now)
      } else {
        here.pointee.queue.putBack(thread.runNode, ran: now &- here.pointee.startedAt, now: now)
      }
    }

    private static func switchTo(
      _ next: UnsafeMutablePointer<ThreadControl>, from current: UnsafeMutablePointer<ThreadControl>,
      _ here: UnsafeMutablePointer<CPUScheduler>
    ) {
      here.pointee.previous = current
      next.pointee.onCPU.store(1, ordering: .relaxed)
      next.pointee.cpu.store(here.pointee.cpu.u32, ordering: .relaxed)
      if next.pointee.toldCPU != here.pointee.cpu.u32 && next.pointee.toldCPU != ThreadControl.nobodyTold {
        next.pointee.park.notice()
      }
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
    @inline(__always) static func finishSwitch() {
      let here = CPUScheduler.here
      guard let previous = here.pointee.previous else { return }
      here.pointee.previous = nil
      if previous.pointee.isLeaving || previous.pointee.isEnding { return finishLeaving(previous, here) }
      previous.pointee.onCPU.store(0, ordering: .releasing)
    }

    private static func finishLeaving(
      _ previous: UnsafeMutablePointer<ThreadControl>, _ here: UnsafeMutablePointer<CPUScheduler>
    ) {
      if previous.pointee.isLeaving {
        previous.pointee.isLeaving = false
        here.saveIfLoaded(previous)
        previous.pointee.onCPU.store(0, ordering: .releasing)
        makeRunnable(previous)
      } else {
        if here.pointee.loaded == previous {
          here.pointee.loaded = nil
          previous.pointee.unsaved.store(0, ordering: .relaxed)
        }
        previous.pointee.onCPU.store(0, ordering: .releasing)
        reap(previous, here)
      }
    }

    /// Lets other threads of this CPU run.
    static func yield() {
      let wasEnabled = Interrupts.disable()
      reschedule(.yielding)
      Interrupts.restore(wasEnabled)
    }
  }
#endif
