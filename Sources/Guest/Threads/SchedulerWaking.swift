// Sleeping, waking, and on which CPU a woken thread runs.
//
// Placement. Where the waker runs, if the waker is about to sleep itself (its history says so), or if no CPU that the thread
// may use is idle: a switch is cheaper than anything between CPUs. Else on an idle CPU, the one it ran on last if that is
// among them: without an interrupt if that CPU is still polling. What this gets wrong is put right within `patience` by the
// CPU whose threads wait, or sooner by an idle CPU that asks it to.
//
// SAFETY of all: control blocks and the CPUs' schedulers are never freed, so whoever a parker, a node or a number names is
// there. `here` is this CPU's, with interrupts off. The plain fields of a thread that sleeps are its that took it out of its
// sleep, once (`ParkWord`), until it is queued or sent; what others look at is atomic.
#if GUEST
  import Base
  import Instructions
  import Locks
  import Platform
  import VirtioABI

  extension Scheduler {
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

    /// Gives `target` its permit and sleeps until the caller's own comes. Where nobody else waits for this CPU and the target sleeps
    /// and may run here, it gets the CPU without having been in a queue; time is charged as ever, so it gets no more of it.
    static func pass(to target: UnsafeMutablePointer<ThreadControl>, until deadline: UInt64) -> WaitResult {
      let thread = current
      let wasEnabled = Interrupts.disable()
      let here = CPUScheduler.here
      let isQuiet =
        deadline == .max && here.pointee.queue.isEmpty && !Preemption.isRequested && here.pointee.incoming.isEmpty()
      guard isQuiet, target.pointee.park.unpark() else {
        Interrupts.restore(wasEnabled)
        unpark(target)
        return park(until: deadline, interruptible: true)
      }
      // It is ours to place now.
      guard mayHandOver(target, here) else {
        makeRunnable(target)
        Interrupts.restore(wasEnabled)
        return park(until: deadline, interruptible: true)
      }
      if let result = thread.pointee.park.begin(interruptible: true) {
        makeRunnable(target)
        Interrupts.restore(wasEnabled)
        return result
      }
      thread.pointee.voluntarySwitches &+= 1
      handOver(to: target, here)
      let result = thread.pointee.park.end()
      Interrupts.restore(wasEnabled)
      return result
    }

    /// Whether a thread that has just left its sleep may run here and now: its stack is free, its registers are saved or here, and it has an ordinary
    /// claim to the CPU.
    @inline(__always) private static func mayHandOver(
      _ target: UnsafeMutablePointer<ThreadControl>, _ here: UnsafeMutablePointer<CPUScheduler>
    ) -> Bool {
      target.pointee.onCPU.load(ordering: .acquiring) == 0
        && (target.pointee.unsaved.load(ordering: .acquiring) == 0
          || target.pointee.cpu.load(ordering: .relaxed).int == here.pointee.cpu)
        && target.pointee.affinity.load(ordering: .relaxed) >> here.pointee.cpu.u64 & 1 != 0
        && target.pointee.policy.load(ordering: .relaxed) == target.pointee.adoptedPolicy
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
    private static func place(_ thread: UnsafeMutablePointer<ThreadControl>, now: UInt64) {
      let here = CPUScheduler.here
      let home = thread.pointee.cpu.load(ordering: .relaxed).int
      let isBound =
        thread.pointee.onCPU.load(ordering: .acquiring) != 0 || thread.pointee.unsaved.load(ordering: .acquiring) != 0
      if isBound && home != here.pointee.cpu { return send(thread, to: home) }
      let allowed = thread.pointee.affinity.load(ordering: .relaxed)
      let waker = here.pointee.current
      if allowed >> here.pointee.cpu.u64 & 1 == 0 {
        if waker != thread {
          here.saveIfLoaded(thread)
          return send(thread, to: target(allowed))
        }
      } else if !isBound, waker != here.pointee.idle, !CPU.isInInterrupt {
        waker.pointee.wokeAt = now
        if waker.pointee.passesOn < 2, let idle = claimIdleCPU(allowed, home: home) { return send(thread, to: idle) }
      }
      here.enqueue(thread, now: now)
    }

    /// A thread that this CPU was given: it keeps it, unless it may not run here.
    static func receive(_ thread: UnsafeMutablePointer<ThreadControl>, now: UInt64) {
      let here = CPUScheduler.here
      if thread.pointee.affinity.load(ordering: .relaxed) >> here.pointee.cpu.u64 & 1 != 0 {
        here.enqueue(thread, now: now)
      } else {
        place(thread, now: now)
      }
    }

    /// A thread that wakes another and sleeps within this time has passed its work on, ns.
    private static var passingTime: UInt64 { 20_000 }

    /// Whether a thread has slept soon after it had woken somebody, and no other way, lately.
    static func waitsForOthers(_ thread: UnsafeMutablePointer<ThreadControl>) -> Bool {
      thread.pointee.passesOn >= 3
    }

    /// The running thread, which has woken another, leaves the CPU: what its next wake should be taken for.
    static func noteWhatCameOfWaking(_ thread: UnsafeMutablePointer<ThreadControl>, _ reason: Reason, now: UInt64) {
      if now &- thread.pointee.wokeAt >= passingTime {
        if thread.pointee.passesOn > 0 { thread.pointee.passesOn &-= 1 }
      } else if reason == .sleeping && thread.pointee.passesOn < 3 {
        thread.pointee.passesOn &+= 1
      }
      thread.pointee.wokeAt = 0
    }

    // MARK: Other CPUs

    /// A CPU for a thread that may run on those: an idle one, or any.
    private static func target(_ allowed: UInt64) -> Int {
      if let idle = claimIdleCPU(allowed) { return idle }
      let usable = allowed & shared.pointee.activeCPUs.load(ordering: .relaxed)
      return usable == 0 ? 0 : usable.trailingZeroBitCount
    }

    /// Takes an idle CPU among those out of the idle ones, `home` rather than another; the caller gives it something to do.
    static func claimIdleCPU(_ allowed: UInt64, home: Int = 0) -> Int? {
      while true {
        let candidates = shared.pointee.idleCPUs.load(ordering: .relaxed) & allowed
        if candidates == 0 { return nil }
        let bit = candidates >> home.u64 & 1 != 0 ? 1 << home.u64 : candidates & (0 &- candidates)
        if shared.pointee.idleCPUs.bitwiseAnd(~bit, ordering: .sequentiallyConsistent).oldValue & bit != 0 {
          return bit.trailingZeroBitCount
        }
      }
    }

    /// Gives a runnable thread to another CPU.
    static func send(_ thread: UnsafeMutablePointer<ThreadControl>, to cpu: Int) {
      CPUScheduler.here.pointee.counts.sent.add()
      if scheduler(of: cpu).pointee.incoming.push(thread.wakeNode) { interrupt(cpu) }
    }

    /// Makes another CPU look at what it was given. Dear: counted there.
    static func interrupt(_ cpu: Int) {
      InterProcessor.send(BootVectors.wake, to: cpu)
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
      interrupt(cpu)
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
      askToLook(thread)
    }

    /// If the thread runs on another CPU, that CPU comes to the kernel.
    static func askToLook(_ thread: UnsafeMutablePointer<ThreadControl>) {
      let cpu = thread.pointee.cpu.load(ordering: .relaxed).int
      if thread.pointee.onCPU.load(ordering: .acquiring) != 0 && cpu != CPU.current { interrupt(cpu) }
    }
  }
#endif
