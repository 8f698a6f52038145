// The file system over a server that works by handles only, good and hostile.
import Base
import Files
import Glibc
import Memory
import Pages
import Platform
import Testing
import VirtioABI
import VirtioFileSystem

@testable import VirtioFS

private let place = """
  mkdir -p a/b 'c d' empty && echo one > a/one && seq 20000 > a/b/large && ln -s ../a/one 'c d/link' && : > nothing
  seq 200 | while read i; do echo content-$i > 'c d'/$i; done
  """

@Suite(.serialized) struct ForeignServerTests {
  /// Reads everything there is, as find(1) and cat(1) would, and compares it with the host's view.
  private func compare(_ mounted: Mounted, _ tree: HostTree) throws -> Int {
    var seen = 0
    try mounted.walk(mounted.root) { name, node in
      seen += 1
      var expected = stat()
      #expect(lstat(tree.path + name, &expected) == 0)
      let got = try node.getAttributes()
      #expect(got.mode == expected.st_mode && got.inode == UInt64(expected.st_ino), "\(name)")
      if node.type == .regular {
        #expect(try mounted.read(node) == tree.content(name), "\(name)")
      }
      if node.type == .symbolicLink { #expect(try node.readLink() == Array("../a/one".utf8)) }
    }
    return seen
  }

  @Test(arguments: [true, false], [FUSEServer.CachePolicy.automatic, .none])
  func aTreeIsRead(hasReaddirplus: Bool, cache: FUSEServer.CachePolicy) throws {
    let tree = HostTree(place)
    let (mounted, foreign) = try Mounted.foreign(tree.path, cache: cache) { $0.hasReaddirplus = hasReaddirplus }
    #expect(!mounted.fileSystem.client.isWritable && !mounted.fileSystem.delaysWrites)
    #expect(try compare(mounted, tree) == 208)
    // Each once: 203 files and 5 directories.
    let opened = foreign.opens
    #expect(opened == 203 + 5)
    mounted.clock.now += 2_000_000_000
    #expect(try compare(mounted, tree) == 208)
    #expect(foreign.opens == opened && foreign.openCount == opened && foreign.strayUses == 0)
    #expect(foreign.count(hasReaddirplus ? FUSEOpcode.readdir : FUSEOpcode.readdirplus) == 0)
    #expect(foreign.count(FUSEOpcode.access) == 0)
    #expect(try mounted.node("a/none") == nil)
    #expect(try mounted.fileSystem.statistics().blockCount > 0)
    // All of it is given back with the nodes, and before them.
    mounted.fileSystem.giveBackAll()
    #expect(foreign.openCount == 1 && foreign.releases == opened - 1)
    #expect(foreign.strayUses == 0 && foreign.forgottenOpen == 0)
    #expect(try compare(mounted, tree) == 208)
  }

  @Test func readsMoveAsInAnyFile() throws {
    let tree = HostTree("seq 60000 > large")
    let (mounted, foreign) = try Mounted.foreign(tree.path)
    let content = try #require(tree.content("large"))
    let large = try #require(try mounted.node("large"))
    for (offset, count) in [(0, 1), (4095, 2), (4096, 4096), (100_000, 200_000), (content.count - 1, 10)] {
      #expect(try mounted.read(large, offset, count) == Array(content[offset..<min(offset + count, content.count)]))
    }
    #expect(try mounted.read(large) == content)
    // What the host changes is seen when it is time, by the same handle.
    shell("cd '\(tree.path)' && seq 70000 > large")
    mounted.clock.now += 2_000_000_000
    #expect(try mounted.read(large) == tree.content("large"))
    #expect(foreign.count(FUSEOpcode.open) == 1 && foreign.strayUses == 0)
    // A file in the place of another one is opened anew.
    shell("cd '\(tree.path)' && echo other > new && mv new large")
    mounted.clock.now += 2_000_000_000
    #expect(try mounted.text("large") == "other\n")
    #expect(foreign.count(FUSEOpcode.open) == 2 && foreign.strayUses == 0)
  }

  /// Frames that do not touch: a chain has no more pieces than the queue has entries.
  @Test(arguments: [8, 64]) func chainsAreNoLongerThanTheQueue(queueSize: Int) throws {
    let tree = HostTree("seq 40000 > large")
    let (mounted, foreign) = try Mounted.foreign(tree.path) { $0.queueSize = queueSize }
    let node = try #require(try mounted.node("large"))
    let content = try #require(tree.content("large"))
    let all = (0..<2 * ((content.count + 4095) / 4096)).map { _ in Frames.allocate(zeroed: true)! }
    defer { for frame in all { Frames.free(frame) } }
    let frames = stride(from: 0, to: all.count, by: 2).map { all[$0] }
    try frames.withUnsafeBufferPointer { try node.fill(page: 0, frames: $0) }
    var read: [UInt8] = []
    for frame in frames { read += UnsafeRawBufferPointer(start: LinearMap.pointer(frame), count: 4096) }
    #expect(Array(read[..<content.count]) == content)
    #expect(foreign.count(FUSEOpcode.open) == 1)
  }

  @Test func handlesGoWithTheirNodes() throws {
    let tree = HostTree("seq 30 | while read d; do mkdir $d; seq 20 | while read f; do echo $f > $d/$f; done; done")
    let (mounted, foreign) = try Mounted.foreign(tree.path, nodeLimit: 100)
    for _ in 0..<3 {
      var read = 0
      try mounted.walk(mounted.root) { _, node in
        if !node.isDirectory { read += try mounted.read(node).count }
      }
      #expect(read == 30 * (9 * 2 + 11 * 3))
      mounted.clock.now += 2_000_000_000
    }
    #expect(foreign.opens > 630 && foreign.strayUses == 0 && foreign.forgottenOpen == 0)
    #expect(mounted.fileSystem.nodeCount < 200 && foreign.openCount < 400)
    let held = try #require(try mounted.node("3/4"))
    #expect(try mounted.read(held) == Array("4\n".utf8))
    mounted.fileSystem.giveBackAll()
    // The root's, and that of the file that is still in use.
    #expect(foreign.openCount == 2 && foreign.openCount == foreign.opens - foreign.releases)
    #expect(try mounted.read(held) == Array("4\n".utf8) && foreign.strayUses == 0)
  }

  /// A directory is believed for a second: what was listed in it may have been forgotten meanwhile, and its number be another file's.
  @Test func numbersOfNodesAreUsedAgain() throws {
    let tree = HostTree(
      "mkdir dir && seq 40 | while read i; do echo file $i > $i; done; seq 200 | while read i; do echo in $i > dir/$i; done"
    )
    let (mounted, foreign) = try Mounted.foreign(tree.path, nodeLimit: 20)
    let names = try mounted.list(mounted.root).filter { $0 != "dir" }
    for _ in 0..<3 {
      let directory = try #require(try mounted.node("dir"))
      for name in try mounted.list(directory) { #expect(try mounted.text("dir/\(name)") == "in \(name)\n") }
      for name in names { #expect(try mounted.text(name) == "file \(name)\n") }
    }
    #expect(foreign.strayUses == 0 && foreign.forgottenOpen == 0)
  }

  @Test func twoThatOpenAtATimeKeepOneHandle() throws {
    let tree = HostTree("echo x > file")
    let (mounted, foreign) = try Mounted.foreign(tree.path)
    let node = try #require(try mounted.node("file"))
    var isWithin = false
    foreign.before = { opcode, _ in
      guard opcode == FUSEOpcode.open, !isWithin else { return }
      isWithin = true
      _ = try? node.readingHandle()
    }
    #expect(try mounted.read(node) == Array("x\n".utf8))
    #expect(foreign.opens == 2 && foreign.releases == 1 && foreign.openCount == 1 && foreign.strayUses == 0)
  }

  @Test func nothingIsChanged() throws {
    let tree = HostTree("echo x > file && mkdir dir")
    let (mounted, foreign) = try Mounted.foreign(tree.path)
    let file = try #require(try mounted.node("file"))
    #expect(throws: Errno.EROFS) { try mounted.write(file, 0, [1]) }
    #expect(throws: Errno.EROFS) { try mounted.create(mounted.root, "new") }
    #expect(throws: Errno.EROFS) { try mounted.create(mounted.root, "new", type: .directory) }
    #expect(throws: Errno.EROFS) { try mounted.unlink(mounted.root, "file") }
    #expect(throws: Errno.EROFS) { try mounted.unlink(mounted.root, "dir") }
    #expect(throws: Errno.EROFS) { try mounted.rename(mounted.root, "file", mounted.root, "other") }
    var change = AttributeChange()
    change.mode = 0
    #expect(throws: Errno.EROFS) { try file.setAttributes(change) }
    for flags: UInt32 in [1, 2, 0o1000] {
      #expect(throws: Errno.EROFS) { try file.open(OpenFlags(rawValue: flags), at: mounted.location) }
    }
    try file.synchronise(dataOnly: false)
    try mounted.fileSystem.synchronise()
    try mounted.fileSystem.writeBack()
    let reading = [
      FUSEOpcode.initialise, FUSEOpcode.getattr, FUSEOpcode.lookup, FUSEOpcode.open, FUSEOpcode.read,
    ]
    #expect(foreign.honest.log.allSatisfy { reading.contains($0) })
  }

  /// Whether a file may be read that not everybody may is known when it is opened, and so is a directory.
  @Test func whoMayNotReadHearsOfItWhenOpening() throws {
    let tree = HostTree("echo x > file && chmod 600 file && mkdir dir && chmod 700 dir && echo y > open")
    let (mounted, foreign) = try Mounted.foreign(tree.path)
    for name in ["file", "dir"] {
      let node = try #require(try mounted.node(name))
      foreign.openError = EACCES
      #expect(throws: Errno.EACCES) { try node.open([], at: mounted.location) }
      #expect(foreign.openCount == 0)
    }
    _ = try mounted.node("file")!.open([], at: mounted.location)
    _ = try mounted.node("dir")!.open([], at: mounted.location)
    #expect(foreign.openCount == 2)
    // What everybody may read is opened when it is read.
    _ = try mounted.node("open")!.open([], at: mounted.location)
    #expect(foreign.openCount == 2)
    #expect(try mounted.text("file") == "x\n" && mounted.text("open") == "y\n")
    #expect(foreign.openCount == 3)
  }

  @Test(arguments: [true, false]) func holes(hasHoles: Bool) throws {
    let tree = HostTree("truncate -s 1M sparse && echo x >> sparse")
    let (mounted, foreign) = try Mounted.foreign(tree.path) { $0.hasHoles = hasHoles }
    let node = try #require(try mounted.node("sparse"))
    #expect(try node.findData(from: 4096, end: 1 << 20 + 2) == (hasHoles ? 1 << 20 : 4096))
    #expect(try node.findHole(from: 0, end: 1 << 20 + 2) == (hasHoles ? 0 : 1 << 20 + 2))
    #expect(foreign.strayUses == 0)
  }

  @Test func whatItDoesNotHaveIsNotSupported() throws {
    let tree = HostTree("echo x > file")
    let (mounted, _) = try Mounted.foreign(tree.path)
    let file = try #require(try mounted.node("file"))
    #expect(throws: Errno.EOPNOTSUPP) {
      try withName("user.x") { name in try file.getExtendedAttribute(PathBytes(name)) }
    }
    #expect(throws: Errno.EOPNOTSUPP) { try file.listExtendedAttributes() }
  }

  /// A server that says ENOSYS to an OPEN needs none, though it did not say so before; it need not know ACCESS either.
  @Test func opensThatAreNotNeeded() throws {
    let tree = HostTree(place + "\nchmod 600 a/one")
    let (mounted, foreign) = try Mounted.foreign(tree.path) { $0.servesOpens = false }
    #expect(try compare(mounted, tree) == 208)
    #expect(foreign.count(FUSEOpcode.open) == 1 + foreign.count(FUSEOpcode.read) && foreign.strayUses == 0)
    _ = try mounted.node("a/one")!.open([], at: mounted.location)
    mounted.fileSystem.giveBackAll()
    #expect(foreign.releases == 0 && !mounted.fileSystem.client.isWritable)
  }
}

@Suite(.serialized) struct HostileForeignServerTests {
  @Test func opensThatFail() throws {
    let tree = HostTree("echo x > file && mkdir dir && echo y > dir/inner")
    let (mounted, foreign) = try Mounted.foreign(tree.path)
    let file = try #require(try mounted.node("file"))
    for code in [EMFILE, ENFILE, EACCES, EIO, ESTALE] {
      foreign.openError = code
      #expect(throws: Errno(rawValue: code)!) { try mounted.read(file) }
      foreign.openError = code
      #expect(throws: Errno(rawValue: code)!) { try mounted.list(mounted.root) }
    }
    #expect(foreign.count(FUSEOpcode.read) == 0 && foreign.count(FUSEOpcode.readdirplus) == 0)
    #expect(try mounted.read(file) == Array("x\n".utf8))
    #expect(try mounted.list(mounted.root).sorted() == ["dir", "file"])
  }

  @Test func opensThatLie() throws {
    let tree = HostTree("echo x > file && echo y > other")
    let (mounted, foreign) = try Mounted.foreign(tree.path)
    let file = try #require(try mounted.node("file"))
    foreign.lie = { opcode, reply, count in
      guard opcode == FUSEOpcode.open else { return }
      count -= 8
      reply.storeBytes(of: UInt32(count), as: UInt32.self)
    }
    #expect(throws: Errno.EIO) { try mounted.read(file) }
    // A handle that is none: what the server makes of it is the answer, and it is not asked for another one.
    foreign.lie = { opcode, reply, _ in
      if opcode == FUSEOpcode.open { reply.storeBytes(of: UInt64.max, toByteOffset: 16, as: UInt64.self) }
    }
    let before = foreign.count(FUSEOpcode.open)
    #expect(throws: Errno.EBADF) { try mounted.read(file) }
    #expect(throws: Errno.EBADF) { try mounted.read(file) }
    #expect(foreign.count(FUSEOpcode.open) == before + 1)
    foreign.lie = nil
    #expect(try mounted.text("other") == "y\n")
    mounted.fileSystem.giveBackAll()
  }

  @Test func greetingsThatLie() throws {
    let tree = HostTree()
    for (place, value, error) in [(0, UInt32(8), Errno.EPROTO), (4, 22, .EPROTO), (0, 0, .EPROTO)] {
      #expect(throws: error) {
        try Mounted.foreign(tree.path) { foreign in
          foreign.lie = { opcode, reply, _ in
            guard opcode == FUSEOpcode.initialise else { return }
            reply.storeBytes(of: value, toByteOffset: 16 + place, as: UInt32.self)
          }
        }
      }
    }
    // No flags at all, no pages, no room to write: a server that can be read still.
    let other = HostTree("seq 30000 > file")
    let (mounted, _) = try Mounted.foreign(other.path) { foreign in
      foreign.hasReaddirplus = false
      foreign.lie = { opcode, reply, _ in
        guard opcode == FUSEOpcode.initialise else { return }
        for offset in 16 + 8..<80 { reply[offset] = 0 }
      }
    }
    #expect(try mounted.text("file") == (1...30_000).map { "\($0)\n" }.joined())
    #expect(try mounted.list(mounted.root) == ["file"])
  }

  /// Every reply may be changed anywhere: errors are fine, crashes and endless loops are not.
  @Test(arguments: [true, false]) func corruptReplies(hasReaddirplus: Bool) throws {
    let tree = HostTree(
      "mkdir -p a/b && seq 40 | while read i; do echo $i > a/$i; done && ln -s a link && seq 9000 > large")
    var random = SystemRandomNumberGenerator()
    for round in 0..<30 {
      let (mounted, foreign) = try Mounted.foreign(tree.path) { $0.hasReaddirplus = hasReaddirplus }
      foreign.lie = { _, reply, count in
        switch Int.random(in: 0..<8, using: &random) {
        case 0: count = Int.random(in: -5...reply.count + 5, using: &random)
        case 1...4:
          guard count > 16 else { return }
          for _ in 0..<4 {
            reply[Int.random(in: 16..<count, using: &random)] = UInt8.random(in: 0...255, using: &random)
          }
        default: break
        }
      }
      #expect(mounted.useAll() <= 1503, "\(round)")
    }
  }

  @Test func namesThatLie() throws {
    func read(_ change: (inout FUSEDirectoryEntry) -> Void, name: [UInt8] = Array("name".utf8), cut: Int = 0) throws {
      var head = FUSEDirectoryEntry()
      head.nameLength = UInt32(name.count)
      change(&head)
      var bytes = withUnsafeBytes(of: head) { Array($0) } + name
      bytes.removeLast(cut)
      try bytes.withUnsafeBytes {
        var reader = FUSEDirectoryReader($0, hasNodes: false)
        while let record = try reader.next() { #expect(record.entry.nodeID == 0) }
      }
    }
    try read { _ in }
    #expect(throws: Errno.EIO) { try read { $0.nameLength = 0 } }
    #expect(throws: Errno.EIO) { try read { $0.nameLength = 5 } }
    #expect(throws: Errno.EIO) { try read { $0.nameLength = 256 } }
    #expect(throws: Errno.EIO) { try read { $0.nameLength = UInt32.max } }
    #expect(throws: Errno.EIO) { try read({ _ in }, cut: 10) }
    #expect(throws: Errno.EIO) { try read({ _ in }, name: Array("a/b".utf8)) }
    #expect(throws: Errno.EIO) { try read({ _ in }, name: [0x61, 0, 0x62]) }
  }
}

extension Mounted {
  /// The root as a place to open things at.
  var location: Location {
    Location(
      mount: MountTable(root: fileSystem, source: PathBytes("x"), flags: []).root.mount, dentry: fileSystem.root)
  }
}
