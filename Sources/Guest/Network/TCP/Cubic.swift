// CUBIC: the window as a cubic function of the time since the last congestion (RFC 9438), in whole numbers.
//
// Windows are bytes and times milliseconds; C = 0.4 segments/s^3 and beta = 0.7. The function's cube is computed in 64 bits: times
// are limited to 2^20 ms, beyond which a window would be far larger than any that can be, and windows to 2^30 bytes.
import Base

struct Cubic {
  /// beta_cubic, of 10.
  static var beta: Int { 7 }
  private static var longest: Int64 { 1 << 20 }

  /// W_max: the window where congestion was met last.
  private var peak = 0
  /// cwnd_prior: the window before the last reduction.
  private var before = 0
  /// When the curve began, ms; 0: it has not.
  private var start: UInt64 = 0
  /// K: when the curve comes back to `origin`, ms after its start.
  private var plateau: Int64 = 0
  private var origin = 0
  /// W_est: what Reno would have.
  private var renoWindow = 0
  private var renoCredit = 0
  private var credit = 0

  /// Congestion was met.
  /// - Returns: the window to go on with.
  mutating func reduced(from window: Int, segmentSize: Int) -> Int {
    // Fast convergence (4.7): who meets congestion below the last peak leaves room for others.
    peak = window < peak ? window * (10 &+ Self.beta) / 20 : window
    before = window
    start = 0
    return max(window &* Self.beta / 10, segmentSize &* 2)
  }

  /// A timeout (4.8): the curve begins anew after slow start.
  mutating func timedOut() { start = 0 }

  /// Nothing was under way for so long: the curve stands still meanwhile.
  mutating func idle(_ milliseconds: UInt64) { if start != 0 { start &+= milliseconds } }

  /// The window grows, in congestion avoidance.
  /// - Parameters:
  ///   - window: the window, bytes.
  ///   - acknowledged: bytes newly acknowledged.
  ///   - now: ms; `roundTrip`: ms.
  /// - Returns: the new window.
  mutating func grown(_ window: Int, acknowledged: Int, segmentSize: Int, now: UInt64, roundTrip: UInt64) -> Int {
    if start == 0 { begin(window, segmentSize: segmentSize, now: now) }
    let time = min((now &- start).int, Self.longest.int).i64
    // W_est (4.3): alpha = 3 (1 - beta) / (1 + beta) = 9/17 until it reaches the window of before, then 1.
    renoCredit &+= acknowledged
    let (numerator, denominator) = renoWindow < before ? (9, 17) : (1, 1)
    let growth = renoCredit &* segmentSize &* numerator / (window &* denominator)
    if growth > 0 {
      renoWindow &+= growth
      renoCredit = 0
    }
    if curve(time, segmentSize) < renoWindow { return max(window, renoWindow) }
    // 4.4 and 4.5: towards where the curve is in a round trip, by at most half the window a round trip.
    let ahead = curve(min(time &+ min(roundTrip.int, Self.longest.int).i64, Self.longest), segmentSize)
    let target = min(max(ahead, window), window &+ window / 2)
    credit &+= (target &- window) &* min(acknowledged, window)
    let step = credit / window
    credit &-= step &* window
    return window &+ step
  }

  private mutating func begin(_ window: Int, segmentSize: Int, now: UInt64) {
    start = max(now, 1)
    if peak > window {
      // K = cbrt((W_max - cwnd) / C), in ms: the difference in segments, times 10^9 / 0.4.
      let segments = (peak &- window).u64 &* 2_500_000_000 / max(segmentSize, 1).u64
      plateau = Self.cubeRoot(segments).i64
      origin = peak
    } else {
      plateau = 0
      origin = window
    }
    renoWindow = window
    (renoCredit, credit) = (0, 0)
  }

  /// W_cubic(t) = C (t - K)^3 + W_max (4.2), in bytes.
  private func curve(_ time: Int64, _ segmentSize: Int) -> Int {
    let distance = time &- plateau
    let clamped = max(min(distance, Self.longest), -Self.longest)
    // 0.4 segments/s^3 are 4 / 10^10 segments/ms^3.
    let cube = (clamped &* clamped &* clamped).int
    return origin &+ cube / 1_000_000 &* 4 &* segmentSize / 10_000
  }

  /// The whole part of a cube root.
  static func cubeRoot(_ value: UInt64) -> UInt64 {
    var (rest, root) = (value, UInt64(0))
    var shift: UInt64 = 63
    while true {
      root = root &<< 1
      let step = 3 &* root &* (root &+ 1) &+ 1
      if rest &>> shift >= step {
        rest &-= step &<< shift
        root &+= 1
      }
      if shift == 0 { return root }
      shift &-= 3
    }
  }
}
