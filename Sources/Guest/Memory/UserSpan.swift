// User spans: the only way to program memory.
//
// Addresses are checked against the program's half of the address space, bytes are copied by one routine whose
// faults become EFAULT after the ordinary page-fault path had its turn. Never used under a lock or with preemption off.
// On the host (unit tests) any address is a program address.
import Base

/// A piece of program memory that is not trusted.
public struct UserSpan {
  /// Its first byte.
  public var address: VirtualAddress
  /// Bytes.
  public var count: Int

  /// A span within the program's half.
  /// - Throws: EFAULT if it is not.
  public init(_ address: VirtualAddress, count: Int) throws(Errno) { fatalError() }

  /// Copies the span's bytes into `buffer`, which must not be smaller.
  public func read(into buffer: UnsafeMutableRawBufferPointer) throws(Errno) { fatalError() }
  /// Copies `buffer` to the start of the span, which must not be smaller.
  public func write(from buffer: UnsafeRawBufferPointer) throws(Errno) { fatalError() }

  /// Reads one value.
  /// - Throws: EFAULT.
  public static func read<T: BitwiseCopyable>(_ type: T.Type, at address: VirtualAddress) throws(Errno) -> T {
    fatalError()
  }
  /// Writes one value.
  /// - Throws: EFAULT.
  public static func write<T: BitwiseCopyable>(_ value: T, at address: VirtualAddress) throws(Errno) { fatalError() }

  /// Reads a NUL-terminated string into `buffer`, the NUL included.
  /// - Returns: bytes before the NUL.
  /// - Throws: EFAULT; ENAMETOOLONG if no NUL is among the first `buffer.count` bytes.
  public static func readString(at address: VirtualAddress, into buffer: UnsafeMutableRawBufferPointer) throws(Errno)
    -> Int
  { fatalError() }

  /// Reads a NUL-terminated string of at most `max` bytes before the NUL.
  /// - Throws: EFAULT, ENAMETOOLONG.
  public static func readString(at address: VirtualAddress, max: Int) throws(Errno) -> [UInt8] { fatalError() }
}
