// TCPTransport: TCP of one machine: segments that no connection is there for, and what connections have in common.
//
// Such a segment is, in this order: one for what is left of a connection (`TimeWaitTable`), one for a listener (a SYN, or what completes a
// handshake), or for nobody: then it is answered by a reset (RFC 9293, 3.10.7.1). All of that happens in threads that hold nothing.
import Base
import Devices
import Locks
import Platform

/// What TCP has counted, by the names of SNMP (RFC 4022) where they have one.
enum TCPCounter: Int {
  case activeOpens, passiveOpens, attemptFails, establishedResets, established
  case segmentsReceived, segmentsSent, retransmissions, errors, resetsSent, checksumErrors
  /// Listeners had no room: for a request, for a connection; cookies sent, good, wrong.
  case requestsDropped, connectionsDropped, cookiesSent, cookiesReceived, cookiesFailed
  /// What became of ends of connections.
  case timeWaits, timeWaitsDropped, orphansAborted

  static var count: Int { TCPCounter.orphansAborted.rawValue &+ 1 }
}

/// TCP.
public final class TCPTransport: Transport {
  unowned(unsafe) let stack: NetworkStack
  /// What sockets do that say nothing else.
  public let settings = TCPSettings()
  let timers: TCPTimers
  let timeWaits: TimeWaitTable
  let cookies: TCPCookies
  /// Handshakes are over by then, ns.
  private static var handshakeTime: UInt64 { 256_000_000_000 }
  private let numberKey: SipKey
  private let offsetKey: SipKey
  private let counters = CPUCounters(TCPCounter.count)
  /// Connections that no program has any more.
  let orphanCount = Atomic<Int>(0)

  init(_ stack: NetworkStack) {
    self.stack = stack
    timers = TCPTimers(stack)
    let random = { stack.environment.random() }
    timeWaits = TimeWaitTable(key: SipKey(random(), random()))
    cookies = TCPCookies(SipKey(random(), random()), SipKey(random(), random()))
    numberKey = SipKey(random(), random())
    offsetKey = SipKey(random(), random())
  }

  var ports: PortTable { stack.sockets.tcpPorts }

  @inline(__always) func count(_ counter: TCPCounter, _ number: UInt64 = 1) { counters.add(counter.rawValue, number) }

  /// How often something has happened.
  func counted(_ counter: TCPCounter) -> UInt64 { counters.sum(counter.rawValue) }

  // MARK: Numbers

  /// The first number of a connection (RFC 6528): a clock of 64 ns, and what only we know of these ends.
  func initialNumber(_ key: FlowKey, now: UInt64) -> SequenceNumber {
    SequenceNumber(key.hash(numberKey).u32 &+ (now &>> 6).u32)
  }

  /// What is added to the clock of timestamps for a pair of hosts: the same for all their connections, so that each begins later than the last
  /// one ended (RFC 7323, 7.1).
  func timestampOffset(_ key: FlowKey) -> UInt32 {
    var hosts = key
    (hosts.localPort, hosts.remotePort) = (0, 0)
    return hosts.hash(offsetKey).u32
  }

  // MARK: Segments without a connection

  public override func packetArrived(_ packet: consuming Packet, _ header: InternetHeader) {
    count(.segmentsReceived)
    guard let segment = read(&packet, header) else { return }
    let key = FlowKey(
      protocol: InternetProtocol.tcp, local: header.destination, localPort: segment.destinationPort,
      remote: header.source,
      remotePort: segment.sourcePort)
    let now = stack.environment.now()
    var reuse: TimeWaitTable.Reuse?
    switch timeWaits.segmentArrived(key, segment, now: now, lifetime: settings.timeWait) {
    case .none: break
    case .ignored: return
    case .answer(let fields, let options): return answer(fields, options, key, header)
    case .opens(let begin): reuse = begin
    }
    packet.flowHash = stack.flows.hash(key).u32
    guard let listener = listener(key, segment, packet) else { return refuse(segment, key, header) }
    if listener.segmentArrived(packet, segment, key, header, reuse, now: now) == .refused {
      refuse(segment, key, header)
    }
  }

  /// Reads and checks the header; nil: it is not to be looked at.
  private func read(_ packet: inout Packet, _ header: InternetHeader) -> TCPHeader? {
    guard packet.pull(min(packet.byteCount, TCPHeader.maximumByteCount)),
      let segment = TCPHeader(packet.head, segmentByteCount: packet.byteCount)
    else {
      count(.errors)
      return nil
    }
    guard InternetChecksum.isTransportValid(packet, header) else {
      count(.errors)
      count(.checksumErrors)
      return nil
    }
    return segment
  }

  /// Who waits for connections to an end.
  private func listener(_ key: FlowKey, _ segment: TCPHeader, _ packet: borrowing Packet) -> TCPListener? {
    for round in 0..<2 {
      var wild = FlowKey(protocol: key.protocolNumber, local: key.local, localPort: key.localPort)
      if round == 1 { wild.local = key.local.isV4 ? .any4 : .any6 }
      let (found, group) = RCU.read { () -> (Flow?, Flow?) in
        guard let flow = stack.flows.find(wild)?.takeUnretainedValue() else { return (nil, nil) }
        guard !flow.isGroup else { return (flow.select(packet), flow) }
        let bound = flow.boundInterface.load(ordering: .relaxed)
        return (bound == 0 || bound == packet.interfaceIndex ? flow : nil, nil)
      }
      guard let listener = found as? TCPListener else { continue }
      // Who belongs to the group has changed, perhaps, since the handshake began: all members are asked for a while.
      if let group = group as? PortGroup, segment.flags.contains(.acknowledge),
        Clock.now() &- group.changedAt.load(ordering: .relaxed) < Self.handshakeTime, !listener.hasRequest(key)
      {
        var other: TCPListener?
        group.forEachReceiver(packet) { flow in
          if let candidate = flow as? TCPListener, candidate.hasRequest(key) { other = candidate }
        }
        return other ?? listener
      }
      return listener
    }
    return nil
  }

  /// Answers a segment for nobody.
  private func refuse(_ segment: TCPHeader, _ key: FlowKey, _ header: InternetHeader) {
    // Another thread may have completed the handshake just now.
    guard let fields = TCPSegment.reset(answering: segment), stack.flows.findRetained(key) == nil else { return }
    count(.resetsSent)
    answer(fields, TCPOptions(), key, header)
  }

  /// Sends a segment that belongs to no connection.
  private func answer(_ fields: TCPHeaderFields, _ options: TCPOptions, _ key: FlowKey, _ header: InternetHeader) {
    guard
      let packet = TCPSegment.make(
        fields, options, pseudoHeader: TCPSegment.pseudoHeader(from: key.local, to: key.remote))
    else { return }
    count(.segmentsSent)
    var outgoing = OutgoingHeader(source: key.local, destination: key.remote, protocolNumber: InternetProtocol.tcp)
    outgoing.flags = .dontFragment
    // Who has asked by a link is told by that link.
    if !key.remote.isV4, key.remote.isLinkLocal { outgoing.interfaceIndex = header.interfaceIndex }
    var route = RouteCache()
    try? stack.send(packet, outgoing, &route)
  }

  // MARK: Time

  /// Does what is due.
  /// - Returns: when something is due next; `.max`: nothing is.
  func runTimers(now: UInt64) -> UInt64 {
    let expiry = timeWaits.expire(now: now, ports)
    return min(expiry, timers.run(now: now))
  }
}
