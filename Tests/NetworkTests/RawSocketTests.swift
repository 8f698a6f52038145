// Raw sockets, ping sockets and packet sockets: what they see, what they send, and what filters let through.
import Base
import Devices
import Files
import Locks
import Memory
import Platform
import Testing

@testable import Network

@Suite(.serialized) struct RawSocketTests {
  let program = SocketClient()

  @Test(arguments: [true, false]) func pings(isV4: Bool) throws {
    let net = try TestNetwork()
    let to: IPAddress = isV4 ? .two4 : .six(2)
    let number: Int32 = isV4 ? 1 : 58
    let first = try program.socket(isV4 ? 2 : 10, 2, number, net.one.stack)
    let second = try program.socket(isV4 ? 2 : 10, 2, number, net.one.stack)
    let request: [UInt8] = [isV4 ? 8 : 128, 0, 9, 9, 9, 9, 0, 7, 1, 2, 3]
    try program.send(first, request, to: (to, 0))
    try program.send(second, request + [4], to: (to, 0))
    net.settle()
    #expect(first.port != 0 && first.port != second.port)
    for (socket, rest) in [(first, [1, 2, 3]), (second, [1, 2, 3, 4])] as [(Socket, [UInt8])] {
      let (bytes, message) = try program.receive(socket)
      #expect(bytes[0] == (isV4 ? 0 : 129) && bytes[1] == 0)
      // The kernel's identifier, and the program's number.
      #expect(Array(bytes[4...]) == [UInt8(socket.port >> 8), UInt8(socket.port & 0xff), 0, 7] + rest)
      #expect(message.sender?.address == to)
      #expect(throws: Errno.EAGAIN) { try program.receive(socket) }
    }
    // Nothing but echoes.
    #expect(throws: Errno.EINVAL) { try program.send(first, [0] + request.dropFirst(), to: (to, 0)) }
    #expect(throws: Errno.EINVAL) { try program.send(first, [8, 0, 0, 0], to: (to, 0)) }
    first.closed()
    second.closed()
    #expect(net.one.stack.flows.count == 0)
  }

  @Test func rawIPv4() throws {
    let net = try TestNetwork()
    #expect(throws: Errno.EPERM) { try SocketClient(user: 5).socket(2, 3, 200, net.one.stack) }
    let sender = try program.socket(2, 3, 200, net.one.stack)
    let receiver = try program.socket(2, 3, 200, net.two.stack)
    let other = try program.socket(2, 3, 201, net.two.stack)
    try program.send(sender, [1, 2, 3, 4, 5, 6, 7, 8, 9], to: (.two4, 0))
    net.settle()
    let (bytes, message) = try program.receive(receiver)
    #expect(
      bytes.count == 29 && bytes[0] == 0x45 && bytes[9] == 200 && Array(bytes[20...]) == [1, 2, 3, 4, 5, 6, 7, 8, 9])
    #expect(message.sender == InternetEndpoint(.one4))
    #expect(program.receiveAll(other) == [])
    // Only from who it is connected to.
    try program.connect(receiver, IPAddress(v4: 0x0a00_0063), 0)
    try program.send(sender, [UInt8](repeating: 1, count: 9), to: (.two4, 0))
    net.settle()
    #expect(program.receiveAll(receiver) == [])
    receiver.closed()
    other.closed()
    // Nobody is left; the protocol is unknown, as it was to that one.
    try program.connect(sender, .two4, 0)
    try program.send(sender, [UInt8](repeating: 1, count: 9))
    net.settle()
    #expect(net.two.stack.counted(.ipUnknownProtocols, isV4: true) == 2)
  }

  @Test func ownHeader() throws {
    let net = try TestNetwork()
    let sender = try program.socket(2, 3, 255, net.one.stack)
    let receiver = try program.socket(2, 3, 200, net.two.stack)
    var header: [UInt8] = [0x45, 0x20, 0, 0, 0, 0, 0x40, 0, 9, 200, 0, 0, 10, 0, 0, 77, 10, 0, 0, 2]
    try program.send(sender, header + [1, 2, 3, 4, 5, 6, 7, 8], to: (.two4, 0))
    net.settle()
    let (bytes, _) = try program.receive(receiver)
    #expect(bytes[1] == 0x20 && bytes[8] == 9 && Array(bytes[12..<20]) == [10, 0, 0, 77, 10, 0, 0, 2])
    #expect(Array(bytes[20...]) == [1, 2, 3, 4, 5, 6, 7, 8])
    header[0] = 0x4f
    #expect(throws: Errno.EINVAL) { try program.send(sender, header, to: (.two4, 0)) }
    #expect(throws: Errno.EINVAL) { try program.send(sender, [0x45], to: (.two4, 0)) }
  }

  /// A raw socket of ICMPv6 gets what its filter lets through, and the kernel computes the checksum.
  @Test func rawICMP6() throws {
    let net = try TestNetwork()
    let raw = try program.socket(10, 3, 58, net.one.stack)
    try program.send(raw, [128, 0, 0, 0, 1, 2, 3, 4], to: (.six(2), 0))
    net.settle()
    let types = program.receiveAll(raw).map { $0[0] }
    #expect(types.contains(129))
    // All blocked but echo replies.
    var filter = [UInt8](repeating: 0xff, count: 32)
    filter[129 / 8] &= ~(1 << (129 % 8))
    try program.set(raw, 58, 1, bytes: filter)
    try program.send(raw, [128, 0, 0, 0, 1, 2, 3, 4], to: (.six(2), 0))
    net.settle()
    #expect(program.receiveAll(raw).map { $0[0] } == [129])
  }

  // MARK: Packet sockets

  private func name(_ etherType: UInt16, _ index: UInt8, _ address: [UInt8] = []) -> SocketAddress {
    SocketAddress(
      [17, 0, UInt8(etherType >> 8), UInt8(etherType & 0xff), index, 0, 0, 0, 0, 0, 0, 6] + address
        + [UInt8](repeating: 0, count: 8 - address.count))
  }

  @Test func frames() throws {
    let net = try TestNetwork()
    #expect(throws: Errno.EPERM) { try SocketClient(user: 5).socket(17, 3, 0x0300, net.one.stack) }
    let all = try program.socket(17, 3, 0x0300, net.one.stack)  // ETH_P_ALL, in network order.
    let arp = try program.socket(17, 2, 0x0608, net.two.stack)
    try arp.bind(name(0x0806, 2), program.caller)
    #expect(throws: Errno.ENODEV) { try arp.bind(name(0x0806, 9), program.caller) }
    let client = try program.udp(net.one.stack)
    let far = IPAddress(v4: 0x0a00_0055)
    _ = try? program.send(client, [1, 2, 3], to: (far, 9))
    net.settle()
    let (frame, message) = try program.receive(all)
    #expect(frame[12] == 8 && frame[13] == 6 && frame.count == 42)
    #expect(message.address?.bytes[10] == 4)  // PACKET_OUTGOING
    let (question, sender) = try program.receive(arp)
    #expect(Array(question[0..<2]) == [0, 1] && question[7] == 1)
    #expect(sender.address?.bytes[10] == 1)  // PACKET_BROADCAST
    #expect(sender.address.map { Array($0.bytes[12..<18]) } == [2, 0, 0, 0, 0, 1])
    // A frame of its own.
    try program.send(
      all, [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 6] + [UInt8](repeating: 7, count: 30), to: nil,
      control: OutgoingControl(), address: name(0x0806, 2))
    net.settle()
    #expect(try program.receive(arp).bytes == [UInt8](repeating: 7, count: 30))
    all.closed()
    arp.closed()
    #expect(!net.one.stack.sockets.taps.isListening)
  }

  /// Loopback has no link header; one of zeros is shown. Bytes are seen before they are received.
  @Test func loopbackFrames() throws {
    let net = try TestNetwork()
    let all = try program.socket(17, 3, 0x0300, net.one.stack)
    try all.bind(name(3, 1), program.caller)
    let server = try program.udp(net.one.stack, .loopback4, 53)
    try program.send(server, [1, 2, 3], to: (.loopback4, 53))
    #expect(program.receiveAll(server) == [[1, 2, 3]])
    let frames = program.receiveAll(all)
    #expect(frames.count == 2)
    for frame in frames {
      #expect(Array(frame[..<14]) == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0] && frame.suffix(3) == [1, 2, 3])
    }
  }

  @Test func filters() throws {
    let net = try TestNetwork()
    let program = self.program
    let server = try program.udp(net.one.stack, .loopback4, 53)
    /// Attaches a program of (code, true, false, constant).
    func attach(_ code: [(UInt16, UInt8, UInt8, UInt32)]) throws(Errno) {
      var bytes: [UInt8] = []
      for (operation, yes, no, constant) in code {
        withUnsafeBytes(of: operation) { bytes.append(contentsOf: $0) }
        bytes.append(yes)
        bytes.append(no)
        withUnsafeBytes(of: constant) { bytes.append(contentsOf: $0) }
      }
      try bytes.withUnsafeBufferPointer { (buffer) throws(Errno) in
        var value: [UInt8] = [UInt8(code.count & 0xff), UInt8(code.count >> 8), 0, 0, 0, 0, 0, 0]
        withUnsafeBytes(of: UInt(bitPattern: buffer.baseAddress)) { value.append(contentsOf: $0) }
        try program.set(server, 1, SocketOption.attachFilter, bytes: value)
      }
    }
    // The first byte behind UDP's header is 5; then 10 bytes are enough.
    try attach([(0x30, 0, 0, 8), (0x15, 0, 1, 5), (0x06, 0, 0, 10), (0x06, 0, 0, 0)])
    for first in [4, 5, 6] as [UInt8] { try program.send(server, [first, 1, 2, 3], to: (.loopback4, 53)) }
    #expect(program.receiveAll(server) == [[5, 1]])
    // Arithmetic, memory, index: the sum of the first two bytes, times two, is 12; beyond the end nothing is wanted.
    try attach([
      (0x30, 0, 0, 8), (0x02, 0, 0, 3), (0xb1, 0, 0, 9), (0x30, 0, 0, 9), (0x07, 0, 0, 0), (0x60, 0, 0, 3),
      (0x0c, 0, 0, 0),
      (0x24, 0, 0, 2), (0x15, 0, 1, 12), (0x06, 0, 0, 1000), (0x30, 0, 0, 1000), (0x06, 0, 0, 1000),
    ])
    for pair in [[2, 4], [3, 4], [5, 1]] as [[UInt8]] { try program.send(server, pair, to: (.loopback4, 53)) }
    #expect(program.receiveAll(server) == [[2, 4], [5, 1]])
    // Programs that do not end, or read what is not there, are refused.
    for wrong in [
      [], [(0x30, 0, 0, 8)], [(0x05, 0, 0, 1), (0x06, 0, 0, 1)], [(0x15, 5, 0, 1), (0x06, 0, 0, 1)],
      [(0x34, 0, 0, 0), (0x06, 0, 0, 1)], [(0x02, 0, 0, 16), (0x06, 0, 0, 1)], [(0xff, 0, 0, 16), (0x06, 0, 0, 1)],
      [(0x05, 0, 0, 0xffff_ffff), (0x06, 0, 0, 1)], [(0x64, 0, 0, 32), (0x06, 0, 0, 1)],
    ] as [[(UInt16, UInt8, UInt8, UInt32)]] {
      #expect(throws: Errno.EINVAL) { try attach(wrong) }
    }
    try program.set(server, 1, SocketOption.detachFilter, 0)
    try program.send(server, [9], to: (.loopback4, 53))
    #expect(program.receiveAll(server) == [[9]])
  }

  /// Random programs end, whatever they do, and touch nothing outside.
  @Test func randomFilters() throws {
    var generator = SystemRandomNumberGenerator()
    let codes: [UInt16] = [
      0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0x80, 0x00, 0x60, 0x81, 0x01, 0x61, 0xb1, 0x02, 0x03, 0x07, 0x87, 0x04, 0x0c,
      0x14, 0x1c, 0x24, 0x2c, 0x34, 0x3c, 0x44, 0x4c, 0x54, 0x5c, 0x64, 0x6c, 0x74, 0x7c, 0x84, 0x94, 0x9c, 0xa4, 0xac,
      0x05, 0x15, 0x1d, 0x25, 0x2d, 0x35, 0x3d, 0x45, 0x4d, 0x06, 0x16,
    ]
    TestThreads.begin()
    var accepted = 0
    for _ in 0..<3000 {
      let count = Int.random(in: 1...12)
      var bytes: [UInt8] = []
      for index in 0..<count {
        let code = index == count - 1 ? 0x16 : codes.randomElement(using: &generator) ?? 0
        let constant: UInt32 =
          Bool.random()
          ? UInt32.random(in: 0...20) : Bool.random() ? .random(in: 0...(.max)) : 0xffff_f000 + .random(in: 0...64)
        withUnsafeBytes(of: code) { bytes.append(contentsOf: $0) }
        bytes.append(UInt8.random(in: 0...3))
        bytes.append(UInt8.random(in: 0...3))
        withUnsafeBytes(of: constant) { bytes.append(contentsOf: $0) }
      }
      let packet = try Packet.of((0..<Int.random(in: 0...60)).map { UInt8($0) })
      let filter = bytes.withUnsafeBytes { buffer -> PacketFilter? in
        var value: [UInt8] = [UInt8(count), 0, 0, 0, 0, 0, 0, 0]
        withUnsafeBytes(of: UInt(bitPattern: buffer.baseAddress)) { value.append(contentsOf: $0) }
        return value.withUnsafeBytes { try? PacketFilter(program: OptionValue($0)) }
      }
      guard let filter else { continue }
      accepted += 1
      _ = filter.run(packet)
    }
    #expect(accepted > 300)
  }
}
