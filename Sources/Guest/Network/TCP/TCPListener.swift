// TCPListener: what a socket that waits for connections has besides: connections that nobody has accepted yet, and requests.
//
// A request is a SYN that has been answered and whose acknowledgement has not come: a record of some 150 bytes. Only that acknowledgement makes
// a connection. Requests are bounded; when there is no room for one, the peer is given a cookie to bring back (`TCPCookies`). Connections that wait to be
// accepted are bounded by the backlog: one too many is not made yet, and the peer's next segment tries again.
//
// All of it is guarded by the lock of the socket, under which locks of the connections made here are taken.
import Base
import Devices
import Files
import Locks
import Pages

/// A request.
struct TCPRequest: ~Copyable {
  var next: UnsafeMutablePointer<TCPRequest>?
  let key: FlowKey
  var handshake: TCPHandshake
  /// When the SYN-ACK is sent again, ns; how often that was done; and when it was sent last.
  var deadline: UInt64
  var retries = 0
  var answeredAt: UInt64
  /// Its acknowledgement has come, and data is waited for (TCP_DEFER_ACCEPT).
  var isAcknowledged = false
  let interfaceIndex: UInt32
}

/// A listener's flow.
final class TCPListener: TCPTimedFlow {
  private static var chainCount: Int { 256 }

  /// What becomes of a segment.
  enum Outcome {
    /// It has been dealt with.
    case taken
    /// It is answered by a reset.
    case refused
  }

  let socket: TCPSocket
  // Guarded by the socket's lock.
  var backlog: Int
  private var first: TCPSocket?
  private var last: TCPSocket?
  // SAFETY: records are the listener's, each in one chain, until they are taken out and freed.
  private let chains: UnsafeMutablePointer<UnsafeMutablePointer<TCPRequest>?>
  /// How many there are.
  private(set) var requestCount = 0
  private var nextDeadline = UInt64.max
  /// When a cookie was last given; 0: never.
  private var cookieAt: UInt64 = 0
  /// How many connections wait to be accepted; read without the lock.
  let waitingCount = Atomic<Int>(0)

  /// - Returns: nil: no memory.
  init?(_ socket: TCPSocket, backlog: Int) {
    guard let memory = KernelHeap.allocateZeroed(byteCount: Self.chainCount &* MemoryLayout<UInt>.stride) else {
      return nil
    }
    chains = memory.bindMemory(to: UnsafeMutablePointer<TCPRequest>?.self, capacity: Self.chainCount)
    self.socket = socket
    self.backlog = backlog
    super.init(ringCapacity: 1)
    boundInterface.store(socket.options.interfaceIndex, ordering: .relaxed)
  }

  deinit {
    removeRequests()
    KernelHeap.free(chains)
  }

  private var stack: NetworkStack { socket.stack }
  private var tcp: TCPTransport { socket.tcp }

  /// What nobody should have pushed here.
  override func drain(now: UInt64) { while let packet = ring.pop() { _ = consume packet } }

  // MARK: Connections that wait

  /// Takes the connection that came first.
  func takeConnection() -> TCPSocket? {
    guard let socket = first else { return nil }
    first = socket.nextWaiting
    if first == nil { last = nil }
    socket.nextWaiting = nil
    waitingCount.wrappingSubtract(1, ordering: .relaxed)
    return socket
  }

  private func append(_ connection: TCPSocket) {
    if let last { last.nextWaiting = connection } else { first = connection }
    last = connection
    waitingCount.wrappingAdd(1, ordering: .relaxed)
  }

  /// As Linux counts: one more than the backlog.
  private var isFull: Bool { waitingCount.load(ordering: .relaxed) > backlog }

  // MARK: Requests

  private func chain(_ key: FlowKey) -> Int { (stack.flows.hash(key) & (Self.chainCount &- 1).u64).int }

  private func find(_ key: FlowKey) -> UnsafeMutablePointer<TCPRequest>? {
    var next = chains[chain(key)]
    while let request = next, request.pointee.key != key { next = request.pointee.next }
    return next
  }

  /// Whether a handshake is under way between these ends.
  func hasRequest(_ key: FlowKey) -> Bool { socket.lock.withLock { requestCount > 0 && find(key) != nil } }

  private func remove(_ request: UnsafeMutablePointer<TCPRequest>) {
    let chain = chain(request.pointee.key)
    var before: UnsafeMutablePointer<TCPRequest>?
    var next = chains[chain]
    while let other = next, other != request { (before, next) = (other, other.pointee.next) }
    if let before { before.pointee.next = request.pointee.next } else { chains[chain] = request.pointee.next }
    request.deinitialize(count: 1)
    KernelHeap.free(request)
    requestCount &-= 1
  }

  private func removeRequests() {
    for chain in 0..<Self.chainCount {
      while let request = chains[chain] {
        chains[chain] = request.pointee.next
        request.deinitialize(count: 1)
        KernelHeap.free(request)
      }
    }
    requestCount = 0
  }

  /// Stops: requests are forgotten.
  func stop() {
    removeRequests()
    tcp.timers.remove(self)
  }

  /// Requests that there is room for.
  private var requestLimit: Int { min(max(backlog, 8), tcp.settings.requestBacklog) }

  // MARK: Segments

  /// A segment for the listener's port, for which there is no connection. Holding nothing.
  /// - Parameter reuse: it may begin a connection in place of one that has just ended.
  func segmentArrived(
    _ packet: consuming Packet, _ segment: TCPHeader, _ key: FlowKey, _ header: InternetHeader,
    _ reuse: TimeWaitTable.Reuse?,
    now: UInt64
  ) -> Outcome {
    socket.lock.lock()
    guard socket.listener === self else {
      socket.lock.unlock()
      return .refused
    }
    let waiting = waitingCount.load(ordering: .relaxed)
    let result: Outcome
    if let request = find(key) {
      result = segmentArrived(packet, segment, for: request, header, now: now)
    } else if segment.flags.contains(.reset) {
      result = .taken
    } else if segment.flags.contains(.acknowledge) {
      result = segment.flags.contains(.synchronize) ? .refused : cookieArrived(packet, segment, key, header, now: now)
    } else if segment.flags.contains(.synchronize), !segment.flags.contains(.finish) {
      synchronizeArrived(segment, key, header, reuse, now: now)
      result = .taken
    } else {
      result = .taken
    }
    let isNew = waitingCount.load(ordering: .relaxed) > waiting
    socket.lock.unlock()
    if isNew { socket.source.notify(.readable) }
    return result
  }

  private func synchronizeArrived(
    _ segment: TCPHeader, _ key: FlowKey, _ header: InternetHeader, _ reuse: TimeWaitTable.Reuse?, now: UInt64
  ) {
    // Who is not accepted anyway need not begin (Linux).
    if isFull { return tcp.count(.connectionsDropped) }
    guard let route = try? stack.route(to: key.remote, source: key.local, interface: interface(for: key, header)) else {
      return tcp.count(.requestsDropped)
    }
    let initial = reuse?.initialSend ?? tcp.initialNumber(key, now: now)
    var handshake = segment.handshake(
      initialSend: initial, timestampOffset: tcp.timestampOffset(key), capacity: socket.largestCapacity, tcp.settings)
    let isScarce = requestCount >= requestLimit || tcp.settings.cookies == 2
    if isScarce {
      guard tcp.settings.cookies > 0, reuse == nil else { return tcp.count(.requestsDropped) }
      handshake.initialSend = tcp.cookies.number(key, handshake, now: now)
      cookieAt = max(now, 1)
      tcp.count(.cookiesSent)
      return answer(key, handshake, route, isCookie: true, now: now)
    }
    guard let memory = KernelHeap.allocate(byteCount: MemoryLayout<TCPRequest>.stride, alignment: 16) else {
      return tcp.count(.requestsDropped)
    }
    if reuse != nil { tcp.timeWaits.remove(key, tcp.ports) }
    handshake.sentAt = now
    let deadline = now &+ tcp.settings.initialTimeout
    let request = memory.bindMemory(to: TCPRequest.self, capacity: 1)
    request.initialize(
      to: TCPRequest(
        next: chains[chain(key)], key: key, handshake: handshake, deadline: deadline, answeredAt: now,
        interfaceIndex: header.interfaceIndex))
    chains[chain(key)] = request
    requestCount &+= 1
    if deadline < nextDeadline {
      nextDeadline = deadline
      tcp.timers.set(self, at: deadline)
    }
    answer(key, handshake, route, isCookie: false, now: now)
  }

  private func interface(for key: FlowKey, _ header: InternetHeader) -> UInt32 {
    if socket.options.interfaceIndex != 0 { return socket.options.interfaceIndex }
    return !key.remote.isV4 && key.remote.isLinkLocal ? header.interfaceIndex : 0
  }

  /// Sends a SYN-ACK.
  private func answer(_ key: FlowKey, _ handshake: TCPHandshake, _ route: RouteCache, isCookie: Bool, now: UInt64) {
    var fields = TCPHeaderFields(from: key.localPort, to: key.remotePort)
    fields.sequence = handshake.initialSend
    fields.acknowledgement = handshake.initialReceive + 1
    fields.flags = [.synchronize, .acknowledge]
    if handshake.usesNotification { fields.flags.insert(.congestionEcho) }
    fields.window = min(socket.firstCapacity, 65_535).u16
    var options = TCPOptions()
    let path = TCPPath(route, isV6: !key.local.isV4)
    let size = max(path.mtu &- path.headerByteCount, 0)
    let limit = socket.tcpOptions.segmentSize
    options.maximumSegmentSize = min(limit > 0 ? min(size, limit) : size, 65_535).u16
    options.permitsSelective = handshake.usesSelective
    options.windowScale = handshake.receiveScale
    if handshake.usesTimestamps {
      options.hasTimestamp = true
      options.timestamp = (now / 1_000_000).u32 &+ handshake.timestampOffset
      if isCookie { options.timestamp = tcp.cookies.timestamp(options.timestamp, handshake) }
      options.timestampEcho = handshake.recentTimestamp
    }
    guard
      let packet = TCPSegment.make(
        fields, options, pseudoHeader: TCPSegment.pseudoHeader(from: key.local, to: key.remote))
    else { return }
    tcp.count(.segmentsSent)
    var way = route
    try? stack.send(packet, socket.header(from: key.local, to: key.remote), &way)
  }

  private func answerAgain(_ request: UnsafeMutablePointer<TCPRequest>, now: UInt64) {
    // The round trip cannot be told from two answers.
    request.pointee.handshake.sentAt = 0
    request.pointee.answeredAt = now
    let key = request.pointee.key
    let interface =
      !key.remote.isV4 && key.remote.isLinkLocal ? request.pointee.interfaceIndex : socket.options.interfaceIndex
    guard let route = try? stack.route(to: key.remote, source: key.local, interface: interface) else { return }
    answer(key, request.pointee.handshake, route, isCookie: false, now: now)
  }

  /// A segment for a request (RFC 9293, 3.10.7.4, in SYN-RECEIVED).
  private func segmentArrived(
    _ packet: consuming Packet, _ segment: TCPHeader, for request: UnsafeMutablePointer<TCPRequest>,
    _ header: InternetHeader,
    now: UInt64
  ) -> Outcome {
    let handshake = request.pointee.handshake
    let next = handshake.initialReceive + 1
    if segment.flags.contains(.reset) {
      // Only the very next number counts (RFC 5961, 3.2).
      if segment.sequence == next { remove(request) }
      return .taken
    }
    let isOld =
      handshake.usesTimestamps && segment.options.hasTimestamp
      && (segment.options.timestamp &- handshake.recentTimestamp).i32 < 0
    let window = min(socket.firstCapacity, 65_535)
    guard !segment.flags.contains(.synchronize), !isOld, segment.end >= next, segment.sequence <= next + window else {
      // Its SYN again, or something that is not of now: it is told where we are, not more often than twice a second.
      if now &- request.pointee.answeredAt >= 500_000_000 { answerAgain(request, now: now) }
      return .taken
    }
    guard segment.flags.contains(.acknowledge) else { return .taken }
    guard segment.acknowledgement == handshake.initialSend + 1 else { return .refused }
    if socket.deferRetries > 0, segment.dataCount == 0, !segment.flags.contains(.finish),
      request.pointee.retries < socket.deferRetries
    {
      request.pointee.isAcknowledged = true
      return .taken
    }
    if connect(packet, segment, request.pointee.key, handshake, header, now: now) { remove(request) }
    return .taken
  }

  private func cookieArrived(
    _ packet: consuming Packet, _ segment: TCPHeader, _ key: FlowKey, _ header: InternetHeader, now: UInt64
  ) -> Outcome {
    // Without a cookie given of late there is none to be brought back.
    guard cookieAt != 0, now &- cookieAt < 128_000_000_000 else { return .refused }
    let scale = TCPConnection.scale(for: socket.largestCapacity)
    guard
      let handshake = tcp.cookies.handshake(
        key, segment, receiveScale: scale, timestampOffset: tcp.timestampOffset(key), now: now, tcp.settings)
    else {
      tcp.count(.cookiesFailed)
      return .refused
    }
    tcp.count(.cookiesReceived)
    _ = connect(packet, segment, key, handshake, header, now: now)
    return .taken
  }

  // MARK: Connections

  /// The handshake is complete: makes the connection, which waits to be accepted.
  /// - Returns: false: there is no room for it now.
  private func connect(
    _ packet: consuming Packet, _ segment: TCPHeader, _ key: FlowKey, _ handshake: TCPHandshake,
    _ header: InternetHeader,
    now: UInt64
  ) -> Bool {
    guard !isFull, NetworkMemory.hasRoom else {
      tcp.count(.connectionsDropped)
      return false
    }
    let interface = interface(for: key, header)
    guard let route = try? stack.route(to: key.remote, source: key.local, interface: interface),
      let connection = TCPSocket.accepted(by: socket, key, handshake, route, interface, now: now)
    else {
      tcp.count(.connectionsDropped)
      return false
    }
    if connection.begin(packet, segment, header) {
      tcp.count(.passiveOpens)
      append(connection)
    } else {
      connection.abandon()
    }
    return true
  }

  // MARK: Time

  override func timeHasCome(now: UInt64) {
    socket.lock.lock()
    nextDeadline = .max
    for chain in 0..<Self.chainCount {
      var next = chains[chain]
      while let request = next {
        next = request.pointee.next
        if request.pointee.deadline <= now {
          timedOut(request, now: now)
        } else {
          nextDeadline = min(nextDeadline, request.pointee.deadline)
        }
      }
    }
    if socket.listener === self { tcp.timers.set(self, at: nextDeadline) }
    socket.lock.unlock()
  }

  private func timedOut(_ request: UnsafeMutablePointer<TCPRequest>, now: UInt64) {
    let most = max(tcp.settings.synAckRetries, socket.deferRetries)
    guard request.pointee.retries < most else { return remove(request) }
    request.pointee.retries &+= 1
    // Who has acknowledged it already is reminded only once it may be accepted without data.
    if !request.pointee.isAcknowledged || request.pointee.retries >= socket.deferRetries {
      answerAgain(request, now: now)
    }
    request.pointee.deadline = now &+ tcp.settings.initialTimeout &<< min(request.pointee.retries, 6).u64
    nextDeadline = min(nextDeadline, request.pointee.deadline)
  }
}
