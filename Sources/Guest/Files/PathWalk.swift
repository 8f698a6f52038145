// PathWalk: from a path to a place in the tree.
//
// A walk goes from part to part, through mounts and symbolic links, as the credentials it was given allow. It holds no
// lock between two parts. Links are followed without recursion (kernel stacks are small): the link's text is put before
// the rest of the path, 40 times at most.
//
// It counts the places where it is. What it can find in the caches without it leaves to an uncounted walk, and counts where that ends.
import Base
import Locks

/// The bytes of a path that a walk is made of, when they are not the caller's any more.
private final class PathBuffer {
  let bytes: UnsafeMutableRawBufferPointer

  init(_ first: [UInt8], _ second: PathBytes) {
    // SAFETY: freed with the object; walks that borrow from it keep it.
    bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: first.count &+ second.count, alignment: 1)
    for index in 0..<first.count { bytes[index] = first[index] }
    for index in 0..<second.count { bytes[first.count &+ index] = second[index] }
  }

  deinit { bytes.deallocate() }
}

/// How far a walk may go (openat2's RESOLVE_*).
public struct ResolveFlags: OptionSet, Sendable {
  /// Linux's bits.
  public let rawValue: UInt64
  /// Flags from Linux's bits.
  public init(rawValue: UInt64) { self.rawValue = rawValue }
  /// RESOLVE_NO_XDEV: through no mount point, in neither direction: EXDEV.
  public static var noMounts: ResolveFlags { ResolveFlags(rawValue: 1) }
  /// RESOLVE_NO_MAGICLINKS: through none of procfs' links that lead straight to a place: ELOOP.
  public static var noMagicLinks: ResolveFlags { ResolveFlags(rawValue: 2) }
  /// RESOLVE_NO_SYMLINKS: through no link at all: ELOOP.
  public static var noLinks: ResolveFlags { ResolveFlags(rawValue: 4) }
  /// RESOLVE_BENEATH: nowhere but below the base: EXDEV.
  public static var beneath: ResolveFlags { ResolveFlags(rawValue: 8) }
  /// RESOLVE_IN_ROOT: the base is the root.
  public static var inRoot: ResolveFlags { ResolveFlags(rawValue: 16) }
  /// RESOLVE_CACHED: only by names that are known: EAGAIN.
  public static var cached: ResolveFlags { ResolveFlags(rawValue: 32) }
  /// All there are.
  public static var all: ResolveFlags { ResolveFlags(rawValue: 63) }
  /// The walk must not leave its base.
  var isScoped: Bool { !isDisjoint(with: [.beneath, .inRoot]) }
}

/// What the last part of a path is.
enum LastPart {
  /// A name.
  case name
  /// ".", or nothing at all but a base (AT_EMPTY_PATH).
  case dot
  /// "..".
  case dotDot
  /// The path was "/".
  case root
}

/// A walk along a path. It stops before the last part; `finish` and the operations on names take that step.
struct PathWalk {
  static let maximumLinks = 40

  // SAFETY: whoever walks has the context, which outlives the walk.
  private unowned(unsafe) let context: FileSystemContext
  let credentials: Credentials
  private let resolve: ResolveFlags
  /// Where a relative path starts; nil: the working directory.
  private let base: Location?

  /// Where the walk is: the directory of the last part.
  private(set) var location: Location
  /// The last part: its bytes (a name), and what it is.
  private(set) var name = PathBytes("")
  private(set) var last = LastPart.dot
  /// Whether slashes follow the last part.
  private(set) var hasTrailingSlash = false

  private var path: PathBytes
  private var position = 0
  private var buffer: PathBuffer?
  private var linkCount = 0

  /// Walks `path`, from `base` if it is relative (nil: from the working directory), up to its last part. `path` and `context` must stay
  /// while the walk is used.
  /// - Throws: ENOENT, ENOTDIR, EACCES, ELOOP, ENAMETOOLONG…
  init(
    _ path: PathBytes, from base: Location?, in context: FileSystemContext, _ credentials: Credentials,
    _ resolve: ResolveFlags = []
  ) throws(Errno) {
    guard !path.isEmpty else { throw .ENOENT }
    guard path.count <= PathBytes.maximumPathByteCount else { throw .ENAMETOOLONG }
    self.context = context
    self.credentials = credentials
    self.path = path
    self.resolve = resolve
    // What a walk must not leave stays the same from its beginning to its end, wherever others of the process go meanwhile.
    self.base = resolve.isScoped ? base ?? context.workingDirectory : base
    if resolve.isEmpty {
      var walk: UncountedWalk?
      let place = RCU.read { () -> Location? in
        let ground = CachedGround(context.mounts.view, credentials)
        var uncounted = UncountedWalk(
          path, from: base?.walkPlace ?? context.uncountedWorkingDirectory, root: context.uncountedRoot)
        guard uncounted.walkToLast(ground) else { return nil }
        walk = uncounted
        return uncounted.place.kept
      }
      if let place, let walk {
        location = place
        (name, last, hasTrailingSlash) = (walk.name, walk.last, walk.hasTrailingSlash)
        return
      }
    }
    if path.isAbsolute, resolve.contains(.beneath) { throw .EXDEV }
    location = path.isAbsolute && !resolve.contains(.inRoot) ? context.root : self.base ?? context.workingDirectory
    try walkToLast()
  }

  /// Where absolute paths and links start, and what no walk leaves.
  private var root: Location { resolve.contains(.inRoot) ? start : context.root }
  /// Where the walk has started, if its path is relative or it is scoped.
  private var start: Location { base ?? context.workingDirectory }

  // MARK: Steps

  /// Goes on along `path` from `position` until only the last part is left.
  private mutating func walkToLast() throws(Errno) {
    skipSlashes()
    guard position < path.count else {
      last = .root
      return
    }
    while true {
      let start = position
      while position < path.count, path[position] != slash { position &+= 1 }
      let part = path.slice(start, position)
      let end = position
      skipSlashes()
      if part.count > PathBytes.maximumNameByteCount { throw .ENAMETOOLONG }
      if position == path.count {
        name = part
        last = part.isDot ? .dot : part.isDotDot ? .dotDot : .name
        hasTrailingSlash = end < path.count
        try checkSearch()
        return
      }
      try checkSearch()
      if part.isDot { continue }
      if part.isDotDot {
        try goUp()
        continue
      }
      let entry = try child(part)
      guard let vnode = entry.vnode else { throw .ENOENT }
      if vnode.type == .symbolicLink {
        if try follow(entry, rest: path.slice(end, path.count)) { continue }
        // The link was a path: the loop goes on at its start.
        skipSlashes()
        if position == path.count {
          last = .root
          return
        }
        continue
      }
      location = try top(of: entry)
    }
  }

  /// What is seen at an entry of the directory where the walk is.
  private func top(of entry: Dentry) throws(Errno) -> Location {
    let result = context.mounts.top(of: Location(mount: location.mount, dentry: entry))
    if resolve.contains(.noMounts), result.mount !== location.mount { throw .EXDEV }
    return result
  }

  /// A link leads to the root.
  private mutating func goToRoot() throws(Errno) {
    if resolve.contains(.beneath) { throw .EXDEV }
    let root = root
    if resolve.contains(.noMounts), root.mount !== location.mount { throw .EXDEV }
    location = root
  }

  private mutating func skipSlashes() {
    while position < path.count, path[position] == slash { position &+= 1 }
  }

  /// The right to look for names here.
  private func checkSearch() throws(Errno) {
    guard location.vnode.isDirectory else { throw .ENOTDIR }
    try location.vnode.checkAccess(.execute, credentials)
  }

  /// Goes to the directory above: never above the root of the walk, and out of mounts.
  private mutating func goUp() throws(Errno) {
    if resolve.contains(.beneath), location == start { throw .EXDEV }
    let root = root
    var place = location
    while !(place == root) {
      if !place.isMountRoot {
        guard let parent = place.mount.fileSystem.names.parent(of: place.dentry) else { break }
        place = Location(mount: place.mount, dentry: parent)
        break
      }
      guard let point = place.mount.point else { break }
      place = point
    }
    place = context.mounts.top(of: place)
    if resolve.contains(.noMounts), place.mount !== location.mount { throw .EXDEV }
    location = place
  }

  /// The entry of a name in the directory where the walk is, from the cache or the file system.
  func child(_ name: PathBytes) throws(Errno) -> Dentry {
    let parent = location.dentry
    let cache = location.mount.fileSystem.names
    if let entry = cache.find(parent, name) { return entry }
    if resolve.contains(.cached) { throw .EAGAIN }
    guard let directoryLock = location.vnode.directoryLock else { throw .ENOTDIR }
    return try directoryLock.lock.withReadLock { () throws(Errno) in
      try lookUpLocked(name, in: parent, cache)
    }
  }

  /// The same for callers that have the directory's lock.
  func childLocked(_ name: PathBytes) throws(Errno) -> Dentry {
    let parent = location.dentry
    let cache = location.mount.fileSystem.names
    if let entry = cache.find(parent, name) { return entry }
    return try lookUpLocked(name, in: parent, cache)
  }

  private func lookUpLocked(_ name: PathBytes, in parent: Dentry, _ cache: DentryCache) throws(Errno) -> Dentry {
    guard !parent.isUnlinked else { throw .ENOENT }
    return cache.enter(parent, name, try location.vnode.lookup(name))
  }

  /// Follows a symbolic link that stands in the directory where the walk is.
  /// - Returns: true if the walk is now at the place the link leads to, with `rest` still ahead; false if the path from
  ///   `position` on is now the link's text and `rest`.
  private mutating func follow(_ entry: Dentry, rest: PathBytes) throws(Errno) -> Bool {
    linkCount &+= 1
    guard linkCount <= Self.maximumLinks, !resolve.contains(.noLinks), let vnode = entry.vnode else { throw .ELOOP }
    if let place = try vnode.linkedLocation() {
      if resolve.contains(.noMagicLinks) { throw .ELOOP }
      if resolve.isScoped { throw .EXDEV }
      let target = context.mounts.top(of: place)
      if resolve.contains(.noMounts), target.mount !== location.mount { throw .EXDEV }
      location = target
      return true
    }
    let target = try vnode.readLink()
    guard !target.isEmpty else { throw .ENOENT }
    guard target.count &+ rest.count <= PathBytes.maximumPathByteCount else { throw .ENAMETOOLONG }
    let next = PathBuffer(target, rest)
    // `rest` may lie in the old buffer, which lives until here.
    path = PathBytes(UnsafeRawBufferPointer(next.bytes))
    buffer = next
    position = 0
    hasTrailingSlash = false
    if path.isAbsolute { try goToRoot() }
    return false
  }

  // MARK: The last step

  /// Follows the link `entry`, found as the last part. Returns the place if the link leads straight to one; otherwise the
  /// walk stands before another last part.
  mutating func followLast(_ entry: Dentry) throws(Errno) -> Location? {
    let slashes = hasTrailingSlash
    let rest = slashes ? PathBytes("/") : PathBytes("")
    if try follow(entry, rest: rest) { return location }
    try walkToLast()
    return nil
  }

  /// The place of the whole path, which must be there.
  /// - Parameter followsLink: whether a symbolic link at the end is followed; one before slashes always is.
  mutating func finish(followsLink: Bool) throws(Errno) -> Location {
    while true {
      switch last {
      case .root, .dot: return location
      case .dotDot:
        try goUp()
        return location
      case .name: break
      }
      let entry = try child(name)
      guard let vnode = entry.vnode else { throw .ENOENT }
      if vnode.type == .symbolicLink, followsLink || hasTrailingSlash {
        let slashes = hasTrailingSlash
        guard let place = try followLast(entry) else { continue }
        if slashes, !place.vnode.isDirectory { throw .ENOTDIR }
        return place
      }
      let place = try top(of: entry)
      if hasTrailingSlash, !place.vnode.isDirectory { throw .ENOTDIR }
      return place
    }
  }
}
