// RawSocket: packets of a protocol of the program's own, or of any, over IP (raw(7), ipv6(7), RFC 3542).
//
// Over IPv4 the program reads packets with their IP header, over IPv6 without. It may write the IPv4 header itself (IP_HDRINCL): addresses,
// protocol, time to live and type of service are taken from there; identification, options and the header's checksum are the kernel's.
import Base
import Devices
import Files
import Locks
import Memory

/// A raw socket.
final class RawSocket: DatagramSocket {
  private let rawReceiver: RawReceiver
  /// IPV6_CHECKSUM: where the checksum lies; negative: there is none. Guarded by `lock`.
  private var checksumOffset: Int32 = -1

  /// A socket for a protocol.
  /// - Throws: ENOMEM.
  init(family: Int32, protocolNumber: UInt8, flags: OpenFlags, stack: NetworkStack, user: UInt32) throws(Errno) {
    let isV4 = family == InternetEndpoint.family4.i32
    let source = PollSource()
    let errors = SocketErrors(source)
    guard let made = RawReceiver(source, errors, protocolNumber, isV4: isV4) else { throw .ENOMEM }
    rawReceiver = made
    super.init(
      family: family, kind: .raw, protocolNumber: protocolNumber, flags: flags, stack: stack, ports: nil, user: user,
      source: source, errors: errors, receiver: made)
    lock.withLock {
      // IPPROTO_RAW only sends, and the program writes all of it.
      if protocolNumber == 255 { options.set(.hasHeader, true) }
      options.pathMTU4 = .never
      if protocolNumber == 58 { checksumOffset = 2 }
    }
    if protocolNumber != 255 { stack.sockets.rawReceivers.add(made) }
  }

  override func enter() throws(Errno) { rawReceiver.set(local: local.address, remote: remote?.address) }
  override func leave() { rawReceiver.set(local: local.address, remote: nil) }

  override func closed() {
    stack.sockets.rawReceivers.remove(rawReceiver)
    super.closed()
  }

  // MARK: Sending

  override func send(_ transfer: inout Transfer, _ message: OutgoingMessage, _ caller: SocketCaller?) throws(Errno)
    -> Int
  {
    let count = transfer.remaining
    guard count <= 0xffff else { throw .EMSGSIZE }
    if message.flags.contains(.outOfBand) { throw .EOPNOTSUPP }
    var target: InternetEndpoint
    if let address = message.address {
      target = try endpoint(address, for: .sending)
    } else {
      guard let remote = lock.withLock({ remote }) else { throw .EDESTADDRREQ }
      target = remote
    }
    let packet = try Packet.filled(&transfer, count, headroom: Packet.headroom)
    try errors.check()
    if hasEndedSending { throw .EPIPE }
    defer { stack.runDeferred() }
    if has(.hasHeader), !isIPv6 { return try sendWithHeader(packet, to: target, message.control) }
    if target.address == .any4 {
      target.address = .loopback4
    } else if target.address == .any6 {
      target.address = .loopback6
    }
    var route = try findRoute(to: target, control: message.control)
    if stack.kind(of: target.address) == .broadcast, !isOn(SocketOption.broadcast) { throw .EACCES }
    let source = sourceAddress(route)
    let outgoing = lock.withLock { header(from: source, to: target.address, control: message.control) }
    try complete(packet, from: source, to: target.address)
    try stack.send(packet, outgoing, &route)
    return count
  }

  /// From where packets leave that name no source.
  private func sourceAddress(_ route: RouteCache) -> IPAddress {
    lock.lock()
    defer { lock.unlock() }
    return local.address.isUnicast ? local.address : route.source
  }

  /// Puts the checksum where the program wants it (RFC 3542, 3.1).
  private func complete(_ packet: borrowing Packet, from source: IPAddress, to destination: IPAddress) throws(Errno) {
    let offset = lock.withLock { checksumOffset }.int
    guard isIPv6, offset >= 0 else { return }
    guard offset &+ 2 <= packet.head.count else { throw .EINVAL }
    packet.mutableHead.storeBytes(of: 0, toByteOffset: offset, as: UInt16.self)
    var sum = InternetChecksum()
    sum.addPseudoHeader(source, destination, protocol: protocolNumber, byteCount: packet.byteCount)
    sum.add(packet, from: 0, count: packet.byteCount)
    packet.mutableHead.storeBytes(of: sum.value.bigEndian, toByteOffset: offset, as: UInt16.self)
  }

  /// Sends what begins with an IPv4 header of the program's.
  private func sendWithHeader(_ packet: consuming Packet, to target: InternetEndpoint, _ control: OutgoingControl)
    throws(Errno) -> Int
  {
    let count = packet.byteCount
    let head = packet.head
    guard head.count >= 20, head[0] &>> 4 == 4 else { throw .EINVAL }
    let headerByteCount = (head[0] & 15).int &* 4
    guard headerByteCount >= 20, headerByteCount <= head.count else { throw .EINVAL }
    var own = IPAddress(readingV4: head.baseAddress.unsafelyUnwrapped + 12)
    var control = control
    if own != .any4 { control.source = own }
    var route = try findRoute(to: target, control: control)
    if own == .any4 { own = sourceAddress(route) }
    var header = OutgoingHeader(source: own, destination: target.address, protocolNumber: head[9])
    header.trafficClass = head[1]
    header.hopLimit = head[8]
    if head[6] & 0x40 != 0 { header.flags.insert(.dontFragment) }
    if isOn(SocketOption.broadcast) { header.flags.insert(.mayBroadcast) }
    packet.dropFirst(headerByteCount)
    try stack.send(packet, header, &route)
    return count
  }

  // MARK: Options

  override func setOption(_ level: Int32, _ name: Int32, _ value: OptionValue, _ caller: SocketCaller) throws(Errno) {
    switch (level, name) {
    case (OptionLevel.control6, 1) where protocolNumber == 58:
      // ICMPV6_FILTER: a bit set is a type that is not wanted.
      rawReceiver.setTypes(try value.load(as: [4 of UInt64].self))
    case (OptionLevel.raw, 1) where protocolNumber == 1:
      rawReceiver.setTypes([try value.load(as: UInt32.self).u64, 0, 0, 0])
    case (OptionLevel.internet6, 7) where isIPv6, (OptionLevel.raw, 7) where isIPv6:
      let offset = try value.int()
      guard offset & 1 == 0 || offset < 0 else { throw .EINVAL }
      // ICMPv6 has its checksum; by the other level it may be said again.
      guard protocolNumber != 58 || level == OptionLevel.raw else { throw .EINVAL }
      lock.withLock { checksumOffset = max(offset, -1) }
    default: try super.setOption(level, name, value, caller)
    }
  }

  override func getOption(_ level: Int32, _ name: Int32, _ result: inout OptionResult) throws(Errno) {
    switch (level, name) {
    case (OptionLevel.control6, 1) where protocolNumber == 58: result.put(rawReceiver.types)
    case (OptionLevel.raw, 1) where protocolNumber == 1: result.put(rawReceiver.types[0].u32)
    case (OptionLevel.internet6, 7) where isIPv6: result.put(lock.withLock { checksumOffset })
    default: try getInternetOption(level, name, &result)
    }
  }
}

/// What arrives for a raw socket.
final class RawReceiver: DatagramReceiver {
  let protocolNumber: UInt8
  private let isV4: Bool
  // Guarded by `lock`.
  private var local = IPAddress.any6
  private var remote: IPAddress?
  /// Types of ICMP that are not wanted.
  private var unwanted: [4 of UInt64] = .init(repeating: 0)

  init?(_ source: PollSource, _ errors: SocketErrors, _ protocolNumber: UInt8, isV4: Bool) {
    self.protocolNumber = protocolNumber
    self.isV4 = isV4
    super.init(source, errors, ringCapacity: 1)
  }

  func set(local: IPAddress, remote: IPAddress?) {
    lock.withLock { (self.local, self.remote) = (local, remote) }
  }

  func setTypes(_ types: [4 of UInt64]) { lock.withLock { unwanted = types } }
  var types: [4 of UInt64] { lock.withLock { unwanted } }

  /// Whether a packet between two addresses is its business.
  private func isConcerned(local: IPAddress, remote: IPAddress) -> Bool {
    guard local.isV4 == isV4 else { return false }
    return lock.withLock {
      (self.local.isUnspecified || self.local == local) && (self.remote == nil || self.remote == remote)
    }
  }

  /// Whether it takes a packet that begins with its IP header.
  func wants(_ packet: borrowing Packet, _ header: InternetHeader) -> Bool {
    guard header.protocolNumber == protocolNumber else { return false }
    let interface = boundInterface.load(ordering: .relaxed)
    guard interface == 0 || interface == header.interfaceIndex else { return false }
    guard isConcerned(local: header.destination, remote: header.source) else { return false }
    guard protocolNumber == 1 || protocolNumber == 58 else { return true }
    let place = packet.transportOffset
    guard place >= 0, place < packet.head.count else { return false }
    let type = packet.head[place]
    // ICMP has 32 types that a filter knows.
    if isV4, type >= 32 { return true }
    return lock.withLock { unwanted[(type &>> 6).int] &>> (type & 63).u64 & 1 == 0 }
  }

  override func isWorthy(_ packet: inout Packet) -> Bool {
    // Programs see the header of IPv4, and not that of IPv6.
    if !isV4 { packet.dropFirst(packet.transportOffset) }
    packet.keepPorts(source: 0, destination: 0)
    return true
  }
}
