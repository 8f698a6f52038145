// CPUScheduler: what each CPU keeps for scheduling, and how it looks for work.
//
// Everything here but `incoming`, `queued` and a timer queue's requests is touched by its own CPU only, with interrupts
// off: there is no lock on a run queue. Another CPU that wants something done leaves it in a list and interrupts.
//
// When the timer is armed: only while a deadline is pending here, or while a thread waits for a CPU that runs another.
// `armedFor` is the time it is armed for; it is armed anew only for an earlier one. A timer that fires early looks and
// arms again. So a switch, a wake and a wait that ends before its deadline cost no access to the timer.
#if GUEST
  import Base
  import Locks
  import Platform
  import VirtioABI

  struct CPUScheduler: ~Copyable {
    let cpu: Int
    var current: UnsafeMutablePointer<ThreadControl>
    let idle: UnsafeMutablePointer<ThreadControl>
    var queue = RunQueue()
    var timers: TimerQueue<LiveWord>
    let incoming = WakeList<LiveWord>()
    /// How many threads wait in `queue`, for other CPUs to see.
    let queued = Atomic<Int>(0)
    /// When the running thread was last charged.
    var since: UInt64 = 0
    /// What the local timer is armed for; `UInt64.max` if it is not.
    var armedFor: UInt64 = .max
    /// The thread that was switched away from, until the switch is complete.
    var previous: UnsafeMutablePointer<ThreadControl>?
    /// Whose vector registers and FS base the CPU holds, if anybody's that still counts.
    var loaded: UnsafeMutablePointer<ThreadControl>?
    /// Control blocks of ended threads, some with stacks.
    var free: UnsafeMutablePointer<ThreadControl>?
    /// How many of them have stacks.
    var freeStacks: Int = 0

    /// A thread that waits longer than this for a CPU goes to an idle one, ns.
    static var patience: UInt64 { 250_000 }

    init(cpu: Int, idle: UnsafeMutablePointer<ThreadControl>) {
      self.cpu = cpu
      self.idle = idle
      current = idle
      timers = TimerQueue(cpu: cpu)
    }

    /// The running CPU's. With interrupts off, or it may be another CPU's a moment later.
    @inline(__always) static var here: UnsafeMutablePointer<CPUScheduler> {
      // SAFETY: the slot is set before a CPU's first thread runs, and never changes.
      CPU.slot(.scheduler).unsafelyUnwrapped.assumingMemoryBound(to: CPUScheduler.self)
    }
  }

  // Not methods of the structure: they call what comes back to it, and so must not hold it while they run.
  extension UnsafeMutablePointer<CPUScheduler> {
    // MARK: Queueing

    /// Puts a thread that may run here into the queue, and asks for a switch if it should run at once.
    func enqueue(_ thread: UnsafeMutablePointer<ThreadControl>, now: UInt64) {
      thread.pointee.cpu.store(pointee.cpu.u32, ordering: .relaxed)
      pointee.queue.add(thread.runNode, now: now)
      noteQueued()
      if pointee.current == pointee.idle
        || pointee.queue.shouldPreempt(pointee.current.runNode, ran: now &- pointee.since, isWaking: true)
      {
        Preemption.isRequested = true
      }
    }

    @inline(__always) func noteQueued() { pointee.queued.store(pointee.queue.count, ordering: .relaxed) }

    /// Takes in what other CPUs have made runnable here.
    func takeIncoming(now: UInt64) {
      pointee.incoming.takeAll { Scheduler.place(ThreadControl.at($0), now: now) }
    }

    // MARK: Timer

    /// Arms the timer if something here must be looked at earlier than it is armed for.
    func armTimer(now: UInt64) {
      var wanted = pointee.timers.firstDeadline.u64
      if !pointee.queue.isEmpty && pointee.current != pointee.idle {
        let ran = now &- pointee.since
        var wait = pointee.queue.remaining(pointee.current.runNode, ran: ran)
        if Scheduler.shared.pointee.idleCPUs.load(ordering: .relaxed) != 0 { wait = min(wait, CPUScheduler.patience) }
        wanted = min(wanted, now &+ wait)
      }
      if wanted < pointee.armedFor {
        pointee.armedFor = wanted
        LocalTimer.arm(at: wanted)
      }
    }

    /// The local timer has fired.
    func timerFired() {
      pointee.armedFor = .max
      let now = Clock.now()
      fireDue(now: now)
      look(now: now)
    }

    /// Another CPU wants something: there are incoming threads, timer requests, or it is idle and wants work.
    func interrupted() {
      let now = Clock.now()
      takeIncoming(now: now)
      if !Scheduler.shared.pointee.periods.isCurrent(pointee.cpu) { Preemption.isRequested = true }
      while pointee.timers.serveRequest(post: Scheduler.post) {}
      fireDue(now: now)
      look(now: now)
    }

    private func fireDue(now: UInt64) {
      while let node = pointee.timers.takeDue(now: now.uint) {
        Scheduler.fire(node.pointee.owner)
        TimerQueue<LiveWord>.fired(node)
      }
    }

    /// Shares work, ends slices, arms the timer.
    private func look(now: UInt64) {
      if !pointee.queue.isEmpty && pointee.current != pointee.idle {
        shareWork(now: now)
        if pointee.queue.shouldPreempt(pointee.current.runNode, ran: now &- pointee.since, isWaking: false) {
          Preemption.isRequested = true
        }
      }
      armTimer(now: now)
    }

    /// Sends threads that have waited here for long to idle CPUs that may run them.
    func shareWork(now: UInt64) {
      while let node = pointee.queue.first {
        let thread = ThreadControl.at(node.pointee.owner)
        guard now &- node.pointee.since >= CPUScheduler.patience else { return }
        guard let target = Scheduler.claimIdleCPU(thread.pointee.affinity.load(ordering: .relaxed)) else { return }
        pointee.queue.remove(node, now: now)
        noteQueued()
        saveIfLoaded(thread)
        Scheduler.send(thread, to: target)
      }
    }

    // MARK: Registers of programs

    /// Writes the thread's registers to its area if they are in this CPU, so that it may run elsewhere.
    func saveIfLoaded(_ thread: UnsafeMutablePointer<ThreadControl>) {
      guard pointee.loaded == thread else { return }
      thread.pointee.threadPointer = ThreadPointer.current
      ExtendedState.save(thread.pointee.extendedState.unsafelyUnwrapped)
      thread.pointee.unsaved.store(0, ordering: .releasing)
      pointee.loaded = nil
    }

    /// Makes the CPU hold the thread's registers. A thread without a program leaves them as they are: the kernel uses none,
    /// so they are saved only when another program's thread comes.
    func load(_ thread: UnsafeMutablePointer<ThreadControl>) {
      guard let area = thread.pointee.extendedState, pointee.loaded != thread else { return }
      if let loaded = pointee.loaded { saveIfLoaded(loaded) }
      ExtendedState.restore(area)
      ThreadPointer.current = thread.pointee.threadPointer
      thread.pointee.unsaved.store(1, ordering: .relaxed)
      pointee.loaded = thread
    }
  }
#endif
