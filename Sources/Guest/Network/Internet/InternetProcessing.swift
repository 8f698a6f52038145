// The slow path: received packets that need more than looking: fragments, options, groups, ICMP, what no flow wants. In a thread that
// holds nothing.
import Base
import Devices
import Locks
import Platform

extension NetworkStack {
  /// Looks at a packet that the classifier left. It begins with the network's header.
  func process(_ packet: consuming Packet) {
    guard let link = interface(index: packet.interfaceIndex) else { return }
    switch packet.protocolNumber {
    case EtherType.ipv4: processV4(packet, link)
    case EtherType.ipv6: processV6(packet, link)
    case EtherType.arp: if let link = link as? EthernetInterface { arpArrived(packet, link) }
    default: link.count(.receivedDropped)
    }
  }

  // MARK: IPv4

  private func processV4(_ packet: consuming Packet, _ link: NetworkInterface) {
    count(.slowPath, isV4: true)
    guard packet.pull(min(packet.byteCount, IPv4Header.maximumByteCount &+ 8)),
      let header = IPv4Header(packet.head, available: packet.byteCount)
    else { return count(.ipHeaderErrors, isV4: true) }
    if packet.destination == .other { return }
    let isLooped = takeLoop(packet)
    if header.hasOptions {
      let options = UnsafeRawBufferPointer(rebasing: packet.head[IPv4Header.byteCount..<header.headerByteCount])
      guard IPv4Header.options(options) == .harmless else { return count(.ipHeaderErrors, isV4: true) }
    }
    guard isAcceptable(packet, source: header.source, destination: header.destination, link, isLooped: isLooped) else {
      return count(.ipAddressErrors, isV4: true)
    }
    if packet.byteCount > header.totalByteCount { packet.dropLast(packet.byteCount &- header.totalByteCount) }
    if header.isFragment {
      count(.fragmentsReceived, isV4: true)
      guard let whole = reassemble(packet, header, link) else { return }
      return deliver(whole, number: header.protocolNumber, start: IPv4Header.byteCount, link)
    }
    deliver(packet, number: header.protocolNumber, start: header.headerByteCount, link)
  }

  // MARK: IPv6

  private func processV6(_ packet: consuming Packet, _ link: NetworkInterface) {
    count(.slowPath, isV4: false)
    guard packet.pull(IPv6Header.byteCount), let header = IPv6Header(packet.head, available: packet.byteCount) else {
      return count(.ipHeaderErrors, isV4: false)
    }
    if packet.destination == .other { return }
    let isLooped = takeLoop(packet)
    guard isAcceptable(packet, source: header.source, destination: header.destination, link, isLooped: isLooped) else {
      return count(.ipAddressErrors, isV4: false)
    }
    let byteCount = IPv6Header.byteCount &+ header.payloadByteCount
    if packet.byteCount > byteCount { packet.dropLast(packet.byteCount &- byteCount) }
    walk(packet, header, link, isWhole: false)
  }

  /// Goes along the extension headers of a packet; `isWhole`: it was put together from fragments.
  private func walk(_ packet: consuming Packet, _ header: IPv6Header, _ link: NetworkInterface, isWhole: Bool) {
    // Headers of a reasonable size; those who send more are up to no good.
    guard packet.pull(min(packet.byteCount, 512)) else { return count(.ipDiscarded, isV4: false) }
    let extensions = IPv6Extensions(packet.head, first: header.nextHeader)
    switch extensions.end {
    case .transport(let number):
      deliver(
        packet, number: number, start: extensions.offset, link, namedAt: extensions.namedAt)
    case .fragment:
      count(.fragmentsReceived, isV4: false)
      guard !isWhole, let whole = reassemble(packet, header, extensions, link),
        let inner = IPv6Header(whole.head, available: whole.byteCount)
      else { return }
      walk(whole, inner, link, isWhole: true)
    case .nothing: return
    case .dropped: return count(.ipHeaderErrors, isV4: false)
    case .problem(let code, let pointer, let unlessGroup):
      count(.ipHeaderErrors, isV4: false)
      if unlessGroup && header.destination.isMulticast { return }
      sendError(about: packet, type: 4, code: code, info: pointer.u32, link, evenToGroups: code == 2)
    }
  }

  // MARK: Both

  /// Whether a packet is one of ours to a group (`loopToGroup`); afterwards it is like any other to a group.
  private func takeLoop(_ packet: borrowing Packet) -> Bool {
    guard packet.destination == .outgoing else { return false }
    packet.destination = .multicast
    return true
  }

  /// Whether a packet may have these addresses where it came from, and is for us.
  private func isAcceptable(
    _ packet: borrowing Packet, source: IPAddress, destination: IPAddress, _ link: NetworkInterface, isLooped: Bool
  ) -> Bool {
    let (sender, isLoopback) = (kind(of: source), link.kind == .loopback)
    if sender == .multicast || sender == .broadcast { return false }
    guard source.isV4 || link.carriesIPv6 else { return false }
    if !isLoopback && !isLooped {
      // What names this machine, or is its own, does not come by a wire.
      if source.isLoopback || destination.isLoopback { return false }
      if sender == .local && !isOwnEcho(source, destination) { return false }
    }
    switch kind(of: destination) {
    // Who has no address yet speaks to many, not to one (RFC 1122, 3.2.1.3 a; RFC 4291, 2.5.2).
    case .local: return (packet.destination == .host || isLoopback) && sender != .unspecified
    case .broadcast: return destination.isV4
    case .multicast: return isLoopback || isMember(of: destination, on: link)
    case .unspecified: return false
    case .other:
      // DHCP may answer before the address is there; neighbours ask for addresses that are being tried.
      return packet.destination == .host && mayBeConfigured(destination, on: link)
    }
  }

  /// A message about our own address that somebody sends back to the link: duplicate address detection listens for it.
  private func isOwnEcho(_ source: IPAddress, _ destination: IPAddress) -> Bool {
    !source.isV4 && destination.isMulticast
  }

  /// Gives a whole packet to whom it is for.
  /// - Parameters:
  ///   - number: the transport.
  ///   - start: where it begins.
  ///   - namedAt: where the header before names it.
  private func deliver(
    _ packet: consuming Packet, number: UInt8, start: Int, _ link: NetworkInterface, namedAt: Int = 9
  ) {
    packet.transportOffset = start
    let header = packet.internetHeader
    let isV4 = header.source.isV4
    var isTaken = false
    if let raw = rawReceivers, raw.wants(number) { isTaken = raw.deliver(packet, header) }
    guard packet.byteCount >= start &+ 8, packet.pull(start &+ 8) else {
      if number == InternetProtocol.igmp || isTaken { return }
      return count(.ipHeaderErrors, isV4: isV4)
    }
    switch number {
    case InternetProtocol.icmp where isV4:
      count(.ipDelivered, isV4: true)
      packet.dropFirst(start)
      icmpArrived(packet, header, link)
    case InternetProtocol.igmp where isV4:
      count(.ipDelivered, isV4: true)
      packet.dropFirst(start)
      igmpArrived(packet, header, link)
    case InternetProtocol.icmp6 where !isV4:
      count(.ipDelivered, isV4: false)
      packet.dropFirst(start)
      icmp6Arrived(packet, header, link)
    default:
      if number == InternetProtocol.tcp || number == InternetProtocol.udp {
        return deliverPorts(packet, header, start, link)
      }
      if let transport = transport(number) {
        count(.ipDelivered, isV4: isV4)
        packet.dropFirst(start)
        return transport.packetArrived(packet, header)
      }
      if isTaken { return }
      count(.ipUnknownProtocols, isV4: isV4)
      if isV4 {
        sendError(about: packet, type: 3, code: 2, info: 0, link)
      } else {
        sendError(about: packet, type: 4, code: 1, info: namedAt.u32, link)
      }
    }
  }

  /// A packet with ports: for a flow (it came in fragments, with options, or is also a raw socket's), or for its transport.
  private func deliverPorts(
    _ packet: consuming Packet, _ header: InternetHeader, _ start: Int, _ link: NetworkInterface
  ) {
    guard let head = packet.head.baseAddress else { return }
    let isV4 = header.source.isV4
    let ports = UInt32(bigEndian: head.loadUnaligned(fromByteOffset: start, as: UInt32.self))
    let key = FlowKey(
      protocol: header.protocolNumber, local: header.destination, localPort: ports.u16, remote: header.source,
      remotePort: (ports &>> 16).u16)
    count(.ipDelivered, isV4: isV4)
    if isV4 && key.protocolNumber == InternetProtocol.udp && key.localPort == DHCPMessage.clientPort
      && dhcpArrived(packet, start, link)
    {
      return
    }
    if packet.destination == .host && !header.destination.isMulticast, let flow = findFlow(key, packet, link) {
      packet.dropFirst(start)
      return give(packet, to: flow, isV4: isV4)
    }
    packet.dropFirst(start)
    if header.protocolNumber == InternetProtocol.udp && (packet.destination != .host || header.destination.isMulticast)
    {
      return deliverToGroup(packet, key)
    }
    if header.protocolNumber == InternetProtocol.tcp && (packet.destination != .host || header.destination.isMulticast)
    {
      return  // TCP knows no groups (RFC 9293, 3.9.2.3).
    }
    if let transport = transport(header.protocolNumber) { transport.packetArrived(packet, header) }
  }

  /// The flow of a key, as the classifier finds it.
  private func findFlow(_ key: FlowKey, _ packet: borrowing Packet, _ link: NetworkInterface) -> Flow? {
    // The classifier looks at the packet as it came; here it is looked at as it is now.
    RCU.read { () -> Flow? in
      guard let found = findAny(key, link), !found.isInternal || link.kind == .loopback else { return nil }
      let flow = found.flow.takeUnretainedValue()
      let bound = flow.boundInterface.load(ordering: .relaxed)
      if bound != 0 && bound != link.index { return nil }
      return flow.isGroup ? flow.select(packet) : flow
    }
  }

  /// Gives a flow, or one of those that share its key, a packet, and tells it.
  func give(_ packet: consuming Packet, to flow: Flow, isV4: Bool) {
    guard let member = flow.isGroup ? RCU.read({ flow.select(packet) }) : flow else {
      return count(.ipDiscarded, isV4: isV4)
    }
    Preemption.disable()
    if !member.push(packet) { count(.ringFull, isV4: isV4) }
    member.packetsArrived(unattended)
    Preemption.enable()
  }

  /// A UDP datagram to a group, or to everybody: each socket of the port gets its own.
  private func deliverToGroup(_ packet: consuming Packet, _ key: FlowKey) {
    for round in 0..<2 {
      var wild = FlowKey(protocol: key.protocolNumber, local: key.local, localPort: key.localPort)
      if round == 1 { wild.local = key.local.isV4 ? .any4 : .any6 }
      guard let flow = flows.findRetained(wild) else { continue }
      flow.forEachReceiver(packet) { member in
        guard let copy = packet.clone() else { return count(.ipDiscarded, isV4: key.local.isV4) }
        give(copy, to: member, isV4: key.local.isV4)
      }
    }
    // Sockets that are connected to a group's sender are found by all of it.
    if let flow = flows.findRetained(key) { give(packet, to: flow, isV4: key.local.isV4) }
  }
}
