// The checksum of the Internet protocols (RFC 1071), in steps of 8 bytes, and its update (RFC 1624).
//
// The sum is one's complement arithmetic, so the width of its words does not matter, nor their byte order until the end: words are added
// as the machine loads them, and the result is turned over once. Bytes at an odd place are added turned over.
import Base
import Devices

/// A sum in the making.
public struct InternetChecksum: BitwiseCopyable {
  /// One's complement sum of 64-bit words in the machine's order.
  private var sum: UInt64 = 0

  /// The sum of nothing.
  @inline(__always) public init() {}

  @inline(__always) private mutating func addWord(_ word: UInt64) {
    let (result, carry) = sum.addingReportingOverflow(word)
    sum = result &+ (carry ? 1 : 0)
  }

  /// Adds a 16-bit number.
  @inline(__always) public mutating func add(_ value: UInt16) { addWord(value.bigEndian.u64) }

  /// Adds a 32-bit number.
  @inline(__always) public mutating func add(_ value: UInt32) { addWord(value.bigEndian.u64) }

  /// Adds an address: 4 or 16 bytes.
  @inline(__always) public mutating func add(_ address: IPAddress) {
    if address.isV4 {
      add(address.v4)
    } else {
      addWord(address.high.bigEndian)
      addWord(address.low.bigEndian)
    }
  }

  /// Adds what a pseudo header has (RFC 9293, 3.1; RFC 8200, 8.1).
  /// - Parameter byteCount: of the transport's header and data.
  @inline(__always) public mutating func addPseudoHeader(
    _ source: IPAddress, _ destination: IPAddress, protocol number: UInt8, byteCount: Int
  ) {
    add(source)
    add(destination)
    add(number.u32)
    add(byteCount.u32)
  }

  /// Adds bytes that begin at an even place of what is summed.
  @inline(__always) public mutating func add(_ bytes: UnsafeRawBufferPointer) {
    guard let start = bytes.baseAddress else { return }
    addBytes(start, bytes.count)
  }

  private mutating func addBytes(_ start: UnsafeRawPointer, _ count: Int) {
    var (at, left) = (start, count)
    // Four words a turn: the additions overlap with the loads.
    while left >= 32 {
      addWord(at.loadUnaligned(as: UInt64.self))
      addWord(at.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
      addWord(at.loadUnaligned(fromByteOffset: 16, as: UInt64.self))
      addWord(at.loadUnaligned(fromByteOffset: 24, as: UInt64.self))
      at += 32
      left &-= 32
    }
    while left >= 8 {
      addWord(at.loadUnaligned(as: UInt64.self))
      at += 8
      left &-= 8
    }
    var rest: UInt64 = 0
    var shift: UInt64 = 0
    while left > 0 {
      rest |= at.load(as: UInt8.self).u64 &<< shift
      shift &+= 8
      at += 1
      left &-= 1
    }
    addWord(rest)
  }

  /// Adds bytes that begin at place `offset` of what is summed.
  public mutating func add(_ bytes: UnsafeRawBufferPointer, at offset: Int) {
    if offset & 1 == 0 { return add(bytes) }
    var other = InternetChecksum()
    other.add(bytes)
    // Turned over as a whole: each byte has the other place in its word.
    addWord(other.folded.byteSwapped.u64)
  }

  /// Adds the bytes of a packet from `offset` on, `count` of them, which it has.
  public mutating func add(_ packet: borrowing Packet, from offset: Int, count: Int) {
    var done = 0
    packet.visit(from: offset, count: count) { part in
      add(part.bytes, at: done)
      done &+= part.count.int
    }
  }

  /// The sum in 16 bits, in the machine's order.
  @inline(__always) private var folded: UInt16 {
    var value = (sum & 0xffff_ffff) &+ (sum &>> 32)
    value = (value & 0xffff) &+ (value &>> 16)
    value = (value & 0xffff) &+ (value &>> 16)
    value = (value & 0xffff) &+ (value &>> 16)
    return value.u16
  }

  /// The sum itself, as a number: what the field holds where a device completes the checksum.
  @inline(__always) public var partial: UInt16 { folded.byteSwapped }

  /// The checksum: the complement of the sum.
  @inline(__always) public var value: UInt16 { ~folded.byteSwapped }

  /// Whether bytes that were summed together with their checksum are as they were sent.
  @inline(__always) public var isValid: Bool { folded == 0xffff }

  /// The checksum of something in which a 16-bit number at an even place was changed (RFC 1624, equation 3).
  @inline(__always) public static func updated(_ checksum: UInt16, from old: UInt16, to new: UInt16) -> UInt16 {
    var sum = (~checksum).u32 &+ (~old).u32 &+ new.u32
    sum = (sum & 0xffff) &+ (sum &>> 16)
    sum = (sum & 0xffff) &+ (sum &>> 16)
    return ~sum.u16
  }
}
