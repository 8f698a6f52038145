// SequenceNumber: a place in a stream's numbering, modulo 2^32 (RFC 9293, 3.4).
//
// Comparisons are between numbers less than 2^31 apart; of others they say nothing of use. So this is no `Comparable`: the
// order goes in a circle.
import Base

/// The number of a byte of a stream, or of its SYN or FIN.
struct SequenceNumber: Equatable, BitwiseCopyable, Sendable {
  var rawValue: UInt32

  @inline(__always) init(_ rawValue: UInt32) { self.rawValue = rawValue }

  /// How far `left` lies behind `right`: negative if it comes before.
  @inline(__always) static func - (left: SequenceNumber, right: SequenceNumber) -> Int {
    (left.rawValue &- right.rawValue).i32.int
  }
  @inline(__always) static func + (left: SequenceNumber, right: Int) -> SequenceNumber {
    SequenceNumber(left.rawValue &+ right.u32)
  }
  @inline(__always) static func - (left: SequenceNumber, right: Int) -> SequenceNumber {
    SequenceNumber(left.rawValue &- right.u32)
  }
  @inline(__always) static func += (left: inout SequenceNumber, right: Int) { left = left + right }

  @inline(__always) static func < (left: SequenceNumber, right: SequenceNumber) -> Bool { left - right < 0 }
  @inline(__always) static func <= (left: SequenceNumber, right: SequenceNumber) -> Bool { left - right <= 0 }
  @inline(__always) static func > (left: SequenceNumber, right: SequenceNumber) -> Bool { left - right > 0 }
  @inline(__always) static func >= (left: SequenceNumber, right: SequenceNumber) -> Bool { left - right >= 0 }

  /// The one that comes later.
  @inline(__always) static func later(_ one: SequenceNumber, _ other: SequenceNumber) -> SequenceNumber {
    one < other ? other : one
  }
  /// The one that comes first.
  @inline(__always) static func earlier(_ one: SequenceNumber, _ other: SequenceNumber) -> SequenceNumber {
    one < other ? one : other
  }
}

/// Numbers from `start` up to, but not with, `end`.
struct SequenceRange: Equatable, BitwiseCopyable, Sendable {
  var start: SequenceNumber
  var end: SequenceNumber

  @inline(__always) init(_ start: SequenceNumber, _ end: SequenceNumber) {
    self.start = start
    self.end = end
  }

  @inline(__always) var count: Int { end - start }
}
