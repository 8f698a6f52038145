// Path walks: tables of paths and what they lead to.
import Base
import Files
import RamFS
import Testing

@Suite struct PathWalkTests {
  /// /a/b/file, /a/link -> b, /a/up -> .., /a/abs -> /a/b, /loop -> loop, /dangling -> nothing, /file
  func tree() -> Tree {
    let tree = Tree()
    #expect(tree.mkdir("/a") == nil)
    #expect(tree.mkdir("/a/b") == nil)
    #expect(tree.write("/a/b/file", "inner") == nil)
    #expect(tree.write("/file", "outer") == nil)
    #expect(tree.symlink("b", "/a/link") == nil)
    #expect(tree.symlink("..", "/a/up") == nil)
    #expect(tree.symlink("/a/b", "/a/abs") == nil)
    #expect(tree.symlink("loop", "/loop") == nil)
    #expect(tree.symlink("nothing", "/dangling") == nil)
    #expect(tree.symlink("file/", "/slashed") == nil)
    #expect(tree.symlink("a/link/file", "/deep") == nil)
    return tree
  }

  @Test func found() throws {
    let tree = tree()
    let table: [(String, String)] = [
      ("/", "/"), ("//", "/"), ("/.", "/"), ("/..", "/"), ("/../../..", "/"), ("/a", "/a"), ("/a/", "/a"),
      ("//a///b//", "/a/b"), ("/a/./b/.", "/a/b"), ("/a/b/..", "/a"), ("/a/b/../..", "/"), ("/a/link", "/a/b"),
      ("/a/link/file", "/a/b/file"), ("/a/link/..", "/a"), ("/a/up", "/"), ("/a/up/a/up/a/b", "/a/b"),
      ("/a/abs/file", "/a/b/file"), ("/deep", "/a/b/file"), ("a/b/file", "/a/b/file"), (".", "/"), ("..", "/"),
      ("./a/../file", "/file"),
    ]
    for (path, place) in table { #expect(try tree.path(of: path) == place, "\(path)") }
    #expect(tree.chdir("/a/link") == nil)
    #expect(try tree.pwd() == "/a/b")
    #expect(try tree.path(of: "..") == "/a")
    #expect(try tree.path(of: "file") == "/a/b/file")
  }

  @Test func failures() {
    let tree = tree()
    let table: [(String, Errno)] = [
      ("", .ENOENT), ("/nothing", .ENOENT), ("/nothing/x", .ENOENT), ("/file/", .ENOTDIR), ("/file/x", .ENOTDIR),
      ("/file/.", .ENOTDIR), ("/file/..", .ENOTDIR), ("/loop", .ELOOP), ("/loop/x", .ELOOP), ("/dangling", .ENOENT),
      ("/slashed", .ENOTDIR), ("/" + String(repeating: "n", count: 256), .ENAMETOOLONG),
      (String(repeating: "a/", count: 2048), .ENAMETOOLONG), ("/a/" + String(repeating: "n", count: 255), .ENOENT),
      ("/deep/", .ENOTDIR),
    ]
    for (path, error) in table { #expect(tree.statFailure(path) == error, "\(path)") }
  }

  @Test func withoutFollowing() throws {
    let tree = tree()
    #expect(try tree.stat("/a/link", .noFollow).type == .symbolicLink)
    #expect(try tree.stat("/a/link/", .noFollow).type == .directory)
    #expect(try tree.stat("/loop", .noFollow).type == .symbolicLink)
    #expect(tree.statFailure("/loop/", .noFollow) == .ELOOP)
    #expect(try tree.readLink("/a/abs") == "/a/b")
    #expect(tree.failure { () throws(Errno) in _ = try tree.readLink("/file") } == .EINVAL)
    #expect(tree.openFailure("/a/link", .noFollow) == .ELOOP)
    #expect(try tree.open("/a/link", [.noFollow, .pathOnly]).vnode.type == .symbolicLink)
    #expect(tree.openFailure("/file", .directory) == .ENOTDIR)
  }

  @Test func fortyLinksAreFollowedAndNoMore() throws {
    let tree = tree()
    #expect(tree.symlink("/file", "/l0") == nil)
    for index in 1...40 { #expect(tree.symlink("l\(index - 1)", "/l\(index)") == nil) }
    #expect(try tree.read("/l39") == "outer")
    #expect(tree.statFailure("/l40") == .ELOOP)
  }

  @Test func emptyPath() throws {
    let tree = tree()
    #expect(tree.statFailure("") == .ENOENT)
    #expect(try tree.stat("", .emptyPath).type == .directory)
  }

  @Test func creating() throws {
    let tree = tree()
    #expect(tree.openFailure("/new/", [.create, .readWrite]) == .EISDIR)
    #expect(tree.openFailure("/a", [.create, .readWrite]) == .EISDIR)
    #expect(tree.openFailure("/a", .create) == .EISDIR)
    #expect(tree.openFailure("/a", .readWrite) == .EISDIR)
    #expect(tree.openFailure("/.", .create) == .EISDIR)
    #expect(tree.openFailure("/file", [.create, .exclusive]) == .EEXIST)
    #expect(tree.openFailure("/dangling", [.create, .exclusive]) == .EEXIST)
    #expect(tree.write("/dangling", "through", .create) == nil)
    #expect(try tree.read("/nothing") == "through")
    #expect(tree.mkdir("/a") == .EEXIST)
    #expect(tree.mkdir("/d/") == nil)
    #expect(tree.mkdir("/") == .EEXIST)
    #expect(tree.mkdir("/a/.") == .EEXIST)
    #expect(tree.mkdir("/no/way") == .ENOENT)
    #expect(tree.mkdir("/file/x") == .ENOTDIR)
    #expect(tree.symlink("x", "/y/") == .ENOENT)
    #expect(tree.symlink("", "/y") == .ENOENT)
  }

  @Test func mounts() throws {
    let tree = tree()
    let inner = RamFileSystem()
    let mount = try tree.context.mounts.mount(inner, on: try tree.find("/a/b"))
    #expect(try tree.list("/a/b") == [])
    #expect(tree.write("/a/b/mine", "m") == nil)
    #expect(try tree.path(of: "/a/link/mine") == "/a/b/mine")
    #expect(try tree.path(of: "/a/b/..") == "/a")
    #expect(try tree.path(of: "/a/b/../../file") == "/file")
    #expect(try tree.stat("/a/b").device == inner.device)
    #expect(tree.rename("/a/b/mine", "/mine") == .EXDEV)
    #expect(tree.link("/a/b/mine", "/mine") == .EXDEV)
    #expect(tree.rmdir("/a/b") == .EBUSY)
    #expect(tree.rename("/a/b", "/c") == .EBUSY)
    // A second one on top, seen instead of the first.
    let top = try tree.context.mounts.mount(RamFileSystem(), on: try tree.find("/a/b"), flags: .readOnly)
    #expect(top.point?.mount === mount)
    #expect(try tree.list("/a/b") == [])
    #expect(try tree.path(of: "/a/b/..") == "/a")
    #expect(tree.write("/a/b/x", "") == .EROFS)
    #expect(tree.mkdir("/a/b/x") == .EROFS)
    #expect(throws: Errno.EBUSY) { try tree.context.mounts.unmount(mount.rootLocation) }
    try tree.context.mounts.unmount(try tree.find("/a/b"))
    #expect(try tree.list("/a/b") == ["mine"])
    try tree.context.mounts.unmount(try tree.find("/a/b"))
    #expect(try tree.list("/a/b") == ["file"])
    #expect(throws: Errno.EINVAL) { try tree.context.mounts.unmount(try tree.find("/a/b")) }
    #expect(throws: Errno.EBUSY) { try tree.context.mounts.unmount(try tree.find("/")) }
  }

  @Test func changedRoot() throws {
    let tree = tree()
    #expect(tree.symlink("/file", "/a/outside") == nil)
    try tree.context.changeRoot(to: try tree.find("/a"), tree.credentials)
    #expect(tree.chdir("/") == nil)
    #expect(try tree.path(of: "..") == "/")
    #expect(try tree.path(of: "/../../b/file") == "/b/file")
    #expect(tree.statFailure("/outside") == .ENOENT)
    #expect(try tree.pwd() == "/")
  }

  @Test func removedWorkingDirectory() throws {
    let tree = tree()
    #expect(tree.mkdir("/gone") == nil)
    #expect(tree.chdir("/gone") == nil)
    #expect(tree.rmdir("/gone") == nil)
    #expect(tree.failure { () throws(Errno) in _ = try tree.pwd() } == .ENOENT)
    #expect(tree.write("x", "") == .ENOENT)
    #expect(tree.mkdir("x") == .ENOENT)
    #expect(try tree.path(of: "..") == "/")
    #expect(tree.here.path(from: nil) == Array("/gone (deleted)".utf8))
  }

  @Test func rights() throws {
    let tree = tree()
    #expect(tree.mkdir("/private", mode: 0o700) == nil)
    #expect(tree.mkdir("/shared", mode: 0o1777) == nil)
    #expect(tree.write("/private/file", "x") == nil)
    #expect(tree.write("/shared/roots", "x") == nil)
    tree.credentials = Credentials(userID: 1000, groupID: 1000, groups: [7])
    #expect(tree.statFailure("/private/file") == .EACCES)
    #expect(tree.openFailure("/private") == .EACCES)
    #expect(tree.mkdir("/mine") == .EACCES)
    #expect(tree.openFailure("/file", .readWrite) == .EACCES)
    #expect(try tree.read("/file") == "outer")
    #expect(tree.write("/shared/mine", "x") == nil)
    #expect(try tree.stat("/shared/mine").userID == 1000)
    #expect(tree.unlink("/shared/roots") == .EPERM)
    #expect(tree.rename("/shared/mine", "/shared/roots") == .EPERM)
    #expect(tree.rename("/shared/mine", "/shared/yours") == nil)
    let place = try tree.find("/shared/yours")
    try tree.context.changeMode(place, 0o2640, tree.credentials)
    try tree.context.changeOwner(place, userID: nil, groupID: 7, tree.credentials)
    #expect(try tree.stat("/shared/yours").groupID == 7)
    #expect(throws: Errno.EPERM) { try tree.context.changeOwner(place, userID: 0, groupID: nil, tree.credentials) }
    #expect(throws: Errno.EPERM) { try tree.context.changeOwner(place, userID: nil, groupID: 8, tree.credentials) }
    #expect(throws: Errno.EPERM) { try tree.context.changeMode(try tree.find("/file"), 0o777, tree.credentials) }
    #expect(throws: Errno.EACCES) {
      try tree.context.checkAccess(PathBytes("/file"), from: tree.here, .write, tree.credentials)
    }
    #expect(throws: Errno.EPERM) {
      try tree.context.changeTimes(
        try tree.find("/file"), access: .to(FileTime(seconds: 1)), modification: .now, tree.credentials)
    }
    #expect(tree.openFailure("/file", .noAccessTime) == .EPERM)
  }
}
