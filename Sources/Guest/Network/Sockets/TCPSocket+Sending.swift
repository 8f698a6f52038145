// Sending over TCP: from the program's memory into packet memory, without a lock, and from there into the connection's queue.
import Base
import Devices
import Files
import Locks
import Memory

extension TCPSocket {
  /// Bytes of a piece at most: a block of eight pages.
  private static var pieceByteCount: Int { PacketMemory.pageCapacity &* 8 }

  func sendStream(_ transfer: inout Transfer, _ message: OutgoingMessage, _ caller: SocketCaller?) throws(Errno) -> Int
  {
    if message.flags.contains(.fastOpen), let address = message.address { try openFast(address, message.flags) }
    let deadline = deadline(sendTimeout, message.flags)
    var sent = 0
    do throws(Errno) {
      // Mostly there is room, and one look at the connection is enough.
      if transfer.remaining == 0 || room.load(ordering: .relaxed) <= 0 {
        try awaitRoom(until: deadline, isAgain: false)
      }
      while transfer.remaining > 0 {
        let most = max(room.load(ordering: .relaxed), 1)
        guard let piece = try PacketSlice.filled(&transfer, min(min(transfer.remaining, most), Self.pieceByteCount))
        else {
          try awaitMemory(until: deadline)
          continue
        }
        let isLast = transfer.remaining == 0
        try giveAll(piece, isLast: isLast, message.flags, until: deadline, &sent)
        if !isLast, room.load(ordering: .relaxed) <= 0 { try awaitRoom(until: deadline, isAgain: false) }
      }
    } catch {
      guard sent > 0 else { throw error }
    }
    return sent
  }

  /// Connects as it sends: without a cookie of the peer's that is the same as connecting first (RFC 7413, 4.1.3).
  private func openFast(_ address: SocketAddress, _ flags: MessageFlags) throws(Errno) {
    switch lock.withLock({ phase }) {
    case .unconnected: try open(address, flags)
    case .connecting: throw .EALREADY
    case .connected, .listening: throw .EISCONN
    }
  }

  /// Gives the connection a piece and its reference, in parts if memory is short.
  /// - Parameter sent: the bytes that were taken are added.
  private func giveAll(
    _ piece: PacketSlice, isLast: Bool, _ flags: MessageFlags, until deadline: Deadline, _ sent: inout Int
  ) throws(Errno) {
    var rest = piece
    while true {
      let done = try give(rest, isLast: isLast, flags, until: deadline)
      sent &+= done
      if done == rest.count.int { return }
      (rest.offset, rest.count) = (rest.offset &+ done.u32, rest.count &- done.u32)
      do throws(Errno) { try awaitMemory(until: deadline) } catch {
        rest.memory.release()
        throw error
      }
    }
  }

  /// Gives the connection a piece, of which it takes over the reference if it takes all.
  /// - Returns: bytes that were taken: all, unless memory is out.
  /// - Throws: as `awaitRoom`; the reference is let go then.
  private func give(_ piece: PacketSlice, isLast: Bool, _ flags: MessageFlags, until deadline: Deadline) throws(Errno)
    -> Int
  {
    let count = piece.count.int
    let (flow, now) = try beginSending(piece, until: deadline)
    flow.core.expectsMore = !isLast || flags.contains(.more)
    var done = 0
    if count <= SendQueue.gatheringLimit, !flow.core.sendQueue.isEmpty {
      done = flow.core.append(copying: piece.bytes)
      if done == count { piece.memory.release() }
    } else if flow.core.sendQueue.reserve(), flow.core.append(piece) {
      done = count
    }
    if done == count, isLast {
      if flags.contains(.outOfBand) { flow.core.markUrgent() }
      if !flags.contains(.more) { flow.core.markPush() }
    }
    if flow.core.sendRoom == 0 { flow.core.isOutOfRoom = true }
    end(flow, now: now)
    return done
  }

  /// Takes the lock of a connection that takes data.
  /// - Throws: as `awaitRoom`; the lock is not taken then, and the piece let go.
  private func beginSending(_ piece: PacketSlice, until deadline: Deadline) throws(Errno) -> (TCPFlow, UInt64) {
    while true {
      let now = begin()
      let flow = flow
      var failure: Errno?
      do throws(Errno) { if try maySend(), let flow { return (flow, now) } } catch { failure = error }
      end(flow, now: now)
      if failure == nil {
        // Not yet: the connection has just begun.
        do throws(Errno) { try awaitRoom(until: deadline, isAgain: false) } catch { failure = error }
      }
      if let failure {
        piece.memory.release()
        throw failure
      }
    }
  }

  /// Whether data may be given to the connection; false: not yet. With the lock.
  /// - Throws: what has gone wrong; EPIPE: no more is sent, or there is nobody.
  private func maySend() throws(Errno) -> Bool {
    switch state {
    case .established, .closeWait:
      try errors.check()
      if hasEndedSending { throw .EPIPE }
      return true
    case .synSent, .synReceived:
      if hasEndedSending { throw .EPIPE }
      return false
    default:
      try errors.check()
      throw .EPIPE
    }
  }

  /// Memory is out, which is no error of TCP's: waits a moment, or has who waits for events told then.
  /// - Throws: EAGAIN, EINTR; as `maySend`.
  private func awaitMemory(until deadline: Deadline) throws(Errno) {
    let now = begin()
    let flow = flow
    do throws(Errno) { _ = try maySend() } catch {
      end(flow, now: now)
      throw error
    }
    flow?.core.expectsMore = false
    flow?.core.awaitMemory(now: now)
    let seen = changes.load(ordering: .acquiring)
    end(flow, now: now)
    if deadline == .now { throw .EAGAIN }
    guard let flow else { throw .EPIPE }
    switch sleep(flow, seen: seen, until: deadline) {
    case .woken: return
    case .timedOut: throw .EAGAIN
    case .interrupted: throw .EINTR
    }
  }

  /// Waits until the connection is open and there is room for data; after a wait, for a third of the buffer.
  /// - Throws: EAGAIN, EINTR; as `maySend`.
  private func awaitRoom(until deadline: Deadline, isAgain: Bool) throws(Errno) {
    var isAgain = isAgain
    while true {
      let now = begin()
      let flow = flow
      do throws(Errno) {
        if try maySend(), let flow, flow.core.sendRoom > 0, !isAgain || flow.core.isWritable {
          return end(flow, now: now)
        }
      } catch {
        end(flow, now: now)
        throw error
      }
      // What is there may leave: more will not follow at once.
      flow?.core.expectsMore = false
      flow?.core.isOutOfRoom = true
      let seen = changes.load(ordering: .acquiring)
      end(flow, now: now)
      if deadline == .now { throw .EAGAIN }
      guard let flow else { throw .EPIPE }
      switch sleep(flow, seen: seen, until: deadline) {
      case .woken: isAgain = true
      case .timedOut: throw .EAGAIN
      case .interrupted: throw .EINTR
      }
    }
  }
}

extension PacketSlice {
  /// The program's next bytes in fresh memory, whose reference is the caller's: so many, or fewer where memory is in pieces.
  /// - Returns: nil: memory is out.
  /// - Throws: EFAULT.
  static func filled(
    _ transfer: inout Transfer, _ most: Int, allocate: (Int) -> PacketMemory? = { PacketMemory.allocate(capacity: $0) }
  ) throws(Errno) -> PacketSlice? {
    var count = most
    var found = allocate(count)
    while found == nil, count > PacketMemory.pageCapacity {
      count = max(count / 2, PacketMemory.pageCapacity)
      found = allocate(count)
    }
    guard let memory = found ?? PacketMemory.allocateForProgram(capacity: count) else { return nil }
    do throws(Errno) {
      let moved = try transfer.copyIn(into: UnsafeMutableRawBufferPointer(start: memory.bytes, count: count))
      // The program has shortened its vector meanwhile.
      guard moved == count else { throw .EFAULT }
    } catch {
      memory.release()
      throw error
    }
    return PacketSlice(memory: memory, offset: 0, count: count)
  }
}
