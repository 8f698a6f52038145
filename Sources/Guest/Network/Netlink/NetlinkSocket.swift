// NetlinkSocket: AF_NETLINK (netlink(7)): programs ask the kernel about the network, and are told of its changes.
//
// A request is answered while it is sent: the answer lies in the socket's queue, datagram by datagram, when the call returns. The lock guards
// the queue; nothing is taken under it.
import Base
import Files
import Locks
import Memory

/// A netlink socket.
final class NetlinkSocket: Socket {
  /// Who answers; the numbers are NETLINK_*.
  enum Service: Int32 {
    case route = 0
    case diagnosis = 4
    /// Devices that come and go. None does.
    case deviceEvents = 15
    /// Families by name. There is none.
    case generic = 16
  }

  static let number: UInt16 = 16
  private static let lastPort = Atomic<UInt32>(0x8000_0000)

  private let service: Service
  private let stack: NetworkStack
  private let lock = Mutex()
  // Guarded by `lock`.
  private var port: UInt32 = 0
  private var peer: UInt32 = 0
  private var groups: UInt32 = 0
  private var queue: [[UInt8]] = []
  private var queuedByteCount = 0
  private let errors: SocketErrors

  init(_ service: Service, kind: SocketKind, flags: OpenFlags, stack: NetworkStack) {
    self.service = service
    self.stack = stack
    let source = PollSource()
    errors = SocketErrors(source)
    super.init(family: Self.number.i32, kind: kind, flags: flags, source: source)
  }

  override var protocolOption: Int32 { service.rawValue }
  override func takeError() -> Errno? { errors.take() }

  // MARK: Addresses

  /// struct sockaddr_nl.
  private static func parse(_ address: SocketAddress) throws(Errno) -> (port: UInt32, groups: UInt32) {
    guard address.byteCount >= 12, address.family == number else { throw .EINVAL }
    return (address.load(4, as: UInt32.self), address.load(8, as: UInt32.self))
  }

  private static func name(port: UInt32, groups: UInt32) -> SocketAddress {
    let words: [3 of UInt32] = [number.u32, port, groups]
    return withUnsafeBytes(of: words) { SocketAddress(short: $0) }
  }

  /// Gets a number: the one that is wanted, or else one of its own. With the lock.
  private func named(_ wanted: UInt32) {
    if port != 0 { return }
    port = wanted != 0 ? wanted : Self.lastPort.wrappingAdd(1, ordering: .relaxed).newValue
  }

  override func bind(_ address: SocketAddress, _ caller: SocketCaller) throws(Errno) {
    let (wanted, groups) = try Self.parse(address)
    try lock.withLock { () throws(Errno) in
      guard port == 0 || wanted == 0 || wanted == port else { throw .EINVAL }
      named(wanted)
      self.groups = groups
    }
  }

  override func connect(_ address: SocketAddress, _ caller: SocketCaller) throws(Errno) {
    guard address.byteCount >= 2 else { throw .EINVAL }
    if address.family == 0 { return lock.withLock { peer = 0 } }
    let (wanted, _) = try Self.parse(address)
    lock.withLock {
      named(0)
      peer = wanted
    }
  }

  override func address() throws(Errno) -> SocketAddress {
    lock.withLock { Self.name(port: port, groups: groups) }
  }

  override func peerAddress() throws(Errno) -> SocketAddress {
    lock.withLock { Self.name(port: peer, groups: 0) }
  }

  // MARK: Requests

  override func send(_ transfer: inout Transfer, _ message: OutgoingMessage, _ caller: SocketCaller?) throws(Errno)
    -> Int
  {
    if message.flags.contains(.outOfBand) { throw .EOPNOTSUPP }
    var target = lock.withLock { peer }
    if let address = message.address { target = try Self.parse(address).port }
    // Programs do not talk to each other here.
    guard target == 0 else { throw .ECONNREFUSED }
    let count = transfer.remaining
    guard count <= 65_536 else { throw .EMSGSIZE }
    lock.withLock { named(0) }
    var bytes = [UInt8](repeating: 0, count: count)
    var failure: Errno?
    bytes.withUnsafeMutableBytes { buffer in
      do throws(Errno) { _ = try transfer.copyIn(into: buffer) } catch { failure = error }
    }
    if let failure { throw failure }
    let isPrivileged = message.credentials.user == 0
    bytes.withUnsafeBytes { answer($0, isPrivileged) }
    return count
  }

  /// Answers all requests of a datagram.
  private func answer(_ bytes: UnsafeRawBufferPointer, _ isPrivileged: Bool) {
    let port = lock.withLock { self.port }
    var place = 0
    while bytes.count &- place >= NetlinkHeader.byteCount {
      let header = bytes.loadUnaligned(fromByteOffset: place, as: NetlinkHeader.self)
      let count = header.messageByteCount.int
      guard count >= NetlinkHeader.byteCount, count <= bytes.count &- place else { return }
      let body = UnsafeRawBufferPointer(rebasing: bytes[place &+ NetlinkHeader.byteCount..<place &+ count])
      place &+= count.alignedUp(to: 4)
      guard header.flags & NetlinkHeader.request != 0 else { continue }
      let request = NetlinkRequest(header: header, body: body, port: port, isPrivileged: isPrivileged)
      var answer = NetlinkAnswer(request)
      var failure: Errno?
      if header.type >= NetlinkHeader.firstType {
        do throws(Errno) { try serve(request, &answer) } catch { failure = error }
      }
      if failure != nil {
        answer = NetlinkAnswer(request)
        answer.acknowledge(failure)
      } else if request.isDump {
        answer.done()
      } else {
        answer.finish()
        if header.flags & NetlinkHeader.acknowledged != 0 { answer.acknowledge(nil) }
      }
      enqueue(answer.datagrams)
    }
  }

  private func serve(_ request: NetlinkRequest, _ answer: inout NetlinkAnswer) throws(Errno) {
    switch service {
    case .route: try RouteService(stack).serve(request, &answer)
    case .diagnosis: try DiagnosisService(stack).serve(request, &answer)
    case .generic: throw .ENOENT
    case .deviceEvents: throw .EOPNOTSUPP
    }
  }

  private func enqueue(_ datagrams: [[UInt8]]) {
    if datagrams.isEmpty { return }
    lock.withLock {
      for datagram in datagrams { queuedByteCount &+= datagram.count }
      queue += datagrams
    }
    source.notify(.readable)
  }

  // MARK: Answers

  override func receive(_ transfer: inout Transfer, _ flags: MessageFlags) throws(Errno) -> IncomingMessage {
    if flags.contains(.outOfBand) { throw .EOPNOTSUPP }
    let deadline = deadline(receiveTimeout, flags)
    while true {
      try errors.check()
      let datagram = lock.withLock { () -> [UInt8]? in
        guard !queue.isEmpty else { return nil }
        if flags.contains(.peek) { return queue[0] }
        queuedByteCount &-= queue[0].count
        return queue.removeFirst()
      }
      if let datagram {
        var result = IncomingMessage()
        result.address = Self.name(port: 0, groups: 0)
        let copied = try datagram.withUnsafeBufferPointer { (bytes) throws(Errno) in
          try transfer.copyOut(from: UnsafeRawBufferPointer(bytes))
        }
        result.count = flags.contains(.truncated) ? datagram.count : copied
        if copied < datagram.count { result.flags.insert(.truncated) }
        if wantsCredentials.load(ordering: .relaxed) {
          result.credentials = SocketCredentials(process: 0, user: 0, group: 0)
        }
        return result
      }
      if deadline == .now { throw .EAGAIN }
      let result = source.wait(until: deadline) { lock.withLock { queue.isEmpty } && !errors.isThere }
      if result == .interrupted { throw .EINTR }
      if result == .timedOut { throw .EAGAIN }
    }
  }

  override var readyMask: ReadyMask {
    var result: ReadyMask = .writable
    if lock.withLock({ !queue.isEmpty }) { result.insert(.readable) }
    if errors.isThere { result.insert(.error) }
    return result
  }

  override func closed() {
    lock.withLock { (queue, queuedByteCount) = ([], 0) }
    source.notify([.readable, .writable, .hangUp, .error])
  }

  override func control(_ request: UInt32, _ argument: UInt64) throws(Errno) -> Int {
    if let result = try InterfaceControl(stack).run(request, argument) { return result }
    guard request == ControlRequest.readableByteCount else { throw .ENOTTY }
    let count = lock.withLock { queue.isEmpty ? 0 : queue[0].count }
    try UserSpan.write(count.i32, at: VirtualAddress(argument))
    return 0
  }

  // MARK: Options

  private enum Option {
    static let addMembership: Int32 = 1
    static let dropMembership: Int32 = 2
    static let packetInformation: Int32 = 3
    static let broadcastErrors: Int32 = 4
    static let noBufferErrors: Int32 = 5
    static let allNamespaces: Int32 = 8
    static let memberships: Int32 = 9
    static let shortAcknowledgements: Int32 = 10
    static let extendedAcknowledgements: Int32 = 11
    static let strictChecks: Int32 = 12
  }

  override func setOption(_ level: Int32, _ name: Int32, _ value: OptionValue, _ caller: SocketCaller) throws(Errno) {
    guard level == OptionLevel.netlink else { return try super.setOption(level, name, value, caller) }
    let number = try value.int()
    switch name {
    case Option.addMembership, Option.dropMembership:
      guard number >= 1, number <= 64 else { throw .EINVAL }
      let bit: UInt32 = number <= 32 ? 1 &<< (number &- 1).u32 : 0
      lock.withLock { if name == Option.addMembership { groups |= bit } else { groups &= ~bit } }
    case Option.packetInformation, Option.broadcastErrors, Option.noBufferErrors, Option.allNamespaces,
      Option.shortAcknowledgements, Option.extendedAcknowledgements, Option.strictChecks:
      break
    default: throw .ENOPROTOOPT
    }
  }

  override func getOption(_ level: Int32, _ name: Int32, _ result: inout OptionResult) throws(Errno) {
    guard level == OptionLevel.netlink else { return try super.getOption(level, name, &result) }
    switch name {
    case Option.memberships: result.put(lock.withLock { groups })
    case Option.packetInformation, Option.broadcastErrors, Option.noBufferErrors, Option.allNamespaces,
      Option.shortAcknowledgements, Option.extendedAcknowledgements, Option.strictChecks:
      result.put(0 as Int32)
    default: throw .ENOPROTOOPT
    }
  }
}
