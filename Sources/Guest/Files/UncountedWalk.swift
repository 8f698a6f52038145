// UncountedWalk: a walk along a path that counts nothing: a reader under RCU goes from entry to entry by their addresses.
//
// It knows names that are cached, directories that may be searched, mounts and "..": all that can be decided by loads. Whatever else
// comes (a name that is not known or not believed any more, a link, attributes to be asked for, a mount that is not in the view yet)
// ends it with `unknown`, and the counted walk (PathWalk) starts at the beginning.
//
// Why it comes to what a counted walk might have come to. Each of its steps looks at something that is true at a moment of
// that step, and the steps come one after the other, as a counted walk's do:
//  * child: the record was in the table at a moment of the find (NameTable). The entry it names never changes what it names.
//  * "..": a record has directory and name of one moment, and is the entry's own at the moment when it is loaded.
//  * the right to search: mode, owner and group of one moment (SequenceCount).
//  * mounts: the view is that of the moment when it was loaded. A mount that has been made since has marked its point before
//    it was published; a walk that finds the mark and no mount does not go on.
// What it reaches stays allocated: see Dentry, MountView and FileSystemContext for who counts it until the readers are gone. Its end is
// used within the same section: attributes are read there, or the place is counted and then must not be leaving (DentryCache).
//
// The loop is generic over the ground it goes on, so that the tests run it over a small tree whose every access is a step of the model
// checker.
import Base
import Locks

/// What a step may find at an entry.
enum WalkKind {
  /// No file has the name.
  case absent
  /// A directory.
  case directory
  /// A symbolic link.
  case link
  /// A file of another type.
  case other
}

/// An answer that may not be had without waiting.
public enum WalkAnswer {
  /// Yes.
  case yes
  /// No.
  case no
  /// It has to be asked for.
  case unknown
}

/// What a walk goes on. Entries and mounts are addresses; 0 is none.
protocol WalkGround: ~Copyable {
  /// The table of names of the file system that is mounted.
  borrowing func names(of mount: UInt) -> UInt
  /// The entry of a name in a directory, by the table; 0 if it is not known or not believed.
  borrowing func child(_ name: PathBytes, in directory: UInt, _ names: UInt) -> UInt
  /// The directory that an entry lies in; 0 if it is a root.
  borrowing func directory(of entry: UInt) -> UInt
  /// What is at an entry.
  borrowing func kind(of entry: UInt) -> WalkKind
  /// Whether names may be looked for in a directory.
  borrowing func maySearch(_ entry: UInt) -> WalkAnswer
  /// Whether something is mounted on an entry, in whatever mount.
  borrowing func isPoint(_ entry: UInt) -> Bool
  /// The root of the mount on a place.
  borrowing func mounted(on place: WalkPlace) -> WalkPlace?
  /// Where a mount lies.
  borrowing func point(of mount: UInt) -> WalkPlace?
  /// The entry that a mount shows first.
  borrowing func root(of mount: UInt) -> UInt
}

/// How far a walk has come.
struct UncountedWalk {
  /// What a walk came to.
  enum End {
    /// It is where it was to go.
    case arrived
    /// The name at the end is known not to be there: ENOENT.
    case absent
    /// Only a counted walk can tell.
    case unknown
  }

  private let path: PathBytes
  private let root: WalkPlace
  /// Where it is: before `finish` the directory of the last part.
  private(set) var place: WalkPlace
  /// The table of names of the mount where it is.
  private var names: UInt = 0
  private var position = 0
  /// The last part, once it has come there.
  private(set) var name = PathBytes("")
  private(set) var last = LastPart.dot
  private(set) var hasTrailingSlash = false

  /// A walk that stands at its start.
  @inline(__always) init(_ path: PathBytes, from base: WalkPlace, root: WalkPlace) {
    self.path = path
    self.root = root
    place = path.isAbsolute ? root : base
  }

  @inline(__always) private mutating func skipSlashes() {
    while position < path.count, path[position] == slash { position &+= 1 }
  }

  /// Goes to the directory of the last part.
  @inline(__always) mutating func walkToLast<Ground: WalkGround & ~Copyable>(_ ground: borrowing Ground) -> Bool {
    guard path.count > 0, path.count <= PathBytes.maximumPathByteCount else { return false }
    skipSlashes()
    guard position < path.count else {
      last = .root
      return true
    }
    names = ground.names(of: place.mount)
    while true {
      let start = position
      while position < path.count, path[position] != slash { position &+= 1 }
      let end = position
      let part = path.slice(start, end)
      guard part.count <= PathBytes.maximumNameByteCount else { return false }
      skipSlashes()
      guard case .directory = ground.kind(of: place.entry), case .yes = ground.maySearch(place.entry) else {
        return false
      }
      if position == path.count {
        name = part
        last = part.isDot ? .dot : part.isDotDot ? .dotDot : .name
        hasTrailingSlash = end < path.count
        return true
      }
      if part.isDot { continue }
      if part.isDotDot {
        guard goUp(ground) else { return false }
        continue
      }
      let entry = ground.child(part, in: place.entry, names)
      guard entry != 0, case .directory = ground.kind(of: entry), goTo(entry, ground) else { return false }
    }
  }

  /// Takes the last step.
  /// - Parameter followsLink: whether a symbolic link at the end would be followed.
  @inline(__always) mutating func finish<Ground: WalkGround & ~Copyable>(
    _ ground: borrowing Ground, followsLink: Bool
  ) -> End {
    switch last {
    case .root, .dot: return .arrived
    case .dotDot: return goUp(ground) ? .arrived : .unknown
    case .name: break
    }
    let entry = ground.child(name, in: place.entry, names)
    guard entry != 0 else { return .unknown }
    switch ground.kind(of: entry) {
    case .absent: return .absent
    case .directory: break
    case .link: if followsLink || hasTrailingSlash { return .unknown }
    case .other: if hasTrailingSlash { return .unknown }
    }
    return goTo(entry, ground) ? .arrived : .unknown
  }

  /// Goes to an entry of the directory where it is, or to what is mounted there.
  @inline(__always) private mutating func goTo<Ground: WalkGround & ~Copyable>(
    _ entry: UInt, _ ground: borrowing Ground
  ) -> Bool {
    place.entry = entry
    return !ground.isPoint(entry) || goToTop(ground)
  }

  /// Goes to the top of the mounts on the place where it is. The mark of the place says that there may be one, perhaps in another mount.
  @inline(never) private mutating func goToTop<Ground: WalkGround & ~Copyable>(_ ground: borrowing Ground) -> Bool {
    guard var top = ground.mounted(on: place) else { return false }
    while let above = ground.mounted(on: top) { top = above }
    place = top
    names = ground.names(of: top.mount)
    return true
  }

  /// Goes to the directory above: never above the root of the walk, and out of mounts.
  @inline(never) private mutating func goUp<Ground: WalkGround & ~Copyable>(_ ground: borrowing Ground) -> Bool {
    while place != root {
      if place.entry != ground.root(of: place.mount) {
        let directory = ground.directory(of: place.entry)
        guard directory != 0 else { return false }
        place.entry = directory
        return !ground.isPoint(directory) || goToTop(ground)
      }
      guard let point = ground.point(of: place.mount) else { return false }
      place = point
      names = ground.names(of: point.mount)
    }
    return !ground.isPoint(place.entry) || goToTop(ground)
  }
}
