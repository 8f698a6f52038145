// Timers: retransmission (RFC 6298), probes of a closed window (RFC 9293, 3.8.6.1), delayed acknowledgements, keep-alives (3.8.4), and when
// patience ends (3.8.3).
import Base
import Devices

extension TCPConnection {
  /// Does what is due by now. May come early: then it does nothing. `flush` follows.
  mutating func timerFired(now: UInt64) {
    if acknowledgementDeadline <= now {
      acknowledgementDeadline = .max
      owesAcknowledgement = true
      // The program does not answer that soon.
      isInteractive = false
    }
    if reorderingDeadline <= now { reorderingTimedOut(now) }
    if tailProbeDeadline <= now { probeTail(now: now) }
    if retransmissionDeadline <= now { retransmissionTimedOut(now) }
    if persistDeadline <= now { persistTimedOut(now) }
    if keepaliveDeadline <= now { keepaliveTimedOut(now) }
    if memoryDeadline <= now { memoryTimedOut() }
    if reassemblyDeadline <= now { reassemblyTimedOut() }
    if finishDeadline <= now { terminate(nil) }
  }

  /// What overtook it has been here for long enough (RFC 8985, 6.3).
  private mutating func reorderingTimedOut(_ now: UInt64) {
    let flightBefore = flight
    guard findLosses(now: now) > 0 else { return }
    if recovery == .open || recovery == .reduced { beginRecovery(flight: flightBefore) }
    if recovery == .recovering {
      let window = rateReduction.window(
        delivered: segmentSize, pipe: pipe, threshold: congestion.threshold, segmentSize: segmentSize,
        makesProgress: false)
      congestion.setWindow(window, segmentSize: segmentSize)
    }
  }

  // MARK: Retransmission

  private mutating func retransmissionTimedOut(_ now: UInt64) {
    retransmissionDeadline = .max
    if state == .synSent || state == .synReceived { return synchronizeTimedOut(now) }
    guard state.mayTransmit, flight > 0 else { return }
    // A peer that has taken its window back and still answers is not gone.
    let isClosed = sendWindow == 0 && now &- lastReceivedAt < settings.largestTimeout
    if !isClosed, hasLostPatience(timeoutCount, now) { return fail(softError ?? .ETIMEDOUT) }
    timeoutCount &+= 1
    if timeoutCount == settings.doubtfulRetries { events.insert(.pathInDoubt) }
    suspectBlackHole(now)
    recoverFromTimeout(now: now)
    backoff &+= 1
    retransmissionDeadline = limitedByUser(now &+ roundTrip.timeout(backoff: backoff))
  }

  private mutating func synchronizeTimedOut(_ now: UInt64) {
    let own = options.synRetries > 0 ? options.synRetries : settings.synRetries
    let most = state == .synSent ? own : settings.synAckRetries
    if timeoutCount >= most || hasUserTimedOut(now) { return fail(softError ?? .ETIMEDOUT) }
    timeoutCount &+= 1
    backoff &+= 1
    statistics.retransmissions &+= 1
    sendSynchronize(now)
    retransmissionDeadline = limitedByUser(now &+ roundTrip.timeout(backoff: backoff))
  }

  /// Whether so many attempts in a row without an answer are enough.
  private func hasLostPatience(_ attempts: Int, _ now: UInt64) -> Bool {
    if options.userTimeout > 0 { return hasUserTimedOut(now) }
    return attempts >= (isReaderGone ? settings.orphanRetries : settings.retries)
  }

  private func hasUserTimedOut(_ now: UInt64) -> Bool {
    options.userTimeout > 0 && waitingSince > 0 && now &- waitingSince >= options.userTimeout
  }

  /// No later than when the program's patience ends.
  func limitedByUser(_ deadline: UInt64) -> UInt64 {
    guard options.userTimeout > 0, waitingSince > 0 else { return deadline }
    return min(deadline, waitingSince &+ options.userTimeout)
  }

  // MARK: Closed windows

  /// Data waits, nothing is under way: something has to be done later.
  mutating func armPersist(_ now: UInt64) {
    if waitingSince == 0 { waitingSince = max(now, 1) }
    persistDeadline = limitedByUser(now &+ roundTrip.timeout(backoff: persistBackoff))
  }

  private mutating func persistTimedOut(_ now: UInt64) {
    persistDeadline = .max
    guard state.mayTransmit, flight == 0, unsentCount > 0 else { return }
    // An orphan does not wait for ever, whether its peer answers or not.
    let isTooLong = isReaderGone && persistBackoff >= settings.orphanRetries
    if isTooLong || hasLostPatience(probeCount, now) {
      if isReaderGone { sendReset(now: now) }
      return fail(softError ?? .ETIMEDOUT)
    }
    // A little window, or a corked piece, has waited long enough (RFC 9293, 3.8.6.2.1, override).
    if sendNew(limit: max(congestion.window, segmentSize), isForced: true, now: now) > 0 { return }
    sendAcknowledgement(now: now, isProbe: true)
    probeCount &+= 1
    persistBackoff &+= 1
    armPersist(now)
  }

  // MARK: Keep-alive

  private var keepaliveIdle: UInt64 { options.keepaliveIdle > 0 ? options.keepaliveIdle : settings.keepaliveIdle }

  /// Begins to watch over an idle connection, or stops, as the socket's option says.
  mutating func armKeepalive(_ now: UInt64) {
    keepaliveDeadline =
      options.isKeptAlive && (state.isSynchronized || state == .synReceived) && state != .timeWait
      ? now &+ keepaliveIdle : .max
  }

  private mutating func keepaliveTimedOut(_ now: UInt64) {
    keepaliveDeadline = .max
    guard options.isKeptAlive, state.isSynchronized, state != .timeWait else { return }
    let idle = now &- lastReceivedAt
    // Data under way is watched over by its own timer.
    if flight > 0 || unsentCount > 0 || idle < keepaliveIdle {
      keepaliveDeadline = idle < keepaliveIdle ? lastReceivedAt &+ keepaliveIdle : now &+ keepaliveIdle
      return
    }
    let most = options.keepaliveCount > 0 ? options.keepaliveCount : settings.keepaliveCount
    let isGone =
      options.userTimeout > 0 ? keepaliveCount > 0 && idle >= options.userTimeout : keepaliveCount >= most
    if isGone {
      sendReset(now: now)
      return fail(softError ?? .ETIMEDOUT)
    }
    keepaliveCount &+= 1
    sendAcknowledgement(now: now, isProbe: true)
    keepaliveDeadline = now &+ (options.keepaliveInterval > 0 ? options.keepaliveInterval : settings.keepaliveInterval)
  }
}
