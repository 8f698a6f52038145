// FileSystemContext: from where a process sees the tree: its root, working directory, umask and mounts.
//
// The operations on paths are its methods, in files by subject. All take the place that a relative path starts from (that of a
// directory descriptor; nil is `workingDirectory`) and the caller's credentials.
//
// Root and working directory are places in memory of their own, which a change replaces. Walks under RCU start from them without
// counting: a place counts its mount and entry, and its own count is given up when no reader can have it any more.
import Base
import Locks
import Threads

/// A place that walks start from.
private final class StartingPlace {
  let location: Location
  init(_ location: Location) { self.location = location }
}

/// A process' view of the tree.
public final class FileSystemContext {
  /// What is mounted where.
  public let mounts: MountTable
  /// Changes come one at a time.
  private let lock = Mutex()
  private let rootWord: LiveWord
  private let workingWord: LiveWord
  private let umaskBits: Atomic<UInt32>

  /// A view from the root of the mounts.
  public init(mounts: MountTable, umask: UInt32 = 0o022) {
    self.mounts = mounts
    umaskBits = Atomic(umask & 0o777)
    let place = mounts.root
    place.use(2)
    rootWord = LiveWord(Self.word(place))
    workingWord = LiveWord(Self.word(place))
  }

  deinit {
    // The last reader has gone with whoever had the context.
    Self.place(rootWord.peek()).takeRetainedValue().location.use(-1)
    Self.place(workingWord.peek()).takeRetainedValue().location.use(-1)
  }

  // SAFETY: the words are always addresses of places that are counted until a grace period after others have taken their place.
  @inline(__always) private static func place(_ word: UInt) -> Unmanaged<StartingPlace> {
    Unmanaged.fromOpaque(UnsafeRawPointer(bitPattern: word).unsafelyUnwrapped)
  }

  private static func word(_ location: Location) -> UInt {
    UInt(bitPattern: Unmanaged.passRetained(StartingPlace(location)).toOpaque())
  }

  /// Where absolute paths start, for a reader under RCU.
  @inline(__always) var uncountedRoot: WalkPlace {
    Self.place(rootWord.load())._withUnsafeGuaranteedRef { $0.location.walkPlace }
  }
  /// Where relative paths start, for a reader under RCU.
  @inline(__always) var uncountedWorkingDirectory: WalkPlace {
    Self.place(workingWord.load())._withUnsafeGuaranteedRef { $0.location.walkPlace }
  }

  /// The same view for another process (fork).
  public func copy() -> FileSystemContext {
    let result = FileSystemContext(mounts: mounts, umask: umask)
    let (root, place) = lock.withLock { (self.root, workingDirectory) }
    result.set(result.rootWord, to: root)
    result.set(result.workingWord, to: place)
    return result
  }

  /// Where absolute paths start.
  public var root: Location { RCU.read { uncountedRoot.counted } }
  /// Where relative paths start.
  public var workingDirectory: Location { RCU.read { uncountedWorkingDirectory.counted } }
  /// Bits taken from the modes of new files.
  public var umask: UInt32 {
    get { umaskBits.load(ordering: .relaxed) }
    set { umaskBits.store(newValue & 0o777, ordering: .relaxed) }
  }

  /// Makes a directory the working directory (fchdir, and chdir after `find`).
  /// - Throws: ENOTDIR, EACCES.
  public func changeDirectory(to place: Location, _ credentials: Credentials) throws(Errno) {
    try checkDirectory(place, credentials)
    set(workingWord, to: place)
  }

  private func set(_ word: borrowing LiveWord, to place: Location) {
    place.use(1)
    let fresh = Self.word(place)
    let old = Self.place(lock.withLock { word.exchange(fresh) })
    old._withUnsafeGuaranteedRef { $0.location.use(-1) }
    RCU.release(old)
  }

  /// Makes a mount the root of all, and puts the present root at a place in it (pivot_root). Where the root was the working directory,
  /// the new one is.
  /// - Throws: EPERM, EINVAL, EBUSY, ENOTDIR.
  public func exchangeRoot(_ new: Location, puttingOldAt place: Location, _ credentials: Credentials) throws(Errno) {
    guard credentials.isPrivileged else { throw .EPERM }
    let (old, working) = (root, workingDirectory)
    try mounts.exchangeRoot(new, old, puttingOldAt: place)
    set(rootWord, to: new)
    if working == old { set(workingWord, to: new) }
  }

  /// Makes a directory the root (chroot). The working directory stays.
  /// - Throws: ENOTDIR, EACCES, EPERM.
  public func changeRoot(to place: Location, _ credentials: Credentials) throws(Errno) {
    try checkDirectory(place, credentials)
    guard credentials.isPrivileged else { throw .EPERM }
    set(rootWord, to: place)
  }

  private func checkDirectory(_ place: Location, _ credentials: Credentials) throws(Errno) {
    guard place.vnode.isDirectory else { throw .ENOTDIR }
    try place.vnode.checkAccess(.execute, credentials)
  }

  /// The path of the working directory (getcwd).
  /// - Throws: ENOENT if it has been removed.
  public func workingDirectoryPath() throws(Errno) -> [UInt8] {
    let (root, place) = lock.withLock { (self.root, workingDirectory) }
    guard !place.isDeleted else { throw .ENOENT }
    return place.path(from: root)
  }

  // MARK: Finding

  func walk(_ path: PathBytes, from base: Location?, _ credentials: Credentials, _ resolve: ResolveFlags = [])
    throws(Errno) -> PathWalk
  { try PathWalk(path, from: base, in: self, credentials, resolve) }

  /// Walks to what a path names without counting, and lets a body use the place where the walk ends before it goes away.
  /// - Parameters:
  ///   - path: the path.
  ///   - base: where it starts if it is relative; nil: the working directory.
  ///   - followsLink: whether a symbolic link at the end would be followed.
  ///   - credentials: for whom.
  ///   - body: must not sleep; false: it cannot do what is wanted without.
  /// - Returns: `unknown`: all is to be done in the counted way.
  @inline(__always) func glance(
    _ path: PathBytes, from base: Location?, followsLink: Bool, _ credentials: Credentials,
    _ body: (WalkPlace) -> Bool
  ) -> UncountedWalk.End {
    RCU.read {
      let ground = CachedGround(mounts.view, credentials)
      var walk = UncountedWalk(path, from: base?.walkPlace ?? uncountedWorkingDirectory, root: uncountedRoot)
      guard walk.walkToLast(ground) else { return .unknown }
      let end = walk.finish(ground, followsLink: followsLink)
      guard case .arrived = end else { return end }
      return body(walk.place) ? .arrived : .unknown
    }
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
    _ path: PathBytes, from base: Location?, flags: AtFlags = [], _ credentials: Credentials,
    resolve: ResolveFlags = []
  ) throws(Errno) -> Location {
    if path.isEmpty, flags.contains(.emptyPath) { return base ?? workingDirectory }
    let followsLink = !flags.contains(.noFollow)
    if resolve.isEmpty {
      var found: Location?
      let end = glance(path, from: base, followsLink: followsLink, credentials) {
        found = $0.kept
        return found != nil
      }
      switch end {
      case .arrived: if let found { return found }
      case .absent: throw .ENOENT
      case .unknown: break
      }
    }
    var walk = try walk(path, from: base, credentials, resolve)
    return try walk.finish(followsLink: followsLink)
  }
}
