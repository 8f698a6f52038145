// What has happened on each CPU, for those who show it (/proc).
import Base
import Platform

/// What a CPU has counted since the start.
public struct SchedulerCounts: Sendable {
  /// Interrupts by its timer.
  public var timers: UInt64 = 0
  /// Interrupts by other CPUs, for threads that they have woken here, for timers and for work to share.
  public var interrupts: UInt64 = 0
  /// Switches between threads.
  public var switches: UInt64 = 0
  /// Threads given to other CPUs.
  public var sent: UInt64 = 0
  /// Idle times that ended while the CPU polled.
  public var polled: UInt64 = 0
  /// Halts.
  public var halts: UInt64 = 0

  /// Nothing yet.
  public init() {}
}

extension Scheduler {
  /// How long a CPU has run threads and how long it has had none, ns, since it schedules; both 0 before.
  public static func times(ofCPU cpu: Int) -> (busy: UInt64, idle: UInt64) {
    #if GUEST
      guard shared.pointee.activeCPUs.load(ordering: .relaxed) >> cpu.u64 & 1 != 0 else { return (0, 0) }
      let other = scheduler(of: cpu)
      let idle = runTime(other.pointee.idle)
      let all = Clock.now() &- other.pointee.beganAt
      return (all > idle ? all &- idle : 0, idle)
    #else
      return (0, 0)
    #endif
  }

  /// The counts of a CPU; all zero before it schedules.
  public static func counts(ofCPU cpu: Int) -> SchedulerCounts {
    var result = SchedulerCounts()
    #if GUEST
      guard shared.pointee.activeCPUs.load(ordering: .relaxed) >> cpu.u64 & 1 != 0 else { return result }
      let other = scheduler(of: cpu)
      result.timers = other.pointee.counts.timers.value
      result.interrupts = other.pointee.counts.interrupts.value
      result.switches = other.pointee.switches.load(ordering: .relaxed)
      result.sent = other.pointee.counts.sent.value
      result.polled = other.pointee.counts.polled.value
      result.halts = other.pointee.counts.halts.value
    #endif
    return result
  }
}
