// The values of getsockopt and setsockopt on their way between the program and a socket.
import Base

/// What a program sets an option to: a copy of its bytes.
public struct OptionValue {
  /// The most bytes that any option here has.
  public static var maximumByteCount: Int { 512 }
  /// Its bytes, `maximumByteCount` at most. Valid during the call.
  public let bytes: UnsafeRawBufferPointer

  /// A value.
  public init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

  /// A number.
  /// - Throws: EINVAL: fewer than 4 bytes.
  @inline(__always) public func int() throws(Errno) -> Int32 { try load(as: Int32.self) }

  /// A number that may also be one byte, as the options of IP have it.
  /// - Throws: EINVAL: there is none.
  public func intOrByte() throws(Errno) -> Int32 {
    if bytes.count >= 4 { return try int() }
    guard bytes.count >= 1 else { throw .EINVAL }
    return bytes[0].i32
  }

  /// A structure at the start, or at a place.
  /// - Throws: EINVAL: there are not so many bytes.
  public func load<T: BitwiseCopyable>(from offset: Int = 0, as type: T.Type) throws(Errno) -> T {
    guard bytes.count &- offset >= MemoryLayout<T>.size else { throw .EINVAL }
    return bytes.loadUnaligned(fromByteOffset: offset, as: type)
  }
}

/// What a socket answers about an option.
public struct OptionResult {
  /// Bytes that the program has room for: the answer is cut off there.
  public let room: Int
  /// What the program has in that room, as far as it fits into `buffer`: a few options ask by it.
  public let question: UnsafeRawBufferPointer
  private let buffer: UnsafeMutableRawBufferPointer
  /// Bytes of the answer.
  public private(set) var count = 0

  /// An answer to be, in a buffer of `OptionValue.maximumByteCount` bytes that holds the program's first `asked` ones.
  public init(room: Int, buffer: UnsafeMutableRawBufferPointer, asked: Int = 0) {
    self.room = room
    self.buffer = buffer
    question = UnsafeRawBufferPointer(rebasing: buffer[..<min(asked, buffer.count)])
  }

  /// The answer, as much of it as there is room for.
  public var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: buffer[..<min(count, room)]) }

  /// Answers with a value.
  public mutating func put<T: BitwiseCopyable>(_ value: T) {
    var copy = value
    withUnsafeBytes(of: &copy) { put(bytes: $0) }
  }

  /// Answers with yes (1) or no (0).
  @inline(__always) public mutating func put(flag: Bool) { put(flag ? 1 : 0 as Int32) }

  /// Answers with a number, in one byte if there is no room for more, as the options of IP do.
  public mutating func putIntOrByte(_ value: Int32) {
    if room < 4, room > 0, value >= 0, value <= 255 { return put(value.u8) }
    put(value)
  }

  /// Answers with bytes, `OptionValue.maximumByteCount` at most in all; what follows comes behind.
  public mutating func put(bytes: UnsafeRawBufferPointer) {
    for index in 0..<min(bytes.count, buffer.count &- count) { buffer[count &+ index] = bytes[index] }
    count = min(count &+ bytes.count, buffer.count)
  }
}

/// Levels of options and control messages.
public enum OptionLevel {
  /// SOL_SOCKET.
  public static let socket: Int32 = 1
  /// SOL_IP.
  public static let internet4: Int32 = 0
  /// SOL_ICMP.
  public static let control: Int32 = 1
  /// SOL_TCP.
  public static let transmission: Int32 = 6
  /// SOL_UDP.
  public static let datagram: Int32 = 17
  /// SOL_IPV6.
  public static let internet6: Int32 = 41
  /// SOL_ICMPV6.
  public static let control6: Int32 = 58
  /// SOL_RAW.
  public static let raw: Int32 = 255
  /// SOL_PACKET.
  public static let packet: Int32 = 263
  /// SOL_NETLINK.
  public static let netlink: Int32 = 270
}
