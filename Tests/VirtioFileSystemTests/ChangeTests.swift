// What the file server does to the host's files when it is asked for changes, against the host's own view.
import Glibc
import Testing
import VirtioABI

@testable import VirtioFileSystem

@Suite struct ChangeTests {
  let host = TestDirectory()

  @Test func writesWhereAndWhatItIsTold() throws {
    host.file("file", "0123456789")
    let client = try TestClient.writable(host.path)
    let node = client.node("file")
    let (error, count, report) = client.write(node, 4, Array("abc".utf8))
    #expect(error == 0 && count == 3)
    #expect(host.content("file") == Array("0123abc789".utf8))
    let known = try #require(report)
    #expect(known.sizeBefore == 10)
    #expect(known.after.attributes.size == 10)
    #expect(known.after.attributes.ino == UInt64(host.attributes("file")!.st_ino))
    // Behind the end, with a hole.
    #expect(client.write(node, 20, [0x78]).report?.after.attributes.size == 21)
    #expect(host.content("file")!.count == 21)
    #expect(client.write(node, 0, []).count == 0)
    #expect(client.read(node, 20, 10).body == [0x78])
  }

  @Test(arguments: [1, 3, 4096, 1 << 20]) func dataComesFromManyPieces(piece: Int) throws {
    host.file("file")
    let client = try TestClient.writable(host.path)
    let node = client.node("file")
    let data = (0..<70_000).map { UInt8(truncatingIfNeeded: $0 &* 13 ^ $0 >> 9) }
    var arguments = FUSEWriteIn()
    arguments.size = UInt32(data.count)
    arguments.offset = 5
    var header = FUSEInHeader()
    header.length = UInt32(80 + data.count)
    header.opcode = FUSEOpcode.write
    header.nodeID = node
    header.unique = 99
    let head = bytes(header) + bytes(arguments)
    // The data begins somewhere within the ranges, as it does behind the head in a descriptor chain.
    var whole = [UInt8](repeating: 0xee, count: 7) + data
    var reply = [UInt8](repeating: 0, count: 4096)
    let length = whole.withUnsafeMutableBytes { whole in
      reply.withUnsafeMutableBytes { reply in
        let ranges = stride(from: 0, to: whole.count, by: piece).map {
          iovec(iov_base: whole.baseAddress! + $0, iov_len: min(piece, whole.count - $0))
        }
        return ranges.withUnsafeBufferPointer { ranges in
          head.withUnsafeBytes { head in
            [iovec(iov_base: reply.baseAddress, iov_len: reply.count)].withUnsafeBufferPointer {
              client.server.handle(
                request: head, payload: FUSEPayload(ranges, skip: 7, count: data.count), reply: $0)
            }
          }
        }
      }
    }
    #expect(length == 16 + 8 + 128)
    #expect(host.content("file") == [0, 0, 0, 0, 0] + data)
  }

  @Test func createsFilesWithTheirModes() throws {
    let client = try TestClient.writable(host.path)
    for (name, mode) in [("a", 0o644), ("b", 0o600), ("c", 0o7777), ("d", 0o666)] {
      let (error, entry, handle, reply) = client.create(1, name, mode: UInt32(mode))
      #expect(error == 0)
      #expect(handle == 0)
      // The guest's umask counts, not the process's.
      #expect(entry.attributes.mode == UInt32(S_IFREG) | UInt32(mode))
      #expect(host.attributes(name)!.st_mode == UInt32(S_IFREG) | UInt32(mode))
      #expect(reply.body.count == 128 + 16 + 128)
      #expect(client.write(entry.nodeID, 0, [1, 2, 3]).error == 0)
      #expect(client.lookup(1, name).entry.nodeID == entry.nodeID)
    }
    #expect(client.create(1, "a", flags: O_RDWR | O_EXCL).error == EEXIST)
    // Without O_EXCL it is the file that is there.
    let again = client.create(1, "a")
    #expect(again.error == 0 && again.entry.nodeID == client.node("a"))
    #expect(host.content("a") == [1, 2, 3])
    #expect(client.create(1, "a", flags: O_RDWR | O_TRUNC).entry.attributes.size == 0)
    #expect(host.content("a") == [])
  }

  @Test func aFileThatItsModeClosesIsWrittenByHandle() throws {
    let client = try TestClient.writable(host.path)
    let (error, entry, handle, _) = client.create(1, "readonly", mode: 0o444)
    #expect(error == 0)
    #expect(handle != 0)
    #expect(client.write(entry.nodeID, 0, Array("data".utf8), handle: handle).error == 0)
    #expect(client.truncate(entry.nodeID, to: 2, handle: handle) == 0)
    #expect(host.content("readonly") == Array("da".utf8))
    #expect(client.release(entry.nodeID, handle) == 0)
    #expect(client.server.statistics.handles == 0)
    // An open on request, and one that clients without reports are spared.
    let opened = client.open(client.create(1, "open", mode: 0o600).entry.nodeID, flags: O_RDWR)
    #expect(opened.error == 0 && opened.handle != 0)
    let other = try TestClient.writable(host.path, features: TestClient.ours)
    #expect(other.open(other.node("open"), flags: O_RDWR).error == ENOSYS)
    #expect(other.create(1, "foreign", mode: 0o400).handle == 0)
  }

  @Test func handlesAreForClientsThatOpen() throws {
    let client = try TestClient.writable(host.path, features: TestClient.plain)
    let (error, entry, handle, reply) = client.create(1, "file")
    #expect(error == 0 && handle != 0 && reply.body.count == 128 + 16)
    #expect(client.write(entry.nodeID, 0, [7], handle: handle).report == nil)
    #expect(client.open(entry.nodeID, flags: O_WRONLY | O_TRUNC).error == 0)
    #expect(host.content("file") == [])
    let readable = client.open(entry.nodeID, flags: O_RDONLY)
    #expect(client.write(entry.nodeID, 0, [7], handle: readable.handle).error == EBADF)
    #expect(client.open(1, flags: O_WRONLY, directory: true).error == EISDIR)
  }

  @Test func makesEverythingThatIsNotADevice() throws {
    let client = try TestClient.writable(host.path)
    #expect(client.mkdir(1, "dir", mode: 0o1770).error == 0)
    #expect(host.attributes("dir")!.st_mode == UInt32(S_IFDIR) | 0o1770)
    let directory = client.node("dir")
    #expect(client.symlink(directory, "link", to: "../over/there").error == 0)
    #expect(client.readlink(client.node("dir/link")).target == "../over/there")
    #expect(client.mknod(directory, "fifo", UInt32(S_IFIFO) | 0o640).error == 0)
    #expect(client.mknod(directory, "socket", UInt32(S_IFSOCK) | 0o640).error == 0)
    #expect(client.mknod(directory, "plain", UInt32(S_IFREG) | 0o640).error == 0)
    for (name, type) in [("fifo", S_IFIFO), ("socket", S_IFSOCK), ("plain", S_IFREG)] {
      #expect(host.attributes("dir/\(name)")!.st_mode == UInt32(type) | 0o640)
    }
    for type in [S_IFCHR, S_IFBLK] { #expect(client.mknod(1, "device", UInt32(type) | 0o600).error == EPERM) }
    #expect(client.mknod(1, "directory", UInt32(S_IFDIR) | 0o700).error == EINVAL)
    #expect(client.mkdir(1, "dir").error == EEXIST)
    #expect(client.symlink(1, "dir", to: "x").error == EEXIST)
    #expect(client.symlink(1, "empty", to: "").error == ENOENT)
    #expect(client.symlink(1, "long", to: String(repeating: "x", count: 4095)).error == 0)
    #expect(client.symlink(1, "longer", to: String(repeating: "x", count: 4096)).error == ENAMETOOLONG)
    // The directory's report: its new size and times, and what they were.
    let reply = client.mkdir(directory, "sub")
    let report = reply.take(FUSEChangeReport.self, at: 128)
    #expect(report.after.attributes.linkCount == 3)
    #expect(report.after.attributes.ino == UInt64(host.attributes("dir")!.st_ino))
    #expect(reply.body.count == 256)
  }

  @Test func linksByTheFileAndNotItsName() throws {
    host.file("file", "content")
    host.link("link", to: "file")
    let client = try TestClient.writable(host.path)
    let node = client.node("file")
    let reply = client.link(node, 1, "second")
    #expect(reply.error == 0)
    #expect(reply.take(FUSEEntryOut.self).nodeID == node)
    #expect(reply.take(FUSEEntryOut.self).attributes.linkCount == 2)
    #expect(host.attributes("second")!.st_ino == host.attributes("file")!.st_ino)
    // A symbolic link gets another name itself.
    #expect(client.link(client.node("link"), 1, "link2").error == 0)
    #expect(host.attributes("link2")!.st_ino == host.attributes("link")!.st_ino)
    #expect(client.link(1, 1, "root").error == EPERM)
    #expect(client.link(node, 1, "second").error == EEXIST)
    #expect(client.link(12_345, 1, "none").error == ENOENT)
  }

  @Test func unlinkedFilesGoOnWorking() throws {
    host.file("file", "content")
    host.directory("dir")
    let client = try TestClient.writable(host.path)
    let node = client.node("file")
    let directory = client.node("dir")
    #expect(client.unlink(1, "file") == 0)
    #expect(client.rmdir(1, "dir") == 0)
    #expect(host.attributes("file") == nil)
    #expect(client.server.statistics.pins == 2)
    #expect(client.getattr(node).attributes.linkCount == 0)
    #expect(client.getattr(directory).error == 0)
    #expect(client.lookup(directory, "x").error == ENOENT)
    #expect(client.create(directory, "x").error == ENOENT)
    #expect(client.read(node, 0, 100).body == Array("content".utf8))
    #expect(client.write(node, 7, Array("!".utf8)).error == 0)
    #expect(client.read(node, 0, 100).body == Array("content!".utf8))
    #expect(client.truncate(node, to: 3) == 0)
    #expect(
      client.setattr(node) { ($0.valid, $0.mode) = (FUSESetattrFlags.mode, 0o600) }.attributes.mode & 0o777 == 0o600)
    // A new file of that name is another one.
    let (_, fresh, _, _) = client.create(1, "file")
    #expect(fresh.nodeID != node)
    #expect(client.write(node, 0, Array("old".utf8)).error == 0)
    #expect(host.content("file") == [])
    client.forget(node)
    client.forget(directory)
    #expect(client.getattr(node).error == ESTALE)
    #expect(client.server.statistics.pins == 0)
    // The new file's descriptor may stay, nothing of the old one's.
    #expect(client.server.statistics.descriptors <= 1)
    #expect(client.unlink(1, "none") == ENOENT)
    #expect(client.unlink(1, ".") == EINVAL)
  }

  @Test func pinsAreBounded() throws {
    for index in 0..<6 { host.file("f\(index)") }
    let client = try TestClient.writable(host.path, pinLimit: 4)
    let nodes = (0..<6).map { client.node("f\($0)") }
    for index in 0..<4 { #expect(client.unlink(1, "f\(index)") == 0) }
    // Refused, and nothing is lost.
    #expect(client.unlink(1, "f4") == ENFILE)
    #expect(client.rename(1, "f5", 1, "f4") == ENFILE)
    #expect(host.attributes("f4") != nil)
    client.forget(nodes[0])
    #expect(client.unlink(1, "f4") == 0)
    // What the guest does not know needs no pin.
    client.forget(nodes[5])
    #expect(client.unlink(1, "f5") == 0)
  }

  @Test func aHardLinkIsNoLoss() throws {
    host.file("a", "x")
    link(host["a"], host["b"])
    let client = try TestClient.writable(host.path)
    let node = client.node("a")
    #expect(client.unlink(1, "a") == 0)
    #expect(client.server.statistics.pins == 1)
    #expect(client.read(node, 0, 10).body == [0x78])
    // Found by its other name, it needs no pin.
    #expect(client.node("b") == node)
    #expect(client.server.statistics.pins == 0)
    #expect(client.read(node, 0, 10).body == [0x78])
    // Known by another name than the one that goes.
    link(host["b"], host["c"])
    #expect(client.unlink(1, "c") == 0)
    #expect(client.server.statistics.pins == 0)
  }

  @Test func nodesFollowRenames() throws {
    host.directory("from")
    host.directory("from/deep")
    host.directory("to")
    host.file("from/deep/file", "content")
    host.file("to/victim", "victim")
    let client = try TestClient.writable(host.path)
    let (from, to) = (client.node("from"), client.node("to"))
    let file = client.node("from/deep/file")
    let victim = client.node("to/victim")
    #expect(client.rename(from, "deep", to, "deeper") == 0)
    #expect(client.read(file, 0, 100).body == Array("content".utf8))
    #expect(client.rename(client.node("to/deeper"), "file", to, "victim") == 0)
    #expect(client.read(file, 0, 100).body == Array("content".utf8))
    #expect(client.read(victim, 0, 100).body == Array("victim".utf8))
    #expect(client.server.statistics.pins == 1)
    // Two names of one file: nothing is replaced, nothing is pinned.
    #expect(client.link(file, to, "twin").error == 0)
    #expect(client.rename(to, "victim", to, "twin") == 0)
    #expect(client.server.statistics.pins == 1)
    #expect(client.rename(to, "none", to, "x") == ENOENT)
    #expect(client.rename(to, "twin", to, "victim", flags: 1) == EEXIST)
    #expect(client.rename(to, "twin", to, "fresh", flags: 1) == 0)
    #expect(client.read(file, 0, 100).error == 0)
    // Whiteouts are devices.
    #expect(client.rename(to, "fresh", to, "y", flags: 4) == EINVAL)
    #expect(client.rename(to, "fresh", to, "y", flags: 3) == EINVAL)
  }

  @Test func namesCanBeExchanged() throws {
    host.directory("dir")
    host.file("dir/inner", "inner")
    host.file("file", "file")
    let client = try TestClient.writable(host.path)
    let (inner, file) = (client.node("dir/inner"), client.node("file"))
    let directory = client.node("dir")
    #expect(client.rename(1, "file", 1, "dir", flags: 2) == 0)
    #expect(client.read(file, 0, 10).body == Array("file".utf8))
    #expect(client.read(inner, 0, 10).body == Array("inner".utf8))
    #expect(client.node("file") == directory)
    #expect(client.node("dir") == file)
    #expect(client.rename(1, "file", 1, "none", flags: 2) == ENOENT)
    // A directory does not move below itself.
    #expect(client.rename(1, "file", directory, "x") == EINVAL)
  }

  @Test func setsAttributes() throws {
    host.file("file", "0123456789")
    host.link("link", to: "file")
    let client = try TestClient.writable(host.path)
    let node = client.node("file")
    #expect(
      client.setattr(node) { ($0.valid, $0.mode) = (FUSESetattrFlags.mode, 0o4751) }.attributes.mode & 0o7777 == 0o4751)
    #expect(client.setattr(node) { ($0.valid, $0.size) = (FUSESetattrFlags.size, 4) }.attributes.size == 4)
    #expect(host.content("file") == Array("0123".utf8))
    let (error, got) = client.setattr(node) {
      $0.valid = FUSESetattrFlags.atime | FUSESetattrFlags.mtime
      ($0.atime, $0.atimeNanoseconds) = (1_000_000, 123_456_789)
      ($0.mtime, $0.mtimeNanoseconds) = (UInt64(bitPattern: -5), 999_999_999)
    }
    #expect(error == 0)
    #expect(got.atime == 1_000_000 && got.atimeNanoseconds == 123_456_789)
    #expect(got.mtime == UInt64(bitPattern: -5) && got.mtimeNanoseconds == 999_999_999)
    let before = time(nil)
    let now = client.setattr(node) { $0.valid = FUSESetattrFlags.mtime | FUSESetattrFlags.mtimeNow }.attributes
    #expect(Int(now.mtime) >= before && now.atime == 1_000_000)
    #expect(
      client.setattr(node) {
        ($0.valid, $0.mtimeNanoseconds) = (FUSESetattrFlags.mtime, 1_000_000_000)
      }.error == EINVAL)
    // The owner it has may be set; a link is changed itself.
    let status = host.attributes("file")!
    #expect(client.setattr(node) { ($0.valid, $0.uid) = (FUSESetattrFlags.uid, status.st_uid) }.error == 0)
    let link = client.node("link")
    #expect(client.setattr(link) { ($0.valid, $0.mtime) = (FUSESetattrFlags.mtime, 77) }.attributes.mtime == 77)
    #expect(host.attributes("link")!.st_mtim.tv_sec == 77)
    #expect(client.setattr(link) { ($0.valid, $0.mode) = (FUSESetattrFlags.mode, 0o600) }.error == EOPNOTSUPP)
    #expect(client.setattr(link) { ($0.valid, $0.size) = (FUSESetattrFlags.size, 0) }.error == ELOOP)
    #expect(client.setattr(1) { ($0.valid, $0.size) = (FUSESetattrFlags.size, 0) }.error == EISDIR)
    #expect(client.truncate(node, to: 1 << 63) == EFBIG)
    #expect(client.truncate(node, to: 1 << 62) != 0)
  }

  @Test func setUserBitsGoWithAWrite() throws {
    host.file("file", "x")
    chmod(host["file"], 0o6775)
    let client = try TestClient.writable(host.path)
    let node = client.node("file")
    #expect(client.write(node, 0, [1], flags: FUSEWriteFlags.killSetUser).error == 0)
    #expect(host.attributes("file")!.st_mode & 0o7777 == 0o775)
    chmod(host["file"], 0o6765)
    #expect(
      client.setattr(node) {
        ($0.valid, $0.size) = (FUSESetattrFlags.size | FUSESetattrFlags.killSetUser, 0)
      }.error == 0)
    // Set-group without execution is a mark for locking, and stays.
    #expect(host.attributes("file")!.st_mode & 0o4000 == 0)
  }

  @Test func allocatesPunchesAndCopies() throws {
    host.file("file", bytes: [UInt8](repeating: 1, count: 8192))
    host.file("other")
    let client = try TestClient.writable(host.path)
    let (node, other) = (client.node("file"), client.node("other"))
    #expect(client.fallocate(node, mode: 0, 8192, 4096) == 0)
    #expect(host.attributes("file")!.st_size == 12_288)
    #expect(client.fallocate(node, mode: 3, 0, 4096) == 0)
    #expect(client.read(node, 0, 8192).body == [UInt8](repeating: 0, count: 4096) + [UInt8](repeating: 1, count: 4096))
    #expect(client.fallocate(node, mode: 8, 0, 4096) == EOPNOTSUPP)
    #expect(client.fallocate(node, mode: 0, 0, 0) == EINVAL)
    #expect(client.fallocate(node, mode: 0, UInt64(Int64.max), 1) == EFBIG)
    #expect(client.fallocate(node, mode: 0, 1 << 63, 1) == EINVAL)
    let (error, count) = client.copy(node, 4096, to: other, 10, 100)
    #expect(error == 0 && count == 100)
    #expect(host.content("other") == [UInt8](repeating: 0, count: 10) + [UInt8](repeating: 1, count: 100))
    #expect(client.copy(node, 1 << 63, to: other, 0, 1).error == EINVAL)
    #expect(client.copy(node, 0, to: 999, 0, 1).error == ENOENT)
  }

  @Test func attributesOfUsers() throws {
    host.file("file")
    host.link("link", to: "file")
    let client = try TestClient.writable(host.path)
    let node = client.node("file")
    #expect(client.setxattr(node, "user.colour", Array("blue".utf8)) == 0)
    #expect(client.getxattr(node, "user.colour").value == Array("blue".utf8))
    #expect(client.setxattr(node, "user.colour", [], flags: 1) == EEXIST)
    #expect(client.setxattr(node, "user.none", [], flags: 2) == ENODATA)
    #expect(client.removexattr(node, "user.colour") == 0)
    #expect(client.removexattr(node, "user.colour") == ENODATA)
    for name in ["security.capability", "trusted.x", "system.posix_acl_access", "user.", "user", ""] {
      #expect(client.setxattr(node, name, [1]) != 0)
      #expect(client.removexattr(node, name) != 0)
    }
    #expect(client.setxattr(node, "user.x", [1], claim: 5) == EINVAL)
    #expect(client.setxattr(client.node("link"), "user.x", [1]) == EPERM)
  }

  @Test func temporaryFilesGetAName() throws {
    let client = try TestClient.writable(host.path)
    var arguments = FUSECreateIn()
    arguments.mode = UInt32(S_IFREG) | 0o600
    let reply = client.call(FUSEOpcode.tmpfile, 1, bytes(arguments) + [0])
    // Not every file system of a host has them.
    if reply.error == EOPNOTSUPP { return }
    #expect(reply.error == 0)
    let node = reply.take(FUSEEntryOut.self).nodeID
    #expect(client.write(node, 0, Array("temporary".utf8)).error == 0)
    #expect(client.read(node, 0, 100).body == Array("temporary".utf8))
    #expect(client.link(node, 1, "named").take(FUSEEntryOut.self).nodeID == node)
    #expect(host.content("named") == Array("temporary".utf8))
    #expect(client.server.statistics.pins == 0)
    #expect(client.read(node, 0, 100).body == Array("temporary".utf8))
  }

  @Test func syncs() throws {
    host.file("file", "x")
    host.directory("dir")
    for client in [try TestClient.writable(host.path), try TestClient(host.path, features: TestClient.ours)] {
      #expect(client.fsync(client.node("file")) == 0)
      #expect(client.fsync(client.node("dir"), directory: true) == 0)
      #expect(client.call(FUSEOpcode.syncfs, 1, [UInt8](repeating: 0, count: 8)).error == 0)
    }
  }

  @Test func readOnlyVolumesRefuseEveryChange() throws {
    host.file("file", "content")
    host.directory("dir")
    let client = try TestClient(host.path, features: TestClient.writing)
    let node = client.node("file")
    #expect(client.write(node, 0, [1]).error == EROFS)
    #expect(client.create(1, "x").error == EROFS)
    #expect(client.mknod(1, "x", UInt32(S_IFREG)).error == EROFS)
    #expect(client.mkdir(1, "x").error == EROFS)
    #expect(client.symlink(1, "x", to: "y").error == EROFS)
    #expect(client.link(node, 1, "x").error == EROFS)
    #expect(client.unlink(1, "file") == EROFS)
    #expect(client.rmdir(1, "dir") == EROFS)
    #expect(client.rename(1, "file", 1, "x") == EROFS)
    #expect(client.call(FUSEOpcode.rename, 1, bytes(FUSERenameIn()) + Array("file\0x\0".utf8)).error == EROFS)
    #expect(client.truncate(node, to: 0) == EROFS)
    #expect(client.fallocate(node, mode: 0, 0, 1) == EROFS)
    #expect(client.setxattr(node, "user.x", [1]) == EROFS)
    #expect(client.removexattr(node, "user.x") == EROFS)
    #expect(client.copy(node, 0, to: node, 100, 1).error == EROFS)
    #expect(client.call(FUSEOpcode.tmpfile, 1, bytes(FUSECreateIn()) + [0]).error == EROFS)
    #expect(client.open(node, flags: O_RDWR).error == EROFS)
    #expect(client.open(node, flags: O_TRUNC).error == EROFS)
    #expect(host.content("file") == Array("content".utf8))
  }
}
