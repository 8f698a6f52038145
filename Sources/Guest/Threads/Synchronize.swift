// RCU's other half: waiting until no reader can still see what was unlinked.
//
// Grace periods are found out by the words that CPUs write at every switch (`GracePeriods`). A CPU that does not switch by
// itself is interrupted once; as soon as it is not in a reader it goes through the scheduler.

import Base
import Locks
import Platform
import VirtioABI

extension RCU {
  /// Returns when every reader that was under way at the call has ended. May sleep; not inside a reader. For many objects at
  /// once rather than one by one: it takes from a few microseconds to a millisecond.
  public static func synchronize() {
    #if GUEST
      let shared = Scheduler.shared
      let number = shared.pointee.periods.begin()
      var others = shared.pointee.activeCPUs.load(ordering: .acquiring)
      var isFirst = true
      Thread.yield()
      while others != 0 {
        var rest = others
        while rest != 0 {
          let cpu = rest.trailingZeroBitCount
          rest &= rest &- 1
          if shared.pointee.periods.hasPassed(number, on: cpu) {
            others &= ~(1 << cpu.u64)
          } else if isFirst {
            InterProcessor.send(BootVectors.wake, to: cpu)
          }
        }
        if others != 0 { _ = Thread.sleep(until: .after(isFirst ? 20_000 : 200_000)) }
        isFirst = false
      }
    #else
      // Unit tests on the host read under locks of their own: there preemption cannot be turned off.
    #endif
  }
}
