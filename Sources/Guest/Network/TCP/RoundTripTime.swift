// RoundTripTime: how long the peer takes to answer, and how long to wait before sending again (RFC 6298).
//
// All in nanoseconds. The variance has a floor, as in other stacks with clocks finer than the RFC's: a path whose round trips hardly
// vary would else have no room for a peer that delays an acknowledgement.
import Base

struct RoundTripTime {
  /// SRTT; 0: nothing measured yet.
  private(set) var smoothed: UInt64 = 0
  /// RTTVAR.
  private(set) var variance: UInt64 = 0
  /// The least of the last minutes; nil: nothing measured yet.
  private(set) var minimum: UInt64?
  private var minimumMeasuredAt: UInt64 = 0
  /// RTO, without backing off.
  private(set) var timeout: UInt64
  let least: UInt64
  let most: UInt64

  /// How long a minimum is remembered.
  private static var minimumLifetime: UInt64 { 300_000_000_000 }

  /// Nothing measured: the RTO is `initial` (RFC 6298, 2.1).
  init(initial: UInt64, least: UInt64, most: UInt64) {
    timeout = initial
    (self.least, self.most) = (least, most)
  }

  var isMeasured: Bool { smoothed != 0 }

  /// Takes in a measurement (RFC 6298, 2.2 and 2.3).
  mutating func measured(_ time: UInt64) {
    let sample = min(max(time, 1), most)
    if smoothed == 0 {
      smoothed = sample
      variance = sample / 2
    } else {
      let difference = sample > smoothed ? sample &- smoothed : smoothed &- sample
      variance = (variance &* 3 &+ difference) / 4
      smoothed = max((smoothed &* 7 &+ sample) / 8, 1)
    }
    timeout = min(smoothed &+ max(variance &* 4, least), most)
  }

  /// Takes in a measurement for the minimum.
  mutating func sawMinimum(_ time: UInt64, at now: UInt64) {
    let sample = max(time, 1)
    if let minimum, sample > minimum, now &- minimumMeasuredAt < Self.minimumLifetime { return }
    minimum = sample
    minimumMeasuredAt = now
  }

  /// The SYN was sent again: what follows is measured with care (RFC 6298, 5.7).
  mutating func handshakeTimedOut(_ fallback: UInt64) { if smoothed == 0 { timeout = max(timeout, fallback) } }

  /// The RTO after so many timeouts in a row (RFC 6298, 5.5).
  func timeout(backoff: Int) -> UInt64 {
    let shift = min(backoff, 20).u64
    return min(timeout &<< shift, most)
  }
}
