// Requests that no driver of good will sends: an error reply or none, never a crash, never a byte outside the reply's room.
import Glibc
import Testing
import VirtioABI

@testable import VirtioFileSystem

@Suite struct MalformedTests {
  let host = TestDirectory()

  init() {
    host.directory("dir")
    host.file("dir/file", "content")
    host.link("link", to: "dir/file")
  }

  @Test func lengthsThatLie() throws {
    let client = try TestClient(host.path, features: TestClient.ours)
    var header = FUSEInHeader()
    header.opcode = FUSEOpcode.lookup
    header.nodeID = 1
    header.unique = 77
    let name = Array("dir\0".utf8)
    for length in [0, 1, 39, 45, 1000, UInt32.max] as [UInt32] {
      header.length = length
      let reply = client.raw(bytes(header) + name, room: 4096)
      #expect(reply.error == EINVAL)
      #expect(reply.unique == 77)
    }
    header.length = 44
    #expect(client.raw(bytes(header) + name, room: 4096).error == 0)
    header.extensionLength = 1
    #expect(client.raw(bytes(header) + name, room: 4096).error == EINVAL)
    header.extensionLength = UInt16.max
    #expect(client.raw(bytes(header) + name, room: 4096).error == EINVAL)
    for count in 0..<40 { #expect(client.raw([UInt8](repeating: 0xff, count: count), room: 64).error == EINVAL) }
  }

  @Test func repliesWithoutRoom() throws {
    let client = try TestClient(host.path, features: TestClient.ours)
    let before = client.server.statistics.nodes
    for room in [0, 1, 15] {
      #expect(client.call(FUSEOpcode.getattr, 1, bytes(FUSEGetattrIn()), room: room).length == 0)
    }
    for room in [16, 17, 119] {
      #expect(client.call(FUSEOpcode.getattr, 1, bytes(FUSEGetattrIn()), room: room).error == EINVAL)
      // No lookup is counted that the guest cannot have heard of.
      #expect(client.call(FUSEOpcode.lookup, 1, Array("dir\0".utf8), room: room).error == EINVAL)
    }
    #expect(client.server.statistics.nodes == before)
    var read = FUSEReadIn()
    read.size = UInt32.max
    for opcode in [FUSEOpcode.read, FUSEOpcode.readdir, FUSEOpcode.readdirplus] {
      #expect(client.call(opcode, opcode == FUSEOpcode.read ? client.node("dir/file") : 1, bytes(read)).error == EINVAL)
    }
    #expect(client.call(FUSEOpcode.readlink, client.node("link"), room: 18).error == ENAMETOOLONG)
    var size = FUSEXattrSize()
    size.size = UInt32.max
    #expect(client.call(FUSEOpcode.listxattr, 1, bytes(size)).error == EINVAL)
  }

  @Test func nodesAndHandlesThatAreNot() throws {
    let client = try TestClient(host.path, features: TestClient.ours)
    for node in [0, 2, 0xffff_ffff, 1 << 32, 1 << 32 | 1, UInt64.max] as [UInt64] {
      for opcode in UInt32(1)..<53 where opcode != FUSEOpcode.initialise && opcode != FUSEOpcode.destroy {
        let reply = client.call(opcode, node, [UInt8](repeating: 0, count: 64))
        // SYNCFS is about no node.
        #expect(reply.length == 0 || reply.error != 0 || opcode == FUSEOpcode.flush || opcode == FUSEOpcode.syncfs)
      }
      #expect([ENOENT, ESTALE].contains(client.getattr(node).error))
    }
    #expect(client.read(1, 0, 10, handle: 5).error == EBADF)
    #expect(client.read(1, 0, 10, handle: UInt64.max).error == EBADF)
  }

  @Test func directoryOffsetsThatAreNot() throws {
    let client = try TestClient(host.path, features: TestClient.ours)
    for offset in [7, 1 << 31, UInt64(Int64.max), UInt64.max, 1 << 63] as [UInt64] {
      let (_, entries, _) = client.entries(1, offset, 4096)
      #expect(entries.count <= 4)
    }
  }

  /// A bounded run of the fuzzers' entry, from requests that are right in parts.
  @Test func fuzzed() throws {
    let server = try FUSEServer(path: host.path)
    var random = SystemRandomNumberGenerator()
    let client = TestClient(sharing: server)
    client.initialise(TestClient.ours)
    for round in 0..<20_000 {
      var header = FUSEInHeader()
      header.opcode = UInt32.random(in: 0..<56, using: &random)
      if header.opcode == FUSEOpcode.destroy, round % 16 != 0 { header.opcode = FUSEOpcode.lookup }
      header.nodeID = UInt64.random(in: 0..<5, using: &random)
      header.unique = UInt64(round)
      var body: [UInt8] = []
      switch round % 4 {
      case 0: body = Array("dir\0".utf8)
      case 1: body = (0..<Int.random(in: 0..<80)).map { _ in UInt8.random(in: 0...255, using: &random) }
      case 2:
        var read = FUSEReadIn()
        read.size = UInt32.random(in: 0..<5000, using: &random)
        read.offset = UInt64.random(in: 0..<8, using: &random)
        body = bytes(read)
      default: body = [UInt8](repeating: 0, count: Int.random(in: 0..<128, using: &random))
      }
      header.length = UInt32(40 + body.count)
      if round % 8 == 7 { header.length = UInt32.random(in: 0...200, using: &random) }
      let request = bytes(UInt16.random(in: 0..<5000, using: &random)) + bytes(header) + body
      request.withUnsafeBytes { fuzzFUSE($0, server: server) }
      if round % 100 == 0 { client.initialise(TestClient.ours) }
    }
    client.initialise(TestClient.ours)
    #expect(client.read(client.node("dir/file"), 0, 100).body == Array("content".utf8))
  }
}
