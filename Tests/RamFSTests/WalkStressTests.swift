// Walks that count nothing against everything that changes what they walk on, with real threads: what always has a name is always
// found, what is found is one of the files that ever had the name, and rights and mounts are those of one moment.
import Base
import Files
import ModelChecker
import RamFS
import Testing

/// A tree, those who change it, and those who walk in it until the changers are done.
private final class Contention: @unchecked Sendable {
  private let tree: Tree
  private let changes: [(Tree, Int) -> Bool]
  private let walk: (Tree) -> Bool
  private let rounds: Int
  private let changing: Atomic<Int>
  /// How often somebody found something that cannot be.
  let wrong = Atomic<Int>(0)
  let walks = Atomic<Int>(0)

  init(_ tree: Tree, rounds: Int, changes: [(Tree, Int) -> Bool], walk: @escaping (Tree) -> Bool) {
    self.tree = tree
    self.changes = changes
    self.walk = walk
    self.rounds = rounds
    changing = Atomic(changes.count)
  }

  private func work(_ number: Int) {
    if number < changes.count {
      for round in 0..<rounds where !changes[number](tree, round) { wrong.add(1, ordering: .relaxed) }
      changing.subtract(1, ordering: .releasing)
    } else {
      repeat {
        if !walk(tree) { wrong.add(1, ordering: .relaxed) }
        walks.add(1, ordering: .relaxed)
      } while changing.load(ordering: .acquiring) > 0
    }
  }

  func run() {
    HostThreads.run(changes.count + 2) { self.work($0) }
  }
}

@Suite(.serialized, .timeLimit(.minutes(15))) struct WalkStressTests {
  private func contend(
    _ tree: Tree, rounds: Int = 3000, _ changes: [(Tree, Int) -> Bool], walk: @escaping (Tree) -> Bool
  ) {
    let contention = Contention(tree, rounds: rounds, changes: changes, walk: walk)
    contention.run()
    let (wrong, walks) = (contention.wrong.load(ordering: .relaxed), contention.walks.load(ordering: .relaxed))
    #expect(wrong == 0)
    #expect(walks > 0)
  }

  private func inode(_ tree: Tree, _ path: String) -> UInt64? { try? tree.stat(path).inode }

  /// Whoever forgets names that nobody uses, all the time.
  private func forget(_ tree: Tree, _ round: Int) -> Bool {
    _ = tree.here.mount.fileSystem.shrink(.max)
    return true
  }

  @Test func whatIsExchangedIsAlwaysThere() {
    let tree = Tree()
    #expect(tree.mkdir("/s") == nil && tree.mkdir("/s/a") == nil && tree.mkdir("/s/b") == nil)
    #expect(tree.write("/s/a/f", "1") == nil && tree.write("/s/b/f", "22") == nil)
    let (one, two) = (inode(tree, "/s/a/f"), inode(tree, "/s/b/f"))
    contend(tree, [{ tree, _ in tree.rename("/s/a", "/s/b", .exchange) == nil }, forget]) { tree in
      guard let found = try? tree.stat("/s/a/f"), let other = try? tree.stat("/s/b/../b/f") else { return false }
      let isRight = { (status: StatInformation) in
        (status.inode == one && status.byteCount == 1) || (status.inode == two && status.byteCount == 2)
      }
      return isRight(found) && isRight(other)
    }
  }

  @Test func whatIsReplacedIsAlwaysThere() {
    let tree = Tree()
    #expect(tree.write("/name", "old") == nil)
    contend(
      tree, [{ tree, _ in tree.write("/next", "new") == nil && tree.rename("/next", "/name") == nil }, forget]
    ) { tree in
      guard let file = try? tree.open("/name"), let text = try? file.readAll() else { return false }
      return text.count == 3 && tree.statFailure("/none") == .ENOENT
    }
  }

  @Test func aDirectoryThatMovesTakesItsFilesAlong() {
    let tree = Tree()
    for name in ["/m", "/m/one", "/m/one/deep", "/n"] { #expect(tree.mkdir(name) == nil) }
    #expect(tree.write("/m/one/deep/file", "text") == nil)
    let file = inode(tree, "/m/one/deep/file")
    nonisolated(unsafe) let deep = try! tree.find("/m/one/deep")
    contend(
      tree,
      [
        { tree, round in
          round & 1 == 0 ? tree.rename("/m/one", "/n/two") == nil : tree.rename("/n/two", "/m/one") == nil
        }, forget,
      ]
    ) { [self] tree in
      for path in ["/m/one/deep/file", "/n/two/deep/../deep/file"] {
        if let found = inode(tree, path), found != file { return false }
      }
      // From the directory itself its file is found wherever it is.
      for path: StaticString in ["file", "../deep/file"] {
        let status = try? tree.context.getAttributes(PathBytes(path), from: deep, tree.credentials)
        guard status?.inode == file else { return false }
      }
      return true
    }
  }

  @Test func whatComesAndGoesIsThereOrNot() {
    let tree = Tree()
    #expect(tree.mkdir("/d") == nil && tree.write("/l", "text") == nil)
    let base = inode(tree, "/l")
    contend(
      tree,
      [
        { tree, _ in
          tree.mkdir("/d/x") == nil && tree.mkdir("/d/x/y") == nil && tree.rmdir("/d/x/y") == nil
            && tree.rmdir("/d/x") == nil
        },
        { tree, _ in tree.link("/l", "/extra") == nil && tree.unlink("/extra") == nil },
        forget,
      ]
    ) { [self] tree in
      if let status = try? tree.stat("/d/x/y"), status.type != .directory { return false }
      if let status = try? tree.stat("/d/x/.."), status.type != .directory { return false }
      if let found = inode(tree, "/extra"), found != base { return false }
      guard let links = try? tree.stat("/l").linkCount else { return false }
      return links == 1 || links == 2
    }
  }

  /// The file below has one byte, that of the mount two: never is there anything else.
  @Test func aMountIsThereOrNot() throws {
    let tree = Tree()
    let upper = RamFileSystem()
    let other = Tree(upper)
    #expect(tree.mkdir("/m") == nil && tree.mkdir("/m/sub") == nil && tree.write("/m/sub/f", "1") == nil)
    #expect(other.mkdir("/sub") == nil && other.write("/sub/f", "22") == nil)
    let (low, high) = (try tree.stat("/m/sub/f"), try other.stat("/sub/f"))
    contend(
      tree, rounds: 1500,
      [
        { tree, _ in
          guard let point = try? tree.find("/m") else { return false }
          do throws(Errno) {
            _ = try tree.context.mounts.mount(upper, on: point)
            try tree.context.mounts.unmount(try tree.find("/m"))
          } catch { return false }
          return true
        }, forget,
      ]
    ) { tree in
      let isRight = { (found: StatInformation) in
        (found.device == low.device && found.inode == low.inode && found.byteCount == 1)
          || (found.device == high.device && found.inode == high.inode && found.byteCount == 2)
      }
      guard let found = try? tree.stat("/m/sub/f"), isRight(found) else { return false }
      // Out of whatever is mounted there, and in again: unless it has been unmounted on the way, then it has nothing above.
      guard let again = try? tree.stat("/m/../m/sub/f") else { return tree.statFailure("/m/sub/none") == .ENOENT }
      return isRight(again)
    }
  }

  /// Owner 1 may search the directory, or owner 2 has one that nobody may search: never does user 2 get in.
  @Test func rightsAreOfOneMoment() throws {
    let tree = Tree()
    #expect(tree.mkdir("/g") == nil && tree.write("/g/f", "text") == nil)
    nonisolated(unsafe) let directory = try tree.find("/g").vnode
    let stranger = Credentials(userID: 2, groupID: 2)
    let set = { (round: Int) in
      var change = AttributeChange()
      (change.mode, change.userID) = round & 1 == 0 ? (0o700, 1) : (0o600, 2)
      return (try? directory.setAttributes(change)) != nil
    }
    #expect(set(0))
    contend(tree, rounds: 20_000, [{ _, round in set(round) }]) { tree in
      do throws(Errno) {
        _ = try tree.context.getAttributes(PathBytes("/g/f"), from: nil, stranger)
        return false
      } catch { return error == .EACCES }
    }
  }

  /// The working directory and the root change under those who start from them.
  @Test func startingPlacesChange() {
    let tree = Tree()
    for name in ["/a", "/b", "/a/x", "/b/x"] { #expect(tree.mkdir(name) == nil) }
    #expect(tree.write("/a/x/f", "1") == nil && tree.write("/b/x/f", "22") == nil)
    #expect(tree.chdir("/a/x") == nil)
    contend(tree, [{ tree, round in tree.chdir(round & 1 == 0 ? "/b/x" : "/a/x") == nil }, forget]) { tree in
      for path: StaticString in ["f", "../x/f", "../../b/x/f"] {
        let status = try? tree.context.getAttributes(PathBytes(path), from: nil, tree.credentials)
        guard let size = status?.byteCount, size == 1 || size == 2 else { return false }
      }
      return (try? tree.stat("/a/x/f").byteCount) == 1
    }
  }
}
