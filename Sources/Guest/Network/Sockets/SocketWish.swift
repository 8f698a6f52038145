// Which socket a program means by a family, a type and a protocol (socket(2)).
import Base
import Files

/// The arguments of socket(2).
public struct SocketWish {
  private let family: Int32
  private let type: Int32
  private let protocolNumber: Int32

  private static var unixFamily: Int32 { 1 }

  /// A wish; the type without its flags.
  public init(family: Int32, type: Int32, protocolNumber: Int32) {
    (self.family, self.type, self.protocolNumber) = (family, type, protocolNumber)
  }

  /// The socket that is meant.
  /// - Throws: EAFNOSUPPORT, EINVAL, ESOCKTNOSUPPORT, EPROTONOSUPPORT, EPERM, ENOMEM.
  public func make(flags: OpenFlags, _ caller: SocketCaller) throws(Errno) -> Socket {
    try checkNumbers()
    switch family {
    case Self.unixFamily: return UnixSocket(kind: try unixKind(), flags: flags)
    default: throw .EAFNOSUPPORT
    }
  }

  /// Two sockets that are connected (socketpair).
  /// - Throws: as `make`; EOPNOTSUPP: the family has no pairs.
  public func makePair(flags: OpenFlags, _ caller: SocketCaller) throws(Errno) -> (Socket, Socket) {
    try checkNumbers()
    guard family == Self.unixFamily else {
      _ = try make(flags: flags, caller)
      throw .EOPNOTSUPP
    }
    return UnixSocket.pair(kind: try unixKind(), flags: flags, caller)
  }

  /// AF_MAX and SOCK_MAX.
  private func checkNumbers() throws(Errno) {
    guard family >= 0, family < 46 else { throw .EAFNOSUPPORT }
    guard type >= 0, type < 11 else { throw .EINVAL }
  }

  private func unixKind() throws(Errno) -> SocketKind {
    guard protocolNumber == 0 || protocolNumber == Self.unixFamily else { throw .EPROTONOSUPPORT }
    switch SocketKind(rawValue: type) {
    case .stream: return .stream
    // A raw socket is one for datagrams here.
    case .datagram, .raw: return .datagram
    case .sequenced: return .sequenced
    default: throw .ESOCKTNOSUPPORT
    }
  }
}
