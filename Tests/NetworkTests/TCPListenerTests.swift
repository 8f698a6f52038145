// Who waits for connections: backlogs, cookies, floods, sharing a port, and segments of those who mean no good.
import Base
import Devices
import Files
import Locks
import Memory
import Pages
import Testing

@testable import Network

/// A peer that speaks TCP by hand: frames of its own making.
private struct Stranger {
  let net: TestNetwork
  var sequence: UInt32 = 1000
  var port: UInt16

  /// Sends a segment to 10.0.0.2.
  func send(
    _ flags: TCPFlags, sequence: UInt32, acknowledgement: UInt32 = 0, to destination: UInt16 = 80, data: [UInt8] = [],
    from address: IPAddress = .one4, window: UInt16 = 65_535, options: TCPOptions = TCPOptions(), spoils: Bool = false
  ) throws {
    var fields = TCPHeaderFields(from: port, to: destination)
    fields.sequence = SequenceNumber(sequence)
    fields.acknowledgement = SequenceNumber(acknowledgement)
    fields.flags = flags
    fields.window = window
    let sum = TCPSegment.pseudoHeader(from: address, to: .two4)
    var packet = try need(TCPSegment.make(fields, options, room: data.count, pseudoHeader: sum))
    guard let place = packet.extend(data.count) else { throw NoPacket() }
    data.withUnsafeBytes { if let start = $0.baseAddress { place.copyMemory(from: start, byteCount: data.count) } }
    TCPSegment.complete(packet, sum)
    guard InternetChecksum.complete(&packet) else { throw NoPacket() }
    var segment = packet.allBytes
    if spoils { segment[segment.count - 1] ^= 1 }
    net.two.link.receive(Self.frame(segment, from: address))
  }

  /// A frame of an IPv4 packet.
  static func frame(_ segment: [UInt8], from address: IPAddress) -> [UInt8] {
    var ip = IPv4Header()
    ip.totalByteCount = 20 + segment.count
    ip.hopLimit = 64
    ip.protocolNumber = 6
    (ip.source, ip.destination) = (address, .two4)
    var bytes = [UInt8](repeating: 0, count: 20)
    bytes.withUnsafeMutableBytes { ip.write(to: $0.baseAddress!) }
    return [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0] + bytes + segment
  }

  /// Segments that 10.0.0.2 has sent since the last look.
  func heard() -> [TCPHeader] {
    net.settle()
    defer { net.wire.log = [] }
    return net.wire.log.compactMap { frame in
      guard isTCP(frame), frame[29] == 2 else { return nil }
      let count = (Int(frame[16]) << 8 | Int(frame[17])) - 20
      return Array(frame[34..<34 + count]).withUnsafeBytes { TCPHeader($0, segmentByteCount: count) }
    }
  }

  /// Opens a connection by hand: the numbers that it goes on with.
  func open(options: TCPOptions = TCPOptions()) throws -> (sequence: UInt32, acknowledgement: UInt32) {
    _ = heard()
    try send(.synchronize, sequence: sequence, options: options)
    let answer = try #require(heard().first)
    try send(.acknowledge, sequence: sequence &+ 1, acknowledgement: answer.sequence.rawValue &+ 1)
    net.settle()
    return (sequence &+ 1, answer.sequence.rawValue &+ 1)
  }
}

@Suite(.serialized) struct TCPListenerTests {
  let program = SocketClient()

  /// No more than the backlog and one wait; the next comes in when there is room.
  @Test func backlog() throws {
    let net = try TestNetwork(attends: true)
    let listener = try program.listener(net.two.stack, .any4, 80, backlog: 2)
    let clients = try (0..<5).map { _ in
      let client = try program.tcp(net.one.stack)
      #expect(throws: Errno.EINPROGRESS) { try program.connect(client, .two4, 80) }
      net.settle()
      return client
    }
    #expect(listener.readyMask == .readable && listener.status.receiveQueueByteCount == 3)
    #expect(clients.filter { $0.readyMask.contains(.writable) }.count == 3)
    var servers: [TCPSocket] = []
    for _ in 0..<20 where servers.count < 5 {
      while let server = try? program.accept(listener) { servers.append(server) }
      net.pass(1_000_000_000)
    }
    #expect(servers.count == 5)
    for client in clients { #expect(try program.send(client, [1]) == 1) }
    net.settle()
    for server in servers { #expect(try program.receive(server).bytes == [1]) }
    // Who was never accepted is sent away.
    let last = try program.tcp(net.one.stack)
    #expect(throws: Errno.EINPROGRESS) { try program.connect(last, .two4, 80) }
    net.settle()
    listener.closed()
    net.settle()
    #expect(last.takeError() == .ECONNRESET)
    for socket in clients + servers + [last] { socket.closed() }
    net.pass(200_000_000_000, step: 1_000_000_000)
    #expect(net.two.stack.flows.count == 0 && net.two.stack.sockets.count == 0 && net.one.stack.sockets.count == 0)
  }

  /// Requests are answered again, and forgotten.
  @Test func halfOpen() throws {
    let net = try TestNetwork(attends: true)
    let listener = try program.listener(net.two.stack, .any4, 80)
    // The other machine does not know of this, and would say so.
    net.wire.filter = { isTCP($0) ? nil : $0 }
    let stranger = Stranger(net: net, port: 5000)
    try stranger.send(.synchronize, sequence: 7)
    let first = stranger.heard()
    #expect(
      first.count == 1 && first[0].flags == [.synchronize, .acknowledge] && first[0].acknowledgement.rawValue == 8)
    net.pass(100_000_000_000, step: 500_000_000)
    let repeated = stranger.heard()
    #expect(repeated.count == 5 && repeated.allSatisfy { $0.sequence == first[0].sequence })
    // Its acknowledgement comes too late.
    try stranger.send(.acknowledge, sequence: 8, acknowledgement: first[0].sequence.rawValue &+ 1)
    #expect(stranger.heard().map { $0.flags } == [.reset])
    #expect(throws: Errno.EAGAIN) { try program.accept(listener) }
    listener.closed()
    #expect(net.two.stack.flows.count == 0)
  }

  /// A hundred thousand SYNs cost a bounded number of records, and who means it gets through by a cookie.
  @Test func flood() throws {
    let net = try TestNetwork(attends: true)
    let listener = try program.listener(net.two.stack, .any4, 80, backlog: 64)
    net.wire.filter = { isTCP($0) ? nil : $0 }
    var stranger = Stranger(net: net, port: 0)
    for number in 0..<100_000 {
      stranger.port = UInt16(1024 + number % 30_000)
      try stranger.send(
        .synchronize, sequence: UInt32(number), from: IPAddress(v4: 0x0a00_0010 + UInt32(number / 30_000)))
      if number % 50 == 0 {
        net.settle()
        net.wire.log = []
      }
    }
    net.settle()
    net.wire.log = []
    // What this listener keeps: other tests take memory meanwhile.
    #expect(listener.listener?.requestCount == 64)
    let transport = net.two.stack.transmission!
    #expect(transport.counted(.cookiesSent) > 99_000)
    net.wire.filter = nil
    let clients = try (0..<10).map { _ in
      let client = try program.tcp(net.one.stack)
      #expect(throws: Errno.EINPROGRESS) { try program.connect(client, .two4, 80) }
      net.settle()
      return client
    }
    #expect(transport.counted(.cookiesReceived) == 10)
    for client in clients {
      let server = try program.accept(listener)
      // Options have come through: selective acknowledgements, windows of more than 64 KiB.
      #expect(server.flow?.core.usesSelective == true && server.flow?.core.sendScale == client.flow?.core.receiveScale)
      #expect(try program.transfer(someBytes(100_000), from: client, to: server, net) == someBytes(100_000))
      client.closed()
      server.closed()
    }
    // One that is made up gets nothing.
    stranger.port = 5000
    _ = stranger.heard()
    try stranger.send(.acknowledge, sequence: 1, acknowledgement: 12_345)
    #expect(stranger.heard().map { $0.flags }.contains(.reset))
    #expect(transport.counted(.cookiesFailed) == 1)
    listener.closed()
    net.pass(200_000_000_000, step: 1_000_000_000)
    #expect(net.two.stack.flows.count == 0 && net.two.stack.sockets.count == 0)
  }

  /// SO_REUSEPORT: each listener gets its part.
  @Test func reusePort() throws {
    let net = try TestNetwork(attends: true)
    let listeners = try (0..<4).map { _ in
      let listener = try program.tcp(net.two.stack)
      try program.set(listener, 1, SocketOption.reusePort, 1)
      try program.bind(listener, .any4, 80)
      try listener.listen(backlog: 400, program.caller)
      return listener
    }
    var clients: [TCPSocket] = []
    for _ in 0..<400 {
      let client = try program.tcp(net.one.stack)
      #expect(throws: Errno.EINPROGRESS) { try program.connect(client, .two4, 80) }
      net.settle()
      clients.append(client)
    }
    var counts: [Int] = []
    for listener in listeners {
      var count = 0
      while let server = try? program.accept(listener) {
        count += 1
        server.closed()
      }
      counts.append(count)
    }
    #expect(counts.reduce(0, +) == 400 && counts.allSatisfy { $0 > 60 && $0 < 140 }, "\(counts)")
    for socket in clients + listeners { socket.closed() }
    net.settle()
    #expect(net.two.stack.flows.count == 0)
  }

  /// TCP_DEFER_ACCEPT: a connection is one when data comes, or when that has been waited for.
  @Test func deferred() throws {
    let net = try TestNetwork(attends: true)
    let listener = try program.listener(net.two.stack, .any4, 80)
    try program.set(listener, 6, 9, 3)
    let (one, other) = (try program.tcp(net.one.stack), try program.tcp(net.one.stack))
    for client in [one, other] {
      #expect(throws: Errno.EINPROGRESS) { try program.connect(client, .two4, 80) }
      net.settle()
      #expect(client.readyMask == .writable)
    }
    #expect(throws: Errno.EAGAIN) { try program.accept(listener) }
    try program.send(one, [1, 2])
    net.settle()
    let server = try program.accept(listener)
    #expect(try program.receive(server).bytes == [1, 2])
    #expect(throws: Errno.EAGAIN) { try program.accept(listener) }
    net.pass(8_000_000_000)
    let late = try program.accept(listener)
    for socket in [one, other, server, late, listener] { socket.closed() }
  }

  // MARK: Hostile segments

  @Test func segmentsInTheWindow() throws {
    let net = try TestNetwork(attends: true)
    net.wire.filter = { isTCP($0) ? nil : $0 }
    let listener = try program.listener(net.two.stack, .any4, 80)
    let stranger = Stranger(net: net, port: 5000)
    let (sequence, acknowledgement) = try stranger.open()
    let server = try program.accept(listener)
    _ = stranger.heard()
    // A reset in the window is asked about; a SYN too; not both within half a second.
    try stranger.send(.reset, sequence: sequence &+ 100)
    #expect(stranger.heard().map { $0.flags } == [.acknowledge])
    try stranger.send(.synchronize, sequence: sequence &+ 100)
    #expect(stranger.heard().isEmpty)
    net.pass(1_000_000_000)
    try stranger.send(.synchronize, sequence: sequence &+ 100)
    #expect(stranger.heard().map { $0.flags } == [.acknowledge])
    // Resets elsewhere are nothing.
    try stranger.send(.reset, sequence: sequence &- 1)
    try stranger.send(.reset, sequence: sequence &+ 100_000_000)
    // Wrong checksums, no acknowledgement, data before and beyond the window.
    try stranger.send(
      [.acknowledge, .push], sequence: sequence, acknowledgement: acknowledgement, data: [9, 9], spoils: true)
    try stranger.send(.push, sequence: sequence, data: [9])
    try stranger.send(
      .acknowledge, sequence: sequence &- 3, acknowledgement: acknowledgement, data: [9, 9, 9])
    try stranger.send(
      .acknowledge, sequence: sequence &+ 1_000_000, acknowledgement: acknowledgement, data: [9, 9, 9])
    net.settle()
    #expect(server.state == .established)
    #expect(throws: Errno.EAGAIN) { try program.receive(server) }
    #expect(net.two.stack.transmission.counted(.checksumErrors) == 1)
    // What belongs there is taken.
    try stranger.send([.acknowledge, .push], sequence: sequence, acknowledgement: acknowledgement, data: [1, 2])
    net.settle()
    #expect(try program.receive(server).bytes == [1, 2])
    try stranger.send(.reset, sequence: sequence &+ 2)
    net.settle()
    #expect(throws: Errno.ECONNRESET) { try program.receive(server) }
    for socket in [server, listener] { socket.closed() }
    #expect(net.two.stack.flows.count == 0)
  }

  /// Small pieces out of order, for ever: memory is bounded by what the window may hold.
  @Test func manyPieces() throws {
    let net = try TestNetwork(attends: true)
    net.wire.filter = { isTCP($0) ? nil : $0 }
    let listener = try program.listener(net.two.stack, .any4, 80)
    let stranger = Stranger(net: net, port: 5000)
    let (sequence, acknowledgement) = try stranger.open()
    let server = try program.accept(listener)
    for number in 0..<20_000 {
      try stranger.send(
        .acknowledge, sequence: sequence &+ 2 &+ UInt32(number % 30_000) * 2, acknowledgement: acknowledgement,
        data: [1])
      net.settle()
      net.wire.log = []
    }
    // What this connection keeps: other tests take memory meanwhile.
    let flow = try #require(server.flow)
    let (footprint, rangeCount) = (flow.core.reassembly.footprint, flow.core.reassembly.rangeCount)
    #expect(footprint > 0 && footprint < 1 << 20)
    #expect(rangeCount > 0 && rangeCount <= SegmentReassembly.maximumRanges)
    #expect(server.state == .established)
    for socket in [server, listener] { socket.closed() }
  }

  /// Segments for nobody are answered by a reset; a reset for nobody is not.
  @Test func nobody() throws {
    let net = try TestNetwork(attends: true)
    net.wire.filter = { isTCP($0) ? nil : $0 }
    let stranger = Stranger(net: net, port: 5000)
    _ = stranger.heard()
    try stranger.send(.synchronize, sequence: 5)
    var heard = stranger.heard()
    #expect(heard.map { $0.flags } == [[.reset, .acknowledge]] && heard[0].acknowledgement.rawValue == 6)
    try stranger.send(.acknowledge, sequence: 5, acknowledgement: 77, data: [1])
    heard = stranger.heard()
    #expect(heard.map { $0.flags } == [.reset] && heard[0].sequence.rawValue == 77)
    try stranger.send(.reset, sequence: 5)
    #expect(stranger.heard().isEmpty)
  }

  /// Nothing that comes brings it down: random headers, flags, lengths, between two ends that talk.
  @Test func noise() throws {
    let joined = try Joined()
    let net = joined.net
    var chance = Chance(5)
    let template = try #require(net.wire.log.last { isTCP($0) && $0[33] == 2 })
    for _ in 0..<5000 {
      var frame = template
      let count = chance.below(60) + 20
      frame = Array(frame[..<34]) + (0..<count).map { _ in UInt8(chance.below(256)) }
      frame[16] = UInt8((20 + count) >> 8)
      frame[17] = UInt8((20 + count) & 255)
      // Of the right ports, often, and with a right checksum.
      if chance.happens(800) { frame.replaceSubrange(34..<38, with: template[34..<38]) }
      if chance.happens(900) { frame[46] = UInt8(chance.below(12) + 5) << 4 }
      (frame[24], frame[25], frame[50], frame[51]) = (0, 0, 0, 0)
      var sum = InternetChecksum()
      frame[14..<34].withUnsafeBytes { sum.add($0) }
      (frame[24], frame[25]) = (UInt8(sum.value >> 8), UInt8(sum.value & 255))
      var check = InternetChecksum()
      check.addPseudoHeader(.one4, .two4, protocol: 6, byteCount: count)
      frame[34...].withUnsafeBytes { check.add($0) }
      (frame[50], frame[51]) = (UInt8(check.value >> 8), UInt8(check.value & 255))
      net.two.link.receive(frame)
      net.settle()
      net.wire.log = []
      if chance.happens(20) { net.pass(100_000_000) }
    }
    #expect(joined.isAllGone())
  }
}
