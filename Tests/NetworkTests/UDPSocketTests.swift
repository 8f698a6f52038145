// UDP sockets between two machines and within one: where datagrams go, what is told of them, errors, floods, sharing.
import Base
import Devices
import Files
import Locks
import Memory
import Platform
import Testing

@testable import Network

private func numbers(_ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 13 &+ $0 >> 8) } }

@Suite(.serialized) struct UDPSocketTests {
  let program = SocketClient()

  @Test(arguments: [true, false], [0, 1, 1472, 1473, 9000, 65_507]) func thereAndBack(isV4: Bool, size: Int) throws {
    let net = try TestNetwork()
    let (from, to): (IPAddress, IPAddress) = isV4 ? (.one4, .two4) : (.six(1), .six(2))
    let client = try program.udp(net.one.stack, isV4: isV4)
    let server = try program.udp(net.two.stack, isV4 ? .any4 : .any6, 53)
    #expect(try program.send(client, numbers(size), to: (to, 53)) == size)
    net.settle()
    let (bytes, message) = try program.receive(server)
    #expect(bytes == numbers(size))
    #expect(message.sender == InternetEndpoint(from, port: client.port))
    #expect((32_768...60_999).contains(client.port))
    try program.send(server, bytes, to: (from, client.port))
    net.settle()
    #expect(try program.receive(client).bytes == numbers(size))
    #expect(throws: Errno.EAGAIN) { try program.receive(client) }
    #expect(throws: Errno.EMSGSIZE) { try program.send(client, numbers(isV4 ? 65_508 : 65_536), to: (to, 53)) }
    client.closed()
    server.closed()
  }

  @Test(arguments: [true, false]) func withinAMachine(isV4: Bool) throws {
    let net = try TestNetwork()
    let here: IPAddress = isV4 ? .loopback4 : .loopback6
    let server = try program.udp(net.one.stack, here, 0)
    let client = try program.udp(net.one.stack, isV4: isV4)
    try program.connect(client, here, server.port)
    for size in [0, 5, 60_000] {
      try program.send(client, numbers(size))
      #expect(server.readyMask.contains(.readable))
      #expect(try program.receive(server).bytes == numbers(size))
      #expect(!server.readyMask.contains(.readable))
    }
    server.closed()
    try program.send(client, [1])
    #expect(client.readyMask.contains(.error))
    #expect(throws: Errno.ECONNREFUSED) { try program.receive(client) }
    #expect(throws: Errno.EAGAIN) { try program.receive(client) }
    client.closed()
    #expect(net.one.stack.flows.count == 0)
  }

  /// One socket for both families.
  @Test func bothFamilies() throws {
    let net = try TestNetwork()
    let server = try program.udp(net.two.stack, .any6, 53)
    let four = try program.udp(net.one.stack)
    let six = try program.udp(net.one.stack, isV4: false)
    for (socket, byte, address) in [(four, 4, IPAddress.two4), (six, 6, .six(2)), (six, 46, .two4)]
      as [(UDPSocket, UInt8, IPAddress)]
    {
      try program.send(socket, [byte], to: (address, 53))
      net.settle()
    }
    for (byte, address) in [(4, IPAddress.one4), (6, .six(1)), (46, .one4)] as [(UInt8, IPAddress)] {
      let (bytes, message) = try program.receive(server)
      #expect(bytes == [byte] && message.sender?.address == address)
      // Answers go back the same way.
      try program.send(server, [byte &+ 1], to: (address, try #require(message.sender?.port)))
    }
    net.settle()
    #expect(program.receiveAll(four) == [[5]] && program.receiveAll(six) == [[7], [47]])
    // One that speaks IPv6 only neither hears nor speaks IPv4.
    let only = try program.udp(net.two.stack, isV4: false)
    try program.set(only, OptionLevel.internet6, 26, 1)
    try program.bind(only, .any6, 54)
    try program.send(four, [1], to: (.two4, 54))
    net.settle()
    #expect(program.receiveAll(only) == [])
    #expect(throws: Errno.ENETUNREACH) { try program.send(only, [1], to: (.one4, 53)) }
    #expect(throws: Errno.EINVAL) { try program.set(only, OptionLevel.internet6, 26, 0) }
  }

  @Test func connecting() throws {
    let net = try TestNetwork()
    let server = try program.udp(net.two.stack, .any4, 53)
    let other = try program.udp(net.two.stack, .any4, 54)
    let client = try program.udp(net.one.stack)
    #expect(throws: Errno.EDESTADDRREQ) { try program.send(client, [1]) }
    #expect(throws: Errno.ENOTCONN) { try client.peerAddress() }
    try program.connect(client, .two4, 53)
    #expect(try client.address() == InternetEndpoint(.one4, port: client.port).sockaddr4)
    #expect(try client.peerAddress() == InternetEndpoint(.two4, port: 53).sockaddr4)
    try program.send(client, [1])
    // A stranger is not heard, and hears that nobody is there.
    try program.connect(other, .one4, client.port)
    try program.send(other, [2])
    try program.send(server, [3], to: (.one4, client.port))
    net.settle()
    #expect(program.receiveAll(client) == [[3]])
    #expect(throws: Errno.ECONNREFUSED) { try program.send(other, [2]) }
    let port = client.port
    try client.connect(SocketAddress([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), program.caller)
    #expect(client.port == 0)
    try program.bind(client, .any4, port)
    try program.send(other, [2])
    net.settle()
    #expect(program.receiveAll(client) == [[2]])
    for socket in [server, other, client] { socket.closed() }
    #expect(net.one.stack.flows.count == 0 && net.two.stack.flows.count == 0)
  }

  @Test func bindingIsChecked() throws {
    let net = try TestNetwork()
    let stack = net.one.stack
    #expect(throws: Errno.EADDRNOTAVAIL) { try program.udp(stack, .two4, 1000) }
    #expect(throws: Errno.EADDRNOTAVAIL) { try program.udp(stack, .six(2), 1000) }
    let plain = SocketClient(user: 5)
    #expect(throws: Errno.EACCES) { try plain.udp(stack, .any4, 80) }
    let first = try plain.udp(stack, .one4, 4000)
    #expect(throws: Errno.EADDRINUSE) { try program.udp(stack, .any4, 4000) }
    #expect(throws: Errno.EINVAL) { try program.bind(first, .any4, 1001) }
    #expect(throws: Errno.EINVAL) { try first.bind(SocketAddress([2, 0, 1, 1]), program.caller) }
    #expect(throws: Errno.EAFNOSUPPORT) {
      try first.bind(SocketAddress([10, 0] + [UInt8](repeating: 0, count: 26)), program.caller)
    }
    let anywhere = try program.udp(stack)
    try program.set(anywhere, OptionLevel.internet4, 15, 1)  // IP_FREEBIND
    try program.bind(anywhere, .two4, 1000)
    first.closed()
    #expect(try program.udp(stack, .any4, 1001).port == 1001)
    // A link-local address says on which link.
    #expect(throws: Errno.EINVAL) { try program.udp(stack, IPAddress(high: 0xfe80 << 48, low: 5), 1000) }
  }

  @Test func peekingAndCutting() throws {
    let net = try TestNetwork()
    let server = try program.udp(net.one.stack, .loopback4, 1000)
    let client = try program.udp(net.one.stack)
    try program.send(client, numbers(100), to: (.loopback4, 1000))
    #expect(try program.receive(server, 10, .peek).bytes == Array(numbers(100)[..<10]))
    #expect(try program.receive(server, 10, [.peek, .truncated]).message.count == 100)
    let (bytes, message) = try program.receive(server, 30)
    #expect(bytes == Array(numbers(100)[..<30]) && message.flags == .truncated && message.count == 30)
    #expect(throws: Errno.EAGAIN) { try program.receive(server) }
  }

  @Test func peekingOn() throws {
    let net = try TestNetwork()
    let server = try program.udp(net.one.stack, .loopback4, 1000)
    let client = try program.udp(net.one.stack)
    for bytes in [[1, 2, 3], [4, 5]] as [[UInt8]] { try program.send(client, bytes, to: (.loopback4, 1000)) }
    try program.set(server, 1, SocketOption.peekOffset, 1)
    #expect(try program.receive(server, 9, .peek).bytes == [2, 3])
    #expect(try program.receive(server, 1, .peek).bytes == [4])
    #expect(try program.receive(server, 9).bytes == [1, 2, 3])
    #expect(try program.receive(server, 9, .peek).bytes == [5])
    #expect(throws: Errno.EAGAIN) { try program.receive(server, 9, .peek) }
    #expect(try program.receive(server, 9).bytes == [4, 5])
  }

  // MARK: Floods

  /// A queue takes what SO_RCVBUF says, and what does not fit is counted; the socket works on.
  @Test func aFloodIsBounded() throws {
    let net = try TestNetwork()
    let server = try program.udp(net.one.stack, .loopback4, 1000)
    try program.set(server, OptionLevel.socket, SocketOption.receiveBuffer, 50_000)
    try program.set(server, OptionLevel.socket, SocketOption.overflowCount, 1)
    let client = try program.udp(net.one.stack)
    for index in 0..<5000 { try program.send(client, [UInt8(index & 0xff)], to: (.loopback4, 1000)) }
    let got = program.receiveAll(server)
    #expect(got.count > 100 && got.count < 500)
    for (index, bytes) in got.enumerated() where bytes != [UInt8(index & 0xff)] {
      Issue.record("datagram \(index)")
      break
    }
    #expect(server.status.droppedCount == UInt64(5000 - got.count))
    try program.send(client, [9], to: (.loopback4, 1000))
    let (_, message) = try program.receive(server)
    #expect(message.control.parts.contains(.dropped) && message.control.droppedCount == UInt32(5000 - got.count))
    #expect(server.receiver.queuedByteCount == 0)
  }

  // MARK: What does not belong there

  @Test func wrongDatagramsAreDropped() throws {
    let net = try TestNetwork()
    let server = try program.udp(net.two.stack, .any6, 1000)
    let client = try program.udp(net.one.stack, isV4: false)
    // So that both addresses are known.
    for address in [IPAddress.two4, .six(2)] { try program.send(client, [1], to: (address, 1000)) }
    net.settle()
    #expect(program.receiveAll(server) == [[1], [1]])
    var change: ([UInt8]) -> [UInt8] = { $0 }
    net.wire.filter = { $0[12] == 8 || $0[12] == 0x86 ? change($0) : $0 }
    // A byte of the data; the length; a checksum of 0, which IPv4 may have and IPv6 may not.
    for (isV4, position, value, isReceived) in [
      (true, 42, 99, false), (true, 39, 200, false), (true, 39, 7, false), (false, 62, 99, false),
    ] as [(Bool, Int, UInt8, Bool)] {
      change = { frame in
        var frame = frame
        frame[position] = value
        return frame
      }
      try program.send(client, [1, 2, 3], to: (isV4 ? .two4 : .six(2), 1000))
      net.settle()
      #expect(!server.readyMask.contains(.readable))
      #expect(program.receiveAll(server) == (isReceived ? [[1, 2, 3]] : []))
    }
    for isV4 in [true, false] {
      change = { frame in
        var frame = frame
        frame[isV4 ? 40 : 60] = 0
        frame[isV4 ? 41 : 61] = 0
        return frame
      }
      try program.send(client, [1, 2, 3], to: (isV4 ? .two4 : .six(2), 1000))
      net.settle()
      #expect(program.receiveAll(server) == (isV4 ? [[1, 2, 3]] : []))
    }
    #expect(net.two.stack.counted(.udpErrors, isV4: true) == 3)
    #expect(net.two.stack.counted(.udpErrors, isV4: false) == 2)
  }

  // MARK: Errors

  @Test(arguments: [true, false]) func errorsAreTold(isV4: Bool) throws {
    let net = try TestNetwork()
    let to: IPAddress = isV4 ? .two4 : .six(2)
    let plain = try program.udp(net.one.stack, isV4: isV4)
    let curious = try program.udp(net.one.stack, isV4: isV4)
    try program.set(curious, isV4 ? 0 : 41, isV4 ? 11 : 25, 1)
    for socket in [plain, curious] { try program.send(socket, numbers(20), to: (to, 9)) }
    net.settle()
    // Who is not connected hears nothing, unless it wants to.
    #expect(!plain.readyMask.contains(.error) && plain.takeError() == nil)
    #expect(curious.readyMask.contains(.error))
    #expect(throws: Errno.ECONNREFUSED) { try program.receive(curious) }
    let (bytes, message) = try program.receive(curious, 1000, .errorQueue)
    #expect(bytes == numbers(20) && message.flags == .errorQueue)
    #expect(message.sender == InternetEndpoint(to, port: 9))
    let error = message.control.error
    #expect(error.number == UInt32(Errno.ECONNREFUSED.rawValue) && error.origin == (isV4 ? 2 : 3))
    #expect(error.type == (isV4 ? 3 : 1) && error.code == (isV4 ? 3 : 4))
    #expect(message.control.offender.address == to)
    #expect(throws: Errno.EAGAIN) { try program.receive(curious, 1000, .errorQueue) }
    #expect(!curious.readyMask.contains(.error))
  }

  /// The queue of errors is bounded.
  @Test func manyErrors() throws {
    let net = try TestNetwork()
    let curious = try program.udp(net.one.stack)
    try program.set(curious, 0, 11, 1)
    var sent = 0
    for _ in 0..<500 where (try? program.send(curious, numbers(1000), to: (.loopback4, 9))) != nil { sent += 1 }
    var queued = 0
    while (try? program.receive(curious, 2000, .errorQueue)) != nil { queued += 1 }
    #expect(queued > 0 && queued <= 64)
    _ = curious.takeError()
    #expect(curious.readyMask == .writable)
  }

  @Test func pathMTU() throws {
    let net = try TestNetwork()
    let client = try program.udp(net.one.stack)
    try program.connect(client, .two4, 9)
    #expect(try program.get(client, 0, 14) == 1500)
    try program.set(client, 0, 10, 2)  // IP_PMTUDISC_DO
    #expect(throws: Errno.EMSGSIZE) { try program.send(client, numbers(1473)) }
    #expect(try program.send(client, numbers(1472)) == 1472)
    try program.set(client, 0, 10, 0)
    #expect(try program.send(client, numbers(1473)) == 1473)
  }

  // MARK: Sharing

  /// SO_REUSEPORT: every sender keeps its receiver, and each receiver has its part.
  @Test func reusePort() throws {
    let net = try TestNetwork()
    var servers: [UDPSocket] = []
    for _ in 0..<4 {
      let server = try program.udp(net.two.stack)
      try program.set(server, 1, SocketOption.reusePort, 1)
      try program.bind(server, .any4, 53)
      servers.append(server)
    }
    #expect(throws: Errno.EADDRINUSE) { try program.udp(net.two.stack, .any4, 53) }
    let clients = try (0..<400).map { _ in try program.udp(net.one.stack) }
    for round in 0..<2 {
      for client in clients {
        try program.send(client, [1], to: (.two4, 53))
        net.settle()
      }
      let counts = servers.map { program.receiveAll($0).count }
      #expect(counts.reduce(0, +) == 400 && counts.allSatisfy { $0 > 60 && $0 < 140 }, "\(round): \(counts)")
    }
    // Who has gone gets nothing more.
    servers[0].closed()
    for client in clients {
      try program.send(client, [1], to: (.two4, 53))
      net.settle()
    }
    let counts = servers.dropFirst().map { program.receiveAll($0).count }
    #expect(counts.reduce(0, +) == 400 && counts.allSatisfy { $0 > 80 })
    for server in servers.dropFirst() { server.closed() }
    #expect(net.two.stack.flows.count == 0)
  }

  /// SO_REUSEADDR: the last who came gets what is for one; all get what is for all.
  @Test func reuseAddress() throws {
    let net = try TestNetwork()
    let servers = try (0..<3).map { _ in
      let server = try program.udp(net.two.stack)
      try program.set(server, 1, SocketOption.reuseAddress, 1)
      try program.bind(server, .any4, 53)
      return server
    }
    let client = try program.udp(net.one.stack)
    try program.send(client, [1], to: (.two4, 53))
    net.settle()
    #expect(throws: Errno.EACCES) { try program.send(client, [2], to: (.broadcast4, 53)) }
    #expect(throws: Errno.EACCES) { try program.send(client, [2], to: (IPAddress(v4: 0x0a00_00ff), 53)) }
    try program.set(client, 1, SocketOption.broadcast, 1)
    try program.send(client, [2], to: (IPAddress(v4: 0x0a00_00ff), 53))
    net.settle()
    #expect(servers.map { program.receiveAll($0) } == [[[2]], [[2]], [[1], [2]]])
  }

  @Test(arguments: [true, false]) func groups(isV4: Bool) throws {
    let net = try TestNetwork()
    let group = isV4 ? IPAddress(v4: 0xe801_0203) : IPAddress(high: 0xff05 << 48, low: 0x1234)
    let servers = try (0..<2).map { _ in
      let server = try program.udp(net.two.stack, isV4: isV4)
      try program.set(server, 1, SocketOption.reuseAddress, 1)
      try program.bind(server, isV4 ? .any4 : .any6, 53)
      return server
    }
    /// struct group_req.
    func request(_ index: UInt32) -> [UInt8] {
      let name = isV4 ? InternetEndpoint(group).sockaddr4.bytes : InternetEndpoint(group).sockaddr6.bytes
      return [UInt8(index), 0, 0, 0, 0, 0, 0, 0] + name + [UInt8](repeating: 0, count: 128 - name.count)
    }
    let level: Int32 = isV4 ? 0 : 41
    let client = try program.udp(net.one.stack, isV4: isV4)
    func sendOne(_ byte: UInt8) throws -> [[[UInt8]]] {
      try program.send(client, [byte], to: (group, 53))
      net.settle()
      return servers.map { program.receiveAll($0) }
    }
    if isV4 {
      try program.set(client, 0, 32, 0, 0, 2)  // IP_MULTICAST_IF
    } else {
      try program.set(client, 41, 17, 2)
    }
    #expect(try sendOne(1) == [[], []])
    try program.set(servers[0], level, 42, bytes: request(2))
    #expect(throws: Errno.EADDRINUSE) { try program.set(servers[0], level, 42, bytes: request(2)) }
    #expect(throws: Errno.ENODEV) { try program.set(servers[0], level, 42, bytes: request(9)) }
    // Both hear it, unless one wants only what it has joined itself.
    #expect(try sendOne(2) == [[[2]], [[2]]])
    try program.set(servers[1], level, isV4 ? 49 : 29, 0)
    #expect(try sendOne(3) == [[[3]], []])
    try program.set(servers[1], level, 42, bytes: request(2))
    #expect(try sendOne(4) == [[[4]], [[4]]])
    // Blocked: everybody but this sender is heard.
    let source: IPAddress = isV4 ? .one4 : .six(1)
    let name = isV4 ? InternetEndpoint(source).sockaddr4.bytes : InternetEndpoint(source).sockaddr6.bytes
    let blocking = request(2) + name + [UInt8](repeating: 0, count: 128 - name.count)
    try program.set(servers[1], level, 43, bytes: blocking)
    #expect(try sendOne(5) == [[[5]], []])
    try program.set(servers[1], level, 44, bytes: blocking)
    #expect(try sendOne(6) == [[[6]], [[6]]])
    try program.set(servers[0], level, 45, bytes: request(2))
    #expect(throws: Errno.EADDRNOTAVAIL) { try program.set(servers[0], level, 45, bytes: request(2)) }
    servers[1].closed()
    #expect(try sendOne(7) == [[], []])
  }

  /// Sockets that are bound to different interfaces may have the same port, and each hears its own.
  @Test func interfaces() throws {
    let net = try TestNetwork()
    let bound = try ["lo", "eth0"].map { name in
      let socket = try program.udp(net.one.stack)
      try program.set(socket, 1, SocketOption.bindToDevice, bytes: Array(name.utf8))
      try program.bind(socket, .any4, 53)
      return socket
    }
    let far = try program.udp(net.two.stack)
    let near = try program.udp(net.one.stack)
    try program.send(far, [1], to: (.one4, 53))
    try program.send(near, [2], to: (.one4, 53))
    net.settle()
    #expect(bound.map { program.receiveAll($0) } == [[[2]], [[1]]])
    #expect(throws: Errno.ENETUNREACH) { try program.send(bound[0], [1], to: (.two4, 9)) }
  }

  // MARK: Segments and control

  @Test func segments() throws {
    for offloads in [[], [.udp, .checksum]] as [PacketOffloads] {
      let net = try TestNetwork(offloads: offloads)
      let server = try program.udp(net.two.stack, .any4, 53)
      let client = try program.udp(net.one.stack)
      var control = OutgoingControl()
      control.segmentByteCount = 1000
      try program.send(client, numbers(4500), to: (.two4, 53), control: control)
      net.settle()
      #expect(
        program.receiveAll(server)
          == stride(from: 0, to: 4500, by: 1000).map { Array(numbers(4500)[$0..<min($0 + 1000, 4500)]) })
      control.segmentByteCount = 1473
      #expect(throws: Errno.EINVAL) { try program.send(client, numbers(4500), to: (.two4, 53), control: control) }
      control.segmentByteCount = 10
      #expect(throws: Errno.EINVAL) { try program.send(client, numbers(4500), to: (.two4, 53), control: control) }
    }
  }

  @Test func piecesOfOne() throws {
    let net = try TestNetwork()
    let server = try program.udp(net.two.stack, .any4, 53)
    let client = try program.udp(net.one.stack)
    for index in 0..<200 { try program.send(client, [UInt8(index)], to: (.two4, 53), flags: index < 199 ? .more : []) }
    net.settle()
    #expect(program.receiveAll(server) == [(0..<200).map { UInt8($0) }])
    // Too much for one: all of it is lost, and the next one is whole.
    try program.send(client, numbers(60_000), to: (.two4, 53), flags: .more)
    #expect(throws: Errno.EMSGSIZE) { try program.send(client, numbers(60_000), to: (.two4, 53)) }
    try program.send(client, [1], to: (.two4, 53))
    net.settle()
    #expect(program.receiveAll(server) == [[1]])
    client.closed()
  }

  @Test func sourcesAndLimits() throws {
    let net = try TestNetwork()
    try net.one.link.add(InterfaceAddress(IPAddress(v4: 0x0a00_0009), prefixLength: 24))
    let server = try program.udp(net.two.stack, .any4, 53)
    for option in [8, 12, 13] as [Int32] { try program.set(server, 0, option, 1) }
    let client = try program.udp(net.one.stack)
    var control = OutgoingControl()
    control.source = IPAddress(v4: 0x0a00_0009)
    control.hopLimit = 7
    control.trafficClass = 0x28
    try program.send(client, [1], to: (.two4, 53), control: control)
    try program.send(client, [2], to: (.two4, 53))
    net.settle()
    let (_, first) = try program.receive(server)
    #expect(first.sender?.address == IPAddress(v4: 0x0a00_0009))
    #expect(first.control.hopLimit == 7 && first.control.trafficClass == 0x28)
    #expect(first.control.parts == [.packetInformation4, .hopLimit4, .trafficClass4])
    #expect(first.control.interfaceIndex == 2 && first.control.destination == .two4)
    let (_, second) = try program.receive(server)
    #expect(second.sender?.address == .one4 && second.control.hopLimit == 64)
  }
}
