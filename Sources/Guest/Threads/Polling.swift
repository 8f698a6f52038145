// Polling before sleeping: a thread looks for a moment whether what it would sleep for has happened.
//
// A sleep costs two switches, a wake-up between two CPUs an interrupt besides, while a lock is mostly given back within a
// fraction of that time. So a thread looks for a moment first; but only where nothing is lost by it: nobody else wants this CPU,
// which would poll for work anyway (SchedulerIdle), and another CPU runs a thread, which alone can end the wait. How long is
// learnt for each thread, as the idle CPU learns it: twice as long after a wait that was short, half after one that was long.
import Base
import Instructions
import Platform

/// One wait that may begin with polling.
public struct BriefPoll {
  /// The longest and the shortest time to look, cycles: 2 to 4 us and a quarter.
  private static var longest: UInt32 { 1 << 13 }
  private static var shortest: UInt32 { 1 << 9 }

  #if GUEST
    /// When it began; 0: it does not poll.
    private let start: UInt64

    /// A wait of the running thread that begins now.
    @inline(__always) public init() { start = CPU.count > 1 && Self.isFree ? Clock.cycles() : 0 }

    /// Looks until `isOver` says true (then this does), or for as long as is worth while.
    @inline(__always) public func run(_ isOver: () -> Bool) -> Bool {
      if start == 0 { return false }
      let limit = max(Scheduler.current.pointee.pollCycles, Self.shortest).u64
      repeat {
        if isOver() {
          adapt(to: Clock.cycles() &- start)
          return true
        }
        instruction_pause()
      } while Clock.cycles() &- start < limit && Self.isFree
      return false
    }

    /// The thread has slept, and runs again: how long it should look next time.
    @inline(__always) public func hasSlept() {
      if start != 0 { adapt(to: Clock.cycles() &- start) }
    }

    private func adapt(to waited: UInt64) {
      let thread = Scheduler.current
      // It did not sleep, but would have: whom it woke before that it waited for.
      if thread.pointee.wokeAt != 0 { Scheduler.noteWhatCameOfWaking(thread, .sleeping, now: Clock.now()) }
      thread.pointee.pollCycles =
        waited <= Self.longest.u64 &* 2
        ? min(max(thread.pointee.pollCycles, Self.shortest) &* 2, Self.longest) : thread.pointee.pollCycles &>> 1
    }

    /// Whether nobody else wants this CPU while another one runs a thread. A hint.
    private static var isFree: Bool {
      Preemption.disable()
      defer { Preemption.enable() }
      let here = CPUScheduler.here
      guard here.pointee.queued.load(ordering: .relaxed) == 0, !Preemption.isRequested, here.pointee.incoming.isEmpty()
      else { return false }
      let shared = Scheduler.shared
      let others = shared.pointee.activeCPUs.load(ordering: .relaxed) & ~(1 << here.pointee.cpu.u64)
      return others & ~shared.pointee.idleCPUs.load(ordering: .relaxed) != 0
    }
  #else
    /// On the host nothing is known about other CPUs: it does not poll.
    public init() {}
    /// False.
    public func run(_ isOver: () -> Bool) -> Bool { false }
    /// Nothing.
    public func hasSlept() {}
  #endif
}
