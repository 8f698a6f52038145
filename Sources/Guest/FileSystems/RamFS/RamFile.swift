// RamFile: a regular file in memory: a memory object without a pager, so that absent pages are zero.
import Base
import Files
import Memory

/// A regular file.
final class RamFile: RamNode {
  private let object: MemoryObject
  private let directByteCount: UInt64

  override init(_ fileSystem: RamFileSystem, inode: UInt64, _ file: NewFile) {
    object = MemoryObject()
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

  /// Space need not be set aside: only the size changes, or holes are made.
  override func allocate(mode: UInt32, offset: UInt64, byteCount: UInt64) throws(Errno) {
    let (keepsSize, punches): (UInt32, UInt32) = (1, 2)
    let (end, overflow) = offset.addingReportingOverflow(byteCount)
    guard !overflow, end <= 0x7fff_ffff_ffff_ffff else { throw .EFBIG }
    switch mode {
    case 0:
      if end > object.byteCount { try object.truncate(to: end) }
    case keepsSize: return
    case keepsSize | punches: try object.discard(offset: offset, byteCount: byteCount)
    default: throw .EOPNOTSUPP
    }
    contentsChanged()
  }
}
