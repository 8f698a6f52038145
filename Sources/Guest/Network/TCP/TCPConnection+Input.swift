// Segments that arrive: in the order of RFC 9293, 3.10.7, with PAWS (RFC 7323, 5) and the checks against blind attacks (RFC 5961).
import Base
import Devices

/// What IP says of a packet's congestion (RFC 3168, 5).
enum CongestionMark: UInt8 {
  case notCapable = 0
  case capable1 = 1
  case capable0 = 2
  case experienced = 3
}

extension TCPConnection {
  /// A segment has arrived for this connection.
  /// - Parameters:
  ///   - packet: begins with the TCP header, its checksum is right, and no bytes follow that IP does not know of.
  ///   - mark: the ECN bits of its IP header.
  mutating func segmentArrived(_ packet: consuming Packet, mark: CongestionMark, now: UInt64) {
    statistics.segmentsReceived &+= 1
    guard packet.pull(min(packet.byteCount, TCPHeader.maximumByteCount)),
      let header = TCPHeader(packet.head, segmentByteCount: packet.byteCount)
    else { return }
    segmentArrived(packet, header, mark: mark, now: now)
  }

  /// The same with the header read.
  mutating func segmentArrived(_ packet: consuming Packet, _ header: TCPHeader, mark: CongestionMark, now: UInt64) {
    switch state {
    case .closed, .listen, .timeWait: return
    case .synSent: return synchronizeArrived(packet, header, now: now)
    default: break
    }
    guard isAcceptable(header, now: now) else { return }
    if header.flags.contains(.reset) { return resetArrived(header, now: now) }
    var header = header
    if header.flags.contains(.synchronize) {
      // Both have opened at once, and this is the other's SYN again, perhaps with its acknowledgement of ours (3.5, figure 7).
      guard state == .synReceived, header.sequence == initialReceive else {
        // One within the window is an old one, or forged; who has really begun anew will say so (RFC 5961, 4).
        return sendChallenge(now: now)
      }
      guard header.flags.contains(.acknowledge), header.acknowledgement == sendNext else { return sendSynchronize(now) }
      header.flags.subtract(.synchronize)
      header.sequence += 1
    }
    guard header.flags.contains(.acknowledge) else { return }
    if state == .synReceived {
      guard header.acknowledgement > acknowledged, header.acknowledgement <= sendNext else {
        return sendReset(answering: header)
      }
      acknowledged = header.acknowledgement
      establish(now)
      sendWindow = header.window.int &<< sendScale.int
      largestSendWindow = max(largestSendWindow, sendWindow)
      (windowSequence, windowAcknowledgement) = (header.sequence, header.acknowledgement)
    }
    // What else it says is believed of whoever knows what we have sent: a timestamp from the future would shut the real peer out.
    guard acknowledgementArrived(header, now: now) else { return }
    heard(now)
    noteTimestamp(header, now: now)
    if usesNotification {
      if header.flags.contains(.windowReduced) { owesCongestionEcho = false }
      if mark == .experienced {
        owesCongestionEcho = true
        owesAcknowledgement = true
      }
    }
    if state == .closed || state == .timeWait { return }
    if header.dataCount > 0 || !header.flags.isDisjoint(with: [.finish, .urgent]) {
      dataArrived(packet, header, at: header.sequence, now: now)
    }
  }

  /// The peer is there.
  private mutating func heard(_ now: UInt64) {
    lastReceivedAt = now
    // The timer looks for itself how long ago this was.
    if keepaliveCount > 0 {
      keepaliveCount = 0
      armKeepalive(now)
    }
  }

  // MARK: First: is it for this window?

  private mutating func isAcceptable(_ header: TCPHeader, now: UInt64) -> Bool {
    let isReset = header.flags.contains(.reset)
    // PAWS (RFC 7323, 5.2): older than what came before. After 24 days the clock may have gone round.
    if usesTimestamps, header.options.hasTimestamp, !isReset,
      (header.options.timestamp &- recentTimestamp).i32 < 0, now &- recentTimestampAt < 24 &* 86_400_000_000_000
    {
      if header.flags.contains(.synchronize) { sendChallenge(now: now) } else { answerUnacceptable(header, now: now) }
      return false
    }
    // Nearer than the RFC's four cases: what ends at the window's start is a repetition, what begins at its end may bring a valid
    // acknowledgement (3.10.7.4: MUST-66); data is trimmed later.
    if header.end >= receiveNext, header.sequence <= windowEdge { return true }
    if isReset { return false }
    if header.flags.contains(.synchronize) {
      sendChallenge(now: now)
      return false
    }
    answerUnacceptable(header, now: now)
    return false
  }

  /// Tells the peer where we are. Data has a claim to that: what the peer repeats it has not seen acknowledged.
  private mutating func answerUnacceptable(_ header: TCPHeader, now: UInt64) {
    if state == .synReceived { return sendSynchronize(now) }
    guard header.dataCount > 0 || header.flags.contains(.finish) else { return sendChallenge(now: now) }
    let end = header.sequence + header.dataCount
    if header.dataCount > 0, end <= receiveNext, receiveNext - end < 1 << 30 {
      duplicateReceived = SequenceRange(header.sequence, end)
      statistics.duplicatesSeen &+= 1
    }
    sendAcknowledgement(now: now)
  }

  // MARK: Second: RST

  private mutating func resetArrived(_ header: TCPHeader, now: UInt64) {
    // Only the very next number ends a connection; others in the window are asked about (RFC 5961, 3.2).
    guard header.sequence == receiveNext else { return sendChallenge(now: now) }
    switch state {
    case .synReceived: fail(.ECONNREFUSED)
    case .closeWait: fail(.EPIPE)
    case .closing, .lastAck, .timeWait: terminate(nil)
    default: fail(.ECONNRESET)
    }
  }

  /// TS.Recent (RFC 7323, 4.3).
  private mutating func noteTimestamp(_ header: TCPHeader, now: UInt64) {
    guard usesTimestamps, header.options.hasTimestamp, header.sequence <= lastAcknowledgementSent,
      (header.options.timestamp &- recentTimestamp).i32 >= 0
    else { return }
    recentTimestamp = header.options.timestamp
    recentTimestampAt = now
    if header.dataCount > 0 { measureReceiverRoundTrip(echo: header.options.timestampEcho, now: now) }
  }
}
