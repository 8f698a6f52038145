// EthernetInterface: frames of an Ethernet (RFC 894, 2464) to and from a driver.
import Base
import Devices
import Locks

/// EtherTypes.
enum EtherType {
  static var ipv4: UInt16 { 0x0800 }
  static var arp: UInt16 { 0x0806 }
  static var ipv6: UInt16 { 0x86dd }
}

/// An Ethernet header: destination, source, type.
enum EthernetHeader {
  static var byteCount: Int { 14 }

  @inline(__always) static func write(
    to start: UnsafeMutableRawPointer, destination: LinkAddress, source: LinkAddress, type: UInt16
  ) {
    destination.write(to: start)
    source.write(to: start + 6)
    start.storeBytes(of: type.bigEndian, toByteOffset: 12, as: UInt16.self)
  }
}

/// An interface on an Ethernet.
open class EthernetInterface: NetworkInterface {
  /// An interface that is up.
  public init(
    _ stack: NetworkStack, index: UInt32, name: [UInt8], linkAddress: LinkAddress, mtu: Int, maximumMTU: Int,
    offloads: PacketOffloads
  ) {
    super.init(
      stack, kind: .ethernet, index: index, name: name, linkAddress: linkAddress, mtu: mtu, maximumMTU: maximumMTU,
      offloads: offloads, flags: [.up, .broadcast, .running, .multicast, .lowerUp])
  }

  /// Reads the link's header of a received frame, and drops it; false: the frame is for nobody here. Also with preemption off.
  @inline(__always) final func readHeader(_ packet: inout Packet) -> Bool {
    count(.receivedPackets)
    count(.receivedBytes, packet.byteCount.u64)
    guard packet.pull(EthernetHeader.byteCount), let start = packet.head.baseAddress else {
      count(.receivedErrors)
      return false
    }
    packet.interfaceIndex = index
    packet.linkOffset = 0
    packet.protocolNumber = UInt16(bigEndian: start.loadUnaligned(fromByteOffset: 12, as: UInt16.self))
    let destination = LinkAddress(reading: start)
    if destination == linkAddress {
      packet.destination = .host
    } else if destination.isGroup {
      packet.destination = destination == .broadcast ? .broadcast : .multicast
      count(.multicast)
    } else {
      packet.destination = .other
    }
    packet.dropFirst(EthernetHeader.byteCount)
    packet.networkOffset = 0
    return true
  }

  /// Puts the link's header in front of an IP packet and transmits it.
  @inline(__always) final func send(_ packet: consuming Packet, to destination: LinkAddress, type: UInt16) {
    guard let start = packet.prepend(EthernetHeader.byteCount) else { return count(.transmittedDropped) }
    EthernetHeader.write(to: start, destination: destination, source: linkAddress, type: type)
    packet.linkOffset = 0
    packet.protocolNumber = type
    packet.interfaceIndex = index
    if isTapped { tap?.frame(packet, isOutgoing: true) }
    transmit(packet)
  }
}

/// An interface of a device.
public final class DeviceInterface: EthernetInterface {
  /// Its driver.
  let driver: NetworkDriver
  /// The device says that the link has changed; its first receiving thread looks.
  let hasStatusChanged = Atomic<Bool>(false)

  /// An interface of a driver, which need not be started yet.
  public init(_ stack: NetworkStack, index: UInt32, name: [UInt8], driver: NetworkDriver) {
    self.driver = driver
    super.init(
      stack, index: index, name: name, linkAddress: LinkAddress(driver.address), mtu: driver.mtu,
      maximumMTU: driver.mtu, offloads: driver.offloads)
  }

  public override func transmit(_ packet: consuming Packet) {
    let byteCount = packet.byteCount.u64
    if driver.transmit(packet) {
      count(.transmittedPackets)
      count(.transmittedBytes, byteCount)
    } else {
      count(.transmittedDropped)
    }
  }

  public override func setPromiscuous(_ isOn: Bool) throws(Errno) {
    try driver.setPromiscuous(isOn)
    set(.promiscuous, isOn)
  }
}
