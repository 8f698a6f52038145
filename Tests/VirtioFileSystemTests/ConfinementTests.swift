// The guest is hostile and the host's tree changes under the server: nothing outside the root may ever be reached.
import CSystemCalls
import Glibc
import Testing
import VirtioABI

@testable import VirtioFileSystem

/// Time that tests move by hand.
final class TestClock: @unchecked Sendable {
  var now: UInt64 = 1_000_000_000_000
}

@Suite struct ConfinementTests {
  /// `outside` holds a secret; only `share` is served.
  let host = TestDirectory.sharedBesideASecret()
  let clock = TestClock()

  func client(features: UInt64 = TestClient.ours) throws -> TestClient {
    var configuration = FUSEServer.Configuration()
    let clock = clock
    configuration.clock = { clock.now }
    return try TestClient(host["share"], features: features, configuration: configuration)
  }

  @Test func namesAreSingleComponents() throws {
    let client = try client()
    host.directory("share/sub")
    for parent in [1, client.node("sub")] {
      for name in [".", "..", "", "../outside", "/etc/passwd", "sub/..", "a/b", "/"] {
        #expect(client.lookup(parent, name).error == EINVAL, "\(name)")
      }
    }
    #expect(client.lookup(1, String(repeating: "x", count: 256)).error == ENAMETOOLONG)
    #expect(client.lookup(1, String(repeating: "x", count: 255)).error == ENOENT)
    #expect(client.call(FUSEOpcode.lookup, 1, Array("sub".utf8)).error == EINVAL)
    #expect(client.call(FUSEOpcode.lookup, 1).error == EINVAL)
  }

  @Test(arguments: ["../outside/secret", "../outside", "/etc/passwd", "/", "..", "/proc/self/root", "nowhere"])
  func linksAreDataNeverFollowed(target: String) throws {
    host.link("share/link", to: target)
    let client = try client()
    let (error, entry) = client.lookup(1, "link")
    #expect(error == 0)
    #expect(entry.attributes.mode & UInt32(S_IFMT) == UInt32(S_IFLNK))
    #expect(client.readlink(entry.nodeID).target == target)
    #expect(client.lookup(entry.nodeID, "secret").error == ENOTDIR)
    #expect(client.lookup(entry.nodeID, "passwd").error == ENOTDIR)
    #expect(client.read(entry.nodeID, 0, 100).error == ELOOP)
    #expect(client.entries(entry.nodeID, 0, 4096).error == ENOTDIR)
  }

  @Test func anOpenDirectoryThatLeavesShowsNothing() throws {
    host.directory("share/dir")
    host.file("share/dir/name", "mine")
    // A client that opens directories by handle.
    let client = try client(features: TestClient.plain)
    let directory = client.node("dir")
    let handle = client.open(directory, directory: true).handle
    #expect(handle != 0)
    #expect(client.entries(directory, 0, 4096, handle: handle).error == 0)
    rename(host["share/dir"], host["outside/dir"])
    host.file("outside/dir/later", "secret")
    clock.now += 2_000_000_000
    #expect(client.entries(directory, 0, 4096, handle: handle).error == ESTALE)
    rename(host["outside/dir"], host["share/dir"])
    #expect(client.entries(directory, 0, 4096, handle: handle).error == 0)
  }

  @Test func directoryReplacedByALink() throws {
    host.directory("share/dir")
    host.file("share/dir/secret", "mine")
    let client = try client()
    let directory = client.node("dir")
    let file = client.node("dir/secret")
    #expect(client.read(file, 0, 100).body == Array("mine".utf8))
    rename(host["share/dir"], host["share/gone"])
    host.link("share/dir", to: "../outside")
    clock.now += 2_000_000_000
    #expect(client.lookup(directory, "secret").error == ESTALE)
    #expect(client.entries(directory, 0, 4096).error == ESTALE)
    #expect(client.getattr(directory).error == ESTALE)
    #expect(client.getattr(file).error == ESTALE)
    #expect(client.read(file, 0, 100).error == ESTALE)
    // Looked up again under its new name, the same file is the same node.
    #expect(client.node("gone") == directory)
    #expect(client.read(file, 0, 100).body == Array("mine".utf8))
  }

  @Test func fileReplacedByALinkOrAnotherFile() throws {
    host.file("share/file", "first")
    let client = try client()
    let node = client.node("file")
    #expect(client.getattr(node).error == 0)
    unlink(host["share/file"])
    host.link("share/file", to: "../outside/secret")
    #expect(client.getattr(node).error == ESTALE)
    #expect(client.read(node, 0, 100).error == ESTALE)
    unlink(host["share/file"])
    host.file("share/file", "second")
    #expect(client.read(node, 0, 100).error == ESTALE)
    #expect(client.read(client.node("file"), 0, 100).body == Array("second".utf8))
  }

  @Test func directoryMovedOutOfTheShare() throws {
    host.directory("share/dir")
    host.directory("share/dir/deep")
    host.file("share/dir/deep/file", "x")
    let client = try client()
    let deep = client.node("dir/deep")
    let file = client.node("dir/deep/file")
    #expect(client.read(file, 0, 1).body == Array("x".utf8))
    rename(host["share/dir"], host["outside/dir"])
    clock.now += 2_000_000_000
    #expect(client.lookup(deep, "file").error == ESTALE)
    #expect(client.entries(deep, 0, 4096).error == ESTALE)
    #expect(client.read(file, 0, 1).error == ESTALE)
  }

  @Test func renamesWhileWalking() throws {
    host.directory("share/a")
    host.directory("share/a/b")
    host.directory("share/a/b/c")
    host.file("share/a/b/c/file", "x")
    var configuration = FUSEServer.Configuration()
    configuration.trustNanoseconds = 0
    let client = try TestClient(host["share"], features: TestClient.ours, configuration: configuration)
    let mover = """
      cd '\(host.path)'; n=0; while [ $n -lt 60 ]; do
      mv share/a/b outside/b; ln -s ../../outside share/a/b; rm share/a/b; mv outside/b share/a/b; n=$((n+1)); done
      """
    var child = pid_t()
    let arguments: [UnsafeMutablePointer<CChar>?] = [strdup("/bin/sh"), strdup("-c"), strdup(mover), nil]
    posix_spawn(&child, "/bin/sh", nil, nil, arguments, environ)
    var status: Int32 = 0
    var walks = 0
    while waitpid(child, &status, WNOHANG) == 0 {
      walks += 1
      #expect(client.lookup(client.node("a/b"), "secret").entry.nodeID == 0)
      _ = client.read(client.node("a/b/c/file"), 0, 1)
      for entry in client.entries(client.node("a/b"), 0, 4096).entries { #expect(entry.name != "secret") }
    }
    #expect(walks > 0)
    #expect(client.read(client.node("a/b/c/file"), 0, 1).body == Array("x".utf8))
  }

  @Test func rootReplacedByALink() throws {
    host.file("share/file", "mine")
    let client = try client()
    rename(host["share"], host["was"])
    host.link("share", to: "outside")
    #expect(client.lookup(1, "secret").error == ENOENT)
    #expect(client.read(client.node("file"), 0, 10).body == Array("mine".utf8))
  }

  @Test func specialFilesAreNeverOpened() throws {
    mkfifo(host["share/fifo"], 0o666)
    let socket = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(host["share/socket"].utf8)) }
    let bound = withUnsafePointer(to: address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        bind(socket, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    #expect(bound == 0)
    close(socket)
    var names = ["fifo", "socket"]
    if mknod(host["share/null"], S_IFCHR | 0o666, 0x103) == 0 { names.append("null") }
    for features in [TestClient.ours, TestClient.plain] {
      let client = try client(features: features)
      for name in names {
        let node = client.node(name)
        #expect(client.getattr(node).error == 0)
        // A FIFO opened for reading would wait for ever for its writer.
        #expect(client.read(node, 0, 10).error == ENXIO)
        #expect(client.open(node).error == (features == TestClient.ours ? ENOSYS : ENXIO))
        var size = FUSEXattrSize()
        size.size = 100
        #expect(client.call(FUSEOpcode.getxattr, node, bytes(size) + Array("user.x\0".utf8)).error == ENODATA)
      }
      if names.count == 3 { #expect(client.getattr(client.node("null")).attributes.rdev == 0x103) }
    }
  }

  @Test func nodesNeverBecomeTheirOwnAncestors() throws {
    host.directory("share/a")
    host.directory("share/a/b")
    let client = try client()
    let a = client.node("a")
    let b = client.node("a/b")
    #expect(client.lookup(b, "nothing").error == ENOENT)
    // Turned inside out; the server still has a descriptor of b.
    rename(host["share/a/b"], host["share/b"])
    rename(host["share/a"], host["share/b/a"])
    #expect(client.lookup(b, "a").entry.nodeID == a)
    clock.now += 2_000_000_000
    #expect(client.lookup(b, "a").error == ESTALE)
    #expect(client.node("b") == b)
    #expect(client.node("b/a") == a)
    #expect(client.getattr(a).error == 0)
  }
}

/// Whether a thread may have mounts of its own; without the right to, these tests show as skipped.
private let mayMount: Bool = {
  final class Answer: @unchecked Sendable { var isYes = false }
  let answer = Answer()
  var thread = pthread_t()
  pthread_create(
    &thread, nil,
    { argument in
      Unmanaged<Answer>.fromOpaque(argument!).takeUnretainedValue().isYes =
        unshare(0x200) == 0 && unshare(0x0002_0000) == 0
      return nil
    }, Unmanaged.passUnretained(answer).toOpaque())
  pthread_join(thread, nil)
  return answer.isYes
}()

/// Mounts, made in a mount namespace of a thread of its own. Needs privilege (as in a container's root or in CI).
@Suite(.enabled(if: mayMount, "needs CAP_SYS_ADMIN"))
struct MountTests {
  let host = TestDirectory()

  /// Runs a body on a thread whose mounts are its own.
  func withOwnMounts(_ body: @escaping () throws -> Void) throws {
    final class Box: @unchecked Sendable {
      let body: () throws -> Void
      var result: Result<Bool, any Error> = .success(false)
      init(_ body: @escaping () throws -> Void) { self.body = body }
    }
    let box = Box(body)
    var thread = pthread_t()
    pthread_create(
      &thread, nil,
      { argument in
        let box = Unmanaged<Box>.fromOpaque(argument!).takeUnretainedValue()
        // CLONE_FS | CLONE_NEWNS, then nothing propagates.
        guard unshare(0x200) == 0, unshare(0x0002_0000) == 0,
          Glibc.mount("none", "/", nil, UInt(MS_REC | MS_PRIVATE), nil) == 0
        else { return nil }
        box.result = Result {
          try box.body()
          return true
        }
        return nil
      }, Unmanaged.passUnretained(box).toOpaque())
    pthread_join(thread, nil)
    let ran = try box.result.get()
    try #require(ran, "mounts could not be made")
  }

  func mount(_ source: String, _ target: String, _ type: String?, _ flags: UInt) -> Int32 {
    Glibc.mount(source, target, type, flags, nil)
  }

  @Test func submountsAreCrossedAndTold() throws {
    host.directory("share")
    host.directory("share/sub")
    host.file("share/hidden", "below")
    host.file("share/sub/under", "covered")
    try withOwnMounts { [self] in
      var configuration = FUSEServer.Configuration()
      configuration.trustNanoseconds = 0
      let before = try TestClient(host["share"], features: TestClient.ours, configuration: configuration)
      let covered = before.node("sub")
      let under = before.node("sub/under")
      #expect(mount("tmpfs", host["share/sub"], "tmpfs", 0) == 0)
      defer { umount(host["share/sub"]) }
      host.file("share/sub/inner", "mounted")
      let client = try TestClient(host["share"], features: TestClient.ours)
      let inner = client.node("sub/inner")
      #expect(client.read(inner, 0, 100).body == Array("mounted".utf8))
      // tmpfs counts its inodes from 1: only the device tells them apart.
      let entries = client.list(1).entries + client.list(client.node("sub")).entries
      #expect(Set(entries.map(\.ino)).count == entries.count)
      #expect(entries.first { $0.name == "sub" }!.ino == client.getattr(client.node("sub")).attributes.ino)
      #expect(client.getattr(inner).attributes.ino >> 48 == 1)
      // What the mount covers is not that directory any more.
      #expect(before.getattr(covered).error == ESTALE)
      #expect(before.read(under, 0, 10).error == ESTALE)
      #expect(before.node("sub") != covered)
    }
  }

  @Test func mountsSwappedUnderTheServer() throws {
    for name in ["share", "share/dir", "outside", "other"] { host.directory(name) }
    host.file("share/dir/file", "mine")
    host.file("outside/secret", "secret")
    host.file("outside/file", "theirs")
    try withOwnMounts { [self] in
      var configuration = FUSEServer.Configuration()
      configuration.trustNanoseconds = 0
      let client = try TestClient(host["share"], features: TestClient.ours, configuration: configuration)
      let directory = client.node("dir")
      let file = client.node("dir/file")
      #expect(client.read(file, 0, 10).body == Array("mine".utf8))
      // Something mounted over a directory the guest knows: its nodes are stale, never the other tree's.
      #expect(mount(host["outside"], host["share/dir"], nil, UInt(MS_BIND)) == 0)
      #expect(client.lookup(directory, "secret").error == ESTALE)
      #expect(client.entries(directory, 0, 4096).error == ESTALE)
      #expect(client.read(file, 0, 10).error == ESTALE)
      umount(host["share/dir"])
      #expect(client.read(file, 0, 10).body == Array("mine".utf8))
      // Something mounted over the root: the server holds the directory, not its path.
      #expect(mount(host["outside"], host["share"], nil, UInt(MS_BIND)) == 0)
      #expect(client.lookup(1, "secret").error == ENOENT)
      #expect(client.read(client.node("dir/file"), 0, 10).body == Array("mine".utf8))
      umount(host["share"])
      // The root bound beneath itself is refused rather than given a second name.
      #expect(mount(host["share"], host["share/dir"], nil, UInt(MS_BIND)) == 0)
      #expect(client.lookup(1, "dir").error == ELOOP)
      umount(host["share/dir"])
    }
  }
}
