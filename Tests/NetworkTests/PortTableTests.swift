// Ports: who may share one, which ones are chosen, and that claims end.
import Base
import Testing

@testable import Network

@Suite struct PortTableTests {
  static let range: ClosedRange<UInt16> = 40_000...40_099

  func table(_ rule: PortTable.Rule) -> PortTable {
    var generator = SystemRandomNumberGenerator()
    return PortTable(rule, key: SipKey(1, 2)) { generator.next() }
  }

  static func address(_ text: String) -> IPAddress {
    switch text {
    case "*4": .any4
    case "*6": .any6
    case "a4": IPAddress(v4: 0x0a00_0001)
    case "b4": IPAddress(v4: 0x0a00_0002)
    default: IPAddress(high: 0xfd00 << 48, low: text == "a6" ? 1 : 2)
    }
  }

  func wish(_ text: String, port: UInt16 = 80) -> PortWish {
    // An address, then options: r SO_REUSEADDR, p SO_REUSEPORT, o IPV6_V6ONLY, u another user, 1 and 2 interfaces.
    var result = PortWish(Self.address(String(text.prefix(2))), port: port)
    for option in text.dropFirst(2) {
      switch option {
      case "r": result.reusesAddress = true
      case "p": result.reusesPort = true
      case "o": result.isIPv6Only = true
      case "u": result.user = 1
      default: result.interfaceIndex = UInt32(String(option)) ?? 0
      }
    }
    return result
  }

  /// What Linux says when one socket has bound and another one binds to the same port, in this order. (Asked of Linux.)
  @Test(
    arguments: [
      ("*4", "*4", false, false), ("*4", "a4", false, false), ("a4", "*4", false, false), ("a4", "b4", true, true),
      ("a4", "a4", false, false), ("*6", "*4", false, false), ("*6o", "*4", true, true), ("*4", "*6o", true, true),
      ("*6", "a4", false, false), ("*6o", "a4", true, true), ("a6", "a4", true, true), ("a6", "*4", true, true),
      ("*6o", "a6", false, false), ("*6o", "*6o", false, false), ("a6", "b6", true, true), ("*6", "*6o", false, false),
      ("*4r", "*4r", true, true), ("*4r", "a4", false, false), ("*4", "*4r", false, false), ("*6r", "*4r", true, true),
      ("*4p", "*4p", true, true), ("*4p", "*4pu", false, false), ("*4p", "*4", false, false),
      ("*4p", "*4r", false, false),
      ("*4rp", "*4r", true, true), ("*41", "*42", true, true), ("*41", "*4", false, false),
      ("*41", "*41", false, false),
    ] as [(String, String, Bool, Bool)])
  func sharing(first: String, second: String, connections: Bool, datagrams: Bool) throws {
    for (rule, expected) in [(PortTable.Rule.connections, connections), (.datagrams, datagrams)] {
      let table = table(rule)
      _ = try table.bind(wish(first), range: Self.range)
      let isShared = (try? table.bind(wish(second), range: Self.range)) != nil
      #expect(isShared == expected, "\(rule) \(first) \(second)")
    }
  }

  /// SO_REUSEADDR is not for two who wait for connections.
  @Test func listening() throws {
    let table = table(.connections)
    var one = try table.bind(wish("*4r"), range: Self.range)
    var two = try table.bind(wish("*4r"), range: Self.range)
    try table.listen(&one)
    #expect(throws: Errno.EADDRINUSE) { try table.listen(&two) }
    #expect(throws: Errno.EADDRINUSE) { try table.bind(wish("a4r"), range: Self.range) }
    table.release(one)
    try table.listen(&two)
    table.release(two)
    #expect(try table.bind(wish("*4"), range: Self.range).port == 80)
    // With SO_REUSEPORT many may.
    let other = self.table(.connections)
    for _ in 0..<3 {
      var claim = try other.bind(wish("*4p"), range: Self.range)
      try other.listen(&claim)
    }
  }

  /// A connection that was accepted keeps its port from whoever does not share.
  @Test func accepted() throws {
    let table = table(.connections)
    var listener = try table.bind(wish("*4r"), range: Self.range)
    try table.listen(&listener)
    let connections = (0..<1000).map { _ in table.share(listener, local: Self.address("a4")) }
    #expect(connections.allSatisfy { $0 === connections[0] })
    table.release(listener)
    #expect(throws: Errno.EADDRINUSE) { try table.bind(wish("*4"), range: Self.range) }
    var next = try table.bind(wish("*4r"), range: Self.range)
    try table.listen(&next)
    table.release(next)
    for connection in connections { table.release(connection) }
    _ = try table.bind(wish("*4"), range: Self.range)
  }

  /// All ports of the range are given out, once, and then none.
  @Test func chosen() throws {
    let table = table(.datagrams)
    var claims: [PortClaim] = []
    for _ in Self.range { claims.append(try table.bind(wish("*4", port: 0), range: Self.range)) }
    #expect(Set(claims.map { $0.port }) == Set(Self.range))
    // Those who bind get odd ones first.
    #expect(claims.prefix(50).allSatisfy { $0.port % 2 == 1 })
    #expect(throws: Errno.EADDRINUSE) { try table.bind(wish("*4", port: 0), range: Self.range) }
    table.release(claims[7])
    #expect(try table.bind(wish("a4", port: 0), range: Self.range).port == claims[7].port)
  }

  /// A shared port is not chosen for somebody who named none.
  @Test func sharedIsNotChosen() throws {
    let table = table(.connections)
    _ = try table.bind(wish("*4r", port: 40_000), range: 40_000...40_001)
    #expect(try table.bind(wish("*4r", port: 0), range: 40_000...40_001).port == 40_001)
    #expect(throws: Errno.EADDRINUSE) { try table.bind(wish("*4r", port: 0), range: 40_000...40_001) }
  }

  /// Connections to different places leave from the same ports; to the same place from different ones.
  @Test func connecting() throws {
    let table = table(.connections)
    _ = try table.bind(wish("*4", port: 40_010), range: Self.range)
    var ends = Set<[UInt64]>()
    for place in 0..<3 as Range<UInt64> {
      var ports: [UInt16] = []
      for _ in 0..<99 {
        let claim = try table.connect(
          wish("a4", port: 0), remote: IPAddress(v4: 1), remotePort: UInt16(80 + place), range: Self.range
        ) { port in ends.insert([place, UInt64(port)]).inserted }
        ports.append(claim.port)
      }
      #expect(Set(ports) == Set(Self.range).subtracting([40_010]))
      #expect(ports.prefix(49).allSatisfy { $0 % 2 == 0 })
      #expect(throws: Errno.EADDRNOTAVAIL) {
        try table.connect(
          wish("a4", port: 0), remote: IPAddress(v4: 1), remotePort: UInt16(80 + place), range: Self.range
        ) { port in ends.insert([place, UInt64(port)]).inserted }
      }
    }
    // Somebody who binds does not get a port that connections leave from.
    #expect(throws: Errno.EADDRINUSE) { try table.bind(wish("*4", port: 0), range: Self.range) }
    #expect(throws: Errno.ENOMEM) {
      try table.connect(wish("a4", port: 0), remote: IPAddress(v4: 9), remotePort: 1, range: Self.range) {
        (_) throws(Errno) in throw .ENOMEM
      }
    }
  }

  /// Which port comes next tells nothing about connections to elsewhere, but goes round for one place (RFC 6056, 3.3.4).
  @Test func order() throws {
    let table = table(.connections)
    let range: ClosedRange<UInt16> = 32_768...60_999
    func next(_ remotePort: UInt16) throws -> UInt16 {
      let claim = try table.connect(
        wish("a4", port: 0), remote: IPAddress(v4: 1), remotePort: remotePort, range: range
      ) { _ in true }
      table.release(claim)
      return claim.port
    }
    var last = try next(80)
    for _ in 0..<100 {
      let port = try next(80)
      #expect(port == last + 2 || port == 32_768)
      last = port
    }
    let starts = try (1000..<1100).map { try next($0) }
    #expect(Set(starts).count > 80)
  }
}
