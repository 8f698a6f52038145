// TimerLateness: how long after the time it is armed for the local timer's interrupt comes, learnt from each.
//
// The way from the timer through the host into the guest takes 3 to 20 us, and nearly the same each time. A timer armed so much
// earlier comes in time. The estimate is about the median, so that half come a microsecond or two early, and are waited out, and half
// a little late. A late one tells little (the host was busy): steps are bounded.
struct TimerLateness {
  /// What half are later than, ns.
  private(set) var typical: UInt64 = 0

  /// The most that is made up for, ns: a timer is never waited out for longer.
  static var most: UInt64 { 20_000 }
  /// The largest steps, ns.
  private static var stepUp: UInt64 { 500 }
  private static var stepDown: UInt64 { 500 }

  /// When the timer should start its way for that deadline (`UInt64.max`: none).
  @inline(__always) func start(for deadline: UInt64) -> UInt64 {
    deadline > 1 << 62 ? .max : deadline &- min(typical, deadline)
  }

  /// The interrupt for `armedFor` has come.
  mutating func learn(_ now: UInt64, armedFor: UInt64) {
    let late = now > armedFor ? now &- armedFor : 0
    if late > typical {
      typical = min(typical &+ min((late &- typical) &>> 2, Self.stepUp), Self.most)
    } else {
      typical &-= min((typical &- late &+ 3) &>> 2, Self.stepDown)
    }
  }
}
