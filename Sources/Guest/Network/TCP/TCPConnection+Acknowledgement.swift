// Acknowledgements (RFC 9293, 3.10.7.4, fifth): what has arrived at the peer, cumulatively and selectively, the round trip, the window.
import Base
import Devices

extension TCPConnection {
  /// What one acknowledgement has brought.
  struct Arrival {
    /// Bytes (and FIN) acknowledged cumulatively.
    var acknowledged = 0
    /// Bytes that have newly arrived, as far as known.
    var delivered = 0
    var hasNewlySacked = false
    /// It reports something received twice (RFC 2883).
    var duplicate: SequenceRange?
    /// It is a duplicate one (RFC 5681, 2).
    var isDuplicate = false
    /// Something that was sent more than once is among what is acknowledged.
    var hasRetransmitted = false
    /// When the first and the last of what was sent once left; 0: none.
    var firstSentAt: UInt64 = 0
    var lastSentAt: UInt64 = 0
    /// Under way before it.
    var flightBefore = 0
  }

  /// Takes in the acknowledgement of a segment.
  /// - Returns: false: it makes no sense, and the segment is not to be looked at further.
  mutating func acknowledgementArrived(_ header: TCPHeader, now: UInt64) -> Bool {
    let number = header.acknowledgement
    // RFC 5961, 5.2.
    guard number <= sendNext, number >= acknowledged - max(largestSendWindow, 65_535) else {
      sendChallenge(now: now)
      return false
    }
    var arrival = Arrival()
    arrival.flightBefore = flight
    statistics.lastAcknowledgementAt = now
    // An echo from before the last transmission of something does not speak of that (RFC 8985, 6.2, step 2).
    let echo: UInt32? =
      usesTimestamps && header.options.hasTimestamp && header.options.timestampEcho != 0
      ? header.options.timestampEcho : nil
    recentArrival.beginAcknowledgement()
    if usesSelective, header.options.blockCount > 0, flight > 0 {
      readBlocks(header, echo: echo, &arrival, now: now)
    }
    let windowWas = sendWindow
    updateWindow(header)
    if number > acknowledged {
      advance(to: number, echo: echo, &arrival, now: now)
    } else if number == acknowledged, flight > 0, header.dataCount == 0, sendWindow == windowWas,
      header.flags.isDisjoint(with: [.finish, .synchronize])
    {
      arrival.isDuplicate = true
    }
    if state == .closed || state == .timeWait { return true }
    // The peer is there, though its window may be closed still.
    probeCount = 0
    measure(echo: echo, arrival, now: now)
    recover(arrival, header, echo: echo, now: now)
    tuneSendBuffer()
    if isOutOfRoom, isWritable {
      isOutOfRoom = false
      events.insert(.writable)
    }
    return true
  }

  /// SND.WND (RFC 9293, 3.10.7.4: only by segments newer than the last one that set it).
  private mutating func updateWindow(_ header: TCPHeader) {
    guard header.acknowledgement >= acknowledged else { return }
    guard
      windowSequence < header.sequence
        || (windowSequence == header.sequence && windowAcknowledgement <= header.acknowledgement)
    else { return }
    sendWindow = header.window.int &<< sendScale.int
    largestSendWindow = max(largestSendWindow, sendWindow)
    windowSequence = header.sequence
    windowAcknowledgement = header.acknowledgement
  }

  // MARK: Selective

  /// Goes through the blocks; the first may report a duplicate (RFC 2883, 4).
  private mutating func readBlocks(_ header: TCPHeader, echo: UInt32?, _ arrival: inout Arrival, now: UInt64) {
    let options = header.options
    let known = SequenceNumber.later(header.acknowledgement, acknowledged)
    for index in 0..<options.blockCount {
      var block = options.blocks[index]
      guard block.start < block.end, block.end <= sendNext else { continue }
      if index == 0 {
        let isBelow = block.end <= known && known - block.start <= max(largestSendWindow, 65_535)
        let isWithin =
          options.blockCount > 1 && block.start >= options.blocks[1].start && block.end <= options.blocks[1].end
        if isBelow || isWithin {
          arrival.duplicate = block
          continue
        }
      }
      block.start = SequenceNumber.later(block.start, known)
      if block.start < block.end { blockArrived(block, echo: echo, &arrival, now: now) }
    }
  }

  private mutating func blockArrived(_ block: SequenceRange, echo: UInt32?, _ arrival: inout Arrival, now: UInt64) {
    // What arrives is noted through locals: the body may not touch `self` while the scoreboard changes.
    var (recent, result) = (recentArrival, arrival)
    let (minimum, offset) = (roundTrip.minimum, timestampOffset)
    scoreboard.markSacked(block) { record in
      result.delivered &+= record.numbers.count
      result.hasNewlySacked = true
      if !record.flags.contains(.everRetransmitted) {
        if result.firstSentAt == 0 { result.firstSentAt = record.sentAt }
        result.lastSentAt = max(result.lastSentAt, record.sentAt)
      }
      let sent = (record.sentAt / 1_000_000).u32 &+ offset
      let isCertain = echo.map { ($0 &- sent).i32 >= 0 } ?? true
      recent.arrived(record, now: now, minimum: minimum, isCertain: isCertain)
    }
    (recentArrival, arrival) = (recent, result)
  }

  // MARK: Cumulative

  private mutating func advance(to number: SequenceNumber, echo: UInt32?, _ arrival: inout Arrival, now: UInt64) {
    arrival.acknowledged = number - acknowledged
    // What blocks of the same acknowledgement said is older news than what it acknowledges.
    var firstSentAt: UInt64 = 0
    while !scoreboard.isEmpty, scoreboard[0].numbers.start < number {
      let record = scoreboard.removeFirst(before: number)
      if record.flags.contains(.everRetransmitted) {
        arrival.hasRetransmitted = true
      } else if !record.isSacked {
        if firstSentAt == 0 { firstSentAt = record.sentAt }
        arrival.lastSentAt = max(arrival.lastSentAt, record.sentAt)
      }
      if record.flags.contains(.probe) { sizeProbeArrived(record, now: now) }
      if record.isSacked { continue }
      arrival.delivered &+= record.numbers.count
      let sent = timestamp(record.sentAt)
      let isCertain = echo.map { ($0 &- sent).i32 >= 0 } ?? true
      recentArrival.arrived(record, now: now, minimum: roundTrip.minimum, isCertain: isCertain)
    }
    if firstSentAt != 0 { arrival.firstSentAt = firstSentAt }
    acknowledged = number
    sendQueue.acknowledge(to: SequenceNumber.earlier(number, sendQueue.end))
    statistics.bytesAcknowledged &+= arrival.acknowledged.u64
    if let end = urgentEnd, end <= number { urgentEnd = nil }
    timeoutCount = 0
    fullSizeTimeouts = 0
    waitingSince = flight > 0 ? max(now, 1) : 0
    retransmissionDeadline = flight > 0 ? now &+ roundTrip.timeout(backoff: backoff) : .max
    if hasSentFinish, number == sendNext { finishAcknowledged(now) }
  }

  /// Measures the round trip (RFC 6298, 3; RFC 7323, 4.1).
  private mutating func measure(echo: UInt32?, _ arrival: Arrival, now: UInt64) {
    if arrival.lastSentAt != 0 { roundTrip.sawMinimum(now &- arrival.lastSentAt, at: now) }
    var sample: UInt64?
    if arrival.firstSentAt != 0, !arrival.hasRetransmitted {
      sample = now &- arrival.firstSentAt
    } else if arrival.acknowledged > 0, let echo {
      let milliseconds = (timestamp(now) &- echo).i32
      if milliseconds >= 0, milliseconds < 600_000 { sample = max(milliseconds.u64, 1) &* 1_000_000 }
    }
    guard let sample else { return }
    roundTrip.measured(sample)
    // Karn: a doubled RTO stays until something was measured.
    if arrival.acknowledged > 0, backoff > 0 {
      backoff = 0
      if flight > 0 { retransmissionDeadline = now &+ roundTrip.timeout }
    }
  }
}
