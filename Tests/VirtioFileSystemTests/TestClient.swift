// What the tests of the file server share: a directory on the host, and a client that speaks bytes.
import CSystemCalls
import Glibc
import Testing
import VirtioABI

@testable import VirtioFileSystem

/// A directory of the host that goes away with its test.
final class TestDirectory {
  let path: String

  init() {
    var template = Array("/tmp/osv-fs-test-XXXXXX".utf8CString)
    path = String(cString: mkdtemp(&template)!)
  }

  deinit {
    let status = run("rm -rf --one-file-system '\(path)'")
    precondition(status == 0)
  }

  subscript(_ name: String) -> String { "\(path)/\(name)" }

  func directory(_ name: String) { precondition(mkdir(self[name], 0o755) == 0) }
  func link(_ name: String, to target: String) { precondition(symlink(target, self[name]) == 0) }

  func file(_ name: String, _ content: String = "") { file(name, bytes: Array(content.utf8)) }

  func file(_ name: String, bytes: [UInt8]) {
    let file = open(self[name], O_CREAT | O_WRONLY | O_TRUNC, 0o644)
    precondition(file >= 0 && write(file, bytes, bytes.count) == bytes.count)
    close(file)
  }
}

/// Runs a shell command and gives its status.
@discardableResult func run(_ command: String) -> Int32 {
  var child = pid_t()
  let arguments: [UnsafeMutablePointer<CChar>?] = [strdup("/bin/sh"), strdup("-c"), strdup(command), nil]
  defer { for argument in arguments { free(argument) } }
  guard posix_spawn(&child, "/bin/sh", nil, nil, arguments, environ) == 0 else { return -1 }
  var status: Int32 = 0
  waitpid(child, &status, 0)
  return status
}

/// A reply taken apart.
struct Reply {
  let length: Int
  let error: Int32
  let body: [UInt8]

  func take<Value: BitwiseCopyable>(_ type: Value.Type, at offset: Int = 0) -> Value {
    body.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: offset, as: type) }
  }
}

/// An entry of a directory as the client sees it.
struct Entry {
  let name: String
  let ino: UInt64
  let offset: UInt64
  let type: UInt32
  let entry: FUSEEntryOut?
}

/// Speaks to a server as a driver would.
final class TestClient {
  let server: FUSEServer
  private var unique: UInt64 = 0

  init(_ path: String, features: UInt64 = TestClient.plain, configuration: FUSEServer.Configuration = .init()) throws {
    server = try FUSEServer(path: path, configuration: configuration)
    #expect(initialise(features).error == 0)
  }

  /// A second client of a server that has had its INIT.
  init(sharing server: FUSEServer) { self.server = server }

  static let plain = FUSEInit.doReaddirplus | FUSEInit.maxPages | FUSEInit.initExt
  static let ours = plain | FUSEInit.noOpenSupport | FUSEInit.noOpendirSupport | FUSEInit.directoryEnd

  @discardableResult func initialise(_ features: UInt64) -> Reply {
    var hello = FUSEInitIn()
    hello.major = FUSE.majorVersion
    hello.minor = FUSE.minorVersion
    hello.maxReadahead = 1 << 20
    hello.flags = UInt32(truncatingIfNeeded: features)
    hello.flags2 = UInt32(truncatingIfNeeded: features >> 32)
    return call(FUSEOpcode.initialise, 0, bytes(hello))
  }

  /// One request; `room` is the reply's space, in pieces of `piece` bytes.
  func call(_ opcode: UInt32, _ node: UInt64, _ body: [UInt8] = [], room: Int = 4096, piece: Int = 1 << 20) -> Reply {
    unique += 1
    var header = FUSEInHeader()
    header.length = UInt32(40 + body.count)
    header.opcode = opcode
    header.unique = unique
    header.nodeID = node
    let reply = raw(bytes(header) + body, room: room, piece: piece)
    if reply.length > 0 { #expect(reply.unique == unique) }
    return Reply(length: reply.length, error: reply.error, body: reply.body)
  }

  func raw(_ request: [UInt8], room: Int, piece: Int = 1 << 20) -> (
    length: Int, unique: UInt64, error: Int32, body: [UInt8]
  ) {
    // A byte behind the room shows whether the server kept to it.
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: room + 1, alignment: 8)
    defer { buffer.deallocate() }
    buffer.initializeMemory(as: UInt8.self, repeating: 0xa5)
    let vectors = stride(from: 0, to: room, by: piece).map {
      iovec(iov_base: buffer.baseAddress! + $0, iov_len: min(piece, room - $0))
    }
    let length = request.withUnsafeBytes { request in
      vectors.withUnsafeBufferPointer { server.handle(request: request, reply: $0) }
    }
    #expect(length <= room)
    #expect(buffer[room] == 0xa5)
    guard length >= 16 else { return (length, 0, 0, []) }
    let header = buffer.loadUnaligned(as: FUSEOutHeader.self)
    #expect(Int(header.length) == length)
    #expect(header.error <= 0)
    return (length, header.unique, 0 - header.error, Array(buffer[16..<length]))
  }

  func lookup(_ parent: UInt64, _ name: String) -> (error: Int32, entry: FUSEEntryOut) {
    let reply = call(FUSEOpcode.lookup, parent, Array(name.utf8) + [0])
    if reply.error != 0 { return (reply.error, FUSEEntryOut()) }
    let entry = reply.take(FUSEEntryOut.self)
    return (entry.nodeID == 0 ? ENOENT : 0, entry)
  }

  /// The node at a path of plain names.
  func node(_ path: String) -> UInt64 {
    path.split(separator: "/").reduce(FUSE.rootNodeID) { lookup($0, String($1)).entry.nodeID }
  }

  func getattr(_ node: UInt64) -> (error: Int32, attributes: FUSEAttributes) {
    let reply = call(FUSEOpcode.getattr, node, bytes(FUSEGetattrIn()))
    return (reply.error, reply.error == 0 ? reply.take(FUSEAttributesOut.self).attributes : FUSEAttributes())
  }

  func read(_ node: UInt64, _ offset: UInt64, _ size: Int, handle: UInt64 = 0, piece: Int = 4096) -> Reply {
    var arguments = FUSEReadIn()
    arguments.handle = handle
    arguments.offset = offset
    arguments.size = UInt32(size)
    return call(FUSEOpcode.read, node, bytes(arguments), room: 16 + size, piece: piece)
  }

  func readlink(_ node: UInt64) -> (error: Int32, target: String) {
    let reply = call(FUSEOpcode.readlink, node)
    return (reply.error, String(decoding: reply.body, as: UTF8.self))
  }

  func open(_ node: UInt64, flags: Int32 = 0, directory: Bool = false) -> (error: Int32, handle: UInt64) {
    var arguments = FUSEOpenIn()
    arguments.flags = UInt32(flags)
    let reply = call(directory ? FUSEOpcode.opendir : FUSEOpcode.open, node, bytes(arguments))
    return (reply.error, reply.error == 0 ? reply.take(FUSEOpenOut.self).handle : 0)
  }

  /// One READDIR or READDIRPLUS.
  func entries(_ node: UInt64, _ offset: UInt64, _ size: Int, plus: Bool = true, handle: UInt64 = 0)
    -> (error: Int32, entries: [Entry], length: Int)
  {
    var arguments = FUSEReadIn()
    arguments.handle = handle
    arguments.offset = offset
    arguments.size = UInt32(size)
    let opcode = plus ? FUSEOpcode.readdirplus : FUSEOpcode.readdir
    let reply = call(opcode, node, bytes(arguments), room: 16 + size, piece: 4096)
    var entries: [Entry] = []
    var place = 0
    while place < reply.body.count {
      let full = plus ? reply.take(FUSEEntryOut.self, at: place) : nil
      let fixed = plus ? 128 : 0
      let head = reply.take(FUSEDirectoryEntry.self, at: place + fixed)
      let start = place + fixed + 24
      let name = String(decoding: reply.body[start..<start + Int(head.nameLength)], as: UTF8.self)
      entries.append(Entry(name: name, ino: head.ino, offset: head.offset, type: head.type, entry: full))
      place += FUSE.align(fixed + 24 + Int(head.nameLength))
    }
    return (reply.error, entries, reply.body.count)
  }

  /// All entries of a directory but the dots, and the number of messages it took.
  func list(_ node: UInt64, size: Int = 65_536, plus: Bool = true) -> (entries: [Entry], messages: Int) {
    var all: [Entry] = []
    var messages = 0
    var offset: UInt64 = 0
    while true {
      let (error, entries, length) = entries(node, offset, size, plus: plus)
      messages += 1
      #expect(error == 0)
      all += entries
      if entries.isEmpty || size - length >= FUSE.directoryEntryMax { break }
      offset = entries.last!.offset
    }
    return (all.filter { $0.name != "." && $0.name != ".." }, messages)
  }
}

/// The bytes of a structure.
func bytes<Value: BitwiseCopyable>(_ value: Value) -> [UInt8] { withUnsafeBytes(of: value) { Array($0) } }

/// setxattr(2), which Swift's Glibc module lacks.
@_silgen_name("setxattr") func setxattr(
  _ path: UnsafePointer<CChar>, _ name: UnsafePointer<CChar>, _ value: UnsafeRawPointer, _ size: Int, _ flags: Int32
) -> Int32

/// unshare(2), likewise.
@_silgen_name("unshare") func unshare(_ flags: Int32) -> Int32

extension TestDirectory {
  /// A folder "share", to be served, beside a folder "outside" that holds a secret and must stay as it is.
  static func sharedBesideASecret() -> TestDirectory {
    let host = TestDirectory()
    host.directory("share")
    host.directory("outside")
    host.file("outside/secret", "secret")
    return host
  }
}
