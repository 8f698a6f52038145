// How often a timer with an interval has expired, and when it does next.

/// The expirations of a timer up to now.
public struct TimerExpirations: Equatable, Sendable {
  /// How many there were, 1 or more.
  public var count: UInt64
  /// When the next one comes: the largest number if that is never (or there is no interval).
  public var next: UInt64

  /// - Parameters:
  ///   - due: the first of them, not later than `now`.
  ///   - interval: time between them, any number; 0: there is only one.
  public init(due: UInt64, interval: UInt64, now: UInt64) {
    guard interval > 0 else {
      (count, next) = (1, .max)
      return
    }
    let whole = (now &- due) / interval
    count = whole &+ 1
    // Up to the last one it fits, since that is not later than now.
    let (sum, overflow) = (due &+ whole &* interval).addingReportingOverflow(interval)
    next = overflow ? .max : sum
  }
}
