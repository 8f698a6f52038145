// What Swift images import, tried on Linux itself: compiled for the host, the gate is Linux's own system call.
import Foundation
import Testing

@testable import GuestAPI

@Suite struct GuestAPITests {
  @Test func filesAreWrittenReadAndAppended() throws {
    let path = NSTemporaryDirectory() + "guest-api-\(getpid())"
    defer { try? FileManager.default.removeItem(atPath: path) }
    do {
      let file = try GuestAPI.File(path, .write)
      try file.write("one\n")
    }
    do {
      let file = try GuestAPI.File(path, .append)
      try file.write("two\n")
    }
    let file = try GuestAPI.File(path)
    #expect(try file.readAll() == Array("one\ntwo\n".utf8))
    try file.seek(to: 4)
    #expect(try file.readAll() == Array("two\n".utf8))
  }

  @Test func errorsAreLinuxs() {
    #expect(throws: Errno.ENOENT) { _ = try GuestAPI.File("/no/such/file") }
    #expect(throws: Errno.EISDIR) { _ = try GuestAPI.File("/", .write) }
    #expect(throws: Errno.EBADF) {
      let file = try GuestAPI.File("/dev/null")
      try file.write("x")
    }
  }

  @Test func sleepingTakesTheTimeItSays() {
    let before = GuestAPI.Clock.monotonic
    GuestAPI.sleep(milliseconds: 5)
    #expect(GuestAPI.Clock.monotonic - before >= 5_000_000)
    #expect(GuestAPI.Clock.wall > 1_700_000_000_000_000_000)
  }

  @Test func locksExclude() {
    final class Shared: @unchecked Sendable {
      let lock = GuestAPI.Lock()
      var count = 0
    }
    let shared = Shared()
    DispatchQueue.concurrentPerform(iterations: 4) { _ in
      for _ in 0..<10_000 { shared.lock.withLock { shared.count += 1 } }
    }
    #expect(shared.count == 40_000)
  }
}
