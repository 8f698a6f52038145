// DatagramSocket: what sockets of UDP, ICMP and raw IP have in common: messages that are single packets, destinations that are named with each
// message or once (connect), errors that come back by ICMP.
import Base
import Devices
import Files
import Locks
import Memory

/// A socket of single packets.
class DatagramSocket: InternetSocket {
  let receiver: DatagramReceiver
  /// shutdown has ended receiving, sending.
  private let ended = Atomic<UInt8>(0)
  /// Groups are not all taken as they come: memberships say.
  let choosesGroups = Atomic<Bool>(false)

  var hasEndedSending: Bool { ended.load(ordering: .acquiring) & 2 != 0 }
  var hasEndedReceiving: Bool { ended.load(ordering: .acquiring) & 1 != 0 }

  init(
    family: Int32, kind: SocketKind, protocolNumber: UInt8, flags: OpenFlags, stack: NetworkStack, ports: PortTable?,
    user: UInt32, source: PollSource, errors: SocketErrors, receiver: DatagramReceiver
  ) {
    self.receiver = receiver
    super.init(
      family: family, kind: kind, protocolNumber: protocolNumber, flags: flags, stack: stack, ports: ports, user: user,
      source: source, errors: errors)
  }

  // MARK: Addresses

  override func bind(_ address: SocketAddress, _ caller: SocketCaller) throws(Errno) {
    try bindEndpoint(address, caller)
  }

  override func connect(_ address: SocketAddress, _ caller: SocketCaller) throws(Errno) {
    guard address.byteCount >= 2 else { throw .EINVAL }
    if address.family == 0 { return disconnect() }
    var target = try endpoint(address, for: .connecting)
    // Nobody is this machine.
    if target.address == .any4 {
      target.address = .loopback4
    } else if target.address == .any6 {
      target.address = .loopback6
    }
    try lock.withLock { () throws(Errno) in
      if remote == nil { try bindAutomatically() }
      try checkFamily(target.address)
    }
    let found = try findRoute(to: target)
    if stack.kind(of: target.address) == .broadcast, !isOn(SocketOption.broadcast) { throw .EACCES }
    try lock.withLock { () throws(Errno) in
      leave()
      if local.address.isUnspecified || !isAddressNamed { local.address = found.source }
      if target.scope == 0, target.address.isLinkLocal { target.scope = found.interfaceIndex }
      remote = target
      route = found
      routeDestination = target
      receiver.isConnected.store(true, ordering: .relaxed)
      try enter()
    }
  }

  /// An address that the socket is bound to must be of the other end's family. With the lock.
  private func checkFamily(_ address: IPAddress) throws(Errno) {
    guard isIPv6, isAddressNamed, local.address.isV4 != address.isV4 else { return }
    throw address.isV4 ? .ENETUNREACH : .EINVAL
  }

  /// Undoes `connect`.
  private func disconnect() {
    lock.withLock {
      guard remote != nil else { return }
      leave()
      remote = nil
      routeDestination = nil
      receiver.isConnected.store(false, ordering: .relaxed)
      if !isAddressNamed { local.address = isIPv6 ? .any6 : .any4 }
      if isPortNamed || claim == nil {
        try? enter()
      } else {
        releasePort()
      }
    }
  }

  override func hasBound() throws(Errno) { try enter() }

  /// Enters the receiver where packets for it are looked for. With the lock.
  func enter() throws(Errno) {}
  /// Takes it out. With the lock.
  func leave() {}

  override func interfaceChanged() {
    receiver.boundInterface.store(options.interfaceIndex, ordering: .relaxed)
  }

  override func groupsChanged() {
    let chooses = lock.withLock {
      memberships.hasSources || !options.has(.takesAllGroups4) || !options.has(.takesAllGroups6)
    }
    choosesGroups.store(chooses, ordering: .relaxed)
  }

  // MARK: Receiving

  override func receive(_ transfer: inout Transfer, _ flags: MessageFlags) throws(Errno) -> IncomingMessage {
    if flags.contains(.outOfBand) { throw .EOPNOTSUPP }
    if flags.contains(.errorQueue) { return try receiveError(&transfer, flags) }
    let deadline = deadline(receiveTimeout, flags)
    let isPeek = flags.contains(.peek)
    while true {
      try errors.check()
      if let packet = nextPacket(isPeek: isPeek) {
        guard isWanted(packet) else {
          if isPeek { _ = receiver.next(keeps: false) }
          continue
        }
        let size = packet.byteCount
        let before = transfer.copied
        let message = try give(packet, &transfer, flags)
        if hasPeekOffset { gave(isPeek ? transfer.copied &- before : size, isPeek: isPeek) }
        return message
      }
      if hasEndedReceiving { return IncomingMessage() }
      if deadline == .now { throw .EAGAIN }
      let result = source.wait(until: deadline) { receiver.isEmpty && !errors.isThere && !hasEndedReceiving }
      if result == .interrupted { throw .EINTR }
      if result == .timedOut { throw .EAGAIN }
    }
  }

  private func nextPacket(isPeek: Bool) -> Packet? {
    let offset = isPeek && hasPeekOffset ? peekOffset : 0
    return offset > 0 ? receiver.peek(at: offset) : receiver.next(keeps: isPeek)
  }

  /// Whether a packet to a group is for this socket.
  private func isWanted(_ packet: borrowing Packet) -> Bool {
    guard choosesGroups.load(ordering: .relaxed) else { return true }
    let header = packet.internetHeader
    guard header.destination.isMulticast else { return true }
    return lock.withLock {
      memberships.accepts(
        header.destination, header.interfaceIndex, from: header.source,
        takesAll: options.has(header.destination.isV4 ? .takesAllGroups4 : .takesAllGroups6))
    }
  }

  /// Gives the program a packet.
  func give(_ packet: consuming Packet, _ transfer: inout Transfer, _ flags: MessageFlags) throws(Errno)
    -> IncomingMessage
  {
    var result = IncomingMessage()
    describe(packet, &result)
    let size = packet.byteCount
    let copied = try transfer.copyOut(packet)
    result.count = flags.contains(.truncated) ? size : copied
    if copied < size { result.flags.insert(.truncated) }
    return result
  }

  /// Who has sent a packet, and what the program wants to know of it.
  func describe(_ packet: borrowing Packet, _ result: inout IncomingMessage) {
    let header = packet.internetHeader
    var sender = InternetEndpoint(header.source, port: packet.sourcePort)
    if header.source.isLinkLocal { sender.scope = header.interfaceIndex }
    result.address = socketAddress(sender)
    describe(header, destinationPort: packet.destinationPort, packet.receivedAt, &result.control)
  }

  private func receiveError(_ transfer: inout Transfer, _ flags: MessageFlags) throws(Errno) -> IncomingMessage {
    try errors.takeReport { (report, bytes) throws(Errno) in
      var result = IncomingMessage()
      result.count = try transfer.copyOut(from: bytes)
      result.flags = .errorQueue
      if result.count < bytes.count { result.flags.insert(.truncated) }
      result.address = socketAddress(report.destination)
      result.control.parts = report.isV4 ? .error4 : .error6
      result.control.error = report.error
      result.control.offender = report.offender
      return result
    }
  }

  // MARK: Ends and readiness

  override func shutdown(receiving: Bool, sending: Bool) throws(Errno) {
    ended.bitwiseOr((receiving ? 1 : 0) | (sending ? 2 : 0), ordering: .acquiringAndReleasing)
    source.notify([.readable, .writable, .readHangUp, .hangUp])
    // It is done all the same.
    guard lock.withLock({ remote != nil }) else { throw .ENOTCONN }
  }

  override func closed() {
    lock.withLock {
      leave()
      remote = nil
      releasePort()
    }
    leaveGroups()
    receiver.removeAll()
    source.notify([.readable, .writable, .hangUp, .error])
    super.closed()
  }

  override var readyMask: ReadyMask {
    var result: ReadyMask = .writable
    if errors.isThere { result.insert(.error) }
    let ended = ended.load(ordering: .acquiring)
    if ended & 1 != 0 { result.formUnion([.readable, .readHangUp]) }
    if ended == 3 { result.insert(.hangUp) }
    if receiver.nextByteCount != nil { result.insert(.readable) }
    return result
  }

  override func setReceiveBuffer(_ byteCount: Int32) {
    super.setReceiveBuffer(byteCount)
    receiver.limit.store(byteCount.int, ordering: .relaxed)
  }

  override func control(_ request: UInt32, _ argument: UInt64) throws(Errno) -> Int {
    switch request {
    case ControlRequest.readableByteCount:
      try UserSpan.write((receiver.nextByteCount ?? 0).i32, at: VirtualAddress(argument))
    case SocketControl.sendQueueByteCount: try UserSpan.write(0 as Int32, at: VirtualAddress(argument))
    default: return try super.control(request, argument)
    }
    return 0
  }

  // MARK: Options

  override func setOption(_ level: Int32, _ name: Int32, _ value: OptionValue, _ caller: SocketCaller) throws(Errno) {
    switch (level, name) {
    case (OptionLevel.socket, SocketOption.attachFilter): receiver.setFilter(try PacketFilter(program: value))
    case (OptionLevel.socket, SocketOption.detachFilter): receiver.setFilter(nil)
    default: try setInternetOption(level, name, value, caller)
    }
  }

  override var status: InternetSocketStatus {
    var result = super.status
    result.receiveQueueByteCount = receiver.queuedByteCount
    result.droppedCount =
      receiver.refusedCount.load(ordering: .relaxed) &+ receiver.droppedCount.load(ordering: .relaxed)
    return result
  }
}

extension Packet {
  /// The port that a packet of a receiver came from, from its tag.
  var sourcePort: UInt16 { (tag &>> 16).u16 }
  /// The port that it went to.
  var destinationPort: UInt16 { tag.u16 }

  /// Keeps its ports.
  nonmutating func keepPorts(source: UInt16, destination: UInt16) {
    tag = tag & ~0xffff_ffff | source.u64 &<< 16 | destination.u64
  }
}
