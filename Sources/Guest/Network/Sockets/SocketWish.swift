// Which socket a program means by a family, a type and a protocol (socket(2)).
import Base
import Files

/// The arguments of socket(2).
public struct SocketWish {
  private let family: Int32
  private let type: Int32
  private let protocolNumber: Int32

  private static var unixFamily: Int32 { 1 }
  private static var packetFamily: Int32 { 17 }

  /// A wish; the type without its flags.
  public init(family: Int32, type: Int32, protocolNumber: Int32) {
    (self.family, self.type, self.protocolNumber) = (family, type, protocolNumber)
  }

  /// The socket that is meant. Only who needs the network asks for `stack`.
  /// - Throws: EAFNOSUPPORT, EINVAL, ESOCKTNOSUPPORT, EPROTONOSUPPORT, EPERM, ENOMEM.
  public func make(
    flags: OpenFlags, _ caller: SocketCaller, _ stack: @autoclosure () -> NetworkStack
  ) throws(Errno) -> Socket {
    try checkNumbers()
    switch family {
    case Self.unixFamily: return UnixSocket(kind: try unixKind(), flags: flags)
    case InternetEndpoint.family4.i32, InternetEndpoint.family6.i32:
      return try makeInternet(flags: flags, caller, stack())
    case NetlinkSocket.number.i32:
      guard let kind = SocketKind(rawValue: type), kind == .raw || kind == .datagram else { throw .ESOCKTNOSUPPORT }
      guard let service = NetlinkSocket.Service(rawValue: protocolNumber) else { throw .EPROTONOSUPPORT }
      return NetlinkSocket(service, kind: kind, flags: flags, stack: stack())
    case Self.packetFamily:
      guard caller.rights.isPrivileged else { throw .EPERM }
      guard let kind = SocketKind(rawValue: type), kind == .raw || kind == .datagram else { throw .ESOCKTNOSUPPORT }
      return try PacketSocket(kind: kind, etherType: protocolNumber.u16.byteSwapped, flags: flags, stack: stack())
    default: throw .EAFNOSUPPORT
    }
  }

  /// Two sockets that are connected (socketpair).
  /// - Throws: as `make`; EOPNOTSUPP: the family has no pairs.
  public func makePair(
    flags: OpenFlags, _ caller: SocketCaller, _ stack: @autoclosure () -> NetworkStack
  ) throws(Errno) -> (Socket, Socket) {
    try checkNumbers()
    guard family == Self.unixFamily else {
      try make(flags: flags, caller, stack()).closed()
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

  // MARK: Internet

  private func makeInternet(flags: OpenFlags, _ caller: SocketCaller, _ stack: NetworkStack) throws(Errno) -> Socket {
    // IPPROTO_MAX.
    guard protocolNumber >= 0, protocolNumber < 263 else { throw .EINVAL }
    let user = caller.rights.effectiveUserID
    let isV4 = family == InternetEndpoint.family4.i32
    switch (SocketKind(rawValue: type), protocolNumber) {
    case (.stream, 0), (.stream, 6): return try makeStream(flags: flags, stack, user: user)
    case (.datagram, 0), (.datagram, 17): return try UDPSocket(family: family, flags: flags, stack: stack, user: user)
    case (.datagram, 1) where isV4, (.datagram, 58) where !isV4:
      return try PingSocket(family: family, flags: flags, stack: stack, user: user)
    case (.raw, 1...255):
      guard caller.rights.isPrivileged else { throw .EPERM }
      return try RawSocket(
        family: family, protocolNumber: protocolNumber.u8, flags: flags, stack: stack, user: user)
    case (.raw, 0), (.stream, _), (.datagram, _): throw .EPROTONOSUPPORT
    default: throw .ESOCKTNOSUPPORT
    }
  }

  private func makeStream(flags: OpenFlags, _ stack: NetworkStack, user: UInt32) throws(Errno) -> Socket {
    try TCPSocket(family: family, flags: flags, stack: stack, user: user)
  }
}
