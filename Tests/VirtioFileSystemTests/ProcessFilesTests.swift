// A /proc that is shared: it has doors into the server's own process, which stay shut, and nothing in it can be changed.
import CSystemCalls
import Foundation
import Glibc
import Testing
import VirtioABI

@testable import VirtioFileSystem

/// A process of this user that sleeps until it is let go.
private final class Sleeper {
  let number: pid_t

  init() {
    var child = pid_t()
    let arguments: [UnsafeMutablePointer<CChar>?] = [strdup("/bin/sleep"), strdup("60"), nil]
    posix_spawn(&child, "/bin/sleep", nil, nil, arguments, environ)
    for argument in arguments { free(argument) }
    number = child
    // It goes by its parent's name for a moment after posix_spawn has returned.
    for _ in 0..<1000 where (try? String(contentsOfFile: "/proc/\(child)/comm", encoding: .utf8)) != "sleep\n" {
      usleep(10_000)
    }
  }

  deinit {
    kill(number, SIGKILL)
    waitpid(number, nil, 0)
  }
}

@Suite struct ProcessFilesTests {
  /// Serves `path`; writable.
  private func client(_ path: String = "/proc", features: UInt64 = TestClient.writing) throws -> TestClient {
    var configuration = FUSEServer.Configuration()
    configuration.isWritable = true
    return try TestClient(path, features: features, configuration: configuration)
  }

  @Test func theServersOwnProcessIsNotThere() throws {
    let client = try client()
    let me = "\(getpid())"
    #expect(client.lookup(1, me).error == EACCES)
    // Nor by the number of one of its threads, which /proc knows though it does not list it.
    let thread = Thread { while !Thread.current.isCancelled { usleep(10_000) } }
    thread.start()
    defer { thread.cancel() }
    let threads = try FileManager.default.contentsOfDirectory(atPath: "/proc/self/task")
    #expect(threads.count > 1)
    for number in threads { #expect(client.lookup(1, number).error == EACCES, "\(number)") }
    // "self" is a link, and says no more than the number.
    #expect(client.readlink(client.node("self")).target == me)
    // Listed with attributes it is a name without a node.
    let listed = client.list(1).entries.filter { $0.name == me }
    #expect(listed.map { $0.entry?.nodeID } == [0])
  }

  @Test(arguments: ["/proc/self", "/proc/self/task", "/proc/self/fd", "/proc/thread-self", "/proc/self/net"])
  func nothingOfItCanBeServed(_ path: String) {
    do throws(FUSEServer.OpenFailure) {
      _ = try FUSEServer(path: path)
      Issue.record("\(path) is served")
    } catch { #expect(error.code == EACCES && !error.processDirectory) }
  }

  /// Whatever is mounted where: the way across a mount is seen.
  @Test func aProcBeneathTheRootIsKnown() throws {
    let client = try client("/")
    #expect(client.lookup(client.node("proc"), "\(getpid())").error == EACCES)
    let sleeper = Sleeper()
    #expect(client.read(client.node("proc/\(sleeper.number)/comm"), 0, 100).error == 0)
  }

  @Test func otherProcessesCanBeReadAndNothingWritten() throws {
    let sleeper = Sleeper()
    for features in [TestClient.writing, TestClient.plain] {
      let client = try client(features: features)
      #expect(client.read(client.node("\(sleeper.number)/comm"), 0, 100).body == Array("sleep\n".utf8))
      for name in ["\(sleeper.number)/mem", "\(sleeper.number)/comm", "sys/kernel/hostname"] {
        let node = client.node(name)
        #expect(client.write(node, 0, Array("x".utf8)).error == EROFS, "\(name)")
        #expect(client.truncate(node, to: 0) == EROFS, "\(name)")
        let changed = client.setattr(node) {
          $0.valid = FUSESetattrFlags.mode
          $0.mode = 0o777
        }
        #expect(changed.error == EROFS, "\(name)")
      }
    }
  }

  @Test func magicLinksAreLinks() throws {
    let sleeper = Sleeper()
    let client = try client()
    for name in ["root", "cwd", "exe", "fd/0"] {
      let (error, entry) = client.lookup(client.node("\(sleeper.number)"), name == "fd/0" ? "exe" : name)
      #expect(error == 0)
      #expect(entry.attributes.mode & UInt32(S_IFMT) == UInt32(S_IFLNK))
      #expect(client.lookup(entry.nodeID, "etc").error == ENOTDIR)
      #expect(client.entries(entry.nodeID, 0, 4096).error == ENOTDIR)
      #expect(client.read(entry.nodeID, 0, 100).error == ELOOP)
    }
    #expect(client.read(client.node("\(sleeper.number)/fd/0"), 0, 100).error == ELOOP)
  }

  @Test func whoseStatusItIs() {
    func number(_ text: String) -> Int? { Array(text.utf8).withUnsafeBytes { OpenDescriptor.processNumber(in: $0) } }
    #expect(number("Name:\tx\nTgid:\t12\nNgid:\t0\nNStgid:\t12\n") == 12)
    #expect(number("Name:\tx\nTgid:\t4000\nPid:\t4001\nNStgid:\t4000\t7\nNSpid:\t4001\t8\n") == 7)
    #expect(number("Tgid:\t9\n") == 9)
    #expect(number("Name:\tTgid: 5\n") == nil)
    #expect(number("") == nil)
  }
}
