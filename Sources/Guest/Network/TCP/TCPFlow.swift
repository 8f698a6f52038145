// TCPFlow: a connection as the classifier and the timers know it: the ring of its segments, and the connection itself.
//
// Everything but the ring is guarded by the lock of its socket, the one lock of socket and connection. Whoever takes that lock to do something first
// takes in what lies in the ring (`collect`), and before it gives the lock back sends what is to be sent (`finish`). Packets are sent with the
// lock held: what goes to this machine itself is pushed into the other's ring, or left for later, without anybody's lock.
//
// Whoever receives wakes those who sleep in a call of the socket: they take in the segments themselves. If nobody sleeps there, a poller may come
// or may not: the flow is left to `unattended` besides, so that peers are answered although the program computes.
//
// A flow and its socket keep each other while there is a connection; when that has ended and the socket is closed, the socket lets the flow go.
import Base
import Devices
import Files
import Locks
import Platform

/// A connection's flow.
final class TCPFlow: TCPTimedFlow {
  let socket: TCPSocket
  // Guarded by the socket's lock.
  var key: FlowKey
  var core: TCPConnection
  /// It is in the table of flows.
  private(set) var isEntered = false
  /// The queue pair that its segments come and go by (`Packet.queuePair`).
  private var queuePair: UInt16 = 0
  private var isOver = false
  /// What has happened and has not been announced.
  private var pending: ReadyMask = []

  /// A connection in CLOSED; nil: no memory.
  init?(_ socket: TCPSocket, _ key: FlowKey, _ path: TCPPath) {
    self.socket = socket
    self.key = key
    core = TCPConnection(
      socket.tcp.settings, from: key.localPort, to: key.remotePort,
      pseudoHeader: TCPSegment.pseudoHeader(from: key.local, to: key.remote), path)
    super.init(ringCapacity: 256)
    socket.configure(&core)
  }

  private var stack: NetworkStack { socket.stack }
  private var tcp: TCPTransport { socket.tcp }

  /// Enters it where packets are looked for.
  /// - Throws: EADDRINUSE: there is a connection between the same ends; ENOMEM.
  func enter() throws(Errno) {
    // Between our own addresses nothing comes by a wire.
    try stack.flows.insert(key, self, isInternal: stack.kind(of: key.remote) == .local)
    isEntered = true
  }

  /// Takes it out again.
  func leave() {
    if isEntered { stack.flows.remove(key, self) }
    isEntered = false
  }

  /// The time. It never goes back for a connection, whichever CPU's clock it is and whenever its caller looked: peers take segments with older
  /// timestamps for old ones (RFC 7323, 5.2), and a round trip would be measured as ages. With the lock.
  func time() -> UInt64 {
    lastTime = max(lastTime, stack.environment.now())
    return lastTime
  }
  private var lastTime: UInt64 = 0

  // MARK: Called by the network

  override func packetsArrived(_ unattended: UnattendedFlows) {
    let isAttended = socket.sleepers.load(ordering: .sequentiallyConsistent) > 0
    socket.source.notify(.readable)
    if !isAttended || ring.isHalfFull { unattended.add(self) }
  }

  override func drain(now: UInt64) {
    socket.lock.lock()
    let now = time()
    collect(now: now)
    socket.end(self, now: now)
  }

  override func timeHasCome(now: UInt64) {
    socket.lock.lock()
    let now = time()
    collect(now: now)
    core.timerFired(now: now)
    socket.end(self, now: now, tellsPollers: true)
  }

  override func errorArrived(_ error: InternetError, _ key: FlowKey, quoted: UnsafeRawBufferPointer) {
    guard quoted.count >= 8 else { return }
    let number = UInt32(bigEndian: quoted.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
    socket.lock.lock()
    let now = time()
    collect(now: now)
    if error.kind == .packetTooBig {
      let before = core.path.mtu
      core.packetTooBig(mtu: error.mtu, quoted: number, now: now)
      // It was about what is under way: the path is known to others, too.
      if core.path.mtu < before { stack.learnPathMTU(key.remote, core.path.mtu) }
    } else {
      core.errorArrived(error.errno, isHard: error.isHard, quoted: number, now: now)
      if core.softError == error.errno, socket.errors.wants(isV4: key.local.isV4) { socket.errors.set(error.errno) }
    }
    socket.end(self, now: now, tellsPollers: true)
  }

  // MARK: With the lock

  /// Takes in the segments that have come, and notes what follows from them.
  func collect(now: UInt64) {
    if ring.isEmpty { return }
    while let packet = ring.pop() { take(packet, now: now) }
    noteEvents(now)
  }

  private func noteEvents(_ now: UInt64) {
    let events = core.takeEvents()
    if !events.isEmpty { pending.formUnion(happened(events, now: now)) }
  }

  private func take(_ packet: consuming Packet, now: UInt64) {
    let header = packet.internetHeader
    if packet.queuePair != 0 { queuePair = packet.queuePair }
    tcp.count(.segmentsReceived)
    guard InternetChecksum.isTransportValid(packet, header) else {
      tcp.count(.errors)
      return tcp.count(.checksumErrors)
    }
    let least = header.source.isV4 ? socket.options.minimumHopLimit4 : socket.options.minimumHopLimit6
    if header.hopLimit < least { return }
    let acknowledged = core.acknowledged
    core.segmentArrived(packet, mark: CongestionMark(rawValue: header.trafficClass & 3) ?? .notCapable, now: now)
    if core.acknowledged != acknowledged { stack.confirm(socket.route) }
  }

  /// Sends what is to be sent, and does what follows from what has happened.
  /// - Returns: what is to be announced once the lock is given back.
  func finish(now: UInt64) -> ReadyMask {
    core.flush(now: now)
    if !core.outgoing.isEmpty { transmit() }
    noteEvents(now)
    if !isOver { tcp.timers.set(self, at: max(core.nextDeadline, now &+ 1_000_000)) }
    socket.room.store(core.sendRoom, ordering: .relaxed)
    let result = pending
    pending = []
    return result
  }

  private func transmit() {
    if queuePair == 0 { queuePair = CPU.current.u16 &+ 1 }
    var header = socket.header(from: key.local, to: key.remote)
    let trafficClass = header.trafficClass & ~3
    header.interfaceIndex = socket.interfaceIndex(of: key)
    var route = socket.route
    let retransmissions = core.statistics.retransmissions
    while let packet = core.outgoing.removeFirst() {
      header.trafficClass = trafficClass | (packet.tag == Packet.notificationCapable ? 2 : 0)
      packet.tag = 0
      packet.queuePair = queuePair
      tcp.count(.segmentsSent)
      // What does not leave is lost like what is lost on the way.
      do throws(Errno) { try stack.send(packet, header, &route) } catch {}
    }
    if retransmissions != counted {
      tcp.count(.retransmissions, (retransmissions &- counted).u64)
      counted = retransmissions
    }
    if route.generation != socket.route.generation {
      socket.route = route
      let path = TCPPath(route, isV6: core.path.isV6)
      core.path.largestSend = path.largestSend
      if path.mtu != core.path.mtu, route.mtu > 0 { core.changePath(mtu: path.mtu) }
    }
  }
  /// Retransmissions that have been counted.
  private var counted: UInt32 = 0

  private func happened(_ events: TCPEvents, now: UInt64) -> ReadyMask {
    var result: ReadyMask = []
    if events.contains(.connected) { result.insert(.writable) }
    if events.contains(.readable) { result.insert(.readable) }
    if events.contains(.writable) || events.contains(.drained) { result.insert(.writable) }
    if events.contains(.peerFinished) { result.formUnion([.readable, .readHangUp]) }
    if events.contains(.urgent) { result.insert(.priority) }
    // Another way, if there is one.
    if events.contains(.pathInDoubt) { socket.route = RouteCache() }
    if events.contains(.failed) {
      if let error = core.error, !socket.isClosed { socket.errors.set(error) }
      result.insert(.error)
    }
    if events.contains(.ended), !isOver {
      end(now)
      result.formUnion([.readable, .writable, .readHangUp, .hangUp])
    }
    socket.changes.wrappingAdd(1, ordering: .releasing)
    return result
  }

  /// The connection is over: it is found no more, and its port is free again unless something stands in for it, or the program has named it.
  private func end(_ now: UInt64) {
    isOver = true
    let isWaiting = core.state == .timeWait && remain(now)
    if core.state == .timeWait { tcp.count(isWaiting ? .timeWaits : .timeWaitsDropped) }
    if core.error == .ECONNRESET || core.error == .EPIPE { tcp.count(.establishedResets) }
    if core.error != nil, core.statistics.bytesAcknowledged == 0, core.statistics.dataSegmentsReceived == 0 {
      tcp.count(.attemptFails)
    }
    leave()
    tcp.timers.remove(self)
    socket.connectionEnded()
  }

  /// Leaves a record that stands in for the connection; false: there is no room for one.
  private func remain(_ now: UInt64) -> Bool {
    // SAFETY: the record has a reference of its own, which goes when the record does.
    var claim: Unmanaged<PortClaim>?
    if let own = socket.claim {
      tcp.ports.retain(own)
      claim = Unmanaged.passRetained(own)
    }
    let record = TimeWaitRecord(
      key: key, sendNext: core.sendNext, receiveNext: core.receiveNext, window: core.currentWindow,
      usesTimestamps: core.usesTimestamps, timestampOffset: core.timestampOffset, recentTimestamp: core.recentTimestamp,
      recentTimestampAt: core.recentTimestampAt, isIPv6: socket.isIPv6, user: socket.user, claim: claim)
    let limit = tcp.settings.largestTimeWaitCount
    if let time = tcp.timeWaits.insert(record, until: now &+ tcp.settings.timeWait, limit: limit) {
      stack.wake(by: time)
      return true
    }
    if let claim {
      tcp.ports.release(claim.takeUnretainedValue())
      claim.release()
    }
    return false
  }
}

extension TCPPath {
  /// What a way allows: packets of its MTU, and no longer ones than IPv4's length can say; larger ones where the interface cuts them.
  init(_ route: RouteCache, isV6: Bool) {
    self.init(mtu: isV6 ? route.mtu : min(route.mtu, 65_535), isV6: isV6)
    if !route.offloads.contains(isV6 ? .tcp6 : .tcp4) { largestSend = 0 }
  }
}
