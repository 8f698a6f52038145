// Writing headers: the fields and options of what we send.
import Base

extension TCPOptions {
  /// Bytes that they take in a header, padded to a multiple of 4.
  var byteCount: Int {
    var count = 0
    if maximumSegmentSize != 0 { count &+= 4 }
    if hasTimestamp { count &+= 12 }  // With two NOPs, or SACK-permitted in their place.
    if permitsSelective, !hasTimestamp { count &+= 4 }
    if windowScale != nil { count &+= 4 }
    if blockCount > 0 { count &+= 4 &+ blockCount &* 8 }
    if fastOpenByteCount >= 0 { count &+= (fastOpenByteCount &+ 2).alignedUp(to: 4) }
    return count
  }

  /// Writes them; a Fast Open cookie's bytes come from `cookie`.
  func write(to start: UnsafeMutableRawPointer, cookie: UInt64 = 0) {
    var at = start
    @inline(__always) func put(_ value: UInt32) {
      at.storeBytes(of: value.bigEndian, as: UInt32.self)
      at += 4
    }
    if maximumSegmentSize != 0 { put(0x0204_0000 | maximumSegmentSize.u32) }
    if hasTimestamp {
      put(permitsSelective ? 0x0402_080a : 0x0101_080a)
      put(timestamp)
      put(timestampEcho)
    } else if permitsSelective {
      put(0x0101_0402)
    }
    if let windowScale { put(0x0103_0300 | windowScale.u32) }
    if blockCount > 0 {
      put(0x0101_0500 | (2 &+ blockCount &* 8).u32)
      for index in 0..<blockCount {
        put(blocks[index].start.rawValue)
        put(blocks[index].end.rawValue)
      }
    }
    if fastOpenByteCount >= 0 {
      let room = (fastOpenByteCount &+ 2).alignedUp(to: 4)
      let padding = room &- fastOpenByteCount &- 2
      for index in 0..<padding { (at + index).storeBytes(of: 1, as: UInt8.self) }
      at += padding
      at.storeBytes(of: 34, as: UInt8.self)
      (at + 1).storeBytes(of: (fastOpenByteCount &+ 2).u8, as: UInt8.self)
      for index in 0..<fastOpenByteCount {
        (at + (2 &+ index)).storeBytes(of: (cookie &>> (index &* 8).u64).u8, as: UInt8.self)
      }
      at += room &- padding
    }
  }
}

/// The fields of a header that is to be written.
struct TCPHeaderFields {
  var sourcePort: UInt16
  var destinationPort: UInt16
  var sequence = SequenceNumber(0)
  var acknowledgement = SequenceNumber(0)
  var flags: TCPFlags = []
  /// Scaled.
  var window: UInt16 = 0
  var urgentPointer: UInt16 = 0

  init(from sourcePort: UInt16, to destinationPort: UInt16) {
    self.sourcePort = sourcePort
    self.destinationPort = destinationPort
  }

  /// Writes the header's first 20 bytes.
  /// - Parameters:
  ///   - byteCount: of the whole header, a multiple of 4.
  ///   - checksum: what the field is to hold.
  @inline(__always)
  func write(to start: UnsafeMutableRawPointer, byteCount: Int, checksum: UInt16) {
    start.storeBytes(of: (sourcePort.u32 &<< 16 | destinationPort.u32).bigEndian, as: UInt32.self)
    start.storeBytes(of: sequence.rawValue.bigEndian, toByteOffset: 4, as: UInt32.self)
    let number = flags.contains(.acknowledge) ? acknowledgement.rawValue : 0
    start.storeBytes(of: number.bigEndian, toByteOffset: 8, as: UInt32.self)
    let offsetAndFlags = (byteCount / 4).u32 &<< 28 | flags.rawValue.u32 &<< 16 | window.u32
    start.storeBytes(of: offsetAndFlags.bigEndian, toByteOffset: 12, as: UInt32.self)
    start.storeBytes(of: (checksum.u32 &<< 16 | urgentPointer.u32).bigEndian, toByteOffset: 16, as: UInt32.self)
  }
}
