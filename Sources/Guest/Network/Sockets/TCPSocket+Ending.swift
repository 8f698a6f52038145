// How a TCP connection ends, as far as its program says: shutdown(2), close(2), SO_LINGER.
import Base
import Devices
import Files
import Locks
import Platform

extension TCPSocket {
  /// Ends one direction, or both.
  /// - Throws: ENOTCONN.
  func endDirections(receiving: Bool, sending: Bool) throws(Errno) {
    let now = begin()
    let flow = flow
    switch state {
    case .listen:
      end(flow, now: now)
      if receiving { stopListening() }
      return
    case .synSent:
      end(flow, now: now)
      return disconnect()
    default: break
    }
    let isConnected = state != .closed
    if receiving { hasEndedReceiving = true }
    if sending { hasEndedSending = true }
    if sending, isConnected { flow?.core.finishSending(now: now) }
    changes.wrappingAdd(1, ordering: .releasing)
    end(flow, now: now)
    source.notify([.readable, .writable, .readHangUp, .hangUp])
    if !isConnected { throw .ENOTCONN }
  }

  /// The last descriptor is gone: what was sent still arrives, unless nobody is to wait for that.
  /// - Parameter waits: as SO_LINGER says.
  func close(waits: Bool = true) {
    if lock.withLock({ listener != nil }) { stopListening() }
    let linger = optionWords.linger.load(ordering: .relaxed)
    let now = begin()
    let flow = flow
    let wasClosed = isClosed
    isClosed = true
    if let flow, !wasClosed {
      let count = tcp.orphanCount.wrappingAdd(1, ordering: .relaxed).newValue
      if linger == 0 {
        flow.core.abort(now: now)
      } else if count > tcp.settings.largestOrphanCount {
        tcp.count(.orphansAborted)
        flow.core.abort(now: now)
      } else {
        flow.core.close(now: now)
      }
    } else if flow == nil {
      releasePort()
    }
    changes.wrappingAdd(1, ordering: .releasing)
    end(flow, now: now)
    source.notify([.readable, .writable, .hangUp, .readHangUp, .error])
    receiving.withLock { taken.removeAll() }
    if waits, linger > 0, let flow { waitForEnd(of: flow, seconds: linger) }
  }

  /// Waits until everything has been acknowledged, the FIN too.
  private func waitForEnd(of flow: TCPFlow, seconds: Int32) {
    let deadline = Deadline.after(seconds.u64 &* 1_000_000_000, from: Clock.now())
    while true {
      let now = begin()
      flow.collect(now: now)
      let state = flow.core.state
      let seen = changes.load(ordering: .acquiring)
      end(flow, now: now)
      guard Self.isUnacknowledged(state) else { return }
      if sleep(flow, seen: seen, until: deadline) != .woken { return }
    }
  }

  /// Whether the FIN has been given and not been acknowledged.
  private static func isUnacknowledged(_ state: TCPState) -> Bool {
    state == .finWait1 || state == .closing || state == .lastAck
  }

  /// How far the end of a connection without a program is: the first byte that has not been acknowledged, while there is one; nil if all has been, the
  /// FIN too, or the connection has failed.
  func unfinished() -> UInt32? {
    let now = begin()
    let flow = flow
    var place: UInt32?
    if let flow, Self.isUnacknowledged(flow.core.state) { place = flow.core.acknowledged.rawValue }
    end(flow, now: now)
    return place
  }

  /// The socket of a connection that nobody will accept is gone. Its listener's lock may be held.
  func abandon() {
    lock.lock()
    let old = flow
    isClosed = true
    if let old {
      let now = old.time()
      old.core.abort(now: now)
      _ = old.finish(now: now)
      flow = nil
    }
    releasePort()
    lock.unlock()
    withExtendedLifetime(old) {}
    stack.sockets.remove(self)
  }
}
