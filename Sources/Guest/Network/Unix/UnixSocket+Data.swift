// Sending and receiving over AF_UNIX.
import Base
import Files
import Locks
import Memory

extension UnixSocket {
  /// Bytes of a message of a stream at most.
  private static let pieceByteCount = 32_768

  // MARK: Sending

  func sendStream(_ transfer: inout Transfer, _ message: OutgoingMessage) throws(Errno) -> Int {
    if message.address != nil { throw lock.withLock({ peer != nil }) ? .EISCONN : .EOPNOTSUPP }
    let deadline = deadline(sendTimeout, message.flags)
    var message = message
    var sent = 0
    do throws(Errno) {
      repeat {
        let other = try connectedPeer()
        guard transfer.remaining > 0 else { break }
        try waitForRoom(until: deadline)
        let entry = try UnixMessage(
          &transfer, count: min(transfer.remaining, Self.pieceByteCount), message, from: lock.withLock { name }, account
        )
        guard other.take(entry) else { throw .EPIPE }
        sent &+= entry.bytes.count
        message.files = nil  // They go with the first piece.
      } while transfer.remaining > 0
    } catch {
      guard sent > 0 else { throw error }
    }
    return sent
  }

  /// The other end, if anything can be sent to it.
  private func connectedPeer() throws(Errno) -> UnixSocket {
    let (other, isEnded) = lock.withLock { (peer, ended.sending) }
    if isEnded { throw .EPIPE }
    guard let other else { throw .ENOTCONN }
    return other
  }

  private func waitForRoom(until deadline: Deadline) throws(Errno) {
    while !account.hasRoom {
      if deadline == .now { throw .EAGAIN }
      let result = source.wait(until: deadline) { !account.hasRoom && !lock.withLock { ended.sending } }
      if result == .interrupted { throw .EINTR }
      if result == .timedOut { throw .EAGAIN }
      if lock.withLock({ ended.sending }) { throw .EPIPE }
    }
  }

  func sendMessage(_ transfer: inout Transfer, _ message: OutgoingMessage, _ caller: SocketCaller?) throws(Errno)
    -> Int
  {
    let deadline = deadline(sendTimeout, message.flags)
    let count = transfer.remaining
    if kind == .datagram, lock.withLock({ ended.sending }) { throw .EPIPE }
    let target: UnixSocket
    if kind == .datagram, let address = message.address, let caller {
      target = try UnixNames.find(address, kind, caller)
    } else {
      target = try connectedPeer()
    }
    guard count <= account.limit.load(ordering: .relaxed) &- 32 else { throw .EMSGSIZE }
    try waitForRoom(until: deadline)
    let entry = try UnixMessage(&transfer, count: count, message, from: lock.withLock { name }, account)
    while kind == .datagram, target.isFullOfDatagrams(from: self) {
      if deadline == .now { throw .EAGAIN }
      let result = target.source.wait(until: deadline) { target.isFullOfDatagrams(from: self) }
      if result == .interrupted { throw .EINTR }
      if result == .timedOut { throw .EAGAIN }
    }
    guard target.take(entry) else {
      guard kind == .datagram, target.lock.withLock({ target.isClosed }) else { throw .EPIPE }
      // Nobody is there any more.
      let old = lock.withLock { () -> UnixSocket? in
        guard peer === target else { return nil }
        peer = nil
        return target
      }
      withExtendedLifetime(old) {}
      throw .ECONNREFUSED
    }
    return count
  }

  /// Takes a message into the queue, unless nobody is going to receive it.
  private func take(_ entry: UnixMessage) -> Bool {
    let isTaken = lock.withLock { () -> Bool in
      guard !isClosed, !ended.receiving else { return false }
      queue.append(entry)
      return true
    }
    if isTaken { source.notify(.readable) }
    return isTaken
  }

  // MARK: Receiving

  func receiveStream(_ transfer: inout Transfer, _ flags: MessageFlags, _ deadline: Deadline) throws(Errno)
    -> IncomingMessage
  {
    let wanted = flags.contains(.all) ? transfer.remaining : min(transfer.remaining, 1)
    var result = IncomingMessage()
    while true {
      receiving.lock()
      let failure = copyStream(&transfer, flags.contains(.peek), &result)
      receiving.unlock()
      if let failure {
        if result.count == 0 { throw failure }
        return result
      }
      if result.count >= wanted || result.files != nil || flags.contains(.peek) && result.count > 0 { return result }
      do throws(Errno) {
        let beyond = flags.contains(.peek) ? peekOffset : 0
        guard try waitForMessage(until: deadline, unconnected: .EINVAL, beyond: beyond) else { return result }
      } catch {
        if result.count == 0 { throw error }
        return result
      }
    }
  }

  /// Copies what is there, to the first message with files or of another sender. With `receiving`.
  private func copyStream(_ transfer: inout Transfer, _ isPeek: Bool, _ result: inout IncomingMessage) -> Errno? {
    let wantsCredentials = self.wantsCredentials.load(ordering: .relaxed)
    let start = result.count
    defer { gave(result.count &- start, isPeek: isPeek) }
    var (cursor, skipped) = lock.withLock { queue.skipping(isPeek ? peekOffset : 0) }
    while transfer.remaining > 0, let entry = cursor {
      let sender = entry.message.credentials
      if wantsCredentials, let other = result.credentials {
        guard other.process == sender.process, other.user == sender.user, other.group == sender.group else { break }
      }
      let before = transfer.copied
      let rest = UnsafeRawBufferPointer(rebasing: entry.bytes[(entry.taken &+ skipped)...])
      skipped = 0
      var failure: Errno?
      do throws(Errno) { _ = try transfer.copyOut(from: rest) } catch { failure = error }
      let moved = transfer.copied &- before
      result.count &+= moved
      if wantsCredentials { result.credentials = sender }
      if result.address == nil { result.address = entry.address }
      if !entry.filesTaken, let files = entry.message.files {
        result.files = files
        if !isPeek { entry.filesTaken = true }
      }
      let isWhole = moved == rest.count
      cursor = lock.withLock { () -> UnixMessage? in
        guard !isPeek else { return entry.next }
        entry.taken &+= moved
        if isWhole { queue.removeFirst() }
        return queue.first
      }
      if let failure { return failure }
      if !isWhole || result.files != nil { break }
    }
    return nil
  }

  /// Waits until there is a message, or, behind so many bytes, more.
  /// - Returns: false: there will be none.
  private func waitForMessage(until deadline: Deadline, unconnected: Errno, beyond: Int = 0) throws(Errno) -> Bool {
    let (isEnded, isConnected) = try lock.withLock { () throws(Errno) -> (Bool, Bool) in
      if queue.hasMore(than: beyond) { return (false, true) }
      if let error {
        self.error = nil
        throw error
      }
      return (ended.receiving, peer != nil || kind == .datagram)
    }
    if isEnded { return lock.withLock { queue.hasMore(than: beyond) } }
    guard isConnected else { throw unconnected }
    if deadline == .now, lock.withLock({ !queue.hasMore(than: beyond) }) { throw .EAGAIN }
    let result = source.wait(until: deadline) {
      lock.withLock { !queue.hasMore(than: beyond) && !ended.receiving && error == nil }
    }
    if result == .interrupted { throw .EINTR }
    if result == .timedOut { throw .EAGAIN }
    return true
  }

  func receiveMessage(_ transfer: inout Transfer, _ flags: MessageFlags, _ deadline: Deadline) throws(Errno)
    -> IncomingMessage
  {
    let isPeek = flags.contains(.peek)
    while true {
      let beyond = isPeek ? peekOffset : 0
      let (entry, skipped) = lock.withLock { () -> (UnixMessage?, Int) in
        if isPeek { return queue.skipping(beyond) }
        let entry = queue.first
        queue.removeFirst()
        return (entry, 0)
      }
      guard let entry else {
        guard try waitForMessage(until: deadline, unconnected: .ENOTCONN, beyond: beyond) else {
          return IncomingMessage()
        }
        continue
      }
      if !isPeek { source.notify(.writable) }  // Others may send to it again.
      var result = IncomingMessage()
      let size = entry.bytes.count &- skipped
      let copied = try transfer.copyOut(from: UnsafeRawBufferPointer(rebasing: entry.bytes[skipped...]))
      gave(isPeek ? copied : size, isPeek: isPeek)
      result.count = flags.contains(.truncated) ? size : copied
      if copied < size { result.flags.insert(.truncated) }
      result.address = entry.address
      result.files = entry.message.files
      if wantsCredentials.load(ordering: .relaxed) { result.credentials = entry.message.credentials }
      return result
    }
  }
}
