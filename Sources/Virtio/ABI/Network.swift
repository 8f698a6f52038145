// The network device's formats (virtio 1.2, 5.1).
//
// Queues come in pairs: 2 i receives and 2 i + 1 transmits, i being the pair. With N pairs (`maximumPairCount` with `multiqueue`, else 1)
// the control queue is number 2 N. Only pair 0 is used until the driver has asked for more by `MultiqueueCommand.setPairs`; then
// what is received comes by the pair on which its flow was last transmitted (automatic steering, 5.1.6.5.6).
// Every frame in a queue has a `VirtioNetworkHeader` of 12 bytes in front. Where the boot information places osv-run's own device, the
// interrupts of pair i's two queues go to CPU i, and those of the control queue and of configuration changes to CPU 0.

/// Constants of the network device.
public enum VirtioNetworkABI {
  /// Feature: the device completes checksums of what is transmitted.
  public static let checksum: UInt64 = 1 << 0
  /// Feature: the driver takes frames whose checksum is partial.
  public static let guestChecksum: UInt64 = 1 << 1
  /// Feature: the driver may turn the features of its receiving side on and off.
  public static let controlGuestOffloads: UInt64 = 1 << 2
  /// Feature: the configuration's `mtu` is valid.
  public static let mtu: UInt64 = 1 << 3
  /// Feature: the configuration's `address` is valid.
  public static let address: UInt64 = 1 << 5
  /// Feature: the driver takes unsegmented TCP over IPv4.
  public static let guestTCP4: UInt64 = 1 << 7
  /// Feature: the driver takes unsegmented TCP over IPv6.
  public static let guestTCP6: UInt64 = 1 << 8
  /// Feature: what the driver takes unsegmented may have CWR set.
  public static let guestECN: UInt64 = 1 << 9
  /// Feature: the device segments TCP over IPv4.
  public static let hostTCP4: UInt64 = 1 << 11
  /// Feature: the device segments TCP over IPv6.
  public static let hostTCP6: UInt64 = 1 << 12
  /// Feature: what the device segments may have CWR set.
  public static let hostECN: UInt64 = 1 << 13
  /// Feature: a received frame may lie in several buffers, and buffers may be of any size.
  public static let mergeableBuffers: UInt64 = 1 << 15
  /// Feature: the configuration's `status` is valid.
  public static let status: UInt64 = 1 << 16
  /// Feature: there is a control queue.
  public static let controlQueue: UInt64 = 1 << 17
  /// Feature: the control queue takes `ReceiveCommand`.
  public static let controlReceive: UInt64 = 1 << 18
  /// Feature: the control queue takes `VLANCommand`.
  public static let controlVLAN: UInt64 = 1 << 19
  /// Feature: the control queue takes the further ones of `ReceiveCommand`.
  public static let controlReceiveExtra: UInt64 = 1 << 20
  /// Feature: the driver announces its addresses when it is told to.
  public static let announce: UInt64 = 1 << 21
  /// Feature: several queue pairs, with automatic steering.
  public static let multiqueue: UInt64 = 1 << 22
  /// Feature: the control queue takes `AddressCommand.set`.
  public static let controlAddress: UInt64 = 1 << 23
  /// Feature: the driver takes unsegmented UDP over IPv4.
  public static let guestUDP4: UInt64 = 1 << 54
  /// Feature: the driver takes unsegmented UDP over IPv6.
  public static let guestUDP6: UInt64 = 1 << 55
  /// Feature: the device segments UDP.
  public static let hostUDP: UInt64 = 1 << 56
  /// Feature: `headerByteCount` of what is transmitted is the exact length of its headers.
  public static let exactHeaderLength: UInt64 = 1 << 59
  /// Feature: the configuration's `speed` and `duplex` are valid.
  public static let speedAndDuplex: UInt64 = 1 << 63

  /// The queue on which a pair receives.
  @inline(__always) public static func receiveQueue(ofPair pair: Int) -> Int { 2 &* pair }
  /// The queue on which a pair transmits.
  @inline(__always) public static func transmitQueue(ofPair pair: Int) -> Int { 2 &* pair &+ 1 }
  /// The control queue of a device with so many pairs.
  @inline(__always) public static func controlQueue(pairCount: Int) -> Int { 2 &* pairCount }

  /// Most pairs that osv-run's device has.
  public static let maximumPairCount = 8
  /// Bytes of a frame without checksum at most: an IP packet of 65,535 bytes, an Ethernet header, and a VLAN tag.
  public static let maximumFrameByteCount = 65_553
  /// Bytes that a receive buffer must have where `mergeableBuffers` was not agreed on, but an unsegmented feature was; header included.
  public static let largeReceiveBufferByteCount = 65_562
  /// Bytes that a receive buffer must have without any of these, at an MTU of 1500; header included.
  public static let smallReceiveBufferByteCount = 1_526
}

/// The network device's configuration.
@frozen public struct VirtioNetworkConfiguration: BitwiseCopyable {
  /// MAC address.
  public var address: [6 of UInt8] = .init(repeating: 0)
  /// `linkUp` and `announceWanted`.
  public var status: UInt16 = linkUp
  /// Queue pairs, 1 to 0x8000.
  public var maximumPairCount: UInt16 = 1
  /// Largest IP packet, bytes; 68 or more.
  public var mtu: UInt16 = 1500
  /// Mbit/s, or `unknownSpeed`.
  public var speed: UInt32 = unknownSpeed
  /// 1 full, 0 half, or `unknownDuplex`.
  public var duplex: UInt8 = unknownDuplex
  /// An interface of one pair, up, without an address.
  public init() {}

  /// Status: there is a link.
  public static let linkUp: UInt16 = 1
  /// Status: the driver should announce its addresses.
  public static let announceWanted: UInt16 = 2
  /// A speed that nobody knows.
  public static let unknownSpeed: UInt32 = 0xffff_ffff
  /// A duplex that nobody knows.
  public static let unknownDuplex: UInt8 = 0xff

  /// Offset of `address`.
  public static let addressOffset = 0
  /// Offset of `status`.
  public static let statusOffset = 6
  /// Offset of `maximumPairCount`.
  public static let maximumPairCountOffset = 8
  /// Offset of `mtu`.
  public static let mtuOffset = 10
  /// Offset of `speed`.
  public static let speedOffset = 12
  /// Offset of `duplex`.
  public static let duplexOffset = 16
}

/// What stands in front of every frame in a queue (virtio_net_hdr_v1; 5.1.6). All offsets count from the frame's first byte.
@frozen public struct VirtioNetworkHeader: BitwiseCopyable {
  /// `needsChecksum` and `dataValid`.
  public var flags: UInt8 = 0
  /// One of the kinds of segmentation, with or without `ecn`.
  public var segmentation: UInt8 = none
  /// With segmentation: bytes of all headers, Ethernet to TCP or UDP; a hint unless `exactHeaderLength` was agreed on.
  public var headerByteCount: UInt16 = 0
  /// With segmentation: bytes of data in a segment.
  public var segmentByteCount: UInt16 = 0
  /// With `needsChecksum`: where summing starts; it goes to the frame's end.
  public var checksumStart: UInt16 = 0
  /// With `needsChecksum`: where, from `checksumStart` on, the checksum is; it holds the sum of the pseudo-header (not complemented).
  public var checksumOffset: UInt16 = 0
  /// Received: buffers that the frame lies in (1 without `mergeableBuffers`). Transmitted: 0.
  public var bufferCount: UInt16 = 0
  /// A frame without offloads.
  @inline(__always) public init() {}

  /// Flag: the checksum is partial; whoever takes the frame completes it.
  public static let needsChecksum: UInt8 = 1
  /// Flag, received only: the outermost checksum of the transport is right.
  public static let dataValid: UInt8 = 2

  /// Segmentation: none.
  public static let none: UInt8 = 0
  /// Segmentation: TCP over IPv4.
  public static let tcp4: UInt8 = 1
  /// Segmentation: TCP over IPv6.
  public static let tcp6: UInt8 = 4
  /// Segmentation: UDP over IPv4 or IPv6, datagrams of `segmentByteCount` bytes of data.
  public static let udp: UInt8 = 5
  /// Added to the two of TCP: CWR is set, for the first segment alone.
  public static let ecn: UInt8 = 0x80

  /// Bytes of it.
  public static let byteCount = 12
}

/// What stands in front of a command in the control queue (5.1.6.5); its data follows, and then a byte that the device writes: `succeeded`
/// or `failed`.
@frozen public struct VirtioNetworkControl: BitwiseCopyable {
  /// One of the classes below.
  public var commandClass: UInt8
  /// One of the class's commands.
  public var command: UInt8
  /// A command's head.
  @inline(__always) public init(commandClass: UInt8, command: UInt8) {
    self.commandClass = commandClass
    self.command = command
  }

  /// Answer: done.
  public static let succeeded: UInt8 = 0
  /// Answer: not done.
  public static let failed: UInt8 = 1
  /// Bytes of the head.
  public static let byteCount = 2

  /// Class: what is received. Data: a byte, 1 for on and 0 for off.
  public enum ReceiveCommand {
    /// The class.
    public static let commandClass: UInt8 = 0
    /// Everything.
    public static let promiscuous: UInt8 = 0
    /// All multicast frames.
    public static let allMulticast: UInt8 = 1
    /// All unicast frames (from here on with `controlReceiveExtra`).
    public static let allUnicast: UInt8 = 2
    /// No multicast frame.
    public static let noMulticast: UInt8 = 3
    /// No unicast frame.
    public static let noUnicast: UInt8 = 4
    /// No broadcast frame.
    public static let noBroadcast: UInt8 = 5
  }

  /// Class: MAC addresses.
  public enum AddressCommand {
    /// The class.
    public static let commandClass: UInt8 = 1
    /// Replaces the filter of addresses. Data: a count of 32 bits and so many unicast addresses, then the same for multicast.
    public static let setTable: UInt8 = 0
    /// Replaces the interface's own address, with `controlAddress`. Data: the address.
    public static let set: UInt8 = 1
  }

  /// Class: the filter of VLANs. Data: an id of 16 bits, below 4096.
  public enum VLANCommand {
    /// The class.
    public static let commandClass: UInt8 = 2
    /// Let its frames through.
    public static let add: UInt8 = 0
    /// Do not.
    public static let remove: UInt8 = 1
  }

  /// Class: announcements.
  public enum AnnounceCommand {
    /// The class.
    public static let commandClass: UInt8 = 3
    /// The driver has seen the status. No data.
    public static let acknowledge: UInt8 = 0
  }

  /// Class: queue pairs.
  public enum MultiqueueCommand {
    /// The class.
    public static let commandClass: UInt8 = 4
    /// How many pairs are used. Data: 16 bits, 1 to `maximumPairCount`.
    public static let setPairs: UInt8 = 0
  }

  /// Class: features of the receiving side.
  public enum GuestOffloadsCommand {
    /// The class.
    public static let commandClass: UInt8 = 5
    /// Which of the agreed `guest` features are on. Data: feature bits, 64 bits.
    public static let set: UInt8 = 0
  }
}
