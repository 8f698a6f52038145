// Receiving over TCP: packets leave the connection's queue under the lock, and are copied to the program without it.
//
// Bytes count as consumed when they leave the queue, so that one look at the connection is enough; what could not be copied then is given back to
// the count.
import Base
import Devices
import Files
import Locks
import Memory

extension TCPSocket {
  func receiveStream(_ transfer: inout Transfer, _ flags: MessageFlags) throws(Errno) -> IncomingMessage {
    if flags.contains(.errorQueue) { return try receiveError(&transfer) }
    if flags.contains(.outOfBand) { return try receiveUrgent(&transfer, flags) }
    let deadline = deadline(receiveTimeout, flags)
    var result = IncomingMessage()
    let lowMark = max(optionWords.receiveLowMark.load(ordering: .relaxed).int, 1)
    let wanted = flags.contains(.all) ? transfer.remaining : min(lowMark, transfer.remaining)
    while true {
      receiving.lock()
      let now = begin()
      let flow = flow
      let seen = changes.load(ordering: .acquiring)
      let step = available(
        flow, transfer.remaining, wanted: wanted &- result.count, flags, canWait: deadline != .now, now: now)
      var failure: Errno?
      if step.count == 0, !step.isMore { failure = reasonForNothing(flow, isFirst: result.count == 0) }
      end(flow, now: now)
      if step.count > 0 { failure = copy(step.count, &transfer, flags, &result, flow) }
      receiving.unlock()
      if let failure, failure != .ENODATA {
        if result.count == 0 { throw failure }
        return result
      }
      // ENODATA: the end.
      if failure != nil || result.count >= wanted || transfer.remaining == 0 || step.endsAtMark { return result }
      if step.count > 0 {
        if flags.contains(.peek) { return result }
        // The end may have come along with it.
        continue
      }
      guard let flow, deadline != .now else {
        if result.count > 0 { return result }
        throw .EAGAIN
      }
      let outcome = sleep(flow, seen: seen, until: deadline)
      if outcome == .woken { continue }
      if result.count > 0 { return result }
      throw outcome == .interrupted ? .EINTR : .EAGAIN
    }
  }

  /// What a look at the queue has found.
  private struct Step {
    /// Bytes that lie in `taken` to be copied.
    var count = 0
    /// More is there than may be given out now.
    var isMore = false
    /// The urgent byte comes next: what is behind it comes by another call.
    var endsAtMark = false
  }

  /// Moves bytes that a reader may have now to `taken`. With `receiving` and the lock.
  private func available(
    _ flow: TCPFlow?, _ room: Int, wanted: Int, _ flags: MessageFlags, canWait: Bool, now: UInt64
  ) -> Step {
    var step = Step()
    guard let flow else { return step }
    if !flow.core.options.takesUrgentInline, flow.core.countBeforeUrgent == 0 { skipUrgent(flow, flags, now: now) }
    var count = min(flow.core.unconsumed, room)
    if let before = flow.core.countBeforeUrgent, before > 0, before <= count {
      count = before
      step.endsAtMark = true
    }
    // A peek begins anew each time: it waits for all that it wants, if that can come.
    if flags.contains(.peek), count < wanted, canWait, !step.endsAtMark, flow.core.state.mayReceive, !hasEndedReceiving,
      !flow.core.isHeldBack
    {
      step.isMore = count > 0
      return step
    }
    guard count > 0 else { return step }
    if taken.byteCount < count { flow.core.receiveQueue.take(count &- taken.byteCount, into: &taken) }
    step.count = count
    if !flags.contains(.peek) {
      flow.core.consumed(count, now: now)
      flow.core.passUrgent()
    }
    return step
  }

  /// Readers pass over the urgent byte, which is taken out of band.
  private func skipUrgent(_ flow: TCPFlow, _ flags: MessageFlags, now: UInt64) {
    guard !flags.contains(.peek), flow.core.unconsumed > 0 else { return }
    if taken.byteCount < 1 { flow.core.receiveQueue.take(1, into: &taken) }
    guard var packet = taken.removeFirst() else { return }
    packet.dropFirst(1)
    if packet.byteCount > 0 { taken.prepend(packet) }
    flow.core.consumed(1, now: now)
    // Who has not taken it by now has lost it, as with Linux.
    flow.core.passUrgent()
  }

  /// Why there is nothing to be read: ENODATA: there will be no more; nil: not yet. With the lock.
  private func reasonForNothing(_ flow: TCPFlow?, isFirst: Bool) -> Errno? {
    if flow?.core.hasFinished == true { return .ENODATA }
    if isFirst, let error = errors.take() { return error }
    if errors.isThere || hasEndedReceiving { return .ENODATA }
    switch state {
    case .closed, .listen: return flow == nil ? .ENOTCONN : .ENODATA
    default: return nil
    }
  }

  /// Copies from `taken`. With `receiving`.
  /// - Returns: why it did not go on.
  private func copy(
    _ count: Int, _ transfer: inout Transfer, _ flags: MessageFlags, _ result: inout IncomingMessage, _ flow: TCPFlow?
  ) -> Errno? {
    let before = transfer.copied
    var failure: Errno?
    do throws(Errno) {
      if flags.contains(.truncated) {
        if flags.contains(.peek) { try transfer.skip(count) } else { try skip(count, &transfer) }
      } else if flags.contains(.peek) {
        try peek(count, &transfer)
      } else {
        try move(count, &transfer)
      }
    } catch { failure = error }
    let moved = transfer.copied &- before
    result.count &+= moved
    if moved < count, !flags.contains(.peek), let flow {
      lock.withLock { flow.core.unconsumed &+= count &- moved }
    }
    // The program has shortened its vector meanwhile.
    return failure ?? (moved < count ? .EFAULT : nil)
  }

  private func move(_ count: Int, _ transfer: inout Transfer) throws(Errno) {
    var left = count
    while left > 0, var packet = taken.removeFirst() {
      let before = transfer.copied
      var failure: Errno?
      do throws(Errno) { try transfer.copyOut(packet, upTo: left) } catch { failure = error }
      let moved = transfer.copied &- before
      left &-= moved
      if moved < packet.byteCount {
        packet.dropFirst(moved)
        taken.prepend(packet)
        if failure == nil, left > 0 { return }
      }
      if let failure { throw failure }
    }
  }

  private func skip(_ count: Int, _ transfer: inout Transfer) throws(Errno) {
    var left = count
    while left > 0, var packet = taken.removeFirst() {
      let step = min(left, packet.byteCount)
      left &-= step
      if step < packet.byteCount {
        packet.dropFirst(step)
        taken.prepend(packet)
      }
    }
    try transfer.skip(count)
  }

  private func peek(_ count: Int, _ transfer: inout Transfer) throws(Errno) {
    var (left, failure): (Int, Errno?) = (count, nil)
    var copy = transfer
    taken.forEach { packet in
      guard left > 0, failure == nil else { return }
      let before = copy.copied
      do throws(Errno) { try copy.copyOut(packet, upTo: left) } catch { failure = error }
      left &-= copy.copied &- before
    }
    transfer = copy
    if let failure { throw failure }
  }

  // MARK: Out of band

  /// MSG_OOB: the urgent byte.
  private func receiveUrgent(_ transfer: inout Transfer, _ flags: MessageFlags) throws(Errno) -> IncomingMessage {
    let now = begin()
    let flow = flow
    let isInline = isOn(SocketOption.outOfBandInline)
    var byte: UInt8?
    var isAnnounced = false
    let state = state
    if let flow, !isInline {
      isAnnounced = flow.core.urgentState == .announced
      byte = flow.core.takeUrgentByte(isPeek: flags.contains(.peek))
    }
    let isOver = hasEndedReceiving || flow?.core.hasFinished == true
    end(flow, now: now)
    var result = IncomingMessage()
    guard let byte else {
      guard isAnnounced else { throw state == .closed && flow == nil ? .ENOTCONN : .EINVAL }
      if isOver { return result }
      throw .EAGAIN
    }
    result.flags = .outOfBand
    if transfer.remaining == 0 {
      result.flags.insert(.truncated)
      return result
    }
    var copy = byte
    result.count = try withUnsafeBytes(of: &copy) { (bytes) throws(Errno) in try transfer.copyOut(from: bytes) }
    return result
  }

  /// Whether the next byte is the urgent one (SIOCATMARK).
  var isAtMark: Bool {
    let now = begin()
    let flow = flow
    let result = flow?.core.countBeforeUrgent == 0
    end(flow, now: now)
    return result
  }

  private func receiveError(_ transfer: inout Transfer) throws(Errno) -> IncomingMessage {
    try errors.takeReport { (report, bytes) throws(Errno) in
      var result = IncomingMessage()
      result.count = try transfer.copyOut(from: bytes)
      result.flags = .errorQueue
      result.control.parts = report.isV4 ? .error4 : .error6
      result.control.error = report.error
      result.control.offender = report.offender
      return result
    }
  }
}

extension Transfer {
  /// Copies a packet's first bytes, as many as `count` and as remain.
  fileprivate mutating func copyOut(_ packet: borrowing Packet, upTo count: Int) throws(Errno) {
    var left = count
    for index in 0..<packet.sliceCount {
      if left == 0 || remaining == 0 { return }
      let bytes = packet.slice(index).bytes
      let step = min(left, bytes.count)
      let moved = try copyOut(from: UnsafeRawBufferPointer(rebasing: bytes[..<step]))
      left &-= moved
      if moved < step { return }
    }
  }
}
