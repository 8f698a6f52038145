// The client's requests against the real server, and against one that lies.
import Base
import Glibc
import Pages
import Platform
import Testing
import VirtioABI
import VirtioFileSystem

@testable import VirtioFS

@Suite struct ClientTests {
  let tree = HostTree("mkdir dir && echo content > dir/file && ln -s dir/file link && seq 10000 > large")

  func connect() throws -> (FUSEClient, ServerTransport) {
    let transport = ServerTransport(try FUSEServer(path: tree.path))
    let client = FUSEClient(transport: transport)
    try client.initialise()
    return (client, transport)
  }

  func look(_ client: FUSEClient, _ path: String) throws -> UInt64 {
    try path.split(separator: "/").reduce(FUSE.rootNodeID) { parent, name in
      try withName(String(name)) { try client.lookup(parent, $0).nodeID }
    }
  }

  @Test func agreesOnTheShortForms() throws {
    let (client, _) = try connect()
    #expect(client.features & FUSEInit.directoryEnd != 0)
    #expect(client.features & FUSEInit.noOpenSupport != 0)
    #expect(client.maximumRead == 1 << 20)
  }

  /// Such a server may be read; it is told apart when it is greeted.
  @Test func agreesOnOpensWithServersThatWantThem() throws {
    let (client, _) = try connect()
    #expect(!client.opens(directory: false) && !client.opens(directory: true))
    var configuration = FUSEServer.Configuration()
    configuration.zeroMessageOpens = false
    configuration.isWritable = true
    let other = FUSEClient(transport: ServerTransport(try FUSEServer(path: tree.path, configuration: configuration)))
    try other.initialise()
    #expect(other.opens(directory: false) && other.opens(directory: true) && !other.isWritable)
  }

  @Test func requests() throws {
    let (client, transport) = try connect()
    let file = try look(client, "dir/file")
    #expect(try client.getattr(file).attributes.size == 8)
    #expect(try look(client, "nothing") == 0)
    #expect(throws: Errno.ENOTDIR) { try look(client, "dir/file/x") }
    try client.access(file, mask: 4)
    #expect(throws: Errno.EROFS) { try client.access(file, mask: 2) }
    #expect(try client.statfs(1).nameMax == 255)
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 65_536, alignment: 4096)
    defer { buffer.deallocate() }
    let length = try client.readlink(try look(client, "link"), into: buffer)
    #expect(String(decoding: buffer[..<length], as: UTF8.self) == "dir/file")
    let (count, isLast) = try client.readDirectory(FUSE.rootNodeID, offset: 0, into: buffer)
    #expect(isLast)
    var reader = FUSEDirectoryReader(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
    var names: [String] = []
    while let record = try reader.next() { names.append(String(decoding: record.name, as: UTF8.self)) }
    #expect(names.sorted() == [".", "..", "dir", "large", "link"])
    #expect(transport.log.first == FUSEOpcode.initialise)
    var one = FUSEForgetOne()
    one.nodeID = file
    one.lookupCount = 100
    withUnsafePointer(to: one) { client.forget(UnsafeBufferPointer(start: $0, count: 1)) }
    #expect(throws: Errno.ESTALE) { try client.getattr(file) }
    try client.destroy()
  }

  /// Pages of the arena, not neighbours.
  @Test(arguments: [4, 8, 256]) func readsIntoFrames(pieces: Int) throws {
    HostedArena.prepare()
    let (client, transport) = try connect()
    transport.maximumSegments = pieces
    let node = try look(client, "large")
    let size = Int(try client.getattr(node).attributes.size)
    let pages = (size + 4095) / 4096
    let all = (0..<2 * pages).map { _ in Frames.allocate(zeroed: true)! }
    defer { for frame in all { Frames.free(frame) } }
    let frames = stride(from: 0, to: all.count, by: 2).map { all[$0] }
    transport.log = []
    let count = try frames.withUnsafeBufferPointer { frames in try client.read(node, offset: 0, frames: frames) }
    #expect(count == size)
    if pieces == 256 { #expect(transport.log == [FUSEOpcode.read]) }
    var content: [UInt8] = []
    for frame in frames { content += UnsafeRawBufferPointer(start: LinearMap.pointer(frame), count: 4096) }
    let expected = (1...10_000).map { "\($0)\n" }.joined()
    #expect(String(decoding: content[..<count], as: UTF8.self) == expected)
    #expect(content[count...].allSatisfy { $0 == 0 })
  }

  @Test func repliesThatLieAreErrors() throws {
    let honest = ServerTransport(try FUSEServer(path: tree.path))
    let transport = LyingTransport(honest)
    let client = FUSEClient(transport: transport)
    try client.initialise()
    let file = try look(client, "dir/file")
    // Each lie, about requests of every shape of reply.
    let lies: [(String, (UInt32, UnsafeMutableRawBufferPointer, inout Int) -> Void)] = [
      ("nothing", { _, _, count in count = 0 }),
      ("half a header", { _, _, count in count = 8 }),
      ("more than there was room", { _, _, count in count = 1 << 20 }),
      ("negative", { _, _, count in count = -1 }),
      ("another length in the header", { _, reply, _ in reply.storeBytes(of: 17, as: UInt32.self) }),
      ("a huge length", { _, reply, _ in reply.storeBytes(of: UInt32.max, as: UInt32.self) }),
      ("another request's", { _, reply, _ in reply.storeBytes(of: 12_345, toByteOffset: 8, as: UInt64.self) }),
      ("a positive error", { _, reply, _ in reply.storeBytes(of: 5, toByteOffset: 4, as: Int32.self) }),
      ("an absurd error", { _, reply, _ in reply.storeBytes(of: Int32.min, toByteOffset: 4, as: Int32.self) }),
      (
        "an unknown error",
        { _, reply, count in
          count = 16
          reply.storeBytes(of: 16, as: UInt32.self)
          reply.storeBytes(of: -4000, toByteOffset: 4, as: Int32.self)
        }
      ),
    ]
    for (name, lie) in lies {
      transport.lie = lie
      #expect(throws: Errno.EIO, "\(name)") { try client.getattr(file) }
      #expect(throws: Errno.EIO, "\(name)") { try look(client, "dir") }
      #expect(throws: Errno.EIO, "\(name)") { try client.access(file, mask: 4) }
    }
    transport.lie = { _, reply, count in
      count -= 8
      reply.storeBytes(of: UInt32(count), as: UInt32.self)
    }
    #expect(throws: Errno.EIO) { try client.getattr(file) }
    transport.lie = nil
    #expect(try client.getattr(file).attributes.size == 8)
  }

  @Test func entriesThatLie() throws {
    func read(_ change: (inout FUSEDirectoryEntry) -> Void, name: [UInt8] = Array("name".utf8), cut: Int = 0) throws {
      var head = FUSEDirectoryEntry()
      head.nameLength = UInt32(name.count)
      change(&head)
      var bytes = [UInt8](repeating: 0, count: 128)
      withUnsafeBytes(of: head) { bytes += $0 }
      bytes += name
      bytes.removeLast(cut)
      try bytes.withUnsafeBytes {
        var reader = FUSEDirectoryReader($0)
        while try reader.next() != nil {}
      }
    }
    try read { _ in }
    #expect(throws: Errno.EIO) { try read { $0.nameLength = 0 } }
    #expect(throws: Errno.EIO) { try read { $0.nameLength = 5 } }
    #expect(throws: Errno.EIO) { try read { $0.nameLength = 256 } }
    #expect(throws: Errno.EIO) { try read { $0.nameLength = UInt32.max } }
    #expect(throws: Errno.EIO) { try read({ _ in }, cut: 10) }
    #expect(throws: Errno.EIO) { try read({ _ in }, cut: 100) }
    #expect(throws: Errno.EIO) { try read({ _ in }, name: Array("a/b".utf8)) }
    #expect(throws: Errno.EIO) { try read({ _ in }, name: [0x61, 0, 0x62]) }
  }
}
