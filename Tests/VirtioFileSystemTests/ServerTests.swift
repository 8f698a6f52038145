// The file server over the bytes of its requests: what each request answers, against the host's own view.
import Glibc
import Testing
import VirtioABI

@testable import VirtioFileSystem

@Suite struct ServerTests {
  let host = TestDirectory()

  @Test func agreesOnVersionAndFeatures() throws {
    let client = try TestClient(host.path)
    let answer = client.initialise(TestClient.ours).take(FUSEInitOut.self)
    #expect(answer.major == 7)
    #expect(answer.maxPages == 256)
    #expect(UInt64(answer.flags) & FUSEInit.noOpenSupport != 0)
    #expect(UInt64(answer.flags2) << 32 == FUSEInit.directoryEnd)
    // Nothing that was not asked for.
    let plain = client.initialise(FUSEInit.initExt).take(FUSEInitOut.self)
    #expect(UInt64(plain.flags) == FUSEInit.initExt)
    #expect(plain.flags2 == 0)
    // The short form of old clients, and versions we do not speak.
    var old = FUSEInitIn()
    old.major = 7
    old.minor = 31
    #expect(client.call(FUSEOpcode.initialise, 0, Array(bytes(old)[..<16])).error == 0)
    old.minor = 8
    #expect(client.call(FUSEOpcode.initialise, 0, bytes(old)).error == EPROTO)
    old.major = 8
    #expect(client.call(FUSEOpcode.initialise, 0, bytes(old)).take(FUSEInitOut.self).major == 7)
  }

  @Test func answersNothingBeforeInit() throws {
    let server = try FUSEServer(path: host.path)
    let client = try TestClient(host.path)
    client.server.reset()
    #expect(client.getattr(1).error == EINVAL)
    #expect(server.statistics.nodes == 1)
  }

  @Test func looksUpAndStats() throws {
    host.file("plain", "hello")
    host.directory("sub")
    host.file("sub/inner", "x")
    host.link("link", to: "sub/inner")
    chmod(host["plain"], 0o640)
    let client = try TestClient(host.path)
    for name in ["plain", "sub", "sub/inner", "link"] {
      var expected = stat()
      lstat(host[name], &expected)
      let (error, got) = client.getattr(client.node(name))
      #expect(error == 0)
      #expect(got.ino == UInt64(expected.st_ino))
      #expect(got.mode == expected.st_mode)
      #expect(got.size == UInt64(expected.st_size))
      #expect(got.linkCount == UInt32(expected.st_nlink))
      #expect(got.mtime == UInt64(expected.st_mtim.tv_sec))
      #expect(got.mtimeNanoseconds == UInt32(expected.st_mtim.tv_nsec))
      #expect(got.uid == expected.st_uid)
    }
    let missing = client.call(FUSEOpcode.lookup, 1, Array("missing\0".utf8))
    #expect(missing.error == 0)
    #expect(missing.take(FUSEEntryOut.self).nodeID == 0)
    #expect(missing.take(FUSEEntryOut.self).entryValid == 1)
    #expect(client.lookup(client.node("plain"), "x").error == ENOTDIR)
    #expect(client.readlink(client.node("link")).target == "sub/inner")
    #expect(client.readlink(client.node("plain")).error == EINVAL)
  }

  @Test func statxHasTheBirthTime() throws {
    host.file("file", "abc")
    let client = try TestClient(host.path)
    let reply = client.call(FUSEOpcode.statx, client.node("file"), bytes(FUSEStatXIn()))
    let answer = reply.take(FUSEStatXOut.self)
    #expect(reply.length == 16 + 288)
    #expect(answer.size == 3)
    #expect(answer.mask & 0x7ff == 0x7ff)
  }

  @Test(arguments: [1, 7, 4096, 1 << 20]) func readsWhatTheHostHas(piece: Int) throws {
    var content = [UInt8](repeating: 0, count: 70_001)
    for index in content.indices { content[index] = UInt8(truncatingIfNeeded: index &* 31 ^ index >> 8) }
    host.file("data", bytes: content)
    let client = try TestClient(host.path, features: TestClient.ours)
    let node = client.node("data")
    for (offset, size) in [(0, 70_001), (0, 100_000), (1, 4096), (4095, 2), (69_999, 100), (70_001, 10), (1 << 40, 10)]
    {
      let reply = client.read(node, UInt64(offset), size, piece: piece)
      #expect(reply.error == 0)
      let start = min(offset, content.count)
      #expect(reply.body == Array(content[start..<min(start + size, content.count)]))
    }
    #expect(client.read(node, UInt64(Int64.max), 10).error == EINVAL)
    #expect(client.read(1, 0, 10).error == EISDIR)
  }

  @Test func opensByHandleForClientsThatNeedIt() throws {
    host.file("file", "content")
    host.directory("dir")
    let client = try TestClient(host.path)
    let node = client.node("file")
    let (error, handle) = client.open(node)
    #expect(error == 0)
    #expect(client.read(node, 0, 100, handle: handle).body == Array("content".utf8))
    // An open file outlives its name.
    unlink(host["file"])
    #expect(client.read(node, 3, 100, handle: handle).body == Array("tent".utf8))
    #expect(client.read(client.node("dir"), 0, 10, handle: handle).error == EBADF)
    var release = FUSEReleaseIn()
    release.handle = handle
    #expect(client.call(FUSEOpcode.flush, node, bytes(release)).error == 0)
    #expect(client.call(FUSEOpcode.release, node, bytes(release)).error == 0)
    #expect(client.call(FUSEOpcode.release, node, bytes(release)).error == EBADF)
    #expect(client.read(node, 0, 10, handle: handle).error == EBADF)
    #expect(client.open(client.node("dir"), flags: O_RDWR, directory: true).error == EROFS)
    #expect(client.open(client.node("dir")).error == EISDIR)
  }

  @Test func opensAreNeedlessForOurs() throws {
    host.file("file", "content")
    let client = try TestClient(host.path, features: TestClient.ours)
    #expect(client.open(client.node("file")).error == ENOSYS)
    #expect(client.open(1, directory: true).error == ENOSYS)
    #expect(client.open(client.node("file"), flags: O_WRONLY).error == EROFS)
    #expect(client.read(client.node("file"), 0, 100).body == Array("content".utf8))
  }

  @Test func listsADirectory() throws {
    host.directory("sub")
    host.file("file", "12345")
    host.link("link", to: "/etc/passwd")
    mkfifo(host["fifo"], 0o600)
    let client = try TestClient(host.path)
    for plus in [false, true] {
      let (entries, _) = client.list(1, plus: plus)
      #expect(entries.map(\.name).sorted() == ["fifo", "file", "link", "sub"])
      for entry in entries {
        var expected = stat()
        lstat(host[entry.name], &expected)
        #expect(entry.ino == UInt64(expected.st_ino))
        #expect(entry.type == expected.st_mode >> 12)
        if plus {
          #expect(entry.entry?.attributes.mode == expected.st_mode)
          #expect(entry.entry?.nodeID == client.node(entry.name))
        }
      }
    }
    let all = client.entries(1, 0, 4096, plus: true).entries
    var root = stat()
    lstat(host.path, &root)
    for dots in all where dots.name.hasPrefix(".") {
      #expect(dots.entry?.nodeID == 0)
      #expect(dots.ino == UInt64(root.st_ino))
    }
    #expect(client.entries(client.node("file"), 0, 4096).error == ENOTDIR)
  }

  @Test func accessSaysWhatTheServerMayDo() throws {
    host.file("file")
    let client = try TestClient(host.path)
    var mask = FUSEAccessIn()
    mask.mask = 4
    #expect(client.call(FUSEOpcode.access, client.node("file"), bytes(mask)).error == 0)
    mask.mask = 2
    #expect(client.call(FUSEOpcode.access, client.node("file"), bytes(mask)).error == EROFS)
    mask.mask = 1
    #expect(client.call(FUSEOpcode.access, client.node("file"), bytes(mask)).error == EACCES)
    mask.mask = 8
    #expect(client.call(FUSEOpcode.access, client.node("file"), bytes(mask)).error == EINVAL)
  }

  @Test func refusesEveryChange() throws {
    host.file("file")
    let client = try TestClient(host.path)
    for opcode in [4, 6, 8, 9, 10, 11, 12, 13, 16, 21, 24, 35, 43, 45, 47, 51] as [UInt32] {
      #expect(client.call(opcode, 1, [UInt8](repeating: 0, count: 64)).error == EROFS)
    }
    for opcode in [0, 7, 19, 31, 39, 40, 48, 53, 4096, UInt32.max] as [UInt32] {
      #expect(client.call(opcode, 1, [UInt8](repeating: 0, count: 64)).error == ENOSYS)
    }
  }

  @Test func extendedAttributes() throws {
    host.file("file")
    host.link("link", to: "file")
    guard setxattr(host["file"], "user.colour", "blue", 4, 0) == 0 else {
      print("skipped: no extended attributes in /tmp")
      return
    }
    let client = try TestClient(host.path)
    let node = client.node("file")
    func get(_ name: String, _ size: UInt32) -> Reply {
      var arguments = FUSEXattrSize()
      arguments.size = size
      return client.call(FUSEOpcode.getxattr, node, bytes(arguments) + Array(name.utf8) + [0])
    }
    #expect(get("user.colour", 100).body == Array("blue".utf8))
    #expect(get("user.colour", 0).take(FUSEXattrSize.self).size == 4)
    #expect(get("user.colour", 2).error == ERANGE)
    #expect(get("user.none", 100).error == ENODATA)
    var arguments = FUSEXattrSize()
    arguments.size = 1000
    let list = client.call(FUSEOpcode.listxattr, node, bytes(arguments)).body
    #expect(String(decoding: list, as: UTF8.self).split(separator: "\0").contains("user.colour"))
    #expect(client.call(FUSEOpcode.listxattr, client.node("link"), bytes(arguments)).body.isEmpty)
  }

  @Test func holesAndSizes() throws {
    let file = open(host["sparse"], O_CREAT | O_RDWR, 0o644)
    ftruncate(file, 1 << 20)
    pwrite(file, "x", 1, 1 << 19)
    close(file)
    let client = try TestClient(host.path)
    var seek = FUSESeekIn()
    seek.whence = 3
    let reply = client.call(FUSEOpcode.lseek, client.node("sparse"), bytes(seek))
    #expect(reply.error == 0)
    #expect([0, 1 << 19].contains(reply.take(FUSESeekOut.self).offset))
    seek.whence = 0
    #expect(client.call(FUSEOpcode.lseek, client.node("sparse"), bytes(seek)).error == EINVAL)
    let sizes = client.call(FUSEOpcode.statfs, 1).take(FUSEStatFSOut.self)
    #expect(sizes.blocks > 0)
    #expect(sizes.nameMax == 255)
  }
}
