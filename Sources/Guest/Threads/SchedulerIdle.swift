// What a CPU does that has no thread to run: it polls for a while, clears free frames if the stock is low, then halts.
//
// Polling answers in 0.1 us where waking a halted CPU takes 5 to 40 us, and it spares the waker an interrupt. It is worth it
// only while another CPU runs a thread (nobody else could give this one any) or a device is watched (IdleWatch), and for as long as it has
// been lately:
// `pollTime` doubles when a wait was short, and halves when it was long. Where it polls in vain again and again although waits are short,
// the other CPU does not run while it does (the host has fewer CPUs free than the guest): then it polls least, and tries anew
// now and then. The monitor has KVM poll further, on the host (Machine: halt polling), before the CPU really sleeps.
//
// SAFETY of all: `here` is this CPU's scheduler, which is never freed and which its idle thread never leaves. With
// interrupts on, only atomic words of it are touched, what the idle thread alone changes (`pollTime`, `vainPolls`), and
// `loaded`, which is looked at again with interrupts off.
#if GUEST
  import Base
  import Instructions
  import Locks
  import Pages
  import Platform

  extension Scheduler {
    /// The longest and the shortest time to poll, ns.
    private static var longestPoll: UInt64 { 50_000 }
    private static var shortestPoll: UInt64 { 4_000 }
    /// After so many polls in vain it polls no more than needed.
    private static var givingUp: UInt32 { 8 }
    /// How long another CPU must have had a thread waiting, without a switch, before this one asks for it, ns: about what it
    /// costs both to send it.
    private static var stuckTime: UInt64 { 15_000 }
    /// After so long it saves the registers of who ran here last, ns: until then that thread's coming back costs less.
    private static var keepTime: UInt64 { 1_000 }

    /// What an idle thread does.
    static func idle() -> Never {
      while true {
        _ = Interrupts.disable()
        let here = CPUScheduler.here
        let start = Clock.now()
        here.takeIncoming(now: start)
        if !here.pointee.queue.isEmpty {
          reschedule(.sleeping)
          Interrupts.enable()
          continue
        }
        if let work = here.pointee.whenIdle {
          here.pointee.whenIdle = nil
          Interrupts.enable()
          WorkQueue.submit(work)
          continue
        }
        let switches = here.pointee.switches.load(ordering: .relaxed)
        here.pointee.incoming.startLooking()
        shared.pointee.idleCPUs.bitwiseOr(1 << here.pointee.cpu.u64, ordering: .sequentiallyConsistent)
        here.beginWatch()
        Interrupts.enable()
        let hasWork = poll(here, from: start)
        let hasMoreWork = !hasWork && clearFrames(here)
        _ = Interrupts.disable()
        // A thread that an interrupt has let run meanwhile may have left work, and has taken the CPU out of the idle ones.
        let wasAway = here.pointee.switches.load(ordering: .relaxed) != switches
        if here.pointee.incoming.stopLooking() || hasWork || hasMoreWork || wasAway || !here.pointee.queue.isEmpty {
          if hasWork {
            here.pointee.counts.polled.add()
            here.pointee.vainPolls = 0
          }
          adapt(here, waited: Clock.now() &- start, hasHalted: false)
          Interrupts.enable()
          continue
        }
        saveLoaded(here)
        here.pointee.counts.halts.add()
        Idle.wait()
        adapt(here, waited: Clock.now() &- start, hasHalted: true)
      }
    }

    /// Clears free frames for those who will ask for zero ones (ZeroedFrames), with interrupts on, and looks for work after each; true:
    /// there is some.
    private static func clearFrames(_ here: UnsafeMutablePointer<CPUScheduler>) -> Bool {
      while true {
        if !here.pointee.incoming.isEmpty() || Preemption.isRequested { return true }
        guard Frames.clearOneFrame() else { return false }
      }
    }

    // MARK: Yielding for nothing

    /// A thread that yields for so long without anybody to yield to waits for one on another CPU, ns; and for how long this one halts then.
    private static var yieldPatience: UInt64 { 200_000 }
    private static var yieldHalt: UInt64 { 50_000 }
    /// Yields further apart than this are no waiting, ns.
    private static var yieldGap: UInt64 { 50_000 }

    /// The running thread has yielded, and nobody else wants to run here. If it does nothing else while other CPUs run threads, the one it
    /// waits for may lack a processor, which the host has given to this CPU: halting for a moment gives it back. Interrupts are off, also
    /// afterwards; the thread may have been away in between.
    @inline(__always) static func yieldForNothing(_ here: UnsafeMutablePointer<CPUScheduler>, now: UInt64) {
      let thread = here.pointee.current
      if now &- thread.pointee.yieldedAt > yieldGap { thread.pointee.yieldingSince = now }
      thread.pointee.yieldedAt = now
      if now &- thread.pointee.yieldingSince >= yieldPatience { haltForOthers(here, now: now) }
    }

    @inline(never) private static func haltForOthers(_ here: UnsafeMutablePointer<CPUScheduler>, now: UInt64) {
      let thread = here.pointee.current
      thread.pointee.yieldingSince = now
      let others = shared.pointee.activeCPUs.load(ordering: .relaxed) & ~(1 << here.pointee.cpu.u64)
      guard others & ~shared.pointee.idleCPUs.load(ordering: .relaxed) != 0, here.pointee.incoming.isEmpty(),
        !Preemption.isRequested, Preemption.count == 0
      else { return }
      here.armTimer(now: now, noLaterThan: now &+ yieldHalt)
      Idle.wait()
      _ = Interrupts.disable()
      thread.pointee.yieldedAt = Clock.now()
      thread.pointee.yieldingSince = thread.pointee.yieldedAt
    }

    /// Saves the registers of who ran here last, who then may be woken anywhere. Interrupts are off.
    private static func saveLoaded(_ here: UnsafeMutablePointer<CPUScheduler>) {
      if let loaded = here.pointee.loaded { _ = here.saveIfLoaded(loaded) }
    }

    private static func adapt(_ here: UnsafeMutablePointer<CPUScheduler>, waited: UInt64, hasHalted: Bool) {
      // Two CPUs that halt while they wait for each other wait for longer than they would if they polled.
      guard waited <= longestPoll &* 4 else {
        here.pointee.pollTime = max(here.pointee.pollTime &>> 1, shortestPoll)
        return
      }
      let hasGivenUp = here.pointee.vainPolls >= givingUp
      if hasHalted && (hasGivenUp || here.pointee.pollTime == longestPoll) { here.pointee.vainPolls &+= 1 }
      if hasGivenUp {
        here.pointee.pollTime = here.pointee.vainPolls & 63 == 0 ? longestPoll : shortestPoll
      } else {
        here.pointee.pollTime = min(here.pointee.pollTime &* 2, longestPoll)
      }
    }

    /// Looks for work, with interrupts on, and at what the CPU watches; true: there is some. Afterwards it watches nothing.
    private static func poll(_ here: UnsafeMutablePointer<CPUScheduler>, from start: UInt64) -> Bool {
      let hasWork = look(here, from: start)
      _ = Interrupts.disable()
      here.endWatch()
      Interrupts.enable()
      return hasWork || Preemption.isRequested
    }

    private static func look(_ here: UnsafeMutablePointer<CPUScheduler>, from start: UInt64) -> Bool {
      let others = shared.pointee.activeCPUs.load(ordering: .relaxed) & ~(1 << here.pointee.cpu.u64)
      if others == 0 && !here.pointee.isWatching { return false }
      var candidate = -1
      var switches: UInt64 = 0
      var since = start
      while true {
        for _ in 0..<8 {
          if !here.pointee.incoming.isEmpty() || Preemption.isRequested || here.hasSeen { return true }
          instruction_pause()
        }
        let now = Clock.now()
        if now &- start >= here.pointee.pollTime { break }
        if now &- start >= keepTime && here.pointee.loaded != nil {
          _ = Interrupts.disable()
          saveLoaded(here)
          Interrupts.enable()
        }
        let running = others & ~shared.pointee.idleCPUs.load(ordering: .relaxed)
        if running == 0 {
          if here.pointee.isWatching { continue }
          return false
        }
        // A CPU with a waiting thread that does not get its turn?
        if candidate < 0 || scheduler(of: candidate).pointee.switches.load(ordering: .relaxed) != switches {
          candidate = cpuWithWaiting(running)
          guard candidate >= 0 else { continue }
          switches = scheduler(of: candidate).pointee.switches.load(ordering: .relaxed)
          since = now
        } else if now &- since >= stuckTime {
          ask(candidate)
          candidate = -1
        }
      }
      // The last look before it halts: from then on, CPUs that have too much find out by their timers. Where threads change places
      // all the time, each has its turn soon, and sending one would cost more than its turn.
      if candidate >= 0, since &- start < here.pointee.pollTime &>> 1,
        scheduler(of: candidate).pointee.switches.load(ordering: .relaxed) == switches
      {
        ask(candidate)
      }
      return false
    }

    /// Asks a CPU for a thread that waits there.
    private static func ask(_ cpu: Int) {
      scheduler(of: cpu).pointee.isAsked.store(1, ordering: .releasing)
      interrupt(cpu)
    }

    /// One of those CPUs where threads wait, or -1.
    private static func cpuWithWaiting(_ cpus: UInt64) -> Int {
      var rest = cpus
      while rest != 0 {
        let cpu = rest.trailingZeroBitCount
        rest &= rest &- 1
        if scheduler(of: cpu).pointee.queued.load(ordering: .relaxed) > 0 { return cpu }
      }
      return -1
    }
  }
#endif
