// Opening connections: connect, listen, accept (connect(2), listen(2), accept(2)), and undoing it (connect with AF_UNSPEC).
import Base
import Devices
import Files
import Locks

extension TCPSocket {
  /// net.core.somaxconn.
  private func backlog(_ wanted: Int) -> Int {
    // A negative number is a large one.
    let most = tcp.settings.largestBacklog
    return wanted < 0 ? most : min(wanted, most)
  }

  // MARK: Actively

  func open(_ address: SocketAddress, _ flags: MessageFlags = []) throws(Errno) {
    guard address.byteCount >= 2 else { throw .EINVAL }
    if address.family == 0 { return disconnect() }
    let deadline = deadline(sendTimeout, flags)
    let phase = lock.withLock { self.phase }
    var refusal = Errno.EALREADY
    switch phase {
    case .connected, .listening: throw .EISCONN
    case .connecting: break
    case .unconnected:
      try start(address)
      refusal = .EINPROGRESS
    }
    try awaitConnection(until: deadline, refusal)
  }

  /// Waits until the handshake has ended.
  private func awaitConnection(until deadline: Deadline, _ refusal: Errno) throws(Errno) {
    while true {
      let now = begin()
      guard let flow, phase == .connecting else {
        end(flow, now: now)
        throw .ECONNABORTED
      }
      let state = flow.core.state
      if state != .synSent, state != .synReceived {
        let isOpen = flow.core.error == nil && !(state == .closed && !flow.core.hasFinished)
        let error = isOpen ? nil : errors.take() ?? .ECONNABORTED
        if isOpen { phase = .connected }
        end(flow, now: now)
        guard let error else { return }
        forget()
        throw error
      }
      let seen = changes.load(ordering: .acquiring)
      end(flow, now: now)
      if deadline == .now { throw refusal }
      switch sleep(flow, seen: seen, until: deadline) {
      case .woken: continue
      case .timedOut: throw .EINPROGRESS
      case .interrupted: throw .EINTR
      }
    }
  }

  /// Sends a SYN.
  private func start(_ address: SocketAddress) throws(Errno) {
    var target = try endpoint(address, for: .connecting)
    // Nobody is this machine.
    if target.address == .any4 {
      target.address = .loopback4
    } else if target.address == .any6 {
      target.address = .loopback6
    }
    let kind = stack.kind(of: target.address)
    guard kind != .multicast, kind != .broadcast else { throw .ENETUNREACH }
    let found = try findRoute(to: target)
    if target.scope == 0, target.address.isLinkLocal { target.scope = found.interfaceIndex }
    lock.lock()
    do throws(Errno) {
      guard phase == .unconnected, flow == nil || state == .closed, !isClosed else { throw .EISCONN }
      try start(target, found)
    } catch {
      lock.unlock()
      throw error
    }
    let flow = flow
    let now = flow?.time() ?? 0
    end(flow, now: now)
  }

  /// With the lock.
  private func start(_ target: InternetEndpoint, _ found: RouteCache) throws(Errno) {
    flow = nil
    if claim == nil { local.port = 0 }
    let before = local.address
    if local.address.isUnspecified { local.address = found.source }
    let key = FlowKey(
      protocol: Self.number, local: local.address, localPort: local.port, remote: target.address,
      remotePort: target.port)
    let path = TCPPath(found, isV6: !target.address.isV4)
    let now = stack.environment.now()
    do throws(Errno) {
      guard NetworkMemory.hasRoom else { throw .ENOBUFS }
      linkIndex = target.address.isLinkLocal && !target.address.isV4 ? target.scope : 0
      guard let flow = TCPFlow(self, key, path) else { throw .ENOBUFS }
      let reuse = try takePort(flow, key, now: now)
      (remote, route, routeDestination) = (target, found, target)
      flow.boundInterface.store(options.interfaceIndex, ordering: .relaxed)
      _ = errors.take()
      (hasEndedReceiving, hasEndedSending) = (false, false)
      phase = .connecting
      self.flow = flow
      // The core knows its port only now.
      flow.core = TCPConnection(
        tcp.settings, from: flow.key.localPort, to: target.port,
        pseudoHeader: TCPSegment.pseudoHeader(from: key.local, to: key.remote), path)
      configure(&flow.core)
      let initial = reuse?.initialSend ?? tcp.initialNumber(flow.key, now: now)
      tcp.count(.activeOpens)
      flow.core.connect(
        initialSequence: initial.rawValue, timestampOffset: tcp.timestampOffset(flow.key), now: flow.time())
    } catch {
      if !isAddressNamed { local.address = before }
      throw error
    }
  }

  /// Enters the flow, from the port that the socket is bound to or from one that is chosen (RFC 6056).
  /// - Returns: what the connection goes on from, where another one has been between the same ends.
  /// - Throws: EADDRNOTAVAIL: there is one, or was until just now, or no port is left; ENOBUFS.
  private func takePort(_ flow: TCPFlow, _ wanted: FlowKey, now: UInt64) throws(Errno) -> TimeWaitTable.Reuse? {
    var reuse: TimeWaitTable.Reuse?
    var key = wanted
    /// Whether nobody is between the ends, and none was until of late.
    func enter(_ port: UInt16, mayReuse: Bool) throws(Errno) -> Bool {
      key.localPort = port
      reuse = nil
      switch tcp.timeWaits.vacancy(key, now: now) {
      case .free: break
      case .reusable(let begin):
        guard mayReuse else { return false }
        reuse = begin
      case .busy: return false
      }
      flow.key = key
      do throws(Errno) { try flow.enter() } catch {
        if error == .EADDRINUSE { return false }
        throw .ENOBUFS
      }
      return true
    }
    if claim != nil {
      guard try enter(local.port, mayReuse: true) else { throw .EADDRNOTAVAIL }
    } else {
      let wish = wish(local.address, port: 0)
      do throws(Errno) {
        claim = try tcp.ports.connect(wish, remote: key.remote, remotePort: key.remotePort, range: portRange) {
          (port) throws(Errno) in try enter(port, mayReuse: false)
        }
      } catch {
        guard error == .EADDRNOTAVAIL else { throw error }
        claim = try tcp.ports.connect(wish, remote: key.remote, remotePort: key.remotePort, range: portRange) {
          (port) throws(Errno) in try enter(port, mayReuse: true)
        }
      }
      local.port = claim?.port ?? 0
    }
    if reuse != nil { tcp.timeWaits.remove(key, tcp.ports) }
    return reuse
  }

  /// The socket is as it was before it was connected.
  private func forget() {
    lock.lock()
    let old = flow
    flow = nil
    phase = .unconnected
    remote = nil
    (routeDestination, linkIndex) = (nil, 0)
    (hasEndedReceiving, hasEndedSending) = (false, false)
    if !isAddressNamed { local.address = isIPv6 ? .any6 : .any4 }
    if !isPortNamed { releasePort() }
    lock.unlock()
    withExtendedLifetime(old) {}
  }

  /// Undoes connecting, or listening (connect with AF_UNSPEC).
  func disconnect() {
    if lock.withLock({ listener != nil }) { return stopListening() }
    let now = begin()
    guard let flow else { return end(nil, now: now) }
    let hasPeer = flow.core.state != .closed
    flow.core.abort(now: now)
    end(flow, now: now)
    receiving.withLock { taken.removeAll() }
    forget()
    if hasPeer { errors.set(.ECONNRESET) }
  }

  // MARK: Passively

  func startListening(backlog wanted: Int) throws(Errno) {
    let limit = backlog(wanted)
    try lock.withLock { () throws(Errno) in
      if let listener {
        listener.backlog = limit
        return
      }
      guard phase == .unconnected, flow == nil || state == .closed, !isClosed else { throw .EINVAL }
      if claim == nil {
        local.port = 0
        do throws(Errno) { try bindAutomatically() } catch { throw error == .EAGAIN ? .EADDRINUSE : error }
      }
      guard var own = claim, let made = TCPListener(self, backlog: limit) else { throw .ENOBUFS }
      try tcp.ports.listen(&own)
      claim = own
      do throws(Errno) { try enter(made) } catch {
        leave(made)
        throw error
      }
      flow = nil
      listener = made
      phase = .listening
      (hasEndedReceiving, hasEndedSending) = (false, false)
    }
  }

  private func enter(_ listener: TCPListener) throws(Errno) {
    try enter(listener, local.address, into: &listenKey)
    // All of IPv6 means IPv4 too.
    if isIPv6, local.address == .any6, !options.has(.isIPv6Only) { try enter(listener, .any4, into: &secondListenKey) }
  }

  private func enter(_ listener: TCPListener, _ address: IPAddress, into place: inout FlowKey?) throws(Errno) {
    let key = FlowKey(protocol: Self.number, local: address, localPort: local.port)
    if isOn(SocketOption.reusePort) || options.interfaceIndex != 0 {
      try PortGroup.enter(key, listener, reusesPort: isOn(SocketOption.reusePort), in: stack.flows)
    } else {
      try stack.flows.insert(key, listener)
    }
    place = key
  }

  private func leave(_ listener: TCPListener) {
    if let listenKey { PortGroup.leave(listenKey, listener, in: stack.flows) }
    if let secondListenKey { PortGroup.leave(secondListenKey, listener, in: stack.flows) }
    (listenKey, secondListenKey) = (nil, nil)
  }

  /// Listens no more: who waits to be accepted is sent away.
  func stopListening() {
    lock.lock()
    guard let old = listener else { return lock.unlock() }
    leave(old)
    listener = nil
    phase = .unconnected
    old.stop()
    var waiting = old.takeConnection()
    if isPortNamed, let own = claim {
      // Bound still, but others may have it by SO_REUSEADDR again.
      claim = tcp.ports.share(own, local: own.address)
      tcp.ports.release(own)
    } else {
      releasePort()
    }
    lock.unlock()
    source.notify([.readable, .hangUp, .readHangUp, .writable])
    while let connection = waiting {
      waiting = lock.withLock { old.takeConnection() }
      connection.optionWords.linger.store(0, ordering: .relaxed)
      connection.closed()
    }
  }

  func acceptConnection(flags: OpenFlags) throws(Errno) -> Socket {
    let deadline = deadline(receiveTimeout, [])
    while true {
      let (listener, next) = lock.withLock { (self.listener, self.listener?.takeConnection()) }
      guard let listener else { throw .EINVAL }
      if let next {
        next.setFlags(flags.intersection(.nonBlocking))
        return next
      }
      if deadline == .now { throw .EAGAIN }
      let result = source.wait(until: deadline) {
        listener.waitingCount.load(ordering: .acquiring) == 0 && lock.withLock { self.listener === listener }
      }
      switch result {
      case .woken: continue
      case .timedOut: throw .EAGAIN
      case .interrupted: throw .EINTR
      }
    }
  }

  /// The socket of a connection that a listener, whose lock is held, has got; nil: no memory, or there is one between the same ends.
  static func accepted(
    by parent: TCPSocket, _ key: FlowKey, _ handshake: TCPHandshake, _ route: RouteCache, _ interface: UInt32,
    now: UInt64
  ) -> TCPSocket? {
    guard
      let socket = try? TCPSocket(family: parent.family, flags: [], stack: parent.stack, user: parent.user)
    else { return nil }
    socket.inherit(parent)
    socket.local = InternetEndpoint(key.local, port: key.localPort)
    socket.remote = InternetEndpoint(key.remote, port: key.remotePort, scope: key.remote.isLinkLocal ? interface : 0)
    socket.linkIndex = !key.remote.isV4 && key.remote.isLinkLocal ? interface : 0
    socket.route = route
    socket.phase = .connected
    guard let claim = parent.claim, let flow = TCPFlow(socket, key, TCPPath(route, isV6: !key.remote.isV4)) else {
      socket.abandon()
      return nil
    }
    flow.boundInterface.store(socket.options.interfaceIndex, ordering: .relaxed)
    flow.core.accept(handshake, now: now)
    do throws(Errno) { try flow.enter() } catch {
      socket.abandon()
      return nil
    }
    socket.claim = parent.tcp.ports.share(claim, local: key.local)
    socket.flow = flow
    return socket
  }

  private func inherit(_ parent: TCPSocket) {
    inheritOptions(of: parent)
    (tcpOptions, algorithm, isQuick) = (parent.tcpOptions, parent.algorithm, parent.isQuick)
    (receiveLimit, sendLimit) = (parent.receiveLimit, parent.sendLimit)
  }

  /// Takes the segment that completes the handshake of an accepted connection. The listener's lock is held.
  /// - Returns: false: it has ended already.
  func begin(_ packet: consuming Packet, _ segment: TCPHeader, _ header: InternetHeader) -> Bool {
    lock.lock()
    guard let flow else {
      lock.unlock()
      return false
    }
    let mark = CongestionMark(rawValue: header.trafficClass & 3) ?? .notCapable
    let now = flow.time()
    flow.core.segmentArrived(packet, segment, mark: mark, now: now)
    flow.collect(now: now)
    let isOpen = flow.core.state != .synReceived && !flow.core.state.isOver
    _ = flow.finish(now: now)
    lock.unlock()
    return isOpen
  }
}
