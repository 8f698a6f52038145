// Changes through the file system's vnodes against the real server and the host's own view: what they cost in messages, what is cached
// afterwards, and what happens when somebody else changes the same files.
import Base
import Files
import Glibc
import Memory
import Pages
import Testing
import VirtioABI
import VirtioFileSystem

@testable import VirtioFS

/// How large a file may become for this process while the body of `withFileSizeLimit` runs: 8 GiB, which no other test meets.
let fileSizeLimit = 1 << 33

/// Runs the body while the process may not make files larger than `fileSizeLimit`.
func withFileSizeLimit(_ body: () throws -> Void) throws {
  var old = rlimit()
  getrlimit(__rlimit_resource_t(1), &old)
  var small = rlimit(rlim_cur: rlim_t(fileSizeLimit), rlim_max: old.rlim_max)
  setrlimit(__rlimit_resource_t(1), &small)
  defer { setrlimit(__rlimit_resource_t(1), &old) }
  try body()
}

extension Mounted {
  static func writable(
    _ path: String, cache: FUSEServer.CachePolicy = .automatic, pinLimit: Int = 256, delays: Bool = false
  ) throws -> Mounted {
    let mounted = try Mounted(
      path,
      configure: { configuration in
        configuration.isWritable = true
        configuration.cache = cache
        configuration.pinLimit = pinLimit
      })
    #expect(mounted.fileSystem.delaysWrites == (cache != .none))
    mounted.fileSystem.delaysWrites = delays
    return mounted
  }

  @discardableResult func write(_ node: VirtioNode, _ offset: Int, _ bytes: [UInt8]) throws -> Int {
    try bytes.withUnsafeBytes { bytes in
      var transfer = Transfer(kernelSource: bytes)
      return try node.write(at: UInt64(offset), from: &transfer, flags: OpenFlags(rawValue: 1))
    }
  }

  func create(_ parent: VirtioNode, _ name: String, mode: UInt32 = 0o644, type: FileType = .regular) throws
    -> VirtioNode
  {
    try withName(name) { bytes in
      let file = NewFile(type: type, mode: mode)
      let made =
        type == .directory
        ? try parent.makeDirectory(PathBytes(bytes), file) : try parent.create(PathBytes(bytes), file)
      return made.vnode as! VirtioNode
    }
  }

  func unlink(_ parent: VirtioNode, _ name: String) throws {
    let node = try child(parent, name)!
    try withName(name) { bytes in
      if node.isDirectory {
        try parent.removeDirectory(PathBytes(bytes), node)
      } else {
        try parent.unlink(PathBytes(bytes), node)
      }
    }
  }

  func rename(_ parent: VirtioNode, _ name: String, _ target: VirtioNode, _ newName: String, _ flags: RenameFlags = [])
    throws
  {
    let node = try child(parent, name)!
    let replaced = try child(target, newName)
    try withName(name) { name in
      try withName(newName) { newName in
        try parent.rename(
          PathBytes(name), node, to: target, as: PathBytes(newName), replacing: replaced, flags: flags)
      }
    }
  }

  /// Messages that a body costs.
  func messages(_ body: () throws -> Void) rethrows -> [UInt32] {
    let before = transport.log.count
    try body()
    return Array(transport.log[before...])
  }
}

extension HostTree {
  func content(_ name: String) -> [UInt8]? {
    let file = open("\(path)/\(name)", O_RDONLY)
    guard file >= 0 else { return nil }
    defer { close(file) }
    var status = stat()
    fstat(file, &status)
    var bytes = [UInt8](repeating: 0, count: Int(status.st_size))
    return Glibc.read(file, &bytes, bytes.count) == bytes.count ? bytes : nil
  }
}

@Suite(.serialized) struct ChangeTests {
  @Test func aFileIsMadeAndWrittenWithAMessageEach() throws {
    let tree = HostTree()
    let mounted = try Mounted.writable(tree.path)
    let root = mounted.root
    _ = try root.freshAttributes()
    var node: VirtioNode?
    do {
      let sent = try mounted.messages { node = try mounted.create(root, "new") }
      #expect(sent == [FUSEOpcode.create])
    }
    let file = try #require(node)
    let data = (0..<100_000).map { UInt8(truncatingIfNeeded: $0 &* 31 ^ $0 >> 7) }
    var count = 0
    do {
      let sent = try mounted.messages { count = try mounted.write(file, 0, data) }
      #expect(sent == [FUSEOpcode.write])
    }
    #expect(count == data.count)
    #expect(tree.content("new") == data)
    // What was written is cached, the attributes are known, the directory's too.
    let quiet = try mounted.messages {
      #expect(try mounted.read(file) == data)
      #expect(try file.getAttributes().byteCount == 100_000)
      _ = try root.getAttributes()
      #expect(try mounted.write(file, 0, []) == 0)
    }
    #expect(quiet.isEmpty)
    var status = stat()
    stat(tree.path + "/new", &status)
    let got = try file.getAttributes()
    #expect(got.modificationTime.seconds == Int64(status.st_mtim.tv_sec))
    #expect(got.modificationTime.nanoseconds == UInt32(status.st_mtim.tv_nsec))
    #expect(got.blockCount == UInt64(status.st_blocks))
    var above = stat()
    stat(tree.path, &above)
    #expect(try root.getAttributes().modificationTime.nanoseconds == UInt32(above.st_mtim.tv_nsec))
    // In the middle, and behind the end.
    try mounted.write(file, 5000, [1, 2, 3])
    try mounted.write(file, 150_000, [9])
    var expected = data + [UInt8](repeating: 0, count: 50_000) + [9]
    expected.replaceSubrange(5000..<5003, with: [1, 2, 3])
    #expect(tree.content("new") == expected)
    #expect(try mounted.read(file) == expected)
  }

  @Test func partOfAPageThatIsNotCachedIsReadFirst() throws {
    let tree = HostTree("seq 10000 > file")
    let mounted = try Mounted.writable(tree.path)
    let node = try mounted.node("file")!
    var expected = tree.content("file")!
    try mounted.write(node, 10_000, Array("hello".utf8))
    expected.replaceSubrange(10_000..<10_005, with: Array("hello".utf8))
    #expect(tree.content("file") == expected)
    #expect(try mounted.read(node) == expected)
  }

  @Test func errorsComeBackAndLeaveNothingBehind() throws {
    let tree = HostTree("printf 0123456789 > file && mkdir dir && touch dir/x")
    let mounted = try Mounted.writable(tree.path)
    let node = try mounted.node("file")!
    // A file that nobody may grow beyond that.
    let limit = fileSizeLimit
    try withFileSizeLimit { () throws in
      #expect(throws: Errno.EFBIG) { try mounted.write(node, limit + 10, [1, 2, 3]) }
      #expect(try node.getAttributes().byteCount == 10)
      #expect(try mounted.read(node) == Array("0123456789".utf8))
      // Short, and then not at all.
      #expect(try mounted.write(node, limit - 2, [1, 2, 3, 4]) == 2)
      #expect(try node.getAttributes().byteCount == UInt64(limit))
      #expect(try mounted.read(node, limit - 3, 100) == [0, 1, 2])
    }
    #expect(throws: Errno.ENOTEMPTY) { try mounted.unlink(mounted.root, "dir") }
    #expect(throws: Errno.EPERM) { try mounted.create(mounted.root, "device", type: .characterDevice) }
    #expect(try mounted.node("dir/x") != nil)
  }

  @Test func namesAreKnownAfterTheirChanges() throws {
    let tree = HostTree("mkdir a b && touch a/one a/two b/three")
    let mounted = try Mounted.writable(tree.path)
    let (a, b) = (try mounted.node("a")!, try mounted.node("b")!)
    #expect(try mounted.list(a).sorted() == ["one", "two"])
    #expect(try mounted.list(b) == ["three"])
    let one = try mounted.child(a, "one")!
    let sent = try mounted.messages { try mounted.rename(a, "one", b, "four") }
    #expect(sent == [FUSEOpcode.rename2])
    // The listings answer, as long as they hold.
    let quiet = try mounted.messages { () throws in
      #expect(try mounted.child(a, "one") == nil)
      #expect(try mounted.child(b, "four") === one)
      #expect(try mounted.child(b, "none") == nil)
    }
    #expect(quiet.isEmpty)
    #expect(try mounted.list(a) == ["two"])
    #expect(try mounted.list(b).sorted() == ["four", "three"])
    try mounted.rename(b, "four", b, "three")
    #expect(try mounted.list(b) == ["three"])
    #expect(try mounted.child(b, "three") === one)
    try mounted.rename(a, "two", b, "three", .exchange)
    #expect(try mounted.child(a, "two") === one)
    #expect(throws: Errno.EEXIST) { try mounted.rename(a, "two", b, "three", .noReplace) }
    try mounted.unlink(a, "two")
    #expect(try mounted.child(a, "two") == nil)
    #expect(try mounted.list(a).isEmpty)
    try mounted.unlink(mounted.root, "a")
    #expect(try mounted.list(mounted.root) == ["b"])
    // Made, taken away and made again: another file of the same name.
    let first = try mounted.create(b, "again")
    try mounted.unlink(b, "again")
    let second = try mounted.create(b, "again")
    #expect(first !== second)
    #expect(try mounted.child(b, "again") === second)
    #expect(try mounted.create(b, "dir", type: .directory).isDirectory)
    #expect(try mounted.list(b).sorted() == ["again", "dir", "three"])
  }

  @Test func aListingThatIsBeingReadGoesOn() throws {
    let tree = HostTree("seq 2000 | xargs touch")
    let mounted = try Mounted.writable(tree.path)
    let root = mounted.root
    var names: [String] = []
    var cookie: UInt64 = 0
    try root.forEachEntry(from: 0) { name, record in
      if names.count == 500 { return false }
      names.append(String(decoding: name.bytes, as: UTF8.self))
      cookie = record.cookie
      return true
    }
    // One that was seen, one that was not, and a new one.
    let unseen = (1...2000).map { "\($0)" }.first { !names.contains($0) }!
    let seen = names[100]
    try mounted.unlink(root, seen)
    try mounted.unlink(root, unseen)
    _ = try mounted.create(root, "new")
    var rest: [String] = []
    try root.forEachEntry(from: cookie) { name, _ in
      rest.append(String(decoding: name.bytes, as: UTF8.self))
      return true
    }
    let all = names + rest
    #expect(Set(all).count == all.count)
    // Whether the new one is seen is open.
    #expect(Set(all).subtracting(["new"]) == Set((1...2000).map { "\($0)" }).subtracting([unseen]))
    #expect(try mounted.list(root).count == 1999)
  }

  @Test func unlinkedFilesLiveAsLongAsTheyAreUsed() throws {
    let tree = HostTree("printf content > file")
    let mounted = try Mounted.writable(tree.path)
    do {
      let node = try mounted.node("file")!
      #expect(try mounted.read(node) == Array("content".utf8))
      try mounted.unlink(mounted.root, "file")
      #expect(mounted.server.statistics.pins == 1)
      #expect(try node.getAttributes().linkCount == 0)
      try mounted.write(node, 7, Array("!".utf8))
      #expect(try mounted.read(node) == Array("content!".utf8))
      var change = AttributeChange()
      change.byteCount = 3
      try node.setAttributes(change)
      #expect(try node.getAttributes().byteCount == 3)
    }
    // With its last user it goes, and the server hears of it.
    mounted.fileSystem.settle(always: true)
    #expect(mounted.server.statistics.pins == 0)
    #expect(mounted.server.statistics.nodes == 1)
  }

  @Test func moreUnlinkedFilesThanTheServerCanKeep() throws {
    let tree = HostTree("mkdir d && cd d && seq 400 | xargs touch && ln 1 other")
    let mounted = try Mounted.writable(tree.path, pinLimit: 16)
    let directory = try mounted.node("d")!
    // Nobody uses them: they make room for one another.
    for name in try mounted.list(directory) { try mounted.unlink(directory, name) }
    #expect(try mounted.list(directory).isEmpty)
    // In use, they do not.
    let kept = try (0..<16).map { index -> VirtioNode in
      let node = try mounted.create(directory, "k\(index)")
      try mounted.unlink(directory, "k\(index)")
      return node
    }
    _ = try mounted.create(directory, "last")
    #expect(throws: Errno.ENFILE) { try mounted.unlink(directory, "last") }
    withExtendedLifetime(kept) {}
    #expect(try mounted.child(directory, "last") != nil)
  }

  @Test func rightsThatGoDoNotCloseFiles() throws {
    let tree = HostTree()
    let mounted = try Mounted.writable(tree.path)
    let file = try mounted.create(mounted.root, "file", mode: 0o444)
    #expect(file.usableHandle(writing: true) != 0)
    let place = Location(
      mount: MountTable(root: mounted.fileSystem, source: PathBytes("x"), flags: []).root.mount,
      dentry: mounted.fileSystem.root)
    var open: OpenFile? = try file.open(OpenFlags(rawValue: 1), at: place)
    try mounted.write(file, 0, Array("content".utf8))
    #expect(tree.content("file") == Array("content".utf8))
    withExtendedLifetime(open) {}
    open = nil
    mounted.fileSystem.settle()
    #expect(mounted.server.statistics.handles == 0)
    // The same for rights that are taken away later.
    let other = try mounted.create(mounted.root, "other")
    open = try other.open(OpenFlags(rawValue: 2), at: place)
    var change = AttributeChange()
    change.mode = 0
    try other.setAttributes(change)
    #expect(mounted.server.statistics.handles == 1)
    try mounted.write(other, 0, [1])
    #expect(try mounted.read(other) == [1])
    open = nil
    mounted.fileSystem.settle()
    #expect(mounted.server.statistics.handles == 0)
  }

  @Test func attributesAreSetAndKnown() throws {
    let tree = HostTree("printf 0123456789 > file && ln -s file link")
    let mounted = try Mounted.writable(tree.path)
    let node = try mounted.node("file")!
    #expect(try mounted.read(node).count == 10)
    var change = AttributeChange()
    change.mode = 0o600
    change.accessTime = .to(FileTime(seconds: 1_000, nanoseconds: 999_999_999))
    change.modificationTime = .to(FileTime(seconds: -1, nanoseconds: 5))
    do {
      let sent = try mounted.messages { try node.setAttributes(change) }
      #expect(sent == [FUSEOpcode.setattr])
    }
    var status = stat()
    stat(tree.path + "/file", &status)
    #expect(status.st_mode & 0o7777 == 0o600)
    #expect(status.st_atim.tv_sec == 1_000 && status.st_atim.tv_nsec == 999_999_999)
    #expect(status.st_mtim.tv_sec == -1 && status.st_mtim.tv_nsec == 5)
    let quiet = try mounted.messages {
      let got = try node.getAttributes()
      #expect(got.mode == status.st_mode)
      #expect(got.modificationTime == FileTime(seconds: -1, nanoseconds: 5))
    }
    #expect(quiet.isEmpty)
    for size in [4, 20, 0, 4096, 4097] {
      change = AttributeChange()
      change.byteCount = UInt64(size)
      let before = try mounted.read(node)
      try node.setAttributes(change)
      let expected = Array(before.prefix(size)) + [UInt8](repeating: 0, count: max(0, size - before.count))
      #expect(tree.content("file") == expected)
      #expect(try mounted.read(node) == expected)
      #expect(try node.getAttributes().byteCount == UInt64(size))
    }
    try node.allocate(mode: 0, offset: 0, byteCount: 10_000)
    #expect(try node.getAttributes().byteCount == 10_000)
    try mounted.write(node, 0, [UInt8](repeating: 7, count: 10_000))
    try node.allocate(mode: 3, offset: 100, byteCount: 5000)
    #expect(try mounted.read(node) == tree.content("file"))
    #expect(try mounted.read(node, 100, 1) == [0])
    #expect(throws: Errno.EOPNOTSUPP) { try node.allocate(mode: 8, offset: 0, byteCount: 4096) }
  }

  @Test func whatTheHostChangesIsSeen() throws {
    let tree = HostTree("printf 0123456789 > file && mkdir d && touch d/a")
    let mounted = try Mounted.writable(tree.path)
    let node = try mounted.node("file")!
    let directory = try mounted.node("d")!
    #expect(try mounted.read(node).count == 10)
    #expect(try mounted.list(directory) == ["a"])
    // Our own write comes upon somebody else's: what was cached is not believed any more.
    shell(
      "cd '\(tree.path)' && printf ABCDEFGHIJKLMN > file && touch -d @1234567 file && touch d/b && touch -d @1234567 d")
    try mounted.write(node, 2, Array("xx".utf8))
    #expect(try mounted.read(node) == Array("ABxxEFGHIJKLMN".utf8))
    #expect(try node.getAttributes().byteCount == 14)
    _ = try mounted.create(directory, "c")
    #expect(try mounted.child(directory, "b") != nil)
    #expect(try mounted.list(directory).sorted() == ["a", "b", "c"])
  }

  @Test func storesThroughMappingsAreWrittenInTime() throws {
    let tree = HostTree("head -c 20000 /dev/zero > file")
    let mounted = try Mounted.writable(tree.path)
    let node = try mounted.node("file")!
    let object = try node.memoryObject()
    let data = [UInt8](repeating: 5, count: 9000)
    // As a fault does it: the page is marked, then stored to.
    try data.withUnsafeBytes { bytes in
      var transfer = Transfer(kernelSource: bytes)
      _ = try object.write(at: 3000, from: &transfer)
    }
    #expect(object.dirtyPages == 3)
    #expect(tree.content("file")![3000] == 0)
    #expect(mounted.fileSystem.writeBackDirty() == nil)
    #expect(object.dirtyPages == 0)
    #expect(Array(tree.content("file")![3000..<12_000]) == data)
    #expect(try node.getAttributes().byteCount == 20_000)
    // Durable, and nothing left to write.
    let sent = try mounted.messages { try node.synchronise(dataOnly: false) }
    #expect(sent == [FUSEOpcode.fsync])
  }

  @Test func readOnlyServersRefuse() throws {
    let tree = HostTree("printf x > file")
    let mounted = try Mounted(tree.path)
    let node = try mounted.node("file")!
    #expect(throws: Errno.EROFS) { try mounted.write(node, 0, [1]) }
    #expect(throws: Errno.EROFS) { try mounted.create(mounted.root, "new") }
    #expect(throws: Errno.EROFS) { try mounted.unlink(mounted.root, "file") }
    #expect(throws: Errno.EROFS) { try mounted.rename(mounted.root, "file", mounted.root, "new") }
    var change = AttributeChange()
    change.byteCount = 0
    #expect(throws: Errno.EROFS) { try node.setAttributes(change) }
    #expect(throws: Errno.EROFS) { try node.allocate(mode: 0, offset: 0, byteCount: 1) }
    #expect(tree.content("file") == [0x78])
  }

  @Test func theCacheNoneAsksEveryTime() throws {
    let tree = HostTree("printf 0123456789 > file")
    let mounted = try Mounted.writable(tree.path, cache: .none)
    let node = try mounted.node("file")!
    try mounted.write(node, 0, Array("abc".utf8))
    shell(
      "printf zz | dd of='\(tree.path)/file' bs=1 seek=8 conv=notrunc status=none && touch -d @99 '\(tree.path)/file'")
    #expect(try node.getAttributes().modificationTime.seconds == 99)
    #expect(try mounted.read(node) == Array("abc34567zz".utf8))
    // An append goes to the end that the host has.
    shell("printf more >> '\(tree.path)/file'")
    let end = Int(try node.getAttributes().byteCount)
    try mounted.write(node, end, Array("!".utf8))
    #expect(tree.content("file") == Array("abc34567zzmore!".utf8))
  }

  /// A server that lies about what it has written, made or changed is met with EIO, never with more than was asked for.
  @Test(arguments: [FUSEOpcode.write, FUSEOpcode.create, FUSEOpcode.rename2, FUSEOpcode.unlink, FUSEOpcode.setattr])
  func liesAboutChanges(about opcode: UInt32) throws {
    let tree = HostTree("seq 50 | xargs touch")
    let (mounted, liar) = try Mounted.lying(tree.path, isWritable: true)
    liar.about = opcode
    var random = SystemRandomNumberGenerator()
    liar.lie = { _, reply, count in
      switch Int.random(in: 0..<4, using: &random) {
      case 0: count = Int.random(in: 0...reply.count, using: &random)
      case 1: if count > 16 { reply.storeBytes(of: UInt32.max, toByteOffset: 16, as: UInt32.self) }
      default:
        guard count > 16 else { return }
        for _ in 0..<8 { reply[Int.random(in: 16..<count, using: &random)] = UInt8.random(in: 0...255, using: &random) }
      }
    }
    for index in 1..<50 {
      _ = try? {
        let node = try mounted.create(mounted.root, "new\(index)")
        let count = try mounted.write(node, index * 1000, [UInt8](repeating: 1, count: 5000))
        #expect(count <= 5000)
        var change = AttributeChange()
        change.byteCount = 3
        try node.setAttributes(change)
      }()
      _ = try? mounted.rename(mounted.root, "\(index)", mounted.root, "r\(index)")
      _ = try? mounted.unlink(mounted.root, "r\(index)")
    }
  }
}
