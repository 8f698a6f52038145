// Opening: SYN-SENT and SYN-RECEIVED (RFC 9293, 3.5 and 3.10.7.3), and what the two ends settle by their SYNs.
import Base
import Devices

extension TCPHeader {
  /// What a SYN and our answer to it settle.
  /// - Parameters:
  ///   - capacity: the largest buffer that there may ever be, for the shift of our windows.
  func handshake(
    initialSend: SequenceNumber, timestampOffset: UInt32, capacity: Int, _ settings: TCPSettings
  ) -> TCPHandshake {
    // ECN is offered by ECE and CWR together (RFC 3168, 6.1.1).
    let offersNotification = flags.contains([.congestionEcho, .windowReduced])
    let scales = settings.offersScaling && options.windowScale != nil
    return TCPHandshake(
      initialSend: initialSend, initialReceive: sequence,
      peerSegmentSize: options.maximumSegmentSize.int, peerWindow: window.int,
      sendScale: scales ? options.windowScale : nil,
      receiveScale: scales ? TCPConnection.scale(for: capacity) : nil,
      usesSelective: settings.offersSelective && options.permitsSelective,
      usesTimestamps: settings.offersTimestamps && options.hasTimestamp,
      recentTimestamp: options.timestamp,
      usesNotification: offersNotification && settings.congestionNotification != 0,
      timestampOffset: timestampOffset)
  }
}

extension TCPConnection {
  /// The shift that lets windows of `capacity` bytes be told (RFC 7323, 2.3).
  static func scale(for capacity: Int) -> UInt8 {
    var shift: UInt8 = 0
    while shift < 14, capacity &>> shift.int > 65_535 { shift &+= 1 }
    return shift
  }

  /// The largest window that this connection may ever want.
  private var largestCapacity: Int {
    options.isReceiveBufferLocked ? receiveCapacity : max(settings.receiveBuffer.most / 2, receiveCapacity)
  }

  /// The MSS that we tell (RFC 9293, 3.7.1: without room for options).
  var advertisedSegmentSize: Int {
    let size = path.mtu &- path.headerByteCount
    return options.segmentSize > 0 ? min(size, options.segmentSize) : size
  }

  // MARK: Opening actively

  /// Sends a SYN.
  /// - Parameters:
  ///   - initialSequence: ISS (RFC 6528).
  ///   - timestampOffset: what is added to the clock in timestamps, not to tell how long the machine runs (RFC 7323, 7.1).
  mutating func connect(initialSequence: UInt32, timestampOffset: UInt32, now: UInt64) {
    assert(state == .closed)
    number(SequenceNumber(initialSequence))
    self.timestampOffset = timestampOffset
    usesSelective = settings.offersSelective
    usesTimestamps = settings.offersTimestamps
    usesNotification = settings.congestionNotification == 1
    receiveScale = settings.offersScaling ? Self.scale(for: largestCapacity) : 0
    state = .synSent
    waitingSince = now
    sendSynchronize(now)
    retransmissionDeadline = now &+ roundTrip.timeout
  }

  private mutating func number(_ initial: SequenceNumber) {
    initialSend = initial
    acknowledged = initial
    sendNext = initial + 1
    lastSmallEnd = initial + 1
    pushEnd = initial + 1
    limitedEnd = initial
    flightPeakEnd = initial
    recoveryEnd = initial
    sendQueue.begin(at: sendNext)
    recentArrival.begin(at: sendNext)
  }

  /// The options of a SYN or SYN-ACK.
  private func synchronizeOptions(_ now: UInt64) -> TCPOptions {
    var result = TCPOptions()
    result.maximumSegmentSize = min(advertisedSegmentSize, 65_535).u16
    result.permitsSelective = usesSelective
    if usesTimestamps {
      result.hasTimestamp = true
      result.timestamp = timestamp(now)
      result.timestampEcho = recentTimestamp
    }
    let answersUnscaled = state == .synReceived && sendScale == 0 && receiveScale == 0
    if settings.offersScaling, !answersUnscaled { result.windowScale = receiveScale }
    return result
  }

  /// Sends a SYN, or SYN-ACK in SYN-RECEIVED.
  mutating func sendSynchronize(_ now: UInt64) {
    var fields = TCPHeaderFields(from: localPort, to: remotePort)
    fields.sequence = initialSend
    fields.flags = .synchronize
    // One that is sent again offers no ECN: perhaps that was what went wrong (RFC 3168, 6.1.1.1).
    if state == .synReceived {
      fields.flags.insert(.acknowledge)
      fields.acknowledgement = receiveNext
      if usesNotification { fields.flags.insert(.congestionEcho) }
    } else if usesNotification, backoff == 0 {
      fields.flags.formUnion([.congestionEcho, .windowReduced])
    }
    // The window of a SYN is not scaled (RFC 7323, 2.2).
    let window = min(receiveCapacity, 65_535)
    fields.window = window.u16
    if state == .synReceived { windowEdge = receiveNext + window }
    send(fields, synchronizeOptions(now), now: now)
  }

  // MARK: Opening passively

  /// Takes up what a request has settled; the ACK that completes it comes next, by `segmentArrived`.
  mutating func accept(_ handshake: TCPHandshake, now: UInt64) {
    assert(state == .closed)
    number(handshake.initialSend)
    timestampOffset = handshake.timestampOffset
    usesSelective = handshake.usesSelective
    usesTimestamps = handshake.usesTimestamps
    usesNotification = handshake.usesNotification
    sendScale = handshake.sendScale ?? 0
    receiveScale = handshake.receiveScale ?? 0
    receivedSynchronize(
      handshake.initialReceive, segmentSize: handshake.peerSegmentSize, window: handshake.peerWindow,
      timestamp: handshake.recentTimestamp, now: now)
    windowEdge = receiveNext + min(receiveCapacity, 65_535)
    lastAcknowledgementSent = receiveNext
    state = .synReceived
    waitingSince = now
    lastSentAt = handshake.sentAt
    // Without a time for the SYN-ACK there is no measurement.
    if handshake.sentAt == 0 { backoff = 1 }
    retransmissionDeadline = now &+ roundTrip.timeout
  }

  /// What a SYN says of the peer's side.
  private mutating func receivedSynchronize(
    _ number: SequenceNumber, segmentSize: Int, window: Int, timestamp: UInt32, now: UInt64
  ) {
    initialReceive = number
    receiveNext = number + 1
    // Without the option it is 536, or 1220 over IPv6 (RFC 9293, MUST-15).
    let fallback = path.isV6 ? 1220 : 536
    peerSegmentSize = segmentSize == 0 ? fallback : max(segmentSize, settings.leastSegmentSize)
    sendWindow = window
    largestSendWindow = window
    windowSequence = number
    windowAcknowledgement = acknowledged
    if usesTimestamps {
      recentTimestamp = timestamp
      recentTimestampAt = now
    }
    receiveSegmentSize = min(peerSegmentSize, 536)
    updateSegmentSize()
  }

  /// Computes the size of full segments from what the peer takes, the path lets through, and the options of every segment.
  mutating func updateSegmentSize() {
    var size = min(peerSegmentSize, path.mtu &- path.headerByteCount)
    if options.segmentSize > 0 { size = min(size, options.segmentSize) }
    if probedSegmentSize > 0 { size = min(size, probedSegmentSize) }
    if usesTimestamps { size &-= 12 }
    segmentSize = max(size, settings.leastSegmentSize &- 40)
  }

  // MARK: Segments

  /// A segment in SYN-SENT (RFC 9293, 3.10.7.3).
  mutating func synchronizeArrived(_ packet: consuming Packet, _ header: TCPHeader, now: UInt64) {
    let acknowledges = header.flags.contains(.acknowledge)
    if acknowledges, header.acknowledgement <= initialSend || header.acknowledgement > sendNext {
      if !header.flags.contains(.reset) { sendReset(answering: header) }
      return
    }
    if header.flags.contains(.reset) {
      if acknowledges { fail(.ECONNREFUSED) }
      return
    }
    guard header.flags.contains(.synchronize) else { return }
    usesSelective = usesSelective && header.options.permitsSelective
    usesTimestamps = usesTimestamps && header.options.hasTimestamp
    if let scale = header.options.windowScale, settings.offersScaling {
      sendScale = scale
    } else {
      (sendScale, receiveScale) = (0, 0)
    }
    receivedSynchronize(
      header.sequence, segmentSize: header.options.maximumSegmentSize.int, window: header.window.int,
      timestamp: header.options.timestamp, now: now)
    windowEdge = receiveNext + min(receiveCapacity, 65_535)
    guard acknowledges else {
      // Both have opened at once (3.5, figure 7).
      usesNotification = usesNotification && header.flags.contains([.congestionEcho, .windowReduced])
      state = .synReceived
      backoff = 0
      sendSynchronize(now)
      retransmissionDeadline = now &+ roundTrip.timeout
      return
    }
    usesNotification =
      usesNotification && backoff == 0
      && header.flags.intersection([.congestionEcho, .windowReduced]) == .congestionEcho
    acknowledged = header.acknowledgement
    establish(now)
    owesAcknowledgement = true
    windowAcknowledgement = acknowledged
    // What a SYN brings along is taken like anything else.
    if header.dataCount > 0 || header.flags.contains(.finish) {
      dataArrived(packet, header, at: header.sequence + 1, now: now)
    }
  }

  /// The handshake is complete.
  mutating func establish(_ now: UInt64) {
    state = .established
    if backoff == 0, lastSentAt != 0 {
      // A listener's answer may have been sent by another CPU's clock.
      let time = now > lastSentAt ? now &- lastSentAt : 1
      roundTrip.measured(time)
      roundTrip.sawMinimum(time, at: now)
    } else {
      roundTrip.handshakeTimedOut(3_000_000_000)
    }
    let first = CongestionControl.initialWindow(segmentSize: segmentSize)
    // A SYN was lost: with care (RFC 5681, 3.1).
    congestion.setWindow(backoff > 0 && lastSentAt != 0 ? segmentSize : first, segmentSize: segmentSize)
    backoff = 0
    waitingSince = 0
    retransmissionDeadline = .max
    lastReceivedAt = now
    quickCount = min(16, max(receiveCapacity / (2 &* max(receiveSegmentSize, 1)), 2))
    (roundStart, receiverRoundStart) = (now, now)
    receiverRoundEnd = receiveNext
    tuneSendBuffer()
    armKeepalive(now)
    events.formUnion([.connected, .writable])
  }
}
