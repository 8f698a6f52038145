// Inotify over a tree in memory: what is told, and that watches come and go under threads that change the tree.
import Base
import Dispatch
import Files
import Memory
import RamFS
import Testing

@Suite(.timeLimit(.minutes(15))) struct WatchingTests {
  struct Event: Equatable {
    var watch: Int32
    var events: FileEvents
    var cookie: UInt32
    var name: String
  }

  func read(_ file: InotifyFile, _ byteCount: Int = 65_536) throws -> [Event] {
    var result: [Event] = []
    while true {
      let bytes: [UInt8]
      do { bytes = try file.read(byteCount) } catch {
        guard error == .EAGAIN else { throw error }
        return result
      }
      bytes.withUnsafeBytes { raw in
        var at = 0
        while at < raw.count {
          let length = Int(raw.load(fromByteOffset: at + 12, as: UInt32.self))
          let name = raw[(at + 16)..<(at + 16 + length)].prefix { $0 != 0 }
          result.append(
            Event(
              watch: raw.load(fromByteOffset: at, as: Int32.self),
              events: FileEvents(rawValue: raw.load(fromByteOffset: at + 4, as: UInt32.self)),
              cookie: raw.load(fromByteOffset: at + 8, as: UInt32.self), name: String(decoding: name, as: UTF8.self)))
          at += 16 + length
        }
      }
    }
  }

  func watch(_ tree: Tree, _ file: InotifyFile, _ path: String, _ mask: FileEvents) throws -> Int32 {
    try file.add(try tree.find(path), mask, tree.credentials)
  }

  @Test func namesAndCookies() throws {
    let tree = Tree()
    let file = try InotifyFile(flags: .nonBlocking)
    #expect(tree.mkdir("/d") == nil && tree.mkdir("/e") == nil)
    let (d, e) = (try watch(tree, file, "/d", .all), try watch(tree, file, "/e", [.movedTo, .movedFrom]))
    #expect(tree.write("/d/a", "x") == nil)
    #expect(tree.rename("/d/a", "/e/b") == nil)
    let seen = try read(file)
    #expect(seen.first == Event(watch: d, events: .created, cookie: 0, name: "a"))
    let moves = seen.filter { $0.cookie != 0 }
    #expect(moves.map { $0.events } == [.movedFrom, .movedTo] && moves.map { $0.watch } == [d, e])
    #expect(moves[0].cookie == moves[1].cookie && moves.map { $0.name } == ["a", "b"])
    #expect(tree.rmdir("/d") == nil)
    #expect(try read(file).map { $0.events } == [.deletedSelf, .ignored])
    #expect(throws: Errno.EINVAL) { try file.remove(d) }
    try file.remove(e)
    #expect(try read(file) == [Event(watch: e, events: .ignored, cookie: 0, name: "")])
  }

  @Test func limits() throws {
    let tree = Tree()
    let file = try InotifyFile(flags: .nonBlocking)
    #expect(tree.mkdir("/d") == nil)
    let number = try watch(tree, file, "/d", [.created, .deleted])
    for _ in 0..<10_000 {
      #expect(tree.write("/d/a", "") == nil)
      #expect(tree.unlink("/d/a") == nil)
    }
    var seen = try read(file)
    #expect(seen.count == 16_385)
    #expect(seen.last == Event(watch: -1, events: .overflow, cookie: 0, name: ""))
    #expect(seen.dropLast().allSatisfy { $0.watch == number })
    #expect(tree.write("/d/a", "") == nil)
    seen = try read(file)
    #expect(seen.map { $0.events } == [.created])
    #expect(tree.unlink("/d/a") == nil)
    #expect(throws: Errno.EINVAL) { _ = try file.read(31) }
    #expect(try file.read(32).count == 32)
    var others: [InotifyFile] = []
    while others.count < 1000, let more = try? InotifyFile(flags: []) { others.append(more) }
    #expect(others.count < 128)
    #expect(throws: Errno.EMFILE) { _ = try InotifyFile(flags: []) }
  }

  /// Watches are added and removed, and instances closed, while other threads change what they watch.
  @Test func underThreads() throws {
    let tree = Tree()
    #expect(tree.mkdir("/d") == nil)
    nonisolated(unsafe) let shared = tree
    DispatchQueue.concurrentPerform(iterations: 4) { thread in
      for round in 0..<300 {
        if thread < 2 {
          let name = "/d/f\(thread)"
          _ = shared.write(name, "x")
          _ = shared.rename(name, "/d/g")
          _ = shared.unlink("/d/g")
        } else {
          guard let file = try? InotifyFile(flags: .nonBlocking) else { continue }
          let table = DescriptorTable()
          guard let descriptor = try? table.install(file) else { continue }
          let number = try? watch(shared, file, "/d", round % 2 == 0 ? .all : [.all, .oneShot])
          _ = try? watch(shared, file, "/d/g", .all)
          _ = try? file.read(4096)
          if let number, round % 3 == 0 { try? file.remove(number) }
          try? table.close(descriptor)
        }
      }
    }
    // Nobody watches any more.
    let file = try InotifyFile(flags: .nonBlocking)
    #expect(tree.write("/d/z", "x") == nil)
    #expect(throws: Errno.EAGAIN) { _ = try file.read(100) }
  }
}
