// Closing: by the program, one direction or both (RFC 9293, 3.6 and 3.10.4), and by force; and how a connection ends.
import Base
import Devices

extension TCPConnection {
  /// The program sends no more: a FIN follows what it has given. `flush` follows.
  mutating func finishSending(now: UInt64) {
    switch state {
    case .established: state = .finWait1
    case .closeWait: state = .lastAck
    default: return
    }
    isFinishing = true
    pushEnd = sendQueue.end
  }

  /// No program has the connection any more. What was given is still sent. `flush` follows.
  mutating func close(now: UInt64) {
    isReaderGone = true
    switch state {
    case .closed, .timeWait: return
    case .listen, .synSent: return terminate(nil)
    case .synReceived: return abort(now: now)
    default: break
    }
    // What nobody has read is lost, and the peer had better know (RFC 2525, 2.17).
    if unconsumed > 0 || !reassembly.isEmpty { return abort(now: now) }
    finishSending(now: now)
    if state == .finWait2 { awaitFinish(now) }
  }

  /// Ends it at once, with an RST (RFC 9293, 3.10.5).
  mutating func abort(now: UInt64) {
    switch state {
    case .synReceived, .established, .finWait1, .finWait2, .closeWait: sendReset(now: now)
    default: break
    }
    terminate(nil)
  }

  /// The peer has acknowledged our FIN.
  mutating func finishAcknowledged(_ now: UInt64) {
    events.insert(.drained)
    switch state {
    case .finWait1:
      state = .finWait2
      if isReaderGone { awaitFinish(now) }
    case .closing: enterTimeWait(now)
    case .lastAck: terminate(nil)
    default: break
    }
  }

  /// Nobody is there to wait for the peer's FIN for ever.
  private mutating func awaitFinish(_ now: UInt64) {
    let time = options.finishTimeout > 0 ? options.finishTimeout : settings.finishTimeout
    if time == .max { terminate(nil) } else { finishDeadline = now &+ time }
  }

  /// Both directions have ended: whoever stands in for the connection knows it by `state` (RFC 9293, 3.6.1). An acknowledgement
  /// may be owed yet.
  mutating func enterTimeWait(_ now: UInt64) {
    let owes = owesAcknowledgement
    terminate(nil)
    state = .timeWait
    owesAcknowledgement = owes
  }

  /// It has failed.
  mutating func fail(_ reason: Errno) {
    error = reason
    events.insert(.failed)
    terminate(reason)
  }

  /// It is over. What has been received stays to be read.
  mutating func terminate(_ reason: Errno?) {
    state = .closed
    sendQueue.removeAll()
    scoreboard.removeAll()
    reassembly.removeAll()
    owesAcknowledgement = false
    acknowledged = sendNext
    isFinishing = false
    (retransmissionDeadline, tailProbeDeadline, reorderingDeadline, persistDeadline) = (.max, .max, .max, .max)
    (acknowledgementDeadline, keepaliveDeadline, finishDeadline) = (.max, .max, .max)
    (reassemblyDeadline, memoryDeadline) = (.max, .max)
    events.formUnion([.ended, .readable, .writable])
  }

  // MARK: What ICMP says

  /// An error about a segment of ours (RFC 9293, 3.9.2.2; RFC 5927, 4: only for a number that is under way).
  /// - Parameter isHard: the RFC's hard errors.
  mutating func errorArrived(_ errno: Errno, isHard: Bool, quoted: UInt32, now: UInt64) {
    let number = SequenceNumber(quoted)
    guard number >= acknowledged, number < sendNext || (number == acknowledged && flight == 0) else { return }
    if state == .synSent, isHard { return fail(errno) }
    softError = errno
  }
}
