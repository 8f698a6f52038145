// Frames from somebody who means no good: nothing breaks, nothing is believed that is not so, nothing grows without bounds.
import Base
import Devices
import Pages
import Testing

@testable import Network

@Suite(.serialized) struct HostileInputTests {
  /// Frames of all kinds that two machines exchange, to be changed.
  private func corpus() throws -> (TestNetwork, [[UInt8]]) {
    let net = try TestNetwork(mtu: 1280)
    let stack = net.one.stack
    _ = try net.two.stack.listen(53, at: .any4)
    _ = try net.two.stack.listen(53, at: .any6)
    for (from, to) in [(IPAddress.one4, IPAddress.two4), (.six(1), .six(2))] {
      try stack.sendDatagram([1, 2, 3], from: from, 1000, to: to, 53)
      try stack.sendDatagram([1, 2, 3], from: from, 1000, to: to, 9)
      try stack.sendDatagram([UInt8](repeating: 5, count: 3000), from: from, 1000, to: to, 53)
      stack.sendICMP(
        try Packet.of([from.isV4 ? 8 : 128, 0, 0, 0, 0, 1, 0, 1, 9, 9, 9]), from: from, to: to, net.one.link)
      net.settle()
    }
    try net.one.link.join(IPAddress(v4: 0xefff_0101))
    try net.one.link.join(IPAddress(high: 0xff15 << 48, low: 0x101))
    net.one.stack.begin(net.one.link)
    net.pass(3_000_000_000)
    return (net, net.wire.log)
  }

  private func inject(_ frame: [UInt8], _ net: TestNetwork, checksum: PacketChecksum = .none) throws {
    _ = net.two.link.batch.run(now: net.environment.now()) { nil }
    var frames = [frame]
    _ = net.two.link.batch.run(now: net.environment.now()) {
      guard let bytes = frames.popLast(), let packet = try? Packet.of(bytes) else { return nil }
      packet.checksum = checksum
      return packet
    }
    net.two.stack.runDeferred()
  }

  @Test func changedFramesDoNoHarm() throws {
    let (net, frames) = try corpus()
    #expect(frames.count > 20)
    var random = SystemRandomNumberGenerator()
    net.wire.filter = { _ in nil }
    for round in 0..<30_000 {
      var frame = frames.randomElement(using: &random)!
      switch round % 4 {
      case 0: frame = Array(frame.prefix(Int.random(in: 0...frame.count, using: &random)))
      case 1:
        for _ in 0..<3 {
          frame[Int.random(in: 12..<frame.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
        }
      case 2: frame[Int.random(in: 0..<frame.count, using: &random)] ^= 1 << UInt8.random(in: 0...7, using: &random)
      default: frame += [UInt8](repeating: 0xaa, count: Int.random(in: 1...100, using: &random))
      }
      // To us, whatever else it says.
      if round % 3 != 0 && frame.count >= 6 { frame.replaceSubrange(0..<6, with: [2, 0, 0, 0, 0, 2]) }
      // Every other as if its checksum were right, so that more gets through.
      try inject(frame, net, checksum: round % 2 == 0 ? .verified : .none)
      if round % 500 == 0 {
        net.environment.pass(1_000_000_000)
        net.two.stack.runTimers(now: net.environment.now())
      }
    }
    // It still works.
    net.wire.filter = nil
    let flow = try net.two.stack.listen(77, at: .two4)
    try net.one.stack.sendDatagram([9], from: .one4, 1000, to: .two4, 77)
    net.settle()
    net.pass(3_000_000_000)
    #expect(flow.take(net.two.stack).map(\.bytes) == [[9]])
    #expect(net.two.stack.neighbourDescriptions.count <= NeighbourCache.limit)
    #expect(net.two.stack.reassembly.usage.footprint <= FragmentReassembly.memoryLimit)
  }

  private func datagram(from source: IPAddress, to destination: IPAddress, port: UInt16 = 53) -> [UInt8] {
    guard source.isV4 else { return datagram6(from: source, to: destination, port: port) }
    var ip = IPv4Header()
    (ip.totalByteCount, ip.hopLimit, ip.protocolNumber, ip.source, ip.destination) = (29, 64, 17, source, destination)
    var bytes = [UInt8](repeating: 0, count: 20) + [3, 0xe8, UInt8(port >> 8), UInt8(port & 255), 0, 9, 0, 0, 7]
    bytes.withUnsafeMutableBytes { ip.write(to: $0.baseAddress!) }
    return [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 9, 8, 0] + bytes
  }

  /// A datagram over IPv6 whose checksum is right; the addresses may be IPv4 in disguise.
  private func datagram6(
    from source: IPAddress, to destination: IPAddress, port: UInt16, data: Int = 1
  ) -> [UInt8] {
    var ip = IPv6Header()
    (ip.payloadByteCount, ip.nextHeader, ip.hopLimit) = (8 + data, 17, 64)
    (ip.source, ip.destination) = (source, destination)
    var bytes = [UInt8](repeating: 0, count: 40)
    bytes += [3, 0xe8, UInt8(port >> 8), UInt8(port & 255), 0, UInt8(8 + data), 0, 0]
    bytes += [UInt8](repeating: 7, count: data)
    bytes.withUnsafeMutableBytes { bytes in
      ip.write(to: bytes.baseAddress!)
      var checksum = InternetChecksum()
      // By its bytes, as a receiver does who takes all of them for addresses.
      checksum.add(UnsafeRawBufferPointer(rebasing: bytes[8..<40]))
      checksum.add(UInt32(17))
      checksum.add(UInt32(8 + data))
      checksum.add(UnsafeRawBufferPointer(rebasing: bytes[40...]))
      (bytes[46], bytes[47]) = (UInt8(checksum.value >> 8), UInt8(checksum.value & 255))
    }
    return [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 9, 0x86, 0xdd] + bytes
  }

  /// No packet has an IPv4 address in disguise (::ffff:0:0/96; RFC 4942, 2.2): who sees it would take it for one over IPv4.
  @Test func addressesInDisguiseDoNotComeByAWire() throws {
    let net = try TestNetwork()
    let flows = try [IPAddress.any4, .any6, .two4, .six(2)].map { try net.two.stack.listen(53, at: $0) }
    for (source, destination) in [(IPAddress.one4, IPAddress.six(2)), (.six(1), .two4), (.one4, .two4)] {
      try inject(datagram6(from: source, to: destination, port: 53), net)
    }
    #expect(flows.allSatisfy { $0.told == 0 })
    #expect(net.two.stack.counted(.ipHeaderErrors, isV4: false) == 3)
    try inject(datagram6(from: .six(1), to: .six(2), port: 53), net)
    #expect(flows.map(\.told) == [0, 0, 0, 1])
  }

  /// Who may not send is heard by nobody: a network's broadcast address, and nobody to one alone (RFC 1122, 3.2.1.3).
  @Test func sendersThatCannotBeAreNotHeard() throws {
    let net = try TestNetwork()
    let flow = try net.two.stack.listen(53, at: .any4)
    for source in [IPAddress(v4: 0x0a00_00ff), .any4] {
      let before = net.two.stack.counted(.ipAddressErrors, isV4: true)
      // A port of UDP, and one of TCP, where nobody is.
      try inject(datagram(from: source, to: .two4), net)
      var frame = datagram(from: source, to: .two4)
      frame[23] = 6
      frame.withUnsafeMutableBytes { bytes in
        (bytes[24], bytes[25]) = (0, 0)
        var checksum = InternetChecksum()
        checksum.add(UnsafeRawBufferPointer(rebasing: bytes[14..<34]))
        (bytes[24], bytes[25]) = (UInt8(checksum.value >> 8), UInt8(checksum.value & 255))
      }
      try inject(frame, net)
      #expect(net.two.stack.counted(.ipAddressErrors, isV4: true) == before + 2)
    }
    let before = net.two.stack.counted(.ipAddressErrors, isV4: false)
    try inject(datagram(from: .any6, to: .six(2)), net)
    #expect(net.two.stack.counted(.ipAddressErrors, isV4: false) == before + 1)
    #expect(flow.told == 0)
  }

  @Test func addressesThatCannotBeAreNotBelieved() throws {
    let net = try TestNetwork()
    let wild = try net.two.stack.listen(53, at: .any4)
    let local = try net.two.stack.listen(53, at: .loopback4)
    let own = try net.two.stack.listen(53, at: .two4)
    // From this machine itself, from nobody, from a group, from everybody; to this machine's inside; to another.
    for (source, destination) in [
      (IPAddress.loopback4, IPAddress.two4), (.two4, .two4), (IPAddress(v4: 0xe000_0001), .two4), (.broadcast4, .two4),
      (.one4, .loopback4), (.loopback4, .loopback4), (.one4, IPAddress(v4: 0x0a00_0009)), (.one4, .any4),
    ] { try inject(datagram(from: source, to: destination), net) }
    #expect(wild.told == 0 && local.told == 0 && own.told == 0)
    try inject(datagram(from: .one4, to: .two4), net)
    #expect(own.told == 1)
    // A connection between two addresses of ours takes nothing from a wire.
    guard let inner = CollectingFlow() else { throw NoPacket() }
    let key = FlowKey(protocol: 17, local: .two4, localPort: 54, remote: .one4, remotePort: 1000)
    try net.two.stack.flows.insert(key, inner, isInternal: true)
    try inject(datagram(from: .one4, to: .two4, port: 54), net)
    #expect(inner.told == 0)
  }

  @Test func nobodyIsAnsweredWhoMayNotBe() throws {
    let net = try TestNetwork()
    net.wire.log = []
    // A closed port, but sent to everybody on the link, or from nobody.
    var frame = datagram(from: .one4, to: .two4, port: 9)
    frame.replaceSubrange(0..<6, with: [255, 255, 255, 255, 255, 255])
    try inject(frame, net)
    try inject(datagram(from: .any4, to: .two4, port: 9), net)
    #expect(net.wire.log.isEmpty)
    #expect(net.two.stack.counted(.icmpUnreachableSent, isV4: true) == 0)
  }

  @Test func interfacesTakeOnlyWhatTheirSocketsSay() throws {
    let net = try TestNetwork()
    let flow = try net.two.stack.listen(53, at: .any4)
    flow.boundInterface.store(1, ordering: .relaxed)
    try net.one.stack.sendDatagram([1], from: .one4, 1000, to: .two4, 53)
    net.settle()
    #expect(flow.told == 0)
    flow.boundInterface.store(2, ordering: .relaxed)
    try net.one.stack.sendDatagram([1], from: .one4, 1000, to: .two4, 53)
    net.settle()
    #expect(flow.told == 1)
  }

  /// What follows IPv6's headers is named by the first fragment alone (RFC 8200, 4.5), whichever comes last.
  @Test(arguments: [[0, 1], [1, 0]]) func onlyTheFirstFragmentNamesTheTransport(order: [Int]) throws {
    let net = try TestNetwork()
    let flow = try net.two.stack.listen(53, at: .six(2))
    let whole = Array(datagram6(from: .six(1), to: .six(2), port: 53, data: 24)[54...])
    var frames: [[UInt8]] = []
    for (number, part) in [whole[..<16], whole[16...]].enumerated() {
      var ip = IPv6Header()
      (ip.payloadByteCount, ip.nextHeader, ip.hopLimit) = (8 + part.count, 44, 64)
      (ip.source, ip.destination) = (.six(1), .six(2))
      var bytes = [UInt8](repeating: 0, count: 40)
      bytes.withUnsafeMutableBytes { ip.write(to: $0.baseAddress!) }
      // The second says that it is TCP.
      bytes += [number == 0 ? 17 : 6, 0, 0, number == 0 ? 1 : 16, 0, 0, 0, 7] + part
      frames.append([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 9, 0x86, 0xdd] + bytes)
    }
    for number in order { try inject(frames[number], net) }
    #expect(flow.take(net.two.stack).map(\.bytes) == [[UInt8](repeating: 7, count: 24)])
  }

  @Test func datagramsWithWrongLengthsOrSumsAreDropped() throws {
    let net = try TestNetwork()
    let flow = try net.two.stack.listen(53, at: .two4)
    var frame = datagram(from: .one4, to: .two4)
    for length: UInt8 in [0, 7, 10, 255] {
      frame[39] = length
      try inject(frame, net)
    }
    frame[39] = 9
    (frame[40], frame[41]) = (0x12, 0x34)
    try inject(frame, net)
    #expect(flow.told == 5 && flow.take(net.two.stack).isEmpty)
    #expect(net.two.stack.counted(.udpErrors, isV4: true) == 5)
    (frame[40], frame[41]) = (0, 0)
    try inject(frame, net)
    #expect(flow.take(net.two.stack).map(\.bytes) == [[7]])
  }
}
