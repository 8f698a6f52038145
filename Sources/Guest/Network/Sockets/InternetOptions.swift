// What sockets of the Internet keep of the options of levels SOL_IP and SOL_IPV6 (ip(7), ipv6(7)). A plain value, guarded by the socket's lock.
import Base

/// Options of a socket.
public struct InternetOptions: BitwiseCopyable, Sendable {
  /// Those that are on or off.
  public struct Flags: OptionSet, BitwiseCopyable, Sendable {
    /// Bits of no meaning outside.
    public let rawValue: UInt32
    /// Flags from bits.
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    /// IPV6_V6ONLY.
    public static var isIPv6Only: Flags { Flags(rawValue: 1) }
    /// IP_FREEBIND, IPV6_FREEBIND: bind to what is no address of ours.
    public static var bindsFreely: Flags { Flags(rawValue: 1 << 1) }
    /// IP_TRANSPARENT, IPV6_TRANSPARENT.
    public static var isTransparent: Flags { Flags(rawValue: 1 << 2) }
    /// IP_BIND_ADDRESS_NO_PORT: bind leaves the choice of a port to connect.
    public static var bindsAddressOnly: Flags { Flags(rawValue: 1 << 3) }
    /// IP_RECVERR.
    public static var tellsErrors4: Flags { Flags(rawValue: 1 << 4) }
    /// IPV6_RECVERR.
    public static var tellsErrors6: Flags { Flags(rawValue: 1 << 5) }
    /// IP_PKTINFO.
    public static var tellsPacket4: Flags { Flags(rawValue: 1 << 6) }
    /// IPV6_RECVPKTINFO.
    public static var tellsPacket6: Flags { Flags(rawValue: 1 << 7) }
    /// IP_RECVTTL.
    public static var tellsHopLimit4: Flags { Flags(rawValue: 1 << 8) }
    /// IPV6_RECVHOPLIMIT.
    public static var tellsHopLimit6: Flags { Flags(rawValue: 1 << 9) }
    /// IP_RECVTOS.
    public static var tellsTrafficClass4: Flags { Flags(rawValue: 1 << 10) }
    /// IPV6_RECVTCLASS.
    public static var tellsTrafficClass6: Flags { Flags(rawValue: 1 << 11) }
    /// IP_RECVORIGDSTADDR.
    public static var tellsDestination4: Flags { Flags(rawValue: 1 << 12) }
    /// IPV6_RECVORIGDSTADDR.
    public static var tellsDestination6: Flags { Flags(rawValue: 1 << 13) }
    /// IP_MULTICAST_LOOP.
    public static var loopsMulticast4: Flags { Flags(rawValue: 1 << 14) }
    /// IPV6_MULTICAST_LOOP.
    public static var loopsMulticast6: Flags { Flags(rawValue: 1 << 15) }
    /// IP_MULTICAST_ALL: take what any socket has joined.
    public static var takesAllGroups4: Flags { Flags(rawValue: 1 << 16) }
    /// IPV6_MULTICAST_ALL.
    public static var takesAllGroups6: Flags { Flags(rawValue: 1 << 17) }
    /// IP_HDRINCL, IPV6_HDRINCL: the program writes the network's header itself.
    public static var hasHeader: Flags { Flags(rawValue: 1 << 18) }
    /// IPV6_DONTFRAG.
    public static var refusesFragments6: Flags { Flags(rawValue: 1 << 19) }
    /// UDP_CORK.
    public static var isCorked: Flags { Flags(rawValue: 1 << 20) }
    /// UDP_GRO.
    public static var takesSegments: Flags { Flags(rawValue: 1 << 21) }
    /// IPV6_RECVPATHMTU; told as an error only.
    public static var tellsPathMTU: Flags { Flags(rawValue: 1 << 22) }
    /// IPV6_FLOWINFO_SEND: sockets name flow labels.
    public static var sendsFlowInformation: Flags { Flags(rawValue: 1 << 23) }
    /// Only remembered: IP_RECVOPTS, IP_RETOPTS, IP_ROUTER_ALERT and the like.
    public static var receivesOptions: Flags { Flags(rawValue: 1 << 24) }
    /// See `receivesOptions`.
    public static var returnsOptions: Flags { Flags(rawValue: 1 << 25) }
    /// IPV6_AUTOFLOWLABEL.
    public static var labelsFlows: Flags { Flags(rawValue: 1 << 26) }
    /// UDP_NO_CHECK6_TX and _RX.
    public static var sendsNoChecksum6: Flags { Flags(rawValue: 1 << 27) }
    /// See `sendsNoChecksum6`.
    public static var wantsNoChecksum6: Flags { Flags(rawValue: 1 << 28) }
    /// IPV6_2292PKTINFO and IPV6_2292HOPLIMIT: told in messages of the older types (RFC 2292).
    public static var tellsOldPacket6: Flags { Flags(rawValue: 1 << 30) }
    /// See `tellsOldPacket6`.
    public static var tellsOldHopLimit6: Flags { Flags(rawValue: 1 << 31) }
    /// IP_NODEFRAG, only remembered.
    public static var takesFragments: Flags { Flags(rawValue: 1 << 29) }
  }

  /// How the size of packets is found (IP_PMTUDISC_*, IPV6_PMTUDISC_*); the numbers are Linux's.
  public enum PathMTU: UInt8, BitwiseCopyable, Sendable {
    /// Fragments are allowed.
    case never = 0
    /// Whole packets as far as the path's MTU is known, smaller ones after that.
    case wanted = 1
    /// Whole packets only; larger ones are refused.
    case always = 2
    /// Whole packets, of any size that the interface takes: the program finds out itself.
    case probing = 3
    /// The interface's MTU whatever is said of the path; fragments are not allowed.
    case interface = 4
    /// The same; fragments are allowed.
    case omitted = 5
  }

  /// Which are on.
  public var flags: Flags = [.loopsMulticast4, .loopsMulticast6, .takesAllGroups4, .takesAllGroups6, .labelsFlows]
  /// IP_TTL; 0: the default.
  public var hopLimit4: UInt8 = 0
  /// IPV6_UNICAST_HOPS; negative: the default.
  public var hopLimit6: Int16 = -1
  /// IP_MULTICAST_TTL.
  public var multicastHopLimit4: UInt8 = 1
  /// IPV6_MULTICAST_HOPS; negative: 1.
  public var multicastHopLimit6: Int16 = -1
  /// IP_TOS.
  public var trafficClass4: UInt8 = 0
  /// IPV6_TCLASS.
  public var trafficClass6: UInt8 = 0
  /// IP_MTU_DISCOVER.
  public var pathMTU4 = PathMTU.wanted
  /// IPV6_MTU_DISCOVER.
  public var pathMTU6 = PathMTU.wanted
  /// IP_MINTTL: what has come further is dropped.
  public var minimumHopLimit4: UInt8 = 0
  /// IPV6_MINHOPCOUNT.
  public var minimumHopLimit6: UInt8 = 0
  /// IPV6_MTU: no larger packets than these; 0: as the path allows.
  public var maximumMTU6: UInt32 = 0
  /// IP_MULTICAST_IF: the interface, and the address that packets leave from.
  public var multicastInterface4: UInt32 = 0
  /// See `multicastInterface4`.
  public var multicastSource = IPAddress.any4
  /// IPV6_MULTICAST_IF.
  public var multicastInterface6: UInt32 = 0
  /// IP_UNICAST_IF.
  public var unicastInterface4: UInt32 = 0
  /// IPV6_UNICAST_IF.
  public var unicastInterface6: UInt32 = 0
  /// SO_BINDTODEVICE.
  public var interfaceIndex: UInt32 = 0
  /// IPV6_ADDR_PREFERENCES.
  public var addressPreferences: Int32 = 0
  /// IP_LOCAL_PORT_RANGE: the first port and the last one; 0: the machine's.
  public var (firstPort, lastPort): (UInt16, UInt16) = (0, 0)
  /// UDP_SEGMENT.
  public var segmentByteCount: UInt16 = 0

  /// As they are for a new socket.
  public init() {}

  /// Whether an option that is on or off is on.
  @inline(__always) public func has(_ flag: Flags) -> Bool { flags.contains(flag) }

  /// Switches one on or off.
  public mutating func set(_ flag: Flags, _ isOn: Bool) {
    if isOn { flags.insert(flag) } else { flags.remove(flag) }
  }
}
