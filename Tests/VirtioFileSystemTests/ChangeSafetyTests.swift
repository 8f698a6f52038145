// Changes by a hostile guest, and on a host whose tree changes under the server: nothing outside the root is ever touched, no special
// file is opened, nothing overflows.
import CSystemCalls
import Glibc
import Testing
import VirtioABI

@testable import VirtioFileSystem

@Suite struct ChangeSafetyTests {
  /// `outside` must stay as it is; only `share` is served.
  let host = TestDirectory.sharedBesideASecret()
  let clock = TestClock()

  func client(features: UInt64 = TestClient.writing) throws -> TestClient {
    var configuration = FUSEServer.Configuration()
    let clock = clock
    configuration.clock = { clock.now }
    configuration.isWritable = true
    return try TestClient(host["share"], features: features, configuration: configuration)
  }

  private func outsideIsUntouched() -> Bool {
    host.content("outside/secret") == Array("secret".utf8)
      && run("test \"$(ls -A '\(host["outside"])')\" = secret") == 0
  }

  @Test(arguments: [".", "..", "", "/", "../outside/new", "a/b", "sub/../x"]) func namesAreSingleComponents(
    name: String
  ) throws {
    host.directory("share/sub")
    host.file("share/file")
    let client = try client()
    let node = client.node("file")
    for parent in [1, client.node("sub")] {
      #expect(client.create(parent, name).error == EINVAL)
      #expect(client.mkdir(parent, name).error == EINVAL)
      #expect(client.mknod(parent, name, UInt32(S_IFIFO)).error == EINVAL)
      #expect(client.symlink(parent, name, to: "x").error == EINVAL)
      #expect(client.link(node, parent, name).error == EINVAL)
      #expect(client.unlink(parent, name) == EINVAL)
      #expect(client.rmdir(parent, name) == EINVAL)
      #expect(client.rename(parent, name, 1, "x") == EINVAL)
      #expect(client.rename(1, "file", parent, name) == EINVAL)
    }
    let long = String(repeating: "x", count: 256)
    #expect(client.create(1, long).error == ENAMETOOLONG)
    #expect(client.rename(1, "file", 1, long) == ENAMETOOLONG)
    #expect(outsideIsUntouched())
    #expect(run("test \"$(ls -A '\(host["share"])' | sort | tr '\\n' ' ')\" = 'file sub '") == 0)
  }

  @Test func aDirectoryReplacedByALinkIsNotFollowed() throws {
    host.directory("share/dir")
    host.file("share/dir/file", "mine")
    let client = try client()
    let directory = client.node("dir")
    let file = client.node("dir/file")
    rename(host["share/dir"], host["share/away"])
    host.link("share/dir", to: host["outside"])
    clock.now += 2_000_000_000
    #expect(client.create(directory, "new").error == ESTALE)
    #expect(client.mkdir(directory, "new").error == ESTALE)
    #expect(client.unlink(directory, "secret") == ESTALE)
    #expect(client.rename(directory, "secret", 1, "stolen") == ESTALE)
    #expect(client.write(file, 0, [1]).error == ESTALE)
    #expect(client.truncate(file, to: 0) == ESTALE)
    #expect(client.setattr(file) { ($0.valid, $0.mode) = (FUSESetattrFlags.mode, 0o777) }.error == ESTALE)
    #expect(outsideIsUntouched())
  }

  @Test func aFileReplacedByALinkIsNotFollowed() throws {
    host.file("share/secret", "mine")
    let client = try client()
    let file = client.node("secret")
    unlink(host["share/secret"])
    host.link("share/secret", to: host["outside/secret"])
    #expect(client.write(file, 0, [1]).error == ESTALE)
    #expect(client.truncate(file, to: 0) == ESTALE)
    #expect(client.setattr(file) { ($0.valid, $0.mode) = (FUSESetattrFlags.mode, 0o777) }.error == ESTALE)
    #expect(client.link(file, 1, "linked").error == ESTALE)
    #expect(client.setxattr(file, "user.x", [1]) == ESTALE)
    // The link itself is nothing to write to; opened by name, it is not followed either.
    #expect(client.write(client.node("secret"), 0, [1]).error == ELOOP)
    #expect(client.create(1, "secret").error == ESTALE)
    #expect(outsideIsUntouched())
  }

  @Test func whatWasMovedOutOfTheTreeIsOutOfReach() throws {
    host.file("share/file", "mine")
    host.directory("share/dir")
    let client = try client()
    let (file, directory) = (client.node("file"), client.node("dir"))
    #expect(client.write(file, 0, Array("MINE".utf8)).error == 0)
    rename(host["share/file"], host["outside/file"])
    rename(host["share/dir"], host["outside/dir"])
    clock.now += 2_000_000_000
    #expect(client.write(file, 0, Array("evil".utf8)).error == ESTALE)
    #expect(client.link(file, 1, "back").error == ESTALE)
    #expect(client.create(directory, "new").error == ESTALE)
    #expect(client.rename(1, "x", directory, "y") == ESTALE)
    #expect(host.content("outside/file") == Array("MINE".utf8))
  }

  @Test func specialFilesAreNeverOpened() throws {
    host.file("share/file", "mine")
    let client = try client()
    let file = client.node("file")
    // A FIFO in the file's place: opening it would wait for a reader or become one.
    unlink(host["share/file"])
    mkfifo(host["share/file"], 0o666)
    #expect(client.write(file, 0, [1]).error == ESTALE)
    let fifo = client.node("file")
    #expect(client.write(fifo, 0, [1]).error == ENXIO)
    #expect(client.truncate(fifo, to: 0) == ENXIO)
    #expect(client.open(fifo, flags: O_RDWR).error == ENXIO)
    #expect(client.create(1, "file").error == ESTALE)
    #expect(client.fallocate(fifo, mode: 0, 0, 1) == ENXIO)
    // What is no data works.
    #expect(client.setattr(fifo) { ($0.valid, $0.mode) = (FUSESetattrFlags.mode, 0o600) }.error == 0)
    #expect(client.rename(1, "file", 1, "moved") == 0)
    #expect(client.unlink(1, "moved") == 0)
  }

  @Test func theRootStays() throws {
    host.directory("share/sub")
    let client = try client()
    let sub = client.node("sub")
    #expect(client.rename(sub, "..", 1, "x") == EINVAL)
    #expect(client.rename(1, "sub", 1, "..") == EINVAL)
    #expect(client.rmdir(sub, "..") == EINVAL)
    #expect(client.rename(1, "sub", sub, "sub") == EINVAL)
    #expect(client.getattr(1).error == 0)
    #expect(client.rename(99, "a", 1, "b") == ENOENT)
    #expect(client.rename(1, "sub", 99, "b") == ENOENT)
  }

  @Test func lengthsAndOffsetsAreChecked() throws {
    host.file("share/file", "mine")
    let client = try client()
    let node = client.node("file")
    // More than the request has, and more than anybody may write.
    #expect(client.write(node, 0, [1, 2, 3], claim: 4).error == EINVAL)
    #expect(client.write(node, 0, [1, 2, 3], claim: 1 << 31).error == EINVAL)
    #expect(client.write(node, UInt64.max, [1]).error == EFBIG)
    #expect(client.write(node, UInt64(Int64.max), [1]).error == EFBIG)
    #expect(client.write(node, 1 << 63, []).error == EFBIG)
    #expect(client.call(FUSEOpcode.write, node, [UInt8](repeating: 0, count: 39)).error == EINVAL)
    // No room for the answer: nothing is written.
    var arguments = FUSEWriteIn()
    arguments.size = 1
    #expect(client.call(FUSEOpcode.write, node, bytes(arguments) + [1], room: 24).error == EINVAL)
    #expect(host.content("share/file") == Array("mine".utf8))
    #expect(client.call(FUSEOpcode.create, 1, bytes(FUSECreateIn()) + Array("new\0".utf8), room: 160).error == EINVAL)
    #expect(client.call(FUSEOpcode.unlink, 1, Array("file\0".utf8), room: 16).error == EINVAL)
    #expect(host.attributes("share/new") == nil && host.attributes("share/file") != nil)
    // Names without an end, requests that stop early.
    for opcode in [
      FUSEOpcode.create, FUSEOpcode.mknod, FUSEOpcode.mkdir, FUSEOpcode.symlink, FUSEOpcode.link, FUSEOpcode.unlink,
      FUSEOpcode.rename, FUSEOpcode.rename2, FUSEOpcode.setxattr, FUSEOpcode.removexattr, FUSEOpcode.setattr,
      FUSEOpcode.fallocate, FUSEOpcode.copyFileRange, FUSEOpcode.fsync, FUSEOpcode.tmpfile, FUSEOpcode.rmdir,
    ] {
      for count in [0, 3, 7, 8, 15] {
        #expect(client.call(opcode, 1, [UInt8](repeating: 0x41, count: count)).error != 0, "\(opcode) \(count)")
      }
    }
  }

  @Test func aFullDiskAndALimitAreTold() throws {
    host.file("share/file")
    let client = try client()
    let node = client.node("file")
    // The limit of a process for the size of its files: an error, not its death.
    var old = rlimit()
    getrlimit(__rlimit_resource_t(1), &old)
    // So large that no other test meets it.
    let limit: UInt64 = 1 << 33
    var small = rlimit(rlim_cur: rlim_t(limit), rlim_max: old.rlim_max)
    setrlimit(__rlimit_resource_t(1), &small)
    let partly = client.write(node, limit - 96, [UInt8](repeating: 1, count: 200))
    let behind = client.write(node, limit, [1])
    setrlimit(__rlimit_resource_t(1), &old)
    #expect(partly.error == 0 && partly.count == 96)
    #expect(behind.error == EFBIG)
  }
}
