// ICMP (RFC 792, 1122, 1812) and what ICMPv6 has in common with it (RFC 4443): echo, errors about packets of ours, errors that we send.
//
// Errors are sent within a rate, never about errors, nor about what was sent to many or comes from nobody; they quote the packet as far as
// the least MTU goes. What an error quotes is believed only so far as it names a flow; whether a transport acts on it is the transport's to say.
import Base
import Devices
import Locks

/// Numbers of messages.
enum ICMP {
  static var byteCount: Int { 8 }
  static var echoReply: UInt8 { 0 }
  static var unreachable: UInt8 { 3 }
  static var echo: UInt8 { 8 }
  static var timeExceeded: UInt8 { 11 }
  static var parameterProblem: UInt8 { 12 }
  static var echo6: UInt8 { 128 }
  static var echoReply6: UInt8 { 129 }
}

extension NetworkStack {
  // MARK: IPv4

  /// An ICMP message, which begins with its header.
  func icmpArrived(_ packet: consuming Packet, _ header: InternetHeader, _ link: NetworkInterface) {
    count(.icmpReceived, isV4: true)
    guard InternetChecksum.isTransportValid(packet, header) else { return count(.icmpErrors, isV4: true) }
    let bytes = packet.head
    switch bytes[0] {
    case ICMP.echo:
      count(.icmpEchoReceived, isV4: true)
      // Not for groups (RFC 1122, 3.2.2.6 leaves that open; Linux does not answer).
      if packet.destination == .host && !header.destination.isMulticast {
        echo(packet, header, link, reply: ICMP.echoReply)
      }
    case ICMP.echoReply:
      count(.icmpEchoReplyReceived, isV4: true)
      giveEcho(packet, header, link)
    case ICMP.unreachable, ICMP.timeExceeded, ICMP.parameterProblem:
      if bytes[0] == ICMP.unreachable { count(.icmpUnreachableReceived, isV4: true) }
      let info = UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
      guard
        let error = InternetError(
          v4: bytes[0], code: bytes[1], info: info, sender: header.source, interfaceIndex: link.index)
      else { return count(.icmpErrors, isV4: true) }
      errorArrived(packet, error)
    default: return  // Redirects, timestamps and what is obsolete (RFC 6633, 6918).
    }
  }

  // MARK: Both

  /// Answers an echo request: the same bytes from where it was sent to.
  func echo(_ packet: borrowing Packet, _ header: InternetHeader, _ link: NetworkInterface, reply type: UInt8) {
    let isV4 = header.source.isV4
    guard packet.byteCount <= 65_535 &- IPv6Header.byteCount,
      var answer = Packet(headroom: Packet.headroom, capacity: packet.byteCount),
      let start = answer.extend(packet.byteCount),
      packet.copy(from: 0, into: UnsafeMutableRawBufferPointer(start: start, count: packet.byteCount))
    else { return count(.ipDiscarded, isV4: isV4) }
    start.storeBytes(of: type, as: UInt8.self)
    start.storeBytes(of: 0, toByteOffset: 1, as: UInt8.self)
    count(.icmpEchoSent, isV4: isV4)
    sendICMP(answer, from: header.destination, to: header.source, trafficClass: header.trafficClass, link)
  }

  /// Sends a message whose checksum is still to be computed. A source that is a group's is chosen anew.
  func sendICMP(
    _ packet: consuming Packet, from source: IPAddress, to destination: IPAddress, trafficClass: UInt8 = 0,
    hopLimit: UInt8 = 0, _ link: NetworkInterface
  ) {
    guard let start = packet.mutableHead.baseAddress, packet.byteCount >= 4 else { return }
    let isV4 = destination.isV4
    let number = isV4 ? InternetProtocol.icmp : InternetProtocol.icmp6
    let isLinkLocal = destination.isLinkLocal || destination.isMulticast
    do throws(Errno) {
      var way = try route(
        to: destination, source: kind(of: source) == .local ? source : nil,
        interface: isLinkLocal && link.kind != .loopback ? link.index : 0)
      var header = OutgoingHeader(source: way.source, destination: destination, protocolNumber: number)
      header.hopLimit = hopLimit
      header.trafficClass = trafficClass
      if isLinkLocal && link.kind != .loopback { header.interfaceIndex = link.index }
      start.storeBytes(of: 0, toByteOffset: 2, as: UInt16.self)
      var checksum = InternetChecksum()
      if !isV4 { checksum.addPseudoHeader(way.source, destination, protocol: number, byteCount: packet.byteCount) }
      checksum.add(packet, from: 0, count: packet.byteCount)
      start.storeBytes(of: checksum.value.bigEndian, toByteOffset: 2, as: UInt16.self)
      count(.icmpSent, isV4: isV4)
      try send(packet, header, &way)
    } catch { return }
  }

  /// An echo reply: for the ping socket of its identifier.
  func giveEcho(_ packet: consuming Packet, _ header: InternetHeader, _ link: NetworkInterface) {
    let identifier = UInt16(bigEndian: packet.head.loadUnaligned(fromByteOffset: 4, as: UInt16.self))
    let isV4 = header.source.isV4
    let number = isV4 ? InternetProtocol.icmp : InternetProtocol.icmp6
    let key = FlowKey(protocol: number, local: header.destination, localPort: identifier)
    if let flow = flowOfError(key) { give(packet, to: flow, isV4: isV4) }
  }

  /// An error about a packet of ours, of which it quotes the beginning.
  func errorArrived(_ packet: consuming Packet, _ error: InternetError) {
    let quote = packet.byteCount &- ICMP.byteCount
    guard packet.pull(min(packet.byteCount, ICMP.byteCount &+ 512)) else { return }
    let bytes = UnsafeRawBufferPointer(rebasing: packet.head[ICMP.byteCount...])
    let isV4 = error.sender.isV4
    guard let quoted = QuotedPacket(bytes, isV4: isV4, available: quote), quoted.source.isV4 == isV4 else {
      return count(.icmpErrors, isV4: isV4)
    }
    reportError(error, quoted, bytes)
  }

  /// Tells the transport of an error about a packet that was sent.
  private func reportError(_ error: InternetError, _ quoted: QuotedPacket, _ bytes: UnsafeRawBufferPointer) {
    // It was sent from here, or it is no concern of ours.
    guard kind(of: quoted.source) == .local else { return count(.icmpErrors, isV4: quoted.source.isV4) }
    let transportBytes = UnsafeRawBufferPointer(rebasing: bytes[quoted.transportOffset...])
    var key = FlowKey(
      protocol: quoted.protocolNumber, local: quoted.source, localPort: 0, remote: quoted.destination, remotePort: 0)
    if quoted.protocolNumber == InternetProtocol.icmp || quoted.protocolNumber == InternetProtocol.icmp6 {
      // An echo request of a ping socket.
      key.localPort = UInt16(bigEndian: transportBytes.loadUnaligned(fromByteOffset: 4, as: UInt16.self))
    } else {
      key.localPort = UInt16(bigEndian: transportBytes.loadUnaligned(as: UInt16.self))
      key.remotePort = UInt16(bigEndian: transportBytes.loadUnaligned(fromByteOffset: 2, as: UInt16.self))
    }
    var error = error
    if error.kind == .packetTooBig {
      // Routers older than RFC 1191 do not say what would pass: the next plateau below (section 7.1).
      if error.mtu == 0 && quoted.source.isV4 { error.mtu = Self.plateau(below: quoted.totalByteCount) }
      guard error.mtu < quoted.totalByteCount || !quoted.source.isV4 else { return }
      error.mtu = max(error.mtu, PathMTUCache.least(isV4: quoted.source.isV4))
    }
    let flow = flowOfError(key)
    // Only what a socket has sent tells anything about a path (RFC 8201, 4): others can make up messages. TCP looks closer (RFC 5927).
    if error.kind == .packetTooBig && flow != nil && quoted.protocolNumber != InternetProtocol.tcp {
      learnPathMTU(quoted.destination, error.mtu)
    }
    if let transport = transport(quoted.protocolNumber) {
      transport.errorArrived(error, key, flow, quoted: transportBytes)
    } else {
      flow?.errorArrived(error, key, quoted: transportBytes)
    }
  }

  /// The flow of a key, or of the local end alone.
  private func flowOfError(_ key: FlowKey) -> Flow? {
    if let flow = flows.findRetained(key) { return flow }
    // Listeners have nothing to do with it.
    if key.protocolNumber == InternetProtocol.tcp { return nil }
    var wild = FlowKey(protocol: key.protocolNumber, local: key.local, localPort: key.localPort)
    if let flow = flows.findRetained(wild) { return flow }
    wild.local = key.local.isV4 ? .any4 : .any6
    return flows.findRetained(wild)
  }

  private static func plateau(below byteCount: Int) -> Int {
    let plateaus: [8 of Int] = [32_000, 17_914, 8166, 4352, 2002, 1492, 1006, 508]
    for index in 0..<8 where plateaus[index] < byteCount { return plateaus[index] }
    return 508
  }

  /// IP packets of more than so many bytes do not get to a destination.
  public func learnPathMTU(_ destination: IPAddress, _ mtu: Int) {
    if pathMTUs.learn(destination, mtu: mtu, now: environment.now()) { raiseGeneration() }
  }

  /// A packet that was sent from here waits no longer for a neighbour that does not answer.
  func neighbourFailed(_ packet: consuming Packet) {
    let isV4 = packet.protocolNumber == EtherType.ipv4
    count(.ipSendDiscarded, isV4: isV4)
    guard packet.pull(min(packet.byteCount, 512)),
      let quoted = QuotedPacket(packet.head, isV4: isV4, available: packet.byteCount)
    else { return }
    let error = InternetError(
      .unreachable, .EHOSTUNREACH, isHard: false, type: isV4 ? 3 : 1, code: isV4 ? 1 : 3, sender: quoted.source,
      interfaceIndex: packet.interfaceIndex)
    reportError(error, quoted, packet.head)
  }

  // MARK: Errors that we send

  /// Tells the sender of a packet what is wrong with it, if it may be told.
  /// - Parameters:
  ///   - packet: as it was received: its network header is where `networkOffset` says, dropped or not.
  ///   - type: of ICMP or ICMPv6, as the packet is.
  ///   - evenToGroups: also if it was sent to many (RFC 4443, 2.4 e.3).
  func sendError(
    about packet: borrowing Packet, type: UInt8, code: UInt8, info: UInt32, _ link: NetworkInterface,
    evenToGroups: Bool = false
  ) {
    let header = packet.internetHeader
    let isV4 = header.source.isV4
    if header.source.isUnspecified || header.source.isMulticast
      || link.kind == .loopback && !header.source.isLoopback && kind(of: header.source) != .local
    {
      return
    }
    if !evenToGroups
      && (packet.destination != .host || header.destination.isMulticast || kind(of: header.destination) == .broadcast)
    {
      return
    }
    let start = packet.networkHeader
    let before = max(-packet.networkOffset, 0)
    if isV4 {
      // Only about the first fragment.
      let fragment = UInt16(bigEndian: start.loadUnaligned(fromByteOffset: 6, as: UInt16.self))
      if fragment & 0x1fff != 0 { return }
    }
    if isErrorMessage(packet, header) { return }
    guard errorLimit.take(now: environment.now()) else { return count(.icmpLimited, isV4: isV4) }
    // As much as fits into the least MTU: 576 (RFC 1812, 4.3.2.3), 1280 (RFC 4443, 2.4 c).
    let whole = before &+ packet.byteCount &- max(packet.networkOffset, 0)
    let quote = min(whole, isV4 ? 548 : 1232)
    guard var message = Packet(headroom: Packet.headroom, capacity: ICMP.byteCount &+ quote),
      let place = message.extend(ICMP.byteCount &+ quote)
    else { return }
    place.storeBytes(of: type, as: UInt8.self)
    place.storeBytes(of: code, toByteOffset: 1, as: UInt8.self)
    place.storeBytes(of: info.bigEndian, toByteOffset: 4, as: UInt32.self)
    let dropped = min(before, quote)
    (place + ICMP.byteCount).copyMemory(from: start, byteCount: dropped)
    let rest = UnsafeMutableRawBufferPointer(start: place + (ICMP.byteCount &+ dropped), count: quote &- dropped)
    guard packet.copy(from: max(packet.networkOffset, 0), into: rest) else { return }
    if type == (isV4 ? ICMP.unreachable : 1) { count(.icmpUnreachableSent, isV4: isV4) }
    sendICMP(message, from: header.destination, to: header.source, link)
  }

  /// Whether a packet is an error itself.
  private func isErrorMessage(_ packet: borrowing Packet, _ header: InternetHeader) -> Bool {
    // Its first byte lies in the first slice, dropped or not, if it was ever looked at.
    guard packet.transportOffset > packet.networkOffset else {
      return header.protocolNumber == InternetProtocol.icmp || header.protocolNumber == InternetProtocol.icmp6
    }
    let type = packet.transportHeader.load(as: UInt8.self)
    if header.protocolNumber == InternetProtocol.icmp && header.source.isV4 {
      return type != ICMP.echo && type != ICMP.echoReply
    }
    return header.protocolNumber == InternetProtocol.icmp6 && !header.source.isV4 && type < 128
  }
}

/// The beginning of a packet of ours, as an error quotes it. Pure.
struct QuotedPacket: BitwiseCopyable {
  var source: IPAddress
  var destination: IPAddress
  var protocolNumber: UInt8
  /// Where its transport begins; 8 bytes of that are there at least.
  var transportOffset: Int
  /// Bytes that it had.
  var totalByteCount: Int

  /// - Parameter available: bytes of the quotation, of which `bytes` are contiguous.
  init?(_ bytes: UnsafeRawBufferPointer, isV4: Bool, available: Int) {
    guard let start = bytes.baseAddress else { return nil }
    if isV4 {
      guard bytes.count >= IPv4Header.byteCount &+ 8, bytes[0] &>> 4 == 4 else { return nil }
      let headerByteCount = (bytes[0] & 15).int &* 4
      guard headerByteCount >= IPv4Header.byteCount, bytes.count >= headerByteCount &+ 8 else { return nil }
      // Only the first fragment has the transport's header.
      guard UInt16(bigEndian: start.loadUnaligned(fromByteOffset: 6, as: UInt16.self)) & 0x1fff == 0 else { return nil }
      totalByteCount = UInt16(bigEndian: start.loadUnaligned(fromByteOffset: 2, as: UInt16.self)).int
      protocolNumber = bytes[9]
      source = IPAddress(readingV4: start + 12)
      destination = IPAddress(readingV4: start + 16)
      transportOffset = headerByteCount
      return
    }
    guard bytes.count >= IPv6Header.byteCount &+ 8, let header = IPv6Header(bytes, available: .max) else { return nil }
    totalByteCount = IPv6Header.byteCount &+ header.payloadByteCount
    (source, destination) = (header.source, header.destination)
    var extensions = IPv6Extensions(bytes, first: header.nextHeader)
    if extensions.end == .fragment {
      let fragment = IPv6FragmentHeader(reading: start + extensions.offset)
      guard fragment.fragmentOffset == 0 else { return nil }
      extensions = IPv6Extensions(
        bytes, first: fragment.nextHeader, start: extensions.offset &+ IPv6FragmentHeader.byteCount,
        namedAt: extensions.offset)
    }
    guard case .transport(let number) = extensions.end, extensions.offset &+ 8 <= bytes.count else { return nil }
    protocolNumber = number
    transportOffset = extensions.offset
  }
}
