// What becomes of a wanted network before the guest runs: addresses, the host's own network, passt's command line.
import Testing
import VirtioABI

@testable import Machine

private func address(_ text: String) -> InternetAddress { InternetAddress(parsing: Array(text.utf8))! }
private func prefix(_ text: String) -> InternetPrefix? { InternetPrefix(parsing: Array(text.utf8)) }

@Suite struct InternetAddressTests {
  @Test func addressesAreReadAndWritten() {
    for text in ["10.0.2.15", "255.255.255.255", "fd00::1", "::", "2001:db8::a:b"] {
      #expect(address(text).description == text)
    }
    for text in ["", "10.0.0", "10.0.0.256", "10.0.0.1 ", "fd00", "fd00:::1", "x", String(repeating: "1", count: 99)] {
      #expect(InternetAddress(parsing: Array(text.utf8)) == nil, "\(text)")
    }
    #expect(InternetAddress(parsing: [UInt8(ascii: "1"), 0, UInt8(ascii: "1")]) == nil)
    #expect(address("127.1.2.3").isLoopback && address("::1").isLoopback && !address("10.0.0.1").isLoopback)
  }

  @Test func theGuestIsNextToTheHost() {
    let cases: [(String, String?)] = [
      ("10.0.0.1/24", "10.0.0.2"), ("10.0.0.254/24", "10.0.0.253"), ("10.0.0.255/16", "10.0.0.254"),
      ("10.0.0.1/30", "10.0.0.2"), ("10.0.0.2/30", "10.0.0.1"), ("10.0.0.0/31", "10.0.0.1"),
      ("10.0.0.1/31", "10.0.0.0"),
      ("10.0.0.1/32", nil), ("fd00::1/64", "fd00::2"), ("fd00::ff/64", "fd00::fe"), ("fd00::1/128", nil),
    ]
    for (text, expected) in cases { #expect(prefix(text)?.neighbour?.description == expected, "\(text)") }
    #expect(prefix("10.0.0.1")?.length == 24 && prefix("fd00::1")?.length == 64)
    #expect(prefix("10.0.0.1/") == nil && prefix("10.0.0.1/33") == nil)
  }
}

@Suite struct HostNetworkTests {
  private func network(_ routes4: String, _ routes6: String, _ resolver: String) -> HostNetwork {
    HostNetwork(routes4: Array(routes4.utf8), routes6: Array(routes6.utf8), resolver: Array(resolver.utf8))
  }
  private let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"

  @Test func defaultRoutesAreFound() {
    let local = "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    #expect(!network(head + local, "", "").hasV4)
    #expect(network(head + local + "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n", "", "").hasV4)
    // One that is down.
    #expect(!network(head + "eth0\t00000000\t010200C0\t0002\t0\t0\t0\t00000000\t0\t0\t0\n", "", "").hasV4)
    let zeros = String(repeating: "0", count: 32)
    let six = "\(zeros) 00 \(zeros) 00 fd000000000000000000000000000001 00000400 00000001 00000000 00000003"
    #expect(network("", six + "     eth0\n", "").hasV6)
    // The one that refuses is lo's.
    #expect(!network("", six + "       lo\n", "").hasV6)
    #expect(!network("", "fd000000000000000000000000000000 40" + six.dropFirst(35) + " eth0\n", "").hasV6)
  }

  @Test func nameServersAndHowToSearch() {
    let found = network(
      "", "",
      "# made by hand\nnameserver 127.0.0.53\nnameserver\t9.9.9.9\nnameserver x\nsearch a b\noptions edns0\nnameserver fd00::1\nnameserver 1.1.1.1\n"
    )
    #expect(found.nameServers.map(\.description) == ["127.0.0.53", "9.9.9.9", "fd00::1"])
    #expect(found.resolverLines == ["search a b", "options edns0"].map { Array($0.utf8) })
  }

  @Test func garbageIsNoNetwork() {
    let found = network("\n\n\t\t\nx y z", "   \n0 0 0", "nameserver\n\nsearch\n\0\0")
    #expect(!found.hasV4 && !found.hasV6 && found.nameServers.isEmpty && found.resolverLines.isEmpty)
  }
}

@Suite struct PasstTests {
  @Test func theCommandLineSaysEverything() {
    var plan = Passt.Plan()
    #expect(
      Passt.arguments(plan)
        == ["passt", "--foreground", "--quiet", "--stderr", "--fd", "3", "--no-map-gw", "--udp-ports", "none"])
    plan.addresses = [prefix("10.0.2.15/24")!, prefix("fd00::15/64")!]
    plan.gateways = [address("10.0.2.2"), address("fd00::2")]
    plan.forwardedNameServer = address("10.0.2.3")
    plan.mtu = 1400
    plan.published = [
      PublishedPort(address: nil, host: 8080, guest: 80, isUDP: false),
      PublishedPort(address: address("127.0.0.1"), host: 53, guest: 5353, isUDP: true),
    ]
    #expect(
      Passt.arguments(plan).dropFirst(7) == [
        "--address", "10.0.2.15", "--netmask", "24", "--address", "fd00::15", "--gateway", "10.0.2.2", "--gateway",
        "fd00::2", "--dns-forward", "10.0.2.3", "--mtu", "1400", "--tcp-ports", "8080:80", "--udp-ports",
        "127.0.0.1/53:5353",
      ])
  }

  @Test func theGuestIsToldItsAddresses() {
    var boot = BootContent()
    boot.arguments = [[UInt8(ascii: "p")]]
    var one = BootNetwork()
    one.deviceIndex = 3
    one.address4 = [10, 0, 2, 15]
    one.prefix4 = 24
    var two = BootNetwork()
    two.flags = BootNetwork.dhcp
    boot.networks = [one, two]
    let bytes = boot.encode(head: BootInformation())
    bytes.withUnsafeBytes { bytes in
      let head = bytes.loadUnaligned(as: BootInformation.self)
      #expect(head.networkCount == 2)
      let first = bytes.loadUnaligned(fromByteOffset: Int(head.networksOffset), as: BootNetwork.self)
      let second = bytes.loadUnaligned(fromByteOffset: Int(head.networksOffset) + 64, as: BootNetwork.self)
      #expect(first.deviceIndex == 3 && first.prefix4 == 24 && (0..<4).map { first.address4[$0] } == [10, 0, 2, 15])
      #expect(second.flags == BootNetwork.dhcp)
      #expect(bytes[Int(head.argumentsOffset)] == UInt8(ascii: "p"))
    }
  }
}
