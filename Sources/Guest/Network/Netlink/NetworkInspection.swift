// What others are shown of interfaces, addresses, routes and neighbours: the same for rtnetlink, ioctl, /proc/net and /sys/class/net.
import Base

/// An interface.
public struct LinkStatus {
  /// Its number.
  public var index: UInt32
  /// Its name.
  public var name: [UInt8]
  /// It leads to this machine itself.
  public var isLoopback: Bool
  /// Its address, 6 bytes.
  public var address: [UInt8]
  /// The largest packet.
  public var mtu: UInt32
  /// IFF_*.
  public var flags: UInt32
  /// Counted.
  public var counts = LinkCounts()

  /// ARPHRD_LOOPBACK or ARPHRD_ETHER.
  public var hardwareType: UInt16 { isLoopback ? 772 : 1 }
  /// To all stations of the link.
  public var broadcast: [UInt8] { [UInt8](repeating: isLoopback ? 0 : 0xff, count: 6) }
  /// Packets that wait to leave (`txqueuelen`).
  public var queueLength: UInt32 { 1000 }
}

/// What an interface has counted.
public struct LinkCounts: BitwiseCopyable {
  /// Packets received, sent.
  public var (receivedPackets, sentPackets): (UInt64, UInt64) = (0, 0)
  /// Bytes received, sent.
  public var (receivedBytes, sentBytes): (UInt64, UInt64) = (0, 0)
  /// Packets that were wrong.
  public var (receivedErrors, sentErrors): (UInt64, UInt64) = (0, 0)
  /// Packets that were dropped.
  public var (receivedDropped, sentDropped): (UInt64, UInt64) = (0, 0)
  /// Packets to groups.
  public var multicast: UInt64 = 0

  /// Nothing.
  public init() {}
}

/// An address of an interface.
public struct AddressStatus: BitwiseCopyable {
  /// The interface's number.
  public var interfaceIndex: UInt32
  /// The address.
  public var address: IPAddress
  /// Bits that its network has in common.
  public var prefixLength: UInt8
  /// Where all of the network are reached, of IPv4.
  public var broadcast: IPAddress?
  /// RT_SCOPE_*: 0 everywhere, 253 this link, 254 this machine.
  public var scope: UInt8
  /// IFA_F_*: 0x80 permanent, 0x40 tentative, 0x20 deprecated, 0x08 duplicate.
  public var flags: UInt32
  /// Seconds that it is preferred, and valid; the largest number: for ever.
  public var (preferredSeconds, validSeconds): (UInt32, UInt32)
}

/// A route.
public struct RouteStatus: BitwiseCopyable {
  /// Where to; with `prefixLength` 0 everywhere, of the address's family.
  public var destination: IPAddress
  /// Bits of it that count.
  public var prefixLength: UInt8
  /// By whom; nil: by nobody, they are on the link.
  public var gateway: IPAddress?
  /// By which interface.
  public var interfaceIndex: UInt32
  /// Routes with lower ones come first.
  public var metric: UInt32
  /// From which address.
  public var source: IPAddress?
  /// RTPROT_*: 2 kernel, 3 boot, 4 static, 9 router advertisement, 16 DHCP.
  public var origin: UInt8
}

/// A neighbour.
public struct NeighbourStatus {
  /// On whose link.
  public var interfaceIndex: UInt32
  /// Its address.
  public var address: IPAddress
  /// Its link's address, 6 bytes; none: it is not known.
  public var linkAddress: [UInt8]?
  /// NUD_*: 1 incomplete, 2 reachable, 4 stale, 8 delayed, 0x10 probed, 0x20 failed, 0x80 permanent.
  public var state: UInt16
}
