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

  @Test func semaphoresTimersAndConditionsAreWaitedForTogether() {
    let semaphore = GuestAPI.Semaphore()
    let queue = GuestAPI.WaitQueue()
    let timer = GuestAPI.Timer(after: 3_000_000, every: 1_000_000)
    let sources = [semaphore.source, timer.source, queue.source { false }]
    let before = GuestAPI.Clock.monotonic
    #expect(waitForAny(sources, until: .after(milliseconds: 1)) == nil)
    semaphore.post(2)
    #expect(waitForAny(sources) == 0 && waitForAny(sources) == 0)
    #expect(waitForAny(sources) == 1 && GuestAPI.Clock.monotonic - before >= 3_000_000)
    #expect(timer.wait())
    timer.cancel()
    #expect(!timer.wait() && semaphore.count == 0)
    #expect(!semaphore.wait(until: .after(milliseconds: 1)))
  }

  @Test func readersSeeWholeValuesWhileTheyAreReplaced() {
    struct Pair {
      var first = 0
      var second = 0
    }
    let pointer = GuestAPI.RCUPointer(Pair())
    DispatchQueue.concurrentPerform(iterations: 4) { index in
      for _ in 0..<2_000 {
        if index == 0 {
          pointer.update { Pair(first: $0.first + 1, second: $0.second + 1) }
        } else if pointer.read({ $0.first != $0.second }) {
          Issue.record("half a value")
        }
      }
    }
    GuestAPI.RCU.barrier()
    #expect(pointer.read { $0.first } == 2_000)
  }

  @Test func regionsAreMappedProtectedAndDiscarded() throws {
    let region = try GuestAPI.Region(byteCount: 10_000, [.populated])
    let bytes = region.bytes
    #expect(bytes.count == 12_288 && bytes[9_999] == 0)
    bytes[4_096] = 7
    try region.protect(4_096..<8_192, .read)
    #expect(bytes[4_096] == 7)
    try region.protect(4_096..<8_192, .readWrite)
    try region.discard(4_096..<8_192)
    #expect(bytes[4_096] == 0)
    #expect(throws: Errno.EINVAL) { try region.protect(1..<4_097, .read) }
  }
}
