// PingSocket: echo requests and their replies for programs without privileges (SOCK_DGRAM with IPPROTO_ICMP or IPPROTO_ICMPV6; icmp(7)).
//
// The socket's port is the echoes' identifier, which the kernel puts in: a program gets replies to its own requests only.
import Base
import Devices
import Files
import Locks
import Memory

/// A ping socket.
final class PingSocket: DatagramSocket {
  /// Bytes of an echo's header.
  static let headerByteCount = 8
  static let number4: UInt8 = 1
  static let number6: UInt8 = 58

  // Guarded by `lock`.
  private var key: FlowKey?

  /// A socket.
  /// - Throws: ENOMEM.
  init(family: Int32, flags: OpenFlags, stack: NetworkStack, user: UInt32) throws(Errno) {
    let isV4 = family == InternetEndpoint.family4.i32
    let source = PollSource()
    let errors = SocketErrors(source)
    guard let receiver = PingReceiver(source, errors) else { throw .ENOMEM }
    super.init(
      family: family, kind: .datagram, protocolNumber: isV4 ? Self.number4 : Self.number6, flags: flags, stack: stack,
      ports: stack.sockets.echoIdentifiers, user: user, source: source, errors: errors, receiver: receiver)
  }

  private var requestType: UInt8 { isIPv6 ? 128 : 8 }

  override func enter() throws(Errno) {
    let wanted = FlowKey(protocol: protocolNumber, local: isIPv6 ? .any6 : .any4, localPort: local.port)
    try PortGroup.enter(wanted, receiver, reusesPort: false, in: stack.flows)
    key = wanted
  }

  override func leave() {
    if let key { PortGroup.leave(key, receiver, in: stack.flows) }
    key = nil
  }

  override func send(_ transfer: inout Transfer, _ message: OutgoingMessage, _ caller: SocketCaller?) throws(Errno)
    -> Int
  {
    let count = transfer.remaining
    guard count <= 0xffff else { throw .EMSGSIZE }
    if message.flags.contains(.outOfBand) { throw .EOPNOTSUPP }
    guard count >= Self.headerByteCount else { throw .EINVAL }
    var target: InternetEndpoint
    if let address = message.address {
      target = try endpoint(address, for: .sending)
    } else {
      guard let remote = lock.withLock({ remote }) else { throw .EDESTADDRREQ }
      target = remote
    }
    guard target.address.isV4 != isIPv6 else { throw .EINVAL }
    if target.address.isUnspecified { target.address = isIPv6 ? .loopback6 : .loopback4 }
    let packet = try Packet.filled(&transfer, count, headroom: Packet.headroom)
    guard packet.head[0] == requestType, packet.head[1] == 0 else { throw .EINVAL }
    try errors.check()
    if hasEndedSending { throw .EPIPE }
    defer { stack.runDeferred() }
    try lock.withLock { () throws(Errno) in try bindAutomatically() }
    var route = try findRoute(to: target, control: message.control)
    if stack.kind(of: target.address) == .broadcast, !isOn(SocketOption.broadcast) { throw .EACCES }
    lock.lock()
    defer { lock.unlock() }
    let source = local.address.isUnicast ? local.address : route.source
    packet.mutableHead.storeBytes(of: 0, toByteOffset: 2, as: UInt16.self)
    packet.mutableHead.storeBytes(of: local.port.bigEndian, toByteOffset: 4, as: UInt16.self)
    var sum = InternetChecksum()
    if isIPv6 { sum.addPseudoHeader(source, target.address, protocol: protocolNumber, byteCount: count) }
    sum.add(packet, from: 0, count: count)
    packet.mutableHead.storeBytes(of: sum.value.bigEndian, toByteOffset: 2, as: UInt16.self)
    try stack.send(packet, header(from: source, to: target.address, control: message.control), &route)
    return count
  }
}

/// What arrives for a ping socket: replies, from their ICMP header on.
final class PingReceiver: DatagramReceiver {
  override func isWorthy(_ packet: inout Packet) -> Bool {
    guard packet.pull(PingSocket.headerByteCount) else { return false }
    packet.keepPorts(source: 0, destination: 0)
    return true
  }
}
