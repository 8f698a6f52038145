// The DHCP client: its states in time, and against a server that lies; and with a server on the wire.
import Base
import Devices
import Testing

@testable import Network

private let second: UInt64 = 1_000_000_000
private let link = LinkAddress(0x0200_0000_0001)

/// A server's message.
private func reply(
  _ kind: UInt8, _ transaction: UInt32, address: UInt32 = 0x0a00_020f, options: [UInt8]? = nil,
  for target: LinkAddress = link
) -> [UInt8] {
  var bytes = [UInt8](repeating: 0, count: 240)
  (bytes[0], bytes[1], bytes[2]) = (2, 1, 6)
  for index in 0..<4 {
    bytes[4 + index] = UInt8(truncatingIfNeeded: transaction >> UInt32(24 - 8 * index))
    bytes[16 + index] = UInt8(truncatingIfNeeded: address >> UInt32(24 - 8 * index))
  }
  bytes.withUnsafeMutableBytes { target.write(to: $0.baseAddress! + 28) }
  bytes.replaceSubrange(236..<240, with: [0x63, 0x82, 0x53, 0x63])
  let usual: [UInt8] =
    [54, 4, 10, 0, 2, 2, 1, 4, 255, 255, 255, 0, 3, 4, 10, 0, 2, 2, 6, 8, 10, 0, 2, 3, 1, 1, 1, 1]
    + [51, 4, 0, 0, 0x0e, 0x10, 26, 2, 0x05, 0xdc]
  return bytes + [53, 1, kind] + (options ?? usual) + [255]
}

private func message(_ bytes: [UInt8]) -> DHCPMessage? { bytes.withUnsafeBytes { DHCPMessage($0, for: link) } }

@Suite(.serialized) struct DHCPTests {
  /// A client that has its address.
  private func bound(now: UInt64 = 0) throws -> DHCPClient {
    var client = DHCPClient(link)
    _ = client.start(now: now, random: 7)
    _ = client.received(try #require(message(reply(DHCPMessage.offer, 7))), now: now, random: 1)
    let outcome = client.received(try #require(message(reply(DHCPMessage.acknowledgement, 7))), now: now, random: 1)
    #expect(outcome.bound != nil && client.state == .bound)
    return client
  }

  @Test func anAddressIsFoundAndKept() throws {
    var client = DHCPClient(link)
    let start = client.start(now: 0, random: 7)
    #expect(
      start.message?.kind == DHCPMessage.discover && start.message?.transaction == 7 && client.state == .selecting)
    let offered = client.received(try #require(message(reply(DHCPMessage.offer, 7))), now: second, random: 1)
    #expect(offered.message?.kind == DHCPMessage.request && client.state == .requesting)
    #expect(offered.message?.wanted?.v4 == 0x0a00_020f && offered.message?.server?.v4 == 0x0a00_0202)
    let got = client.received(try #require(message(reply(DHCPMessage.acknowledgement, 7))), now: 2 * second, random: 1)
    let lease = try #require(got.bound)
    #expect(lease.address.v4 == 0x0a00_020f && lease.prefixLength == 24 && lease.router.v4 == 0x0a00_0202)
    #expect(lease.servers.map(\.v4) == [0x0a00_0203, 0x0101_0101] && lease.mtu == 1500)
    #expect(lease.validUntil == 3602 * second && client.deadline == 1802 * second)
    // Half of the time: its server is asked, alone.
    let renewal = client.timerFired(now: 1802 * second, random: 9)
    #expect(
      client.state == .renewing && renewal.message?.current == lease.address && renewal.destination.v4 == 0x0a00_0202)
    let renewed = client.received(
      try #require(message(reply(DHCPMessage.acknowledgement, 9))), now: 1803 * second, random: 1)
    #expect(renewed.bound?.validUntil == 5403 * second && !renewed.isLost)
  }

  @Test func whoDoesNotAnswerIsAskedMoreAndMoreSeldom() {
    var client = DHCPClient(link)
    var now: UInt64 = 0
    _ = client.start(now: now, random: 1)
    var gaps: [UInt64] = []
    for _ in 0..<9 {
      gaps.append(client.deadline - now)
      now = client.deadline
      #expect(client.timerFired(now: now - 1, random: 1).message == nil)
      #expect(client.timerFired(now: now, random: 1).message?.kind == DHCPMessage.discover)
    }
    #expect(gaps.map { ($0 + second / 2) / second } == [1, 2, 4, 8, 16, 32, 64, 64, 64])
  }

  @Test func aLeaseThatNobodyRenewsEnds() throws {
    var client = try bound()
    var (now, asked): (UInt64, [DHCPClient.State]) = (0, [])
    var isLost = false
    for _ in 0..<50 where !isLost {
      now = client.deadline
      let outcome = client.timerFired(now: now, random: 3)
      if outcome.message != nil, !outcome.isLost { asked.append(client.state) }
      isLost = outcome.isLost
    }
    #expect(isLost && now == 3600 * second && client.state == .selecting)
    #expect(asked.contains(.renewing) && asked.last == .rebinding && asked.count < 30)
  }

  @Test func aRefusalBeginsAnew() throws {
    var client = try bound()
    _ = client.timerFired(now: 1800 * second, random: 9)
    let refused = client.received(try #require(message(reply(DHCPMessage.refusal, 9))), now: 1801 * second, random: 5)
    #expect(refused.isLost && refused.message == nil && client.state == .selecting && client.lease == nil)
    #expect(client.timerFired(now: 1802 * second, random: 5).message?.kind == DHCPMessage.discover)
  }

  @Test func whatIsNotForUsIsPassedOver() throws {
    var client = DHCPClient(link)
    _ = client.start(now: 0, random: 7)
    // Another transaction; an acknowledgement that was not asked for; addresses that no host has; no server.
    for bytes in [
      reply(DHCPMessage.offer, 8), reply(DHCPMessage.acknowledgement, 7), reply(DHCPMessage.offer, 7, address: 0),
      reply(DHCPMessage.offer, 7, address: 0xe000_0001), reply(DHCPMessage.offer, 7, address: 0xffff_ffff),
      reply(DHCPMessage.offer, 7, options: [1, 4, 255, 255, 255, 0]),
    ] {
      if let message = message(bytes) { #expect(client.received(message, now: 0, random: 1).message == nil) }
      #expect(client.state == .selecting)
    }
  }

  @Test func messagesThatMakeNoSenseAreRefused() {
    let good = reply(DHCPMessage.offer, 7)
    #expect(message(good) != nil)
    for count in 0..<243 { #expect(message(Array(good[..<count])) == nil) }
    for (index, value) in [(0, 1), (1, 6), (2, 8), (28, 9), (236, 0)] as [(Int, UInt8)] {
      var bytes = good
      bytes[index] = value
      #expect(message(bytes) == nil)
    }
    #expect(message(reply(DHCPMessage.offer, 7, options: [3, 200, 1])) == nil)
    // A mask with holes says nothing; options of odd sizes neither.
    let odd = message(reply(DHCPMessage.offer, 7, options: [1, 4, 255, 0, 255, 0, 3, 3, 1, 2, 3, 51, 2, 0, 9]))
    #expect(odd?.prefixLength == 0 && odd?.router.isUnspecified == true && odd?.leaseTime == 0)
    for (mask, length) in [(0, 0), (0xff00_0000, 8), (0xffff_fffe, 31), (0xffff_ffff, 32), (0x8000_0000, 1)]
      as [(UInt32, Int)]
    {
      let bytes = (0..<4).map { UInt8(truncatingIfNeeded: mask >> UInt32(24 - 8 * $0)) }
      #expect(message(reply(DHCPMessage.offer, 7, options: [1, 4] + bytes))?.prefixLength == length)
    }
  }

  /// An interface without addresses asks, and a server on the wire answers.
  @Test func anInterfaceIsConfiguredOverTheWire() throws {
    let net = try TestNetwork(addresses: false)
    var setup = InterfaceSetup()
    setup.addresses = [(IPAddress(v4: 0x0a00_0202), 24)]
    try net.two.stack.configure(net.two.link, setup)
    let server = try net.two.stack.listen(67, at: .any4)
    var asking = InterfaceSetup()
    asking.usesDHCP = true
    try net.one.stack.configure(net.one.link, asking)
    #expect(net.one.stack.isConfiguring(isV4: true) && !net.one.stack.isConfiguring(isV4: false))
    net.one.stack.begin(net.one.link)
    for kind in [DHCPMessage.offer, DHCPMessage.acknowledgement] {
      net.settle()
      let request = try #require(server.take(net.two.stack).last)
      #expect(request.header.source == .any4 && request.header.destination == .broadcast4 && request.bytes.count == 300)
      let transaction = request.bytes[4..<8].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
      let answer = reply(kind, transaction, for: net.one.link.linkAddress)
      try net.two.stack.sendDatagram(
        answer, from: IPAddress(v4: 0x0a00_0202), 67, to: .broadcast4, 68, flags: .mayBroadcast)
    }
    net.settle()
    #expect(!net.one.stack.isConfiguring(isV4: true))
    let own = try #require(net.one.link.addresses.first { $0.address.isV4 })
    #expect(own.address.v4 == 0x0a00_020f && own.prefixLength == 24 && own.origin == .dhcp)
    #expect(try net.one.stack.route(to: IPAddress(v4: 0x0808_0808)).source == own.address)
    #expect(net.one.stack.nameServers.map(\.v4) == [0x0a00_0203, 0x0101_0101])
    // A lease that nobody renews takes the address away.
    net.pass(3700 * second, step: 20 * second)
    #expect(!net.one.link.addresses.contains { $0.address.isV4 })
    #expect(throws: Errno.ENETUNREACH) { _ = try net.one.stack.route(to: IPAddress(v4: 0x0808_0808)) }
  }

  /// A server that says how large packets are does not take IPv6 away.
  @Test(arguments: [(1000, true, 1280), (1000, false, 1000), (1400, true, 1400), (100, true, 1500)])
  func serversSayHowLargePacketsAre(given: UInt16, hasIPv6: Bool, taken: Int) throws {
    let net = try TestNetwork(addresses: false)
    if !hasIPv6 { try net.one.link.setMTU(1200) }
    var setup = InterfaceSetup()
    setup.addresses = [(IPAddress(v4: 0x0a00_0202), 24)]
    try net.two.stack.configure(net.two.link, setup)
    let server = try net.two.stack.listen(67, at: .any4)
    var asking = InterfaceSetup()
    asking.usesDHCP = true
    try net.one.stack.configure(net.one.link, asking)
    net.one.stack.begin(net.one.link)
    for kind in [DHCPMessage.offer, DHCPMessage.acknowledgement] {
      net.settle()
      let request = try #require(server.take(net.two.stack).last)
      let transaction = request.bytes[4..<8].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
      let lease: [UInt8] = [54, 4, 10, 0, 2, 2, 1, 4, 255, 255, 255, 0, 51, 4, 0, 0, 0x0e, 0x10]
      let answer = reply(
        kind, transaction, options: lease + [26, 2, UInt8(given >> 8), UInt8(given & 255)],
        for: net.one.link.linkAddress)
      try net.two.stack.sendDatagram(
        answer, from: IPAddress(v4: 0x0a00_0202), 67, to: .broadcast4, 68, flags: .mayBroadcast)
    }
    net.settle()
    #expect(net.one.link.mtu == taken)
    #expect(net.one.link.addresses.contains { !$0.address.isV4 } == hasIPv6)
  }

  @Test func nobodyWaitsForEver() throws {
    let net = try TestNetwork(addresses: false)
    var asking = InterfaceSetup()
    (asking.usesDHCP, asking.autoconfigures) = (true, true)
    try net.one.stack.configure(net.one.link, asking)
    net.one.stack.begin(net.one.link)
    net.pass(11 * second)
    #expect(!net.one.stack.isConfiguring(isV4: true) && !net.one.stack.isConfiguring(isV4: false))
    try net.one.stack.waitForConfiguration(isV4: true)
  }
}
