// What the host's own network is like, as far as a guest's depends on it: default routes and name servers, read from text files.

#if canImport(Glibc)
  import Glibc
#endif

/// The host's network.
public struct HostNetwork {
  /// Whether there is a default route for IPv4.
  public var hasV4 = false
  /// Whether there is one for IPv6.
  public var hasV6 = false
  /// Name servers of /etc/resolv.conf, three at most.
  public var nameServers: [InternetAddress] = []
  /// Its lines `search`, `domain` and `options`.
  public var resolverLines: [[UInt8]] = []

  /// As it is now.
  public init() {
    self.init(
      routes4: Self.text("/proc/net/route"), routes6: Self.text("/proc/net/ipv6_route"),
      resolver: Self.text("/etc/resolv.conf"))
  }

  /// As the files' texts say.
  init(routes4: [UInt8], routes6: [UInt8], resolver: [UInt8]) {
    func fields(_ line: ArraySlice<UInt8>) -> [ArraySlice<UInt8>] {
      line.split { $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: "\t") }
    }
    func isZero(_ word: ArraySlice<UInt8>) -> Bool { word.allSatisfy { $0 == UInt8(ascii: "0") } }
    for line in routes4.split(separator: UInt8(ascii: "\n")).dropFirst() {
      // Interface, destination, gateway, flags, three numbers, mask. Flag 1: it is up.
      let words = fields(line)
      guard words.count >= 8, isZero(words[1]), isZero(words[7]), let last = words[3].last else { continue }
      if (Hexadecimal.digit(last | 0x20) ?? 0) & 1 != 0 { hasV4 = true }
    }
    for line in routes6.split(separator: UInt8(ascii: "\n")) {
      // Destination, its length, source, its length, next hop, metric, two counts, flags, interface.
      let words = fields(line)
      guard words.count >= 10, isZero(words[0]), isZero(words[1]), !words[9].elementsEqual("lo".utf8) else { continue }
      hasV6 = true
    }
    for line in resolver.split(separator: UInt8(ascii: "\n")) {
      let words = fields(line)
      guard words.count >= 2 else { continue }
      switch String(decoding: words[0], as: UTF8.self) {
      case "nameserver":
        if let address = InternetAddress(parsing: words[1]), nameServers.count < 3 { nameServers.append(address) }
      case "search", "domain", "options": resolverLines.append(Array(line))
      default: break
      }
    }
  }

  private static func text(_ path: String) -> [UInt8] {
    let file = HostFile.open(Array(path.utf8))
    guard file >= 0 else { return [] }
    defer { close(file) }
    var text: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 1 << 14)
    while text.count < 1 << 20 {
      let count = read(file, &buffer, buffer.count)
      if count <= 0 { break }
      text += buffer[..<count]
    }
    return text
  }
}
