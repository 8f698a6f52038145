// FileSystemContext: from where a process sees the tree: its root, working directory, umask and mounts.
//
// The operations on paths are its methods, in files by subject. All take the place that a relative path starts from
// (`workingDirectory`, or that of a directory descriptor) and the caller's credentials.
import Base
import Locks

/// A process' view of the tree.
public final class FileSystemContext {
  /// What is mounted where.
  public let mounts: MountTable
  private let lock = Mutex()
  private var rootPlace: Location
  private var workingPlace: Location
  private let umaskBits: Atomic<UInt32>

  /// A view from the root of the mounts.
  public init(mounts: MountTable, umask: UInt32 = 0o022) {
    self.mounts = mounts
    rootPlace = mounts.root
    workingPlace = rootPlace
    umaskBits = Atomic(umask & 0o777)
  }

  /// The same view for another process (fork).
  public func copy() -> FileSystemContext {
    let result = FileSystemContext(mounts: mounts, umask: umask)
    lock.withLock {
      result.rootPlace = rootPlace
      result.workingPlace = workingPlace
    }
    return result
  }

  /// Where absolute paths start.
  public var root: Location { lock.withLock { rootPlace } }
  /// Where relative paths start.
  public var workingDirectory: Location { lock.withLock { workingPlace } }
  /// Bits taken from the modes of new files.
  public var umask: UInt32 {
    get { umaskBits.load(ordering: .relaxed) }
    set { umaskBits.store(newValue & 0o777, ordering: .relaxed) }
  }

  /// Makes a directory the working directory (fchdir, and chdir after `find`).
  /// - Throws: ENOTDIR, EACCES.
  public func changeDirectory(to place: Location, _ credentials: Credentials) throws(Errno) {
    try checkDirectory(place, credentials)
    lock.withLock { workingPlace = place }
  }

  /// Makes a directory the root (chroot). The working directory stays.
  /// - Throws: ENOTDIR, EACCES, EPERM.
  public func changeRoot(to place: Location, _ credentials: Credentials) throws(Errno) {
    try checkDirectory(place, credentials)
    guard credentials.isPrivileged else { throw .EPERM }
    lock.withLock { rootPlace = place }
  }

  private func checkDirectory(_ place: Location, _ credentials: Credentials) throws(Errno) {
    guard place.vnode.isDirectory else { throw .ENOTDIR }
    try place.vnode.checkAccess(.execute, credentials)
  }

  /// The path of the working directory (getcwd).
  /// - Throws: ENOENT if it has been removed.
  public func workingDirectoryPath() throws(Errno) -> [UInt8] {
    let (root, place) = lock.withLock { (rootPlace, workingPlace) }
    guard !place.isDeleted else { throw .ENOENT }
    return place.path(from: root)
  }

  // MARK: Finding

  func walk(_ path: PathBytes, from base: Location, _ credentials: Credentials) throws(Errno) -> PathWalk {
    try PathWalk(path, from: base, root: root, mounts: mounts, credentials: credentials)
  }

  /// The place that a path names.
  /// - Parameters:
  ///   - path: the path. Empty: `base` itself if the flags have `AtFlags.emptyPath`, otherwise ENOENT.
  ///   - base: where it starts if it is relative.
  ///   - flags: `noFollow` and `emptyPath` count.
  ///   - credentials: for whom.
  /// - Throws: ENOENT, ENOTDIR, EACCES, ELOOP, ENAMETOOLONG, what the file systems throw.
  public func find(_ path: PathBytes, from base: Location, flags: AtFlags = [], _ credentials: Credentials)
    throws(Errno) -> Location
  {
    if path.isEmpty, flags.contains(.emptyPath) { return base }
    var walk = try walk(path, from: base, credentials)
    return try walk.finish(followsLink: !flags.contains(.noFollow))
  }
}
