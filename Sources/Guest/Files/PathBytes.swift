// Paths and names as the kernel handles them: bytes without encoding, borrowed from whoever holds them.
import Base

/// The bytes of a path or of one name in it, without a final NUL. Borrowed: valid while the call it was given to runs.
public struct PathBytes {
  /// The bytes. They stay the lender's.
  public let bytes: UnsafeRawBufferPointer

  /// The longest name in a directory (NAME_MAX).
  public static let maximumNameByteCount = 255
  /// The longest path, without the final NUL (PATH_MAX - 1).
  public static let maximumPathByteCount = 4095

  /// Borrows bytes, which must stay unchanged during the call that gets the value.
  @inline(__always) public init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }
  /// A constant of the kernel's own.
  @inline(__always) public init(_ text: StaticString) {
    // SAFETY: a static string's bytes are always there.
    bytes = UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount)
  }

  /// How many bytes.
  @inline(__always) public var count: Int { bytes.count }
  /// Whether there is none.
  @inline(__always) public var isEmpty: Bool { bytes.count == 0 }
  /// Byte `index`, which must be below `count`.
  @inline(__always) public subscript(index: Int) -> UInt8 { bytes[index] }
  /// Whether it starts with a slash.
  @inline(__always) public var isAbsolute: Bool { bytes.count > 0 && bytes[0] == slash }
  /// Whether it is ".".
  @inline(__always) public var isDot: Bool { bytes.count == 1 && bytes[0] == dot }
  /// Whether it is "..".
  @inline(__always) public var isDotDot: Bool { bytes.count == 2 && bytes[0] == dot && bytes[1] == dot }

  /// The bytes from `start` to just below `end`, which must lie in order within it.
  @inline(__always) public func slice(_ start: Int, _ end: Int) -> PathBytes {
    PathBytes(UnsafeRawBufferPointer(rebasing: bytes[start..<end]))
  }

  /// A copy of its own.
  public var copy: [UInt8] {
    var result: [UInt8] = []
    result.reserveCapacity(bytes.count)
    for byte in bytes { result.append(byte) }
    return result
  }

  /// Whether both have the same bytes.
  public static func == (left: PathBytes, right: PathBytes) -> Bool {
    guard left.count == right.count else { return false }
    for index in 0..<left.wordCount where left.word(index) != right.word(index) { return false }
    return true
  }

  /// How many words of 8 bytes hold the bytes.
  @inline(__always) public var wordCount: Int { (count &+ 7) &>> 3 }

  /// Word `index`, which must be below `wordCount`: 8 bytes, the first one lowest; behind the last byte zeros.
  @inline(__always) public func word(_ index: Int) -> UInt64 {
    let left = count &- index &* 8
    // SAFETY: there are bytes, so there is a base.
    let place = bytes.baseAddress.unsafelyUnwrapped + index &* 8
    if left >= 8 { return place.loadUnaligned(as: UInt64.self) }
    let mask = (UInt64(1) &<< (left &* 8).u64) &- 1
    // SAFETY: behind the bytes there may be anything, also somebody else's, but not another page; it is masked out.
    if UInt(bitPattern: place) & 4095 <= 4088 { return place.loadUnaligned(as: UInt64.self) & mask }
    var value: UInt64 = 0
    for byte in 0..<left { value |= place.load(fromByteOffset: byte, as: UInt8.self).u64 &<< (byte &* 8).u64 }
    return value
  }

  /// A hash of the bytes (multiplied and folded, a word at a time); for tables of the kernel's own whose chains are bounded otherwise.
  @inline(__always) public var hash: UInt64 {
    var value: UInt64 = 0xcbf2_9ce4_8422_2325
    for index in 0..<wordCount {
      value = (value ^ word(index)) &* 0x9e37_79b9_7f4a_7c15
      value ^= value &>> 32
    }
    return value
  }

  /// The decimal number that the bytes spell, without signs or leading zeros; nil if they do not, or if it is above 2^31.
  public var decimal: Int? {
    guard count > 0, count <= 10, bytes[0] != 0x30 || count == 1 else { return nil }
    var value = 0
    for byte in bytes {
      guard byte >= 0x30, byte <= 0x39 else { return nil }
      value = value &* 10 &+ (byte &- 0x30).int
    }
    return value <= 0x7fff_ffff ? value : nil
  }
}

@inline(__always) var slash: UInt8 { 0x2f }
@inline(__always) var dot: UInt8 { 0x2e }

extension Array where Element == UInt8 {
  /// Runs the body with the array's bytes as a path.
  @inline(__always) public func withPath<R, E: Error>(_ body: (PathBytes) throws(E) -> R) throws(E) -> R {
    try withUnsafeBufferPointer { (bytes) throws(E) in try body(PathBytes(UnsafeRawBufferPointer(bytes))) }
  }
}
