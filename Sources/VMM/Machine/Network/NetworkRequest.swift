// What is wanted of a network interface, as the command line says it: pure values, of which nothing is open yet.

#if canImport(Glibc)
  import Glibc
#endif

/// An IPv4 or IPv6 address.
public struct InternetAddress: Equatable, Sendable, CustomStringConvertible {
  /// 4 or 16 bytes, in the order on the wire.
  public let bytes: [UInt8]

  /// From as many bytes.
  public init(_ bytes: [UInt8]) {
    precondition(bytes.count == 4 || bytes.count == 16)
    self.bytes = bytes
  }

  /// "10.0.2.15" or "fd00::1"; nil for anything else.
  public init?(parsing text: some Collection<UInt8>) {
    guard text.count < 64, !text.contains(0) else { return nil }
    let name = String(decoding: text, as: UTF8.self)
    var four = in_addr()
    var six = in6_addr()
    if inet_pton(AF_INET, name, &four) == 1 {
      bytes = withUnsafeBytes(of: four) { Array($0) }
    } else if inet_pton(AF_INET6, name, &six) == 1 {
      bytes = withUnsafeBytes(of: six) { Array($0) }
    } else {
      return nil
    }
  }

  /// Whether it is one of IPv4.
  public var isV4: Bool { bytes.count == 4 }

  /// Whether it leads back to whoever sends there.
  public var isLoopback: Bool { isV4 ? bytes[0] == 127 : bytes == [UInt8](repeating: 0, count: 15) + [1] }

  /// As it is written.
  public var description: String {
    var text = [CChar](repeating: 0, count: 64)
    _ = bytes.withUnsafeBytes { inet_ntop(isV4 ? AF_INET : AF_INET6, $0.baseAddress, &text, socklen_t(text.count)) }
    return text.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
  }
}

/// An address with the length of its network's prefix.
public struct InternetPrefix: Equatable, Sendable {
  /// The address.
  public var address: InternetAddress
  /// Bits of the network's part.
  public var length: Int

  /// An address in a network.
  public init(_ address: InternetAddress, _ length: Int) {
    self.address = address
    self.length = length
  }

  /// "10.0.0.1/24"; without a length it is 24 or 64. Nil for anything else.
  public init?(parsing text: some Collection<UInt8>) {
    let pieces = text.split(separator: UInt8(ascii: "/"), maxSplits: 1, omittingEmptySubsequences: false)
    guard let first = pieces.first, let address = InternetAddress(parsing: first) else { return nil }
    self.address = address
    length = address.isV4 ? 24 : 64
    guard pieces.count > 1 else { return }
    let limit = address.isV4 ? 32 : 128
    guard let number = Int(String(decoding: pieces[1], as: UTF8.self)), (1...limit).contains(number),
      pieces[1].first != UInt8(ascii: "+")
    else { return nil }
    length = number
  }

  /// The address behind this one, or before it if that is the network's last or outside of it; nil if the network has no other.
  public var neighbour: InternetAddress? {
    for step in [1, -1] {
      var bytes = address.bytes
      let last = Int(bytes[bytes.count - 1]) + step
      guard (0...255).contains(last) else { continue }
      bytes[bytes.count - 1] = UInt8(last)
      let candidate = InternetAddress(bytes)
      if isHost(candidate) { return candidate }
    }
    return nil
  }

  /// Whether another address lies in the same network and is neither its first (the network) nor, of IPv4, its last (everyone).
  private func isHost(_ other: InternetAddress) -> Bool {
    var rest = [Bool]()
    for bit in 0..<(8 * address.bytes.count) {
      let mask = UInt8(0x80 >> (bit % 8))
      let value = other.bytes[bit / 8] & mask
      if bit < length {
        if value != address.bytes[bit / 8] & mask { return false }
      } else {
        rest.append(value != 0)
      }
    }
    if rest.count < 2 { return !rest.isEmpty }
    return rest.contains(true) && (!address.isV4 || rest.contains(false))
  }
}

/// A port of the host that leads to one of the guest.
public struct PublishedPort: Equatable, Sendable {
  /// The host's address that is listened on, nil for all.
  public var address: InternetAddress?
  /// The host's port.
  public var host: UInt16
  /// The guest's port.
  public var guest: UInt16
  /// UDP instead of TCP.
  public var isUDP: Bool

  /// A port with all its fields.
  public init(address: InternetAddress?, host: UInt16, guest: UInt16, isUDP: Bool) {
    self.address = address
    self.host = host
    self.guest = guest
    self.isUDP = isUDP
  }
}

/// A wanted interface.
public struct NetworkRequest: Equatable, Sendable {
  /// What its frames go through.
  public enum Kind: Equatable, Sendable {
    /// passt: connections of the guest become connections of a process of this user.
    case user
    /// A TAP interface of that name, nil for a new one.
    case tap(name: [UInt8]?)
    /// An open descriptor: a TAP's, or a stream socket of the UNIX domain that speaks like passt.
    case descriptor(CInt)
  }

  /// What its frames go through.
  public var kind: Kind
  /// The guest's MAC address, six bytes; nil for one that is made up.
  public var mac: [UInt8]?
  /// Largest IP packet; nil for what the kind has.
  public var mtu: Int?
  /// Bits a second in each direction, 0 for no limit.
  public var rate: UInt64 = 0
  /// Addresses that the host gives its end of a TAP; one of each kind at most.
  public var hostAddresses: [InternetPrefix] = []
  /// Addresses of the guest; one of each kind at most.
  public var guestAddresses: [InternetPrefix] = []
  /// Routers of the guest; one of each kind at most.
  public var gateways: [InternetAddress] = []
  /// Name servers for the guest's /etc/resolv.conf; empty: the host's.
  public var nameServers: [InternetAddress] = []
  /// Ports of the host that lead to the guest; user mode only.
  public var published: [PublishedPort] = []

  /// An interface of that kind.
  public init(_ kind: Kind) { self.kind = kind }
}
