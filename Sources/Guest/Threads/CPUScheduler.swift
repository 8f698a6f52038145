// CPUScheduler: what each CPU keeps for scheduling, and how it looks for work.
//
// Everything here but `incoming`, `reviews`, `queued`, `isAsked` and a timer queue's requests is touched by its own CPU only, with interrupts
// off: there is no lock on a run queue. Another CPU that wants something done leaves it in a list and interrupts.
//
// When the timer is armed: only while a deadline is pending here, or while a thread waits for a CPU that runs another.
// `armedFor` is the time it is armed for; it is armed anew only for an earlier one. A timer that fires early looks and
// arms again. So a switch, a wake and a wait that ends before its deadline cost no access to the timer. For a deadline it is
// armed as much earlier as it usually comes late (`TimerLateness`).
#if GUEST
  import Base
  import Instructions
  import Locks
  import Platform
  import VirtioABI

  struct CPUScheduler: ~Copyable {
    let cpu: Int
    var current: UnsafeMutablePointer<ThreadControl>
    let idle: UnsafeMutablePointer<ThreadControl>
    var queue: RunQueue
    var timers: TimerQueue<LiveWord>
    let incoming = WakeList<LiveWord>()
    /// Threads whose policies have changed, to be looked at here.
    let reviews = WakeList<LiveWord>()
    /// For other CPUs to see: how many threads wait in `queue`, switches, and how the running thread stood when it got the CPU
    /// (price 0: nobody has a better claim to the CPU). Read without order: a mixture misplaces a thread for a moment.
    let queued = Atomic<Int>(0)
    let switches = Atomic<UInt64>(0)
    let runningPrice = Atomic<UInt32>(0)
    let runningEpoch = Atomic<UInt32>(0)
    let runningRank = Atomic<Int64>(0)
    let runningCharge = Atomic<Int64>(0)
    /// Odd while the running thread is being charged or changes; the thread's address.
    let charges = Atomic<UInt64>(0)
    let runs = Atomic<UInt>(0)
    /// 1: an idle CPU wants a thread that waits here.
    let isAsked = Atomic<UInt32>(0)
    /// When the running thread was last charged, and when it got the CPU.
    var since: UInt64 = 0
    var startedAt: UInt64 = 0
    /// When the CPU began to schedule; constant after that.
    var beganAt: UInt64 = 0
    /// How long the CPU polls before it halts, ns.
    var pollTime: UInt64 = 10_000
    /// How often it has halted after polling since polling last helped.
    var vainPolls: UInt32 = 0
    let counts = Counts()
    /// What the local timer is armed for; `UInt64.max` if it is not.
    var armedFor: UInt64 = .max
    /// When it is to come, then, and how late it does.
    var timerExpected: UInt64 = 0
    var lateness = TimerLateness()
    /// The thread that was switched away from, until the switch is complete.
    var previous: UnsafeMutablePointer<ThreadControl>?
    /// Whose vector registers and FS base the CPU holds, if anybody's that still counts.
    var loaded: UnsafeMutablePointer<ThreadControl>?
    /// Where it looks while it is idle, and whether it does so now.
    var watch: IdleWatch?
    var isWatching = false
    /// Work to be submitted as soon as the CPU has nothing to run.
    var whenIdle: UnsafeMutablePointer<WorkItem>?
    /// Control blocks of ended threads, some with stacks.
    var free: UnsafeMutablePointer<ThreadControl>?
    /// How many of them have stacks.
    var freeStacks: Int = 0

    /// What has happened here, for statistics.
    struct Counts: ~Copyable {
      /// Interrupts of the timer, and by other CPUs for threads, timers and work.
      let timers = Tally()
      let interrupts = Tally()
      /// Threads given to other CPUs.
      let sent = Tally()
      /// Idle times that ended while the CPU polled, and halts.
      let polled = Tally()
      let halts = Tally()
    }

    /// A count that one CPU keeps and all may read.
    struct Tally: ~Copyable {
      private let number = Atomic<UInt64>(0)
      var value: UInt64 { number.load(ordering: .relaxed) }
      @inline(__always) func add() { number.store(value &+ 1, ordering: .relaxed) }
    }

    /// A thread that waits longer than this for a CPU goes to an idle one, ns.
    static var patience: UInt64 { 250_000 }
    /// One that waits less than this is left to the next switch, though an idle CPU asks for it, ns.
    static var unnoticed: UInt64 { 5_000 }

    init(cpu: Int, idle: UnsafeMutablePointer<ThreadControl>) {
      self.cpu = cpu
      self.idle = idle
      current = idle
      queue = RunQueue(number: cpu.u32 &+ 1)
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
    // SAFETY: schedulers do not move.
    @inline(__always) var sinceAddress: UnsafeMutablePointer<UInt64> {
      withUnsafeMutablePointer(to: &pointee.since) { $0 }
    }

    // MARK: Queueing

    /// Charges the running thread with the time up to now.
    @inline(__always) func charge(now: UInt64) {
      let current = pointee.current
      let number = pointee.charges.load(ordering: .relaxed)
      pointee.charges.store(number &+ 1, ordering: .relaxed)
      atomicMemoryFence(ordering: .releasing)
      current.pointee.runTime &+= now &- pointee.since
      pointee.since = now
      pointee.charges.store(number &+ 2, ordering: .releasing)
      pointee.queue.advance(to: now, running: current == pointee.idle ? nil : current.runNode)
    }

    /// Puts a thread that may run here into the queue, and asks for a switch if it should run at once.
    func enqueue(_ thread: UnsafeMutablePointer<ThreadControl>, now: UInt64) {
      // Who changes the policy looks at the CPU after that: a full barrier between the one and the other, where they change.
      if thread.pointee.cpu.load(ordering: .relaxed) != pointee.cpu.u32 {
        _ = thread.pointee.cpu.exchange(pointee.cpu.u32, ordering: .sequentiallyConsistent)
      }
      thread.adoptPolicy()
      // A few microseconds that have not been charged yet matter to nobody here.
      let isByEvent = CPU.isInInterrupt
      let unnoticed: UInt64 = isByEvent ? 20_000 : 100_000
      if now &- pointee.since > unnoticed || thread.pointee.run.epoch != pointee.queue.reading.epoch {
        charge(now: now)
      }
      pointee.queue.add(thread.runNode, now: now)
      noteQueued()
      if pointee.current == pointee.idle
        || pointee.queue.shouldPreempt(
          pointee.current.runNode, ran: now &- pointee.startedAt, isWaking: true, isByEvent: isByEvent)
      {
        Preemption.isRequested = true
      }
    }

    @inline(__always) func noteQueued() { pointee.queued.store(pointee.queue.count, ordering: .relaxed) }

    @inline(__always) func noteSwitch() {
      pointee.runs.store(UInt(bitPattern: pointee.current), ordering: .releasing)
      pointee.switches.store(pointee.switches.load(ordering: .relaxed) &+ 1, ordering: .relaxed)
      noteStanding()
    }

    @inline(__always) func noteStanding() {
      let current = pointee.current
      let isOrdinary = current != pointee.idle && current.pointee.run.priority == 0
      pointee.runningPrice.store(isOrdinary ? current.pointee.run.price : 0, ordering: .relaxed)
      pointee.runningEpoch.store(pointee.queue.reading.epoch, ordering: .relaxed)
      pointee.runningRank.store(current.pointee.run.rank, ordering: .relaxed)
      pointee.runningCharge.store(pointee.queue.reading.charge, ordering: .relaxed)
    }

    /// Takes in what other CPUs have made runnable here.
    func takeIncoming(now: UInt64) {
      pointee.incoming.takeAll { Scheduler.receive(ThreadControl.at($0), now: now) }
    }

    // MARK: Timer

    /// Arms the timer if something here must be looked at earlier than it is armed for. `hasSwitched`: the running thread has
    /// just been chosen, so that it has at least a slice. If it is about to lose the CPU, the switch will arm the timer: one
    /// that fired until then would fire for nothing, and on a slow machine leave no time to get there.
    func armTimer(now: UInt64, hasSwitched: Bool = false) {
      if Preemption.isRequested { return }
      var wanted = pointee.lateness.start(for: pointee.timers.firstDeadline.u64)
      if let first = pointee.queue.first, pointee.current != pointee.idle {
        let latest = now &+ (hasSwitched ? RunQueue.slice : 0)
        if pointee.armedFor > latest { wanted = min(wanted, endOfSlice(now: now)) }
        let allowed = ThreadControl.at(first.pointee.owner).pointee.affinity.load(ordering: .relaxed)
        if Scheduler.shared.pointee.idleCPUs.load(ordering: .relaxed) & allowed != 0 {
          wanted = min(wanted, first.pointee.since &+ CPUScheduler.patience)
        }
      }
      armTimer(now: now, noLaterThan: wanted)
    }

    /// Has the timer fire at some time at the latest.
    func armTimer(now: UInt64, noLaterThan time: UInt64) {
      guard time < pointee.armedFor else { return }
      pointee.armedFor = time
      pointee.timerExpected = max(time, now &+ LocalTimer.shortestDelay)
      LocalTimer.arm(at: time)
    }

    private func endOfSlice(now: UInt64) -> UInt64 {
      if now != pointee.since { charge(now: now) }
      let wait = pointee.queue.remaining(pointee.current.runNode, ran: now &- pointee.startedAt)
      return wait == .max ? .max : now &+ wait
    }

    /// The local timer has fired.
    func timerFired() {
      var now = Clock.now()
      pointee.counts.timers.add()
      if pointee.armedFor != .max { pointee.lateness.learn(now, armedFor: pointee.timerExpected) }
      pointee.armedFor = .max
      // It may have come before the deadline for once: not worth another interrupt.
      let first = pointee.timers.firstDeadline.u64
      if first > now && first &- now <= pointee.lateness.typical {
        while now < first {
          instruction_pause()
          now = Clock.now()
        }
      }
      fireDue(now: now)
      look(now: now, leastWait: CPUScheduler.patience)
    }

    /// Another CPU wants something: there are incoming threads, timer requests, or it is idle and wants work.
    func interrupted() {
      pointee.counts.interrupts.add()
      let now = Clock.now()
      takeIncoming(now: now)
      takeReviews(now: now)
      if !Scheduler.shared.pointee.periods.isCurrent(pointee.cpu) { Preemption.isRequested = true }
      while pointee.timers.serveRequest(post: Scheduler.post) {}
      fireDue(now: now)
      let isAsked = pointee.isAsked.load(ordering: .acquiring) != 0
      if isAsked { pointee.isAsked.store(0, ordering: .relaxed) }
      look(now: now, leastWait: isAsked ? CPUScheduler.unnoticed : CPUScheduler.patience)
    }

    private func fireDue(now: UInt64) {
      while let node = pointee.timers.takeDue(now: now.uint) {
        Scheduler.fire(node.pointee.owner)
        TimerQueue<LiveWord>.fired(node)
      }
    }

    /// Shares work that has waited for so long, ends slices, arms the timer.
    private func look(now: UInt64, leastWait: UInt64) {
      let current = pointee.current
      if current != pointee.idle {
        charge(now: now)
        if current.pointee.policy.load(ordering: .relaxed) != current.pointee.adoptedPolicy
          || current.pointee.affinity.load(ordering: .relaxed) >> pointee.cpu.u64 & 1 == 0
        {
          Preemption.isRequested = true
        }
        if !pointee.queue.isEmpty {
          // Who has just come and is about to run here is not sent on.
          if !Preemption.isRequested {
            shareWork(now: now, leastWait: leastWait)
            balance(now: now)
          }
          if pointee.queue.shouldPreempt(current.runNode, ran: now &- pointee.startedAt, isWaking: false) {
            Preemption.isRequested = true
          }
        }
      }
      armTimer(now: now)
    }

    /// Sends threads that have waited for so long to idle CPUs that may run them.
    func shareWork(now: UInt64, leastWait: UInt64) {
      while let node = pointee.queue.first {
        let thread = ThreadControl.at(node.pointee.owner)
        guard now &- node.pointee.since >= leastWait else { return }
        guard let target = Scheduler.claimIdleCPU(thread.pointee.affinity.load(ordering: .relaxed)) else { return }
        // Who woke it did not sleep soon: once more, and the next goes elsewhere at once.
        if pointee.current.pointee.passesOn > 0 { pointee.current.pointee.passesOn &-= 1 }
        give(thread, to: target)
      }
    }

    /// Sends the first waiting thread to a CPU with fewer that wait, if it is more than one fewer, or if the one that runs there
    /// has had much more. So with three threads on two CPUs each comes to two thirds.
    private func balance(now: UInt64) {
      guard let node = pointee.queue.first else { return }
      let thread = ThreadControl.at(node.pointee.owner)
      let allowed = thread.pointee.affinity.load(ordering: .relaxed) & ~(1 << pointee.cpu.u64)
      var others = Scheduler.shared.pointee.activeCPUs.load(ordering: .relaxed) & allowed
      while others != 0 {
        let cpu = others.trailingZeroBitCount
        others &= others &- 1
        let other = Scheduler.scheduler(of: cpu)
        let lead = pointee.queue.count &- other.pointee.queued.load(ordering: .relaxed)
        guard lead > 0 else { continue }
        let standing = RunQueue.Standing(
          price: other.pointee.runningPrice.load(ordering: .relaxed),
          epoch: other.pointee.runningEpoch.load(ordering: .relaxed),
          rank: other.pointee.runningRank.load(ordering: .relaxed),
          charge: other.pointee.runningCharge.load(ordering: .relaxed))
        if standing.price == 0 { continue }
        if lead > 1 || pointee.queue.shouldMove(node, beside: standing) { return give(thread, to: cpu) }
      }
    }

    /// Sends a queued thread to another CPU.
    private func give(_ thread: UnsafeMutablePointer<ThreadControl>, to cpu: Int) {
      pointee.queue.remove(thread.runNode)
      noteQueued()
      _ = saveIfLoaded(thread)
      Scheduler.send(thread, to: cpu)
    }

    // MARK: Registers of programs

    /// Writes the thread's registers to its area if they are in this CPU, so that it may run elsewhere. True: x87 is then known
    /// not to be in use.
    @inline(__always) @discardableResult func saveIfLoaded(_ thread: UnsafeMutablePointer<ThreadControl>) -> Bool {
      guard pointee.loaded == thread else { return false }
      thread.pointee.threadPointer = ThreadPointer.current
      let area = thread.pointee.extendedState.unsafelyUnwrapped
      // Whatever else the thread is about in the kernel: this frame says how it came there, and to where it goes back.
      let frame = ContextSwitch.programFrame(stackTop: thread.pointee.stackTop)
      var isX87Clean = false
      if thread.pointee.isVectorStateDead {
        // Its area keeps what it had last, whose control words are still right.
      } else if frame.pointee.hasDeadVectors {
        isX87Clean = ExtendedState.saveControl(area)
      } else {
        isX87Clean = ExtendedState.save(area)
      }
      thread.pointee.unsaved.store(0, ordering: .releasing)
      pointee.loaded = nil
      return isX87Clean
    }

    /// Makes the CPU hold the thread's registers. A thread without a program leaves them as they are: the kernel uses none,
    /// so they are saved only when another program's thread comes. Between two threads whose programs made function calls the
    /// vector registers stay: at a call they are free, and the control words are those with which both began.
    @inline(__always) func load(_ thread: UnsafeMutablePointer<ThreadControl>) {
      guard let area = thread.pointee.extendedState, pointee.loaded != thread else { return }
      var isX87Clean = false
      var areBothDead = false
      var threadPointer = ~thread.pointee.threadPointer
      if let loaded = pointee.loaded {
        areBothDead = loaded.pointee.isVectorStateDead && thread.pointee.isVectorStateDead
        isX87Clean = saveIfLoaded(loaded)
        threadPointer = loaded.pointee.threadPointer
      }
      if !areBothDead { ExtendedState.restore(area, isX87Clean: isX87Clean) }
      // Threads of a program without thread-local data have the same; writing it costs more than looking.
      if threadPointer != thread.pointee.threadPointer { ThreadPointer.current = thread.pointee.threadPointer }
      thread.pointee.unsaved.store(1, ordering: .relaxed)
      pointee.loaded = thread
    }
  }
#endif
