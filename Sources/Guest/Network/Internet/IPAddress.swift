// IPAddress: addresses of both families in one form: 16 bytes, IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2).
import Base

/// An IPv4 or IPv6 address, as two numbers in host order.
public struct IPAddress: Equatable, BitwiseCopyable, Sendable {
  /// The first 8 bytes.
  public var high: UInt64
  /// The last 8 bytes.
  public var low: UInt64

  private static var mapped: UInt64 { 0xffff_0000_0000 }

  /// From both halves.
  @inline(__always) public init(high: UInt64, low: UInt64) {
    self.high = high
    self.low = low
  }

  /// An IPv4 address: a.b.c.d is 0xaabbccdd.
  @inline(__always) public init(v4 address: UInt32) {
    high = 0
    low = Self.mapped | address.u64
  }

  /// The IPv4 address that lies there, in network order, anywhere.
  @inline(__always) public init(readingV4 pointer: UnsafeRawPointer) {
    self.init(v4: UInt32(bigEndian: pointer.loadUnaligned(as: UInt32.self)))
  }

  /// The IPv6 address that lies there, likewise. (One that maps an IPv4 address is that address.)
  @inline(__always) public init(readingV6 pointer: UnsafeRawPointer) {
    high = UInt64(bigEndian: pointer.loadUnaligned(as: UInt64.self))
    low = UInt64(bigEndian: pointer.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
  }

  /// Writes the 4 bytes of an IPv4 address in network order.
  @inline(__always) public func writeV4(to pointer: UnsafeMutableRawPointer) {
    pointer.storeBytes(of: v4.bigEndian, as: UInt32.self)
  }

  /// Writes all 16 bytes in network order.
  @inline(__always) public func writeV6(to pointer: UnsafeMutableRawPointer) {
    pointer.storeBytes(of: high.bigEndian, as: UInt64.self)
    pointer.storeBytes(of: low.bigEndian, toByteOffset: 8, as: UInt64.self)
  }

  /// Whether it is an IPv4 address.
  @inline(__always) public var isV4: Bool { high == 0 && low &>> 32 == 0xffff }

  /// The IPv4 address as a number; of one that is.
  @inline(__always) public var v4: UInt32 { low.u32 }

  /// 0.0.0.0.
  @inline(__always) public static var any4: IPAddress { IPAddress(v4: 0) }
  /// ::.
  @inline(__always) public static var any6: IPAddress { IPAddress(high: 0, low: 0) }
  /// 127.0.0.1.
  @inline(__always) public static var loopback4: IPAddress { IPAddress(v4: 0x7f00_0001) }
  /// ::1.
  @inline(__always) public static var loopback6: IPAddress { IPAddress(high: 0, low: 1) }
  /// 255.255.255.255.
  @inline(__always) public static var broadcast4: IPAddress { IPAddress(v4: .max) }
  /// ff02::1.
  @inline(__always) public static var allNodes6: IPAddress { IPAddress(high: 0xff02 << 48, low: 1) }
  /// ff02::2.
  @inline(__always) public static var allRouters6: IPAddress { IPAddress(high: 0xff02 << 48, low: 2) }

  /// Whether it is 0.0.0.0 or ::.
  @inline(__always) public var isUnspecified: Bool { self == .any4 || self == .any6 }

  /// Whether it names this machine itself: 127.0.0.0/8 or ::1.
  @inline(__always) public var isLoopback: Bool { isV4 ? v4 >> 24 == 127 : self == .loopback6 }

  /// Whether it names a group: 224.0.0.0/4 or ff00::/8.
  @inline(__always) public var isMulticast: Bool { isV4 ? v4 >> 28 == 0xe : high >> 56 == 0xff }

  /// Whether it means anything on its link only: 169.254.0.0/16, fe80::/10.
  @inline(__always) public var isLinkLocal: Bool { isV4 ? v4 >> 16 == 0xa9fe : high >> 54 == 0x3fa }

  /// Whether it is a group that means anything on its link only: 224.0.0.0/24, ff02::/16 and ff01::/16.
  @inline(__always) public var isLinkLocalMulticast: Bool {
    isV4 ? v4 >> 8 == 0xe0_0000 : high >> 48 == 0xff02 || high >> 48 == 0xff01
  }

  /// The solicited-node group of an IPv6 address (RFC 4291, 2.7.1).
  public var solicitedNodeGroup: IPAddress {
    IPAddress(high: 0xff02 << 48, low: 0x1_ff00_0000 | low & 0xff_ffff)
  }

  /// Bits of an address of its family: 32 or 128.
  @inline(__always) public var bitCount: Int { isV4 ? 32 : 128 }

  /// Whether it is of the family of `prefix` and has its first `length` bits, counted within the family.
  @inline(__always) public func hasPrefix(_ prefix: IPAddress, _ length: Int) -> Bool {
    if prefix.isV4 != isV4 { return false }
    let bits = prefix.isV4 ? length &+ 96 : length
    return (high ^ prefix.high) & Self.mask(bits) == 0 && (low ^ prefix.low) & Self.mask(bits &- 64) == 0
  }

  /// The address with all but its first `length` bits zero.
  public func prefix(_ length: Int) -> IPAddress {
    let bits = isV4 ? length &+ 96 : length
    return IPAddress(high: high & Self.mask(bits), low: low & Self.mask(bits &- 64))
  }

  /// The IPv4 broadcast address of its network.
  public func broadcast(prefixLength length: Int) -> IPAddress {
    IPAddress(high: high, low: low | ~Self.mask(length &+ 32) & 0xffff_ffff)
  }

  /// How many leading bits two addresses of a family have in common, of the `bitCount` they have.
  public func commonPrefixLength(_ other: IPAddress) -> Int {
    let bits =
      high != other.high ? (high ^ other.high).leadingZeroBitCount : 64 &+ (low ^ other.low).leadingZeroBitCount
    return isV4 ? max(bits &- 96, 0) : bits
  }

  /// The first `count` bits of 64: none below 1, all from 64 on.
  @inline(__always) private static func mask(_ count: Int) -> UInt64 {
    count <= 0 ? 0 : count >= 64 ? .max : ~(UInt64.max &>> count.u64)
  }
}
