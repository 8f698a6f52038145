// Netlink: answers as programs parse them, changes, rights, and requests that make no sense.
import Base
import Devices
import Files
import Locks
import Memory
import Testing

@testable import Network

@Suite(.serialized) struct NetlinkTests {
  let program = SocketClient()

  struct Reply {
    var header: NetlinkHeader
    var body: [UInt8]
    /// Attributes behind a structure of so many bytes.
    func attributes(behind offset: Int) -> [UInt16: [UInt8]] {
      var result: [UInt16: [UInt8]] = [:]
      var place = offset
      while place + 4 <= body.count {
        let count = Int(body[place]) | Int(body[place + 1]) << 8
        guard count >= 4, place + count <= body.count else { break }
        result[UInt16(body[place + 2]) | UInt16(body[place + 3]) << 8] = Array(body[place + 4..<place + count])
        place += (count + 3) & ~3
      }
      return result
    }
    /// An error's number.
    var error: Int32 { body.withUnsafeBytes { -$0.loadUnaligned(as: Int32.self) } }
  }

  func request(_ type: UInt16, _ flags: UInt16, _ body: [UInt8], sequence: UInt32 = 5) -> [UInt8] {
    var bytes: [UInt8] = []
    let header = NetlinkHeader(
      messageByteCount: UInt32(16 + body.count), type: type, flags: flags | NetlinkHeader.request, sequence: sequence,
      port: 0)
    withUnsafeBytes(of: header) { bytes.append(contentsOf: $0) }
    return bytes + body
  }

  func attribute(_ type: UInt16, _ data: [UInt8]) -> [UInt8] {
    [UInt8(data.count + 4), 0, UInt8(type & 0xff), UInt8(type >> 8)] + data
      + [UInt8](repeating: 0, count: (4 - data.count % 4) % 4)
  }

  /// All messages that are there.
  func replies(_ socket: Socket) -> [Reply] {
    var result: [Reply] = []
    while let (bytes, _) = try? program.receive(socket) {
      var place = 0
      while place + 16 <= bytes.count {
        let header = bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: place, as: NetlinkHeader.self) }
        let count = Int(header.messageByteCount)
        guard count >= 16, place + count <= bytes.count else {
          Issue.record("a message of \(count) bytes")
          return result
        }
        result.append(Reply(header: header, body: Array(bytes[place + 16..<place + count])))
        place += (count + 3) & ~3
      }
    }
    return result
  }

  func ask(_ socket: Socket, _ bytes: [UInt8]) throws -> [Reply] {
    try program.send(socket, bytes)
    return replies(socket)
  }

  @Test func interfacesAndAddresses() throws {
    let net = try TestNetwork()
    let socket = try program.socket(16, 3, 0, net.one.stack)
    try socket.bind(SocketAddress([16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), program.caller)
    let port = try socket.address().load(4, as: UInt32.self)
    #expect(port != 0)
    let links = try ask(socket, request(18, NetlinkHeader.dump, [0]))
    #expect(links.allSatisfy { $0.header.sequence == 5 && $0.header.port == port && $0.header.flags & 2 != 0 })
    #expect(links.map { $0.header.type } == [16, 16, 3])
    let loopback = links[0].attributes(behind: 16)
    #expect(loopback[3] == Array("lo".utf8) + [0] && loopback[4] == [0, 0, 1, 0])
    #expect(links[0].body[2] == 0x04 && links[0].body[3] == 0x03)  // ARPHRD_LOOPBACK
    let ethernet = links[1].attributes(behind: 16)
    #expect(ethernet[3] == Array("eth0".utf8) + [0] && ethernet[1] == [2, 0, 0, 0, 0, 1])
    #expect(ethernet[23]?.count == 200 && ethernet[7]?.count == 96)
    // By name, without a dump.
    let one = try ask(socket, request(18, 0, [UInt8](repeating: 0, count: 16) + attribute(3, Array("eth0".utf8) + [0])))
    #expect(one.count == 1 && one[0].body[4] == 2)
    #expect(
      try ask(socket, request(18, 0, [UInt8](repeating: 0, count: 16) + attribute(3, [0x78, 0])))[0].error
        == Errno.ENODEV.rawValue)

    let addresses = try ask(socket, request(22, NetlinkHeader.dump, [0]))
    let found = addresses.dropLast().map { ($0.body[0], $0.body[1], $0.body[4], $0.attributes(behind: 8)) }
    #expect(found.contains { $0.0 == 2 && $0.1 == 8 && $0.2 == 1 && $0.3[2] == [127, 0, 0, 1] })
    #expect(
      found.contains {
        $0.0 == 2 && $0.1 == 24 && $0.2 == 2 && $0.3[1] == [10, 0, 0, 1] && $0.3[4] == [10, 0, 0, 255]
      })
    #expect(found.contains { $0.0 == 10 && $0.1 == 128 && $0.2 == 1 })
    // Of one family.
    #expect(try ask(socket, request(22, NetlinkHeader.dump, [10])).dropLast().allSatisfy { $0.body[0] == 10 })
  }

  @Test func routesAndNeighbours() throws {
    let net = try TestNetwork()
    let socket = try program.socket(16, 3, 0, net.one.stack)
    /// struct rtmsg.
    func route(_ length: UInt8) -> [UInt8] { [2, length, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0] }
    let body = route(0) + attribute(5, [10, 0, 0, 2]) + attribute(4, [2, 0, 0, 0])
    let plain = SocketClient(user: 5)
    #expect(throws: Never.self) { try plain.send(socket, request(24, NetlinkHeader.create, body)) }
    #expect(replies(socket).map { $0.error } == [Errno.EPERM.rawValue])
    #expect(
      try ask(socket, request(24, NetlinkHeader.create | NetlinkHeader.acknowledged, body)).map { $0.error } == [0])
    #expect(
      try ask(socket, request(24, NetlinkHeader.create | NetlinkHeader.exclusive, body)).map { $0.error } == [
        Errno.EEXIST.rawValue
      ])
    let routes = try ask(socket, request(26, NetlinkHeader.dump, [2]))
    let default4 = try #require(routes.first { $0.header.type == 24 && $0.body[1] == 0 })
    #expect(default4.attributes(behind: 12)[5] == [10, 0, 0, 2])
    #expect(
      routes.contains { $0.header.type == 24 && $0.body[1] == 24 && $0.attributes(behind: 12)[1] == [10, 0, 0, 0] })
    // Which way.
    let way = try ask(socket, request(26, 0, route(32) + attribute(1, [192, 0, 2, 9])))
    #expect(
      way.count == 1 && way[0].attributes(behind: 12)[5] == [10, 0, 0, 2]
        && way[0].attributes(behind: 12)[7] == [10, 0, 0, 1])
    #expect(try ask(socket, request(25, NetlinkHeader.acknowledged, body)).map { $0.error } == [0])
    #expect(try ask(socket, request(25, NetlinkHeader.acknowledged, body)).map { $0.error } == [Errno.ESRCH.rawValue])
    #expect(
      try ask(socket, request(26, 0, route(32) + attribute(1, [192, 0, 2, 9]))).map { $0.error } == [
        Errno.ENETUNREACH.rawValue
      ])

    let client = try program.udp(net.one.stack)
    try program.send(client, [1], to: (.two4, 9))
    net.settle()
    let neighbours = try ask(socket, request(30, NetlinkHeader.dump, [2])).dropLast()
    #expect(neighbours.count == 1 && neighbours[0].attributes(behind: 12)[1] == [10, 0, 0, 2])
    #expect(neighbours[0].attributes(behind: 12)[2] == [2, 0, 0, 0, 0, 2])
  }

  @Test func changes() throws {
    let net = try TestNetwork()
    let socket = try program.socket(16, 3, 0, net.one.stack)
    let address = [2, 24, 0, 0, 2, 0, 0, 0] + attribute(2, [10, 0, 1, 1])
    let flags = NetlinkHeader.acknowledged
    #expect(try ask(socket, request(20, flags, address)).map { $0.error } == [0])
    #expect(net.one.stack.kind(of: IPAddress(v4: 0x0a00_0101)) == .local)
    #expect(try ask(socket, request(21, flags, address)).map { $0.error } == [0])
    #expect(net.one.stack.kind(of: IPAddress(v4: 0x0a00_0101)) == .other)
    #expect(try ask(socket, request(21, flags, address)).map { $0.error } == [Errno.EADDRNOTAVAIL.rawValue])
    // Down, and an MTU of 1400.
    let link: [UInt8] = [0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]
    #expect(try ask(socket, request(19, flags, link + attribute(4, [0x78, 5, 0, 0]))).map { $0.error } == [0])
    #expect(net.one.link.mtu == 1400 && !net.one.link.isUp)
    for wrong in [
      [2, 33, 0, 0, 2, 0, 0, 0] + attribute(2, [10, 0, 1, 1]),
      [10, 24, 0, 0, 2, 0, 0, 0] + attribute(2, [10, 0, 1, 1]),
      [2, 24, 0, 0, 2, 0, 0, 0], [2, 24],
    ] {
      #expect(try ask(socket, request(20, flags, wrong)).map { $0.error } == [Errno.EINVAL.rawValue])
    }
    #expect(
      try ask(socket, request(20, flags, [2, 24, 0, 0, 9, 0, 0, 0] + attribute(2, [10, 0, 1, 1]))).map { $0.error } == [
        Errno.ENODEV.rawValue
      ])
  }

  @Test func sockets() throws {
    let net = try TestNetwork()
    let server = try program.udp(net.one.stack, .one4, 53)
    let socket = try program.socket(16, 3, 4, net.one.stack)
    var wish = [UInt8](repeating: 0, count: 56)
    (wish[0], wish[1]) = (2, 17)
    for index in 4..<8 { wish[index] = 0xff }
    let found = try ask(socket, request(20, NetlinkHeader.dump, wish)).dropLast()
    #expect(found.count == 1 && found[0].body[1] == 7 && Array(found[0].body[4..<6]) == [0, 53])
    #expect(Array(found[0].body[8..<12]) == [10, 0, 0, 1])
    server.closed()
    #expect(try ask(socket, request(20, NetlinkHeader.dump, wish)).count == 1)
  }

  /// Whatever is sent, nothing breaks, and every answer is well formed.
  @Test func nonsense() throws {
    let net = try TestNetwork()
    let socket = try program.socket(16, 3, 0, net.one.stack)
    var generator = SystemRandomNumberGenerator()
    for round in 0..<5000 {
      var bytes = (0..<Int.random(in: 0...100)).map { _ in UInt8.random(in: 0...255, using: &generator) }
      if bytes.count >= 16, round % 4 != 0 {
        bytes.replaceSubrange(0..<4, with: [UInt8(Int.random(in: 10...bytes.count)), 0, 0, 0])
        bytes[4] = UInt8.random(in: 0...100)
        bytes[5] = 0
        bytes[6] |= 1
      }
      // Nobody takes the interfaces down meanwhile.
      if bytes.count > 4, bytes[4] == 16 || bytes[4] == 19 { continue }
      _ = try? program.send(socket, bytes)
      _ = replies(socket)
    }
    #expect(try ask(socket, request(18, NetlinkHeader.dump, [0])).count == 3)
  }
}
