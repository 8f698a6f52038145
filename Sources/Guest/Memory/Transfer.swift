// A transfer: a cursor over the memory that a read fills or a write is taken from.
import Base

/// Pieces of program memory, or one of kernel memory, with a position that moves as bytes are copied.
public struct Transfer {
  /// One piece of program memory. Nothing is checked before bytes are copied.
  public init(program address: VirtualAddress, count: Int) { fatalError() }

  /// One piece of kernel memory, which must outlive the transfer.
  public init(kernel buffer: UnsafeMutableRawBufferPointer) { fatalError() }

  /// The pieces of an array of `struct iovec` in program memory.
  /// - Throws: EFAULT, EINVAL (more than 1,024 pieces, or their sum does not fit).
  public init(programVectors address: VirtualAddress, count: Int) throws(Errno) { fatalError() }

  /// Bytes not copied yet.
  public var remaining: Int { fatalError() }
  /// Bytes copied so far: what a system call returns when a later byte failed.
  public var copied: Int { fatalError() }

  /// Copies kernel bytes to the memory of the transfer: all of `source`, or as much as remains.
  /// - Returns: bytes copied.
  /// - Throws: EFAULT; bytes before the fault count as copied.
  @discardableResult
  public mutating func copyOut(from source: UnsafeRawBufferPointer) throws(Errno) -> Int { fatalError() }

  /// Fills `destination` from the memory of the transfer, or as much as remains.
  /// - Returns: bytes copied.
  /// - Throws: EFAULT; bytes before the fault count as copied.
  @discardableResult
  public mutating func copyIn(into destination: UnsafeMutableRawBufferPointer) throws(Errno) -> Int { fatalError() }

  /// Writes zeros to the memory of the transfer.
  /// - Returns: bytes written.
  /// - Throws: EFAULT.
  @discardableResult
  public mutating func zeroOut(count: Int) throws(Errno) -> Int { fatalError() }

  /// Lets no more than `count` further bytes be copied.
  public mutating func limit(to count: Int) { fatalError() }
}
