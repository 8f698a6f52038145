// SocketAddress: `sockaddr` as programs give and get it: the family in the first two bytes, then what the family makes of it.
//
// A value: the addresses of every family but AF_UNIX fit into 32 bytes that lie in it, so that a message with an address costs no
// allocation. Longer ones (names of AF_UNIX sockets) have an array.
import Base

/// An address of a socket.
public struct SocketAddress: Equatable, Sendable {
  /// The longest (`sockaddr_storage`).
  public static var maximumByteCount: Int { 128 }
  /// The longest that lies in the value itself.
  public static var inlineByteCount: Int { 32 }

  private var words: [4 of UInt64] = .init(repeating: 0)
  private var count: UInt32
  private var long: [UInt8]?

  /// The address with these bytes.
  public init(_ bytes: [UInt8]) {
    count = bytes.count.u32
    if bytes.count > Self.inlineByteCount { long = bytes }
    for index in 0..<min(bytes.count, Self.inlineByteCount) { setByte(index, bytes[index]) }
  }

  /// The address with these bytes, `inlineByteCount` at most.
  public init(short bytes: UnsafeRawBufferPointer) {
    count = min(bytes.count, Self.inlineByteCount).u32
    for index in 0..<count.int { setByte(index, bytes[index]) }
  }

  private mutating func setByte(_ index: Int, _ byte: UInt8) {
    words[index &>> 3] |= byte.u64 &<< (index & 7 &* 8).u64
  }

  /// How many bytes there are.
  public var byteCount: Int { count.int }

  /// All its bytes; allocates.
  public var bytes: [UInt8] {
    if let long { return long }
    var result: [UInt8] = []
    for index in 0..<count.int { result.append(byte(index)) }
    return result
  }

  private func byte(_ index: Int) -> UInt8 { (words[index &>> 3] &>> (index & 7 &* 8).u64).u8 }

  /// AF_*; 0 if it is too short to say.
  public var family: UInt16 { count >= 2 ? words[0].u16 : 0 }

  /// Lets the body look at all bytes.
  public func withBytes<R, E: Error>(_ body: (UnsafeRawBufferPointer) throws(E) -> R) throws(E) -> R {
    if let long {
      // SAFETY: the array's own elements, for as long as the body runs.
      return try long.withUnsafeBufferPointer { (bytes) throws(E) in try body(UnsafeRawBufferPointer(bytes)) }
    }
    var copy = words
    return try withUnsafeBytes(of: &copy) { (bytes) throws(E) in
      try body(UnsafeRawBufferPointer(rebasing: bytes[..<count.int]))
    }
  }

  /// A number at a place within the first 32 bytes, in the machine's order; 0 beyond the end.
  @inline(__always) func load<T: FixedWidthInteger>(_ offset: Int, as type: T.Type) -> T {
    var copy = words
    // SAFETY: callers name places of fields within 32 bytes.
    return withUnsafeBytes(of: &copy) { $0.loadUnaligned(fromByteOffset: offset, as: type) }
  }

  /// The same bytes.
  public static func == (left: SocketAddress, right: SocketAddress) -> Bool {
    if left.count != right.count { return false }
    if let one = left.long, let two = right.long { return one == two }
    for index in 0..<4 where left.words[index] != right.words[index] { return false }
    return true
  }
}
