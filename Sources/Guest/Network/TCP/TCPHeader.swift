// TCPHeader: what a segment's header says (RFC 9293, 3.1 and 3.2), its options included.
//
// A header that contradicts itself or the segment's length is refused. An option that does ends the list of options, and what came
// before it counts; options of kinds we do not know are passed over (RFC 9293, MUST-6, MUST-7).
import Base

/// The control bits.
struct TCPFlags: OptionSet, BitwiseCopyable, Sendable {
  let rawValue: UInt8
  @inline(__always) init(rawValue: UInt8) { self.rawValue = rawValue }
  @inline(__always) static var finish: TCPFlags { TCPFlags(rawValue: 0x01) }
  @inline(__always) static var synchronize: TCPFlags { TCPFlags(rawValue: 0x02) }
  @inline(__always) static var reset: TCPFlags { TCPFlags(rawValue: 0x04) }
  @inline(__always) static var push: TCPFlags { TCPFlags(rawValue: 0x08) }
  @inline(__always) static var acknowledge: TCPFlags { TCPFlags(rawValue: 0x10) }
  @inline(__always) static var urgent: TCPFlags { TCPFlags(rawValue: 0x20) }
  /// ECE: congestion has been experienced (RFC 3168).
  @inline(__always) static var congestionEcho: TCPFlags { TCPFlags(rawValue: 0x40) }
  /// CWR: the congestion window has been reduced (RFC 3168).
  @inline(__always) static var windowReduced: TCPFlags { TCPFlags(rawValue: 0x80) }
}

/// The options of a header.
struct TCPOptions: Sendable {
  /// The most blocks of a SACK option.
  static var maximumBlocks: Int { 4 }

  /// Largest segment that the sender takes; 0: not said (RFC 9293, 3.7.1).
  var maximumSegmentSize: UInt16 = 0
  /// Shift of its windows; nil: it does not scale (RFC 7323, 2.2). At most 14.
  var windowScale: UInt8?
  /// It understands SACK (RFC 2018, 2).
  var permitsSelective = false
  /// TSval and TSecr are there (RFC 7323, 3.2).
  var hasTimestamp = false
  var timestamp: UInt32 = 0
  var timestampEcho: UInt32 = 0
  /// Blocks of a SACK option (RFC 2018, 3).
  var blockCount = 0
  var blocks: [4 of SequenceRange] = .init(repeating: SequenceRange(SequenceNumber(0), SequenceNumber(0)))
  /// A Fast Open cookie (RFC 7413, 4.1.1): where it lies in the header, and its bytes; -1: no such option. 0: a request.
  var fastOpenOffset = 0
  var fastOpenByteCount = -1

  init() {}
}

/// A header as it came.
struct TCPHeader: Sendable {
  /// Bytes without options.
  static var minimumByteCount: Int { 20 }
  /// Bytes with as many options as there can be.
  static var maximumByteCount: Int { 60 }

  var sourcePort: UInt16
  var destinationPort: UInt16
  var sequence: SequenceNumber
  var acknowledgement: SequenceNumber
  /// Bytes of header, options included.
  var byteCount: Int
  var flags: TCPFlags
  /// As it stands there, unscaled.
  var window: UInt16
  var urgentPointer: UInt16
  var options = TCPOptions()
  /// Bytes of data behind the header.
  var dataCount: Int

  /// Numbers that the segment takes up: data, SYN and FIN.
  @inline(__always) var sequenceCount: Int {
    dataCount &+ (flags.contains(.synchronize) ? 1 : 0) &+ (flags.contains(.finish) ? 1 : 0)
  }

  /// The number behind its last.
  @inline(__always) var end: SequenceNumber { sequence + sequenceCount }

  /// Reads a header.
  /// - Parameters:
  ///   - bytes: where it lies, all of it.
  ///   - segmentByteCount: of header and data.
  /// - Returns: nil if that is no header.
  init?(_ bytes: UnsafeRawBufferPointer, segmentByteCount: Int) {
    guard bytes.count >= Self.minimumByteCount, let start = bytes.baseAddress else { return nil }
    let offsetAndFlags = UInt16(bigEndian: start.loadUnaligned(fromByteOffset: 12, as: UInt16.self))
    byteCount = (offsetAndFlags &>> 12).int &* 4
    guard byteCount >= Self.minimumByteCount, byteCount <= bytes.count, byteCount <= segmentByteCount else {
      return nil
    }
    sourcePort = UInt16(bigEndian: start.loadUnaligned(as: UInt16.self))
    destinationPort = UInt16(bigEndian: start.loadUnaligned(fromByteOffset: 2, as: UInt16.self))
    sequence = SequenceNumber(UInt32(bigEndian: start.loadUnaligned(fromByteOffset: 4, as: UInt32.self)))
    acknowledgement = SequenceNumber(UInt32(bigEndian: start.loadUnaligned(fromByteOffset: 8, as: UInt32.self)))
    flags = TCPFlags(rawValue: offsetAndFlags.u8)
    window = UInt16(bigEndian: start.loadUnaligned(fromByteOffset: 14, as: UInt16.self))
    urgentPointer = UInt16(bigEndian: start.loadUnaligned(fromByteOffset: 18, as: UInt16.self))
    dataCount = segmentByteCount &- byteCount
    if byteCount == Self.minimumByteCount { return }
    // Nearly every segment has just this: two NOPs and the timestamps (RFC 7323, appendix A).
    if byteCount == 32,
      start.loadUnaligned(fromByteOffset: 20, as: UInt32.self) == UInt32(bigEndian: 0x0101_080a)
    {
      readTimestamps(start + 24)
      return
    }
    readOptions(bytes)
  }

  @inline(__always) private mutating func readTimestamps(_ place: UnsafeRawPointer) {
    options.hasTimestamp = true
    options.timestamp = UInt32(bigEndian: place.loadUnaligned(as: UInt32.self))
    options.timestampEcho = UInt32(bigEndian: place.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
  }

  private mutating func readOptions(_ bytes: UnsafeRawBufferPointer) {
    guard let start = bytes.baseAddress else { return }
    var at = Self.minimumByteCount
    while at < byteCount {
      let kind = bytes[at]
      if kind == 0 { return }
      if kind == 1 {
        at &+= 1
        continue
      }
      guard at &+ 1 < byteCount else { return }
      let length = bytes[at &+ 1].int
      guard length >= 2, at &+ length <= byteCount else { return }
      let place = start + (at &+ 2)
      switch (kind, length) {
      case (2, 4):
        if flags.contains(.synchronize) {
          options.maximumSegmentSize = UInt16(bigEndian: place.loadUnaligned(as: UInt16.self))
        }
      case (3, 3):
        // A larger shift counts as 14 (RFC 7323, 2.3).
        if flags.contains(.synchronize) { options.windowScale = min(bytes[at &+ 2], 14) }
      case (4, 2):
        if flags.contains(.synchronize) { options.permitsSelective = true }
      case (5, 10), (5, 18), (5, 26), (5, 34):
        if !flags.contains(.synchronize) { readBlocks(place, count: (length &- 2) / 8) }
      case (8, 10): readTimestamps(place)
      case (34, 2...18):
        if flags.contains(.synchronize) {
          options.fastOpenOffset = at &+ 2
          options.fastOpenByteCount = length &- 2
        }
      default: break
      }
      at &+= length
    }
  }

  private mutating func readBlocks(_ place: UnsafeRawPointer, count: Int) {
    options.blockCount = count
    for index in 0..<count {
      let left = UInt32(bigEndian: place.loadUnaligned(fromByteOffset: index &* 8, as: UInt32.self))
      let right = UInt32(bigEndian: place.loadUnaligned(fromByteOffset: index &* 8 &+ 4, as: UInt32.self))
      options.blocks[index] = SequenceRange(SequenceNumber(left), SequenceNumber(right))
    }
  }
}
