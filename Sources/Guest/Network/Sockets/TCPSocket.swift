// TCPSocket: the Transmission Control Protocol (RFC 9293) as programs see it (tcp(7)).
//
// A socket has nothing, a connection (`TCPFlow`), or those who wait to be accepted (`TCPListener`). `lock` is the one lock of socket and connection;
// calls begin by taking in the segments that have come and end by sending what is to be sent (`begin`, `end`). Program memory is
// copied without it; readers alone keep apart by `receiving`, which comes before it. Of two sockets' locks a listener's comes first.
//
// A connection outlives its socket's descriptors until it has ended in order: the socket is an orphan then, kept by its flow.
//
// Here: what it is made of, names, readiness. Opening, data, ends and options have files of their own.
import Base
import Devices
import Files
import Locks
import Memory

/// A TCP socket.
final class TCPSocket: InternetSocket {
  /// IP's number of TCP.
  static let number: UInt8 = 6

  /// Where the program is with it (Linux's `socket.state`, not the connection's).
  enum Phase: UInt8 {
    case unconnected
    case connecting
    case connected
    case listening
  }

  let tcp: TCPTransport
  /// Threads that sleep in a call, and take in themselves what comes.
  let sleepers = Atomic<Int>(0)
  /// Counts what happens to the connection: who sleeps looks whether it has changed.
  let changes = Atomic<UInt32>(0)
  /// Room for what is sent, as it was last known.
  let room = Atomic<Int>(0)
  /// Keeps readers apart.
  let receiving = Mutex()
  /// Data that has been taken from the connection and not been read. Guarded by `receiving`.
  var taken = PacketList()

  // MARK: Guarded by `lock`

  var phase = Phase.unconnected
  var flow: TCPFlow?
  var listener: TCPListener?
  /// shutdown has ended receiving, sending.
  var (hasEndedReceiving, hasEndedSending) = (false, false)
  /// The last descriptor is gone; a connection that there is still is an orphan.
  var isClosed = false
  /// Options of the connection, there or to come.
  var tcpOptions = TCPOptionsOfSocket()
  /// TCP_CONGESTION; nil: as the settings have it.
  var algorithm: CongestionAlgorithm?
  /// Bytes of SO_RCVBUF and SO_SNDBUF, if they have been set.
  var receiveLimit = 0
  var sendLimit = 0
  /// TCP_DEFER_ACCEPT, in SYN-ACKs.
  var deferRetries = 0
  /// A quick one is wanted (TCP_QUICKACK).
  var isQuick = true
  /// The keys that the listener is entered under.
  var (listenKey, secondListenKey): (FlowKey?, FlowKey?)
  /// The interface of a connection to a link-local address; 0: any.
  var linkIndex: UInt32 = 0
  /// The next one that waits to be accepted; guarded by the listener's lock.
  var nextWaiting: TCPSocket?

  /// An unbound socket.
  init(family: Int32, flags: OpenFlags, stack: NetworkStack, user: UInt32) throws(Errno) {
    tcp = stack.transmission
    super.init(
      family: family, kind: .stream, protocolNumber: Self.number, flags: flags, stack: stack,
      ports: stack.sockets.tcpPorts, user: user)
    receiveBufferByteCount.store(tcp.settings.receiveBuffer.first.i32, ordering: .relaxed)
  }

  // MARK: Calls

  /// Takes the lock, and in what has come.
  /// - Returns: the time.
  func begin() -> UInt64 {
    lock.lock()
    guard let flow else { return stack.environment.now() }
    let now = flow.time()
    flow.collect(now: now)
    return now
  }

  /// Sends what is to be sent, gives the lock back, and tells of what has happened.
  /// - Parameter tellsPollers: it may be more than what follows from segments that have come. Of those pollers were told when they came, and they
  ///   take them in when they look; told again, who waits for edges would see two.
  func end(_ flow: TCPFlow?, now: UInt64, tellsPollers: Bool = false) {
    let events = flow?.finish(now: now) ?? []
    var last: TCPFlow?
    if isClosed, let own = self.flow, own.core.state.isOver {
      last = own
      self.flow = nil
      releasePort()
      tcp.orphanCount.wrappingSubtract(1, ordering: .relaxed)
    }
    lock.unlock()
    if !events.isEmpty {
      if tellsPollers { source.notify(events) } else { source.wakeSleepers() }
    }
    if last != nil { stack.sockets.remove(self) }
    stack.runDeferred()
    withExtendedLifetime(last) {}
  }

  /// Sleeps until something has happened since `seen`, or segments have come. Holding nothing; afterwards the caller takes in what has come.
  func sleep(_ flow: TCPFlow, seen: UInt32, until deadline: Deadline) -> WaitResult {
    sleepers.wrappingAdd(1, ordering: .sequentiallyConsistent)
    let result = source.wait(until: deadline) {
      changes.load(ordering: .acquiring) == seen && flow.ring.isEmpty
    }
    sleepers.wrappingSubtract(1, ordering: .sequentiallyConsistent)
    // What came behind the last look was left to us, and the caller may have given up.
    if result != .woken, !flow.ring.isEmpty { stack.unattended.add(flow) }
    return result
  }

  // MARK: With the lock

  /// Gives a connection what the socket's options say.
  func configure(_ core: inout TCPConnection) {
    core.options = tcpOptions
    core.options.isKeptAlive = isOn(SocketOption.keepAlive)
    core.options.takesUrgentInline = isOn(SocketOption.outOfBandInline)
    core.options.receiveLowMark = optionWords.receiveLowMark.load(ordering: .relaxed).int
    if sendLimit > 0 { core.sendLimit = sendLimit }
    core.receiveCapacity = firstCapacity
    if let algorithm { core.congestion.change(to: algorithm) }
  }

  /// The receive window to begin with, bytes.
  var firstCapacity: Int { receiveLimit > 0 ? receiveLimit / 2 : tcp.settings.receiveBuffer.first / 2 }

  /// The largest receive window that there may ever be.
  var largestCapacity: Int {
    receiveLimit > 0 ? receiveLimit / 2 : max(tcp.settings.receiveBuffer.most / 2, firstCapacity)
  }

  /// The interface that segments have to leave by; 0: any.
  func interfaceIndex(of key: FlowKey) -> UInt32 { options.interfaceIndex != 0 ? options.interfaceIndex : linkIndex }

  /// The connection's state.
  var state: TCPState {
    if listener != nil { return .listen }
    guard let flow else { return .closed }
    return flow.core.state == .timeWait ? .closed : flow.core.state
  }

  /// The connection is over: its port goes unless the program has named it.
  func connectionEnded() {
    hasEndedReceiving = true
    hasEndedSending = true
    guard let claim, isClosed || !isPortNamed else { return }
    tcp.ports.release(claim)
    self.claim = nil
  }

  // MARK: Names

  override func bind(_ address: SocketAddress, _ caller: SocketCaller) throws(Errno) {
    try lock.withLock { () throws(Errno) in guard phase == .unconnected, flow == nil else { throw .EINVAL } }
    try bindEndpoint(address, caller)
  }

  override func peerAddress() throws(Errno) -> SocketAddress {
    let now = begin()
    let (state, remote) = (state, self.remote)
    end(flow, now: now)
    guard let remote, state != .closed, state != .synSent, state != .listen else { throw .ENOTCONN }
    return socketAddress(remote)
  }

  override var acceptedAddress: SocketAddress {
    guard let remote = lock.withLock({ self.remote }) else { return SocketAddress([1, 0]) }
    return socketAddress(remote)
  }

  // MARK: Operations

  override func connect(_ address: SocketAddress, _ caller: SocketCaller) throws(Errno) { try open(address) }
  override func listen(backlog: Int, _ caller: SocketCaller) throws(Errno) { try startListening(backlog: backlog) }
  override func accept(flags: OpenFlags) throws(Errno) -> Socket { try acceptConnection(flags: flags) }
  override func send(_ transfer: inout Transfer, _ message: OutgoingMessage, _ caller: SocketCaller?) throws(Errno)
    -> Int
  {
    try sendStream(&transfer, message, caller)
  }
  override func receive(_ transfer: inout Transfer, _ flags: MessageFlags) throws(Errno) -> IncomingMessage {
    try receiveStream(&transfer, flags)
  }
  override func shutdown(receiving: Bool, sending: Bool) throws(Errno) {
    try endDirections(receiving: receiving, sending: sending)
  }
  override func closed() {
    close()
    // An orphan stays in the list of sockets.
    if lock.withLock({ flow == nil }) { super.closed() }
  }

  override func takeError() -> Errno? {
    let now = begin()
    let error = errors.take()
    end(flow, now: now)
    return error
  }

  // MARK: Options

  override func setOption(_ level: Int32, _ name: Int32, _ value: OptionValue, _ caller: SocketCaller) throws(Errno) {
    guard level == OptionLevel.transmission else { return try super.setOption(level, name, value, caller) }
    try setTransmissionOption(name, value, caller)
  }
  override func getOption(_ level: Int32, _ name: Int32, _ result: inout OptionResult) throws(Errno) {
    guard level == OptionLevel.transmission else { return try super.getOption(level, name, &result) }
    try getTransmissionOption(name, &result)
  }
  override func optionChanged(_ level: Int32, _ name: Int32) { followOption(level, name) }
  override func interfaceChanged() {
    flow?.boundInterface.store(options.interfaceIndex, ordering: .relaxed)
    listener?.boundInterface.store(options.interfaceIndex, ordering: .relaxed)
  }
  override var sendBufferByteCount: Int {
    lock.withLock { sendLimit > 0 ? sendLimit : flow?.core.sendLimit ?? tcp.settings.sendBuffer.first }
  }
  override func setSendBuffer(_ byteCount: Int32) { limitSending(byteCount.int) }
  override func setReceiveBuffer(_ byteCount: Int32) {
    super.setReceiveBuffer(byteCount)
    limitReceiving(byteCount.int)
  }
  override func control(_ request: UInt32, _ argument: UInt64) throws(Errno) -> Int {
    guard let answer = try answer(request) else { return try super.control(request, argument) }
    try UserSpan.write(answer, at: VirtualAddress(argument))
    return 0
  }

  override var isListening: Bool { lock.withLock { listener != nil } }

  // MARK: Readiness

  override var readyMask: ReadyMask {
    let now = begin()
    let result = currentMask
    end(flow, now: now)
    return result
  }

  private var currentMask: ReadyMask {
    if let listener { return listener.waitingCount.load(ordering: .relaxed) > 0 ? .readable : [] }
    var result: ReadyMask = []
    if errors.isThere { result.insert(.error) }
    let state = state
    if hasEndedReceiving && hasEndedSending || state == .closed { result.insert(.hangUp) }
    guard let flow else {
      result.insert(.writable)
      if hasEndedReceiving { result.formUnion([.readable, .readHangUp]) }
      return result
    }
    if hasEndedReceiving || flow.core.hasFinished { result.formUnion([.readable, .readHangUp]) }
    if flow.core.hasFinished, hasEndedSending { result.insert(.hangUp) }
    if state == .synSent || state == .synReceived { return result }
    if flow.core.isReadable { result.insert(.readable) }
    if hasEndedSending || flow.core.isWritable { result.insert(.writable) } else { flow.core.isOutOfRoom = true }
    if flow.core.urgentState == .present { result.insert(.priority) }
    return result
  }

  override var status: InternetSocketStatus {
    let now = begin()
    var result = InternetSocketStatus(
      isIPv6: isIPv6, local: local, remote: remote, state: .init(rawValue: state.rawValue) ?? .closed,
      inode: isClosed ? 0 : vnode.inode, user: user)
    if let listener {
      result.remote = nil
      result.receiveQueueByteCount = listener.waitingCount.load(ordering: .relaxed)
      result.sendQueueByteCount = listener.backlog
    } else if let flow {
      result.receiveQueueByteCount = flow.core.unconsumed
      result.sendQueueByteCount = flow.core.sendQueue.byteCount
      result.retransmissionCount = flow.core.timeoutCount.u32
      describeTimer(flow, &result, now: now)
    }
    end(flow, now: now)
    return result
  }

  private func describeTimer(_ flow: TCPFlow, _ result: inout InternetSocketStatus, now: UInt64) {
    let core = (
      flow.core.retransmissionDeadline, flow.core.persistDeadline,
      min(flow.core.keepaliveDeadline, flow.core.finishDeadline)
    )
    let deadline: UInt64
    if core.0 != .max {
      (result.timer, deadline) = (1, core.0)
    } else if core.1 != .max {
      (result.timer, deadline) = (4, core.1)
    } else if core.2 != .max {
      (result.timer, deadline) = (2, core.2)
    } else {
      return
    }
    result.timerLeft = deadline > now ? deadline &- now : 0
  }
}

extension TCPState {
  /// Nothing more is sent or taken.
  var isOver: Bool { self == .closed || self == .timeWait }
}
