// TCPCookies: SYN cookies (RFC 4987, 3.6): what a listener has no room to remember, it has the peer say again: the number that a SYN-ACK begins with
// is a keyed hash of the ends and the time, and tells the peer's MSS; the timestamp's low bits tell the other options.
//
// Numbers: hash1(ends) + the peer's number + (minute << 24) + (hash2(ends, minute) + index of the MSS) mod 2^24. One is good for two minutes.
import Base

struct TCPCookies {
  private let first: SipKey
  private let second: SipKey

  /// How long a minute is, ns; and how many are good.
  private static var period: UInt64 { 64_000_000_000 }
  private static var age: UInt32 { 2 }
  private static var sizes: [8 of UInt16] { [536, 1220, 1300, 1440, 1460, 4312, 8960, 65_483] }
  /// Bits of the timestamp: shift of the windows, or 15; SACK; ECN.
  private static var optionBits: UInt32 { 0x3f }

  init(_ first: SipKey, _ second: SipKey) {
    self.first = first
    self.second = second
  }

  private static func hash(_ key: FlowKey, _ secret: SipKey, _ word: UInt64) -> UInt32 {
    var hasher = SipHasher(secret)
    hasher.combine(key.local.high)
    hasher.combine(key.local.low)
    hasher.combine(key.remote.high)
    hasher.combine(key.remote.low)
    hasher.combine(key.localPort.u64 &<< 16 | key.remotePort.u64)
    hasher.combine(word)
    return hasher.finish().u32
  }

  private static func minute(_ now: UInt64) -> UInt32 { (now / period).u32 }

  /// The number that our SYN-ACK begins with.
  func number(_ key: FlowKey, _ handshake: TCPHandshake, now: UInt64) -> SequenceNumber {
    let minute = Self.minute(now)
    var index: UInt32 = 0
    let size = handshake.peerSegmentSize
    for place in 1..<8 where Self.sizes[place].int <= size { index = place.u32 }
    let data = (Self.hash(key, second, minute.u64) &+ index) & 0xff_ffff
    return SequenceNumber(
      Self.hash(key, first, 0) &+ handshake.initialReceive.rawValue &+ minute &<< 24 &+ data)
  }

  /// The timestamp of our SYN-ACK: `now`, or a little less.
  func timestamp(_ now: UInt32, _ handshake: TCPHandshake) -> UInt32 {
    var bits: UInt32 = handshake.sendScale.map { $0.u32 } ?? 15
    if handshake.usesSelective { bits |= 16 }
    if handshake.usesNotification { bits |= 32 }
    let result = now & ~Self.optionBits | bits
    return (result &- now).i32 > 0 ? result &- 64 : result
  }

  /// What the acknowledgement of a SYN-ACK brings back; nil: it is none of ours, or too old.
  /// - Parameters:
  ///   - receiveScale: the shift of our windows.
  ///   - timestampOffset: what was added to the clock.
  func handshake(
    _ key: FlowKey, _ header: TCPHeader, receiveScale: UInt8, timestampOffset: UInt32, now: UInt64,
    _ settings: TCPSettings
  ) -> TCPHandshake? {
    let (received, sent) = (header.sequence - 1, header.acknowledgement - 1)
    let rest = sent.rawValue &- Self.hash(key, first, 0) &- received.rawValue
    let minute = Self.minute(now)
    let difference = (minute &- rest &>> 24) & 0xff
    guard difference < Self.age else { return nil }
    let index = (rest &- Self.hash(key, second, (minute &- difference).u64)) & 0xff_ffff
    guard index < 8 else { return nil }
    var result = TCPHandshake(
      initialSend: sent, initialReceive: received, peerSegmentSize: Self.sizes[index.int].int,
      peerWindow: header.window.int,
      sendScale: nil, receiveScale: nil, usesSelective: false, usesTimestamps: false, usesNotification: false,
      timestampOffset: timestampOffset)
    if settings.offersTimestamps, header.options.hasTimestamp {
      result.usesTimestamps = true
      result.recentTimestamp = header.options.timestamp
      let bits = header.options.timestampEcho & Self.optionBits
      result.usesSelective = settings.offersSelective && bits & 16 != 0
      result.usesNotification = settings.congestionNotification != 0 && bits & 32 != 0
      if settings.offersScaling, bits & 15 != 15 {
        (result.sendScale, result.receiveScale) = (min(bits & 15, 14).u8, receiveScale)
      }
    }
    return result
  }
}
