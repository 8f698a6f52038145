// InternetEndpoint: an address and a port, as sockets of the Internet have them, and how programs write it: `sockaddr_in`, `sockaddr_in6`.
import Base

/// One end of a conversation.
public struct InternetEndpoint: Equatable, BitwiseCopyable, Sendable {
  /// The address; IPv4 in its mapped form. Unspecified: any, or none.
  public var address: IPAddress
  /// The port; 0: any, or none.
  public var port: UInt16
  /// The interface that a link-local address belongs to; 0: none named (`sin6_scope_id`).
  public var scope: UInt32
  /// The flow label and, above it, the traffic class, as `sin6_flowinfo` has them.
  public var flowInformation: UInt32

  /// An end.
  @inline(__always) public init(
    _ address: IPAddress = .any6, port: UInt16 = 0, scope: UInt32 = 0, flowInformation: UInt32 = 0
  ) {
    self.address = address
    self.port = port
    self.scope = scope
    self.flowInformation = flowInformation
  }

  /// AF_INET.
  public static var family4: UInt16 { 2 }
  /// AF_INET6.
  public static var family6: UInt16 { 10 }
  /// Bytes of a `sockaddr_in`.
  static var byteCount4: Int { 16 }
  /// Bytes of a `sockaddr_in6`, and those that were enough before it had a scope (RFC 2133).
  static var byteCount6: Int { 28 }
  static var oldByteCount6: Int { 24 }

  /// The end that a `sockaddr_in` names, which must have its bytes.
  init(sockaddr4 address: SocketAddress) {
    self.init(
      IPAddress(v4: address.load(4, as: UInt32.self).byteSwapped), port: address.load(2, as: UInt16.self).byteSwapped)
  }

  /// The end that a `sockaddr_in6` names, which must have its bytes but for the scope.
  init(sockaddr6 address: SocketAddress) {
    self.init(
      IPAddress(
        high: address.load(8, as: UInt64.self).byteSwapped, low: address.load(16, as: UInt64.self).byteSwapped),
      port: address.load(2, as: UInt16.self).byteSwapped,
      scope: address.byteCount >= Self.byteCount6 ? address.load(24, as: UInt32.self) : 0,
      flowInformation: address.load(4, as: UInt32.self).byteSwapped)
  }

  /// Its `sockaddr_in`.
  var sockaddr4: SocketAddress {
    let words: [2 of UInt64] = [
      Self.family4.u64 | port.byteSwapped.u64 &<< 16 | address.v4.byteSwapped.u64 &<< 32, 0,
    ]
    return withUnsafeBytes(of: words) { SocketAddress(short: $0) }
  }

  /// Its `sockaddr_in6`; an IPv4 address in its mapped form.
  var sockaddr6: SocketAddress {
    let words: [4 of UInt64] = [
      Self.family6.u64 | port.byteSwapped.u64 &<< 16 | flowInformation.byteSwapped.u64 &<< 32, address.high.byteSwapped,
      address.low.byteSwapped, address.isLinkLocal || address.isLinkLocalMulticast ? scope.u64 : 0,
    ]
    return withUnsafeBytes(of: words) {
      SocketAddress(short: UnsafeRawBufferPointer(rebasing: $0[..<Self.byteCount6]))
    }
  }
}
