// Building segments: header, options and data become a packet in `outgoing`.
//
// A packet that memory is out for is not sent: what it was to carry counts as not sent, and timers bring it again.
import Base
import Devices

extension Packet {
  /// A packet that is to be marked as ECN-capable by IP (RFC 3168, 5: ECT(0)); in `tag`, while TCP has it.
  static var notificationCapable: UInt64 { 1 }
}

/// Segments that need no connection.
enum TCPSegment {
  /// A packet of a header and no data; nil: no memory. The checksum is to be completed (`PacketChecksum.partial`).
  static func make(
    _ fields: TCPHeaderFields, _ options: TCPOptions, room: Int = 0, pseudoHeader: InternetChecksum, cookie: UInt64 = 0
  ) -> Packet? {
    let byteCount = TCPHeader.minimumByteCount &+ options.byteCount
    guard var packet = Packet(headroom: Packet.headroom, capacity: byteCount &+ room),
      let start = packet.extend(byteCount)
    else { return nil }
    fields.write(to: start, byteCount: byteCount, checksum: 0)
    options.write(to: start + TCPHeader.minimumByteCount, cookie: cookie)
    complete(packet, pseudoHeader)
    return packet
  }

  /// Writes what the checksum's field is to hold until the sum is completed, for the packet's length as it is now.
  @inline(__always)
  static func complete(_ packet: borrowing Packet, _ pseudoHeader: InternetChecksum) {
    var sum = pseudoHeader
    sum.add(packet.byteCount.u32)
    (packet.mutableHead.baseAddress.unsafelyUnwrapped + 16).storeBytes(of: sum.partial.bigEndian, as: UInt16.self)
    packet.checksum = .partial(start: 0, offset: 16)
  }

  /// The constant part of the pseudo header's sum (RFC 9293, 3.1): all but the length.
  static func pseudoHeader(from source: IPAddress, to destination: IPAddress) -> InternetChecksum {
    var sum = InternetChecksum()
    sum.addPseudoHeader(source, destination, protocol: 6, byteCount: 0)
    return sum
  }

  /// The fields of the RST that answers a segment nobody expects (RFC 9293, 3.10.7.1); nil: it is one itself.
  static func reset(answering header: TCPHeader) -> TCPHeaderFields? {
    if header.flags.contains(.reset) { return nil }
    var fields = TCPHeaderFields(from: header.destinationPort, to: header.sourcePort)
    fields.flags = .reset
    if header.flags.contains(.acknowledge) {
      fields.sequence = header.acknowledgement
    } else {
      fields.flags.insert(.acknowledge)
      fields.acknowledgement = header.end
    }
    return fields
  }
}

extension TCPConnection {
  /// Sends a segment without data.
  mutating func send(_ fields: TCPHeaderFields, _ options: TCPOptions, now: UInt64) {
    guard let packet = TCPSegment.make(fields, options, pseudoHeader: pseudoHeader) else { return }
    lastSentAt = now
    statistics.segmentsSent &+= 1
    outgoing.append(packet)
  }

  /// Sends the RST that answers a segment which makes no sense here.
  mutating func sendReset(answering header: TCPHeader) {
    guard let fields = TCPSegment.reset(answering: header) else { return }
    send(fields, TCPOptions(), now: lastSentAt)
  }

  /// The options of a segment of an established connection.
  private mutating func currentOptions(_ now: UInt64) -> TCPOptions {
    var result = TCPOptions()
    if usesTimestamps {
      result.hasTimestamp = true
      result.timestamp = timestamp(now)
      result.timestampEcho = recentTimestamp
    }
    if usesSelective, duplicateReceived != nil || !reassembly.isEmpty {
      reassembly.fill(&result, duplicate: duplicateReceived, most: usesTimestamps ? 3 : 4)
      duplicateReceived = nil
    }
    return result
  }

  /// The fields of a segment of an established connection.
  private mutating func currentFields(_ sequence: SequenceNumber, _ flags: TCPFlags) -> TCPHeaderFields {
    var fields = TCPHeaderFields(from: localPort, to: remotePort)
    fields.sequence = sequence
    fields.acknowledgement = receiveNext
    fields.flags = flags.union(.acknowledge)
    if owesCongestionEcho { fields.flags.insert(.congestionEcho) }
    fields.window = takeWindow()
    return fields
  }

  /// An acknowledgement leaves, by itself or with data.
  private mutating func acknowledgementLeaves() {
    lastAcknowledgementSent = receiveNext
    owesAcknowledgement = false
    unacknowledgedCount = 0
    acknowledgementDeadline = .max
    if quickCount > 0 { quickCount &-= 1 }
  }

  /// Sends an acknowledgement by itself, with a number that has been acknowledged if `isProbe` is set, so that the peer answers
  /// (RFC 9293, 3.8.4).
  mutating func sendAcknowledgement(now: UInt64, isProbe: Bool = false) {
    let fields = currentFields(isProbe ? acknowledged - 1 : sendNext, [])
    send(fields, currentOptions(now), now: now)
    acknowledgementLeaves()
  }

  /// An acknowledgement that says no more than where we are, for a segment that is not as it should be; not more often than
  /// twice a second (RFC 5961, 7; the limit is a connection's own, so that others learn nothing from it).
  mutating func sendChallenge(now: UInt64) {
    if lastChallengeAt != 0, now &- lastChallengeAt < 500_000_000 { return }
    lastChallengeAt = max(now, 1)
    sendAcknowledgement(now: now)
  }

  /// Ends the connection on the wire.
  mutating func sendReset(now: UInt64) {
    var fields = currentFields(sendNext, .reset)
    if state == .synReceived { fields.sequence = initialSend + 1 }
    var options = TCPOptions()
    if usesTimestamps {
      options.hasTimestamp = true
      options.timestamp = timestamp(now)
      options.timestampEcho = recentTimestamp
    }
    send(fields, options, now: now)
  }

  /// Room for data in a segment beside the options that it would have now.
  var currentSegmentSize: Int {
    guard usesSelective, duplicateReceived != nil || !reassembly.isEmpty else { return segmentSize }
    let blocks = min(reassembly.rangeCount &+ (duplicateReceived == nil ? 0 : 1), usesTimestamps ? 3 : 4)
    return max(segmentSize &- 4 &- blocks &* 8, 8)
  }

  /// Sends numbers that are in the send queue, and the FIN if they reach over it.
  /// - Returns: false: no memory, nothing was sent.
  mutating func transmit(_ numbers: SequenceRange, segmentSize: Int, isRetransmission: Bool, now: UInt64) -> Bool {
    let dataEnd = SequenceNumber.earlier(numbers.end, sendQueue.end)
    let dataCount = max(dataEnd - numbers.start, 0)
    var flags: TCPFlags = []
    if numbers.end > sendQueue.end { flags.insert(.finish) }
    // A reader at the other end need not wait for more (RFC 9293, 3.9.1.2).
    if dataCount > 0, dataEnd == sendQueue.end || (pushEnd > numbers.start && pushEnd <= dataEnd) {
      flags.insert(.push)
    }
    let isCapable = usesNotification && dataCount > 0 && !isRetransmission
    if owesWindowReduced, isCapable { flags.insert(.windowReduced) }
    var fields = currentFields(numbers.start, flags)
    if let urgentEnd, urgentEnd > numbers.start {
      let distance = urgentEnd - numbers.start
      // Further on than the field can say: the program is told so later.
      if distance <= 65_535 {
        fields.flags.insert(.urgent)
        fields.urgentPointer = distance.u16
      }
    }
    let isCopied = dataCount > 0 && dataCount <= SendQueue.copyLimit
    guard
      var packet = TCPSegment.make(
        fields, currentOptions(now), room: isCopied ? dataCount : 0, pseudoHeader: pseudoHeader),
      sendQueue.add(to: &packet, from: numbers.start, count: dataCount)
    else { return false }
    TCPSegment.complete(packet, pseudoHeader)
    if dataCount > segmentSize {
      packet.segmentation = PacketSegmentation(
        path.isV6 ? .tcp6 : .tcp4, segmentByteCount: segmentSize, hasCongestionMark: flags.contains(.windowReduced))
    }
    if isCapable {
      packet.tag = Packet.notificationCapable
      owesWindowReduced = false
    }
    outgoing.append(packet)
    // Whoever answers soon after it has received something will do so again.
    if dataCount > 0, now &- lastDataReceivedAt < settings.acknowledgementDelay { isInteractive = true }
    acknowledgementLeaves()
    lastSentAt = now
    statistics.segmentsSent &+= 1
    if dataCount > 0 {
      statistics.dataSegmentsSent &+= 1
      statistics.bytesSent &+= dataCount.u64
      statistics.lastDataSentAt = now
    }
    if isRetransmission {
      statistics.retransmissions &+= 1
      statistics.bytesRetransmitted &+= dataCount.u64
      if retransmissionStamp == nil, recovery == .recovering || recovery == .timedOut {
        retransmissionStamp = timestamp(now)
      }
    }
    if waitingSince == 0 { waitingSince = max(now, 1) }
    return true
  }
}
