// IPv4Header: reading and writing IPv4's header (RFC 791). Pure.
//
// What is read comes from anybody: nothing is believed before it has been checked against the bytes that are there.
import Base

/// An IPv4 header.
struct IPv4Header: BitwiseCopyable {
  /// Bytes without options.
  static var byteCount: Int { 20 }
  /// Bytes with all options there can be.
  static var maximumByteCount: Int { 60 }

  /// Bytes of the header, options included: 20 to 60.
  var headerByteCount = IPv4Header.byteCount
  /// Bytes of the packet, header included.
  var totalByteCount = 0
  /// DSCP and ECN.
  var trafficClass: UInt8 = 0
  var identification: UInt16 = 0
  var isUnfragmentable = false
  var hasMoreFragments = false
  /// Where in the datagram these bytes lie.
  var fragmentOffset = 0
  var hopLimit: UInt8 = 0
  var protocolNumber: UInt8 = 0
  var source = IPAddress.any4
  var destination = IPAddress.any4

  var isFragment: Bool { hasMoreFragments || fragmentOffset != 0 }
  var hasOptions: Bool { headerByteCount > IPv4Header.byteCount }

  init() {}

  /// Reads a header.
  /// - Parameters:
  ///   - bytes: the packet's first bytes, contiguous.
  ///   - available: bytes of the packet; what is behind its end by its own account is not its own.
  /// - Returns: nil: it is no IPv4 header, is cut off, counts more bytes than there are, or its checksum is wrong.
  @inline(__always) init?(_ bytes: UnsafeRawBufferPointer, available: Int) {
    guard bytes.count >= IPv4Header.byteCount, let start = bytes.baseAddress else { return nil }
    let first = start.load(as: UInt8.self)
    headerByteCount = (first & 15).int &* 4
    totalByteCount = UInt16(bigEndian: start.loadUnaligned(fromByteOffset: 2, as: UInt16.self)).int
    guard first &>> 4 == 4, headerByteCount >= IPv4Header.byteCount, headerByteCount <= bytes.count,
      headerByteCount <= totalByteCount, totalByteCount <= available
    else { return nil }
    var checksum = InternetChecksum()
    checksum.add(UnsafeRawBufferPointer(start: start, count: headerByteCount))
    guard checksum.isValid else { return nil }
    trafficClass = start.load(fromByteOffset: 1, as: UInt8.self)
    identification = UInt16(bigEndian: start.loadUnaligned(fromByteOffset: 4, as: UInt16.self))
    let fragment = UInt16(bigEndian: start.loadUnaligned(fromByteOffset: 6, as: UInt16.self))
    isUnfragmentable = fragment & 0x4000 != 0
    hasMoreFragments = fragment & 0x2000 != 0
    fragmentOffset = (fragment & 0x1fff).int &* 8
    hopLimit = start.load(fromByteOffset: 8, as: UInt8.self)
    protocolNumber = start.load(fromByteOffset: 9, as: UInt8.self)
    source = IPAddress(readingV4: start + 12)
    destination = IPAddress(readingV4: start + 16)
  }

  /// Writes the header without options, checksum included, to 20 bytes.
  @inline(__always) func write(to start: UnsafeMutableRawPointer) {
    start.storeBytes(of: 0x45, as: UInt8.self)
    start.storeBytes(of: trafficClass, toByteOffset: 1, as: UInt8.self)
    start.storeBytes(of: totalByteCount.u16.bigEndian, toByteOffset: 2, as: UInt16.self)
    start.storeBytes(of: identification.bigEndian, toByteOffset: 4, as: UInt16.self)
    let flags: UInt16 = (isUnfragmentable ? 0x4000 : 0) | (hasMoreFragments ? 0x2000 : 0)
    start.storeBytes(of: (flags | (fragmentOffset / 8).u16).bigEndian, toByteOffset: 6, as: UInt16.self)
    start.storeBytes(of: hopLimit, toByteOffset: 8, as: UInt8.self)
    start.storeBytes(of: protocolNumber, toByteOffset: 9, as: UInt8.self)
    start.storeBytes(of: 0, toByteOffset: 10, as: UInt16.self)
    source.writeV4(to: start + 12)
    destination.writeV4(to: start + 16)
    var checksum = InternetChecksum()
    checksum.add(UnsafeRawBufferPointer(start: start, count: IPv4Header.byteCount))
    start.storeBytes(of: checksum.value.bigEndian, toByteOffset: 10, as: UInt16.self)
  }

  /// What options say about the packet (RFC 791, 3.1; RFC 7126).
  enum Options {
    /// Nothing that a host minds.
    case harmless
    /// The sender chose the way: such packets are dropped (RFC 7126, 4.3 and 4.4).
    case sourceRoute
    /// They make no sense.
    case malformed
  }

  /// Looks through the options, the bytes behind the first 20.
  static func options(_ bytes: UnsafeRawBufferPointer) -> Options {
    var at = 0
    while at < bytes.count {
      switch bytes[at] {
      case 0: return .harmless
      case 1: at &+= 1
      case let kind:
        guard at &+ 1 < bytes.count else { return .malformed }
        let length = bytes[at &+ 1].int
        guard length >= 2, at &+ length <= bytes.count else { return .malformed }
        if kind == 131 || kind == 137 { return .sourceRoute }
        at &+= length
      }
    }
    return .harmless
  }
}
