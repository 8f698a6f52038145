// Sending datagrams: from the program's memory into a packet, a header in front, and away; or collected first (MSG_MORE, UDP_CORK).
//
// The program's bytes are copied before any lock is taken.
import Base
import Devices
import Files
import Locks
import Memory

/// What waits for its rest, and where it will go.
struct CorkedDatagram: ~Copyable {
  var packet: Packet?
  var destination = InternetEndpoint()
  var control = OutgoingControl()

  init() {}
}

extension UDPSocket {
  /// The most bytes of a datagram.
  private static var maximumByteCount: Int { 0xffff }
  /// UDP_MAX_SEGMENTS.
  private static var maximumSegments: Int { 128 }
  /// The most bytes that IPv4 leaves for data.
  private static var maximumData4: Int { 65_507 }

  /// Sends a message, or adds it to what waits.
  func sendDatagram(_ transfer: inout Transfer, _ message: OutgoingMessage) throws(Errno) -> Int {
    let count = transfer.remaining
    guard count <= Self.maximumByteCount else { throw .EMSGSIZE }
    if message.flags.contains(.outOfBand), !isIPv6 { throw .EOPNOTSUPP }
    let isMore = message.flags.contains(.more) || has(.isCorked)
    if isMore || lock.withLock({ corked.packet != nil }) { return try sendMore(&transfer, message, isMore) }
    let destination = try destination(of: message)
    let packet = try Packet.filled(&transfer, count, headroom: Packet.headroom &+ UDP.headerByteCount)
    try send(packet, to: destination, message.control)
    return count
  }

  /// Where a message goes.
  private func destination(of message: OutgoingMessage) throws(Errno) -> InternetEndpoint {
    guard let address = message.address else {
      guard let remote = lock.withLock({ remote }) else { throw .EDESTADDRREQ }
      return remote
    }
    var result: InternetEndpoint
    if isIPv6, address.family == 0, let remote = lock.withLock({ remote }) {
      result = remote
    } else {
      result = try endpoint(address, for: .sending)
    }
    guard result.port != 0 else { throw .EINVAL }
    if result.address == .any4 {
      result.address = .loopback4
    } else if result.address == .any6 {
      result.address = .loopback6
    }
    return result
  }

  // MARK: Corking

  private func sendMore(_ transfer: inout Transfer, _ message: OutgoingMessage, _ isMore: Bool) throws(Errno) -> Int {
    let count = transfer.remaining
    let isFirst = lock.withLock { corked.packet == nil }
    let destination = isFirst ? try destination(of: message) : InternetEndpoint()
    let piece = try Packet.filled(&transfer, count, headroom: Packet.headroom &+ UDP.headerByteCount)
    try addCorked(piece, destination, message.control)
    if !isMore { try sendCorked() }
    return count
  }

  private func addCorked(_ piece: consuming Packet, _ destination: InternetEndpoint, _ control: OutgoingControl)
    throws(Errno)
  {
    lock.lock()
    defer { lock.unlock() }
    guard let packet = corked.packet.take() else {
      (corked.destination, corked.control) = (destination, control)
      corked.packet = consume piece
      return
    }
    // What does not fit is lost with the rest, as Linux does it.
    guard packet.byteCount &+ piece.byteCount <= Self.maximumByteCount else { throw .EMSGSIZE }
    corked.packet = try Self.join(packet, piece)
  }

  /// One packet of two: the second is copied behind the first, in pages, so that many small ones do not use up a packet's slices.
  private static func join(_ packet: consuming Packet, _ piece: borrowing Packet) throws(Errno) -> Packet {
    var done = 0
    while done < piece.byteCount {
      let last = packet.slice(packet.sliceCount &- 1)
      let room = last.memory.capacity &- last.offset.int &- last.count.int
      if room == 0 {
        guard let memory = PacketMemory.allocate(capacity: PacketMemory.pageCapacity),
          packet.append(PacketSlice(memory: memory, offset: 0, count: 0))
        else { throw .ENOBUFS }
        continue
      }
      let step = min(room, piece.byteCount &- done)
      guard let place = packet.extend(step),
        piece.copy(from: done, into: UnsafeMutableRawBufferPointer(start: place, count: step))
      else { throw .ENOBUFS }
      done &+= step
    }
    return packet
  }

  /// Sends what has been collected.
  func sendCorked() throws(Errno) {
    lock.lock()
    let (destination, control) = (corked.destination, corked.control)
    let packet = corked.packet.take()
    lock.unlock()
    if let packet { try send(packet, to: destination, control) }
  }

  // MARK: A packet leaves

  private func send(_ packet: consuming Packet, to destination: InternetEndpoint, _ control: OutgoingControl)
    throws(Errno)
  {
    defer { stack.runDeferred() }
    try errors.check()
    if hasEndedSending { throw .EPIPE }
    let address = destination.address
    guard packet.byteCount <= (address.isV4 ? Self.maximumData4 : Self.maximumByteCount) else { throw .EMSGSIZE }
    let isUsual = control.source.isUnspecified && control.interfaceIndex == 0
    lock.lock()
    if isUsual, routeDestination == destination, local.port != 0 {
      // What was found for the last destination is good for this one.
      defer { lock.unlock() }
      var route = self.route
      try transmit(packet, to: destination, &route, control)
      self.route = route
      return
    }
    lock.unlock()
    var route = try findRoute(to: destination, control: control)
    if stack.kind(of: address) == .broadcast, !isOn(SocketOption.broadcast) { throw .EACCES }
    lock.lock()
    defer { lock.unlock() }
    try bindAutomatically()
    if isUsual { routeDestination = destination }
    try transmit(packet, to: destination, &route, control)
    if isUsual { self.route = route }
  }

  /// Puts the header in front and sends. With the lock.
  private func transmit(
    _ packet: consuming Packet, to destination: InternetEndpoint, _ route: inout RouteCache, _ control: OutgoingControl
  ) throws(Errno) {
    let address = destination.address
    let source = control.source.isUnspecified && local.address.isUnicast ? local.address : route.source
    var header = header(from: source, to: address, control: control)
    header.interfaceIndex = route.interfaceIndex
    let dataByteCount = packet.byteCount
    let byteCount = dataByteCount &+ UDP.headerByteCount
    let overhead = address.isV4 ? 20 : 40
    // Datagrams that fit are not to be cut up on their way.
    if (address.isV4 ? options.pathMTU4 : options.pathMTU6) == .wanted, byteCount &+ overhead <= route.mtu {
      header.flags.insert(.dontFragment)
    }
    let segment = (control.segmentByteCount != 0 ? control.segmentByteCount : options.segmentByteCount).int
    let hasChecksum = address.isV4 ? !isOn(SocketOption.noChecksum) : !options.has(.sendsNoChecksum6)
    if segment > 0, dataByteCount > segment {
      guard segment &+ UDP.headerByteCount &+ overhead <= route.mtu, hasChecksum,
        dataByteCount <= segment &* Self.maximumSegments
      else { throw .EINVAL }
      packet.segmentation = PacketSegmentation(.udp, segmentByteCount: segment)
    } else if segment > 0, byteCount &+ overhead > route.mtu {
      throw .EINVAL
    }
    guard let place = packet.prepend(UDP.headerByteCount) else { throw .ENOBUFS }
    place.storeBytes(of: local.port.bigEndian, as: UInt16.self)
    place.storeBytes(of: destination.port.bigEndian, toByteOffset: 2, as: UInt16.self)
    place.storeBytes(of: byteCount.u16.bigEndian, toByteOffset: 4, as: UInt16.self)
    var sum: UInt16 = 0
    if hasChecksum {
      var checksum = InternetChecksum()
      checksum.addPseudoHeader(source, address, protocol: Self.number, byteCount: byteCount)
      sum = checksum.partial
      packet.checksum = .partial(start: 0, offset: 6)
    }
    place.storeBytes(of: sum.bigEndian, toByteOffset: 6, as: UInt16.self)
    stack.countDelivered(.udpSent, isV4: address.isV4)
    do throws(Errno) { try stack.send(packet, header, &route) } catch {
      // What is lost on the way out is lost like what is lost on the way, unless the program wants to know.
      guard error == .ENOBUFS, !options.has(address.isV4 ? .tellsErrors4 : .tellsErrors6) else { throw error }
    }
  }
}

extension IPAddress {
  /// Whether it is one interface's: neither all, nor a group's.
  var isUnicast: Bool { !isUnspecified && !isMulticast && self != .broadcast4 }
}
