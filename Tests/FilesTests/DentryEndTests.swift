// The end of entries: a directory's follows that of the last one in it, however many removed ones lie in one another, and on a stack that
// has room for a few.
import Base
import Locks
import ModelChecker
import Testing
import Threads

@testable import Files

/// A directory that tells of its end.
private final class EndingDirectory: Vnode {
  private let ended: Ends

  init(_ fileSystem: FileSystem, _ ended: Ends) {
    self.ended = ended
    super.init(fileSystem: fileSystem, inode: 2, type: .directory)
  }

  deinit { ended.count.wrappingAdd(1, ordering: .releasing) }
}

private final class Ends: Sendable {
  let count = Atomic<Int>(0)

  /// Returns when so many have ended; what ends may have to wait for readers of other tests.
  func wait(for wanted: Int) -> Bool {
    for _ in 0..<100 * wanted where count.load(ordering: .acquiring) < wanted { RCU.barrier() }
    return count.load(ordering: .acquiring) == wanted
  }
}

@Suite(.timeLimit(.minutes(5))) struct DentryEndTests {
  private static let depth = 20_000

  /// Runs a body on a thread with little stack.
  private func withLittleStack(_ body: @escaping () -> Void) {
    let work = Shared(value: body)
    HostThreads.run(1, stackByteCount: 256 << 10) { _ in work.value() }
  }

  private func makeRoot() -> (FileSystem, Dentry) {
    let fileSystem = FileSystem(kind: "ending", magic: 0)
    fileSystem.setRoot(Vnode(fileSystem: fileSystem, inode: 1, type: .directory))
    return (fileSystem, fileSystem.root)
  }

  /// Directories in one another, the lowest one of which is kept; all have been removed, from below.
  private func removedChain(_ cache: DentryCache, _ ends: Ends) -> Dentry {
    let (fileSystem, root) = makeRoot()
    var lowest = root
    for _ in 0..<Self.depth {
      lowest = cache.enter(lowest, PathBytes("d"), LookupResult(EndingDirectory(fileSystem, ends)))
    }
    var next: Dentry? = lowest
    while let entry = next, entry !== root {
      cache.remove(entry)
      next = entry.parent
    }
    return lowest
  }

  @Test func removedDirectoriesEndOneAfterAnother() {
    let (cache, ends) = (DentryCache(), Ends())
    var lowest: Dentry? = removedChain(cache, ends)
    #expect(cache.count == 0 && lowest != nil)
    withLittleStack { lowest = nil }
    #expect(ends.wait(for: Self.depth))
  }

  @Test func theNamesOfAFileSystemEndOneAfterAnother() {
    let ends = Ends()
    let (fileSystem, root) = makeRoot()
    var cache: DentryCache? = DentryCache()
    var lowest = root
    for _ in 0..<Self.depth {
      lowest = cache!.enter(lowest, PathBytes("d"), LookupResult(EndingDirectory(fileSystem, ends)))
    }
    #expect(cache?.count == Self.depth)
    lowest = root
    withLittleStack { cache = nil }
    #expect(ends.wait(for: Self.depth))
  }

  /// What ends with its last user, where the directory above is still there, ends at once.
  @Test func aFileEndsAtOnce() {
    let ends = Ends()
    let (fileSystem, root) = makeRoot()
    let cache = DentryCache()
    let directory = cache.enter(root, PathBytes("d"), LookupResult(EndingDirectory(fileSystem, ends)))
    var temporary: Dentry? = Dentry(
      parent: directory, name: PathBytes("f"), vnode: EndingDirectory(fileSystem, ends), validUntil: 0)
    #expect(temporary != nil)
    temporary = nil
    #expect(ends.count.load(ordering: .acquiring) == 1)
  }
}
