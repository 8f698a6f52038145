// The values of --net and --publish. Pure, as all of the options.

import Machine

extension OptionValue {
  /// "none", "user", "tap[:NAME]" or "fd:N", and choices behind commas; nil for "none".
  static func network(_ bytes: [UInt8]) throws(Failure) -> NetworkRequest? {
    var pieces = bytes.split(separator: UInt8(ascii: ","), omittingEmptySubsequences: false).map { Array($0) }
    let kind = pieces.removeFirst()
    var request: NetworkRequest
    if kind.elementsEqual("none".utf8) {
      guard pieces.isEmpty else { throw Failure(.usage, "--net none stands alone") }
      return nil
    } else if kind.elementsEqual("user".utf8) {
      request = NetworkRequest(.user)
    } else if kind.elementsEqual("tap".utf8) {
      request = NetworkRequest(.tap(name: nil))
    } else if kind.starts(with: "tap:".utf8) {
      request = NetworkRequest(.tap(name: try interfaceName(Array(kind.dropFirst(4)))))
    } else if kind.starts(with: "fd:".utf8), let number = number(kind.dropFirst(3), limit: 1 << 20), number > 2 {
      request = NetworkRequest(.descriptor(CInt(number)))
    } else {
      throw Failure(.usage, "--net wants none, user, tap, tap:NAME or fd:N, not \(Options.show(kind))")
    }
    for piece in pieces { try choose(piece, &request) }
    return request
  }

  /// Linux's rules for names of interfaces.
  private static func interfaceName(_ bytes: [UInt8]) throws(Failure) -> [UInt8] {
    let isName =
      1...15 ~= bytes.count
      && bytes.allSatisfy { $0 > 0x20 && $0 < 0x7f && $0 != UInt8(ascii: "/") && $0 != UInt8(ascii: "%") }
    guard isName, !bytes.elementsEqual(".".utf8), !bytes.elementsEqual("..".utf8) else {
      throw Failure(.usage, "\(Options.show(bytes)) is no name of an interface: it has 1 to 15 letters and digits")
    }
    return bytes
  }

  /// One choice of an interface, "NAME=VALUE".
  private static func choose(_ piece: [UInt8], _ request: inout NetworkRequest) throws(Failure) {
    let name = piece.prefix { $0 != UInt8(ascii: "=") }
    let value = piece.dropFirst(name.count + 1)
    func wrong(_ wish: String) -> Failure {
      Failure(
        .usage, "\(String(decoding: name, as: UTF8.self))= of --net wants \(wish), not \(Options.show(Array(value)))")
    }
    switch String(decoding: name, as: UTF8.self) {
    case "mac":
      guard let mac = mac(value) else { throw wrong("an address such as 02:00:00:00:00:01, not one of a group") }
      request.mac = mac
    case "mtu":
      guard let mtu = number(value, limit: 65_535), mtu >= 68 else { throw wrong("a number from 68 to 65535") }
      request.mtu = Int(mtu)
    case "rate":
      guard let rate = rate(value) else { throw wrong("bits a second, as 100M or 1G, from 64K to 100G") }
      request.rate = rate
    case "address":
      guard case .tap = request.kind else { throw Failure(.usage, "address= is for --net tap: it is the host's end") }
      request.hostAddresses.append(try prefix(value, among: request.hostAddresses, wrong))
    case "guest": request.guestAddresses.append(try prefix(value, among: request.guestAddresses, wrong))
    case "gateway":
      guard let address = InternetAddress(parsing: value),
        !request.gateways.contains(where: { $0.isV4 == address.isV4 })
      else { throw wrong("an address, one of IPv4 and one of IPv6 at most") }
      request.gateways.append(address)
    case "dns":
      guard let address = InternetAddress(parsing: value), request.nameServers.count < 3 else {
        throw wrong("an address, three at most")
      }
      request.nameServers.append(address)
    default:
      throw Failure(
        .usage, "--net knows mac=, mtu=, rate=, address=, guest=, gateway= and dns=, not \(Options.show(piece))")
    }
  }

  private static func prefix(
    _ value: ArraySlice<UInt8>, among others: [InternetPrefix], _ wrong: (String) -> Failure
  ) throws(Failure) -> InternetPrefix {
    guard let prefix = InternetPrefix(parsing: value),
      !others.contains(where: { $0.address.isV4 == prefix.address.isV4 })
    else { throw wrong("an address such as 10.0.0.1/24, one of IPv4 and one of IPv6 at most") }
    return prefix
  }

  /// Six bytes in base 16 with colons; nil for anything else, and for a group's.
  private static func mac(_ value: ArraySlice<UInt8>) -> [UInt8]? {
    let bytes = value.split(separator: UInt8(ascii: ":"), omittingEmptySubsequences: false).map {
      1...2 ~= $0.count && $0.first != UInt8(ascii: "+") ? UInt8(String(decoding: $0, as: UTF8.self), radix: 16) : nil
    }
    guard bytes.count == 6, bytes.allSatisfy({ $0 != nil }) else { return nil }
    let mac = bytes.compactMap { $0 }
    return mac[0] & 1 == 0 && mac.contains { $0 != 0 } ? mac : nil
  }

  /// "100M": a number and K, M or G, powers of 1000.
  private static func rate(_ value: ArraySlice<UInt8>) -> UInt64? {
    let factor: UInt64
    switch value.last {
    case UInt8(ascii: "K"), UInt8(ascii: "k"): factor = 1_000
    case UInt8(ascii: "M"), UInt8(ascii: "m"): factor = 1_000_000
    case UInt8(ascii: "G"), UInt8(ascii: "g"): factor = 1_000_000_000
    default: return nil
    }
    guard let number = number(value.dropLast(), limit: 100_000_000) else { return nil }
    let rate = number * factor
    return (64_000...100_000_000_000).contains(rate) ? rate : nil
  }

  /// "[ADDRESS:]HOST:GUEST[/udp]"; an IPv6 address in brackets.
  static func publishedPort(_ bytes: [UInt8]) throws(Failure) -> PublishedPort {
    let wrong = Failure(
      .usage, "--publish wants [ADDRESS:]HOST:GUEST[/udp], as 127.0.0.1:8080:80, not \(Options.show(bytes))")
    var text = bytes[...]
    var isUDP = false
    if let slash = text.lastIndex(of: UInt8(ascii: "/")) {
      switch String(decoding: text[(slash + 1)...], as: UTF8.self) {
      case "udp": isUDP = true
      case "tcp": break
      default: throw wrong
      }
      text = text[..<slash]
    }
    func port(_ text: ArraySlice<UInt8>) throws(Failure) -> UInt16 {
      guard let number = number(text, limit: 65_535), number > 0 else { throw wrong }
      return UInt16(number)
    }
    guard let last = text.lastIndex(of: UInt8(ascii: ":")) else { throw wrong }
    let guest = try port(text[(last + 1)...])
    text = text[..<last]
    guard let before = text.lastIndex(of: UInt8(ascii: ":")) else {
      return PublishedPort(address: nil, host: try port(text), guest: guest, isUDP: isUDP)
    }
    let host = try port(text[(before + 1)...])
    var name = text[..<before]
    let hasBrackets = name.first == UInt8(ascii: "[") && name.last == UInt8(ascii: "]") && name.count > 2
    if hasBrackets { name = name.dropFirst().dropLast() }
    guard let address = InternetAddress(parsing: name), address.isV4 != hasBrackets else { throw wrong }
    return PublishedPort(address: address, host: host, guest: guest, isUDP: isUDP)
  }
}

extension Options {
  /// Interfaces of a machine at most: each takes a device's place and its vectors.
  static let networkLimit = 8

  /// Puts the published ports where they belong: to the first interface of user mode, which they imply where --net was not given.
  mutating func settlePublishedPorts() throws(Failure) {
    guard !published.isEmpty else { return }
    if !isNetworkGiven { networks = [NetworkRequest(.user)] }
    guard let first = networks.firstIndex(where: { $0.kind == .user }) else {
      throw Failure(.usage, "--publish is for --net user: a TAP's guest has an address of its own")
    }
    networks[first].published = published
  }
}
