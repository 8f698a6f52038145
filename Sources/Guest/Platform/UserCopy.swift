// The only accesses to program memory: each is guarded by a fixup, so that a fault that cannot be resolved ends the copy
// instead of the kernel.
//
// Addresses must have been checked to lie in the program's part of the address space (that is Memory's UserSpan). The
// program's pages may have to be read in: never under a lock or with preemption disabled. Where preemption or interrupts
// are disabled all the same, a fault is not resolved and the rest is not copied.
import Base
import Instructions

/// Copies from and to program memory.
public enum UserCopy {
  /// Copies `count` bytes out of the program; gives the number of bytes not copied.
  @inline(__always) public static func copyFromProgram(
    _ source: VirtualAddress, to destination: UnsafeMutableRawPointer, count: Int
  ) -> Int {
    usercopy_copy(destination, pointer(source), count.u64).int
  }

  /// Copies `count` bytes into the program; gives the number of bytes not copied.
  @inline(__always) public static func copyToProgram(
    _ destination: VirtualAddress, from source: UnsafeRawPointer, count: Int
  ) -> Int {
    usercopy_copy(pointer(destination), source, count.u64).int
  }

  /// Stores `count` zero bytes; gives the number of bytes not stored.
  @inline(__always) public static func zeroProgram(_ destination: VirtualAddress, count: Int) -> Int {
    usercopy_zero(pointer(destination), count.u64).int
  }

  /// Bytes before the first NUL at `source`, or `limit` if there is none in so many; nil if the memory could not be read.
  @inline(__always) public static func stringLength(_ source: VirtualAddress, limit: Int) -> Int? {
    let length = usercopy_string_length(pointer(source), limit.u64)
    return length > limit.u64 ? nil : length.int
  }

  /// Copies the string at `source` with its NUL, and perhaps bytes behind it, to a buffer of `limit` bytes.
  /// - Returns: bytes before the NUL, or `limit` if there is none in so many; nil if the memory could not be read.
  @inline(__always) public static func copyString(
    _ source: VirtualAddress, to destination: UnsafeMutableRawPointer, limit: Int
  ) -> Int? {
    let length = usercopy_string(destination, pointer(source), limit.u64)
    return length > limit.u64 ? nil : length.int
  }

  /// Loads 32 bits (aligned to 4: atomically), or nil.
  @inline(__always) public static func load32(_ source: VirtualAddress) -> UInt32? {
    var value: UInt32 = 0
    return usercopy_load32(pointer(source), &value) ? value : nil
  }

  /// Stores 32 bits (aligned to 4: atomically); false if that faulted.
  @inline(__always) public static func store32(_ destination: VirtualAddress, _ value: UInt32) -> Bool {
    usercopy_store32(pointer(destination), value)
  }

  /// Stores `desired` if the 32 bits there are `expected`, atomically; gives what was there, or nil if that faulted.
  @inline(__always) public static func compareExchange32(
    _ address: VirtualAddress, expected: UInt32, desired: UInt32
  ) -> UInt32? {
    var found = expected
    return usercopy_compare_exchange32(pointer(address), &found, desired) ? found : nil
  }

  // SAFETY: the address is only handed to a guarded copy; a program's 0 is allowed here and faults there.
  @inline(__always) private static func pointer(_ address: VirtualAddress) -> UnsafeMutableRawPointer? {
    UnsafeMutableRawPointer(bitPattern: address.rawValue.uint)
  }
}
