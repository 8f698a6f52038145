// The file system's vnodes against the real server and the host's own view of the tree.
import Base
import Files
import Foundation
import Glibc
import Memory
import Pages
import Testing
import VirtioABI
import VirtioFileSystem

@testable import VirtioFS

/// Time that tests move by hand, for both ends.
final class TestClock: @unchecked Sendable {
  var now: UInt64 = 1_000_000_000_000
}

/// A mounted directory.
struct Mounted {
  let fileSystem: VirtioFileSystem
  let transport: ServerTransport
  let server: FUSEServer
  let clock: TestClock
  var root: VirtioNode { fileSystem.find(FUSE.rootNodeID)! }

  init(fileSystem: VirtioFileSystem, transport: ServerTransport, server: FUSEServer, clock: TestClock) {
    self.fileSystem = fileSystem
    self.transport = transport
    self.server = server
    self.clock = clock
  }

  init(
    _ path: String, nodeLimit: Int = 16_384, lie: ((ServerTransport) -> any FUSETransport)? = nil,
    configure: (inout FUSEServer.Configuration) -> Void = { _ in }
  ) throws {
    HostedArena.prepare()
    var configuration = FUSEServer.Configuration()
    configure(&configuration)
    let clock = TestClock()
    self.clock = clock
    configuration.clock = { clock.now }
    server = try FUSEServer(path: path, configuration: configuration)
    transport = ServerTransport(server)
    let carrier = lie?(transport) ?? transport
    fileSystem = try VirtioFileSystem(transport: carrier, nodeLimit: nodeLimit, clock: { clock.now })
  }

  /// A directory whose server lies as the test says, and is honest until it does.
  static func lying(_ path: String, isWritable: Bool = false) throws -> (Mounted, LyingTransport) {
    var liar: LyingTransport?
    let mounted = try Mounted(
      path,
      lie: {
        liar = LyingTransport($0)
        return liar!
      }, configure: { $0.isWritable = isWritable })
    return (mounted, liar!)
  }

  func node(_ path: String) throws -> VirtioNode? {
    var node: VirtioNode? = root
    for name in path.split(separator: "/") {
      node = try Array(name.utf8).withUnsafeBytes { bytes in
        try node?.lookup(PathBytes(bytes)).vnode as? VirtioNode
      }
    }
    return node
  }

  func list(_ node: VirtioNode) throws -> [String] {
    var names: [String] = []
    try node.forEachEntry(from: 0) { name, _ in
      names.append(String(decoding: name.bytes, as: UTF8.self))
      return true
    }
    return names
  }

  func read(_ node: VirtioNode, _ offset: Int = 0, _ count: Int = 1 << 20) throws -> [UInt8] {
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 16)
    defer { buffer.deallocate() }
    var transfer = Transfer(kernel: buffer)
    let got = try node.read(at: UInt64(offset), into: &transfer, flags: OpenFlags(rawValue: 0))
    return Array(buffer[..<got])
  }

  func text(_ path: String) throws -> String? {
    guard let node = try node(path) else { return nil }
    return String(decoding: try read(node), as: UTF8.self)
  }

  /// find(1): every path and what it is, depth first.
  func walk(_ node: VirtioNode, _ path: String = "", _ visit: (String, VirtioNode) throws -> Void) throws {
    for name in try list(node) {
      guard let child = try self.child(node, name) else { continue }  // The liar's; others are counted.
      try visit("\(path)/\(name)", child)
      if child.isDirectory { try walk(child, "\(path)/\(name)", visit) }
    }
  }

  /// Uses all that a liar shows, three times, two seconds apart; a round is given up behind 500 names.
  /// - Returns: names in all.
  func useAll() -> Int {
    var steps = 0
    for _ in 0..<3 {
      try? walk(root) { _, node in
        steps += 1
        if steps > 500 { throw Errno.EIO }
        _ = try? node.getAttributes()
        _ = try? node.readLink()
        if node.type == .regular { _ = try? read(node, 0, 65_536) }
      }
      clock.now += 2_000_000_000
    }
    return steps
  }

  func child(_ node: VirtioNode, _ name: String) throws -> VirtioNode? {
    try Array(name.utf8).withUnsafeBytes { try node.lookup(PathBytes($0)).vnode as? VirtioNode }
  }
}

@Suite(.serialized) struct NodeTests {
  @Test func walksTheHostsTree() throws {
    let tree = HostTree(
      "mkdir -p a/b/c d 'e f' && echo x > a/one && echo yy > a/b/two && ln -s ../x a/b/c/link && mkfifo d/fifo"
        + " && chmod 700 d && seq 300 | while read i; do echo $i > 'e f'/$i; done")
    let mounted = try Mounted(tree.path)
    var seen = 0
    try mounted.walk(mounted.root) { path, node in
      seen += 1
      var expected = stat()
      #expect(lstat(tree.path + path, &expected) == 0)
      let got = try node.getAttributes()
      #expect(got.mode == expected.st_mode)
      #expect(got.inode == UInt64(expected.st_ino))
      #expect(got.byteCount == UInt64(expected.st_size))
      #expect(got.linkCount == UInt32(expected.st_nlink))
      #expect(got.modificationTime.seconds == Int64(expected.st_mtim.tv_sec))
      #expect(got.modificationTime.nanoseconds == UInt32(expected.st_mtim.tv_nsec))
      #expect(got.device == mounted.fileSystem.device)
    }
    #expect(seen == 9 + 300)
    #expect(try mounted.node("a/b/c/link")!.readLink() == Array("../x".utf8))
    #expect(try mounted.node("a/b/two") === mounted.node("a/b/two"))
    #expect(try mounted.node("a/none") == nil)
    // A message a directory (the second is for what 64 KiB do not hold), and none for the 310 stats.
    #expect(mounted.transport.count(FUSEOpcode.readdirplus) <= 7)
    #expect(mounted.transport.count(FUSEOpcode.getattr) == 1)
    #expect(mounted.transport.count(FUSEOpcode.lookup) == 0)
  }

  @Test func readsAtEveryOffset() throws {
    let tree = HostTree("seq 60000 > large && printf abc > small && : > empty && truncate -s 5000000 sparse")
    let mounted = try Mounted(tree.path)
    let content = (1...60_000).map { "\($0)\n" }.joined().utf8.map { $0 }
    let large = try mounted.node("large")!
    for (offset, count) in [(0, 1), (4095, 2), (4096, 4096), (100_000, 200_000), (content.count - 1, 10)] {
      #expect(try mounted.read(large, offset, count) == Array(content[offset..<min(offset + count, content.count)]))
    }
    #expect(try mounted.read(large) == content)
    #expect(try mounted.read(large, content.count, 10).isEmpty)
    #expect(try mounted.text("small") == "abc")
    #expect(try mounted.text("empty") == "")
    #expect(try mounted.read(mounted.node("sparse")!, 4_999_990, 100) == [UInt8](repeating: 0, count: 10))
    // Cached: read again without a message.
    let before = mounted.transport.log.count
    #expect(try mounted.read(large) == content)
    #expect(mounted.transport.log.count == before)
  }

  /// Files without blocks whose size says nothing: what they are is known when they are read.
  @Test func filesThatAreMadeWhenTheyAreRead() throws {
    let host = { (path: String) in (try? String(contentsOfFile: path, encoding: .utf8)) ?? "" }
    let processes = try Mounted("/proc")
    #expect(try processes.text("sys/kernel/ostype") == "Linux\n")
    let names = host("/proc/filesystems")
    #expect(names.count > 20)
    #expect(try processes.text("filesystems") == names)
    // In pieces, and beyond the end.
    let node = try #require(try processes.node("filesystems"))
    #expect(try processes.read(node, 5, 10) == Array(names.utf8.dropFirst(5).prefix(10)))
    #expect(try processes.read(node, names.utf8.count, 10).isEmpty)
    // Larger than one request takes.
    let symbols = try #require(try processes.node("kallsyms"))
    #expect(try processes.read(symbols, 0, 300_000).count == 300_000)
    let kernel = try Mounted("/sys/kernel")
    let uevent = host("/sys/kernel/uevent_seqnum")
    #expect(!uevent.isEmpty && uevent.count < 30)
    #expect(try kernel.text("uevent_seqnum") == uevent)
    // An empty file that somebody else fills.
    let tree = HostTree(": > empty")
    let mounted = try Mounted(tree.path)
    #expect(try mounted.text("empty") == "")
    shell("cd '\(tree.path)' && seq 5000 > empty")
    mounted.clock.now += 1_100_000_000
    #expect(try mounted.text("empty") == (1...5000).map { "\($0)\n" }.joined())
  }

  @Test func seesTheHostsChangesInTime() throws {
    let tree = HostTree("echo old > file && mkdir dir && ln -s file link")
    let mounted = try Mounted(tree.path)
    #expect(try mounted.list(mounted.root).count == 3)
    #expect(try mounted.text("file") == "old\n")
    #expect(try mounted.list(mounted.node("dir")!) == [])
    #expect(try mounted.node("dir/new") == nil)
    shell("cd '\(tree.path)' && echo newer > file && touch dir/new")
    // Believed for a second.
    #expect(try mounted.text("file") == "old\n")
    #expect(try mounted.list(mounted.node("dir")!) == [])
    mounted.clock.now += 1_100_000_000
    #expect(try mounted.text("file") == "newer\n")
    #expect(try mounted.list(mounted.node("dir")!) == ["new"])
    #expect(try mounted.node("dir/new") != nil)
    // Same size, other content: the time of the change tells.
    shell("cd '\(tree.path)' && echo NEWER > file && touch -d '2001-01-01' file")
    mounted.clock.now += 1_100_000_000
    #expect(try mounted.text("file") == "NEWER\n")
    // Gone, and another file in its place.
    let before = try mounted.node("file")
    shell("cd '\(tree.path)' && rm file && echo other > file")
    mounted.clock.now += 1_100_000_000
    let after = try mounted.node("file")
    #expect(after !== before)
    #expect(try mounted.text("file") == "other\n")
    #expect(throws: Errno.ESTALE) { try before!.getAttributes() }
  }

  @Test func smallFilesComeTogether() throws {
    let tree = HostTree("mkdir dir && seq 200 | while read i; do echo content-$i > dir/$i; done")
    let mounted = try Mounted(tree.path)
    let directory = try mounted.node("dir")!
    mounted.transport.notifications = 0
    for name in try mounted.list(directory) {
      let file = try mounted.child(directory, name)!
      #expect(try mounted.read(file) == Array("content-\(name)\n".utf8))
    }
    #expect(mounted.transport.count(FUSEOpcode.read) <= 200 + 15)
    #expect(mounted.transport.notifications <= 1 + 1 + 200 / 16 + 5)
    // What was read ahead is as old as any cached page, and not older.
    let second = HostTree("seq 20 | while read i; do echo old-$i > $i; done")
    let other = try Mounted(second.path)
    let names = try other.list(other.root)
    for name in names[..<3] { _ = try other.text(name) }
    shell("cd '\(second.path)' && for i in *; do echo newer-$i > $i; done")
    other.clock.now += 1_100_000_000
    for name in names { #expect(try other.text(name) == "newer-\(name)\n") }
  }

  @Test func largeDirectories() throws {
    let tree = HostTree("seq 10000 | xargs touch")
    let mounted = try Mounted(tree.path)
    let names = try mounted.list(mounted.root)
    #expect(names.count == 10_000)
    #expect(Set(names).count == 10_000)
    let messages = mounted.transport.count(FUSEOpcode.readdirplus)
    #expect(messages <= 10_000 * 168 / 65_000 + 2)
    for name in names { _ = try mounted.child(mounted.root, name)!.getAttributes() }
    #expect(mounted.transport.log.count - messages == 2)
    // In pieces, by cookies.
    var pieces: [String] = []
    var cookie: UInt64 = 0
    while true {
      var taken = 0
      try mounted.root.forEachEntry(from: cookie) { name, record in
        if taken == 777 { return false }
        taken += 1
        pieces.append(String(decoding: name.bytes, as: UTF8.self))
        cookie = record.cookie
        return true
      }
      if taken == 0 { break }
    }
    #expect(pieces == names)
    #expect(mounted.transport.count(FUSEOpcode.readdirplus) == messages)
  }

  @Test func nodesAreGivenBack() throws {
    let tree = HostTree("seq 30 | while read d; do mkdir $d; seq 20 | while read f; do : > $d/$f; done; done")
    let mounted = try Mounted(tree.path, nodeLimit: 100)
    for _ in 0..<3 { try mounted.walk(mounted.root) { _, _ in } }
    #expect(mounted.fileSystem.nodeCount < 200)
    try mounted.fileSystem.synchronise()
    #expect(mounted.transport.count(FUSEOpcode.batchForget) > 0)
    #expect(mounted.transport.count(FUSEOpcode.batchForget) < 40)
    // The server knows exactly what we know (and the directories of it).
    #expect(mounted.server.statistics.nodes <= mounted.fileSystem.nodeCount + 30)
  }

  @Test func nodesAreGivenBackWhenMemoryIsShort() throws {
    let tree = HostTree("seq 10 | while read d; do mkdir $d; seq 20 | while read f; do echo $f > $d/$f; done; done")
    let mounted = try Mounted(tree.path)
    let held = try #require(try mounted.node("3/4"))
    try mounted.walk(mounted.root) { _, _ in }
    let before = mounted.fileSystem.nodeCount
    #expect(before > 200)
    var given = 0
    for _ in 0..<10 { given += mounted.fileSystem.shrink(.max) }
    #expect(given > 150 && mounted.fileSystem.nodeCount == before - given)
    #expect(try mounted.node("3/4") === held)
    #expect(try mounted.read(mounted.node("5/6")!) == Array("6\n".utf8))
  }

  @Test func refusesWhatIsNotOurs() throws {
    let tree = HostTree("mkfifo fifo && echo x > file && ln -s /etc link")
    let mounted = try Mounted(tree.path)
    #expect(throws: Errno.ENODEV) { try mounted.node("fifo")!.memoryObject() }
    #expect(throws: Errno.EINVAL) { try mounted.node("file")!.readLink() }
    #expect(throws: Errno.ENOTDIR) { try mounted.node("file/x") }
    #expect(throws: Errno.ENOTDIR) { try mounted.node("link/passwd") }
    #expect(try mounted.fileSystem.statistics().blockCount > 0)
  }
}

@Suite(.serialized) struct HostileServerTests {
  /// Every reply may be changed anywhere: errors are fine, crashes and endless loops are not.
  @Test func corruptReplies() throws {
    let tree = HostTree(
      "mkdir -p a/b && seq 40 | while read i; do echo $i > a/$i; done && ln -s a link && seq 9000 > large")
    var random = SystemRandomNumberGenerator()
    for round in 0..<60 {
      let (mounted, lying) = try Mounted.lying(tree.path)
      lying.lie = { _, reply, count in
        switch Int.random(in: 0..<8, using: &random) {
        case 0: count = Int.random(in: -5...reply.count + 5, using: &random)
        case 1:
          count = Int.random(in: 16...max(16, count), using: &random)
          reply.storeBytes(of: UInt32(count), as: UInt32.self)
        case 2...4:
          guard count > 16 else { return }
          for _ in 0..<4 {
            reply[Int.random(in: 16..<count, using: &random)] = UInt8.random(in: 0...255, using: &random)
          }
        case 5:
          guard count > 40 else { return }
          let place = Int.random(in: 16...count - 8, using: &random)
          reply.storeBytes(of: UInt64.max, toByteOffset: place, as: UInt64.self)
        default: break
        }
      }
      #expect(mounted.useAll() <= 1503, "\(round)")
    }
  }

  @Test func sizesThatChangeAndReadsThatAreShort() throws {
    let tree = HostTree("seq 9000 > large")
    let (mounted, lying) = try Mounted.lying(tree.path)
    let node = try mounted.node("large")!
    lying.about = FUSEOpcode.read
    lying.lie = { _, reply, count in
      count = 16 + 100
      reply.storeBytes(of: UInt32(count), as: UInt32.self)
    }
    // A file that is shorter than its size reads as zeros behind its end.
    let got = try mounted.read(node, 0, 4096)
    #expect(got.count == 4096)
    lying.about = FUSEOpcode.getattr
    lying.lie = { _, reply, _ in reply.storeBytes(of: UInt64.max, toByteOffset: 16 + 16 + 8, as: UInt64.self) }
    mounted.clock.now += 2_000_000_000
    #expect(throws: Errno.EIO) { try mounted.read(node, 0, 4096) }
    lying.lie = { _, reply, _ in reply.storeBytes(of: UInt32(0o040755), toByteOffset: 16 + 16 + 60, as: UInt32.self) }
    #expect(throws: Errno.EIO) { try mounted.read(node, 0, 4096) }
    lying.lie = nil
    #expect(try mounted.read(node, 0, 2) == Array("1\n".utf8))
  }

  /// A directory that never ends without ever having an entry.
  @Test func directoriesWithoutEnd() throws {
    let tree = HostTree()
    let (mounted, lying) = try Mounted.lying(tree.path)
    lying.about = FUSEOpcode.readdirplus
    lying.lie = { _, reply, count in
      // "." until the reply is full.
      let record = 160
      let records = (reply.count - 16) / record
      for index in 0..<records {
        let start = 16 + index * record
        for offset in start..<start + record { reply[offset] = 0 }
        reply.storeBytes(of: 1, toByteOffset: start + 128 + 16, as: UInt32.self)
        reply[start + 152] = 0x2e
      }
      count = 16 + records * record
      reply.storeBytes(of: UInt32(count), as: UInt32.self)
    }
    #expect(throws: Errno.EIO) { try mounted.list(mounted.root) }
  }
}
