// Memory of one's own: mappings, as the kernel has them.
import Base

/// A range of memory, given back when the value goes away.
public struct Region: ~Copyable {
  /// What may be done with a page.
  public enum Access: Int {
    /// Nothing: touching it ends the program.
    case none = 0
    /// Reading.
    case read = 1
    /// Reading and writing.
    case readWrite = 3
  }

  /// Wishes about the memory.
  public struct Options: OptionSet, Sendable {
    /// The wishes as bits.
    public let rawValue: Int
    /// Those wishes.
    public init(rawValue: Int) { self.rawValue = rawValue }
    /// All pages are there from the start, rather than when they are touched.
    public static let populated = Options(rawValue: 1)
    /// Pages of 2 MiB where they fit.
    public static let huge = Options(rawValue: 2)
  }

  private let start: Int
  /// Its size, a multiple of 4096.
  public let byteCount: Int

  /// Zeroed memory of at least so many bytes.
  /// - Throws: ENOMEM.
  public init(byteCount: Int, _ options: Options = []) throws(Errno) {
    let privateAnonymous = 0x22
    let populate = 0x8000
    let size = (byteCount &+ 4095) & ~4095
    let isHuge = options.contains(.huge)
    let isPopulated = options.contains(.populated)
    let address = try checked(
      call(
        Call.mmap, 0, size, Access.readWrite.rawValue, privateAnonymous | (isPopulated && !isHuge ? populate : 0), -1, 0
      ))
    if isHuge {
      let huge = 14
      let populateWrite = 23
      _ = call(Call.madvise, address, size, huge)
      let result = isPopulated ? call(Call.madvise, address, size, populateWrite) : 0
      if result < 0 {
        _ = call(Call.munmap, address, size)
        _ = try checked(result)
      }
    }
    start = address
    self.byteCount = size
  }

  /// A file's first bytes; changes are the program's own and do not reach the file.
  /// - Throws: EINVAL, EACCES, ENOMEM…
  public init(mapping file: borrowing File, byteCount: Int) throws(Errno) {
    let privateMapping = 2
    let size = (byteCount &+ 4095) & ~4095
    start = try checked(call(Call.mmap, 0, size, Access.readWrite.rawValue, privateMapping, file.descriptor, 0))
    self.byteCount = size
  }

  deinit { _ = call(Call.munmap, start, byteCount) }

  /// The memory; not to be used beyond the region's life.
  public var bytes: UnsafeMutableRawBufferPointer {
    UnsafeMutableRawBufferPointer(start: UnsafeMutableRawPointer(bitPattern: start), count: byteCount)
  }

  /// Says what may be done with the pages of a range of it (in bytes, multiples of 4096).
  /// - Throws: EINVAL, ENOMEM.
  public borrowing func protect(_ range: Range<Int>, _ access: Access) throws(Errno) {
    _ = try checked(call(Call.mprotect, start &+ range.lowerBound, range.count, access.rawValue))
  }

  /// Gives the memory of a range back; it reads as zero (or as the file) when it is touched again.
  /// - Throws: EINVAL.
  public borrowing func discard(_ range: Range<Int>) throws(Errno) {
    let dontNeed = 4
    _ = try checked(call(Call.madvise, start &+ range.lowerBound, range.count, dontNeed))
  }
}
