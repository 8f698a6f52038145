// FileSystem: a tree of vnodes that can be mounted.
import Base
import Locks

/// A file system in use. Mounted any number of times; the object ends with its last mount and its last open file.
open class FileSystem {
  /// Its kind, as /proc/mounts names it.
  public let kind: StaticString
  /// statfs' magic number.
  public let magic: UInt64
  /// Its device number (`st_dev`), different for each.
  public let device: UInt64
  /// Keeps renames between different directories apart: they change the shape of the tree. First of its locks.
  let renameLock = Mutex()
  /// The names that are known.
  let names = DentryCache()
  private var rootEntry: Dentry?

  private static let lastMinor = Atomic<UInt32>(0)

  // All of them, for `shrinkAll`.
  private static let allLock = Mutex()
  // SAFETY: the list and its links are touched with `allLock`. Who is in it is there as long as that is held, for a `deinit`
  // takes it out first. It is used without being counted: whoever let go last would come to `deinit` with the lock.
  nonisolated(unsafe) private static var first: Unmanaged<FileSystem>?
  private var nextInAll: Unmanaged<FileSystem>?
  private var previousInAll: Unmanaged<FileSystem>?

  /// A file system without a root yet.
  public init(kind: StaticString, magic: UInt64) {
    self.kind = kind
    self.magic = magic
    device = DeviceNumber.make(0, FileSystem.lastMinor.wrappingAdd(1, ordering: .relaxed).newValue)
    FileSystem.allLock.lock()
    nextInAll = FileSystem.first
    let entry = Unmanaged.passUnretained(self)
    if let next = FileSystem.first { next._withUnsafeGuaranteedRef { $0.previousInAll = entry } }
    FileSystem.first = entry
    FileSystem.allLock.unlock()
  }

  deinit {
    FileSystem.allLock.lock()
    let (next, previous) = (nextInAll, previousInAll)
    if let next { next._withUnsafeGuaranteedRef { $0.previousInAll = previous } }
    if let previous {
      previous._withUnsafeGuaranteedRef { $0.nextInAll = next }
    } else {
      FileSystem.first = next
    }
    FileSystem.allLock.unlock()
  }

  /// Gives it its root directory; once, before it is mounted.
  public final func setRoot(_ vnode: Vnode) { rootEntry = Dentry(root: vnode) }

  /// The root of its tree. There must be one.
  public final var root: Dentry { rootEntry.unsafelyUnwrapped }

  /// The entry of a name in the root directory, which is known to be that of `vnode`: for file systems that invent their files.
  public final func rootEntry(_ name: PathBytes, _ vnode: Vnode) -> Dentry {
    names.enter(root, name, LookupResult(vnode))
  }

  /// Forgets about so many names and files that nobody uses and that can be found again. Memory is short: waits for no lock.
  /// - Returns: how many went.
  open func shrink(_ limit: Int) -> Int { names.shrink(limit) }

  /// The same for all file systems.
  public static func shrinkAll(_ limit: Int) -> Int {
    guard allLock.tryLock() else { return 0 }
    defer { allLock.unlock() }
    var given = 0
    var next = first
    while given < limit, let entry = next {
      let wanted = limit &- given
      given &+= entry._withUnsafeGuaranteedRef { $0.shrink(wanted) }
      next = entry._withUnsafeGuaranteedRef { $0.nextInAll }
    }
    return given
  }

  /// How full it is (VFS_STATFS).
  open func statistics() throws(Errno) -> FileSystemStatistics { FileSystemStatistics() }
  /// Stores everything (VFS_SYNC).
  open func synchronise() throws(Errno) {}
  /// Gives everything that has been written to where the files are, durable or not: nothing is lost if the machine ends.
  open func writeBack() throws(Errno) {}
}

/// statfs.
public struct FileSystemStatistics {
  /// Bytes of a block.
  public var blockByteCount: UInt64 = 4096
  /// Blocks there are.
  public var blockCount: UInt64 = 0
  /// Blocks free.
  public var freeBlockCount: UInt64 = 0
  /// Blocks free for users.
  public var availableBlockCount: UInt64 = 0
  /// Files there can be.
  public var fileCount: UInt64 = 0
  /// Files there still can be.
  public var freeFileCount: UInt64 = 0
  /// The longest name.
  public var maximumNameByteCount: UInt64 = 255
  /// Zero everywhere.
  public init() {}
}
