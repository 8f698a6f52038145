// LinkAddress: the address of an interface on an Ethernet.
import Base

/// Six bytes, the first one in bits 40 to 47 of the number.
public struct LinkAddress: Equatable, BitwiseCopyable, Sendable {
  /// Bytes of one.
  public static var byteCount: Int { 6 }
  /// The number.
  public var value: UInt64

  /// From a number, of which 48 bits count.
  @inline(__always) public init(_ value: UInt64) { self.value = value & 0xffff_ffff_ffff }

  /// The address that lies there.
  @inline(__always) public init(reading pointer: UnsafeRawPointer) {
    let high = UInt16(bigEndian: pointer.loadUnaligned(as: UInt16.self))
    let low = UInt32(bigEndian: pointer.loadUnaligned(fromByteOffset: 2, as: UInt32.self))
    value = high.u64 &<< 32 | low.u64
  }

  /// Writes its bytes.
  @inline(__always) public func write(to pointer: UnsafeMutableRawPointer) {
    pointer.storeBytes(of: (value &>> 32).u16.bigEndian, as: UInt16.self)
    pointer.storeBytes(of: value.u32.bigEndian, toByteOffset: 2, as: UInt32.self)
  }

  /// Everybody.
  @inline(__always) public static var broadcast: LinkAddress { LinkAddress(.max) }
  /// Nobody.
  @inline(__always) public static var zero: LinkAddress { LinkAddress(0) }
  /// Whether it is a group's, everybody's included.
  @inline(__always) public var isGroup: Bool { value &>> 40 & 1 != 0 }

  /// Where packets to a group of IP's are sent (RFC 1112, 6.4; RFC 2464, 7).
  public init(group address: IPAddress) {
    self.init(
      address.isV4 ? 0x0100_5e00_0000 | address.low & 0x7f_ffff : 0x3333_0000_0000 | address.low & 0xffff_ffff)
  }

  /// The interface identifier that it gives (RFC 4291, appendix A): the last 8 bytes of addresses.
  public var interfaceIdentifier: UInt64 {
    let high = (value &>> 24 ^ 0x02_0000) & 0xff_ffff
    return high &<< 40 | 0xff_fe00_0000 | value & 0xff_ffff
  }
}
