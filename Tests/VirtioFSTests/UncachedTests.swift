// What the client asks for each time: files without a name, holes, extended attributes; against the real server and the host's view.
import Base
import Files
import Glibc
import Memory
import Testing
import VirtioABI
import VirtioFileSystem

@testable import VirtioFS

// Not among the headers that Swift's view of glibc has.
@_silgen_name("getxattr")
private func hostAttribute(
  _ path: UnsafePointer<CChar>, _ name: UnsafePointer<CChar>, _ value: UnsafeMutableRawPointer, _ size: Int
) -> Int

@Suite(.serialized) struct UncachedTests {
  private func temporary(_ mounted: Mounted, mode: UInt32 = 0o600, canBeLinked: Bool = true) throws -> VirtioNode {
    let file = NewFile(type: .regular, mode: mode)
    return try mounted.root.createTemporary(file, canBeLinked: canBeLinked) as! VirtioNode
  }

  private func link(_ mounted: Mounted, _ name: String, _ node: VirtioNode) throws {
    try withName(name) { try mounted.root.link(PathBytes($0), to: node) }
  }

  @Test func aTemporaryFileGetsANameAndLosesIt() throws {
    let tree = HostTree()
    let mounted = try Mounted.writable(tree.path)
    do {
      var made: VirtioNode?
      let sent = try mounted.messages { made = try temporary(mounted) }
      #expect(sent == [FUSEOpcode.tmpfile])
      let node = try #require(made)
      #expect(node.isOrphan && mounted.server.statistics.pins == 1)
      try mounted.write(node, 0, Array("nameless".utf8))
      #expect(try node.getAttributes().linkCount == 0)
      #expect(try node.getAttributes().mode == 0o100600)
      #expect(try mounted.list(mounted.root).isEmpty)
      try link(mounted, "named", node)
      #expect(!node.isOrphan && mounted.server.statistics.pins == 0)
      #expect(tree.content("named") == Array("nameless".utf8))
      #expect(try node.getAttributes().linkCount == 1)
      #expect(try mounted.child(mounted.root, "named") === node)
      try link(mounted, "second", node)
      #expect(try node.getAttributes().linkCount == 2)
      try mounted.write(node, 8, Array("!".utf8))
      #expect(tree.content("second") == Array("nameless!".utf8))
      try mounted.unlink(mounted.root, "named")
      try mounted.unlink(mounted.root, "second")
      #expect(throws: Errno.ENOENT) { try link(mounted, "third", node) }
      #expect(try mounted.read(node) == Array("nameless!".utf8))
    }
    mounted.fileSystem.settle(always: true)
    #expect(mounted.server.statistics.nodes == 1 && mounted.server.statistics.pins == 0)
  }

  @Test func oneThatIsNeverNamedEndsWithItsUser() throws {
    let tree = HostTree()
    let mounted = try Mounted.writable(tree.path)
    do {
      let node = try temporary(mounted, canBeLinked: false)
      #expect(throws: Errno.ENOENT) { try link(mounted, "never", node) }
      try mounted.write(node, 5, [1])
      #expect(try mounted.read(node) == [0, 0, 0, 0, 0, 1])
    }
    mounted.fileSystem.settle(always: true)
    #expect(mounted.server.statistics.nodes == 1 && mounted.server.statistics.pins == 0)
    #expect(try mounted.list(mounted.root).isEmpty)
  }

  /// Of as many as the server may pin, those that nobody uses any more give their places.
  @Test func placesAreGivenBack() throws {
    let tree = HostTree()
    let mounted = try Mounted.writable(tree.path, pinLimit: 4)
    for _ in 0..<20 { _ = try temporary(mounted) }
    var kept: [VirtioNode] = []
    for _ in 0..<4 { kept.append(try temporary(mounted)) }
    #expect(throws: Errno.ENFILE) { try temporary(mounted) }
    #expect(kept.count == 4)
  }

  /// A mode that lets nobody open the file does not keep its maker from it.
  @Test func itsMakerMayUseItWhateverItsMode() throws {
    let tree = HostTree()
    let mounted = try Mounted.writable(tree.path)
    do {
      let node = try temporary(mounted, mode: 0)
      try mounted.write(node, 0, Array("secret".utf8))
      node.invalidate()
      #expect(try mounted.read(node) == Array("secret".utf8))
      #expect(try node.getAttributes().mode == 0o100000)
    }
    mounted.fileSystem.settle(always: true)
    #expect(mounted.server.statistics.handles == 0)
  }

  @Test(arguments: [false, true]) func holesAreTheHosts(delays: Bool) throws {
    let tree = HostTree("truncate -s 1M file")
    let mounted = try Mounted.writable(tree.path, delays: delays)
    let node = try mounted.node("file")!
    let size: UInt64 = 1 << 20
    #expect(throws: Errno.ENXIO) { try node.findData(from: 0, end: size) }
    #expect(try node.findHole(from: 5, end: size) == 5)
    // What waits in the cache counts as well: it is written first.
    try mounted.write(node, 256 << 10, Array("data".utf8))
    try mounted.write(node, 512 << 10, [UInt8](repeating: 1, count: 4096))
    #expect(try node.findData(from: 0, end: size) == 256 << 10)
    #expect(try node.findData(from: 256 << 10 + 2, end: size) == 256 << 10 + 2)
    #expect(try node.findHole(from: 256 << 10, end: size) == 260 << 10)
    #expect(try node.findHole(from: 512 << 10, end: size) == 516 << 10)
    #expect(try node.findHole(from: 600 << 10, end: size) == 600 << 10)
    #expect(throws: Errno.ENXIO) { try node.findData(from: 516 << 10, end: size) }
    #expect(try mounted.root.findData(from: 3, end: 10) == 3)
  }

  @Test func extendedAttributesAreTheHosts() throws {
    let tree = HostTree("touch file && ln -s file link && mkdir d")
    let mounted = try Mounted.writable(tree.path)
    func set(_ node: VirtioNode, _ name: String, _ value: [UInt8], _ mode: AttributeSetting = .any) throws {
      try withName(name) { name in
        try value.withUnsafeBytes { try node.setExtendedAttribute(PathBytes(name), $0, mode) }
      }
    }
    func get(_ node: VirtioNode, _ name: String) throws -> [UInt8] {
      try withName(name) { try node.getExtendedAttribute(PathBytes($0)) }
    }
    func remove(_ node: VirtioNode, _ name: String) throws {
      try withName(name) { try node.removeExtendedAttribute(PathBytes($0)) }
    }
    let node = try mounted.node("file")!
    let before = try node.getAttributes().changeTime
    usleep(20_000)
    do {
      let sent = try mounted.messages { try set(node, "user.colour", Array("blue".utf8)) }
      #expect(sent == [FUSEOpcode.setxattr])
    }
    #expect(try before < node.getAttributes().changeTime)
    var buffer = [UInt8](repeating: 0, count: 100)
    #expect(hostAttribute(tree.path + "/file", "user.colour", &buffer, 100) == 4)
    #expect(try get(node, "user.colour") == Array("blue".utf8))
    #expect(throws: Errno.EEXIST) { try set(node, "user.colour", [], .create) }
    #expect(throws: Errno.ENODATA) { try set(node, "user.none", [], .replace) }
    try set(node, "user.colour", [UInt8](repeating: 7, count: 1000), .replace)
    try set(node, "user.empty", [], .create)
    #expect(try get(node, "user.colour") == [UInt8](repeating: 7, count: 1000))
    #expect(try get(node, "user.empty") == [])
    let names = String(decoding: try node.listExtendedAttributes(), as: UTF8.self)
    #expect(names.contains("user.colour\0") && names.contains("user.empty\0"))
    try remove(node, "user.colour")
    #expect(throws: Errno.ENODATA) { try remove(node, "user.colour") }
    #expect(throws: Errno.ENODATA) { try get(node, "user.colour") }
    try set(try mounted.node("d")!, "user.d", [1])
    #expect(hostAttribute(tree.path + "/d", "user.d", &buffer, 100) == 1)
    #expect(throws: Errno.EPERM) { try set(try mounted.node("link")!, "user.l", [1]) }
    #expect(throws: Errno.EPERM) { try set(node, "trusted.x", [1]) }
    #expect(throws: Errno.EPERM) { try set(node, "security.x", [1]) }
    #expect(throws: Errno.EOPNOTSUPP) { try set(node, "system.x", [1]) }
    #expect(throws: Errno.E2BIG) { try set(node, "user.x", [UInt8](repeating: 1, count: 65_537)) }
    // As large as one may be; whether it fits is the host's to say.
    let largest = [UInt8](repeating: 9, count: 65_536)
    do {
      try set(node, "user.large", largest)
      #expect(try get(node, "user.large") == largest)
    } catch { #expect([Errno.ENOSPC, Errno.E2BIG].contains(error as? Errno)) }
    let reading = try Mounted(tree.path)
    #expect(throws: Errno.EROFS) { try set(try reading.node("file")!, "user.x", [1]) }
    #expect(throws: Errno.EROFS) { try temporary(reading) }
  }

  /// A server that lies about them is met with EIO.
  @Test(arguments: [FUSEOpcode.lseek, FUSEOpcode.tmpfile]) func lies(about opcode: UInt32) throws {
    let tree = HostTree("head -c 100000 /dev/zero > file")
    let (mounted, liar) = try Mounted.lying(tree.path, isWritable: true)
    liar.about = opcode
    let node = try mounted.node("file")!
    for value in [0, 1, 4095, UInt64.max] as [UInt64] {
      liar.lie = { _, reply, count in
        if count > 16 { reply.storeBytes(of: value, toByteOffset: 16, as: UInt64.self) }
      }
      if opcode == FUSEOpcode.lseek {
        #expect(throws: Errno.EIO) { try node.findData(from: 4096, end: 100_000) }
        #expect(throws: Errno.EIO) { try node.findHole(from: 4096, end: 100_000) }
      } else if value < 2 {
        #expect(throws: Errno.EIO) { try temporary(mounted) }
      }
    }
    liar.lie = { _, _, count in count = 20 }
    if opcode == FUSEOpcode.tmpfile { #expect(throws: Errno.EIO) { try temporary(mounted) } }
  }
}
