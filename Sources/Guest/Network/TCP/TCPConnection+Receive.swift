// Data, urgent data and FIN of arriving segments (RFC 9293, 3.10.7.4, sixth to eighth), when they are acknowledged, and what readers get.
import Base
import Devices

extension TCPConnection {
  // MARK: Data

  /// Takes the data and the FIN of an acceptable segment.
  /// - Parameters:
  ///   - packet: the segment, header and all.
  ///   - sequence: of its first byte of data.
  mutating func dataArrived(
    _ packet: consuming Packet, _ header: TCPHeader, at sequence: SequenceNumber, now: UInt64
  ) {
    packet.dropFirst(header.byteCount)
    var start = sequence
    var end = sequence + packet.byteCount
    var finishes = header.flags.contains(.finish)
    if header.flags.contains(.urgent) { urgentArrived(packet, header, at: sequence) }
    if packet.byteCount == 0, !finishes { return }
    // Without a turn for data it is something sent again: the peer has missed an acknowledgement.
    guard state.mayReceive, end > receiveNext || (finishes && end == receiveNext) else {
      // Behind a FIN that has come there is nothing that could come twice.
      if packet.byteCount > 0, start < receiveNext {
        duplicateReceived = SequenceRange(start, SequenceNumber.earlier(end, receiveNext))
      }
      statistics.duplicatesSeen &+= 1
      sendAcknowledgement(now: now)
      return
    }
    if packet.byteCount > 0 {
      statistics.dataSegmentsReceived &+= 1
      // Nobody will read it: the peer had better know (RFC 9293, 3.6.1; RFC 2525, 2.17).
      if isReaderGone {
        sendReset(now: now)
        return terminate(nil)
      }
      if urgentState == .announced { findUrgentByte(packet, start) }
    }
    if end > windowEdge {
      packet.dropLast(end - SequenceNumber.later(windowEdge, start))
      end = SequenceNumber.later(windowEdge, start)
      finishes = false
      owesAcknowledgement = true
    }
    if start < receiveNext {
      duplicateReceived = SequenceRange(start, receiveNext)
      packet.dropFirst(receiveNext - start)
      start = receiveNext
      owesAcknowledgement = true
    }
    // Whatever the peer says after its FIN is not said.
    if finishes, finishNumber == nil {
      finishNumber = end
      reassembly.removeAll(behind: end)
    }
    if let finishNumber, end > finishNumber {
      packet.dropLast(end - SequenceNumber.later(finishNumber, start))
      end = SequenceNumber.later(finishNumber, start)
    }
    if packet.byteCount == 0 {
      if finishNumber == receiveNext { finishArrived(now) } else { sendAcknowledgement(now: now) }
      return
    }
    noteSegmentSize(packet)
    lastDataReceivedAt = now
    if start == receiveNext {
      inOrderArrived(packet, now: now)
    } else {
      outOfOrderArrived(packet, at: start, now: now)
    }
  }

  /// How large the peer's segments are.
  private mutating func noteSegmentSize(_ packet: borrowing Packet) {
    let segmentation = packet.segmentation
    let size = segmentation.kind == .none ? packet.byteCount : segmentation.segmentByteCount.int
    if size > receiveSegmentSize { receiveSegmentSize = min(size, max(advertisedSegmentSize, 536)) }
  }

  private mutating func inOrderArrived(_ packet: consuming Packet, now: UInt64) {
    guard mayHoldInOrder() else {
      // The peer has it still, and whoever waits for more than there is waits in vain.
      events.insert(.readable)
      return sendAcknowledgement(now: now)
    }
    var count = packet.byteCount
    receiveNext += count
    let fillsGap = !reassembly.isEmpty
    receiveQueue.append(packet)
    if fillsGap {
      let reached = reassembly.take(from: receiveNext, into: &receiveQueue)
      if reached > receiveNext { reassemblyProgressed(now: now) }
      count &+= reached - receiveNext
      receiveNext = reached
    }
    unconsumed &+= count
    accountMemory()
    statistics.bytesReceived &+= count.u64
    unacknowledgedCount &+= count
    if !usesTimestamps { measureReceiverRoundTrip(now: now) }
    if unconsumed >= options.receiveLowMark || isHeldBack { events.insert(.readable) }
    if finishNumber == receiveNext { return finishArrived(now) }
    // At once: what fills a gap (RFC 5681, 4.2), every second full segment, and while the peer's window is small yet.
    if fillsGap || unacknowledgedCount >= 2 &* receiveSegmentSize || (quickCount > 0 && !isInteractive) {
      owesAcknowledgement = true
    } else if acknowledgementDeadline == .max {
      acknowledgementDeadline = now &+ settings.acknowledgementDelay
    }
  }

  private mutating func outOfOrderArrived(_ packet: consuming Packet, at start: SequenceNumber, now: UInt64) {
    var duplicate: SequenceRange?
    guard mayHoldOutOfOrder(now: now) else { return sendAcknowledgement(now: now) }
    let limit = max(receiveFootprintLimit &- receiveFootprint &+ reassembly.footprint, 0)
    let result = reassembly.insert(packet, at: start, limit: limit, duplicate: &duplicate)
    accountMemory()
    if let duplicate { duplicateReceived = duplicate }
    if result == .duplicate { statistics.duplicatesSeen &+= 1 }
    // Each by an acknowledgement of its own, for senders count them (RFC 5681, 4.2).
    sendAcknowledgement(now: now)
  }

  // MARK: FIN

  /// All that the peer says has been said.
  private mutating func finishArrived(_ now: UInt64) {
    receiveNext += 1
    windowEdge = SequenceNumber.later(windowEdge, receiveNext)
    hasFinished = true
    reassembly.removeAll()
    owesAcknowledgement = true
    events.formUnion([.readable, .peerFinished])
    switch state {
    case .established: state = .closeWait
    case .finWait1: state = .closing
    case .finWait2: enterTimeWait(now)
    default: break
    }
  }

  // MARK: Urgent data

  /// The header announces urgent data: the field points behind its last byte (RFC 6093, 3).
  private mutating func urgentArrived(_ packet: borrowing Packet, _ header: TCPHeader, at sequence: SequenceNumber) {
    guard header.urgentPointer > 0, !hasFinished else { return }
    let number = sequence + (header.urgentPointer.int &- 1)
    // What has been read, or was announced before, or lies beyond all windows, is no news.
    guard number >= readPosition, number - receiveNext < 65_536 &+ max(windowEdge - receiveNext, 0) else { return }
    if urgentState != .none, let old = urgentNumber, number <= old { return }
    urgentNumber = number
    urgentState = .announced
    events.insert(.urgent)
    // It may lie in the queue already; then it is the program's in order only.
    findUrgentByte(packet, sequence)
  }

  private mutating func findUrgentByte(_ packet: borrowing Packet, _ start: SequenceNumber) {
    guard let number = urgentNumber, number >= start, number - start < packet.byteCount else { return }
    var byte: UInt8 = 0
    let isThere = withUnsafeMutableBytes(of: &byte) { packet.copy(from: number - start, into: $0) }
    guard isThere else { return }
    urgentByte = byte
    urgentState = .present
    events.insert(.urgent)
  }

  // MARK: Reading

  /// The number of the next byte that a reader consumes.
  var readPosition: SequenceNumber { receiveNext - (hasFinished ? 1 : 0) - unconsumed }

  /// Bytes that may be read before the urgent one; nil: there is none ahead. 0: it is next.
  var countBeforeUrgent: Int? {
    guard urgentState != .none, let number = urgentNumber, number >= readPosition else { return nil }
    return number - readPosition
  }

  /// A reader has come past the urgent byte.
  mutating func passUrgent() { if let number = urgentNumber, readPosition > number { urgentState = .none } }

  /// Takes the urgent byte out of band; the byte itself stays where it is, and readers pass over it.
  mutating func takeUrgentByte(isPeek: Bool) -> UInt8? {
    guard urgentState == .present else { return nil }
    if !isPeek { urgentState = .taken }
    return urgentByte
  }

  /// Whether poll calls it readable: enough data, or the end of it.
  var isReadable: Bool {
    if hasFinished || state == .closed || state == .timeWait { return true }
    // A mark too low to be reached while the window is full counts as reached.
    return unconsumed > 0 && (unconsumed >= options.receiveLowMark || isHeldBack)
  }
}
