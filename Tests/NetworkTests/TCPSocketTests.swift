// TCP sockets between two machines and within one: opening, data, ends, errors, readiness.
import Base
import Devices
import Files
import Locks
import Memory
import Platform
import Testing

@testable import Network

func someBytes(_ count: Int, _ seed: Int = 1) -> [UInt8] {
  (0..<count).map { UInt8(truncatingIfNeeded: ($0 &* 31 &+ $0 >> 9) &* seed) }
}

/// Whether a frame is one of TCP over IPv4.
func isTCP(_ frame: [UInt8]) -> Bool { frame.count > 47 && frame[12] == 8 && frame[13] == 0 && frame[23] == 6 }

extension SocketClient {
  /// A socket of TCP.
  func tcp(_ stack: NetworkStack, isV4: Bool = true) throws(Errno) -> TCPSocket {
    guard let result = try socket(isV4 ? 2 : 10, 1, 0, stack) as? TCPSocket else { throw .EPROTO }
    return result
  }

  /// One that listens.
  func listener(_ stack: NetworkStack, _ address: IPAddress, _ port: UInt16, backlog: Int = 16) throws(Errno)
    -> TCPSocket
  {
    let result = try tcp(stack, isV4: address.isV4)
    do throws(Errno) {
      try bind(result, address, port)
      try result.listen(backlog: backlog, caller)
    } catch {
      result.closed()
      throw error
    }
    return result
  }

  func accept(_ listener: TCPSocket) throws(Errno) -> TCPSocket {
    guard let result = try listener.accept(flags: .nonBlocking) as? TCPSocket else { throw .EPROTO }
    return result
  }
}

/// Two machines, with a connection between them or within one.
struct Joined {
  let net: TestNetwork
  let program = SocketClient()
  let listener: TCPSocket
  let client: TCPSocket
  let server: TCPSocket

  init(
    isV4: Bool = true, isLocal: Bool = false, mtu: Int = 1500, offloads: PacketOffloads = [],
    _ prepare: (TCPSocket, TCPSocket) throws -> Void = { _, _ in }
  ) throws {
    net = try TestNetwork(mtu: mtu, offloads: offloads, attends: true)
    let to: IPAddress = isLocal ? (isV4 ? .loopback4 : .loopback6) : isV4 ? .two4 : .six(2)
    let other = isLocal ? net.one.stack : net.two.stack
    listener = try program.tcp(other, isV4: isV4)
    try program.bind(listener, isV4 ? .any4 : .any6, 80)
    client = try program.tcp(net.one.stack, isV4: isV4)
    try prepare(client, listener)
    try listener.listen(backlog: 16, program.caller)
    do throws(Errno) { try program.connect(client, to, 80) } catch { guard error == .EINPROGRESS else { throw error } }
    net.settle()
    server = try program.accept(listener)
    do throws(Errno) { try program.connect(client, to, 80) } catch { guard error == .EISCONN else { throw error } }
  }

  /// Everything closed: nothing is left of it, once the time of waiting is over.
  func isAllGone() -> Bool {
    for socket in [listener, client, server] { socket.closed() }
    net.settle()
    net.pass(200_000_000_000, step: 1_000_000_000)
    for stack in [net.one.stack, net.two.stack] {
      guard stack.flows.count == 0, stack.transmission.timeWaits.count == 0, stack.sockets.count == 0,
        stack.transmission.orphanCount.load(ordering: .relaxed) == 0
      else { return false }
    }
    return true
  }
}

extension SocketClient {
  /// Sends all of it, with the other side reading what comes.
  func transfer(_ bytes: [UInt8], from: Socket, to: Socket, _ net: TestNetwork, piece: Int = 70_000) throws -> [UInt8] {
    var (sent, got): (Int, [UInt8]) = (0, [])
    var idle = 0
    while got.count < bytes.count, idle < 2000 {
      var isMoving = false
      if sent < bytes.count {
        do throws(Errno) {
          sent += try send(from, Array(bytes[sent..<min(sent + piece, bytes.count)]))
          isMoving = true
        } catch { guard error == .EAGAIN else { throw error } }
      }
      net.settle()
      while let part = try? receive(to, 65_536), part.message.count > 0 {
        got += part.bytes
        isMoving = true
      }
      net.settle()
      idle = isMoving ? 0 : idle + 1
      if !isMoving { net.pass(5_000_000, step: 5_000_000) }
    }
    return got
  }
}

@Suite(.serialized) struct TCPSocketTests {
  let program = SocketClient()

  // MARK: Opening and data

  @Test(arguments: [true, false], [true, false]) func thereAndBack(isV4: Bool, isLocal: Bool) throws {
    let joined = try Joined(isV4: isV4, isLocal: isLocal)
    let (client, server, net) = (joined.client, joined.server, joined.net)
    #expect(throws: Errno.EISCONN) { try program.connect(client, .two4, 80) }
    #expect(client.readyMask == .writable && server.readyMask == .writable && joined.listener.readyMask == [])
    let (peer, own) = (try server.peerAddress(), try client.address())
    #expect(peer == own)
    #expect(try server.address() == client.peerAddress())
    #expect((32_768...60_999).contains(client.port) && server.port == 80)
    for size in [1, 5, 1000, 1460, 5000, 40_000] {
      #expect(try program.transfer(someBytes(size), from: client, to: server, net) == someBytes(size))
      #expect(try program.transfer(someBytes(size, 3), from: server, to: client, net) == someBytes(size, 3))
    }
    #expect(throws: Errno.EAGAIN) { try program.receive(client) }
    #expect(joined.isAllGone())
  }

  /// Whole megabytes, by segments, by large packets that are cut, and within the machine.
  @Test(arguments: [true, false], [0, 1, 2]) func muchData(isV4: Bool, way: Int) throws {
    let joined = try Joined(isV4: isV4, isLocal: way == 2, offloads: way == 1 ? [.checksum, .tcp4, .tcp6] : [])
    let bytes = someBytes(3_000_000)
    let got = try program.transfer(bytes, from: joined.client, to: joined.server, joined.net)
    #expect(got == bytes)
    #expect(joined.isAllGone())
  }

  @Test func dataThroughLoss() throws {
    let joined = try Joined()
    var count = 0
    joined.net.wire.filter = { frame in
      count += 1
      return count % 17 == 0 ? nil : frame
    }
    let bytes = someBytes(500_000)
    #expect(try program.transfer(bytes, from: joined.client, to: joined.server, joined.net) == bytes)
    joined.net.wire.filter = nil
    #expect(joined.isAllGone())
  }

  /// A thread may have looked at the clock long before it gets the lock: no round trip of ages comes of that, and no timestamp that goes back.
  @Test func timeDoesNotGoBack() throws {
    let joined = try Joined(isLocal: true)
    let (client, server, net) = (joined.client, joined.server, joined.net)
    net.pass(5_000_000_000)
    try program.send(client, [1])
    #expect(try program.receive(server).bytes == [1])
    let flow = try #require(client.flow)
    let early = net.environment.now() - 2_000_000_000
    flow.drain(now: early)
    let (smoothed, flight) = (flow.core.roundTrip.smoothed, flow.core.flight)
    #expect(smoothed < 1_000_000_000 && flight == 0)
    try program.send(server, [2])
    flow.drain(now: early)
    try program.send(client, [3])
    #expect(try program.receive(client).bytes == [2])
    #expect(try program.receive(server).bytes == [3])
    #expect(joined.isAllGone())
  }

  @Test func refusedAndUnreachable() throws {
    let net = try TestNetwork(attends: true)
    let client = try program.tcp(net.one.stack)
    #expect(client.readyMask == [.writable, .hangUp])
    #expect(throws: Errno.EINPROGRESS) { try program.connect(client, .two4, 81) }
    net.settle()
    #expect(client.readyMask.contains([.error, .hangUp, .readable, .writable]))
    #expect(client.takeError() == .ECONNREFUSED)
    #expect(throws: Errno.ECONNABORTED) { try program.connect(client, .two4, 81) }
    // And again, from another port; within the machine it is refused at once.
    #expect(throws: Errno.ECONNREFUSED) { try program.connect(client, .loopback4, 81) }
    #expect(throws: Errno.ENETUNREACH) { try program.connect(client, IPAddress(v4: 0x0b00_0001), 81) }
    #expect(throws: Errno.ENETUNREACH) { try program.connect(client, IPAddress(v4: 0xe000_0001), 81) }
    #expect(throws: Errno.EAFNOSUPPORT) {
      try client.connect(SocketAddress([10, 0] + [UInt8](repeating: 0, count: 26)), program.caller)
    }
    #expect(throws: Errno.EINVAL) { try client.connect(SocketAddress([2, 0, 0, 81]), program.caller) }
    client.closed()
    #expect(net.one.stack.flows.count == 0 && net.one.stack.sockets.count == 0)
  }

  /// Nobody answers: SYNs are sent again, and given up.
  @Test func nobodyAnswers() throws {
    let net = try TestNetwork(attends: true)
    let client = try program.tcp(net.one.stack)
    net.wire.filter = { $0[12] == 8 && $0[13] == 0 ? nil : $0 }
    #expect(throws: Errno.EINPROGRESS) { try program.connect(client, .two4, 81) }
    #expect(throws: Errno.EALREADY) { try program.connect(client, .two4, 81) }
    #expect(client.readyMask == [])
    #expect(throws: Errno.ENOTCONN) { try client.peerAddress() }
    #expect(throws: Errno.EAGAIN) { try program.receive(client) }
    #expect(throws: Errno.EAGAIN) { try program.send(client, [1]) }
    net.pass(200_000_000_000, step: 1_000_000_000)
    let syns = net.wire.log.filter { isTCP($0) && $0[47] == 2 }.count
    #expect(syns == 7)
    #expect(client.takeError() == .ETIMEDOUT)
    client.closed()
    #expect(net.one.stack.flows.count == 0)
  }

  @Test func bothFamilies() throws {
    let net = try TestNetwork(attends: true)
    let listener = try program.listener(net.two.stack, .any6, 80)
    let four = try program.tcp(net.one.stack)
    let six = try program.tcp(net.one.stack, isV4: false)
    #expect(throws: Errno.EINPROGRESS) { try program.connect(four, .two4, 80) }
    net.settle()
    #expect(throws: Errno.EINPROGRESS) { try program.connect(six, .two4, 80) }
    net.settle()
    for client in [four, six] {
      let server = try program.accept(listener)
      #expect(InternetEndpoint(sockaddr6: try server.peerAddress()).address == .one4)
      #expect(try program.transfer([1, 2, 3], from: server, to: client, net) == [1, 2, 3])
      server.closed()
    }
    let only = try program.tcp(net.two.stack, isV4: false)
    try program.set(only, OptionLevel.internet6, 26, 1)
    try program.bind(only, .any6, 81)
    try only.listen(backlog: 1, program.caller)
    let other = try program.tcp(net.one.stack)
    #expect(throws: Errno.EINPROGRESS) { try program.connect(other, .two4, 81) }
    net.settle()
    #expect(other.takeError() == .ECONNREFUSED)
    for socket in [listener, four, six, only, other] { socket.closed() }
  }

  @Test func listening() throws {
    let net = try TestNetwork(attends: true)
    let stack = net.one.stack
    let fresh = try program.tcp(stack)
    #expect(throws: Errno.EINVAL) { try program.accept(fresh) }
    #expect(throws: Errno.ENOTCONN) { try program.receive(fresh) }
    #expect(throws: Errno.EPIPE) { try program.send(fresh, [1]) }
    #expect(throws: Errno.ENOTCONN) { try fresh.shutdown(receiving: false, sending: true) }
    let listener = try program.listener(stack, .any4, 80)
    #expect(listener.isListening && !fresh.isListening)
    #expect(throws: Errno.EAGAIN) { try program.accept(listener) }
    #expect(throws: Errno.EISCONN) { try program.connect(listener, .loopback4, 80) }
    #expect(throws: Errno.ENOTCONN) { try program.receive(listener) }
    #expect(throws: Errno.EADDRINUSE) { try program.listener(stack, .any4, 80) }
    try listener.listen(backlog: 3, program.caller)
    // Without bind it gets a port.
    try fresh.listen(backlog: 1, program.caller)
    #expect(fresh.port != 0)
    #expect(listener.status.state == .listening && listener.status.sendQueueByteCount == 3)
    listener.closed()
    fresh.closed()
    let again = try program.listener(stack, .any4, 80)
    again.closed()
    #expect(stack.flows.count == 0)
  }

  // MARK: Ends

  @Test(arguments: [true, false]) func halfClose(isLocal: Bool) throws {
    let joined = try Joined(isLocal: isLocal)
    let (client, server, net) = (joined.client, joined.server, joined.net)
    try program.send(client, [1, 2, 3])
    try client.shutdown(receiving: false, sending: true)
    net.settle()
    #expect(server.readyMask.contains([.readable, .readHangUp, .writable]) && !server.readyMask.contains(.hangUp))
    #expect(throws: Errno.EPIPE) { try program.send(client, [1]) }
    #expect(try program.receive(server).bytes == [1, 2, 3])
    #expect(try program.receive(server).message.count == 0)
    #expect(try program.receive(server).message.count == 0)
    // The other direction works on.
    #expect(try program.transfer(someBytes(5000), from: server, to: client, net) == someBytes(5000))
    try server.shutdown(receiving: false, sending: true)
    net.settle()
    #expect(client.readyMask.contains([.readable, .readHangUp, .hangUp]))
    #expect(try program.receive(client).message.count == 0)
    #expect(throws: Errno.ENOTCONN) { try client.peerAddress() }
    #expect(joined.net.one.stack.transmission.timeWaits.count == 1)
    #expect(joined.isAllGone())
  }

  /// A connection that its peer has ended before it was accepted is one all the same, with its peer's name.
  @Test func whoHasConnectedIsKnownThoughItHasLeft() throws {
    let joined = try Joined()
    let listener = joined.listener
    let other = try program.tcp(joined.net.one.stack)
    try? program.connect(other, .two4, 80)
    joined.net.settle()
    let name = try other.address()
    try program.set(other, OptionLevel.socket, SocketOption.linger, 1, 0)
    other.closed()
    joined.net.settle()
    let accepted = try program.accept(listener)
    #expect(throws: Errno.ENOTCONN) { try accepted.peerAddress() }
    #expect(accepted.acceptedAddress == name)
  }

  /// What nobody has read is answered by a reset, and so is data for who is gone.
  @Test func resets() throws {
    for way in 0..<3 {
      let joined = try Joined()
      let (client, server, net) = (joined.client, joined.server, joined.net)
      if way == 0 {
        try program.send(client, [1, 2, 3])
        net.settle()
      } else if way == 1 {
        try program.set(server, OptionLevel.socket, SocketOption.linger, 1, 0)
      }
      server.closed()
      net.settle()
      if way == 2 {
        #expect(try program.receive(client).message.count == 0)
        try program.send(client, [1])
        net.settle()
      }
      #expect(client.readyMask.contains([.error, .hangUp, .readable, .writable]))
      if way == 1 {
        #expect(throws: Errno.ECONNRESET) { try program.send(client, [1]) }
      } else if way == 2 {
        #expect(throws: Errno.EPIPE) { try program.send(client, [1]) }
      } else {
        #expect(throws: Errno.ECONNRESET) { try program.receive(client) }
      }
      #expect(try program.receive(client).message.count == 0)
      #expect(throws: Errno.EPIPE) { try program.send(client, [1]) }
      #expect(net.two.stack.transmission.timeWaits.count == 0)
      #expect(joined.isAllGone())
    }
  }

  /// What was sent before close still arrives.
  @Test func orphans() throws {
    let joined = try Joined()
    let (client, server, net) = (joined.client, joined.server, joined.net)
    let bytes = someBytes(60_000)
    #expect(try program.send(client, bytes) == 60_000)
    client.closed()
    var got: [UInt8] = []
    for _ in 0..<100 {
      net.settle()
      guard let part = try? program.receive(server) else {
        net.pass(50_000_000)
        continue
      }
      if part.message.count == 0 { break }
      got += part.bytes
    }
    #expect(got == bytes)
    server.closed()
    net.settle()
    #expect(net.one.stack.transmission.timeWaits.count == 1 && net.one.stack.flows.count == 0)
    #expect(net.one.stack.transmission.orphanCount.load(ordering: .relaxed) == 0)
    #expect(joined.isAllGone())
  }

  /// TIME_WAIT answers what is repeated, keeps the port, and lets a new connection begin by a later number.
  @Test func timeWait() throws {
    let joined = try Joined()
    let (client, server, net) = (joined.client, joined.server, joined.net)
    let port = client.port
    // Ours closes first; the other's FIN comes twice.
    client.closed()
    net.settle()
    net.wire.log = []
    server.closed()
    net.settle()
    let table = net.one.stack.transmission.timeWaits
    #expect(table.count == 1)
    let finish = try #require(net.wire.log.first { isTCP($0) && $0[47] & 1 != 0 })
    net.wire.log = []
    net.pass(1_000_000_000)
    net.one.link.receive(finish)
    net.settle()
    #expect(net.wire.log.contains { isTCP($0) && $0[47] == 0x10 })
    #expect(throws: Errno.EADDRINUSE) { try program.listener(net.one.stack, .any4, port) }
    // The same ends again, by timestamps.
    net.pass(2_000_000_000)
    let again = try program.tcp(net.one.stack)
    try program.set(again, OptionLevel.socket, SocketOption.reuseAddress, 1)
    #expect(throws: Errno.EADDRINUSE) { try program.bind(again, .any4, port) }
    net.pass(60_000_000_000, step: 1_000_000_000)
    #expect(table.count == 0)
    try program.bind(again, .any4, port)
    again.closed()
    joined.listener.closed()
  }

  @Test func disconnecting() throws {
    let joined = try Joined()
    let (client, server, net) = (joined.client, joined.server, joined.net)
    try client.connect(SocketAddress([UInt8](repeating: 0, count: 16)), program.caller)
    net.settle()
    #expect(throws: Errno.ECONNRESET) { try program.receive(server) }
    _ = client.takeError()
    #expect(throws: Errno.ENOTCONN) { try client.peerAddress() }
    #expect(throws: Errno.EINPROGRESS) { try program.connect(client, .two4, 80) }
    net.settle()
    let other = try program.accept(joined.listener)
    #expect(try program.transfer([7], from: client, to: other, net) == [7])
    other.closed()
    #expect(joined.isAllGone())
  }

  // MARK: Reading

  @Test func peekingAndSkipping() throws {
    let joined = try Joined()
    let (client, server, net) = (joined.client, joined.server, joined.net)
    try program.send(client, Array("hello".utf8))
    net.settle()
    #expect(try program.receive(server, 3, .peek).bytes == Array("hel".utf8))
    #expect(try program.receive(server, 3, .truncated).message.count == 3)
    #expect(try program.receive(server, 10).bytes == Array("lo".utf8))
    #expect(throws: Errno.EAGAIN) { try program.receive(server) }
    try program.send(client, [1, 2])
    net.settle()
    #expect(try program.receive(server, 10, .all).bytes == [1, 2])
    #expect(joined.isAllGone())
  }

  @Test func lowMark() throws {
    let joined = try Joined(isLocal: true)
    try program.set(joined.server, OptionLevel.socket, SocketOption.receiveLowMark, 5)
    try program.send(joined.client, [1, 2, 3])
    #expect(!joined.server.readyMask.contains(.readable))
    try program.send(joined.client, [1, 2, 3])
    #expect(joined.server.readyMask.contains(.readable))
    #expect(try program.receive(joined.server).bytes.count == 6)
    #expect(joined.isAllGone())
  }

  @Test func urgentData() throws {
    let joined = try Joined()
    let (client, server, net) = (joined.client, joined.server, joined.net)
    try program.send(client, Array("abc".utf8))
    try program.send(client, Array("!".utf8), flags: .outOfBand)
    try program.send(client, Array("def".utf8))
    net.pass(300_000_000)
    #expect(server.readyMask.contains([.readable, .priority]) && !server.isAtMark)
    #expect(try program.receive(server, 10).bytes == Array("abc".utf8))
    #expect(server.isAtMark)
    #expect(try program.receive(server, 10, .outOfBand).bytes == Array("!".utf8))
    #expect(throws: Errno.EINVAL) { try program.receive(server, 10, .outOfBand) }
    #expect(try program.receive(server, 10).bytes == Array("def".utf8))
    try program.set(server, OptionLevel.socket, SocketOption.outOfBandInline, 1)
    try program.send(client, Array("xy".utf8), flags: .outOfBand)
    net.settle()
    #expect(try program.receive(server, 10).bytes == [0x78])
    #expect(try program.receive(server, 10).bytes == [0x79])
    #expect(joined.isAllGone())
  }

  // MARK: Buffers

  @Test(arguments: [true, false]) func fullBuffers(isLocal: Bool) throws {
    let joined = try Joined(isLocal: isLocal)
    let (client, server, net) = (joined.client, joined.server, joined.net)
    var sent: [UInt8] = []
    while true {
      let part = someBytes(50_000, sent.count | 1)
      guard let count = try? program.send(client, part) else { break }
      sent += part[..<count]
      net.settle()
      if sent.count > 20_000_000 { break }
    }
    #expect(sent.count > 100_000 && sent.count < 10_000_000)
    #expect(!client.readyMask.contains(.writable))
    var got: [UInt8] = []
    while got.count < sent.count {
      guard let part = try? program.receive(server) else {
        net.pass(10_000_000, step: 10_000_000)
        continue
      }
      got += part.bytes
      net.settle()
    }
    #expect(got == sent)
    net.pass(100_000_000)
    #expect(client.readyMask.contains(.writable))
    #expect(joined.isAllGone())
  }

  /// A window that stays closed is probed, and nothing is lost when it opens.
  @Test func closedWindow() throws {
    let joined = try Joined { _, listener in
      try program.set(listener, OptionLevel.socket, SocketOption.receiveBuffer, 4000)
    }
    let (client, server, net) = (joined.client, joined.server, joined.net)
    let bytes = someBytes(40_000)
    let sent = try program.send(client, bytes)
    #expect(sent == 40_000)
    net.pass(20_000_000_000)
    #expect(client.state == .established)
    var got: [UInt8] = []
    for _ in 0..<1000 where got.count < sent {
      if let part = try? program.receive(server, 1000) { got += part.bytes }
      net.pass(10_000_000, step: 10_000_000)
    }
    #expect(got == bytes)
    #expect(joined.isAllGone())
  }

  // MARK: Options

  @Test func options() throws {
    let joined = try Joined { client, listener in
      for (name, value) in [(1, 1), (4, 30), (5, 5), (6, 3), (18, 10_000)] as [(Int32, Int32)] {
        try program.set(listener, 6, name, value)
      }
      try program.set(listener, 1, SocketOption.keepAlive, 1)
      #expect(throws: Errno.EINVAL) { try program.set(client, 6, 4, 0) }
      #expect(throws: Errno.EINVAL) { try program.set(client, 6, 6, 300) }
      #expect(throws: Errno.ENOPROTOOPT) { try program.set(client, 6, 999, 1) }
      #expect(throws: Errno.EINVAL) { try program.set(client, 6, 1, bytes: [1]) }
      try program.set(client, 6, 13, bytes: Array("reno".utf8))
      #expect(throws: Errno.ENOENT) { try program.set(client, 6, 13, bytes: Array("nonsense".utf8)) }
      try program.set(client, 6, 9, 5)
      #expect(try program.get(client, 6, 9) == 7)
    }
    for (name, value) in [(1, 1), (4, 30), (5, 5), (6, 3), (18, 10_000)] as [(Int32, Int32)] {
      #expect(try program.get(joined.server, 6, name) == value)
    }
    #expect(try program.get(joined.client, 6, 13) == 0x6f6e_6572)
    #expect(try program.get(joined.client, 6, 2) == 1448)
    #expect(try program.get(joined.client, 6, 11) & 0xff == 1)
    // Kept alive: after 30 s it is asked, and answers.
    joined.net.wire.log = []
    joined.net.pass(31_000_000_000, step: 1_000_000_000)
    #expect(joined.net.wire.log.filter(isTCP).count == 2)
    #expect(joined.isAllGone())
  }

  @Test func corkAndMore() throws {
    let joined = try Joined(isLocal: true)
    let (client, server) = (joined.client, joined.server)
    try program.set(client, 6, 3, 1)
    try program.send(client, [1])
    #expect(!server.readyMask.contains(.readable))
    try program.set(client, 6, 3, 0)
    #expect(try program.receive(server).bytes == [1])
    try program.send(client, [2], flags: .more)
    #expect(!server.readyMask.contains(.readable))
    try program.send(client, [3])
    #expect(try program.receive(server).bytes == [2, 3])
    #expect(joined.isAllGone())
  }
}
