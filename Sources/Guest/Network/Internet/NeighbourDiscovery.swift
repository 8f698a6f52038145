// Neighbour discovery for IPv6 (RFC 4861): who has an address, and what routers say. Reading is pure; nothing is believed that has come over a
// router (hop limit 255).
import Base
import Devices
import Locks

/// Options of a neighbour discovery message.
struct DiscoveryOptions {
  /// Source or target link-layer address.
  var link: LinkAddress?

  /// Goes through the options from byte `start` on. The body gets each option, its first two bytes included.
  /// - Returns: false: they make no sense, and neither does the message.
  static func forEach(
    _ bytes: UnsafeRawBufferPointer, from start: Int, _ body: (UInt8, UnsafeRawBufferPointer) -> Void
  ) -> Bool {
    var at = start
    while at < bytes.count {
      guard at &+ 2 <= bytes.count else { return false }
      let length = bytes[at &+ 1].int &* 8
      guard length > 0, at &+ length <= bytes.count else { return false }
      body(bytes[at], UnsafeRawBufferPointer(rebasing: bytes[at..<at &+ length]))
      at &+= length
    }
    return true
  }

  /// Reads the options; nil: they make no sense.
  init?(_ bytes: UnsafeRawBufferPointer, from start: Int, linkOption: UInt8) {
    var found: LinkAddress?
    let isGood = Self.forEach(bytes, from: start) { kind, option in
      if kind == linkOption { found = LinkAddress(reading: option.baseAddress.unsafelyUnwrapped + 2) }
    }
    guard isGood else { return nil }
    if let found, found.isGroup || found == .zero { return nil }
    link = found
  }
}

extension NetworkStack {
  /// An ICMPv6 message, which begins with its header.
  func icmp6Arrived(_ packet: consuming Packet, _ header: InternetHeader, _ link: NetworkInterface) {
    count(.icmpReceived, isV4: false)
    guard InternetChecksum.isTransportValid(packet, header), packet.pull(min(packet.byteCount, 1024)) else {
      return count(.icmpErrors, isV4: false)
    }
    let bytes = packet.head
    let type = bytes[0]
    switch type {
    case 1...4:
      if type == 1 { count(.icmpUnreachableReceived, isV4: false) }
      if type == 2 { count(.icmpTooBigReceived, isV4: false) }
      let info = UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
      guard
        let error = InternetError(
          v6: type, code: bytes[1], info: info, sender: header.source, interfaceIndex: link.index)
      else { return count(.icmpErrors, isV4: false) }
      errorArrived(packet, error)
    case ICMP.echo6:
      count(.icmpEchoReceived, isV4: false)
      if !header.source.isUnspecified { echo(packet, header, link, reply: ICMP.echoReply6) }
    case ICMP.echoReply6:
      count(.icmpEchoReplyReceived, isV4: false)
      giveEcho(packet, header, link)
    case 130: mldArrived(packet, header, link)
    case 134, 135, 136:
      guard header.hopLimit == 255, bytes[1] == 0, link.kind == .ethernet, packet.head.count == packet.byteCount else {
        return count(.icmpErrors, isV4: false)
      }
      let isGood =
        type == 135
        ? solicitationArrived(bytes, header, link)
        : type == 136 ? advertisementArrived(bytes, header, link) : routerAdvertised(bytes, header, link)
      if !isGood { count(.icmpErrors, isV4: false) }
    default: return
    }
  }

  // MARK: Solicitations

  private func solicitationArrived(
    _ bytes: UnsafeRawBufferPointer, _ header: InternetHeader, _ link: NetworkInterface
  ) -> Bool {
    guard bytes.count >= 24, let start = bytes.baseAddress,
      let options = DiscoveryOptions(bytes, from: 24, linkOption: 1)
    else { return false }
    let target = IPAddress(readingV6: start + 8)
    let isProbe = header.source.isUnspecified
    guard !target.isMulticast, !target.isV4,
      !isProbe || options.link == nil && header.destination == target.solicitedNodeGroup
    else { return false }
    guard let own = find(target, on: link.index) else { return true }
    if isProbe && (own.state == .tentative || own.state == .optimistic) {
      // Somebody else tries the same address (RFC 4862, 5.4.3).
      duplicateFound(own, link)
      return true
    }
    guard own.isUsable else { return true }
    if !isProbe, let address = options.link {
      neighbours.learn(
        header.source, on: link, address, NeighbourNews(isSolicited: false, isOverride: true, isNew: true))
    }
    advertise(
      target, to: isProbe ? .allNodes6 : header.source, link, isSolicited: !isProbe,
      isOverride: own.state != .optimistic)
    return true
  }

  /// Says that an address is ours.
  func advertise(
    _ target: IPAddress, to destination: IPAddress, _ link: NetworkInterface, isSolicited: Bool, isOverride: Bool
  ) {
    let flags: UInt8 = (isSolicited ? 0x40 : 0) | (isOverride ? 0x20 : 0)
    sendDiscovery(
      type: 136, flags: flags, target: target, option: 2, from: target, to: destination, link)
  }

  /// Asks for the link address of a neighbour of either family.
  /// - Parameter known: the address at which it was, to ask it alone.
  func solicit(_ address: IPAddress, on index: UInt32, from known: LinkAddress?) {
    guard let link = interface(index: index) as? EthernetInterface else { return }
    if address.isV4 {
      let source = sourceNear(address, link) ?? .any4
      return askARP(address, from: source, link, to: known ?? .broadcast)
    }
    let source =
      (address.isLinkLocal ? linkLocalAddress(of: link) : sourceNear(address, link)) ?? linkLocalAddress(of: link)
    guard let source else { return }
    if let known {
      // To the neighbour itself: its address is known, so nothing is asked in return.
      sendDiscovery(type: 135, flags: 0, target: address, option: 1, from: source, to: address, link, at: known)
    } else {
      sendDiscovery(
        type: 135, flags: 0, target: address, option: 1, from: source, to: address.solicitedNodeGroup, link)
    }
  }

  private func sourceNear(_ address: IPAddress, _ link: NetworkInterface) -> IPAddress? {
    let near = addressList.read { addresses -> IPAddress? in
      for own in addresses
      where own.interfaceIndex == link.index && own.isUsable && address.hasPrefix(own.address, own.prefixLength.int) {
        return own.address
      }
      return nil
    }
    return near ?? firstAddress(of: link.index, isV4: address.isV4)
  }

  /// Asks whether somebody has an address that is to be ours (RFC 4862, 5.4.2).
  func probe(_ address: IPAddress, _ link: NetworkInterface) {
    sendDiscovery(
      type: 135, flags: 0, target: address, option: 0, from: .any6, to: address.solicitedNodeGroup, link)
  }

  /// Asks routers to advertise.
  func solicitRouters(_ link: NetworkInterface) {
    let source = linkLocalAddress(of: link)
    guard var packet = Packet(headroom: Packet.headroom, capacity: 16),
      let start = packet.extend(source == nil ? 8 : 16)
    else { return }
    start.initializeMemory(as: UInt8.self, repeating: 0, count: packet.byteCount)
    start.storeBytes(of: 133, as: UInt8.self)
    if source != nil {
      start.storeBytes(of: 1, toByteOffset: 8, as: UInt8.self)
      start.storeBytes(of: 1, toByteOffset: 9, as: UInt8.self)
      link.linkAddress.write(to: start + 10)
    }
    sendDiscovery(packet, from: source ?? .any6, to: .allRouters6, link, at: nil)
  }

  private func sendDiscovery(
    type: UInt8, flags: UInt8, target: IPAddress, option: UInt8, from source: IPAddress, to destination: IPAddress,
    _ link: NetworkInterface, at known: LinkAddress? = nil
  ) {
    let byteCount = option == 0 ? 24 : 32
    guard var packet = Packet(headroom: Packet.headroom, capacity: byteCount), let start = packet.extend(byteCount)
    else {
      return
    }
    start.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
    start.storeBytes(of: type, as: UInt8.self)
    start.storeBytes(of: flags, toByteOffset: 4, as: UInt8.self)
    target.writeV6(to: start + 8)
    if option != 0 {
      start.storeBytes(of: option, toByteOffset: 24, as: UInt8.self)
      start.storeBytes(of: 1, toByteOffset: 25, as: UInt8.self)
      link.linkAddress.write(to: start + 26)
    }
    sendDiscovery(packet, from: source, to: destination, link, at: known)
  }

  /// Sends a message with hop limit 255. It goes to a group, to a neighbour at a known address, or to one that is looked up.
  private func sendDiscovery(
    _ packet: consuming Packet, from source: IPAddress, to destination: IPAddress, _ link: NetworkInterface,
    at known: LinkAddress?
  ) {
    guard let start = packet.mutableHead.baseAddress else { return }
    var checksum = InternetChecksum()
    checksum.addPseudoHeader(source, destination, protocol: InternetProtocol.icmp6, byteCount: packet.byteCount)
    checksum.add(packet, from: 0, count: packet.byteCount)
    start.storeBytes(of: checksum.value.bigEndian, toByteOffset: 2, as: UInt16.self)
    count(.icmpSent, isV4: false)
    if let known, let ethernet = link as? EthernetInterface {
      var ip = IPv6Header()
      ip.nextHeader = InternetProtocol.icmp6
      ip.hopLimit = 255
      ip.payloadByteCount = packet.byteCount
      (ip.source, ip.destination) = (source, destination)
      guard let place = packet.prepend(IPv6Header.byteCount) else { return }
      ip.write(to: place)
      packet.networkOffset = 0
      return ethernet.send(packet, to: known, type: EtherType.ipv6)
    }
    var header = OutgoingHeader(source: source, destination: destination, protocolNumber: InternetProtocol.icmp6)
    header.hopLimit = 255
    header.flags = [.noLoop, .exactSource]
    header.interfaceIndex = link.index
    var way = RouteCache()
    do throws(Errno) { try send(packet, header, &way) } catch { return }
  }

  // MARK: Advertisements

  private func advertisementArrived(
    _ bytes: UnsafeRawBufferPointer, _ header: InternetHeader, _ link: NetworkInterface
  ) -> Bool {
    guard bytes.count >= 24, let start = bytes.baseAddress,
      let options = DiscoveryOptions(bytes, from: 24, linkOption: 2)
    else { return false }
    let target = IPAddress(readingV6: start + 8)
    let (isRouter, isSolicited, isOverride) = (bytes[4] & 0x80 != 0, bytes[4] & 0x40 != 0, bytes[4] & 0x20 != 0)
    guard !target.isMulticast, !target.isV4, !isSolicited || !header.destination.isMulticast else { return false }
    if let own = find(target, on: link.index) {
      if own.state == .tentative || own.state == .optimistic { duplicateFound(own, link) }
      return true
    }
    guard let address = options.link else { return true }
    neighbours.learn(
      target, on: link, address,
      NeighbourNews(isSolicited: isSolicited, isOverride: isOverride, isNew: false, isRouter: isRouter))
    return true
  }
}
