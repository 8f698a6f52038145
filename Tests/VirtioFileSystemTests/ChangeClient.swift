// The changing requests as a client sends them, for ChangeTests and ChangeSafetyTests.
import Glibc
import VirtioABI

@testable import VirtioFileSystem

extension TestClient {
  /// A client of ours that may write, of a server with reports.
  static let writing = ours | FUSEInit.changeReports | FUSEInit.bigWrites

  static func writable(_ path: String, features: UInt64 = TestClient.writing, pinLimit: Int = 256) throws -> TestClient
  {
    var configuration = FUSEServer.Configuration()
    configuration.isWritable = true
    configuration.pinLimit = pinLimit
    return try TestClient(path, features: features, configuration: configuration)
  }

  private func name(_ text: String) -> [UInt8] { Array(text.utf8) + [0] }

  func write(
    _ node: UInt64, _ offset: UInt64, _ data: [UInt8], handle: UInt64 = 0, claim: Int? = nil, flags: UInt32 = 0
  ) -> (error: Int32, count: Int, report: FUSEChangeReport?) {
    var arguments = FUSEWriteIn()
    arguments.handle = handle
    arguments.offset = offset
    arguments.size = UInt32(claim ?? data.count)
    arguments.writeFlags = flags
    let reply = call(FUSEOpcode.write, node, bytes(arguments) + data)
    guard reply.error == 0 else { return (reply.error, 0, nil) }
    let report = reply.body.count > 8 ? reply.take(FUSEChangeReport.self, at: 8) : nil
    return (0, Int(reply.take(FUSEWriteOut.self).size), report)
  }

  func create(_ parent: UInt64, _ text: String, mode: UInt32 = 0o644, flags: Int32 = O_RDWR) -> (
    error: Int32, entry: FUSEEntryOut, handle: UInt64, reply: Reply
  ) {
    var arguments = FUSECreateIn()
    arguments.mode = UInt32(S_IFREG) | mode
    arguments.flags = UInt32(bitPattern: flags)
    let reply = call(FUSEOpcode.create, parent, bytes(arguments) + name(text))
    guard reply.error == 0 else { return (reply.error, FUSEEntryOut(), 0, reply) }
    return (0, reply.take(FUSEEntryOut.self), reply.take(FUSEOpenOut.self, at: 128).handle, reply)
  }

  func mknod(_ parent: UInt64, _ text: String, _ mode: UInt32) -> Reply {
    var arguments = FUSEMknodIn()
    arguments.mode = mode
    arguments.rdev = 0x103
    return call(FUSEOpcode.mknod, parent, bytes(arguments) + name(text))
  }

  func mkdir(_ parent: UInt64, _ text: String, mode: UInt32 = 0o755) -> Reply {
    var arguments = FUSEMkdirIn()
    arguments.mode = mode
    return call(FUSEOpcode.mkdir, parent, bytes(arguments) + name(text))
  }

  func symlink(_ parent: UInt64, _ text: String, to target: String) -> Reply {
    call(FUSEOpcode.symlink, parent, name(text) + name(target))
  }

  func link(_ node: UInt64, _ parent: UInt64, _ text: String) -> Reply {
    var arguments = FUSELinkIn()
    arguments.oldNode = node
    return call(FUSEOpcode.link, parent, bytes(arguments) + name(text))
  }

  func unlink(_ parent: UInt64, _ text: String) -> Int32 { call(FUSEOpcode.unlink, parent, name(text)).error }
  func rmdir(_ parent: UInt64, _ text: String) -> Int32 { call(FUSEOpcode.rmdir, parent, name(text)).error }

  func rename(_ parent: UInt64, _ text: String, _ newParent: UInt64, _ newText: String, flags: UInt32 = 0) -> Int32 {
    var arguments = FUSERename2In()
    arguments.newDirectory = newParent
    arguments.flags = flags
    return call(FUSEOpcode.rename2, parent, bytes(arguments) + name(text) + name(newText)).error
  }

  func setattr(_ node: UInt64, _ fill: (inout FUSESetattrIn) -> Void) -> (error: Int32, attributes: FUSEAttributes) {
    var arguments = FUSESetattrIn()
    fill(&arguments)
    let reply = call(FUSEOpcode.setattr, node, bytes(arguments))
    return (reply.error, reply.error == 0 ? reply.take(FUSEAttributesOut.self).attributes : FUSEAttributes())
  }

  func truncate(_ node: UInt64, to size: UInt64, handle: UInt64 = 0) -> Int32 {
    setattr(node) {
      $0.valid = FUSESetattrFlags.size | (handle != 0 ? FUSESetattrFlags.handle : 0)
      $0.size = size
      $0.handle = handle
    }.error
  }

  func fsync(_ node: UInt64, directory: Bool = false) -> Int32 {
    call(directory ? FUSEOpcode.fsyncdir : FUSEOpcode.fsync, node, bytes(FUSEFsyncIn())).error
  }

  func fallocate(_ node: UInt64, mode: UInt32, _ offset: UInt64, _ length: UInt64) -> Int32 {
    var arguments = FUSEFallocateIn()
    arguments.mode = mode
    arguments.offset = offset
    arguments.length = length
    return call(FUSEOpcode.fallocate, node, bytes(arguments)).error
  }

  func setxattr(_ node: UInt64, _ text: String, _ value: [UInt8], flags: UInt32 = 0, claim: Int? = nil) -> Int32 {
    var arguments = FUSESetxattrIn()
    arguments.size = UInt32(claim ?? value.count)
    arguments.flags = flags
    return call(FUSEOpcode.setxattr, node, bytes(arguments) + name(text) + value).error
  }

  func getxattr(_ node: UInt64, _ text: String) -> (error: Int32, value: [UInt8]) {
    var arguments = FUSEXattrSize()
    arguments.size = 1024
    let reply = call(FUSEOpcode.getxattr, node, bytes(arguments) + name(text))
    return (reply.error, reply.body)
  }

  func removexattr(_ node: UInt64, _ text: String) -> Int32 {
    call(FUSEOpcode.removexattr, node, name(text)).error
  }

  func copy(_ node: UInt64, _ offset: UInt64, to target: UInt64, _ targetOffset: UInt64, _ length: UInt64) -> (
    error: Int32, count: Int
  ) {
    var arguments = FUSECopyIn()
    arguments.offset = offset
    arguments.toNode = target
    arguments.toOffset = targetOffset
    arguments.length = length
    let reply = call(FUSEOpcode.copyFileRange, node, bytes(arguments))
    return (reply.error, reply.error == 0 ? Int(reply.take(FUSEWriteOut.self).size) : 0)
  }

  func forget(_ node: UInt64, _ count: UInt64 = 1) {
    var one = FUSEForgetIn()
    one.lookupCount = count
    _ = call(FUSEOpcode.forget, node, bytes(one))
  }

  func release(_ node: UInt64, _ handle: UInt64) -> Int32 {
    var arguments = FUSEReleaseIn()
    arguments.handle = handle
    return call(FUSEOpcode.release, node, bytes(arguments)).error
  }
}

extension TestDirectory {
  /// A file's bytes, nil if there is none.
  func content(_ name: String) -> [UInt8]? {
    let file = Glibc.open(self[name], O_RDONLY)
    guard file >= 0 else { return nil }
    defer { close(file) }
    var all: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65_536)
    while true {
      let count = Glibc.read(file, &buffer, buffer.count)
      if count <= 0 { return all }
      all += buffer[..<count]
    }
  }

  /// A file's attributes, of the link itself where it is one; nil if there is none.
  func attributes(_ name: String) -> stat? {
    var status = stat()
    return lstat(self[name], &status) == 0 ? status : nil
  }
}
