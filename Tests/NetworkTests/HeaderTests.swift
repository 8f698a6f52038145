// Parsers of IP, ICMP, ARP and neighbour discovery against bytes from anybody, and writers against parsers.
import Base
import Devices
import Pages
import Testing

@testable import Network

private func withBytes<R>(_ bytes: [UInt8], _ body: (UnsafeRawBufferPointer) -> R) -> R { bytes.withUnsafeBytes(body) }

private func v4(_ change: (inout IPv4Header) -> Void = { _ in }, payload: Int = 8) -> [UInt8] {
  var header = IPv4Header()
  header.totalByteCount = 20 + payload
  (header.hopLimit, header.protocolNumber) = (64, 17)
  (header.source, header.destination) = (.one4, .two4)
  change(&header)
  var bytes = [UInt8](repeating: 0xee, count: 20 + payload)
  bytes.withUnsafeMutableBytes { header.write(to: $0.baseAddress!) }
  return bytes
}

@Suite struct HeaderTests {
  @Test func v4IsReadAsWritten() throws {
    let bytes = v4 {
      ($0.identification, $0.trafficClass, $0.fragmentOffset, $0.hasMoreFragments) = (0x1234, 0xb8, 1480, true)
    }
    let header = try #require(withBytes(bytes) { IPv4Header($0, available: $0.count) })
    #expect(header.source == .one4 && header.destination == .two4 && header.totalByteCount == 28)
    #expect(header.identification == 0x1234 && header.trafficClass == 0xb8 && header.hopLimit == 64)
    #expect(header.fragmentOffset == 1480 && header.hasMoreFragments && !header.isUnfragmentable && header.isFragment)
  }

  @Test func v4ThatMakesNoSenseIsRefused() {
    let good = v4()
    func isRead(_ bytes: [UInt8], available: Int? = nil) -> Bool {
      withBytes(bytes) { IPv4Header($0, available: available ?? $0.count) != nil }
    }
    /// The same with a right checksum.
    func sealed(_ bytes: [UInt8]) -> [UInt8] {
      var bytes = bytes
      (bytes[10], bytes[11]) = (0, 0)
      var checksum = InternetChecksum()
      let count = min(max(Int(bytes[0] & 15) * 4, 20), bytes.count)
      withBytes(bytes) { checksum.add(UnsafeRawBufferPointer(rebasing: $0[..<count])) }
      (bytes[10], bytes[11]) = (UInt8(checksum.value >> 8), UInt8(checksum.value & 255))
      return bytes
    }
    #expect(isRead(good) && isRead(sealed(good)))
    for count in 0..<20 { #expect(!isRead(Array(good[..<count]))) }
    for bit in 0..<160 {
      var bytes = good
      bytes[bit / 8] ^= 1 << UInt8(bit % 8)
      #expect(!isRead(bytes), "bit \(bit)")
    }
    func changed(_ index: Int, _ value: UInt8) -> [UInt8] {
      var bytes = good
      bytes[index] = value
      return sealed(bytes)
    }
    #expect(!isRead(changed(0, 0x55)) && !isRead(changed(0, 0x65)))  // version
    #expect(!isRead(changed(0, 0x44)) && !isRead(changed(0, 0x40)))  // header too short
    #expect(!isRead(changed(0, 0x4f)))  // header longer than the packet
    #expect(!isRead(changed(3, 29)) && !isRead(changed(2, 0xff)))  // more than there is
    #expect(!isRead(changed(3, 19)))  // less than a header
    #expect(isRead(changed(3, 20)))
    #expect(!isRead(good, available: 27))
  }

  @Test func optionsOfV4AreDroppedSafely() {
    func options(_ bytes: [UInt8]) -> IPv4Header.Options { withBytes(bytes) { IPv4Header.options($0) } }
    #expect(options([]) == .harmless && options([0, 0, 0, 0]) == .harmless && options([1, 1, 1, 1]) == .harmless)
    #expect(options([148, 4, 0, 0]) == .harmless && options([7, 7, 4, 0, 0, 0, 0, 0]) == .harmless)
    #expect(options([131, 3, 4, 0]) == .sourceRoute && options([1, 137, 7, 4, 0, 0, 0, 0]) == .sourceRoute)
    for bad: [UInt8] in [[7], [7, 0, 0, 0], [7, 1, 0, 0], [7, 5, 0, 0], [1, 1, 1, 7], [7, 255, 0, 0]] {
      #expect(options(bad) == .malformed)
    }
    // What is behind the end does not count.
    #expect(options([0, 131, 3, 4]) == .harmless)
  }

  private func v6(next: UInt8, _ rest: [UInt8]) -> [UInt8] {
    var header = IPv6Header()
    (header.nextHeader, header.hopLimit, header.payloadByteCount) = (next, 64, rest.count)
    (header.source, header.destination, header.trafficClass, header.flowLabel) = (.six(1), .six(2), 0x5a, 0xabcde)
    var bytes = [UInt8](repeating: 0, count: 40) + rest
    bytes.withUnsafeMutableBytes { header.write(to: $0.baseAddress!) }
    return bytes
  }

  @Test func v6IsReadAsWritten() throws {
    let bytes = v6(next: 17, [1, 2, 3])
    let header = try #require(withBytes(bytes) { IPv6Header($0, available: $0.count) })
    #expect(header.source == .six(1) && header.destination == .six(2) && header.payloadByteCount == 3)
    #expect(
      header.trafficClass == 0x5a && header.flowLabel == 0xabcde && header.hopLimit == 64 && header.nextHeader == 17)
    for count in 0..<43 { #expect(withBytes(Array(bytes[..<count])) { IPv6Header($0, available: $0.count) } == nil) }
    var other = bytes
    other[0] = 0x45
    #expect(withBytes(other) { IPv6Header($0, available: $0.count) } == nil)
    // An IPv4 address in disguise is none that a packet may have.
    other = bytes
    other.withUnsafeMutableBytes { IPAddress.one4.writeV6(to: $0.baseAddress! + 8) }
    #expect(withBytes(other) { IPv6Header($0, available: $0.count) } == nil)
  }

  @Test func extensionHeadersAreWalked() {
    func walk(_ next: UInt8, _ rest: [UInt8]) -> IPv6Extensions {
      withBytes(v6(next: next, rest)) { IPv6Extensions($0, first: next) }
    }
    let udp = [UInt8](repeating: 7, count: 8)
    #expect(walk(17, udp).end == .transport(17) && walk(17, udp).offset == 40)
    #expect(walk(59, []).end == .nothing)
    // Hop-by-hop with a router alert, destination options with padding, a route at its end.
    let alert: [UInt8] = [60, 0, 5, 2, 0, 0, 1, 0]
    let padding: [UInt8] = [43, 0, 1, 4, 0, 0, 0, 0]
    let route: [UInt8] = [17, 0, 3, 0, 0, 0, 0, 0]
    let all = walk(0, alert + padding + route + udp)
    #expect(all.end == .transport(17) && all.offset == 64 && all.namedAt == 56 && all.hasRouterAlert)
    #expect(walk(44, [17, 0, 0, 0, 0, 0, 0, 1]).end == .fragment)
    #expect(walk(44, [17, 0, 0, 0]).end == .dropped)
    // A route that goes on (RFC 5095), hop-by-hop options that are not first.
    #expect(walk(43, [17, 0, 0, 1, 0, 0, 0, 0]).end == .problem(code: 0, pointer: 42, unlessGroup: false))
    #expect(
      walk(60, [0, 0, 1, 4, 0, 0, 0, 0] + [17, 0, 1, 4, 0, 0, 0, 0]).end
        == .problem(code: 1, pointer: 40, unlessGroup: false))
    // Options that nobody knows: pass over, drop, tell, tell unless it was a group.
    #expect(walk(60, [17, 0, 0x1e, 0, 1, 2, 0, 0] + udp).end == .transport(17))
    #expect(walk(60, [17, 0, 0x5e, 0, 1, 2, 0, 0] + udp).end == .dropped)
    #expect(walk(60, [17, 0, 0x9e, 0, 1, 2, 0, 0]).end == .problem(code: 2, pointer: 42, unlessGroup: false))
    #expect(walk(60, [17, 0, 0xde, 0, 1, 2, 0, 0]).end == .problem(code: 2, pointer: 42, unlessGroup: true))
    // Cut off, and options that reach beyond their header.
    #expect(walk(60, [17, 1, 1, 4, 0, 0, 0, 0]).end == .dropped)
    #expect(walk(60, [17, 0, 1, 5, 0, 0, 0, 0]).end == .dropped)
    #expect(walk(60, [17, 0, 0, 0, 0, 0, 0, 1]).end == .dropped)
    // No more than a few.
    var many: [UInt8] = []
    for _ in 0..<9 { many += [60, 0, 1, 4, 0, 0, 0, 0] }
    #expect(walk(60, many).end == .dropped)
  }

  @Test func parsersSurviveRandomBytes() {
    var random = SystemRandomNumberGenerator()
    for round in 0..<20_000 {
      var bytes = (0..<Int.random(in: 0...90, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) }
      if round % 2 == 0 {
        for index in bytes.indices where Bool.random(using: &random) {
          bytes[index] = UInt8.random(in: 0...8, using: &random)
        }
      }
      withBytes(bytes) { buffer in
        _ = IPv4Header(buffer, available: buffer.count)
        _ = IPv6Header(buffer, available: buffer.count)
        _ = IPv4Header.options(buffer)
        for kind: UInt8 in [0, 43, 44, 60] { _ = IPv6Extensions(buffer, first: kind, start: 0, namedAt: 0) }
        _ = QuotedPacket(buffer, isV4: true, available: buffer.count)
        _ = QuotedPacket(buffer, isV4: false, available: buffer.count)
        _ = ARPPacket(buffer)
        _ = RouterAdvertisement(buffer)
        if buffer.count >= 24 { _ = DiscoveryOptions(buffer, from: 24, linkOption: 1) }
        _ = DHCPMessage(buffer, for: LinkAddress(0))
      }
    }
  }

  @Test func arpIsReadAsWrittenAndNothingElse() throws {
    let packet = ARPPacket(
      operation: ARPPacket.request, senderLink: LinkAddress(0x0200_0000_0001), sender: .one4, targetLink: .zero,
      target: .two4)
    var bytes = [UInt8](repeating: 0, count: 28)
    bytes.withUnsafeMutableBytes { packet.write(to: $0.baseAddress!) }
    #expect(withBytes(bytes) { ARPPacket($0) } == packet)
    for count in 0..<28 { #expect(withBytes(Array(bytes[..<count])) { ARPPacket($0) } == nil) }
    // Hardware, protocol, sizes, operation; a sender that is a group or everybody; a group's link address.
    for (index, value) in [(1, 6), (2, 9), (4, 8), (5, 16), (7, 3), (14, 0xe0), (8, 1)] as [(Int, UInt8)] {
      var other = bytes
      other[index] = value
      #expect(withBytes(other) { ARPPacket($0) } == nil, "byte \(index)")
    }
  }

  @Test func quotationsNameTheFlow() throws {
    let bytes = v4(payload: 8)
    let quoted = try #require(withBytes(bytes) { QuotedPacket($0, isV4: true, available: 28) })
    #expect(
      quoted.source == .one4 && quoted.destination == .two4 && quoted.transportOffset == 20
        && quoted.totalByteCount == 28)
    #expect(withBytes(Array(bytes[..<27])) { QuotedPacket($0, isV4: true, available: 27) } == nil)
    let later = v4({ $0.fragmentOffset = 8 }, payload: 8)
    #expect(withBytes(later) { QuotedPacket($0, isV4: true, available: 28) } == nil)
    let first = v6(next: 44, [17, 0, 0, 1, 0, 0, 0, 9] + [UInt8](repeating: 1, count: 8))
    let six = try #require(withBytes(first) { QuotedPacket($0, isV4: false, available: 100) })
    #expect(six.protocolNumber == 17 && six.transportOffset == 48)
    let second = v6(next: 44, [17, 0, 0, 8, 0, 0, 0, 9] + [UInt8](repeating: 1, count: 8))
    #expect(withBytes(second) { QuotedPacket($0, isV4: false, available: 100) } == nil)
  }

  @Test func linkAddressesOfGroupsAndIdentifiers() {
    #expect(LinkAddress(group: IPAddress(v4: 0xe080_0001)).value == 0x0100_5e00_0001)
    #expect(LinkAddress(group: .allNodes6).value == 0x3333_0000_0001)
    #expect(LinkAddress(0x0250_5612_3456).interfaceIdentifier == 0x0050_56ff_fe12_3456)
    #expect(LinkAddress.broadcast.isGroup && !LinkAddress(0x0200_0000_0001).isGroup)
  }

  @Test func tcpIsSplitAsADeviceWould() throws {
    HostedArena.prepare()
    let data = (0..<2500).map { UInt8(truncatingIfNeeded: $0 &* 3) }
    var tcp = [UInt8](repeating: 0, count: 32)
    (tcp[0], tcp[1], tcp[2], tcp[3]) = (0, 80, 0x12, 0x34)
    (tcp[4], tcp[5], tcp[6], tcp[7]) = (0xff, 0xff, 0xff, 0x00)
    tcp[12] = 0x80
    tcp[13] = 0x99  // CWR, ACK, PSH, FIN
    let packet = try Packet.of(tcp + data)
    packet.segmentation = PacketSegmentation(.tcp4, segmentByteCount: 1000, hasCongestionMark: true)
    var splitter = SegmentSplitter(packet, OutgoingHeader(source: .one4, destination: .two4, protocolNumber: 6))
    var (flags, numbers, got): ([UInt8], [UInt32], [UInt8]) = ([], [], [])
    while var part = try splitter.next(packet) {
      let isComplete = InternetChecksum.complete(&part)
      #expect(isComplete)
      let bytes = part.allBytes
      var checksum = InternetChecksum()
      checksum.addPseudoHeader(.one4, .two4, protocol: 6, byteCount: bytes.count)
      withBytes(bytes) { checksum.add($0) }
      #expect(checksum.isValid)
      flags.append(bytes[13])
      numbers.append(bytes[4..<8].reduce(0) { $0 << 8 | UInt32($1) })
      got += bytes[32...]
    }
    #expect(got == data && flags == [0x90, 0x10, 0x19])
    #expect(numbers == [0xffff_ff00, 0xffff_ff00 &+ 1000, 0xffff_ff00 &+ 2000])
  }
}
