// What happens when a thread's policy, or the priority that it has inherited, changes while it is queued or runs.
//
// The new word is stored first. Then the CPU that has the thread reviews it: this one at once, another one when it takes the thread
// out of its list of reviews. A thread that sleeps takes the word over when it is next queued, and needs no review.
//
// Why no change is missed: it is stored by a read-modify-write; after that the changer looks whether the thread sleeps, and on which
// CPU it is. Who wakes it has taken it out of its sleep, and has stored the CPU by an exchange if that is another one than before,
// and looks at the word after that. So either that CPU sees the new word when it queues the thread, or the changer sees the CPU and
// sends it the thread for review, which comes after, because the CPU queues with interrupts off. A thread that has gone on by then is
// sent after. `isInReview` is lowered before the word is looked at, so a later change makes another review.
//
// SAFETY of all: control blocks and the CPUs' schedulers are never freed. A thread's run node is touched by the CPU that has
// it, with interrupts off; all that a changer on another CPU touches is atomic.
#if GUEST
  import Base
  import Instructions
  import Locks
  import Platform

  extension Scheduler {
    /// See `Thread.policy`.
    static func setPolicy(_ thread: UnsafeMutablePointer<ThreadControl>, _ policy: SchedulingPolicy) {
      change(thread) { SchedulingPolicy.word(policy.word, inheriting: SchedulingPolicy.inherited($0)) }
      Preemption.check()
    }

    /// The thread gets another inherited priority; 0: none. If it is the running one, which may have lost its claim to the CPU, then
    /// the caller sees to `Preemption.check`, which is dear while it holds locks.
    static func setInheritedPriority(_ thread: UnsafeMutablePointer<ThreadControl>, _ priority: UInt8) {
      change(thread) { SchedulingPolicy.word($0, inheriting: priority) }
    }

    private static func change(_ thread: UnsafeMutablePointer<ThreadControl>, _ next: (UInt32) -> UInt32) {
      while true {
        let word = thread.pointee.policy.load(ordering: .relaxed)
        let exchange = thread.pointee.policy.compareExchange(
          expected: word, desired: next(word), ordering: .sequentiallyConsistent)
        if exchange.exchanged { break }
      }
      if thread.pointee.park.isAsleep() { return }
      let wasEnabled = Interrupts.disable()
      CPUScheduler.here.review(thread, now: Clock.now())
      Interrupts.restore(wasEnabled)
    }
  }

  extension UnsafeMutablePointer<CPUScheduler> {
    /// Looks at the threads that other CPUs have sent here for that.
    func takeReviews(now: UInt64) {
      pointee.reviews.takeAll { address in
        let thread = ThreadControl.at(address)
        _ = thread.pointee.isInReview.exchange(0)
        review(thread, now: now)
      }
    }

    /// Has the thread stand where its policy puts it, if this CPU has it, or else sends it for that to the one that had it last. Interrupts
    /// are off.
    func review(_ thread: UnsafeMutablePointer<ThreadControl>, now: UInt64) {
      if pointee.queue.contains(thread.runNode) {
        guard thread.pointee.policy.load(ordering: .relaxed) != thread.pointee.adoptedPolicy else { return }
        charge(now: now)
        pointee.queue.remove(thread.runNode)
        thread.adoptPolicy()
        pointee.queue.add(thread.runNode, now: now)
      } else if thread == pointee.current {
        charge(now: now)
        thread.adoptPolicy()
        noteStanding()
      } else {
        let cpu = thread.pointee.cpu.load(ordering: .sequentiallyConsistent).int
        // Here, and neither queued nor running: it sleeps, or is on its way to another CPU, which will look.
        guard cpu != pointee.cpu, thread.pointee.isInReview.exchange(1) == 0 else { return }
        if Scheduler.scheduler(of: cpu).pointee.reviews.push(thread.reviewNode) { Scheduler.interrupt(cpu) }
        return
      }
      if pointee.current == pointee.idle
        || pointee.queue.shouldPreempt(pointee.current.runNode, ran: now &- pointee.startedAt, isWaking: false)
      {
        if !pointee.queue.isEmpty { Preemption.isRequested = true }
      } else {
        armTimer(now: now)
      }
    }
  }
#endif
