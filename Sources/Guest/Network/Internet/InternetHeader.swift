// What transports and sockets say and hear of IP's header, whichever version it has.
import Base
import Devices

/// What the IP header of a received packet says.
public struct InternetHeader: BitwiseCopyable, Sendable {
  /// Who sent it.
  public var source: IPAddress
  /// To whom: an address of ours, or a group.
  public var destination: IPAddress
  /// The transport.
  public var protocolNumber: UInt8
  /// TTL.
  public var hopLimit: UInt8
  /// DSCP and ECN.
  public var trafficClass: UInt8
  /// IPv6's flow label.
  public var flowLabel: UInt32
  /// By which interface it came.
  public var interfaceIndex: UInt32
}

extension Packet {
  /// What the IP header says, of a packet that IP has checked; also when the header has been dropped.
  public var internetHeader: InternetHeader {
    let start = networkHeader
    if start.load(as: UInt8.self) &>> 4 == 4 {
      return InternetHeader(
        source: IPAddress(readingV4: start + 12), destination: IPAddress(readingV4: start + 16),
        protocolNumber: start.load(fromByteOffset: 9, as: UInt8.self),
        hopLimit: start.load(fromByteOffset: 8, as: UInt8.self),
        trafficClass: start.load(fromByteOffset: 1, as: UInt8.self), flowLabel: 0, interfaceIndex: interfaceIndex)
    }
    let first = UInt32(bigEndian: start.loadUnaligned(as: UInt32.self))
    let length = transportOffset &- networkOffset
    var number = start.load(fromByteOffset: 6, as: UInt8.self)
    if length > IPv6Header.byteCount {
      // SAFETY: the bytes up to the transport's header were contiguous when it was found, and lie where they lay.
      let bytes = UnsafeRawBufferPointer(start: start, count: length)
      if case .transport(let found) = IPv6Extensions(bytes, first: number).end { number = found }
    }
    return InternetHeader(
      source: IPAddress(readingV6: start + 8), destination: IPAddress(readingV6: start + 24), protocolNumber: number,
      hopLimit: start.load(fromByteOffset: 7, as: UInt8.self), trafficClass: (first &>> 20).u8,
      flowLabel: first & 0xf_ffff, interfaceIndex: interfaceIndex)
  }
}

/// What the IP header of a packet that is sent shall say.
public struct OutgoingHeader: BitwiseCopyable, Sendable {
  /// How it may be sent.
  public struct Flags: OptionSet, BitwiseCopyable, Sendable {
    /// The bits.
    public let rawValue: UInt8
    /// Flags from bits.
    public init(rawValue: UInt8) { self.rawValue = rawValue }
    /// Not in fragments: it fails with EMSGSIZE instead (and IPv4 says so to routers).
    public static var dontFragment: Flags { Flags(rawValue: 1) }
    /// It may go to a broadcast address (SO_BROADCAST).
    public static var mayBroadcast: Flags { Flags(rawValue: 2) }
    /// If it goes to a group, members on this machine get none.
    public static var noLoop: Flags { Flags(rawValue: 4) }
    /// What is known of the path's MTU does not matter, the interface's does (IP_PMTUDISC_PROBE).
    public static var ignorePathMTU: Flags { Flags(rawValue: 8) }
    /// With a router alert (IGMP, MLD).
    static var routerAlert: Flags { Flags(rawValue: 16) }
    /// The source is meant as it stands, also if it is unspecified (DHCP, duplicate address detection).
    static var exactSource: Flags { Flags(rawValue: 32) }
  }

  /// By whom; the route's source if it is unspecified.
  public var source: IPAddress
  /// To whom.
  public var destination: IPAddress
  /// The transport.
  public var protocolNumber: UInt8
  /// TTL; 0: the default.
  public var hopLimit: UInt8 = 0
  /// DSCP and ECN.
  public var trafficClass: UInt8 = 0
  /// How.
  public var flags: Flags = []
  /// IPv6's flow label.
  public var flowLabel: UInt32 = 0
  /// The interface to send it by, 0 for any.
  public var interfaceIndex: UInt32 = 0

  /// A header with everything else as usual.
  public init(source: IPAddress, destination: IPAddress, protocolNumber: UInt8) {
    self.source = source
    self.destination = destination
    self.protocolNumber = protocolNumber
  }
}

extension InternetChecksum {
  /// Whether the checksum of a received packet's transport is right. The packet begins with the transport's header; an IPv4 UDP datagram
  /// without a checksum is for the caller to let pass.
  public static func isTransportValid(_ packet: borrowing Packet, _ header: InternetHeader) -> Bool {
    if packet.checksum != .none { return true }
    var checksum = InternetChecksum()
    if header.protocolNumber != InternetProtocol.icmp {
      checksum.addPseudoHeader(
        header.source, header.destination, protocol: header.protocolNumber, byteCount: packet.byteCount)
    }
    checksum.add(packet, from: 0, count: packet.byteCount)
    return checksum.isValid
  }

  /// Completes the checksum of a packet that leaves it to the device.
  /// - Returns: false: its place is not in the packet, or there is no memory for what of it is shared.
  static func complete(_ packet: inout Packet) -> Bool {
    guard case .partial(let start, let offset) = packet.checksum else { return true }
    guard start >= 0, packet.pull(start &+ offset &+ 2), packet.unshareHead() else { return false }
    var checksum = InternetChecksum()
    checksum.add(packet, from: start, count: packet.byteCount &- start)
    // UDP's 0 means that there is none (RFC 768); the other zero is as good.
    let value = checksum.value == 0 ? 0xffff : checksum.value
    packet.mutableHead.storeBytes(of: value.bigEndian, toByteOffset: start &+ offset, as: UInt16.self)
    packet.checksum = .none
    return true
  }
}
