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
    rootPlace.use(2)
  }

  deinit {
    rootPlace.use(-1)
    workingPlace.use(-1)
  }

  /// The same view for another process (fork).
  public func copy() -> FileSystemContext {
    let result = FileSystemContext(mounts: mounts, umask: umask)
    let (root, place) = lock.withLock { (rootPlace, workingPlace) }
    result.set(root: root)
    result.set(workingDirectory: place)
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
    set(workingDirectory: place)
  }

  private func set(workingDirectory place: Location) {
    place.use(1)
    var old = place
    lock.withLock { swap(&workingPlace, &old) }
    old.use(-1)
  }

  private func set(root place: Location) {
    place.use(1)
    var old = place
    lock.withLock { swap(&rootPlace, &old) }
    old.use(-1)
  }

  /// Makes a mount the root of all, and puts the present root at a place in it (pivot_root). Where the root was the working directory,
  /// the new one is.
  /// - Throws: EPERM, EINVAL, EBUSY, ENOTDIR.
  public func exchangeRoot(_ new: Location, puttingOldAt place: Location, _ credentials: Credentials) throws(Errno) {
    guard credentials.isPrivileged else { throw .EPERM }
    let (old, working) = (root, workingDirectory)
    try mounts.exchangeRoot(new, old, puttingOldAt: place)
    set(root: new)
    if working == old { set(workingDirectory: new) }
  }

  /// Makes a directory the root (chroot). The working directory stays.
  /// - Throws: ENOTDIR, EACCES, EPERM.
  public func changeRoot(to place: Location, _ credentials: Credentials) throws(Errno) {
    try checkDirectory(place, credentials)
    guard credentials.isPrivileged else { throw .EPERM }
    set(root: place)
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

  func walk(_ path: PathBytes, from base: Location, _ credentials: Credentials, _ resolve: ResolveFlags = [])
    throws(Errno) -> PathWalk
  {
    try PathWalk(path, from: base, root: root, mounts: mounts, credentials: credentials, resolve: resolve)
  }

  /// The place that a path names.
  /// - Parameters:
  ///   - path: the path. Empty: `base` itself if the flags have `AtFlags.emptyPath`, otherwise ENOENT.
  ///   - base: where it starts if it is relative.
  ///   - flags: `noFollow` and `emptyPath` count.
  ///   - credentials: for whom.
  ///   - resolve: how far the walk may go.
  /// - Throws: ENOENT, ENOTDIR, EACCES, ELOOP, ENAMETOOLONG, EXDEV, what the file systems throw.
  public func find(
    _ path: PathBytes, from base: Location, flags: AtFlags = [], _ credentials: Credentials,
    resolve: ResolveFlags = []
  ) throws(Errno) -> Location {
    if path.isEmpty, flags.contains(.emptyPath) { return base }
    var walk = try walk(path, from: base, credentials, resolve)
    return try walk.finish(followsLink: !flags.contains(.noFollow))
  }
}
