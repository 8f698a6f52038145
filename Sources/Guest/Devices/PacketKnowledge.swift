// What is known of a packet besides its bytes: where its headers lie, what has been checked, what the device is to do, where it
// comes from.
//
// Offsets count from the packet's first byte as it is now: they stay true when bytes are dropped or added in front, and are
// negative once what they point to has been dropped (which can still be read, see Packet).
import Base

/// What is known of the checksum of a packet's TCP, UDP or ICMPv6 part.
public enum PacketChecksum: Equatable, Sendable {
  /// Nothing: it is there, and the receiver checks it.
  case none
  /// It is right, or nobody needs to look (the bytes never left this machine).
  case verified
  /// To be completed by the device or in software: the checksum field at `start + offset` holds the sum of the pseudo header, and
  /// the sum from byte `start` on to the packet's end belongs there. Both count from the packet's first byte, as it is now.
  case partial(start: Int, offset: Int)
}

/// A packet that stands for several.
public struct PacketSegmentation: Equatable, BitwiseCopyable, Sendable {
  /// How it falls into parts; the numbers are those of virtio (VIRTIO_NET_HDR_GSO_*).
  public enum Kind: UInt8, BitwiseCopyable, Sendable {
    /// It is one packet.
    case none = 0
    /// TCP segments over IPv4.
    case tcp4 = 1
    /// TCP segments over IPv6.
    case tcp6 = 4
    /// UDP datagrams of equal size, the last one shorter perhaps, over either.
    case udp = 5
  }
  /// How.
  public var kind: Kind
  /// TCP: CWR is set in the first segment only.
  public var hasCongestionMark: Bool
  /// Bytes of payload of each part.
  public var segmentByteCount: UInt16

  /// A packet of parts.
  @inline(__always) public init(_ kind: Kind, segmentByteCount: Int, hasCongestionMark: Bool = false) {
    self.kind = kind
    self.segmentByteCount = segmentByteCount.u16
    self.hasCongestionMark = hasCongestionMark
  }

  /// One packet.
  @inline(__always) public static var none: PacketSegmentation { PacketSegmentation(.none, segmentByteCount: 0) }
}

/// To whom a frame was sent, as sockets hear of it (`sockaddr_ll.sll_pkttype`).
public enum PacketDestination: UInt8, Sendable {
  /// To us.
  case host = 0
  /// To everybody.
  case broadcast = 1
  /// To a group.
  case multicast = 2
  /// To somebody else.
  case other = 3
  /// By us.
  case outgoing = 4
}

extension Packet {
  @inline(__always) private func offset(_ place: UInt32) -> Int { place.int &- slices[0].offset.int }
  @inline(__always) private func place(_ offset: Int) -> UInt32 { (offset &+ slices[0].offset.int).u32 }

  /// Where the link's header begins.
  public var linkOffset: Int {
    @inline(__always) get { offset(record.pointee.link) }
    @inline(__always) nonmutating set { record.pointee.link = place(newValue) }
  }

  /// Where the network's header (IPv4, IPv6) begins.
  public var networkOffset: Int {
    @inline(__always) get { offset(record.pointee.network) }
    @inline(__always) nonmutating set { record.pointee.network = place(newValue) }
  }

  /// Where the transport's header (TCP, UDP, ICMP) begins.
  public var transportOffset: Int {
    @inline(__always) get { offset(record.pointee.transport) }
    @inline(__always) nonmutating set { record.pointee.transport = place(newValue) }
  }

  /// The network's header, also when it has been dropped. Only where the offset is known, and as long as the packet keeps its first slice.
  @inline(__always) public var networkHeader: UnsafeMutableRawPointer {
    slices[0].memory.bytes + record.pointee.network.int
  }

  /// The transport's header, likewise.
  @inline(__always) public var transportHeader: UnsafeMutableRawPointer {
    slices[0].memory.bytes + record.pointee.transport.int
  }

  /// The link's header, likewise.
  @inline(__always) public var linkHeader: UnsafeMutableRawPointer { slices[0].memory.bytes + record.pointee.link.int }

  /// What is known of the transport's checksum.
  public var checksum: PacketChecksum {
    @inline(__always) get {
      switch record.pointee.checksum {
      case 0: .none
      case 1: .verified
      default: .partial(start: offset(record.pointee.checksumStart), offset: record.pointee.checksumOffset.int)
      }
    }
    @inline(__always) nonmutating set {
      switch newValue {
      case .none: record.pointee.checksum = 0
      case .verified: record.pointee.checksum = 1
      case .partial(let start, let offset):
        record.pointee.checksum = 2
        record.pointee.checksumStart = place(start)
        record.pointee.checksumOffset = offset.u16
      }
    }
  }

  /// Whether it stands for several.
  public var segmentation: PacketSegmentation {
    @inline(__always) get { record.pointee.segmentation }
    @inline(__always) nonmutating set { record.pointee.segmentation = newValue }
  }

  /// A hash of its flow, as the classifier or the sender computed it: for choosing queues. 0 if nobody has.
  public var flowHash: UInt32 {
    @inline(__always) get { record.pointee.flowHash }
    @inline(__always) nonmutating set { record.pointee.flowHash = newValue }
  }

  /// The queue pair that it came by, or is to leave by, counted from 1; 0: whichever. Packets of one flow keep to one: on several they would overtake
  /// each other, and a host that answers on the queue that a flow was last seen on (as Linux's TAPs do) would make theirs do so, too.
  public var queuePair: UInt16 {
    @inline(__always) get { record.pointee.queuePair }
    @inline(__always) nonmutating set { record.pointee.queuePair = newValue }
  }

  /// When it was received, ns of `Clock.now`; all packets of a batch have the same time.
  public var receivedAt: UInt64 {
    @inline(__always) get { record.pointee.receivedAt }
    @inline(__always) nonmutating set { record.pointee.receivedAt = newValue }
  }

  /// The index of the interface that it came by or leaves by; 0: none yet.
  public var interfaceIndex: UInt32 {
    @inline(__always) get { record.pointee.interfaceIndex }
    @inline(__always) nonmutating set { record.pointee.interfaceIndex = newValue }
  }

  /// The EtherType of what it carries (0x0800, 0x86dd…).
  public var protocolNumber: UInt16 {
    @inline(__always) get { record.pointee.protocolNumber }
    @inline(__always) nonmutating set { record.pointee.protocolNumber = newValue }
  }

  /// To whom its frame was sent.
  public var destination: PacketDestination {
    @inline(__always) get { record.pointee.destination }
    @inline(__always) nonmutating set { record.pointee.destination = newValue }
  }

  /// A word for whoever has the packet; means nothing to others.
  public var tag: UInt64 {
    @inline(__always) get { record.pointee.tag }
    @inline(__always) nonmutating set { record.pointee.tag = newValue }
  }

  /// Takes back what was dropped in front, to where the link's header begins. Only of a packet whose first slice is still the one it had then.
  public mutating func restoreLinkHeader() {
    let count = max(-linkOffset, 0).u32
    slices[0].offset &-= count
    slices[0].count &+= count
    record.pointee.byteCount &+= count
  }
}
