// Physical memory for what the monitor lays down before the guest runs: given out upwards from the second page,
// never taken back. What is above the last piece is the guest's.

import VirtioABI

/// Hands out zeroed pages of the guest's low memory.
final class BootAllocator: StartMemory {
  private let memory: GuestMemory
  private let limit: UInt64
  /// First physical address not given out.
  private(set) var end: UInt64 = GuestMemory.pageSize

  /// Allocates from the first `limit` bytes of RAM.
  init(_ memory: GuestMemory, limit: UInt64) {
    self.memory = memory
    self.limit = min(limit, memory.ram[0].byteCount)
  }

  /// `pages` pages at a multiple of `alignment` bytes (a power of two, a page or more).
  func place(
    pages: UInt64, alignment: UInt64 = GuestMemory.pageSize
  ) throws(Failure) -> (physical: UInt64, host: UnsafeMutableRawPointer) {
    let physical = (end + alignment - 1) & ~(alignment - 1)
    let count = pages * GuestMemory.pageSize
    guard physical <= limit, count <= limit - physical, let host = memory.pointer(at: physical, count: count) else {
      throw Failure(.memory, "the machine's memory is too small for its kernel: give more with --memory")
    }
    end = physical + count
    return (physical, host)
  }

  /// The same for what needs no pointer.
  func allocate(pages: UInt64, alignment: UInt64 = GuestMemory.pageSize) throws(Failure) -> UInt64 {
    try place(pages: pages, alignment: alignment).physical
  }

  /// The page at `physical`, which this allocator gave out, as 64-bit words.
  func words(_ physical: UInt64) -> UnsafeMutablePointer<UInt64> {
    // SAFETY: `physical` is a page this allocator has given out, thus inside RAM.
    memory.pointer(at: physical, count: GuestMemory.pageSize)!.assumingMemoryBound(to: UInt64.self)
  }
}
