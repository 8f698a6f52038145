// Control data of Internet sockets: what a program asks for a single message, and what it is told about one (cmsg(3), ip(7), ipv6(7)).
//
// Plain values, so that no message costs an allocation. They are written as `cmsghdr`s by InternetSocket+Control.
import Base

/// What control messages ask for a message that is sent.
public struct OutgoingControl: BitwiseCopyable, Sendable {
  /// From which address (IP_PKTINFO, IPV6_PKTINFO); unspecified: the socket's.
  public var source = IPAddress.any6
  /// By which interface; 0: the socket's.
  public var interfaceIndex: UInt32 = 0
  /// IP_TTL, IPV6_HOPLIMIT; negative: the socket's.
  public var hopLimit: Int32 = -1
  /// IP_TOS, IPV6_TCLASS; negative: the socket's.
  public var trafficClass: Int32 = -1
  /// UDP_SEGMENT: bytes of each datagram; 0: the socket's.
  public var segmentByteCount: UInt16 = 0
  /// IPV6_DONTFRAG; negative: the socket's.
  public var dontFragment: Int8 = -1

  /// Nothing.
  public init() {}
}

/// What a program is told about a message besides its bytes and its sender.
public struct IncomingControl: BitwiseCopyable, Sendable {
  /// Which of it.
  public struct Parts: OptionSet, BitwiseCopyable, Sendable {
    /// Bits of no meaning outside.
    public let rawValue: UInt16
    /// Parts from bits.
    public init(rawValue: UInt16) { self.rawValue = rawValue }
    /// SO_TIMESTAMP, SO_TIMESTAMPNS or SO_TIMESTAMPING: `time`.
    public static var time: Parts { Parts(rawValue: 1) }
    /// IP_PKTINFO: `interfaceIndex`, `destination`, `specificDestination`.
    public static var packetInformation4: Parts { Parts(rawValue: 2) }
    /// IPV6_PKTINFO: `interfaceIndex`, `destination`.
    public static var packetInformation6: Parts { Parts(rawValue: 4) }
    /// IP_TTL: `hopLimit`.
    public static var hopLimit4: Parts { Parts(rawValue: 8) }
    /// IPV6_HOPLIMIT: `hopLimit`.
    public static var hopLimit6: Parts { Parts(rawValue: 0x10) }
    /// IP_TOS: `trafficClass`.
    public static var trafficClass4: Parts { Parts(rawValue: 0x20) }
    /// IPV6_TCLASS: `trafficClass`.
    public static var trafficClass6: Parts { Parts(rawValue: 0x40) }
    /// UDP_GRO: `segmentByteCount`.
    public static var segments: Parts { Parts(rawValue: 0x80) }
    /// SO_RXQ_OVFL: `droppedCount`.
    public static var dropped: Parts { Parts(rawValue: 0x100) }
    /// IP_RECVORIGDSTADDR, IPV6_RECVORIGDSTADDR: `destination`, `destinationPort`.
    public static var originalDestination: Parts { Parts(rawValue: 0x200) }
    /// IP_RECVERR: `error`, `offender`.
    public static var error4: Parts { Parts(rawValue: 0x400) }
    /// IPV6_RECVERR: `error`, `offender`.
    public static var error6: Parts { Parts(rawValue: 0x800) }
    /// IPV6_2292PKTINFO and IPV6_2292HOPLIMIT: what the newer ones have.
    public static var oldPacketInformation6: Parts { Parts(rawValue: 0x2000) }
    /// See `oldPacketInformation6`.
    public static var oldHopLimit6: Parts { Parts(rawValue: 0x4000) }
    /// PACKET_AUXDATA: the words that `auxiliary` has.
    public static var auxiliary: Parts { Parts(rawValue: 0x1000) }
  }

  /// What is there.
  public var parts: Parts = []
  /// Nanoseconds since 1970.
  public var time: UInt64 = 0
  /// Where the packet was sent to.
  public var destination = IPAddress.any6
  /// Our address that stands for it: itself, or for broadcast and multicast the interface's.
  public var specificDestination = IPAddress.any6
  /// The port that it was sent to.
  public var destinationPort: UInt16 = 0
  /// By which interface it came.
  public var interfaceIndex: UInt32 = 0
  /// Time to live, or hop limit.
  public var hopLimit: UInt8 = 0
  /// Type of service, or traffic class.
  public var trafficClass: UInt8 = 0
  /// Bytes of each of the datagrams that it consists of.
  public var segmentByteCount: UInt16 = 0
  /// How many messages have found no room so far.
  public var droppedCount: UInt32 = 0
  /// What went wrong.
  public var error = ExtendedError()
  /// Who said so.
  public var offender = InternetEndpoint()
  /// struct tpacket_auxdata.
  public var auxiliary: [5 of UInt32] = .init(repeating: 0)

  /// Nothing.
  public init() {}
}

/// struct sock_extended_err.
public struct ExtendedError: BitwiseCopyable, Sendable {
  /// Who reports (SO_EE_ORIGIN_*).
  public enum Origin: UInt8, Sendable {
    /// Nobody.
    case none = 0
    /// This machine.
    case local = 1
    /// ICMP.
    case control4 = 2
    /// ICMPv6.
    case control6 = 3
    /// A packet has left.
    case timestamping = 4
    /// Pages sent without copying are free again.
    case zeroCopy = 5
  }

  /// The error's number.
  public var number: UInt32 = 0
  /// SO_EE_ORIGIN_*.
  public var origin: UInt8 = 0
  /// ICMP's type.
  public var type: UInt8 = 0
  /// ICMP's code.
  public var code: UInt8 = 0
  /// Nothing.
  public var padding: UInt8 = 0
  /// The path's MTU, if that is what it is about; for `zeroCopy` the first number of the range.
  public var information: UInt32 = 0
  /// For `zeroCopy` the last number of the range.
  public var data: UInt32 = 0

  /// None.
  public init() {}

  /// Whether ICMP has brought it.
  var isFromNetwork: Bool { origin == Origin.control4.rawValue || origin == Origin.control6.rawValue }

  /// An error.
  public init(
    _ error: Errno?, origin: Origin, type: UInt8 = 0, code: UInt8 = 0, information: UInt32 = 0, data: UInt32 = 0
  ) {
    number = error?.rawValue.u32 ?? 0
    self.origin = origin.rawValue
    self.type = type
    self.code = code
    self.information = information
    self.data = data
  }
}
