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
    // Before there is a timer, which may be due at any time on a busy machine.
    #expect(waitForAny([semaphore.source, queue.source { false }], until: .after(milliseconds: 1)) == nil)
    let before = GuestAPI.Clock.monotonic
    let timer = GuestAPI.Timer(after: 3_000_000, every: 1_000_000)
    let sources = [semaphore.source, timer.source, queue.source { false }]
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

  /// A connection of this very thread, from its beginning to its end.
  @Test func connectionsAreAcceptedReadAndWritten() throws {
    let listener = try Listener(port: 0)
    let port = try listener.port()
    let poller = try Poller(capacity: 4)
    try poller.add(listener, token: 7)
    #expect(try listener.accept() == nil)
    let client = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(client) }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
    let result = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(client, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
    try #require(result == 0)
    /// What is ready within a second.
    func events(_ poller: borrowing Poller, _ milliseconds: Int = 1000) throws -> [Int: Poller.Interest] {
      var found: [Int: Poller.Interest] = [:]
      try poller.wait(milliseconds: milliseconds) { found[$0.token] = $0.ready }
      return found
    }
    #expect(try events(poller) == [7: .reading])
    guard let connection = try listener.accept() else {
      Issue.record("no connection")
      return
    }
    try poller.add(connection, token: -5)
    #expect(try events(poller, 0).isEmpty)
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 100, alignment: 1)
    defer { buffer.deallocate() }
    #expect(try connection.read(into: buffer) == nil)
    #expect(send(client, "hello", 5, 0) == 5)
    #expect(try events(poller) == [-5: .reading])
    #expect(try connection.read(into: buffer) == 5)
    #expect(try connection.write(UnsafeRawBufferPointer(rebasing: buffer[..<5])) == 5)
    var answer = [UInt8](repeating: 0, count: 10)
    #expect(recv(client, &answer, 10, 0) == 5 && answer.starts(with: Array("hello".utf8)))
    try poller.change(connection, to: .writing, token: 3)
    #expect(try events(poller) == [3: .writing])
    connection.finishWriting()
    #expect(recv(client, &answer, 10, 0) == 0)
    // Another listener of ours may have the same port, and no other program's.
    let second = try Listener(port: port)
    #expect(try second.port() == port)
    #expect(throws: Errno.EADDRINUSE) {
      let taken = socket(AF_INET6, Int32(SOCK_STREAM.rawValue), 0)
      defer { close(taken) }
      var any = sockaddr_in6()
      any.sin6_family = sa_family_t(AF_INET6)
      let bound = withUnsafePointer(to: &any) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          bind(taken, $0, socklen_t(MemoryLayout<sockaddr_in6>.size))
        }
      }
      try #require(bound == 0 && listen(taken, 1) == 0)
      var name = sockaddr_in6()
      var count = socklen_t(MemoryLayout<sockaddr_in6>.size)
      _ = withUnsafeMutablePointer(to: &name) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(taken, $0, &count) }
      }
      _ = try Listener(port: UInt16(bigEndian: name.sin6_port))
    }
  }

  @Test func whoDoesNotReadIsNotWrittenToForEver() throws {
    let listener = try Listener(port: 0)
    let port = try listener.port()
    let client = socket(AF_INET6, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_in6()
    address.sin6_family = sa_family_t(AF_INET6)
    address.sin6_port = port.bigEndian
    address.sin6_addr = in6addr_loopback
    let result = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(client, $0, socklen_t(MemoryLayout<sockaddr_in6>.size))
      }
    }
    try #require(result == 0)
    let piece = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 16, alignment: 1)
    defer { piece.deallocate() }
    piece.initializeMemory(as: UInt8.self, repeating: 7)
    let waiting = try Poller()
    try waiting.add(listener, token: 0)
    try waiting.wait(milliseconds: 5000) { _ in }
    try waiting.change(listener, to: [], token: 0)
    var isTold = false
    try waiting.wait(milliseconds: 0) { _ in isTold = true }
    #expect(!isTold)
    guard let connection = try listener.accept() else {
      Issue.record("no connection")
      return
    }
    var total = 0
    while let count = try connection.write(UnsafeRawBufferPointer(piece)), total < 1 << 30 { total += count }
    #expect(total > 0 && total < 1 << 30)
    close(client)
    let gone = try Poller()
    try gone.add(connection, token: 1)
    var ready: Poller.Interest = []
    try gone.wait(milliseconds: 1000) { ready = $0.ready }
    #expect(ready == [.reading, .writing])
    #expect(throws: Errno.self) { while try connection.write(UnsafeRawBufferPointer(piece)) != nil {} }
  }
}
