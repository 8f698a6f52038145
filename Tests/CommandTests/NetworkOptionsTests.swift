import Machine
import Testing

@testable import Command

private func parse(_ arguments: String...) throws(Failure) -> Options {
  try Options(parsing: (arguments + ["p"]).map { Array($0.utf8) })
}

private func address(_ text: String) -> InternetAddress { InternetAddress(parsing: Array(text.utf8))! }

@Suite struct NetworkOptionsTests {
  @Test func noneIsTheDefault() throws {
    #expect(try parse().networks.isEmpty)
    #expect(try parse("--net", "none").networks.isEmpty)
  }

  @Test func kindsInTheirOrder() throws {
    let options = try parse("--net", "tap:tap0", "--net=user", "--net", "fd:7", "--net", "tap")
    #expect(
      options.networks.map(\.kind) == [.tap(name: Array("tap0".utf8)), .user, .descriptor(7), .tap(name: nil)])
    #expect(try parse("--net", "fd:9", "--status-fd", "4", "--net", "fd:5").passedDescriptors == [4, 5, 9])
  }

  @Test func choices() throws {
    let request = try parse(
      "--net",
      "tap:t,mac=2:0:0:0:0:Fe,mtu=9000,rate=100M,address=10.0.0.1/24,address=fd00::1/64,guest=10.0.0.9,gateway=10.0.0.3,dns=9.9.9.9,dns=fd00::53"
    ).networks[0]
    #expect(request.mac == [2, 0, 0, 0, 0, 0xfe] && request.mtu == 9000 && request.rate == 100_000_000)
    #expect(request.hostAddresses == [InternetPrefix(address("10.0.0.1"), 24), InternetPrefix(address("fd00::1"), 64)])
    #expect(request.guestAddresses == [InternetPrefix(address("10.0.0.9"), 24)])
    #expect(request.gateways == [address("10.0.0.3")])
    #expect(request.nameServers == [address("9.9.9.9"), address("fd00::53")])
  }

  @Test func publishedPortsImplyUserMode() throws {
    let options = try parse("-p", "8080:80", "--publish", "127.0.0.1:53:5353/udp", "-p", "[::1]:9000:90/tcp")
    #expect(options.networks.count == 1 && options.networks[0].kind == .user)
    #expect(
      options.networks[0].published == [
        PublishedPort(address: nil, host: 8080, guest: 80, isUDP: false),
        PublishedPort(address: address("127.0.0.1"), host: 53, guest: 5353, isUDP: true),
        PublishedPort(address: address("::1"), host: 9000, guest: 90, isUDP: false),
      ])
    let given = try parse("--net", "tap", "--net", "user,mtu=1400", "-p", "1:2")
    #expect(given.networks.count == 2 && given.networks[1].published.count == 1 && given.networks[0].published.isEmpty)
  }

  @Test(arguments: [
    ["--net"], ["--net", ""], ["--net", "x"], ["--net", "tap:"], ["--net", "tap:a/b"], ["--net", "tap:a b"],
    ["--net", "tap:%d"], ["--net", "tap:.."], ["--net", "tap:abcdefghijklmnop"], ["--net", "fd:"], ["--net", "fd:2"],
    ["--net", "fd:x"], ["--net", "none,mtu=1500"], ["--net", "none", "--net", "user"],
    ["--net", "user", "--net", "none"], ["--net", "user,"], ["--net", "user,mac"], ["--net", "user,mac=1:2:3:4:5"],
    ["--net", "user,mac=01:00:00:00:00:01"], ["--net", "user,mac=0:0:0:0:0:0"], ["--net", "user,mac=2:0:0:0:0:100"],
    ["--net", "user,mac=2:0:0:0:0:+1"], ["--net", "user,mtu=67"], ["--net", "user,mtu=65536"],
    ["--net", "user,rate=10"], ["--net", "user,rate=1K"], ["--net", "user,rate=101G"], ["--net", "user,rate=M"],
    ["--net", "user,address=10.0.0.1/24"], ["--net", "tap,address=10.0.0.1/33"], ["--net", "tap,address=10.0.0.1/0"],
    ["--net", "tap,address=10.0.0/8"], ["--net", "tap,address=10.0.0.1/24,address=10.0.0.2/24"],
    ["--net", "tap,address=fd00::1/129"], ["--net", "tap,address=fd00::1/+4"], ["--net", "tap,gateway=x"],
    ["--net", "tap,gateway=10.0.0.1,gateway=10.0.0.2"], ["--net", "user,dns="], ["--net", "user,colour=red"],
    ["-p", "80"], ["-p", ":80"], ["-p", "80:"], ["-p", "0:80"], ["-p", "80:65536"], ["-p", "80:80/sctp"],
    ["-p", "::1:80:80"], ["-p", "[10.0.0.1]:80:80"], ["-p", "host:80:80"], ["-p", "[]:80:80"],
    ["-p", "80:80", "--net", "none"], ["-p", "80:80", "--net", "tap"], ["--capture", "f"],
    ["--capture", "", "--net", "user"],
  ]) func refusals(_ arguments: [String]) {
    #expect(throws: Failure.self) { try Options(parsing: (arguments + ["p"]).map { Array($0.utf8) }) }
  }

  @Test func interfacesAreLimited() {
    let many = (0..<9).flatMap { _ in ["--net", "user"] }
    #expect(throws: Failure.self) { try Options(parsing: (many + ["p"]).map { Array($0.utf8) }) }
  }

  @Test func whatTheGuestFindsInEtc() {
    let some = [address("10.0.2.15"), address("fd00::15")]
    #expect(
      GuestEnvironment.hosts("box", addresses: some)
        == "127.0.0.1\tlocalhost\n::1\tlocalhost\n10.0.2.15\tbox\nfd00::15\tbox\n")
    #expect(GuestEnvironment.hosts("box", addresses: []) == "127.0.0.1\tlocalhost box\n::1\tlocalhost box\n")
    let servers = ["9.9.9.9", "9.9.9.9", "1.1.1.1", "fd00::1", "8.8.8.8"].map(address)
    #expect(
      GuestEnvironment.resolver(servers, hostLines: [Array("search a.example".utf8)])
        == "nameserver 9.9.9.9\nnameserver 1.1.1.1\nnameserver fd00::1\nsearch a.example\n")
    #expect(GuestEnvironment.resolver([], hostLines: [Array("search a.example".utf8)]).isEmpty)
  }
}
