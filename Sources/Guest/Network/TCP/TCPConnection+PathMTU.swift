// Path MTU discovery: what ICMP says (RFC 1191, RFC 8201), and what timeouts of large segments alone say when it says nothing (RFC 4821,
// in short): then segments become small, and one large one is tried again much later.
import Base
import Devices

extension TCPConnection {
  /// A router says that a segment was too large (RFC 5927, 7: only about what is under way, and only downwards).
  mutating func packetTooBig(mtu: Int, quoted: UInt32, now: UInt64) {
    let number = SequenceNumber(quoted)
    guard state.isSynchronized || state == .synSent, number >= acknowledged, number < sendNext else { return }
    changePath(mtu: mtu)
  }

  /// The path has another MTU: what is under way in larger segments is sent again, and that is no congestion.
  mutating func changePath(mtu: Int) {
    // No path is narrower (RFC 8200, 5; for IPv4 Linux's min_pmtu, against those who lie).
    let wanted = max(mtu, path.isV6 ? 1280 : 552)
    let isSmaller = wanted < path.mtu
    path.mtu = wanted
    guard state.isSynchronized else { return }
    updateSegmentSize()
    if isSmaller { scoreboard.markLargeLost(segmentSize) }
  }

  /// A timeout: are large segments all that is lost?
  mutating func suspectBlackHole(_ now: UInt64) {
    guard scoreboard.count > 0, scoreboard[0].segmentSize.int >= segmentSize, scoreboard[0].numbers.count >= segmentSize
    else { return }
    fullSizeTimeouts &+= 1
    guard fullSizeTimeouts >= settings.doubtfulRetries else { return }
    let smaller = probedSegmentSize > 0 ? probedSegmentSize / 2 : settings.blackHoleSegmentSize
    let least = settings.leastSegmentSize
    let wanted = max(min(smaller, (segmentSize &+ 12) / 2), least)
    guard wanted < segmentSize else { return }
    probedSegmentSize = wanted
    fullSizeTimeouts = 0
    updateSegmentSize()
    nextSizeProbeAt = now &+ settings.probeInterval
  }

  /// The size of a segment that finds out whether the path has become better; nil: not now.
  mutating func sizeToProbe(unsent: Int, usable: Int, limit: Int, now: UInt64) -> Int? {
    guard probedSegmentSize > 0, recovery == .open, scoreboard.isEmpty else { return nil }
    let known = probedSegmentSize
    probedSegmentSize = 0
    updateSegmentSize()
    let full = segmentSize
    probedSegmentSize = known
    updateSegmentSize()
    // Its loss must be told by what follows it.
    guard full > segmentSize, min(unsent, usable) >= full &+ 3 &* segmentSize, congestion.window >= full else {
      return nil
    }
    nextSizeProbeAt = now &+ settings.probeInterval
    return full
  }

  /// A large segment has arrived.
  mutating func sizeProbeArrived(_ record: SentSegment, now: UInt64) {
    guard record.flags.contains(.probe), !record.flags.contains(.everRetransmitted), record.numbers.count > segmentSize
    else { return }
    probedSegmentSize = 0
    nextSizeProbeAt = .max
    updateSegmentSize()
  }
}
