// RamFileSystem: a file system in memory: names in the kernel heap, contents in memory objects.
//
// Files that the monitor has mapped into the guest appear here without a copy: their memory object shows those frames
// and takes a page of its own only where somebody writes.
import Base
import Files
import Memory
import Pages
import Platform

/// A tree of files in memory, empty at first.
public final class RamFileSystem: FileSystem {
  private let lastInode = Atomic<UInt64>(1)

  /// How many pages its files may have together.
  let quota: PageQuota

  /// An empty tree.
  /// - Parameters:
  ///   - mode: the root directory's permissions.
  ///   - userID: its owner.
  ///   - groupID: its group.
  ///   - byteLimit: what the files may take together; nil: what there is. With a limit it calls itself tmpfs.
  public init(mode: UInt32 = 0o755, userID: UInt32 = 0, groupID: UInt32 = 0, byteLimit: UInt64? = nil) {
    quota = PageQuota(limit: byteLimit.map { ($0 &+ 4095) / 4096 } ?? .max)
    let isLimited = byteLimit != nil
    super.init(kind: isLimited ? "tmpfs" : "ramfs", magic: isLimited ? 0x0102_1994 : 0x8584_58f6)
    setRoot(
      RamDirectory(
        self, inode: 1, NewFile(type: .directory, mode: mode, userID: userID, groupID: groupID)))
  }

  func newInode() -> UInt64 { lastInode.wrappingAdd(1, ordering: .relaxed).newValue }

  /// What is left is what the machine has left.
  public override func statistics() throws(Errno) -> FileSystemStatistics {
    let frames = Frames.statistics
    var result = FileSystemStatistics()
    result.blockCount = frames.total.u64
    result.freeBlockCount = frames.free.u64
    result.availableBlockCount = frames.free.u64
    result.fileCount = frames.total.u64
    result.freeFileCount = frames.free.u64
    if quota.limit != .max {
      result.blockCount = quota.limit
      result.freeBlockCount = min(quota.limit &- min(quota.used, quota.limit), frames.free.u64)
      result.availableBlockCount = result.freeBlockCount
    }
    return result
  }

  // MARK: Files from the monitor

  /// Puts a file that lies in memory at `path`, making the directories on the way. Only before the file system is mounted.
  /// - Parameters:
  ///   - path: absolute; what is there already stays, if it is a directory and so is the new one, or is replaced.
  ///   - mode: type and permissions: a regular file, a directory, or a symbolic link, whose contents are its target.
  ///   - physical: where its contents begin, at the start of a page that never changes. Never written.
  ///   - byteCount: their size.
  ///   - modificationTime: seconds since 1970, UTC.
  /// - Throws: EINVAL (another type, no name), ENOTDIR, ENAMETOOLONG.
  public func add(
    _ path: PathBytes, mode: UInt32, physical: PhysicalAddress, byteCount: UInt64, modificationTime: UInt64
  ) throws(Errno) {
    // SAFETY: `setRoot` in `init` was given a RamDirectory.
    var directory = unsafeDowncast(root.vnode.unsafelyUnwrapped, to: RamDirectory.self)
    var name = PathBytes("")
    var start = 0
    while start < path.count {
      var end = start
      while end < path.count, path[end] != 0x2f { end &+= 1 }
      if end > start {
        if !name.isEmpty { directory = try directory.directory(named: name) }
        name = path.slice(start, end)
      }
      start = end &+ 1
    }
    guard !name.isEmpty, name.count <= PathBytes.maximumNameByteCount else { throw .EINVAL }
    let file = NewFile(type: FileType(mode: mode), mode: mode & FileMode.permissionMask)
    let node: RamNode
    switch file.type {
    case .regular: node = RamFile(self, inode: newInode(), file, direct: physical, byteCount: byteCount)
    case .symbolicLink:
      guard byteCount > 0, byteCount <= PathBytes.maximumPathByteCount.u64 else { throw .EINVAL }
      // SAFETY: the caller says that there are so many bytes.
      let target = UnsafeRawBufferPointer(start: LinearMap.pointer(physical), count: byteCount.int)
      node = RamLink(self, inode: newInode(), file, target: PathBytes(target).copy)
    case .directory: node = try directory.directory(named: name)
    default: throw .EINVAL
    }
    let time = FileTime(seconds: modificationTime.i64)
    node.setUp(mode: file.mode, time: time)
    if file.type != .directory { directory.put(name, node) }
  }
}
