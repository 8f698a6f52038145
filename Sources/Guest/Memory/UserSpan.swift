// User spans: the only way to program memory.
//
// Addresses are checked against the program's half of the address space, bytes are copied by one routine whose
// faults become EFAULT after the ordinary page-fault path had its turn. Never used under a lock or with preemption off.
// On the host (unit tests) any address is a program address.
import Base
import Platform

/// A piece of program memory that is not trusted.
public struct UserSpan {
  /// Its first byte.
  public var address: VirtualAddress
  /// Bytes.
  public var count: Int

  /// A span within the program's half.
  /// - Throws: EFAULT if it is not.
  public init(_ address: VirtualAddress, count: Int) throws(Errno) {
    guard UserSpan.isProgram(address, count) else { throw .EFAULT }
    self.address = address
    self.count = count
  }

  /// Whether a range lies in the program's half. An empty range always does.
  @inline(__always)
  public static func isProgram(_ address: VirtualAddress, _ count: Int) -> Bool {
    #if HOSTED
      return count >= 0 && address.adding(count.u64) != nil
    #else
      guard count > 0 else { return count == 0 }
      let end = AddressMap.programEnd.rawValue
      return address.rawValue < end && count.u64 <= end &- address.rawValue
    #endif
  }

  /// Copies the span's bytes into `buffer`, which must not be smaller.
  public func read(into buffer: UnsafeMutableRawBufferPointer) throws(Errno) {
    guard count > 0, let start = buffer.baseAddress else { return }
    precondition(buffer.count >= count)
    guard UserCopy.copyFromProgram(address, to: start, count: count) == 0 else { throw .EFAULT }
  }

  /// Copies `buffer` to the start of the span, which must not be smaller.
  public func write(from buffer: UnsafeRawBufferPointer) throws(Errno) {
    guard buffer.count > 0, let start = buffer.baseAddress else { return }
    precondition(buffer.count <= count)
    guard UserCopy.copyToProgram(address, from: start, count: buffer.count) == 0 else { throw .EFAULT }
  }

  /// Reads one value, of any alignment.
  /// - Throws: EFAULT.
  public static func read<T: BitwiseCopyable>(_ type: T.Type, at address: VirtualAddress) throws(Errno) -> T {
    let count = MemoryLayout<T>.size
    guard isProgram(address, count) else { throw .EFAULT }
    let value: T? = withUnsafeTemporaryAllocation(of: T.self, capacity: 1) { buffer in
      let start = UnsafeMutableRawPointer(buffer.baseAddress.unsafelyUnwrapped)
      guard UserCopy.copyFromProgram(address, to: start, count: count) == 0 else { return nil }
      // SAFETY: all bytes of the value are written, and any bytes are a value of a type that `T` may be here: the caller
      // reads integers and structures of integers.
      return start.load(as: T.self)
    }
    guard let value else { throw .EFAULT }
    return value
  }

  /// Writes one value, at any alignment.
  /// - Throws: EFAULT.
  public static func write<T: BitwiseCopyable>(_ value: T, at address: VirtualAddress) throws(Errno) {
    let count = MemoryLayout<T>.size
    guard isProgram(address, count) else { throw .EFAULT }
    var copy = value
    let rest = withUnsafeBytes(of: &copy) { bytes in
      UserCopy.copyToProgram(address, from: bytes.baseAddress.unsafelyUnwrapped, count: count)
    }
    guard rest == 0 else { throw .EFAULT }
  }

  /// Stores zero bytes.
  /// - Throws: EFAULT.
  public static func clear(_ address: VirtualAddress, count: Int) throws(Errno) {
    guard isProgram(address, count) else { throw .EFAULT }
    guard count == 0 || UserCopy.zeroProgram(address, count: count) == 0 else { throw .EFAULT }
  }

  /// Reads a NUL-terminated string into `buffer`, the NUL included.
  /// - Returns: bytes before the NUL.
  /// - Throws: EFAULT; ENAMETOOLONG if no NUL is among the first `buffer.count` bytes.
  public static func readString(
    at address: VirtualAddress, into buffer: UnsafeMutableRawBufferPointer
  ) throws(Errno) -> Int {
    guard let start = buffer.baseAddress, !buffer.isEmpty else { throw .ENAMETOOLONG }
    var limit = buffer.count
    #if GUEST
      guard address < AddressMap.programEnd else { throw .EFAULT }
      limit = min(limit, (AddressMap.programEnd - address).int)
    #endif
    guard let length = UserCopy.copyString(address, to: start, limit: limit) else { throw .EFAULT }
    guard length < limit else { throw limit < buffer.count ? .EFAULT : .ENAMETOOLONG }
    return length
  }

  /// Reads a NUL-terminated string of at most `max` bytes before the NUL.
  /// - Throws: EFAULT, ENAMETOOLONG.
  public static func readString(at address: VirtualAddress, max: Int) throws(Errno) -> [UInt8] {
    #if GUEST
      guard address < AddressMap.programEnd else { throw .EFAULT }
    #endif
    guard let length = UserCopy.stringLength(address, limit: max &+ 1) else { throw .EFAULT }
    guard length <= max else { throw .ENAMETOOLONG }
    let span = try UserSpan(address, count: length)
    var bytes = [UInt8](repeating: 0, count: length)
    var failure: Errno?
    bytes.withUnsafeMutableBytes { buffer in
      do throws(Errno) { try span.read(into: buffer) } catch { failure = error }
    }
    if let failure { throw failure }
    return bytes
  }
}
