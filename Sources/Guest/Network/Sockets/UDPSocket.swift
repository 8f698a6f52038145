// UDPSocket: the User Datagram Protocol (RFC 768) as programs see it (udp(7)).
//
// A socket's receiver is entered in the table of flows under what it is bound to, or, when it is connected, under both ends alone. Sending is in
// UDPSocket+Sending.
import Base
import Devices
import Files
import Locks
import Memory

/// A UDP socket.
final class UDPSocket: DatagramSocket {
  /// IP's number of UDP.
  static let number: UInt8 = 17

  // Guarded by `lock`.
  /// Under which keys the receiver is entered.
  private var (key, secondKey): (FlowKey?, FlowKey?)
  private var isShared = false
  /// What has been sent with MSG_MORE and waits for the rest.
  var corked = CorkedDatagram()

  /// An unbound socket.
  /// - Throws: ENOMEM.
  init(family: Int32, flags: OpenFlags, stack: NetworkStack, user: UInt32) throws(Errno) {
    let source = PollSource()
    let errors = SocketErrors(source)
    guard let receiver = UDPReceiver(source, errors, stack) else { throw .ENOMEM }
    super.init(
      family: family, kind: .datagram, protocolNumber: Self.number, flags: flags, stack: stack,
      ports: stack.sockets.udpPorts, user: user, source: source, errors: errors, receiver: receiver)
  }

  override var hasPeekOffset: Bool { true }

  // MARK: Where packets are looked for

  override func enter() throws(Errno) {
    isShared = isOn(SocketOption.reusePort) || isOn(SocketOption.reuseAddress) || options.interfaceIndex != 0
    if let remote {
      return try enter(
        FlowKey(
          protocol: Self.number, local: local.address, localPort: local.port, remote: remote.address,
          remotePort: remote.port), into: &key)
    }
    try enter(FlowKey(protocol: Self.number, local: local.address, localPort: local.port), into: &key)
    // All of IPv6 means IPv4 too.
    if isIPv6, local.address == .any6, !options.has(.isIPv6Only) {
      do throws(Errno) {
        try enter(FlowKey(protocol: Self.number, local: .any4, localPort: local.port), into: &secondKey)
      } catch {
        leave()
        throw error
      }
    }
  }

  private func enter(_ wanted: FlowKey, into place: inout FlowKey?) throws(Errno) {
    if isShared {
      try PortGroup.enter(wanted, receiver, reusesPort: isOn(SocketOption.reusePort), in: stack.flows)
    } else {
      // Between our own addresses nothing comes by a wire.
      let isInternal = !wanted.isWildcard && stack.kind(of: wanted.remote) == .local
      try stack.flows.insert(wanted, receiver, isInternal: isInternal)
    }
    place = wanted
  }

  override func leave() {
    if let key { PortGroup.leave(key, receiver, in: stack.flows) }
    if let secondKey { PortGroup.leave(secondKey, receiver, in: stack.flows) }
    (key, secondKey) = (nil, nil)
  }

  override func send(_ transfer: inout Transfer, _ message: OutgoingMessage, _ caller: SocketCaller?) throws(Errno)
    -> Int
  { try sendDatagram(&transfer, message) }

  override func closed() {
    super.closed()
    lock.withLock { corked = CorkedDatagram() }
  }

  // MARK: Receiving

  override func give(_ packet: consuming Packet, _ transfer: inout Transfer, _ flags: MessageFlags) throws(Errno)
    -> IncomingMessage
  {
    let segment = packet.segmentation
    guard segment.kind == .udp, segment.segmentByteCount > 0, packet.byteCount > segment.segmentByteCount.int else {
      return try super.give(packet, &transfer, flags)
    }
    if has(.takesSegments) {
      var result = try super.give(packet, &transfer, flags)
      result.control.parts.insert(.segments)
      result.control.segmentByteCount = segment.segmentByteCount
      return result
    }
    // One datagram after the other.
    let size = segment.segmentByteCount.int
    guard var first = packet.clone() else { throw .ENOBUFS }
    first.dropLast(first.byteCount &- size)
    if !flags.contains(.peek) {
      packet.dropFirst(size)
      receiver.putBack(packet)
    }
    return try super.give(first, &transfer, flags)
  }

  override func describe(_ packet: borrowing Packet, _ result: inout IncomingMessage) {
    super.describe(packet, &result)
    stack.countDelivered(.udpReceived, isV4: result.control.destination.isV4)
    if isOn(SocketOption.overflowCount) {
      result.control.parts.insert(.dropped)
      result.control.droppedCount =
        (receiver.refusedCount.load(ordering: .relaxed) &+ receiver.droppedCount.load(ordering: .relaxed)).u32
    }
  }

  // MARK: Options

  private enum Option {
    static let cork: Int32 = 1
    static let encapsulation: Int32 = 100
    static let sendsNoChecksum6: Int32 = 101
    static let wantsNoChecksum6: Int32 = 102
    static let segment: Int32 = 103
    static let takesSegments: Int32 = 104
  }

  override func setOption(_ level: Int32, _ name: Int32, _ value: OptionValue, _ caller: SocketCaller) throws(Errno) {
    guard level == OptionLevel.datagram else { return try super.setOption(level, name, value, caller) }
    let number = try value.int()
    switch name {
    case Option.cork:
      set(.isCorked, number != 0)
      if number == 0 { try sendCorked() }
    case Option.sendsNoChecksum6: set(.sendsNoChecksum6, number != 0)
    case Option.wantsNoChecksum6: set(.wantsNoChecksum6, number != 0)
    case Option.segment:
      guard number >= 0, number <= 0xffff else { throw .EINVAL }
      lock.withLock { options.segmentByteCount = number.u16 }
    case Option.takesSegments: set(.takesSegments, number != 0)
    default: throw .ENOPROTOOPT
    }
  }

  override func getOption(_ level: Int32, _ name: Int32, _ result: inout OptionResult) throws(Errno) {
    guard level == OptionLevel.datagram else { return try getInternetOption(level, name, &result) }
    switch name {
    case Option.cork: result.put(flag: has(.isCorked))
    case Option.sendsNoChecksum6: result.put(flag: has(.sendsNoChecksum6))
    case Option.wantsNoChecksum6: result.put(flag: has(.wantsNoChecksum6))
    case Option.segment: result.put(lock.withLock { options.segmentByteCount }.i32)
    case Option.takesSegments: result.put(flag: has(.takesSegments))
    case Option.encapsulation: result.put(0 as Int32)
    default: throw .ENOPROTOOPT
    }
  }
}

/// The flow of a UDP socket.
final class UDPReceiver: DatagramReceiver {
  private let stack: NetworkStack

  init?(_ source: PollSource, _ errors: SocketErrors, _ stack: NetworkStack) {
    self.stack = stack
    super.init(source, errors)
  }

  override var headerByteCount: Int { UDP.headerByteCount }

  override func isValid(_ packet: inout Packet) -> Bool { UDP.accept(&packet, stack) }

  override func isWorthy(_ packet: inout Packet) -> Bool {
    guard packet.head.count >= UDP.headerByteCount else { return false }
    let head = packet.head
    let source = UInt16(bigEndian: head.loadUnaligned(as: UInt16.self))
    let destination = UInt16(bigEndian: head.loadUnaligned(fromByteOffset: 2, as: UInt16.self))
    packet.keepPorts(source: source, destination: destination)
    packet.dropFirst(UDP.headerByteCount)
    return true
  }
}
