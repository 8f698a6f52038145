// A token bucket: how many bytes may pass. Pure; time is passed in.
//
// A frame passes while there are tokens, and may leave the bucket in debt: so frames of any size pass, and on average no more than the rate.

/// A rate limit for one direction. Used under the lock of its owner.
struct TokenBucket {
  /// The largest rate, bits a second.
  static let rateLimit: UInt64 = 100_000_000_000

  /// Bits a second; 0 for no limit.
  let rate: UInt64
  /// Tokens at most, in bits: what passes at once after a pause of 20 ms, but two of the largest frames at least.
  private let depth: Int64
  private var tokens: Int64
  private var filled: UInt64

  /// A full bucket.
  /// - Parameters:
  ///   - rate: bits a second, at most `rateLimit`; 0 for no limit.
  ///   - now: the time in nanoseconds.
  init(rate: UInt64, now: UInt64) {
    self.rate = rate
    depth = Int64(max(rate / 50, UInt64(16 * FrameHeader.frameLimit)))
    tokens = depth
    filled = now
  }

  /// How long until a frame may pass, in nanoseconds; 0 if one may now.
  mutating func wait(now: UInt64) -> UInt64 {
    if rate == 0 { return 0 }
    let passed = now > filled ? now - filled : 0
    let (product, isHuge) = (passed / 1000).multipliedReportingOverflow(by: rate)
    let gain = product / 1_000_000
    if isHuge || gain >= UInt64(depth - tokens) {
      tokens = depth
      filled = now
    } else if gain > 0 {
      tokens += Int64(gain)
      // Time that was not enough for another bit is not lost.
      filled += gain * 1_000_000_000 / rate
    }
    guard tokens <= 0 else { return 0 }
    return UInt64(1 - tokens) * 1_000_000_000 / rate + 1
  }

  /// A frame has passed.
  mutating func take(byteCount: Int) {
    if rate != 0 { tokens -= Int64(8 * byteCount) }
  }
}
