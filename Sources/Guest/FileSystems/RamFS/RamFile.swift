// RamFile: a regular file in memory: a memory object without a pager, so that absent pages are zero.
import Base
import Files
import Memory

/// A regular file.
final class RamFile: RamNode {
  private let object: MemoryObject
  private let directByteCount: UInt64

  override init(_ fileSystem: RamFileSystem, inode: UInt64, _ file: NewFile) {
    object = MemoryObject(quota: fileSystem.quota)
    directByteCount = 0
    super.init(fileSystem, inode: inode, file)
  }

  init(_ fileSystem: RamFileSystem, inode: UInt64, _ file: NewFile, direct: PhysicalAddress, byteCount: UInt64) {
    object = byteCount > 0 ? MemoryObject(direct: direct, byteCount: byteCount) : MemoryObject()
    directByteCount = byteCount
    super.init(fileSystem, inode: inode, file)
  }

  override var byteCount: UInt64 { object.byteCount }
  override var blockCount: UInt64 {
    max(object.residentPages.u64 &* 8, (min(directByteCount, byteCount) &+ 511) / 512)
  }

  override func memoryObject() throws(Errno) -> MemoryObject { object }
  override func resize(to byteCount: UInt64) throws(Errno) { try object.truncate(to: byteCount) }

  override func findData(from offset: UInt64, end: UInt64) throws(Errno) -> UInt64 {
    guard let found = object.findData(from: offset, end: end) else { throw .ENXIO }
    return found
  }
  override func findHole(from offset: UInt64, end: UInt64) throws(Errno) -> UInt64 {
    object.findHole(from: offset, end: end)
  }

  /// Space need not be set aside: only the size changes, or holes are made.
  override func allocate(mode: UInt32, offset: UInt64, byteCount: UInt64) throws(Errno) {
    let (keepsSize, punches, zeroes): (UInt32, UInt32, UInt32) = (1, 2, 0x10)
    let (end, overflow) = offset.addingReportingOverflow(byteCount)
    guard !overflow, end <= 0x7fff_ffff_ffff_ffff else { throw .EFBIG }
    switch mode {
    case 0: break
    case keepsSize: return
    case keepsSize | punches, zeroes, keepsSize | zeroes: try object.discard(offset: offset, byteCount: byteCount)
    default: throw .EOPNOTSUPP
    }
    if mode & keepsSize == 0, end > object.byteCount { try object.truncate(to: end) }
    contentsChanged()
  }
}
