// NetworkInterface: what IP and sockets know of an interface: its name, its addresses, what it can do, and how to give it a packet.
//
// Loopback and Ethernet are subclasses. An interface belongs to a stack and lives as long as that: others refer to it by its index, or by
// its address in memory where a packet's path cannot afford more.
import Base
import Devices
import Locks

/// What can be said of an interface; Linux's IFF_*.
public struct InterfaceFlags: OptionSet, BitwiseCopyable, Sendable {
  /// The bits.
  public let rawValue: UInt32
  /// Flags from bits.
  public init(rawValue: UInt32) { self.rawValue = rawValue }
  /// IFF_UP: it is in use.
  public static var up: InterfaceFlags { InterfaceFlags(rawValue: 0x1) }
  /// IFF_BROADCAST.
  public static var broadcast: InterfaceFlags { InterfaceFlags(rawValue: 0x2) }
  /// IFF_LOOPBACK.
  public static var loopback: InterfaceFlags { InterfaceFlags(rawValue: 0x8) }
  /// IFF_RUNNING: there is a link.
  public static var running: InterfaceFlags { InterfaceFlags(rawValue: 0x40) }
  /// IFF_PROMISC.
  public static var promiscuous: InterfaceFlags { InterfaceFlags(rawValue: 0x100) }
  /// IFF_ALLMULTI.
  public static var allMulticast: InterfaceFlags { InterfaceFlags(rawValue: 0x200) }
  /// IFF_MULTICAST.
  public static var multicast: InterfaceFlags { InterfaceFlags(rawValue: 0x1000) }
  /// IFF_LOWER_UP.
  public static var lowerUp: InterfaceFlags { InterfaceFlags(rawValue: 0x1_0000) }
}

/// What an interface has counted.
public struct InterfaceStatistics: Sendable {
  /// Packets.
  public var receivedPackets: UInt64 = 0
  /// Bytes, link headers included.
  public var receivedBytes: UInt64 = 0
  /// Frames that make no sense.
  public var receivedErrors: UInt64 = 0
  /// Dropped for lack of memory or room, or since nobody takes them.
  public var receivedDropped: UInt64 = 0
  /// Packets to groups.
  public var multicast: UInt64 = 0
  /// Packets.
  public var transmittedPackets: UInt64 = 0
  /// Bytes.
  public var transmittedBytes: UInt64 = 0
  /// Dropped: the device takes no more.
  public var transmittedDropped: UInt64 = 0
  /// Nothing yet.
  public init() {}
}

/// An interface.
open class NetworkInterface {
  /// What it leads to.
  public enum Kind: Sendable {
    /// This machine.
    case loopback
    /// Neighbours with link addresses.
    case ethernet
  }

  enum Count: Int {
    case receivedPackets, receivedBytes, receivedErrors, receivedDropped, multicast
    case transmittedPackets, transmittedBytes, transmittedDropped
    static var number: Int { Count.transmittedDropped.rawValue &+ 1 }
  }

  // SAFETY: a stack keeps its interfaces, and goes when they do.
  unowned(unsafe) final let stack: NetworkStack
  /// What it leads to.
  public final let kind: Kind
  /// Its number, 1 and up.
  public final let index: UInt32
  /// Its name, 15 bytes at most.
  public final let name: [UInt8]
  /// Its link address; zero on loopback.
  public final let linkAddress: LinkAddress
  /// What it does for who transmits.
  public final let offloads: PacketOffloads
  private final let mtuWord: Atomic<Int>
  /// The largest MTU that it can have.
  public final let maximumMTU: Int
  private final let flagWord: Atomic<UInt32>
  final let counters = CPUCounters(Count.number)
  private final let tapWord = Atomic<UInt>(0)
  /// Its groups; guarded by the stack's `groupLock`.
  final var groups = GroupList()
  /// What is configured by router advertisements; guarded by the stack's `lock`.
  final var autoconfiguration = AutoconfigurationState()

  init(
    _ stack: NetworkStack, kind: Kind, index: UInt32, name: [UInt8], linkAddress: LinkAddress, mtu: Int,
    maximumMTU: Int,
    offloads: PacketOffloads, flags: InterfaceFlags
  ) {
    self.stack = stack
    self.kind = kind
    self.index = index
    self.name = name
    self.linkAddress = linkAddress
    self.offloads = offloads
    self.maximumMTU = maximumMTU
    mtuWord = Atomic(mtu)
    flagWord = Atomic(flags.rawValue)
  }

  // MARK: State

  /// The largest IP packet, bytes.
  public final var mtu: Int { mtuWord.load(ordering: .relaxed) }

  /// The least MTU of a link that carries IPv6 (RFC 8200, 5).
  static let leastMTU6 = 1280

  /// Whether its packets are large enough for IPv6: otherwise it has no address of it, sends none and takes none.
  @inline(__always) public final var carriesIPv6: Bool { mtu >= Self.leastMTU6 }

  /// Sets the MTU. One that is too small for IPv6 takes it from the interface, with its addresses and routes; a larger one brings the kernel's
  /// own back.
  /// - Throws: EINVAL: smaller than IPv4 needs (68), or larger than the interface can.
  public final func setMTU(_ mtu: Int) throws(Errno) {
    guard mtu >= 68, mtu <= maximumMTU else { throw .EINVAL }
    let hadIPv6 = mtuWord.exchange(mtu, ordering: .relaxed) >= Self.leastMTU6
    stack.changed(.links)
    if hadIPv6 != carriesIPv6 { if hadIPv6 { stack.endIPv6(on: self) } else { stack.resumeIPv6(on: self) } }
  }

  /// What can be said of it.
  public final var flags: InterfaceFlags { InterfaceFlags(rawValue: flagWord.load(ordering: .relaxed)) }

  /// Whether it is in use.
  @inline(__always) public final var isUp: Bool { flagWord.load(ordering: .relaxed) & 1 != 0 }

  /// Takes it into use, or out of it.
  public final func setUp(_ isUp: Bool) { set(.up, isUp) }

  final func set(_ flag: InterfaceFlags, _ isOn: Bool) {
    if isOn {
      flagWord.bitwiseOr(flag.rawValue, ordering: .sequentiallyConsistent)
    } else {
      flagWord.bitwiseAnd(~flag.rawValue, ordering: .sequentiallyConsistent)
    }
    stack.changed(.links)
  }

  /// What it has counted.
  public final var statistics: InterfaceStatistics {
    var result = InterfaceStatistics()
    result.receivedPackets = counters.sum(Count.receivedPackets.rawValue)
    result.receivedBytes = counters.sum(Count.receivedBytes.rawValue)
    result.receivedErrors = counters.sum(Count.receivedErrors.rawValue)
    result.receivedDropped = counters.sum(Count.receivedDropped.rawValue)
    result.multicast = counters.sum(Count.multicast.rawValue)
    result.transmittedPackets = counters.sum(Count.transmittedPackets.rawValue)
    result.transmittedBytes = counters.sum(Count.transmittedBytes.rawValue)
    result.transmittedDropped = counters.sum(Count.transmittedDropped.rawValue)
    return result
  }

  @inline(__always) final func count(_ count: Count, _ number: UInt64 = 1) { counters.add(count.rawValue, number) }

  // MARK: Addresses

  /// Its addresses.
  public final var addresses: [InterfaceAddress] {
    var result: [InterfaceAddress] = []
    for address in stack.addresses where address.interfaceIndex == index { result.append(address) }
    return result
  }

  /// Gives it an address, in the place of what it had of the same; with it the route to its network.
  /// - Throws: EINVAL: no host can have it, or it is IPv6 and the link's packets are too small; ENOBUFS: it has too many; ENOMEM.
  public final func add(_ address: InterfaceAddress) throws(Errno) {
    guard !address.address.isMulticast, !address.address.isUnspecified, address.address != .broadcast4,
      address.prefixLength.int <= address.address.bitCount, address.address.isV4 || carriesIPv6
    else { throw .EINVAL }
    var own = address
    own.interfaceIndex = index
    try stack.enter(own)
    addressAppeared(own)
  }

  /// Takes an address away.
  /// - Throws: EADDRNOTAVAIL: it has none like that; ENOMEM.
  public final func remove(_ address: IPAddress) throws(Errno) {
    try stack.remove(address, of: index)
    if !address.isV4 && kind == .ethernet { stack.leave(address.solicitedNodeGroup, on: self) }
  }

  private final func addressAppeared(_ address: InterfaceAddress) {
    guard kind == .ethernet, address.address.isV4 || address.state != .tentative else { return }
    if address.address.isV4 {
      if address.isUsable { stack.announce(address.address, on: self) }
    } else if address.origin == .manual || address.origin == .dhcp {
      try? stack.join(address.address.solicitedNodeGroup, on: self)
    }
  }

  // MARK: Taps

  /// Who listens to all frames; nil for nobody.
  public final var tap: PacketTap? {
    // SAFETY: the word is 0 or a tap that was retained for good.
    UnsafeRawPointer(bitPattern: tapWord.load(ordering: .acquiring))
      .map { Unmanaged<PacketTap>.fromOpaque($0).takeUnretainedValue() }
  }

  /// Sets who listens; once, for good. False: somebody does.
  public final func setTap(_ tap: PacketTap) -> Bool {
    let word = UInt(bitPattern: Unmanaged.passRetained(tap).toOpaque())
    if tapWord.compareExchange(expected: 0, desired: word, ordering: .sequentiallyConsistent).exchanged { return true }
    Unmanaged.passUnretained(tap).release()
    return false
  }

  /// Whether somebody listens now; also with preemption off.
  @inline(__always) final var isTapped: Bool {
    let word = tapWord.load(ordering: .acquiring)
    guard word != 0, let pointer = UnsafeRawPointer(bitPattern: word) else { return false }
    return Unmanaged<PacketTap>.fromOpaque(pointer)._withUnsafeGuaranteedRef { $0.isListening }
  }

  // MARK: For subclasses

  /// Transmits a frame with its link header, or, on loopback, an IP packet. Any thread; does not sleep.
  open func transmit(_ packet: consuming Packet) {}

  /// Whether frames to others are to be received too. Thread context.
  /// - Throws: EOPNOTSUPP; EIO.
  open func setPromiscuous(_ isOn: Bool) throws(Errno) { throw .EOPNOTSUPP }
}
