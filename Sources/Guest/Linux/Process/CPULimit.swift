// RLIMIT_CPU: when a process has used so many seconds of CPU time it gets SIGXCPU, and each second after that once more, as the soft
// limit moves on with each; at the hard limit it is killed.
//
// Two timers of the process watch its CPU time (`ProcessTimer`): they look when it can have come far enough at the earliest, so that
// a limit far away costs nothing.
import Base
import Locks
import Threads

extension ResourceLimit {
  /// As a limit of CPU time is seen when that much has been used: each SIGXCPU has moved the soft limit on by a second.
  mutating func passSeconds(of used: UInt64) {
    guard current != Self.infinity else { return }
    current = max(current, used / CPULimit.second &+ (used >= CPULimit.nanoseconds(current) ? 1 : 0))
  }
}

/// Seconds as CPU time is counted.
enum CPULimit {
  static let second: UInt64 = 1_000_000_000
  /// A limit of 0 is one of a second, as by Linux.
  static func nanoseconds(_ seconds: UInt64) -> UInt64 {
    let product = max(seconds, 1).multipliedReportingOverflow(by: second)
    return product.overflow ? .max : product.partialValue
  }
}

extension Process {
  /// Makes the timers, so that setting a limit cannot fail any more.
  /// - Throws: ENOMEM.
  func makeCPULimitTimers() throws(Errno) {
    try makeCPULimitTimer(ProcessTimers.softCPULimit, .cpuTimeExceeded)
    try makeCPULimitTimer(ProcessTimers.hardCPULimit, .kill)
  }

  private func makeCPULimitTimer(_ index: Int, _ signal: Signal) throws(Errno) {
    guard lock.withLock({ timers.intervals[index] == nil }) else { return }
    let timer = try ProcessTimer(self)
    try timer.assign(.processCPUTime, ProcessTimer.Notification(signal: signal))
    lock.withLock { if timers.intervals[index] == nil { timers.intervals[index] = timer } }
  }

  /// Has the timers watch for the limit as it is.
  func setCPULimitTimers() {
    let (limit, soft, hard) = lock.withLock {
      (
        limits[ResourceLimits.cpuTime], timers.intervals[ProcessTimers.softCPULimit],
        timers.intervals[ProcessTimers.hardCPULimit]
      )
    }
    set(soft, at: limit.current, interval: CPULimit.second)
    set(hard, at: limit.maximum, interval: 0)
  }

  private func set(_ timer: ProcessTimer?, at seconds: UInt64, interval: UInt64) {
    let first = seconds == ResourceLimit.infinity ? nil : CPULimit.nanoseconds(seconds)
    _ = timer?.set(first: first, isAbsolute: true, interval: interval)
  }

  /// Whether there is a limit to be watched. A child has its parent's, and counts from its own beginning.
  var hasCPULimit: Bool {
    lock.withLock {
      let limit = limits[ResourceLimits.cpuTime]
      return limit.current != ResourceLimit.infinity || limit.maximum != ResourceLimit.infinity
    }
  }
}
