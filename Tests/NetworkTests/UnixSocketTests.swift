// AF_UNIX below the system calls: streams and messages, names, ends, descriptors on their way, and many threads.
import Base
import Dispatch
import Files
import Foundation
import Locks
import Memory
import Network
import RamFS
import Testing

@Suite(.timeLimit(.minutes(15))) struct UnixSocketTests {
  let caller: SocketCaller

  init() {
    let context = FileSystemContext(mounts: MountTable(root: RamFileSystem()), umask: 0)
    caller = SocketCaller(context: context, rights: Credentials(), process: 7)
  }

  func send(_ socket: Socket, _ bytes: [UInt8], to address: SocketAddress? = nil, files: [OpenFile] = []) throws(Errno)
    -> Int
  {
    var message = OutgoingMessage(by: caller.credentials)
    message.address = address
    if !files.isEmpty { message.files = FilesInFlight(files) }
    return try bytes.withUnsafeBufferPointer { (buffer) throws(Errno) in
      var transfer = Transfer(kernelSource: UnsafeRawBufferPointer(buffer))
      return try socket.send(&transfer, message, caller)
    }
  }

  func receive(_ socket: Socket, _ count: Int, _ flags: MessageFlags = .noWait) throws(Errno) -> (
    IncomingMessage, [UInt8]
  ) {
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: max(count, 1), alignment: 8)
    defer { buffer.deallocate() }
    var transfer = Transfer(kernel: UnsafeMutableRawBufferPointer(rebasing: buffer[..<count]))
    let message = try socket.receive(&transfer, flags)
    return (message, Array(buffer[..<min(message.count, count)]))
  }

  func address(_ text: String, abstract: Bool = false) -> SocketAddress {
    SocketAddress([1, 0] + (abstract ? [0] : []) + Array(text.utf8))
  }

  @Test func streamsHaveNoBorders() throws {
    let (one, two) = UnixSocket.pair(kind: .stream, flags: [], caller)
    #expect(try send(one, [1, 2, 3]) == 3)
    #expect(try send(one, [4, 5]) == 2)
    #expect(try receive(two, 4, [.noWait, .peek]).1 == [1, 2, 3, 4])
    #expect(try receive(two, 4).1 == [1, 2, 3, 4])
    #expect(try receive(two, 4).1 == [5])
    #expect(throws: Errno.EAGAIN) { _ = try receive(two, 4) }
    #expect(one.peerCredentials.process == 7)
  }

  @Test func messagesKeepTheirs() throws {
    for kind in [SocketKind.datagram, .sequenced] {
      let (one, two) = UnixSocket.pair(kind: kind, flags: [], caller)
      _ = try send(one, [1, 2, 3])
      _ = try send(one, [])
      let (cut, bytes) = try receive(two, 2)
      #expect(bytes == [1, 2] && cut.flags == .truncated)
      #expect(try receive(two, 2).1 == [])
      _ = try send(one, [1, 2, 3])
      #expect(try receive(two, 1, [.noWait, .truncated]).0.count == 3)
      #expect(throws: Errno.EMSGSIZE) { _ = try send(one, [UInt8](repeating: 0, count: 300_000)) }
    }
  }

  /// SO_PEEK_OFF: a peek goes on where the last one ended, and what is received moves it.
  @Test func peekingOn() throws {
    func set(_ socket: Socket, _ number: Int32) throws {
      try [number].withUnsafeBytes {
        try socket.setOption(1, 42, OptionValue(UnsafeRawBufferPointer($0)), caller)
      }
    }
    let (one, two) = UnixSocket.pair(kind: .stream, flags: [], caller)
    _ = try send(one, [1, 2, 3])
    _ = try send(one, [4, 5])
    try set(two, 2)
    #expect(try receive(two, 2, [.noWait, .peek]).1 == [3, 4])
    #expect(try receive(two, 9, [.noWait, .peek]).1 == [5])
    #expect(throws: Errno.EAGAIN) { _ = try receive(two, 9, [.noWait, .peek]) }
    #expect(try receive(two, 4).1 == [1, 2, 3, 4])
    #expect(throws: Errno.EAGAIN) { _ = try receive(two, 9, [.noWait, .peek]) }
    _ = try send(one, [6, 7])
    #expect(try receive(two, 9, [.noWait, .peek]).1 == [6, 7])
    try set(two, -1)
    #expect(try receive(two, 9, [.noWait, .peek]).1 == [5, 6, 7])
    let (three, four) = UnixSocket.pair(kind: .datagram, flags: [], caller)
    _ = try send(three, [1, 2, 3])
    _ = try send(three, [4, 5])
    try set(four, 1)
    #expect(try receive(four, 9, [.noWait, .peek]).1 == [2, 3])
    #expect(try receive(four, 1, [.noWait, .peek]).1 == [4])
    #expect(try receive(four, 9).1 == [1, 2, 3])
    #expect(try receive(four, 9, [.noWait, .peek]).1 == [5])
  }

  /// A file on its way counts as open; what nobody takes is closed with its message.
  @Test func filesOnTheirWay() throws {
    let (one, two) = UnixSocket.pair(kind: .stream, flags: [], caller)
    let table = DescriptorTable()
    let (reader, writer) = try Pipe.make()
    _ = try table.install(reader)
    let number = try table.install(writer)
    _ = try send(one, [1], files: [writer])
    _ = try send(one, [2])
    try table.close(number)
    #expect(!reader.readyMask.contains(.hangUp))
    let (message, bytes) = try receive(two, 10)
    #expect(bytes == [1] && message.files?.files.first === writer)
    #expect(!reader.readyMask.contains(.hangUp))
    #expect(try receive(two, 10).0.files == nil)
    _ = consume message
    // Kept by `message` to here at least; then nobody has it.
    let (third, fourth) = UnixSocket.pair(kind: .datagram, flags: [], caller)
    let (reader2, writer2) = try Pipe.make()
    _ = try send(third, [1], files: [writer2])
    #expect(!reader2.readyMask.contains(.hangUp))
    fourth.closed()
    #expect(reader2.readyMask.contains(.hangUp))
  }

  @Test func connections() throws {
    let listener = UnixSocket(kind: .stream, flags: .nonBlocking)
    try listener.bind(address("/s"), caller)
    #expect(throws: Errno.EADDRINUSE) { try UnixSocket(kind: .stream, flags: []).bind(address("/s"), caller) }
    let client = UnixSocket(kind: .stream, flags: .nonBlocking)
    #expect(throws: Errno.ECONNREFUSED) { try client.connect(address("/s"), caller) }
    try listener.listen(backlog: 0, caller)
    #expect(throws: Errno.EAGAIN) { _ = try listener.accept(flags: []) }
    try client.connect(address("/s"), caller)
    #expect(listener.readyMask.contains(.readable))
    #expect(throws: Errno.EAGAIN) { try UnixSocket(kind: .stream, flags: .nonBlocking).connect(address("/s"), caller) }
    #expect(throws: Errno.EPROTOTYPE) { try UnixSocket(kind: .datagram, flags: []).connect(address("/s"), caller) }
    _ = try send(client, [1, 2])
    let server = try listener.accept(flags: [])
    #expect(try receive(server, 5).1 == [1, 2])
    #expect(try client.peerAddress().bytes == [1, 0] + Array("/s".utf8) + [0])
    client.closed()
    #expect(try receive(server, 5).0.count == 0)
    #expect(throws: Errno.EPIPE) { _ = try send(server, [1]) }
    #expect(server.readyMask == [.readable, .writable, .hangUp, .readHangUp])
    listener.closed()
    #expect(throws: Errno.ECONNREFUSED) {
      try UnixSocket(kind: .stream, flags: .nonBlocking).connect(address("/s"), caller)
    }
  }

  @Test func abstractNames() throws {
    let one = UnixSocket(kind: .datagram, flags: [])
    let name = address("unit-\(UInt64.random(in: 0...(.max)))", abstract: true)
    try one.bind(name, caller)
    #expect(throws: Errno.EADDRINUSE) { try UnixSocket(kind: .datagram, flags: []).bind(name, caller) }
    let two = UnixSocket(kind: .datagram, flags: .nonBlocking)
    try two.bind(SocketAddress([1, 0]), caller)
    #expect(try two.address().bytes.count == 8)
    var sent = 0
    while (try? send(two, [9], to: name)) != nil { sent += 1 }
    #expect(sent == 11)
    let (message, _) = try receive(one, 5)
    #expect(try message.address?.bytes == two.address().bytes)
    #expect(try send(two, [9], to: name) == 1)
    one.closed()
    #expect(throws: Errno.ECONNREFUSED) { _ = try send(two, [9], to: name) }
  }

  @Test func muchThroughLittle() throws {
    let (one, two) = UnixSocket.pair(kind: .stream, flags: [], caller)
    one.setSendBuffer(10_000)
    let total = 2_000_000
    nonisolated(unsafe) let sender = one
    let this = self
    let group = DispatchGroup()
    group.enter()
    nonisolated(unsafe) let tests = this
    Thread.detachNewThread {
      var sent = 0
      while sent < total {
        let piece = (sent..<min(sent + 12_345, total)).map { UInt8(truncatingIfNeeded: $0 &* 7 >> 2) }
        sent += (try? tests.send(sender, piece)) ?? 0
      }
      try? sender.shutdown(receiving: false, sending: true)
      group.leave()
    }
    var received = 0
    while true {
      let (_, bytes) = try receive(two, 7919, [])
      if bytes.isEmpty { break }
      for (index, byte) in bytes.enumerated() where byte != UInt8(truncatingIfNeeded: (received + index) &* 7 >> 2) {
        Issue.record("byte \(received + index)")
        return
      }
      received += bytes.count
    }
    group.wait()
    #expect(received == total)
  }

  /// Four threads connect to, accept from and close what they can: nothing hangs, and every connection is whole.
  @Test func manyConnections() throws {
    let listener = UnixSocket(kind: .stream, flags: [])
    try listener.bind(address("/many"), caller)
    try listener.listen(backlog: 3, caller)
    nonisolated(unsafe) let tests = self
    nonisolated(unsafe) let shared = listener
    let wrong = DispatchQueue(label: "wrong")
    nonisolated(unsafe) var failures = 0
    // Threads of their own: those of the pool may be fewer than wait here.
    let group = DispatchGroup()
    for thread in 0..<4 {
      group.enter()
      Thread.detachNewThread {
        defer { group.leave() }
        for round in 0..<500 {
          if thread < 2 {
            let client = UnixSocket(kind: .stream, flags: [])
            let isWhole =
              (try? client.connect(tests.address("/many"), tests.caller)) != nil
              && (try? tests.send(client, [UInt8(truncatingIfNeeded: round)])) == 1
              && (try? tests.receive(client, 1, []).1) == [UInt8(truncatingIfNeeded: round)]
            client.closed()
            if !isWhole { wrong.sync { failures += 1 } }
          } else {
            guard let server = try? shared.accept(flags: []), let bytes = try? tests.receive(server, 1, []).1 else {
              wrong.sync { failures += 1 }
              continue
            }
            _ = try? tests.send(server, bytes)
            _ = try? tests.receive(server, 1, [])
            server.closed()
          }
        }
      }
    }
    group.wait()
    #expect(failures == 0)
  }
}
