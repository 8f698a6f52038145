// Names: links, removal and renaming as POSIX has them, listings that go on while the directory changes.
import Base
import Files
import RamFS
import Testing

@Suite struct NamesTests {
  @Test func links() throws {
    let tree = Tree()
    #expect(tree.write("/a", "text") == nil)
    #expect(tree.mkdir("/d") == nil)
    #expect(tree.link("/a", "/d/b") == nil)
    #expect(try tree.stat("/a").linkCount == 2)
    #expect(try tree.stat("/a").inode == tree.stat("/d/b").inode)
    #expect(tree.link("/a", "/d") == .EEXIST)
    #expect(tree.link("/d", "/e") == .EPERM)
    #expect(tree.link("/none", "/e") == .ENOENT)
    #expect(tree.symlink("a", "/s") == nil)
    #expect(tree.link("/s", "/t") == nil)
    #expect(try tree.readLink("/t") == "a")
    #expect(tree.link("/s", "/u", .follow) == nil)
    #expect(try tree.stat("/a").linkCount == 3)
    #expect(tree.unlink("/a") == nil)
    #expect(try tree.read("/d/b") == "text")
    #expect(try tree.stat("/d/b").linkCount == 2)
  }

  @Test func removal() throws {
    let tree = Tree()
    #expect(tree.mkdir("/d") == nil)
    #expect(tree.mkdir("/d/e") == nil)
    #expect(tree.write("/f", "") == nil)
    #expect(tree.symlink("d", "/l") == nil)
    #expect(try tree.stat("/d").linkCount == 3)
    #expect(tree.rmdir("/d") == .ENOTEMPTY)
    #expect(tree.rmdir("/f") == .ENOTDIR)
    #expect(tree.rmdir("/l") == .ENOTDIR)
    #expect(tree.rmdir("/d/e/.") == .EINVAL)
    #expect(tree.rmdir("/d/e/..") == .ENOTEMPTY)
    #expect(tree.rmdir("/") == .EBUSY)
    #expect(tree.rmdir("/none") == .ENOENT)
    #expect(tree.unlink("/d") == .EISDIR)
    #expect(tree.unlink("/d/.") == .EISDIR)
    #expect(tree.unlink("/f/") == .ENOTDIR)
    #expect(tree.unlink("/none") == .ENOENT)
    #expect(tree.rmdir("/d/e/") == nil)
    #expect(try tree.stat("/d").linkCount == 2)
    #expect(tree.rmdir("/d") == nil)
    #expect(tree.unlink("/l") == nil)
    #expect(tree.unlink("/f") == nil)
    #expect(try tree.list("/") == [])
  }

  @Test func openFilesOutliveTheirNames() throws {
    let tree = Tree()
    #expect(tree.write("/f", "still here") == nil)
    let file = try tree.open("/f", .readWrite)
    #expect(tree.unlink("/f") == nil)
    #expect(tree.statFailure("/f") == .ENOENT)
    #expect(try file.readAll() == Array("still here".utf8))
    #expect(try file.getAttributes().linkCount == 0)
    #expect(file.location.path(from: nil) == Array("/f (deleted)".utf8))
    #expect(tree.write("/f", "another") == nil)
    #expect(try file.read(5, at: 0) == Array("still".utf8))
  }

  @Test func renaming() throws {
    let tree = Tree()
    for name in ["/d", "/d/sub", "/e", "/full"] { #expect(tree.mkdir(name) == nil) }
    for name in ["/f", "/g", "/full/x"] { #expect(tree.write(name, name) == nil) }
    #expect(tree.rename("/f", "/h") == nil)
    #expect(tree.statFailure("/f") == .ENOENT)
    #expect(tree.rename("/h", "/g") == nil)
    #expect(try tree.read("/g") == "/f")
    #expect(tree.rename("/g", "/d") == .EISDIR)
    #expect(tree.rename("/d", "/g") == .ENOTDIR)
    #expect(tree.rename("/d", "/full") == .ENOTEMPTY)
    #expect(tree.rename("/d", "/d/sub/x") == .EINVAL)
    #expect(tree.rename("/d", "/d/sub") == .EINVAL)
    #expect(tree.rename("/d/sub", "/d") == .ENOTEMPTY)
    #expect(tree.rename("/d/.", "/x") == .EBUSY)
    #expect(tree.rename("/d", "/x/..") == .ENOENT)
    #expect(tree.rename("/d", "/e/..") == .EBUSY)
    #expect(tree.rename("/none", "/x") == .ENOENT)
    #expect(tree.rename("/g", "/x/") == .ENOTDIR)
    #expect(tree.rename("/g/", "/x") == .ENOTDIR)
    #expect(tree.rename("/d", "/e/") == nil)
    #expect(try tree.list("/e") == ["sub"])
    #expect(tree.rename("/e/sub", "/full/sub") == nil)
    #expect(try tree.stat("/e").linkCount == 2)
    #expect(try tree.stat("/full").linkCount == 3)
    #expect(try tree.path(of: "/full/sub/..") == "/full")
    // The same file by two names: nothing happens.
    #expect(tree.link("/g", "/g2") == nil)
    #expect(tree.rename("/g", "/g2") == nil)
    #expect(try tree.list("/") == ["e", "full", "g", "g2"])
    #expect(tree.rename("/g", "/g") == nil)
  }

  @Test func renamingWithFlags() throws {
    let tree = Tree()
    #expect(tree.mkdir("/d") == nil)
    #expect(tree.mkdir("/d/e") == nil)
    #expect(tree.write("/f", "f") == nil)
    #expect(tree.rename("/f", "/d", .noReplace) == .EEXIST)
    #expect(tree.rename("/f", "/d/f", .noReplace) == nil)
    #expect(tree.rename("/d/f", "/none", .exchange) == .ENOENT)
    #expect(tree.rename("/d", "/d/f", .exchange) == .EINVAL)
    #expect(tree.rename("/d/f", "/d", .exchange) == .EINVAL)
    #expect(tree.rename("/d/f", "/d/e", [.exchange, .noReplace]) == .EINVAL)
    #expect(tree.write("/g", "g") == nil)
    #expect(tree.rename("/g", "/d/e", .exchange) == nil)
    #expect(try tree.read("/d/e") == "g")
    #expect(try tree.stat("/g").type == .directory)
    #expect(try tree.stat("/d").linkCount == 2)
    #expect(try tree.path(of: "/g/..") == "/")
  }

  @Test func openDirectoriesMoveWithTheirNames() throws {
    let tree = Tree()
    #expect(tree.mkdir("/a") == nil)
    #expect(tree.mkdir("/a/b") == nil)
    #expect(tree.chdir("/a/b") == nil)
    #expect(tree.rename("/a", "/c") == nil)
    #expect(try tree.pwd() == "/c/b")
    #expect(try tree.path(of: "..") == "/c")
  }

  @Test func listingWhileNamesComeAndGo() throws {
    let tree = Tree()
    #expect(tree.mkdir("/d") == nil)
    for index in 0..<300 { #expect(tree.write("/d/keep\(index)", "") == nil) }
    for index in 0..<300 { #expect(tree.write("/d/drop\(index)", "") == nil) }
    let directory = try tree.open("/d", .directory)
    var seen: [String] = []
    var round = 0
    while let names = try directory.listSome(256) {
      seen += names
      for index in 0..<5 where round * 5 + index < 300 {
        _ = tree.unlink("/d/drop\(round * 5 + index)")
        _ = tree.write("/d/new\(round * 5 + index)", "")
      }
      round += 1
    }
    for index in 0..<300 { #expect(seen.filter { $0 == "keep\(index)" }.count == 1) }
    #expect(Set(seen).count == seen.count)
    _ = try directory.seek(0, from: .start)
    #expect(try directory.list().prefix(2) == [".", ".."])
    #expect(tree.openFailure("/d", .directory) == nil)
    #expect(throws: Errno.EINVAL) { _ = try tree.open("/d").listSome(16) }
    #expect(throws: Errno.ENOTDIR) { _ = try tree.open("/d/keep0").list() }
  }

  @Test func modesOfNewFiles() throws {
    let tree = Tree()
    tree.context.umask = 0o027
    #expect(tree.mkdir("/d", mode: 0o777) == nil)
    #expect(try tree.stat("/d").mode == 0o40750)
    try tree.context.changeOwner(try tree.find("/d"), userID: nil, groupID: 5, tree.credentials)
    try tree.context.changeMode(try tree.find("/d"), 0o2777, tree.credentials)
    #expect(tree.write("/d/f", "") == nil)
    #expect(tree.mkdir("/d/e") == nil)
    #expect(try tree.stat("/d/f").groupID == 5)
    #expect(try tree.stat("/d/e").mode & 0o7000 == 0o2000)
    // A file may be made read-only and written by who made it.
    let file = try tree.open("/d/ro", [.create, .readWrite], mode: 0o400)
    #expect(try file.write(bytes: [1]) == 1)
    try tree.context.changeMode(try tree.find("/d/ro"), 0o4755, tree.credentials)
    try tree.context.changeOwner(try tree.find("/d/ro"), userID: 9, groupID: nil, tree.credentials)
    #expect(try tree.stat("/d/ro").mode & 0o7777 == 0o755)
  }
}
