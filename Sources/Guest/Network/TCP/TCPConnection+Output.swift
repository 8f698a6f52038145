// Sending: what may leave now: repetitions first, new data as windows, Nagle's rule and silly-window avoidance allow (RFC 9293, 3.7.4 and
// 3.8.6.2.1; RFC 6675, NextSeg), and then an acknowledgement if one is owed and nothing took it along.
import Base
import Devices

extension TCPConnection {
  /// Sends what is due. After every call, or batch of calls, that may have changed something.
  mutating func flush(now: UInt64) {
    accountMemory()
    if state.mayTransmit { output(now: now) }
    if owesAcknowledgement, state != .closed, state != .synSent, state != .synReceived { sendAcknowledgement(now: now) }
  }

  private mutating func output(now: UInt64) {
    let before = sendNext
    if flight == 0, unsentCount > 0, statistics.lastDataSentAt != 0 {
      congestion.idle(
        now &- statistics.lastDataSentAt, timeout: roundTrip.timeout, segmentSize: segmentSize,
        restarts: settings.restartsAfterIdle)
    }
    var isLimited = !repeatLost(now: now)
    while unsentCount > 0, !isLimited {
      let room = congestion.window &- pipe
      if room < min(segmentSize, unsentCount), pipe > 0 {
        isLimited = true
      } else if sendNew(limit: max(room, segmentSize), now: now) == 0 {
        break
      }
    }
    if isLimited, unsentCount > 0 { limitedEnd = sendNext }
    if acknowledged >= flightPeakEnd {
      (flightPeak, flightPeakEnd) = (pipe, sendNext)
    } else {
      flightPeak = max(flightPeak, pipe)
    }
    if sendNext != before { armTailProbe(now) }
    // Nothing is under way whose acknowledgement would bring us back here.
    if flight > 0 || unsentCount == 0 {
      persistDeadline = .max
      if unsentCount == 0 || sendWindow > 0 { persistBackoff = 0 }
    } else if persistDeadline == .max {
      armPersist(now)
    }
  }

  /// Sends again what is lost, as far as the congestion window allows; false if it does not allow all.
  private mutating func repeatLost(now: UInt64) -> Bool {
    while let index = scoreboard.firstToRetransmit() {
      let room = congestion.window &- pipe
      let count = scoreboard[index].numbers.count
      guard pipe == 0 || room >= min(segmentSize, count) else { return false }
      let size = currentSegmentSize
      let most = max(min(room, max(path.largestSend, size)) / size &* size, size)
      // One that cannot be split goes as the packet that it was.
      if count > most { _ = scoreboard.split(index, at: scoreboard[index].numbers.start + most) }
      guard sendAgain(index, now: now) else { return false }
    }
    return true
  }

  /// Sends a record again; false if memory is out.
  mutating func sendAgain(_ index: Int, now: UInt64) -> Bool {
    let numbers = scoreboard[index].numbers
    guard transmit(numbers, segmentSize: currentSegmentSize, isRetransmission: true, now: now) else { return false }
    scoreboard.markRetransmitted(index, at: now)
    rateReduction.sent(numbers.count)
    if retransmissionDeadline == .max { retransmissionDeadline = now &+ roundTrip.timeout(backoff: backoff) }
    return true
  }

  /// Whether less than a full segment may leave though more may follow (RFC 9293, 3.7.4; Minshall: only a small segment under way
  /// holds back the next).
  private var maySendSmall: Bool {
    if isFinishing { return true }
    if let urgentEnd, urgentEnd > sendNext { return true }
    if options.isCorked || expectsMore { return false }
    return options.isUndelayed || lastSmallEnd <= acknowledged
  }

  /// Sends new data in one packet, and the FIN behind it.
  /// - Parameters:
  ///   - limit: bytes that the congestion window allows, a segment at least.
  ///   - isForced: the smallest piece may go: it has waited long enough.
  /// - Returns: numbers sent; 0: nothing may leave.
  mutating func sendNew(limit: Int, isForced: Bool = false, now: UInt64) -> Int {
    let unsent = sendQueue.end - sendNext
    let usable = acknowledged + sendWindow - sendNext
    guard usable > 0, scoreboard.reserve() else { return 0 }
    var size = currentSegmentSize
    var isProbe = false
    if nextSizeProbeAt <= now, let larger = sizeToProbe(unsent: unsent, usable: usable, limit: limit, now: now) {
      (size, isProbe) = (larger, true)
    }
    let largest = isProbe || path.largestSend <= size ? size : path.largestSend / size &* size
    var count = min(min(unsent, usable), min(limit, largest))
    let small = count % size
    if small > 0 {
      if count < unsent {
        // Something cuts it short: whole segments only, or half of the largest window that ever was, when that is all there will be.
        if count >= size {
          count &-= small
        } else if count < largestSendWindow / 2, !isForced {
          return 0
        }
      } else if !maySendSmall, !isForced {
        count &-= small
      }
    }
    let finishes = isFinishing && count == unsent && usable > count
    guard count > 0 || finishes else { return 0 }
    let numbers = SequenceRange(sendNext, sendNext + count + (finishes ? 1 : 0))
    guard transmit(numbers, segmentSize: size, isRetransmission: false, now: now) else {
      // Memory is out: again soon.
      if retransmissionDeadline == .max, flight == 0 { persistDeadline = now &+ roundTrip.least }
      return 0
    }
    scoreboard.append(numbers, at: now, segmentSize: size)
    if isProbe { scoreboard.markLastAsProbe() }
    sendNext = numbers.end
    if finishes { hasSentFinish = true }
    if count % size > 0 { lastSmallEnd = numbers.end }
    rateReduction.sent(numbers.count)
    if retransmissionDeadline == .max {
      retransmissionDeadline = limitedByUser(now &+ roundTrip.timeout(backoff: backoff))
    }
    return numbers.count
  }

  // MARK: What a program gives

  /// Adds data that a program sends; `flush` follows.
  /// - Returns: whether it was taken; the slice's reference is gone in either case.
  mutating func append(_ slice: PacketSlice) -> Bool { sendQueue.append(slice) }

  /// The same, copied.
  /// - Returns: bytes taken: all but where memory is out.
  mutating func append(copying bytes: UnsafeRawBufferPointer) -> Int { sendQueue.append(copying: bytes) }

  /// The last byte given is urgent (RFC 9293, 3.8.5).
  mutating func markUrgent() { urgentEnd = sendQueue.end }

  /// What was given up to here is a message: a reader at the other end need not wait for more (MSG_EOR, the end of a call).
  mutating func markPush() { pushEnd = sendQueue.end }
}
