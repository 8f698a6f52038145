// What a walk that counts nothing decides by itself, and what it leaves to the counted one.
import Base
import Testing

@testable import Files

/// A directory with whatever is asked for: "d…" are directories, "l…" links, "f…" files, all else is not there.
private final class Invented: Vnode {
  var mode: UInt32 = 0o755

  override func getAttributes() throws(Errno) -> StatInformation {
    var result = StatInformation()
    result.mode = mode | type.modeBits
    return result
  }

  override func glanceRights(_ rights: AccessRights, _ credentials: Credentials) -> WalkAnswer {
    credentials.allows(rights, mode: mode, userID: 0, groupID: 0) ? .yes : .no
  }

  override func readLink() throws(Errno) -> [UInt8] { Array("d".utf8) }

  override func lookup(_ name: PathBytes) throws(Errno) -> LookupResult {
    let type: FileType
    switch name[0] {
    case UInt8(ascii: "d"): type = .directory
    case UInt8(ascii: "l"): type = .symbolicLink
    case UInt8(ascii: "f"): type = .regular
    default: return LookupResult(nil)
    }
    return LookupResult(Invented(fileSystem: fileSystem, inode: inode &* 31 &+ name.hash, type: type))
  }
}

@Suite struct UncountedWalkTests {
  private let context: FileSystemContext

  init() {
    let fileSystem = FileSystem(kind: "invented", magic: 0)
    fileSystem.setRoot(Invented(fileSystem: fileSystem, inode: 1, type: .directory))
    context = FileSystemContext(mounts: MountTable(root: fileSystem))
  }

  private func find(_ path: StaticString, _ flags: AtFlags = []) throws -> Location {
    try context.find(PathBytes(path), from: nil, flags: flags, Credentials())
  }

  /// What the walk comes to; where it arrives it must be where the counted one does.
  private func glance(
    _ path: StaticString, follows: Bool = true, _ credentials: Credentials = Credentials()
  ) -> UncountedWalk.End {
    var place: WalkPlace?
    let end = context.glance(PathBytes(path), from: nil, followsLink: follows, credentials) {
      place = $0
      return true
    }
    if let place {
      let counted = try? context.find(PathBytes(path), from: nil, flags: follows ? [] : .noFollow, Credentials())
      #expect(counted?.walkPlace == place)
    }
    return end
  }

  @Test func knownNamesAreFound() throws {
    #expect(glance("/d/d/f") == .unknown)
    _ = try find("/d/d/f")
    for path: StaticString in [
      "/d/d/f", "d/d/f", "//d/./d//f", "/d/d/../d/f", "/../d", "/", ".", "..", "/d/", "/d/d/..",
    ] {
      #expect(glance(path) == .arrived, "\(path)")
    }
    #expect(glance("/d/f") == .unknown)
    #expect(throws: Errno.ENOENT) { try find("/d/none") }
    #expect(glance("/d/none") == .absent && glance("/d/none/") == .absent)
    // In the middle it may be another error.
    #expect(glance("/d/none/f") == .unknown)
  }

  @Test func whatIsNotDecidedByLoadsIsLeftAlone() throws {
    for path: StaticString in ["/d/l", "/d/f"] { _ = try find(path, .noFollow) }
    #expect(glance("/d/l") == .unknown && glance("/d/l", follows: false) == .arrived)
    #expect(glance("/d/l/", follows: false) == .unknown && glance("/d/l/f") == .unknown)
    #expect(glance("/d/f/") == .unknown && glance("/d/f/f") == .unknown && glance("/d/f/..") == .unknown)
    #expect(glance("") == .unknown)
    let long = [UInt8](repeating: UInt8(ascii: "d"), count: 256)
    long.withPath { path in
      let end = context.glance(path, from: nil, followsLink: true, Credentials()) { _ in true }
      #expect(end == .unknown)
    }
  }

  @Test func rightsAreLookedAt() throws {
    _ = try find("/d/d/f")
    let stranger = Credentials(userID: 5, groupID: 5)
    #expect(glance("/d/d/f", stranger) == .arrived)
    let directory = try find("/d/d").vnode as! Invented
    directory.mode = 0o700
    #expect(glance("/d/d/f", stranger) == .unknown && glance("/d/d/..", stranger) == .unknown)
    #expect(glance("/d/d/f") == .arrived && glance("/d/d", stranger) == .arrived)
  }

  @Test func mountsAreEnteredAndLeft() throws {
    let other = FileSystem(kind: "invented", magic: 0)
    other.setRoot(Invented(fileSystem: other, inode: 1, type: .directory))
    let below = try find("/d/f")
    try context.mounts.mount(other, on: try find("/d"))
    #expect(glance("/d/f") == .unknown)
    #expect(try find("/d/f").mount.fileSystem === other)
    #expect(glance("/d/f") == .arrived && glance("/d/..") == .arrived && glance("/d/../d/f") == .arrived)
    try context.mounts.unmount(try find("/d"))
    #expect(glance("/d/f") == .arrived)
    #expect(try find("/d/f") == below)
  }

  @Test func rootsAreNotLeft() throws {
    _ = try find("/d/d/f")
    try context.changeRoot(to: try find("/d"), Credentials())
    #expect(glance("/../d/f") == .arrived && glance("/d/../../d/f") == .arrived)
    #expect(try find("/..") == find("/"))
    // The working directory is still above it.
    #expect(glance("d/d/f") == .arrived)
  }

  /// An entry that somebody keeps while it is renamed and forgotten: all that it had goes once, and its names are found.
  @Test func namesOfEntriesThatLeftTheirTable() throws {
    let cache = context.root.mount.fileSystem.names
    for round in 0..<200 {
      let entry = try find("/d/f").dentry
      let directory = try find("/d").dentry
      if round & 1 == 0 { cache.forget(entry) }
      for name: StaticString in ["other", "another"] {
        cache.move(entry, to: try find("/d2").dentry, PathBytes(name))
        #expect(entry.name == Array("\(name)".utf8))
      }
      cache.forget(entry)
      cache.move(entry, to: directory, PathBytes("f"))
      #expect(cache.parent(of: entry) === directory)
    }
    #expect(glance("/d2/other") != .arrived)
  }
}
