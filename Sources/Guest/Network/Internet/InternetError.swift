// InternetError: what an ICMP message says about a packet of ours, whichever version it has (RFC 792, 4443), and what sockets hear of it.
import Base

/// An error about a packet that was sent from here.
public struct InternetError: Sendable {
  /// What it is.
  public enum Kind: UInt8, BitwiseCopyable, Sendable {
    /// It does not get there.
    case unreachable
    /// It does, but nobody is at that port.
    case portUnreachable
    /// It is too large for the path: `mtu` is what fits.
    case packetTooBig
    /// Its hops or the time for its fragments ran out.
    case timeExceeded
    /// Somebody does not like its header.
    case parameterProblem
  }

  /// What it is.
  public var kind: Kind
  /// What calls of the socket fail with.
  public var errno: Errno
  /// Whether a connection ends by it, if it has not been established (RFC 1122, 4.2.3.9); others are told and go on.
  public var isHard: Bool
  /// The message's type, as it came.
  public var type: UInt8
  /// The message's code.
  public var code: UInt8
  /// Its further word: the MTU, a pointer.
  public var info: UInt32
  /// For a packet that was too big: bytes of IP packets that pass.
  public var mtu: Int
  /// Who sent it; ourselves, if the neighbour does not answer.
  public var sender: IPAddress
  /// By which interface it came.
  public var interfaceIndex: UInt32

  init(
    _ kind: Kind, _ errno: Errno, isHard: Bool, type: UInt8, code: UInt8, info: UInt32 = 0, mtu: Int = 0,
    sender: IPAddress, interfaceIndex: UInt32
  ) {
    self.kind = kind
    self.errno = errno
    self.isHard = isHard
    self.type = type
    self.code = code
    self.info = info
    self.mtu = mtu
    self.sender = sender
    self.interfaceIndex = interfaceIndex
  }

  /// The error that an ICMP message names, by Linux's table; nil: it names none.
  init?(v4 type: UInt8, code: UInt8, info: UInt32, sender: IPAddress, interfaceIndex: UInt32) {
    let kind: Kind
    let errno: Errno
    var isHard = false
    var mtu = 0
    switch (type, code) {
    case (3, 4):
      (kind, errno) = (.packetTooBig, .EMSGSIZE)
      mtu = (info & 0xffff).int
    case (3, 2): (kind, errno, isHard) = (.unreachable, .ENOPROTOOPT, true)
    case (3, 3): (kind, errno, isHard) = (.portUnreachable, .ECONNREFUSED, true)
    case (3, 0), (3, 6), (3, 11): (kind, errno) = (.unreachable, .ENETUNREACH)
    case (3, 9): (kind, errno, isHard) = (.unreachable, .ENETUNREACH, true)
    case (3, 5): (kind, errno) = (.unreachable, .EOPNOTSUPP)
    case (3, 7): (kind, errno, isHard) = (.unreachable, .EHOSTDOWN, true)
    case (3, 8): (kind, errno, isHard) = (.unreachable, .ENONET, true)
    case (3, 10), (3, 13), (3, 14), (3, 15): (kind, errno, isHard) = (.unreachable, .EHOSTUNREACH, true)
    case (3, 1), (3, 12): (kind, errno) = (.unreachable, .EHOSTUNREACH)
    case (11, 0), (11, 1): (kind, errno) = (.timeExceeded, .EHOSTUNREACH)
    case (12, _): (kind, errno, isHard) = (.parameterProblem, .EPROTO, true)
    default: return nil
    }
    self.init(
      kind, errno, isHard: isHard, type: type, code: code, info: info, mtu: mtu, sender: sender,
      interfaceIndex: interfaceIndex)
  }

  /// The error that an ICMPv6 message names; nil: it names none.
  init?(v6 type: UInt8, code: UInt8, info: UInt32, sender: IPAddress, interfaceIndex: UInt32) {
    let kind: Kind
    let errno: Errno
    var isHard = false
    var mtu = 0
    switch (type, code) {
    case (1, 0): (kind, errno) = (.unreachable, .ENETUNREACH)
    case (1, 1), (1, 5), (1, 6): (kind, errno, isHard) = (.unreachable, .EACCES, true)
    case (1, 2), (1, 3): (kind, errno) = (.unreachable, .EHOSTUNREACH)
    case (1, 4): (kind, errno, isHard) = (.portUnreachable, .ECONNREFUSED, true)
    case (2, _):
      (kind, errno) = (.packetTooBig, .EMSGSIZE)
      mtu = min(info, 65_575).int
    case (3, _): (kind, errno) = (.timeExceeded, .EHOSTUNREACH)
    case (4, _): (kind, errno, isHard) = (.parameterProblem, .EPROTO, true)
    default: return nil
    }
    self.init(
      kind, errno, isHard: isHard, type: type, code: code, info: info, mtu: mtu, sender: sender,
      interfaceIndex: interfaceIndex)
  }
}
