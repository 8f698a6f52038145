// IP's sending side: from a transport's packet to the interface, in the sender's thread, with no queue in between.
//
// The usual packet costs: a look at the way that the socket remembers, two headers, and the interface's transmit. What does not fit is
// split into the parts that it stands for, by the interface if that can, else here; or into fragments; or refused.
import Base
import Devices
import Locks

extension NetworkStack {
  /// Sends a packet whose first byte is the transport's header. Its checksum is complete, or `.partial` with the sum of the pseudo header in
  /// its field; then it is completed here if the interface cannot.
  /// - Parameters:
  ///   - route: what `route(to:)` gave, or an empty one; it is looked up anew when it is out of date or leads elsewhere.
  /// - Throws: EMSGSIZE: too large, and not to be fragmented; ENETUNREACH, EHOSTUNREACH, EADDRNOTAVAIL, ENODEV, ENETDOWN, EINVAL; EACCES: broadcast without
  ///   leave; ENOBUFS. The packet is gone in every case.
  public func send(_ packet: consuming Packet, _ header: OutgoingHeader, _ route: inout RouteCache) throws(Errno) {
    let isV4 = header.destination.isV4
    if route.generation != generation.load(ordering: .acquiring) || route.destination != header.destination
      || header.interfaceIndex != 0 && header.interfaceIndex != route.interfaceIndex && !route.isLoopback
    {
      try renew(&route, header)
    }
    if route.isBroadcast && !header.flags.contains(.mayBroadcast) { throw .EACCES }
    var header = header
    if header.source.isUnspecified && !header.flags.contains(.exactSource) { header.source = route.source }
    if header.hopLimit == 0 { header.hopLimit = route.isMulticast ? 1 : 64 }
    count(.ipSent, isV4: isV4)
    if route.isMulticast { try loopToGroup(packet, header, route) }
    let headerByteCount = self.headerByteCount(header)
    let mtu = header.flags.contains(.ignorePathMTU) ? link(route)?.mtu ?? route.mtu : route.mtu
    if packet.byteCount &+ headerByteCount > mtu {
      return try sendLarge(packet, header, route, mtu: mtu, headerByteCount: headerByteCount)
    }
    // What fits is one packet, whatever it stood for.
    if packet.segmentation.kind != .none && packet.byteCount &+ headerByteCount <= mtu && isSingle(packet) {
      packet.segmentation = .none
    }
    if packet.segmentation.kind != .none && !canSegment(packet.segmentation, route) {
      return try sendSegments(packet, header, route)
    }
    try sendWhole(packet, header, route)
  }

  /// Whether all of it is one part.
  private func isSingle(_ packet: borrowing Packet) -> Bool {
    packet.byteCount &- transportByteCount(packet) <= packet.segmentation.segmentByteCount.int
  }

  /// Bytes of the transport's header in front of a packet that stands for several.
  private func transportByteCount(_ packet: borrowing Packet) -> Int {
    if packet.segmentation.kind == .udp { return 8 }
    let head = packet.head
    return head.count > 12 ? (head[12] &>> 4).int &* 4 : 20
  }

  @inline(never) private func renew(_ route: inout RouteCache, _ header: OutgoingHeader) throws(Errno) {
    let isGiven = !header.source.isUnspecified || header.flags.contains(.exactSource)
    do throws(Errno) {
      route = try self.route(
        to: header.destination, source: isGiven ? header.source : nil, interface: header.interfaceIndex)
    } catch {
      count(.ipNoRoutes, isV4: header.destination.isV4)
      throw error
    }
  }

  private func headerByteCount(_ header: OutgoingHeader) -> Int {
    let isAlert = header.flags.contains(.routerAlert)
    return header.destination.isV4
      ? IPv4Header.byteCount &+ (isAlert ? 4 : 0) : IPv6Header.byteCount &+ (isAlert ? 8 : 0)
  }

  @inline(__always) private func canSegment(_ segmentation: PacketSegmentation, _ route: RouteCache) -> Bool {
    switch segmentation.kind {
    case .none: true
    case .tcp4:
      route.offloads.contains(.tcp4)
        && (!segmentation.hasCongestionMark || route.offloads.contains(.congestionMark))
    case .tcp6:
      route.offloads.contains(.tcp6)
        && (!segmentation.hasCongestionMark || route.offloads.contains(.congestionMark))
    case .udp: route.offloads.contains(.udp)
    }
  }

  private func link(_ route: RouteCache) -> NetworkInterface? {
    // SAFETY: interfaces live as long as the stack.
    route.interface.map { Unmanaged<NetworkInterface>.fromOpaque($0).takeUnretainedValue() }
  }

  // MARK: Large packets

  @inline(never) private func sendLarge(
    _ packet: consuming Packet, _ header: OutgoingHeader, _ route: RouteCache, mtu: Int, headerByteCount: Int
  ) throws(Errno) {
    let segmentation = packet.segmentation
    if segmentation.kind != .none {
      let part = transportByteCount(packet) &+ segmentation.segmentByteCount.int
      if part &+ headerByteCount <= mtu {
        // Its lengths are 16 bits.
        if canSegment(segmentation, route) && packet.byteCount &+ headerByteCount <= 65_535 {
          return try sendWhole(packet, header, route)
        }
        return try sendSegments(packet, header, route)
      }
      if segmentation.kind != .udp || header.flags.contains(.dontFragment) { throw .EMSGSIZE }
      return try sendSegments(packet, header, route)
    }
    if header.flags.contains(.dontFragment) {
      count(.fragmentFailed, isV4: header.destination.isV4)
      throw .EMSGSIZE
    }
    try sendFragments(packet, header, route, mtu: mtu)
  }

  /// A packet that stands for several, in its parts.
  private func sendSegments(_ packet: consuming Packet, _ header: OutgoingHeader, _ route: RouteCache) throws(Errno) {
    var parts = SegmentSplitter(packet, header)
    while true {
      guard let part = try parts.next(packet) else { return }
      var way = route
      try send(part, header, &way)
    }
  }

  /// A packet in fragments (RFC 791, 2.3; RFC 8200, 4.5).
  private func sendFragments(
    _ packet: consuming Packet, _ header: OutgoingHeader, _ route: RouteCache, mtu: Int
  ) throws(Errno) {
    let isV4 = header.destination.isV4
    let headers = isV4 ? IPv4Header.byteCount : IPv6Header.byteCount &+ IPv6FragmentHeader.byteCount
    guard packet.byteCount &+ IPv4Header.byteCount <= 65_535, mtu >= headers &+ 8 else { throw .EMSGSIZE }
    guard InternetChecksum.complete(&packet) else { throw .ENOBUFS }
    let identification = identifications.next(header.source, header.destination)
    let room = (mtu &- headers).alignedDown(to: 8)
    var offset = 0
    count(.fragmented, isV4: isV4)
    while offset < packet.byteCount {
      let step = min(room, packet.byteCount &- offset)
      let hasMore = offset &+ step < packet.byteCount
      guard var part = Packet(headroom: Packet.headroom, capacity: 16) else { throw .ENOBUFS }
      if !isV4 {
        guard let place = part.extend(IPv6FragmentHeader.byteCount) else { throw .ENOBUFS }
        IPv6FragmentHeader(
          nextHeader: header.protocolNumber, fragmentOffset: offset, hasMoreFragments: hasMore,
          identification: identification
        ).write(to: place)
      }
      guard part.append(packet, from: offset, count: step) else { throw .ENOBUFS }
      count(.fragmentsCreated, isV4: isV4)
      if isV4 {
        try sendWhole(
          part, header, route, fragment: (offset, hasMore, identification.u16))
      } else {
        var outer = header
        outer.protocolNumber = InternetProtocol.fragment
        try sendWhole(part, outer, route)
      }
      offset &+= step
    }
  }

  // MARK: One packet

  @inline(__always) private func sendWhole(
    _ packet: consuming Packet, _ header: OutgoingHeader, _ route: RouteCache,
    fragment: (offset: Int, hasMore: Bool, identification: UInt16)? = nil
  ) throws(Errno) {
    if case .partial = packet.checksum, !route.offloads.contains(.checksum), !InternetChecksum.complete(&packet) {
      throw .ENOBUFS
    }
    packet.transportOffset = 0
    if header.destination.isV4 {
      try writeV4(&packet, header, fragment)
    } else {
      try writeV6(&packet, header)
    }
    packet.networkOffset = 0
    packet.interfaceIndex = route.interfaceIndex
    try output(packet, route)
  }

  private func writeV4(
    _ packet: inout Packet, _ header: OutgoingHeader, _ fragment: (offset: Int, hasMore: Bool, identification: UInt16)?
  ) throws(Errno) {
    var ip = IPv4Header()
    let isAlert = header.flags.contains(.routerAlert)
    ip.headerByteCount = isAlert ? 24 : 20
    ip.totalByteCount = packet.byteCount &+ ip.headerByteCount
    ip.trafficClass = header.trafficClass
    ip.hopLimit = header.hopLimit
    ip.protocolNumber = header.protocolNumber
    (ip.source, ip.destination) = (header.source, header.destination)
    ip.isUnfragmentable = header.flags.contains(.dontFragment)
    if let fragment {
      ip.fragmentOffset = fragment.offset
      ip.hasMoreFragments = fragment.hasMore
      ip.identification = fragment.identification
    } else if !ip.isUnfragmentable {
      ip.identification = identifications.next(header.source, header.destination).u16
    }
    guard ip.totalByteCount <= 65_535, let start = packet.prepend(ip.headerByteCount) else { throw .ENOBUFS }
    ip.write(to: start)
    packet.protocolNumber = EtherType.ipv4
    guard isAlert else { return }
    // Six words of header, the last the option (RFC 2113); the checksum over all of it.
    start.storeBytes(of: 0x46, as: UInt8.self)
    start.storeBytes(of: UInt32(0x9404_0000).bigEndian, toByteOffset: 20, as: UInt32.self)
    start.storeBytes(of: 0, toByteOffset: 10, as: UInt16.self)
    var checksum = InternetChecksum()
    checksum.add(UnsafeRawBufferPointer(start: start, count: 24))
    start.storeBytes(of: checksum.value.bigEndian, toByteOffset: 10, as: UInt16.self)
  }

  private func writeV6(_ packet: inout Packet, _ header: OutgoingHeader) throws(Errno) {
    var ip = IPv6Header()
    ip.trafficClass = header.trafficClass
    ip.flowLabel = header.flowLabel
    ip.hopLimit = header.hopLimit
    ip.nextHeader = header.protocolNumber
    (ip.source, ip.destination) = (header.source, header.destination)
    if header.flags.contains(.routerAlert) {
      // Hop-by-hop options: a router alert for MLD and padding (RFC 2711).
      guard let start = packet.prepend(8) else { throw .ENOBUFS }
      start.storeBytes(of: header.protocolNumber, as: UInt8.self)
      start.storeBytes(of: 0, toByteOffset: 1, as: UInt8.self)
      start.storeBytes(of: UInt32(0x0502_0000).bigEndian, toByteOffset: 2, as: UInt32.self)
      start.storeBytes(of: UInt16(0x0100).bigEndian, toByteOffset: 6, as: UInt16.self)
      ip.nextHeader = InternetProtocol.hopByHop
    }
    ip.payloadByteCount = packet.byteCount
    guard ip.payloadByteCount <= 65_535, let start = packet.prepend(IPv6Header.byteCount) else { throw .ENOBUFS }
    ip.write(to: start)
    packet.protocolNumber = EtherType.ipv6
  }

  /// Gives an IP packet to the interface of a way.
  private func output(_ packet: consuming Packet, _ route: RouteCache) throws(Errno) {
    guard let pointer = route.interface else { throw .ENETUNREACH }
    // SAFETY: interfaces live as long as the stack.
    let link = Unmanaged<NetworkInterface>.fromOpaque(pointer).takeUnretainedValue()
    if link.kind == .loopback { return link.transmit(packet) }
    guard let ethernet = link as? EthernetInterface else { throw .ENETUNREACH }
    let type = packet.protocolNumber
    if !route.flags.isEmpty {
      let destination = route.isBroadcast ? LinkAddress.broadcast : LinkAddress(group: route.destination)
      return ethernet.send(packet, to: destination, type: type)
    }
    let word = RCU.read { () -> UInt64 in
      guard let entry = route.neighbour, route.generation == generation.load(ordering: .acquiring) else { return 0 }
      return entry.pointee.word.load(ordering: .acquiring)
    }
    if word & Neighbour.isUsable != 0 {
      if word & Neighbour.tellsUse != 0 { neighbours.used(route.nextHop, on: route.interfaceIndex) }
      return ethernet.send(packet, to: LinkAddress(word), type: type)
    }
    let waited = neighbours.wait(packet, for: route.nextHop, on: route.interfaceIndex)
    let (address, isDropped) = (waited.link, waited.isDropped)
    if let packet = waited.packet { return ethernet.send(packet, to: address, type: type) }
    if isDropped { throw .ENOBUFS }
  }

  /// A packet that has waited for its neighbour's address.
  func sendWaiting(_ packet: consuming Packet, to address: LinkAddress, on link: NetworkInterface) {
    guard let ethernet = link as? EthernetInterface else { return }
    let type = packet.protocolNumber
    ethernet.send(packet, to: address, type: type)
  }

  /// A packet to a group of which this machine is a member is received here, too.
  private func loopToGroup(_ packet: borrowing Packet, _ header: OutgoingHeader, _ route: RouteCache) throws(Errno) {
    guard !header.flags.contains(.noLoop), let link = link(route), link.kind != .loopback,
      isMember(of: header.destination, on: link)
    else { return }
    guard var copy = packet.clone() else { throw .ENOBUFS }
    if header.destination.isV4 { try writeV4(&copy, header, nil) } else { try writeV6(&copy, header) }
    copy.networkOffset = 0
    copy.checksum = .verified
    copy.interfaceIndex = link.index
    // By this it is told from one that came by the wire (`process`).
    copy.destination = .outgoing
    guard let isFirst = deferred.append(copy) else { return }
    if isFirst { wake(by: environment.now() &+ UnattendedFlows.patience) }
  }
}
