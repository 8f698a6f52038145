// Loss recovery: what is taken for lost (RFC 8985; without SACK RFC 6582), how the window comes down meanwhile (RFC 6937), ECN's part in it
// (RFC 3168, 6.1.2), and taking a reduction back that was for nothing (RFC 3522, RFC 4015).
import Base
import Devices

extension TCPConnection {
  /// An acknowledgement has been taken in: what does it say of losses, and what may be sent now?
  mutating func recover(_ arrival: Arrival, _ header: TCPHeader, echo: UInt32?, now: UInt64) {
    if arrival.acknowledged > 0, let echo { undoIfNeedless(echo) }
    if arrival.duplicate != nil { recentArrival.sawDuplicate(acknowledged: acknowledged, next: sendNext) }
    tailProbeAnswered(arrival, header, now: now)
    if recovery != .open, acknowledged >= recoveryEnd { endRecovery() }
    if usesNotification, header.flags.contains(.congestionEcho), recovery == .open,
      flight > 0 || arrival.acknowledged > 0
    {
      beginReduction(flight: arrival.flightBefore)
    }
    var delivered = arrival.delivered
    let lost = usesSelective ? findLosses(now: now) : countDuplicates(arrival, &delivered)
    if lost > 0, recovery == .open || recovery == .reduced { beginRecovery(flight: arrival.flightBefore) }
    switch recovery {
    case .recovering, .reduced:
      guard delivered > 0 || lost > 0 else { break }
      let window = rateReduction.window(
        delivered: delivered, pipe: pipe, threshold: congestion.threshold, segmentSize: segmentSize,
        makesProgress: arrival.acknowledged > 0 && lost == 0)
      congestion.setWindow(window, segmentSize: segmentSize)
    case .open, .timedOut:
      // By what has arrived now: what was sacked long ago has been counted then.
      guard arrival.acknowledged > 0, delivered > 0, mayGrow else { break }
      congestion.acknowledged(
        delivered, segmentSize: segmentSize, now: now, roundTrip: roundTrip.smoothed)
    }
    if flight == 0 { (tailProbeDeadline, reorderingDeadline) = (.max, .max) } else { armTailProbe(now) }
  }

  /// Whether the window was what limited us (RFC 7661, 4.3): else it has not been shown to be right.
  private var mayGrow: Bool {
    if recovery == .timedOut || acknowledged <= limitedEnd { return true }
    return congestion.isSlowStarting && congestion.window < 2 &* flightPeak
  }

  // MARK: Finding losses

  /// By time.
  mutating func findLosses(now: UInt64) -> Int {
    reorderingDeadline = .max
    guard flight > 0, scoreboard.sackedByteCount > 0 || recovery != .open || scoreboard.lostByteCount > 0 else {
      return 0
    }
    let window = recentArrival.reorderingWindow(
      isRecovering: recovery == .recovering || recovery == .timedOut, sackedSegments: scoreboard.sackedSegmentCount,
      roundTrip)
    let result = recentArrival.findLosses(&scoreboard, window: window, now: now)
    if result.wait > 0 { reorderingDeadline = now &+ result.wait }
    return result.byteCount
  }

  /// Without SACK: the third duplicate, and while recovering each acknowledgement that leaves a rest (RFC 6582, 3.2).
  private mutating func countDuplicates(_ arrival: Arrival, _ delivered: inout Int) -> Int {
    if arrival.isDuplicate {
      duplicateAcknowledgements &+= 1
      delivered = segmentSize
      // Not again for what was under way at the last recovery (RFC 6582, 3.2, step 1).
      guard duplicateAcknowledgements == 3, recovery == .open || recovery == .reduced, acknowledged > recoveryEnd else {
        return 0
      }
      return markFirstLost()
    }
    guard arrival.acknowledged > 0 else { return 0 }
    let counted = duplicateAcknowledgements &* segmentSize
    delivered = max(delivered &- counted, min(delivered, segmentSize))
    guard recovery == .recovering else {
      duplicateAcknowledgements = 0
      return 0
    }
    let segments = arrival.acknowledged / max(segmentSize, 1)
    duplicateAcknowledgements = max(duplicateAcknowledgements &- max(segments &- 1, 0), 0)
    return markFirstLost()
  }

  private mutating func markFirstLost() -> Int {
    guard !scoreboard.isEmpty else { return 0 }
    let first = scoreboard[0]
    if first.isLost { return 0 }
    if first.numbers.count > segmentSize { _ = scoreboard.split(0, at: first.numbers.start + segmentSize) }
    scoreboard.markLost(0)
    return scoreboard[0].numbers.count
  }

  // MARK: Beginning and ending

  mutating func beginRecovery(flight: Int) {
    // The window has been reduced for this round trip already if it was reduced for a mark.
    if recovery == .open { reduce(flight: flight) }
    recovery = .recovering
    recoveryEnd = sendNext
    tailProbeEnd = nil
    tailProbeDeadline = .max
    rateReduction.begin(flight: flight)
  }

  /// The window comes down, though nothing has to be repaired.
  mutating func beginReduction(flight: Int) {
    reduce(flight: flight)
    recovery = .reduced
    recoveryEnd = sendNext
    rateReduction.begin(flight: flight)
  }

  private mutating func reduce(flight: Int) {
    (windowBefore, thresholdBefore) = (congestion.window, congestion.threshold)
    retransmissionStamp = nil
    congestion.reduce(flight: flight, segmentSize: segmentSize)
    owesWindowReduced = usesNotification
  }

  private mutating func endRecovery() {
    if recovery != .timedOut {
      // Back to the threshold, by slow start if little is under way: no burst into a queue that has just overflowed (RFC 6582, 3.2).
      let burst = pipe &+ CongestionControl.initialWindow(segmentSize: segmentSize)
      congestion.setWindow(min(congestion.threshold, burst), segmentSize: segmentSize)
    }
    recovery = .open
    retransmissionStamp = nil
    duplicateAcknowledgements = 0
    recentArrival.recoveryEnded()
  }

  /// After a timeout (RFC 6298, 5.4 to 5.6): everything is sent again, from one segment on.
  mutating func recoverFromTimeout(now: UInt64) {
    if recovery != .timedOut {
      if recovery == .open { reduce(flight: flight) }
      retransmissionStamp = nil
    }
    // A peer that has sacked what it acknowledges now has forgotten it (RFC 2018, 8).
    scoreboard.markAllLost(forgettingSacks: scoreboard.count > 0 && scoreboard[0].isSacked)
    congestion.timedOut(segmentSize: segmentSize)
    recovery = .timedOut
    recoveryEnd = sendNext
    duplicateAcknowledgements = 0
    (tailProbeEnd, tailProbeDeadline, reorderingDeadline) = (nil, .max, .max)
  }

  /// The peer answers what was sent first, so nothing was lost (RFC 3522, 3.2).
  private mutating func undoIfNeedless(_ echo: UInt32) {
    guard let stamp = retransmissionStamp, (echo &- stamp).i32 < 0, recovery == .recovering || recovery == .timedOut
    else { return }
    scoreboard.forgetLosses()
    congestion.restore(window: windowBefore, threshold: thresholdBefore)
    recovery = .open
    retransmissionStamp = nil
    owesWindowReduced = false
    recentArrival.sawDuplicate(acknowledged: acknowledged, next: sendNext)
  }

  // MARK: Probing the tail (RFC 8985, 7)

  /// Arms the probe of the tail, if one may be sent.
  mutating func armTailProbe(_ now: UInt64) {
    tailProbeDeadline = .max
    guard usesSelective, state.mayTransmit, recovery == .open, tailProbeEnd == nil, flight > 0,
      scoreboard.sackedByteCount == 0
    else { return }
    var time: UInt64 = 1_000_000_000
    if roundTrip.isMeasured {
      time = 2 &* roundTrip.smoothed &+ 4_000_000
      // One segment alone may wait for a delayed acknowledgement.
      if flight <= segmentSize { time &+= settings.leastTimeout }
    }
    let due = now &+ time
    if due < retransmissionDeadline { tailProbeDeadline = due }
  }

  /// Sends the probe: new data if there is some, else the last segment again.
  mutating func probeTail(now: UInt64) {
    tailProbeDeadline = .max
    guard flight > 0, scoreboard.count > 0 else { return }
    let end = sendNext
    if unsentCount > 0, sendNew(limit: segmentSize, now: now) > 0 {
      isTailProbeRetransmission = false
    } else {
      var index = scoreboard.count &- 1
      let last = scoreboard[index]
      if last.numbers.count > segmentSize, scoreboard.split(index, at: last.numbers.end - segmentSize) { index &+= 1 }
      guard sendAgain(index, now: now) else { return }
      isTailProbeRetransmission = true
    }
    tailProbeEnd = isTailProbeRetransmission ? end : sendNext
    // The RTO counts from the probe (RFC 8985, 7.3).
    retransmissionDeadline = now &+ roundTrip.timeout(backoff: backoff)
  }

  /// Was a probe what repaired a loss (RFC 8985, 7.4.2)?
  private mutating func tailProbeAnswered(_ arrival: Arrival, _ header: TCPHeader, now: UInt64) {
    guard let end = tailProbeEnd, header.acknowledgement >= end else { return }
    if !isTailProbeRetransmission {
      tailProbeEnd = nil
    } else if let duplicate = arrival.duplicate, duplicate.end == end || (hasSentFinish && duplicate.end + 1 == end) {
      tailProbeEnd = nil
    } else if header.acknowledgement > end {
      tailProbeEnd = nil
      if recovery == .open { beginReduction(flight: arrival.flightBefore) }
    } else if arrival.isDuplicate, header.options.blockCount == 0 {
      tailProbeEnd = nil
    }
  }
}
