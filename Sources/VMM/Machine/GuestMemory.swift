// The guest's memory in this process: one anonymous private mapping for RAM, split at 3 GiB as PCs do, and a
// window of its own for files. Every access of the monitor goes through a bounds check here.
//
// Pages appear when they are first touched and count as ours only then. The guest writes to this memory at any
// time: read a value once, check it, then use it.

import VirtioABI

#if canImport(Glibc)
  import Glibc
#endif

// SAFETY: the regions never change; what is in them is the guest's, which changes it whenever it likes.
/// RAM and file pages of one guest. Lives as long as the process.
public final class GuestMemory: @unchecked Sendable {
  /// Physical address from which there is no RAM below 4 GiB: devices are there.
  public static let lowEnd: UInt64 = 3 << 30
  /// Physical address of the RAM that did not fit below `lowEnd`.
  public static let highStart: UInt64 = 4 << 30
  /// Physical address of the files' window.
  public static let filesStart: UInt64 = 512 << 30
  /// Physical address from which the host may use huge pages.
  static let smallPagesEnd: UInt64 = 32 << 20
  /// The same for the very first memory, which what the monitor lays down fills.
  static let firstLargePageEnd: UInt64 = 2 << 20
  /// The page size of everything here.
  public static let pageSize: UInt64 = 4096

  /// A run of guest-physical addresses and the host memory behind it.
  public struct Region: Sendable {
    /// First physical address.
    public let physical: UInt64
    // SAFETY: mapped for the life of the process; only `GuestMemory` and devices that it was handed to go through it.
    /// The host's address of the first byte.
    nonisolated(unsafe) public let host: UnsafeMutableRawPointer
    /// Bytes, a multiple of the page size.
    public let byteCount: UInt64
  }

  /// RAM, one or two regions in the order of their addresses.
  public let ram: [Region]
  /// Bytes of RAM in all.
  public let byteCount: UInt64

  /// Maps `byteCount` bytes of RAM (rounded down to 2 MiB), touching none.
  public init(byteCount: UInt64) throws(Failure) {
    let total = byteCount & ~0x1f_ffff
    let alignment: UInt64 = 2 << 20
    let address = mmap(
      nil, Int(total + alignment), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | CInt(MAP_NORESERVE), -1, 0)
    guard let address, address != MAP_FAILED else {
      throw Failure(.memory, "the host cannot give \(total >> 20) MiB of address space: ask for less with --memory")
    }
    // 2 MiB alignment lets the host use huge pages for what the guest maps with them.
    let start = UnsafeMutableRawPointer(
      bitPattern: (UInt(bitPattern: address) + UInt(alignment) - 1) & ~(UInt(alignment) - 1))!
    _ = madvise(start, Int(total), CInt(MADV_DONTDUMP))
    // One fault instead of the hundreds that the kernel's image would take.
    _ = madvise(start, Int(min(total, Self.firstLargePageEnd)), CInt(MADV_HUGEPAGE))
    // The kernel uses memory from below, so only guests that use much of it come to where the host gives 2 MiB at a time: a page
    // costs a fifth there, and the guest's 2 MiB pages are real ones.
    if total > Self.smallPagesEnd {
      _ = madvise(start + Int(Self.smallPagesEnd), Int(total - Self.smallPagesEnd), CInt(MADV_HUGEPAGE))
    }
    let low = min(total, Self.lowEnd)
    var regions = [Region(physical: 0, host: start, byteCount: low)]
    if total > low {
      regions.append(Region(physical: Self.highStart, host: start + Int(low), byteCount: total - low))
    }
    ram = regions
    self.byteCount = total
  }

  /// Makes the pages of `count` bytes at `physical` before they are needed, in one go (MADV_POPULATE_WRITE, Linux 5.14). Where that
  /// cannot be done they appear one by one, later.
  public func provide(_ physical: UInt64, count: UInt64) {
    guard let start = pointer(at: physical, count: count) else { return }
    let populateForWriting: CInt = 23
    _ = madvise(start, Int(count), populateForWriting)
  }

  /// First physical address behind all RAM (holes included).
  public var physicalEnd: UInt64 { ram.last.map { $0.physical + $0.byteCount } ?? 0 }

  /// The host address of `count` bytes of RAM at `physical`, nil unless all of them are RAM.
  public func pointer(at physical: UInt64, count: UInt64) -> UnsafeMutableRawPointer? {
    for region in ram where physical >= region.physical {
      let offset = physical - region.physical
      if offset <= region.byteCount, count <= region.byteCount - offset { return region.host + Int(offset) }
    }
    return nil
  }

  /// The NUL-terminated text at `physical`, at most `limit` bytes; nil where there is no RAM.
  public func text(at physical: UInt64, limit: UInt64) -> [UInt8]? {
    guard let end = ram.first(where: { $0.physical <= physical && physical - $0.physical < $0.byteCount }) else {
      return nil
    }
    let count = min(limit, end.byteCount - (physical - end.physical))
    guard let start = pointer(at: physical, count: count) else { return nil }
    var text: [UInt8] = []
    for index in 0..<Int(count) {
      let byte = start.load(fromByteOffset: index, as: UInt8.self)
      if byte == 0 { break }
      text.append(byte)
    }
    return text
  }
}
