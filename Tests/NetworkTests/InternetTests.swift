// IP between two machines: datagrams, echo, fragments, errors, loopback, groups.
import Base
import Devices
import Locks
import Pages
import Testing

@testable import Network

private func numbers(_ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8) } }

@Suite(.serialized) struct InternetTests {
  @Test(arguments: [true, false]) func datagramsAreReceivedWhole(isV4: Bool) throws {
    let net = try TestNetwork()
    let (from, to): (IPAddress, IPAddress) = isV4 ? (.one4, .two4) : (.six(1), .six(2))
    let exact = try net.two.stack.listen(53, at: to)
    let wild = try net.two.stack.listen(54, at: isV4 ? .any4 : .any6)
    for size in [0, 1, 100, 1400] {
      try net.one.stack.sendDatagram(numbers(size), from: from, 1000, to: to, 53)
      try net.one.stack.sendDatagram(numbers(size), from: from, 1000, to: to, 54)
      net.settle()
      for flow in [exact, wild] {
        let got = flow.take(net.two.stack)
        #expect(got.count == 1 && got.first?.bytes == numbers(size))
        #expect(got.first?.header.source == from && got.first?.header.destination == to)
        #expect(got.first?.header.hopLimit == 64 && got.first?.header.protocolNumber == 17)
      }
    }
    // One question for the neighbour's address, whatever is sent.
    let questions = net.wire.log.filter {
      isV4 ? $0[12] == 8 && $0[13] == 6 && $0[21] == 1 : $0[20] == 58 && $0[54] == 135
    }
    #expect(questions.count == 1)
    #expect(net.two.stack.counted(.fastPath, isV4: isV4) >= 6)
    #expect(net.two.stack.counted(.udpErrors, isV4: isV4) == 0)
  }

  @Test(arguments: [true, false], [60, 1480, 5000, 20_000]) func echoIsAnswered(isV4: Bool, size: Int) throws {
    let net = try TestNetwork()
    let (from, to): (IPAddress, IPAddress) = isV4 ? (.one4, .two4) : (.six(1), .six(2))
    guard let ping = CollectingFlow() else { throw NoPacket() }
    try net.one.stack.flows.insert(
      FlowKey(protocol: isV4 ? 1 : 58, local: isV4 ? .any4 : .any6, localPort: 0x1234), ping)
    let request = try Packet.of([isV4 ? 8 : 128, 0, 0, 0, 0x12, 0x34, 0, 1] + numbers(size))
    net.one.stack.sendICMP(request, from: from, to: to, net.one.link)
    net.settle()
    let reply = try need(ping.ring.pop())
    #expect(reply.allBytes[0] == (isV4 ? 0 : 129))
    #expect(Array(reply.allBytes[4...]) == [0x12, 0x34, 0, 1] + numbers(size))
    #expect(reply.internetHeader.source == to)
    let isValid = InternetChecksum.isTransportValid(reply, reply.internetHeader)
    #expect(isValid)
    #expect(net.two.stack.counted(.reassembled, isV4: isV4) == (size > 1472 ? 1 : 0))
  }

  @Test(arguments: [true, false]) func aPortWhereNobodyIsIsToldOf(isV4: Bool) throws {
    let net = try TestNetwork()
    let (from, to): (IPAddress, IPAddress) = isV4 ? (.one4, .two4) : (.six(1), .six(2))
    let flow = try net.one.stack.listen(1000, at: from)
    try net.one.stack.sendDatagram(numbers(40), from: from, 1000, to: to, 9)
    net.settle()
    #expect(flow.errors.count == 1)
    #expect(flow.errors.first?.kind == .portUnreachable && flow.errors.first?.errno == .ECONNREFUSED)
    #expect(flow.errors.first?.sender == to && flow.errorKeys.first?.remotePort == 9)
    #expect(net.two.stack.counted(.udpNoPorts, isV4: isV4) == 1)
  }

  @Test(arguments: [true, false]) func neighboursThatDoNotAnswerAreToldOf(isV4: Bool) throws {
    let net = try TestNetwork()
    let (from, to): (IPAddress, IPAddress) = isV4 ? (.one4, IPAddress(v4: 0x0a00_0063)) : (.six(1), .six(99))
    let flow = try net.one.stack.listen(1000, at: from)
    for _ in 0..<80 { try net.one.stack.sendDatagram(numbers(40), from: from, 1000, to: to, 9) }
    net.settle()
    #expect(flow.errors.isEmpty)
    net.pass(5_000_000_000)
    // Of eighty, sixty-four have waited.
    #expect(flow.errors.count == 64 && flow.errors.allSatisfy { $0.errno == .EHOSTUNREACH && !$0.isHard })
    #expect(net.one.stack.counted(.ipSendDiscarded, isV4: isV4) == 80)
    // Nothing ticks any more.
    #expect(net.one.stack.runTimers(now: net.environment.now()) > net.environment.now() + 10_000_000_000)
  }

  @Test func whatIsNotToBeFragmentedIsRefused() throws {
    let net = try TestNetwork()
    do {
      try net.one.stack.sendDatagram(numbers(3000), from: .one4, 1000, to: .two4, 9, flags: .dontFragment)
      Issue.record("it was sent")
    } catch let error as Errno { #expect(error == .EMSGSIZE) }
    #expect(net.one.stack.counted(.fragmentFailed, isV4: true) == 1)
  }

  @Test(arguments: [true, false]) func datagramsComeInFragments(isV4: Bool) throws {
    let net = try TestNetwork(mtu: 1280)
    let (from, to): (IPAddress, IPAddress) = isV4 ? (.one4, .two4) : (.six(1), .six(2))
    let flow = try net.two.stack.listen(53, at: to)
    for size in [1300, 8000, 65_000] {
      try net.one.stack.sendDatagram(numbers(size), from: from, 1000, to: to, 53)
      net.settle()
      let got = flow.take(net.two.stack)
      #expect(got.count == 1 && got.first?.bytes == numbers(size))
    }
    #expect(net.two.stack.counted(.reassembled, isV4: isV4) == 3)
    #expect(net.two.stack.reassembly.usage.datagrams == 0)
  }

  @Test(arguments: [true, false], [PacketOffloads(), [.checksum], [.checksum, .udp]])
  func datagramsThatAreSentTogether(isV4: Bool, offloads: PacketOffloads) throws {
    let net = try TestNetwork(offloads: offloads)
    let (from, to): (IPAddress, IPAddress) = isV4 ? (.one4, .two4) : (.six(1), .six(2))
    let flow = try net.two.stack.listen(53, at: to)
    try net.one.stack.sendDatagram(numbers(5000), from: from, 1000, to: to, 53, segment: 1200)
    net.settle()
    let got = flow.take(net.two.stack)
    if offloads.contains(.udp) {
      // The device of the tests leaves it whole, as one on the same host would.
      #expect(got.count == 1 && got.first?.bytes == numbers(5000))
    } else {
      #expect(got.map(\.bytes.count) == [1200, 1200, 1200, 1200, 200])
      #expect(got.flatMap(\.bytes) == numbers(5000))
    }
    #expect(net.two.stack.counted(.udpErrors, isV4: isV4) == 0)
  }

  @Test(arguments: [true, false]) func loopbackIsAFunctionCall(isV4: Bool) throws {
    let net = try TestNetwork()
    for address in isV4 ? [IPAddress.loopback4, .one4] : [.loopback6, .six(1)] {
      let flow = try net.one.stack.listen(53, at: address)
      try net.one.stack.sendDatagram(numbers(30_000), from: address, 1000, to: address, 53)
      // It is there, and has been told, when the sender returns.
      #expect(flow.told == 1)
      let got = flow.take(net.one.stack)
      #expect(got.count == 1 && got.first?.bytes == numbers(30_000) && got.first?.header.source == address)
    }
    // What is for nobody waits until the sender holds nothing.
    let flow = try net.one.stack.listen(1000, at: isV4 ? .loopback4 : .loopback6)
    let address: IPAddress = isV4 ? .loopback4 : .loopback6
    try net.one.stack.sendDatagram(numbers(3), from: address, 1000, to: address, 9)
    #expect(flow.errors.isEmpty)
    net.one.stack.runDeferred()
    #expect(flow.errors.count == 1 && flow.errors.first?.errno == .ECONNREFUSED)
    #expect(net.wire.log.isEmpty)
  }

  @Test func whoForgetsToLookIsHelped() throws {
    let net = try TestNetwork()
    let flow = try net.one.stack.listen(1000, at: .loopback4)
    try net.one.stack.sendDatagram(numbers(3), from: .loopback4, 1000, to: .loopback4, 9)
    #expect(net.one.stack.timer.next <= net.environment.now() + 1_000_000)
    net.pass(1_000_000, step: 1_000_000)
    #expect(flow.errors.count == 1)
  }

  @Test func flowsThatNobodyAttendsToAreDrained() throws {
    let net = try TestNetwork()
    let flow = try net.one.stack.listen(53, at: .loopback4)
    flow.isAttended = false
    for _ in 0..<3 { try net.one.stack.sendDatagram([1], from: .loopback4, 1000, to: .loopback4, 53) }
    #expect(flow.drains == 0)
    net.pass(1_000_000, step: 500_000)
    #expect(flow.drains == 1)
    _ = flow.take(net.one.stack)
    // By the wire, the thread of the queue does it: here the batch's list.
    let other = try net.two.stack.listen(53, at: .two4)
    other.isAttended = false
    try net.one.stack.sendDatagram([1], from: .one4, 1000, to: .two4, 53)
    net.settle()
    #expect(!net.two.link.batch.unattended.isEmpty)
    net.two.link.batch.unattended.drain(now: net.environment.now())
    #expect(other.drains == 1)
    // Who has looked meanwhile is not drained.
    try net.one.stack.sendDatagram([1], from: .one4, 1000, to: .two4, 53)
    net.settle()
    while other.ring.pop() != nil {}
    net.two.link.batch.unattended.drain(now: net.environment.now())
    #expect(other.drains == 1)
  }

  @Test func aFlowIsToldOnceABatch() throws {
    let net = try TestNetwork()
    let flow = try net.two.stack.listen(53, at: .two4)
    try net.one.stack.sendDatagram([0], from: .one4, 1000, to: .two4, 53)
    net.settle()
    let before = flow.told
    for _ in 0..<20 { try net.one.stack.sendDatagram([1], from: .one4, 1000, to: .two4, 53) }
    net.settle()
    #expect(flow.told == before + 1 && flow.take(net.two.stack).count == 21)
    // The ring is full: the rest is counted.
    for _ in 0..<300 { try net.one.stack.sendDatagram([1], from: .one4, 1000, to: .two4, 53) }
    net.settle()
    #expect(flow.take(net.two.stack).count == 256)
    #expect(net.two.stack.counted(.ringFull, isV4: true) == 44 && flow.droppedCount.load(ordering: .relaxed) == 44)
  }

  @Test(arguments: [true, false]) func groupsAreJoinedAndReported(isV4: Bool) throws {
    let net = try TestNetwork()
    let group = isV4 ? IPAddress(v4: 0xefff_0101) : IPAddress(high: 0xff15 << 48, low: 0x101)
    let from: IPAddress = isV4 ? .one4 : .six(1)
    let flow = try net.two.stack.listen(53, at: isV4 ? .any4 : .any6)
    try net.one.stack.sendDatagram([1], from: from, 1000, to: group, 53)
    net.settle()
    #expect(flow.take(net.two.stack).isEmpty)
    try net.two.link.join(group)
    try net.two.link.join(group)
    net.wire.log = []
    net.pass(3_000_000_000)
    let reports = net.wire.log.filter {
      isV4 ? $0[14] == 0x46 && $0[23] == 2 && $0[38] == 0x22 : $0[20] == 0 && $0[62] == 143 && $0[88] == 1
    }
    #expect(reports.count == 2)
    // A change to "all sources", for the group.
    for report in reports { #expect(report[isV4 ? 46 : 70] == 4 && report[isV4 ? 53 : 89] == 1) }
    try net.one.stack.sendDatagram([2], from: from, 1000, to: group, 53)
    net.settle()
    #expect(flow.take(net.two.stack).map(\.bytes) == [[2]])
    // Members on the sender's own machine get it too, unless it says no.
    let own = try net.one.stack.listen(53, at: isV4 ? .any4 : .any6)
    try net.one.link.join(group)
    try net.one.stack.sendDatagram([3], from: from, 1000, to: group, 53)
    try net.one.stack.sendDatagram([4], from: from, 1000, to: group, 53, flags: .noLoop)
    net.settle()
    #expect(own.take(net.one.stack).map(\.bytes) == [[3]])
    #expect(flow.take(net.two.stack).map(\.bytes) == [[3], [4]])
    net.two.link.leave(group)
    #expect(net.two.link.memberships.contains { $0.group == group && $0.count == 1 })
    net.wire.log = []
    net.two.link.leave(group)
    net.settle()
    #expect(net.wire.log.count == 1 && net.wire.log[0][isV4 ? 46 : 70] == 3)
    try net.one.stack.sendDatagram([5], from: from, 1000, to: group, 53)
    net.settle()
    #expect(flow.take(net.two.stack).isEmpty)
  }

  @Test func broadcastsNeedLeave() throws {
    let net = try TestNetwork()
    let flow = try net.two.stack.listen(53, at: .any4)
    for address in [IPAddress.broadcast4, IPAddress(v4: 0x0a00_00ff)] {
      #expect(throws: Errno.EACCES) { try net.one.stack.sendDatagram([1], from: .one4, 1000, to: address, 53) }
      try net.one.stack.sendDatagram([1], from: .one4, 1000, to: address, 53, flags: .mayBroadcast)
      net.settle()
      #expect(flow.take(net.two.stack).count == 1)
      // Nobody is told that a port is closed.
      net.wire.log = []
      try net.one.stack.sendDatagram([1], from: .one4, 1000, to: address, 9, flags: .mayBroadcast)
      net.settle()
      #expect(net.wire.log.count == 1)
    }
  }

  @Test func pathMTUsAreLearntAndForgotten() throws {
    let net = try TestNetwork()
    let flow = try net.one.stack.listen(1000, at: .one4)
    try net.one.stack.sendDatagram(numbers(1200), from: .one4, 1000, to: .two4, 53, flags: .dontFragment)
    net.settle()
    let sent = try #require(net.wire.log.last { $0[12] == 8 && $0[13] == 0 && $0[23] == 17 })
    // A router says that 900 bytes pass.
    let quoted = Array(sent[14..<(14 + 28)])
    var message = try Packet.of([3, 4, 0, 0, 0, 0, 0x03, 0x84] + quoted)
    net.two.stack.sendICMP(message, from: .two4, to: .one4, net.two.link)
    net.settle()
    #expect(flow.errors.last?.kind == .packetTooBig && flow.errors.last?.mtu == 900)
    #expect(try net.one.stack.route(to: .two4).mtu == 900)
    #expect(throws: Errno.EMSGSIZE) {
      try net.one.stack.sendDatagram(numbers(1200), from: .one4, 1000, to: .two4, 53, flags: .dontFragment)
    }
    // Nothing makes it smaller than the least, and nothing that no flow has sent counts.
    message = try Packet.of([3, 4, 0, 0, 0, 0, 0, 68] + quoted)
    net.two.stack.sendICMP(message, from: .two4, to: .one4, net.two.link)
    net.settle()
    #expect(try net.one.stack.route(to: .two4).mtu == 552)
    net.pass(700_000_000_000, step: 50_000_000_000)
    #expect(try net.one.stack.route(to: .two4).mtu == 1500)
    var foreign = quoted
    (foreign[20], foreign[21]) = (0x77, 0x77)
    net.two.stack.sendICMP(
      try Packet.of([3, 4, 0, 0, 0, 0, 0x03, 0x84] + foreign), from: .two4, to: .one4, net.two.link)
    net.settle()
    #expect(try net.one.stack.route(to: .two4).mtu == 1500)
  }

  /// A link whose packets have less than 1280 bytes carries no IPv6 (RFC 8200, 5).
  @Test func narrowLinksCarryIPv4Alone() throws {
    let net = try TestNetwork()
    let (four, six) = (try net.two.stack.listen(53, at: .any4), try net.two.stack.listen(53, at: .any6))
    net.one.stack.begin(net.one.link)
    net.two.stack.begin(net.two.link)
    net.pass(2_000_000_000)
    #expect(throws: Errno.EINVAL) { try net.two.link.setMTU(67) }
    try net.two.link.setMTU(1279)
    #expect(net.two.link.addresses.allSatisfy { $0.address.isV4 })
    #expect(net.two.stack.routes.allSatisfy { $0.destination.isV4 || $0.interfaceIndex != 2 })
    #expect(net.two.link.memberships.allSatisfy { $0.group.isV4 })
    #expect(throws: Errno.EINVAL) { try net.two.link.add(InterfaceAddress(.six(2), prefixLength: 64)) }
    try net.two.stack.add(Route(to: .any6, 0, gateway: .six(1), interfaceIndex: 2))
    #expect(throws: Errno.ENETUNREACH) { _ = try net.two.stack.route(to: .six(1)) }
    // Nothing of it is taken, not even by a group of everybody; IPv4 goes on.
    let received = net.two.stack.counted(.ipDelivered, isV4: false)
    try net.one.stack.sendDatagram([1], from: .six(1), 1000, to: .six(2), 53)
    try net.one.stack.sendDatagram([1], from: .six(1), 1000, to: .allNodes6, 53)
    try net.one.stack.sendDatagram([1], from: .one4, 1000, to: .two4, 53)
    net.settle()
    #expect(six.told == 0 && four.told == 1)
    #expect(net.two.stack.counted(.ipDelivered, isV4: false) == received)
    // A wider link has an address again, and takes others.
    try net.two.link.setMTU(1280)
    #expect(net.two.link.addresses.contains { $0.address.isLinkLocal })
    try net.two.link.add(InterfaceAddress(.six(2), prefixLength: 64))
    net.pass(5_000_000_000)
    // What has waited for the neighbour may have come by now.
    let before = six.told
    try net.one.stack.sendDatagram([1], from: .six(1), 1000, to: .six(2), 53)
    net.settle()
    #expect(six.told == before + 1)
    try net.two.stack.loopback.setMTU(1000)
    #expect(net.two.stack.loopback.addresses.allSatisfy { $0.address.isV4 })
    try net.two.stack.loopback.setMTU(65_536)
    #expect(net.two.stack.loopback.addresses.map(\.address) == [.loopback4, .loopback6])
  }

  @Test func errorsAreSentWithinARate() throws {
    let net = try TestNetwork()
    // The first one finds the neighbour: few may wait for that.
    try net.one.stack.sendDatagram([1], from: .one4, 1000, to: .two4, 9)
    net.settle()
    for _ in 0..<199 { try net.one.stack.sendDatagram([1], from: .one4, 1000, to: .two4, 9) }
    net.settle()
    #expect(net.two.stack.counted(.icmpUnreachableSent, isV4: true) == 50)
    #expect(net.two.stack.counted(.icmpLimited, isV4: true) == 150)
    net.environment.pass(10_000_000)
    for _ in 0..<20 { try net.one.stack.sendDatagram([1], from: .one4, 1000, to: .two4, 9) }
    net.settle()
    #expect(net.two.stack.counted(.icmpUnreachableSent, isV4: true) == 60)
  }
}
