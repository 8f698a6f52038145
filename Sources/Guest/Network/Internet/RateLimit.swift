// Bounds for what others can have us do, and numbers that they cannot guess.
import Base
import Locks

/// A token bucket.
final class RateLimit {
  private let interval: UInt64
  private let burst: UInt64
  /// When the bucket was empty, as if tokens had been counted from there, ns.
  private let emptyAt = Atomic<UInt64>(0)

  /// So many a second on average, and so many at once.
  init(perSecond: UInt64, burst: UInt64) {
    interval = 1_000_000_000 / perSecond
    self.burst = burst
  }

  /// Takes a token if there is one, and says whether. Any context.
  func take(now: UInt64) -> Bool {
    let full = burst &* interval
    while true {
      let old = emptyAt.load(ordering: .relaxed)
      let start = max(old, now > full ? now &- full : 0)
      guard start &+ interval <= now else { return false }
      if emptyAt.compareExchange(expected: old, desired: start &+ interval, ordering: .relaxed).exchanged {
        return true
      }
    }
  }
}

/// IP's identification of datagrams that may be fragmented (RFC 7739, 5.3): counted for each pair of hosts by itself, from a place that nobody
/// can guess, so that no one learns from its own packets what we send to others.
final class IdentificationGenerator {
  private static var count: Int { 256 }
  private let key: SipKey
  private let counters: UnsafeMutablePointer<LiveWord>

  init(key: SipKey) {
    self.key = SipKey(key.k0 ^ 0x6964_656e_7469_6669, key.k1)
    counters = .allocate(capacity: Self.count)
    for index in 0..<Self.count { (counters + index).initialize(to: LiveWord(0)) }
  }

  deinit { counters.deallocate() }

  /// The next number for a pair of hosts, and so many after it.
  func next(_ source: IPAddress, _ destination: IPAddress, count: Int = 1) -> UInt32 {
    var hasher = SipHasher(key)
    hasher.combineShort(source.high ^ destination.high)
    hasher.combineShort(source.low)
    hasher.combineShort(destination.low)
    let hash = hasher.finishShort()
    let offset = counters[(hash & 255).int].add(count.uint)
    return (hash &>> 32).u32 &+ offset.u32
  }
}
