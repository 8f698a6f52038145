// The classifier: which flow a received packet is for. Without a lock, with preemption off, and without a word to anybody: what needs more
// than looking is left to the slow path (`NetworkStack.process`), packet and all.
//
// A packet begins with IP's header and is given to a flow without it; what IP's header says can still be read (`Packet.internetHeader`).
import Base
import Devices
import Locks

/// What the classifier found.
enum Classified {
  /// The flow that it is for; there until the reader's section ends.
  case flow(Unmanaged<Flow>)
  /// Somebody must look closer.
  case slow
  /// It is for nobody; it has been counted.
  case dropped
}

extension NetworkStack {
  /// Finds the flow that a packet is for, and drops IP's header if there is one. As a reader under RCU.
  @inline(__always) func classify(_ packet: inout Packet, _ link: NetworkInterface) -> Classified {
    if packet.protocolNumber == EtherType.ipv4 { return classifyV4(&packet, link) }
    if packet.protocolNumber == EtherType.ipv6 { return classifyV6(&packet, link) }
    return packet.destination == .other ? .dropped : .slow
  }

  private func classifyV4(_ packet: inout Packet, _ link: NetworkInterface) -> Classified {
    count(.ipReceived, isV4: true)
    guard packet.pull(min(packet.byteCount, IPv4Header.byteCount &+ 20)),
      let header = IPv4Header(packet.head, available: packet.byteCount)
    else {
      // Options may reach beyond what was pulled.
      return packet.destination == .other ? .dropped : .slow
    }
    if packet.destination == .other { return .dropped }
    guard !header.isFragment, !header.hasOptions, packet.destination == .host,
      header.protocolNumber == InternetProtocol.tcp || header.protocolNumber == InternetProtocol.udp,
      !header.destination.isMulticast, !isRaw(header.protocolNumber)
    else { return .slow }
    return find(
      &packet, link, header.protocolNumber, header.source, header.destination, start: IPv4Header.byteCount,
      end: header.totalByteCount)
  }

  private func classifyV6(_ packet: inout Packet, _ link: NetworkInterface) -> Classified {
    count(.ipReceived, isV4: false)
    guard packet.pull(min(packet.byteCount, IPv6Header.byteCount &+ 20)),
      let header = IPv6Header(packet.head, available: packet.byteCount)
    else { return packet.destination == .other ? .dropped : .slow }
    if packet.destination == .other { return .dropped }
    guard packet.destination == .host, link.carriesIPv6,
      header.nextHeader == InternetProtocol.tcp || header.nextHeader == InternetProtocol.udp,
      !header.destination.isMulticast, !isRaw(header.nextHeader)
    else { return .slow }
    return find(
      &packet, link, header.nextHeader, header.source, header.destination, start: IPv6Header.byteCount,
      end: IPv6Header.byteCount &+ header.payloadByteCount)
  }

  /// The flow of a whole packet of TCP or UDP, whose transport lies from `start` to `end`.
  @inline(__always) private func find(
    _ packet: inout Packet, _ link: NetworkInterface, _ number: UInt8, _ source: IPAddress, _ destination: IPAddress,
    start: Int, end: Int
  ) -> Classified {
    // Both have 8 bytes, with the ports first.
    guard end &- start >= 8, packet.head.count >= start &+ 8, let head = packet.head.baseAddress else { return .slow }
    let isLoopback = link.kind == .loopback
    // What names this machine never comes by a wire (RFC 1122, 3.2.1.3; RFC 4291, 2.5.3).
    if !isLoopback && (source.isLoopback || destination.isLoopback) { return .slow }
    let ports = UInt32(bigEndian: head.loadUnaligned(fromByteOffset: start, as: UInt32.self))
    let key = FlowKey(
      protocol: number, local: destination, localPort: ports.u16, remote: source, remotePort: (ports &>> 16).u16)
    let hash = flows.hash(key)
    let found = flows.find(key, hash: hash) ?? (number == InternetProtocol.udp ? findBound(key, link) : nil)
    // Between our own addresses nothing comes by a wire either.
    guard let found, !found.isInternal || isLoopback else { return .slow }
    packet.transportOffset = start
    packet.flowHash = hash.u32
    let chosen = choose(found.flow, packet, link)
    guard let chosen else { return .slow }
    if packet.byteCount > end { packet.dropLast(packet.byteCount &- end) }
    packet.dropFirst(start)
    count(.ipDelivered, isV4: destination.isV4)
    count(.fastPath, isV4: destination.isV4)
    return .flow(chosen)
  }

  /// The flow of a key, or for UDP that which takes from everybody. As a reader under RCU.
  func findAny(_ key: FlowKey, _ link: NetworkInterface) -> FlowTable.Found? {
    flows.find(key, hash: flows.hash(key)) ?? (key.protocolNumber == InternetProtocol.udp ? findBound(key, link) : nil)
  }

  /// A UDP socket that takes from everybody; only if the source is one that may send: what is ours does not come by a wire.
  private func findBound(_ key: FlowKey, _ link: NetworkInterface) -> FlowTable.Found? {
    let source = kind(of: key.remote)
    guard !key.local.isUnspecified, source == .other || source == .local && link.kind == .loopback else { return nil }
    var wild = FlowKey(protocol: key.protocolNumber, local: key.local, localPort: key.localPort)
    if let found = flows.find(wild, hash: flows.hash(wild)) { return found }
    guard kind(of: key.local) == .local else { return nil }
    wild.local = key.local.isV4 ? .any4 : .any6
    return flows.find(wild, hash: flows.hash(wild))
  }

  @inline(__always) private func choose(
    _ flow: Unmanaged<Flow>, _ packet: borrowing Packet, _ link: NetworkInterface
  ) -> Unmanaged<Flow>? {
    flow._withUnsafeGuaranteedRef { flow -> Unmanaged<Flow>? in
      let bound = flow.boundInterface.load(ordering: .relaxed)
      if bound != 0 && bound != link.index { return nil }
      if !flow.isGroup { return Unmanaged.passUnretained(flow) }
      return flow.select(packet).map { Unmanaged.passUnretained($0) }
    }
  }

  /// Gives a packet to a flow, which is there; the caller tells the flow. As a reader under RCU.
  @inline(__always) func push(_ packet: consuming Packet, to flow: Unmanaged<Flow>, isV4: Bool) {
    // SAFETY: the table keeps the flow until the reader's section ends.
    if !flow.takeUnretainedValue().push(packet) { count(.ringFull, isV4: isV4) }
  }

  /// A packet by loopback: given to its flow at once, or left for later. The sender may hold a connection's lock.
  func deliverLocally(_ packet: consuming Packet, _ link: NetworkInterface) {
    packet.destination = .host
    let number = packet.head.first.map { $0 &>> 4 } ?? 0
    packet.protocolNumber = number == 4 ? EtherType.ipv4 : EtherType.ipv6
    let word = packet.leak()
    let isDone = RCU.read { () -> Bool in
      var packet = Packet(adopting: word)
      switch classify(&packet, link) {
      case .flow(let flow):
        push(packet, to: flow, isV4: number == 4)
        flow._withUnsafeGuaranteedRef { $0.packetsArrived(unattended) }
        return true
      case .dropped: return true
      case .slow:
        _ = packet.leak()
        return false
      }
    }
    if !isDone { deferSlowly(Packet(adopting: word), link) }
  }

  /// Leaves a packet for the slow path to somebody who holds nothing.
  private func deferSlowly(_ packet: consuming Packet, _ link: NetworkInterface) {
    guard let isFirst = deferred.append(packet) else { return link.count(.receivedDropped) }
    // Mostly the sender itself comes round (`runDeferred`); if it forgets, the thread does.
    if isFirst { wake(by: environment.now() &+ UnattendedFlows.patience) }
  }
}
