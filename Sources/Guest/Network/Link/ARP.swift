// ARP over Ethernet for IPv4 (RFC 826), and what RFC 5227 adds: probes and announcements. Reading and writing is pure.
import Base
import Devices

/// An ARP packet.
struct ARPPacket: BitwiseCopyable, Equatable {
  static var byteCount: Int { 28 }
  static var request: UInt16 { 1 }
  static var reply: UInt16 { 2 }

  var operation: UInt16
  var senderLink: LinkAddress
  var sender: IPAddress
  var targetLink: LinkAddress
  var target: IPAddress

  init(operation: UInt16, senderLink: LinkAddress, sender: IPAddress, targetLink: LinkAddress, target: IPAddress) {
    self.operation = operation
    self.senderLink = senderLink
    self.sender = sender
    self.targetLink = targetLink
    self.target = target
  }

  /// Reads a packet; nil: it is none for IPv4 over Ethernet, or one that nobody can mean.
  init?(_ bytes: UnsafeRawBufferPointer) {
    guard bytes.count >= ARPPacket.byteCount, let start = bytes.baseAddress else { return nil }
    // Hardware 1, protocol 0x0800, sizes 6 and 4.
    guard UInt32(bigEndian: start.loadUnaligned(as: UInt32.self)) == 0x0001_0800,
      UInt16(bigEndian: start.loadUnaligned(fromByteOffset: 4, as: UInt16.self)) == 0x0604
    else { return nil }
    operation = UInt16(bigEndian: start.loadUnaligned(fromByteOffset: 6, as: UInt16.self))
    senderLink = LinkAddress(reading: start + 8)
    sender = IPAddress(readingV4: start + 14)
    targetLink = LinkAddress(reading: start + 18)
    target = IPAddress(readingV4: start + 24)
    guard operation == ARPPacket.request || operation == ARPPacket.reply, !senderLink.isGroup, senderLink != .zero,
      !sender.isMulticast, sender != .broadcast4, !sender.isLoopback, !target.isMulticast, !target.isLoopback
    else { return nil }
  }

  func write(to start: UnsafeMutableRawPointer) {
    start.storeBytes(of: UInt32(0x0001_0800).bigEndian, as: UInt32.self)
    start.storeBytes(of: UInt16(0x0604).bigEndian, toByteOffset: 4, as: UInt16.self)
    start.storeBytes(of: operation.bigEndian, toByteOffset: 6, as: UInt16.self)
    senderLink.write(to: start + 8)
    sender.writeV4(to: start + 14)
    targetLink.write(to: start + 18)
    target.writeV4(to: start + 24)
  }
}

extension NetworkStack {
  /// An ARP packet has come. It begins behind the link's header.
  func arpArrived(_ packet: borrowing Packet, _ link: EthernetInterface) {
    guard packet.destination != .other, let arp = ARPPacket(packet.head) else { return link.count(.receivedErrors) }
    if arp.senderLink == link.linkAddress { return }  // Our own, come back.
    if arp.sender.isUnspecified {
      // A probe (RFC 5227, 2.1.1): defended by the answer.
    } else if kind(of: arp.sender) == .local {
      return conflict(arp, link)
    }
    let isForUs = find(arp.target, on: link.index)?.isUsable ?? false
    if !arp.sender.isUnspecified {
      // Known neighbours are brought up to date; new ones are made of those who speak to us (RFC 826).
      neighbours.learn(
        arp.sender, on: link, arp.senderLink,
        NeighbourNews(
          isSolicited: arp.operation == ARPPacket.reply && isForUs, isOverride: true, isNew: isForUs))
    }
    if arp.operation == ARPPacket.request && isForUs {
      sendARP(
        ARPPacket(
          operation: ARPPacket.reply, senderLink: link.linkAddress, sender: arp.target, targetLink: arp.senderLink,
          target: arp.sender), to: arp.senderLink, link)
    }
  }

  /// Somebody else uses an address of ours (RFC 5227, 2.4 b): it is defended once in a while.
  private func conflict(_ arp: ARPPacket, _ link: EthernetInterface) {
    let now = environment.now()
    let last = lastDefence.load(ordering: .relaxed)
    guard last == 0 || now &- last > 10_000_000_000 else { return }
    lastDefence.store(max(now, 1), ordering: .relaxed)
    announce(arp.sender, on: link)
  }

  /// Asks who has an address.
  /// - Parameters:
  ///   - destination: whom: everybody, or the one who had it when we last knew.
  ///   - sender: an address of ours; unspecified for a probe.
  func askARP(
    _ address: IPAddress, from sender: IPAddress, _ link: EthernetInterface, to destination: LinkAddress = .broadcast
  ) {
    sendARP(
      ARPPacket(
        operation: ARPPacket.request, senderLink: link.linkAddress, sender: sender, targetLink: .zero, target: address),
      to: destination, link)
  }

  /// Tells everybody on the link that an IPv4 address is ours (RFC 5227, 2.3).
  func announce(_ address: IPAddress, on link: NetworkInterface) {
    guard let link = link as? EthernetInterface, address.isV4 else { return }
    askARP(address, from: address, link)
  }

  private func sendARP(_ arp: ARPPacket, to destination: LinkAddress, _ link: EthernetInterface) {
    guard var packet = Packet(headroom: Packet.headroom, capacity: 64), let start = packet.extend(ARPPacket.byteCount)
    else {
      return
    }
    arp.write(to: start)
    link.send(packet, to: destination, type: EtherType.arp)
  }
}
