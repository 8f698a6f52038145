// Contents: positions, appending, holes, truncation, times, files that lie in memory.
import Base
import Dispatch
import Files
import Memory
import Pages
import Platform
import RamFS
import Testing

@Suite struct ContentsTests {
  @Test func positions() throws {
    let tree = Tree()
    let file = try tree.open("/f", [.create, .readWrite])
    #expect(try file.write(bytes: Array("hello world".utf8)) == 11)
    #expect(try file.read(4) == [])
    #expect(try file.seek(-5, from: .current) == 6)
    #expect(try file.read(100) == Array("world".utf8))
    #expect(try file.seek(-11, from: .end) == 0)
    #expect(try file.read(5) == Array("hello".utf8))
    #expect(try file.read(3, at: 6) == Array("wor".utf8))
    #expect(try file.seek(0, from: .current) == 5)
    #expect(throws: Errno.EINVAL) { try file.seek(-6, from: .current) }
    #expect(throws: Errno.EOVERFLOW) { try file.seek(.max, from: .current) }
    #expect(try file.seek(3, from: .data) == 3)
    #expect(try file.seek(3, from: .hole) == 11)
    #expect(throws: Errno.ENXIO) { try file.seek(11, from: .data) }
    let reader = try tree.open("/f")
    #expect(throws: Errno.EBADF) { _ = try reader.write(bytes: [1]) }
    #expect(throws: Errno.EINVAL) { try reader.truncate(to: 0) }
    let place = try tree.open("/f", .pathOnly)
    #expect(throws: Errno.EBADF) { _ = try place.read(1) }
    #expect(throws: Errno.EISDIR) { _ = try tree.open("/").read(1) }
  }

  @Test func appending() throws {
    let tree = Tree()
    let one = try tree.open("/f", [.create, .readWrite, .append])
    let two = try tree.open("/f", [.writeOnly, .append])
    #expect(try one.write(bytes: Array("one".utf8)) == 3)
    #expect(try two.write(bytes: Array("two".utf8)) == 3)
    _ = try one.seek(0, from: .start)
    #expect(try one.write(bytes: Array("end".utf8)) == 3)
    #expect(try tree.read("/f") == "onetwoend")
    one.setFlags([])
    #expect(try one.write(bytes: Array("X".utf8), at: 0) == 1)
    #expect(try tree.read("/f") == "Xnetwoend")
  }

  @Test func appendingThreadsLoseNothing() throws {
    let tree = Tree()
    _ = try tree.open("/f", [.create])
    let files = try (0..<4).map { _ in try tree.open("/f", [.writeOnly, .append]) }
    nonisolated(unsafe) let shared = files
    DispatchQueue.concurrentPerform(iterations: 4) { thread in
      for index in 0..<50 { _ = try? shared[thread].write(bytes: [UInt8(thread), UInt8(index)]) }
    }
    let bytes = try tree.open("/f").readAll()
    #expect(bytes.count == 400)
    for thread in 0..<4 {
      let own = stride(from: 0, to: 400, by: 2).filter { bytes[$0] == thread }.map { bytes[$0 + 1] }
      #expect(own == (0..<50).map { UInt8($0) })
    }
  }

  @Test func holes() throws {
    let tree = Tree()
    let file = try tree.open("/f", [.create, .readWrite])
    #expect(try file.write(bytes: [7], at: 10_000_000) == 1)
    #expect(try file.getAttributes().byteCount == 10_000_001)
    #expect(try file.getAttributes().blockCount <= 16)
    #expect(try file.read(3, at: 5_000_000) == [0, 0, 0])
    try file.truncate(to: 10)
    try file.truncate(to: 8192)
    #expect(try file.read(8192, at: 0) == [UInt8](repeating: 0, count: 8192))
    #expect(try file.write(bytes: [UInt8](repeating: 9, count: 12_288), at: 0) == 12_288)
    try file.vnode.allocate(mode: 3, offset: 4096, byteCount: 4096)
    #expect(try file.read(2, at: 4095) == [9, 0])
    #expect(try file.read(2, at: 8191) == [0, 9])
    try file.vnode.allocate(mode: 0, offset: 12_288, byteCount: 100)
    #expect(try file.getAttributes().byteCount == 12_388)
    #expect(throws: Errno.EFBIG) { _ = try file.write(bytes: [1], at: 0x7fff_ffff_ffff_ffff) }
    #expect(throws: Errno.EINVAL) { _ = try file.write(bytes: [1], at: 0x8000_0000_0000_0000) }
  }

  @Test func times() throws {
    let tree = Tree()
    #expect(tree.write("/f", "x") == nil)
    let place = try tree.find("/f")
    try tree.context.changeTimes(
      place, access: .to(FileTime(seconds: 5, nanoseconds: 6)), modification: .to(FileTime(seconds: 7)),
      tree.credentials)
    var attributes = try tree.stat("/f")
    #expect(attributes.accessTime == FileTime(seconds: 5, nanoseconds: 6))
    #expect(attributes.modificationTime == FileTime(seconds: 7))
    #expect(attributes.changeTime.seconds > 1000)
    _ = try tree.read("/f")
    attributes = try tree.stat("/f")
    #expect(attributes.accessTime.seconds > 1000)
    #expect(attributes.modificationTime == FileTime(seconds: 7))
    #expect(tree.write("/f", "y") == nil)
    #expect(try tree.stat("/f").modificationTime.seconds > 1000)
  }

  @Test func filesInMemoryAreNotCopiedBeforeTheyAreWritten() throws {
    let text = Array("contents of a boot file".utf8)
    let physical = HostedArena.placeFile(text)
    let target = HostedArena.placeFile(Array("bin/prog".utf8))
    let fileSystem = RamFileSystem()
    try fileSystem.add(
      PathBytes("/bin/prog"), mode: 0o100755, physical: physical, byteCount: text.count.u64, modificationTime: 99)
    try fileSystem.add(
      PathBytes("/link"), mode: 0o120777, physical: target, byteCount: 8, modificationTime: 1)
    try fileSystem.add(
      PathBytes("/etc/empty/"), mode: 0o40700, physical: physical, byteCount: 0, modificationTime: 1)
    #expect(throws: Errno.EINVAL) {
      try fileSystem.add(PathBytes("/"), mode: 0o100644, physical: physical, byteCount: 0, modificationTime: 0)
    }
    #expect(throws: Errno.ENOTDIR) {
      try fileSystem.add(PathBytes("/link/x"), mode: 0o100644, physical: physical, byteCount: 0, modificationTime: 0)
    }
    let tree = Tree(fileSystem)
    #expect(try tree.read("/link") == "contents of a boot file")
    let file = try tree.open("/bin/prog", .readWrite)
    #expect(try file.memoryObject().residentPages == 0)
    #expect(try file.getAttributes().modificationTime.seconds == 99)
    #expect(try tree.stat("/etc/empty").mode == 0o40700)
    #expect(try file.write(bytes: Array("C".utf8), at: 0) == 1)
    #expect(try tree.read("/bin/prog") == "Contents of a boot file")
    #expect(LinearMap.pointer(physical).load(as: UInt8.self) == text[0])
  }
}
