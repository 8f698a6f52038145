// Neighbours, routers and addresses: ARP, neighbour discovery, autoconfiguration; and who lies about them.
import Base
import Devices
import Testing

@testable import Network

private let second: UInt64 = 1_000_000_000

@Suite(.serialized) struct NeighbourTests {
  private func state(_ machine: TestMachine, _ address: IPAddress) -> UInt16? {
    machine.stack.neighbourDescriptions.first { $0.address == address }?.state
  }

  private func frame(
    to destination: LinkAddress, from source: LinkAddress, type: UInt16, _ payload: [UInt8]
  ) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 14) + payload
    bytes.withUnsafeMutableBytes {
      EthernetHeader.write(to: $0.baseAddress!, destination: destination, source: source, type: type)
    }
    return bytes
  }

  private func arp(_ operation: UInt16, _ link: UInt64, _ sender: IPAddress, _ target: IPAddress) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 28)
    bytes.withUnsafeMutableBytes {
      ARPPacket(
        operation: operation, senderLink: LinkAddress(link), sender: sender, targetLink: .zero, target: target
      ).write(to: $0.baseAddress!)
    }
    return bytes
  }

  /// Hands a frame to a machine as if it came by the wire.
  private func inject(_ frame: [UInt8], into net: TestNetwork) {
    let stranger = strangerEnd(net.one.stack)
    stranger.wire = net.wire
    net.wire.ends.append(stranger)
    if let packet = try? Packet.of(frame) { stranger.transmit(packet) }
    net.wire.ends.removeAll { $0 === stranger }
    net.settle()
  }

  private func strangerEnd(_ stack: NetworkStack) -> WireInterface {
    WireInterface(stack, link: 0x0200_0000_0099, index: 99)
  }

  @Test(arguments: [true, false]) func neighboursAreAskedWhenTheyAreUsed(isV4: Bool) throws {
    let net = try TestNetwork()
    let (from, to): (IPAddress, IPAddress) = isV4 ? (.one4, .two4) : (.six(1), .six(2))
    try net.one.stack.sendDatagram([1], from: from, 1, to: to, 9)
    net.settle()
    #expect(state(net.one, to) == 0x02)
    // After a while nobody knows; nothing is asked until it is used, and then the neighbour alone.
    net.pass(60 * second, step: second)
    #expect(state(net.one, to) == 0x04)
    net.wire.log = []
    net.pass(60 * second, step: second)
    #expect(net.wire.log.isEmpty)
    try net.one.stack.sendDatagram([1], from: from, 1, to: to, 9)
    net.settle()
    #expect(state(net.one, to) == 0x08)
    net.wire.log = []
    net.pass(6 * second)
    let question = try #require(net.wire.log.first)
    #expect(Array(question[0..<6]) == [2, 0, 0, 0, 0, 2])
    #expect(state(net.one, to) == 0x02)
    // Something above that gets answers spares the question.
    net.pass(60 * second, step: second)
    try net.one.stack.sendDatagram([1], from: from, 1, to: to, 9)
    net.settle()
    #expect(state(net.one, to) == 0x08)
    net.one.stack.confirm(try net.one.stack.route(to: to))
    #expect(state(net.one, to) == 0x02)
    // One that is gone is noticed.
    net.pass(60 * second, step: second)
    try net.one.stack.sendDatagram([1], from: from, 1, to: to, 9)
    net.wire.filter = { _ in nil }
    net.pass(12 * second)
    #expect(state(net.one, to) == 0x20)
  }

  @Test func arpMakesEntriesOfThoseWhoSpeakToUsAlone() throws {
    let net = try TestNetwork()
    inject(
      frame(
        to: .broadcast, from: LinkAddress(0x0200_0000_0099), type: 0x0806,
        arp(1, 0x0200_0000_0099, IPAddress(v4: 0x0a00_0063), IPAddress(v4: 0x0a00_0050))), into: net)
    #expect(state(net.one, IPAddress(v4: 0x0a00_0063)) == nil)
    inject(
      frame(
        to: .broadcast, from: LinkAddress(0x0200_0000_0099), type: 0x0806,
        arp(1, 0x0200_0000_0099, IPAddress(v4: 0x0a00_0063), .one4)), into: net)
    #expect(state(net.one, IPAddress(v4: 0x0a00_0063)) == 0x04 && state(net.two, IPAddress(v4: 0x0a00_0063)) == nil)
  }

  @Test func addressesOfOursAreDefended() throws {
    let net = try TestNetwork()
    net.wire.log = []
    for _ in 0..<5 {
      inject(
        frame(
          to: .broadcast, from: LinkAddress(0x0200_0000_0099), type: 0x0806, arp(1, 0x0200_0000_0099, .one4, .one4)),
        into: net)
    }
    // Five times somebody says that it has the address; once it is told otherwise.
    let defences = net.wire.log.filter { $0[12] == 8 && $0[13] == 6 && Array($0[6..<12]) == [2, 0, 0, 0, 0, 1] }
    #expect(defences.count == 1)
    #expect(state(net.one, .one4) == nil)
  }

  @Test func theCacheIsBounded() throws {
    let net = try TestNetwork()
    for number in 0..<3000 {
      let sender = IPAddress(v4: 0x0a00_0000 + UInt32(number + 256))
      inject(
        frame(
          to: .broadcast, from: LinkAddress(0x0200_0000_0099), type: 0x0806, arp(1, 0x0200_0000_0099, sender, .one4)),
        into: net)
    }
    #expect(net.one.stack.neighbourDescriptions.count <= NeighbourCache.limit)
    // A way that leads to one that had to go is looked up anew.
    let flow = try net.two.stack.listen(53, at: .two4)
    try net.one.stack.sendDatagram([1], from: .one4, 1, to: .two4, 53)
    net.settle()
    #expect(flow.take(net.two.stack).count == 1)
  }

  /// Machines that are not there displace one another, and neither who is there nor the gateway, whether that is known or being asked for.
  @Test(arguments: [true, false]) func whoIsThereIsNotDisplaced(isKnown: Bool) throws {
    let net = try TestNetwork()
    let (stack, other) = (net.one.stack, IPAddress(v4: 0x0a00_0063))
    try stack.add(Route(to: IPAddress(v4: 0x0a00_0000), 8, interfaceIndex: 2))
    try stack.add(Route(to: .any4, 0, gateway: .two4, interfaceIndex: 2))
    if !isKnown { net.wire.filter = { _ in nil } }
    try stack.sendDatagram([1], from: .one4, 1, to: IPAddress(v4: 0x0808_0808), 9)
    if isKnown {
      inject(
        frame(
          to: .broadcast, from: LinkAddress(0x0200_0000_0099), type: 0x0806, arp(1, 0x0200_0000_0099, other, .one4)),
        into: net)
    }
    net.settle()
    net.wire.filter = { _ in nil }
    for number in 0..<3000 {
      net.environment.pass(1000)
      try stack.sendDatagram([1], from: .one4, 1, to: IPAddress(v4: 0x0a10_0000 + UInt32(number)), 9)
    }
    let known = stack.neighbourDescriptions
    #expect(known.count { $0.state == 0x01 } <= NeighbourCache.unresolvedLimit)
    #expect(state(net.one, .two4) == (isKnown ? 0x02 : 0x01))
    if isKnown { #expect(state(net.one, other) == 0x04) }
    // The last ones are those that are being asked for.
    #expect(state(net.one, IPAddress(v4: 0x0a10_0000 + 2999)) == 0x01)
    #expect(state(net.one, IPAddress(v4: 0x0a10_0000)) == nil)
    #expect(try stack.route(to: IPAddress(v4: 0x0808_0404)).nextHop == .two4)
    #expect(stack.counted(.ipSendDiscarded, isV4: true) >= 2000)
  }

  /// Machines that say that they are there displace neither the gateway nor who answers us.
  @Test func whoIsUsedIsNotDisplaced() throws {
    let net = try TestNetwork()
    let (stack, third) = (net.one.stack, IPAddress(v4: 0x0a00_0003))
    let machine = try TestMachine(net.wire, net.environment, link: 0x0200_0000_0003)
    try machine.link.add(InterfaceAddress(third, prefixLength: 24))
    try stack.add(Route(to: .any4, 0, gateway: .two4, interfaceIndex: 2))
    for address in [IPAddress.two4, third] { try stack.sendDatagram([1], from: .one4, 1, to: address, 9) }
    net.settle()
    // The gateway has not been used for long; the other one has been just now.
    net.pass(60 * second, step: second)
    try stack.sendDatagram([1], from: .one4, 1, to: third, 9)
    net.settle()
    #expect(state(net.one, .two4) == 0x04 && state(net.one, third) == 0x08)
    for number in 0..<1500 {
      net.environment.pass(1000)
      let sender = IPAddress(v4: 0x0a00_0100 + UInt32(number))
      inject(
        frame(
          to: .broadcast, from: LinkAddress(0x0200_0000_0099), type: 0x0806, arp(1, 0x0200_0000_0099, sender, .one4)),
        into: net)
    }
    #expect(stack.neighbourDescriptions.count <= NeighbourCache.limit)
    #expect(state(net.one, .two4) == 0x04 && state(net.one, third) == 0x08)
  }

  @Test func entriesForGoodStay() throws {
    let net = try TestNetwork()
    try net.one.stack.setNeighbour(IPAddress(v4: 0x0a00_0050), on: 2, LinkAddress(0x0200_0000_0077))
    try net.one.stack.sendDatagram([1], from: .one4, 1, to: IPAddress(v4: 0x0a00_0050), 9)
    #expect(net.wire.log.last.map { Array($0[0..<6]) } == [2, 0, 0, 0, 0, 0x77])
    try net.one.stack.setNeighbour(IPAddress(v4: 0x0a00_0050), on: 2, nil)
    #expect(throws: Errno.ENOENT) { try net.one.stack.setNeighbour(IPAddress(v4: 0x0a00_0050), on: 2, nil) }
    #expect(throws: Errno.ENODEV) { try net.one.stack.setNeighbour(.two4, on: 1, LinkAddress(1)) }
  }

  // MARK: Autoconfiguration

  /// A router advertisement in a frame.
  private func advertisement(
    lifetime: UInt16 = 1800, valid: UInt32 = 7200, preferred: UInt32 = 3600, hopLimit: UInt8 = 255,
    source: IPAddress = IPAddress(high: 0xfe80 << 48, low: 0x99), extra: [UInt8] = []
  ) -> [UInt8] {
    func word(_ value: UInt32) -> [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: value >> UInt32(24 - 8 * $0)) } }
    var body: [UInt8] =
      [134, 0, 0, 0, 64, 0] + [UInt8(lifetime >> 8), UInt8(lifetime & 255)] + [UInt8](repeating: 0, count: 8)
    body += [1, 1, 2, 0, 0, 0, 0, 0x99]
    body +=
      [3, 4, 64, 0xc0] + word(valid) + word(preferred) + [0, 0, 0, 0] + [0x20, 1, 0xd, 0xb8]
      + [UInt8](repeating: 0, count: 12)
    body += extra
    let destination = IPAddress.allNodes6
    var checksum = InternetChecksum()
    checksum.addPseudoHeader(source, destination, protocol: 58, byteCount: body.count)
    body.withUnsafeBytes { checksum.add($0) }
    (body[2], body[3]) = (UInt8(checksum.value >> 8), UInt8(checksum.value & 255))
    var header = IPv6Header()
    (header.nextHeader, header.hopLimit, header.payloadByteCount) = (58, hopLimit, body.count)
    (header.source, header.destination) = (source, destination)
    var bytes = [UInt8](repeating: 0, count: 40) + body
    bytes.withUnsafeMutableBytes { header.write(to: $0.baseAddress!) }
    return frame(to: LinkAddress(group: destination), from: LinkAddress(0x0200_0000_0099), type: 0x86dd, bytes)
  }

  private func configured() throws -> TestNetwork {
    let net = try TestNetwork(addresses: false)
    var setup = InterfaceSetup()
    setup.autoconfigures = true
    try net.one.stack.configure(net.one.link, setup)
    net.one.stack.begin(net.one.link)
    net.settle()
    return net
  }

  private let formed = IPAddress(high: 0x2001_0db8_0000_0000, low: 0x0000_00ff_fe00_0001)

  @Test func addressesAreFormedFromWhatRoutersSay() throws {
    let net = try configured()
    // Its link-local address was asked for, and routers were.
    #expect(net.wire.log.contains { $0[20] == 58 && $0[54] == 135 })
    #expect(net.wire.log.contains { $0[20] == 58 && $0[54] == 133 })
    inject(
      advertisement(
        extra: [5, 1, 0, 0, 0, 0, 5, 0x78] + [25, 3, 0, 0, 0, 0, 0, 60] + [0x20, 1] + [UInt8](repeating: 7, count: 14)),
      into: net)
    let own = try #require(net.one.link.addresses.first { $0.address == formed })
    #expect(own.state == .optimistic && own.prefixLength == 64 && own.isUsable)
    #expect(!net.one.stack.isConfiguring(isV4: false))
    let way = try net.one.stack.route(to: IPAddress(high: 0x2606_4700 << 32, low: 1))
    #expect(way.source == formed && way.nextHop.low == 0x99 && way.mtu == 1400)
    #expect(net.one.stack.nameServers.count == 1)
    net.pass(2 * second)
    #expect(net.one.link.addresses.first { $0.address == formed }?.state == .preferred)
    // It is deprecated, and then it ends; and so do the routes.
    net.pass(3600 * second, step: 60 * second)
    #expect(net.one.link.addresses.first { $0.address == formed }?.state == .deprecated)
    #expect(throws: Errno.ENETUNREACH) { _ = try net.one.stack.route(to: IPAddress(high: 0x2606_4700 << 32, low: 1)) }
    net.pass(3700 * second, step: 60 * second)
    #expect(net.one.link.addresses.allSatisfy { $0.address != formed })
    #expect(net.one.stack.routes.allSatisfy { $0.origin != 9 })
  }

  @Test func addressesInDisguiseAreNotBelieved() throws {
    let net = try configured()
    func server(_ bytes: [UInt8]) -> [UInt8] { [25, 3, 0, 0, 0, 0, 0, 60] + bytes }
    let zeros = [UInt8](repeating: 0, count: 10)
    // ::ffff:10.0.0.9, a group, nobody.
    inject(advertisement(extra: server(zeros + [255, 255, 10, 0, 0, 9])), into: net)
    inject(advertisement(extra: server([0xff, 2] + zeros + [0, 0, 0, 1])), into: net)
    inject(advertisement(extra: server([UInt8](repeating: 0, count: 16))), into: net)
    #expect(net.one.stack.nameServers.isEmpty)
    inject(advertisement(extra: server([0x20, 1] + zeros + [0, 0, 0, 1])), into: net)
    #expect(net.one.stack.nameServers.count == 1)
  }

  /// Routers that tell of prefixes without end fill neither the routing table nor the addresses.
  @Test func prefixesAreBounded() throws {
    let net = try configured()
    for number in 0..<100 {
      let prefix: [UInt8] =
        [3, 4, 64, 0xc0, 0, 0, 0x1c, 0x20, 0, 0, 0x0e, 0x10, 0, 0, 0, 0, 0x20, 1, 0xd, 0xb8, 1, UInt8(number)]
        + [UInt8](repeating: 0, count: 10)
      inject(advertisement(extra: prefix), into: net)
    }
    let stack = net.one.stack
    #expect(net.one.link.addresses.filter { $0.origin == .autoconfigured }.count == NetworkStack.prefixLimit)
    #expect(stack.routes.filter { $0.origin == 9 && $0.prefixLength == 64 }.count == NetworkStack.prefixLimit)
    // What is known is still renewed, and ended.
    inject(advertisement(valid: 86_400, preferred: 43_200), into: net)
    let own = try #require(net.one.link.addresses.first { $0.address == formed })
    #expect(own.validUntil == net.environment.now() + 86_400 * second)
    inject(advertisement(valid: 0, preferred: 0), into: net)
    #expect(stack.routes.filter { $0.origin == 9 && $0.prefixLength == 64 }.count == NetworkStack.prefixLimit - 1)
  }

  @Test func nobodyTakesAnAddressAwayAtOnce() throws {
    let net = try configured()
    inject(advertisement(valid: 86_400, preferred: 43_200), into: net)
    inject(advertisement(valid: 1, preferred: 1), into: net)
    let own = try #require(net.one.link.addresses.first { $0.address == formed })
    #expect(own.validUntil == net.environment.now() + 7200 * second)
  }

  @Test func routersThatAreNotOnTheLinkAreNotBelieved() throws {
    let net = try configured()
    inject(advertisement(hopLimit: 254), into: net)
    inject(advertisement(source: .six(9)), into: net)
    inject(advertisement(extra: [3, 0]), into: net)
    inject(advertisement(extra: [3, 9, 0, 0, 0, 0, 0, 0]), into: net)
    #expect(net.one.link.addresses.allSatisfy { $0.address != formed })
    #expect(net.one.stack.routes.allSatisfy { $0.origin != 9 })
    #expect(net.one.stack.counted(.icmpErrors, isV4: false) == 4)
    inject(advertisement(lifetime: 0), into: net)
    #expect(net.one.stack.routes.allSatisfy { $0.prefixLength != 0 })
  }

  @Test func duplicatesAreFound() throws {
    // Both have one link address: the second to come finds that its link-local address is taken.
    let net = try TestNetwork(addresses: false)
    let other = try TestMachine(net.wire, net.environment, link: 0x0200_0000_0001)
    net.one.stack.begin(net.one.link)
    net.pass(2 * second)
    other.stack.begin(other.link)
    net.settle()
    #expect(net.one.link.addresses.first { $0.address.isLinkLocal }?.state == .preferred)
    #expect(other.link.addresses.first { $0.address.isLinkLocal }?.state == .duplicate)
    net.pass(5 * second)
    #expect(other.link.addresses.first { $0.address.isLinkLocal }?.state == .duplicate)
  }

  // MARK: Routes

  @Test func theLongestPrefixAndTheSmallestMetricWin() throws {
    let net = try TestNetwork()
    let stack = net.one.stack
    let target = IPAddress(v4: 0xc0a8_0105)
    #expect(throws: Errno.ENETUNREACH) { _ = try stack.route(to: target) }
    var far = Route(to: .any4, 0, gateway: .two4, interfaceIndex: 2)
    far.metric = 10
    try stack.add(far)
    #expect(try stack.route(to: target).nextHop == .two4)
    var near = Route(to: .any4, 0, gateway: IPAddress(v4: 0x0a00_0003), interfaceIndex: 2)
    near.metric = 5
    try stack.add(near)
    #expect(try stack.route(to: target).nextHop.v4 == 0x0a00_0003)
    try stack.add(Route(to: IPAddress(v4: 0xc0a8_0100), 24, gateway: IPAddress(v4: 0x0a00_0004), interfaceIndex: 2))
    #expect(try stack.route(to: target).nextHop.v4 == 0x0a00_0004)
    var hole = Route(to: target, 32, interfaceIndex: 2)
    hole.kind = .unreachable
    try stack.add(hole)
    #expect(throws: Errno.EHOSTUNREACH) { _ = try stack.route(to: target) }
    #expect(throws: Errno.EEXIST) { try stack.add(hole, replacing: false) }
    try stack.remove(hole)
    #expect(throws: Errno.ESRCH) { try stack.remove(hole) }
    #expect(try stack.route(to: target).source == .one4)
    #expect(throws: Errno.ENODEV) { try stack.add(Route(to: .any4, 0, gateway: .two4, interfaceIndex: 77)) }
    // A way that was remembered is out of date when anything changes.
    let way = try stack.route(to: target)
    try stack.remove(near)
    #expect(way.generation != stack.generation.load(ordering: .relaxed))
  }

  @Test func ourOwnAddressesAreReachedByLoopback() throws {
    let net = try TestNetwork()
    for address in [IPAddress.loopback4, IPAddress(v4: 0x7f01_0203), .loopback6, .one4, .six(1)] {
      let way = try net.one.stack.route(to: address)
      #expect(way.isLoopback && way.source == address)
    }
    #expect(net.one.stack.kind(of: IPAddress(v4: 0x0a00_00ff)) == .broadcast)
    #expect(net.one.stack.kind(of: .two4) == .other && net.one.stack.kind(of: .any6) == .unspecified)
    try net.one.link.remove(.one4)
    #expect(net.one.stack.kind(of: .one4) == .other)
    #expect(throws: Errno.ENETUNREACH) { _ = try net.one.stack.route(to: .two4) }
  }
}
