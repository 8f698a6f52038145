// RCU's other half: waiting until no reader can still see what was unlinked.
//
// Grace periods are found out by the words that CPUs write at every switch (`GracePeriods`). A CPU that does not switch by
// itself is interrupted once; as soon as it is not in a reader it goes through the scheduler.

import Base
import Locks
import Platform

extension RCU {
  /// Returns when every reader that was under way at the call has ended. May sleep; not inside a reader. For many objects at
  /// once rather than one by one: it takes from a few microseconds to a millisecond.
  public static func synchronize() {
    #if GUEST
      var period = GracePeriod()
      var isFirst = true
      Thread.yield()
      while !period.isOver() {
        if isFirst { period.nudge() }
        _ = Thread.sleep(until: .after(isFirst ? 20_000 : 200_000))
        isFirst = false
      }
    #else
      HostedReaders.wait()
    #endif
  }

  /// Whether every reader that was under way at the call has ended; it waits for none. So it is where the other CPUs idle, and often
  /// then only. Not inside a reader; allowed under locks.
  public static func synchronizeAtOnce() -> Bool {
    #if GUEST
      guard Scheduler.hasBegun else { return true }  // One CPU, and no reader on it.
      // A reader keeps its CPU, and this thread is none: this CPU is quiescent now.
      guard Preemption.count == 0 else { return false }
      Preemption.disable()
      var period = GracePeriod()
      period.pass(CPU.current)
      let isOver = period.isOver()
      Preemption.enable()
      return isOver
    #else
      return HostedReaders.areGone
    #endif
  }
}

#if GUEST
  /// A grace period of the running machine, and the CPUs that have not passed it yet.
  struct GracePeriod {
    /// Its number, for `GracePeriods`.
    let number: UInt
    private var rest: UInt64

    /// Begins one. The CPUs are looked at afterwards: one that becomes active later begins its readers later, too.
    init() {
      number = Scheduler.shared.pointee.periods.begin()
      rest = Scheduler.shared.pointee.activeCPUs.load(ordering: .acquiring)
    }

    /// The CPU is known to be quiescent after the period began.
    mutating func pass(_ cpu: Int) { rest &= ~(1 << cpu.u64) }

    /// Whether every CPU has passed.
    mutating func isOver() -> Bool {
      var others = rest
      while others != 0 {
        let cpu = others.trailingZeroBitCount
        others &= others &- 1
        if Scheduler.shared.pointee.periods.hasPassed(number, on: cpu) { rest &= ~(1 << cpu.u64) }
      }
      return rest == 0
    }

    /// Has the CPUs that have not passed go through the scheduler; the caller's own does so when the caller sleeps.
    func nudge() {
      let wasEnabled = Interrupts.disable()
      var others = rest & ~(1 << CPU.current.u64)
      while others != 0 {
        Scheduler.interrupt(others.trailingZeroBitCount)
        others &= others &- 1
      }
      Interrupts.restore(wasEnabled)
    }
  }
#endif
