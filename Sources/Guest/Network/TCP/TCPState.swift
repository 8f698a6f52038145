// TCPState: the states of a connection (RFC 9293, 3.3.2), and what its owner is told.
import Base

/// A state; the numbers are those of Linux's TCP_* (`struct tcp_info`, /proc/net/tcp).
public enum TCPState: UInt8, Sendable {
  /// ESTABLISHED.
  case established = 1
  /// SYN-SENT.
  case synSent = 2
  /// SYN-RECEIVED.
  case synReceived = 3
  /// FIN-WAIT-1.
  case finWait1 = 4
  /// FIN-WAIT-2.
  case finWait2 = 5
  /// TIME-WAIT.
  case timeWait = 6
  /// CLOSED.
  case closed = 7
  /// CLOSE-WAIT.
  case closeWait = 8
  /// LAST-ACK.
  case lastAck = 9
  /// LISTEN.
  case listen = 10
  /// CLOSING.
  case closing = 11

  /// Whether both sides' numbers are known to both.
  @inline(__always) var isSynchronized: Bool {
    switch self {
    case .closed, .listen, .synSent, .synReceived: false
    default: true
    }
  }

  /// Whether data may still be sent, or sent again.
  @inline(__always) var mayTransmit: Bool {
    switch self {
    case .established, .closeWait, .finWait1, .closing, .lastAck: true
    default: false
    }
  }

  /// Whether more data may come.
  @inline(__always) var mayReceive: Bool {
    switch self {
    case .established, .finWait1, .finWait2: true
    default: false
    }
  }
}

/// What has happened to a connection since its owner last took this.
struct TCPEvents: OptionSet, BitwiseCopyable {
  let rawValue: UInt16
  @inline(__always) init(rawValue: UInt16) { self.rawValue = rawValue }
  /// It is established.
  @inline(__always) static var connected: TCPEvents { TCPEvents(rawValue: 1) }
  /// There is data to be taken, or the end of it.
  @inline(__always) static var readable: TCPEvents { TCPEvents(rawValue: 2) }
  /// There is room for data again.
  @inline(__always) static var writable: TCPEvents { TCPEvents(rawValue: 4) }
  /// The peer sends no more.
  @inline(__always) static var peerFinished: TCPEvents { TCPEvents(rawValue: 8) }
  /// It has failed; `error` says why.
  @inline(__always) static var failed: TCPEvents { TCPEvents(rawValue: 16) }
  /// It is over: nothing more is sent or taken. In TIME-WAIT somebody has to stand in for it.
  @inline(__always) static var ended: TCPEvents { TCPEvents(rawValue: 32) }
  /// Urgent data is announced.
  @inline(__always) static var urgent: TCPEvents { TCPEvents(rawValue: 64) }
  /// All that was sent has been acknowledged, the FIN too.
  @inline(__always) static var drained: TCPEvents { TCPEvents(rawValue: 128) }
  /// Timeouts come in a row: the way to the peer should be looked for anew.
  @inline(__always) static var pathInDoubt: TCPEvents { TCPEvents(rawValue: 256) }
}
