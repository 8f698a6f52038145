// NetworkDriver: a virtio network interface (virtio 1.2, 5.1): frames in and out, checksums and segmentation left to the device.
//
// It knows no protocol. Each queue pair has a thread that owns its receiving side (`receive`, `refill`, `sleep`); that thread belongs to the
// network, as does what becomes of a frame. Any thread transmits, on its CPU's queue.
//
// Received frames lie in pages that are posted one by one and come back merged (VIRTIO_NET_F_MRG_RXBUF). Few are posted at first, more when
// they are used up between two looks: a page that the device is the first to touch costs.
//
// The device is not trusted: what a header says is believed only so far as the frame bears it out, and for the rest the protocols check. One
// that breaks the rules in any queue is reset, for good.
import Base
import Locks
import Memory
import Pages
import Platform
import VirtioABI

/// What an interface does for who transmits.
public struct PacketOffloads: OptionSet, BitwiseCopyable, Sendable {
  /// The bits.
  public let rawValue: UInt8
  /// Offloads from bits.
  public init(rawValue: UInt8) { self.rawValue = rawValue }
  /// Completes checksums (`PacketChecksum.partial`).
  public static var checksum: PacketOffloads { PacketOffloads(rawValue: 1) }
  /// Segments TCP over IPv4.
  public static var tcp4: PacketOffloads { PacketOffloads(rawValue: 2) }
  /// Segments TCP over IPv6.
  public static var tcp6: PacketOffloads { PacketOffloads(rawValue: 4) }
  /// Segments UDP.
  public static var udp: PacketOffloads { PacketOffloads(rawValue: 8) }
  /// Segments TCP with CWR set.
  public static var congestionMark: PacketOffloads { PacketOffloads(rawValue: 16) }
}

/// What a queue pair has counted.
public struct NetworkQueueCounts: Sendable {
  /// Received and dropped for lack of memory or since they made no sense.
  public var receivedErrors: UInt64 = 0
  /// Frames whose first bytes had to be copied together.
  public var pulled: UInt64 = 0
  /// Times that the thread slept.
  public var sleeps: UInt64 = 0
  /// Buffers posted at a time at most.
  public var postedBuffers: UInt64 = 0
  /// Nothing yet.
  public init() {}
}

/// A network interface.
public final class NetworkDriver {
  private static let queueSize = 256
  private static let firstBuffers = 32
  private static let mostPairs = 8

  struct Pair {
    let receive: ReceiveQueue
    let transmit: TransmitQueue
    /// Buffers to have posted.
    var wanted: Int
    var counts = NetworkQueueCounts()
  }

  let function: VirtioFunction
  // SAFETY: `pairs[i]` is the thread's that owns pair i, but for its queues, which have rules of their own.
  let pairs: UnsafeMutablePointer<Pair>
  private let control: Virtqueue?
  /// Queue pairs in use.
  public let pairCount: Int
  /// The interface's address: six bytes, the first one in bits 40 to 47.
  public let address: UInt64
  /// The largest IP packet of its link, bytes: 68 to 65,535. Below 1280 it carries no IPv6 (RFC 8200, 5).
  public let mtu: Int
  /// What the device does for who transmits.
  public let offloads: PacketOffloads
  let features: UInt64
  let hasMergeableBuffers: Bool

  /// Called when the link's status may have changed, in any context.
  public var onStatusChange: (() -> Void)?

  // MARK: Starting

  private static var wanted: UInt64 {
    VirtioNetworkABI.checksum | VirtioNetworkABI.guestChecksum | VirtioNetworkABI.mtu | VirtioNetworkABI.address
      | VirtioNetworkABI.guestTCP4 | VirtioNetworkABI.guestTCP6 | VirtioNetworkABI.guestECN | VirtioNetworkABI.hostTCP4
      | VirtioNetworkABI.hostTCP6 | VirtioNetworkABI.hostECN | VirtioNetworkABI.mergeableBuffers
      | VirtioNetworkABI.status | VirtioNetworkABI.controlQueue | VirtioNetworkABI.controlReceive
      | VirtioNetworkABI.multiqueue | VirtioNetworkABI.guestUDP4 | VirtioNetworkABI.guestUDP6
      | VirtioNetworkABI.hostUDP
  }

  /// The features to be taken of those that are offered: none without what it rests on (virtio 1.2, 5.1.3.1).
  static func accepted(_ offered: UInt64) -> UInt64 {
    var features = offered & wanted
    if features & VirtioNetworkABI.checksum == 0 {
      features &= ~(VirtioNetworkABI.hostTCP4 | VirtioNetworkABI.hostTCP6 | VirtioNetworkABI.hostUDP)
    }
    if features & (VirtioNetworkABI.hostTCP4 | VirtioNetworkABI.hostTCP6) == 0 { features &= ~VirtioNetworkABI.hostECN }
    // Large frames come in several pages or not at all.
    if features & VirtioNetworkABI.guestChecksum == 0 || features & VirtioNetworkABI.mergeableBuffers == 0 {
      features &=
        ~(VirtioNetworkABI.guestTCP4 | VirtioNetworkABI.guestTCP6 | VirtioNetworkABI.guestUDP4
        | VirtioNetworkABI.guestUDP6)
    }
    if features & (VirtioNetworkABI.guestTCP4 | VirtioNetworkABI.guestTCP6) == 0 {
      features &= ~VirtioNetworkABI.guestECN
    }
    if features & VirtioNetworkABI.controlQueue == 0 {
      features &= ~(VirtioNetworkABI.controlReceive | VirtioNetworkABI.multiqueue)
    }
    return features
  }

  /// Sets the device up; it is started by `start`.
  /// - Parameter cpuCount: queue pairs that are wanted.
  /// - Throws: ENODEV if it is no network interface, has no use, or offers a link on which there is no IP (an MTU below 68); ENOMEM.
  public init(_ function: VirtioFunction, pairs wantedPairs: Int = CPU.count) throws(Errno) {
    let description = function.description
    guard description.deviceID == VirtioDeviceID.network, description.queueCount >= 2 else { throw .ENODEV }
    self.function = function
    features = Self.accepted(description.features)
    hasMergeableBuffers = features & VirtioNetworkABI.mergeableBuffers != 0
    let configuration = Configuration(description)
    // A group's address, or none at all, is no interface's (IEEE 802).
    let isAddressGiven =
      features & VirtioNetworkABI.address != 0 && configuration.address != 0 && configuration.address &>> 40 & 1 == 0
    address = isAddressGiven ? configuration.address : Self.localAddress(description)
    let givenMTU = features & VirtioNetworkABI.mtu != 0 ? configuration.mtu : 1500
    guard givenMTU >= Self.leastMTU else { throw .ENODEV }
    mtu = min(givenMTU, Self.largestMTU(features))
    offloads = Self.offloads(features)
    let offered = features & VirtioNetworkABI.multiqueue != 0 ? max(configuration.pairCount, 1) : 1
    guard description.queueCount >= 2 &* offered.u32 else { throw .ENODEV }
    pairCount = max(min(wantedPairs, offered, Self.mostPairs), 1)
    let size = min(Self.queueSize, description.queueSize.int)
    guard size >= 4, let pairs = KernelHeap.allocate(byteCount: pairCount &* MemoryLayout<Pair>.stride) else {
      throw .ENOMEM
    }
    // SAFETY: fresh memory of that size, initialised right below.
    self.pairs = pairs.bindMemory(to: Pair.self, capacity: pairCount)
    if features & VirtioNetworkABI.controlQueue != 0 {
      control = Virtqueue(size: min(size, 4), memory: try Self.ring(min(size, 4)))
    } else {
      control = nil
    }
    for index in 0..<pairCount {
      guard let receive = ReceiveQueue(size: size, memory: try Self.ring(size)),
        let transmit = TransmitQueue(size: size, memory: try Self.ring(size))
      else { throw .ENOMEM }
      (self.pairs + index).initialize(
        to: Pair(receive: receive, transmit: transmit, wanted: min(Self.firstBuffers, size)))
      transmit.onRoom = { receive.poke() }
    }
    controlIndex = VirtioNetworkABI.controlQueue(pairCount: offered)
  }

  private let controlIndex: Int

  /// The least MTU of a link for IP (RFC 791, 3.2; virtio 1.2, 5.1.4.1).
  private static var leastMTU: Int { 68 }

  /// Without mergeable buffers a frame and its header must fit into one page.
  private static func largestMTU(_ features: UInt64) -> Int {
    features & VirtioNetworkABI.mergeableBuffers != 0
      ? 65_535 : PacketMemory.pageCapacity &- VirtioNetworkHeader.byteCount &- 18
  }

  private static func offloads(_ features: UInt64) -> PacketOffloads {
    var result: PacketOffloads = []
    if features & VirtioNetworkABI.checksum != 0 { result.insert(.checksum) }
    if features & VirtioNetworkABI.hostTCP4 != 0 { result.insert(.tcp4) }
    if features & VirtioNetworkABI.hostTCP6 != 0 { result.insert(.tcp6) }
    if features & VirtioNetworkABI.hostUDP != 0 { result.insert(.udp) }
    if features & VirtioNetworkABI.hostECN != 0 { result.insert(.congestionMark) }
    return result
  }

  private static func ring(_ size: Int) throws(Errno) -> UnsafeMutableRawPointer {
    guard let memory = KernelHeap.allocateZeroed(byteCount: DeviceQueue.byteCount(size: size), alignment: 16) else {
      throw .ENOMEM
    }
    return memory
  }

  /// An address for a device that has none: locally administered, by its place.
  private static func localAddress(_ description: BootDevice) -> UInt64 {
    0x0200_0000_0000 | (description.barPhysical &>> 12) & 0xff_ffff_ffff
  }

  /// What the configuration said at the start.
  private struct Configuration {
    let address: UInt64
    let pairCount: Int
    let mtu: Int

    init(_ description: BootDevice) {
      let (first, second) = (description.configuration.0, description.configuration.1)
      address = (first &<< 16).byteSwapped
      pairCount = (second & 0xffff).int
      mtu = (second &>> 16 & 0xffff).int
    }
  }

  /// Starts the device, posts buffers, and asks for as many pairs as there are CPUs. Thread context. Interrupt handlers know the driver from
  /// then on: it stays for ever.
  /// - Throws: ENODEV: it refuses; EIO: it does not do what it is told; ENOMEM. It has been stopped then.
  public func start() throws(Errno) {
    do throws(Errno) { try startDevice() } catch {
      stop()
      throw error
    }
  }

  /// Stops the device for good, and takes back what it had. Thread context.
  /// - Parameter owned: the first so many pairs have owners; these return from `sleep` and take theirs back.
  public func stop(owned: Int = 0) {
    function.stop()
    for index in 0..<pairCount {
      // A function that was never started knows no queues.
      pairs[index].receive.fail()
      pairs[index].transmit.fail()
    }
    for index in 0..<pairCount {
      if index >= owned { pairs[index].receive.takeBack() }
      pairs[index].transmit.takeBack()
    }
  }

  private func startDevice() throws(Errno) {
    var queues: [DeviceQueue?] = []
    for index in 0..<pairCount {
      queues.append(pairs[index].receive)
      queues.append(pairs[index].transmit)
    }
    if let control {
      while queues.count < controlIndex { queues.append(nil) }
      queues.append(control)
    }
    for index in 0..<pairCount { refill(index) }
    function.onConfigurationChange = { self.onStatusChange?() }
    try function.start(queues, features: features)
    if pairCount > 1 {
      try command(
        VirtioNetworkControl.MultiqueueCommand.commandClass, VirtioNetworkControl.MultiqueueCommand.setPairs,
        pairCount.u64, byteCount: 2)
    }
  }

  /// Whether there is a link. Thread context; an exit.
  public var isLinkUp: Bool {
    guard features & VirtioNetworkABI.status != 0 else { return true }
    let word = function.readConfiguration(at: VirtioNetworkConfiguration.statusOffset & ~3)
    return (word &>> 16).u16 & VirtioNetworkConfiguration.linkUp != 0
  }

  /// Whether the device has broken down.
  public var hasFailed: Bool { function.isDead }

  /// Whether frames to others are received too. Thread context.
  /// - Throws: EOPNOTSUPP, EIO.
  public func setPromiscuous(_ isOn: Bool) throws(Errno) {
    guard features & VirtioNetworkABI.controlReceive != 0 else { throw .EOPNOTSUPP }
    try command(
      VirtioNetworkControl.ReceiveCommand.commandClass, VirtioNetworkControl.ReceiveCommand.promiscuous,
      isOn ? 1 : 0, byteCount: 1)
  }

  /// Sends a command with up to 8 bytes of data.
  private func command(_ commandClass: UInt8, _ number: UInt8, _ data: UInt64, byteCount: Int) throws(Errno) {
    guard let control else { throw .EOPNOTSUPP }
    guard let memory = KernelHeap.allocate(byteCount: 16) else { throw .ENOMEM }
    defer { KernelHeap.free(memory) }
    memory.storeBytes(of: commandClass, as: UInt8.self)
    memory.storeBytes(of: number, toByteOffset: 1, as: UInt8.self)
    memory.storeBytes(of: data.littleEndian, toByteOffset: 2, as: UInt64.self)
    memory.storeBytes(of: VirtioNetworkControl.failed, toByteOffset: 15, as: UInt8.self)
    var segments: [2 of DeviceSegment] = [
      DeviceSegment(address: memory, count: VirtioNetworkControl.byteCount &+ byteCount),
      DeviceSegment(address: memory + 15, count: 1),
    ]
    let count = try withUnsafePointer(to: &segments) { (pointer) throws(Errno) in
      try UnsafeRawPointer(pointer).withMemoryRebound(to: DeviceSegment.self, capacity: 2) { (pieces) throws(Errno) in
        try control.perform(pieces, readable: 1, writable: 1)
      }
    }
    guard count == 1, memory.load(fromByteOffset: 15, as: UInt8.self) == VirtioNetworkControl.succeeded else {
      throw .EIO
    }
  }
}
