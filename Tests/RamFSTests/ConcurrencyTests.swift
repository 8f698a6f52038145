// Many threads in one tree: no deadlock, nothing lost, the tree consistent at the end. FIFOs between threads.
import Base
import Dispatch
import Files
import RamFS
import Testing

@Suite(.timeLimit(.minutes(15))) struct ConcurrencyTests {
  /// Four threads make, rename across directories (above and below each other), list and remove.
  @Test func renamesInAllDirections() throws {
    let tree = Tree()
    let directories = ["/a", "/b", "/a/c", "/b/d", "/a/c/e"]
    for name in directories { #expect(tree.mkdir(name) == nil) }
    for index in 0..<20 { #expect(tree.write("/a/f\(index)", "\(index)") == nil) }
    nonisolated(unsafe) let shared = tree
    DispatchQueue.concurrentPerform(iterations: 4) { thread in
      var state = UInt64(thread + 1) &* 0x9e37_79b9_7f4a_7c15
      func random(_ limit: Int) -> Int {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return Int(state % UInt64(limit))
      }
      for _ in 0..<1500 {
        let (one, two) = (directories[random(5)], directories[random(5)])
        let name = "f\(random(20))"
        switch random(6) {
        case 0, 1: _ = shared.rename(one + "/" + name, two + "/" + name, .noReplace)
        case 2: _ = shared.rename(one, two + "/moved")
        case 3: _ = shared.rename(two + "/moved", one)
        case 4: _ = try? shared.list(one)
        default: _ = shared.rename(one + "/" + name, two + "/f\(random(20))", .exchange)
        }
      }
    }
    // Every file is there once, under some name, with its contents; every directory knows its parent and its links.
    var contents: [String] = []
    var directoriesFound = 0
    func visit(_ path: String) throws {
      var below = 0
      for name in try tree.list(path) {
        let inner = (path == "/" ? "" : path) + "/" + name
        if try tree.stat(inner).type == .directory {
          below += 1
          directoriesFound += 1
          #expect(try tree.path(of: inner + "/..") == path)
          try visit(inner)
        } else {
          contents.append(try tree.read(inner))
        }
      }
      #expect(try tree.stat(path).linkCount == below + 2)
    }
    try visit("/")
    #expect(contents.sorted() == (0..<20).map { "\($0)" }.sorted())
    #expect(directoriesFound <= 5)
  }

  @Test func oneCreatorWins() throws {
    let tree = Tree()
    nonisolated(unsafe) let shared = tree
    for round in 0..<100 {
      let wins = Atomic<Int>(0)
      nonisolated(unsafe) let counter = UnsafeMutablePointer<Int>.allocate(capacity: 4)
      counter.initialize(repeating: 0, count: 4)
      DispatchQueue.concurrentPerform(iterations: 4) { thread in
        if shared.openFailure("/f\(round)", [.create, .exclusive, .readWrite]) == nil { counter[thread] = 1 }
      }
      wins.add((0..<4).reduce(0) { $0 + counter[$1] }, ordering: .relaxed)
      counter.deallocate()
      let sum = wins.load(ordering: .relaxed)
      #expect(sum == 1)
    }
  }

  @Test func namedPipes() throws {
    let tree = Tree()
    try tree.context.makeNode(PathBytes("/p"), from: tree.here, type: .fifo, mode: 0o644, tree.credentials)
    #expect(try tree.stat("/p").type == .fifo)
    #expect(tree.openFailure("/p", [.writeOnly, .nonBlocking]) == .ENXIO)
    let reader = try tree.open("/p", .nonBlocking)
    #expect(try reader.read(1) == [])
    #expect(reader.readyMask == [])
    let writer = try tree.open("/p", [.writeOnly, .nonBlocking])
    #expect(try writer.write(bytes: [1]) == 1)
    #expect(try reader.read(5) == [1])
    #expect(throws: Errno.EAGAIN) { _ = try reader.read(1) }
    // Each side's open waits for the other.
    try tree.context.makeNode(PathBytes("/q"), from: tree.here, type: .fifo, mode: 0o644, tree.credentials)
    nonisolated(unsafe) let shared = tree
    let group = DispatchGroup()
    DispatchQueue.global().async(group: group) {
      _ = try? shared.open("/q", .writeOnly).write(bytes: Array("through the pipe".utf8))
    }
    #expect(try tree.read("/q") == "through the pipe")
    group.wait()
  }
}
