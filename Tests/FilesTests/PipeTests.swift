// Pipes: order, blocking, atomic writes, both ends' ends.
import Base
import Dispatch
import Files
import Foundation
import Testing

extension Thread {
  /// A thread of its own: those of the pool are fewer than wait here.
  fileprivate static func detach(_ group: DispatchGroup, _ body: @escaping @Sendable () -> Void) {
    group.enter()
    detachNewThread {
      body()
      group.leave()
    }
  }
}

@Suite(.timeLimit(.minutes(15))) struct PipeTests {
  func installed() throws -> (table: DescriptorTable, reader: OpenFile, writer: OpenFile) {
    let table = DescriptorTable()
    let ends = try Pipe.make()
    _ = try table.install(ends.reader)
    _ = try table.install(ends.writer)
    return (table, ends.reader, ends.writer)
  }

  @Test func basics() throws {
    let (table, reader, writer) = try installed()
    #expect(try writer.write([1, 2, 3]) == 3)
    #expect(try reader.read(2) == [1, 2])
    #expect(try reader.read(10) == [3])
    #expect(throws: Errno.EBADF) { _ = try reader.write([1]) }
    #expect(throws: Errno.EBADF) { _ = try writer.read(1) }
    #expect(throws: Errno.ESPIPE) { _ = try reader.seek(0, from: .start) }
    reader.setFlags(.nonBlocking)
    #expect(throws: Errno.EAGAIN) { _ = try reader.read(1) }
    #expect(try reader.read(0) == [])
    #expect(try reader.getAttributes().mode & 0o170000 == 0o010000)
    try table.close(0)
    #expect(throws: Errno.EPIPE) { _ = try writer.write([1]) }
    #expect(writer.readyMask.contains(.error))
    #expect(String(decoding: writer.location.path(from: nil), as: UTF8.self).hasPrefix("pipe:["))
  }

  @Test func endAfterLastWriter() throws {
    let (table, reader, writer) = try installed()
    _ = try writer.write([9])
    try table.close(1)
    #expect(reader.readyMask == [.readable, .hangUp])
    #expect(try reader.read(5) == [9])
    #expect(try reader.read(5) == [])
    #expect(reader.readyMask == .hangUp)
  }

  @Test func fullPipe() throws {
    let (_, reader, writer) = try installed()
    writer.setFlags(.nonBlocking)
    #expect(try writer.write([UInt8](repeating: 1, count: 70_000)) == 65_536)
    #expect(throws: Errno.EAGAIN) { _ = try writer.write([1]) }
    #expect(!writer.readyMask.contains(.writable))
    #expect(try reader.read(100).count == 100)
    #expect(!writer.readyMask.contains(.writable))
    // 4096 bytes or fewer go as a whole or not at all; more go as far as they do.
    #expect(throws: Errno.EAGAIN) { _ = try writer.write([UInt8](repeating: 2, count: 4096)) }
    #expect(try writer.write([UInt8](repeating: 2, count: 4097)) == 100)
    #expect(try reader.read(4096).count == 4096)
    #expect(writer.readyMask.contains(.writable))
    #expect(try writer.write([UInt8](repeating: 2, count: 4096)) == 4096)
  }

  @Test func streamBetweenThreads() throws {
    let (table, reader, writer) = try installed()
    let total = 3_000_000
    let shared = Shared(value: (table, writer))
    let group = DispatchGroup()
    DispatchQueue.global().async(group: group) {
      var sent = 0
      while sent < total {
        let piece = (sent..<min(sent + 10_007, total)).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 3) }
        sent += (try? shared.value.1.write(piece)) ?? 0
      }
      try? shared.value.0.close(1)
    }
    var received = 0
    while true {
      let piece = try reader.read(4_999)
      if piece.isEmpty { break }
      for (index, byte) in piece.enumerated() where byte != UInt8(truncatingIfNeeded: (received + index) &* 31 >> 3) {
        Issue.record("byte \(received + index) is wrong")
        return
      }
      received += piece.count
    }
    group.wait()
    #expect(received == total)
  }

  @Test func smallWritesAreNotMixed() throws {
    let (table, reader, writer) = try installed()
    let shared = Shared(value: writer)
    let group = DispatchGroup()
    for thread in 0..<4 as Range<UInt8> {
      DispatchQueue.global().async(group: group) {
        for _ in 0..<100 { _ = try? shared.value.write([UInt8](repeating: thread, count: 3000)) }
      }
    }
    let closing = Shared(value: table)
    group.notify(queue: .global()) { try? closing.value.close(1) }
    var bytes: [UInt8] = []
    while true {
      let piece = try reader.read(50_000)
      if piece.isEmpty { break }
      bytes += piece
    }
    #expect(bytes.count == 4 * 100 * 3000)
    for start in stride(from: 0, to: bytes.count, by: 3000) {
      #expect(bytes[start..<start + 3000].allSatisfy { $0 == bytes[start] })
    }
  }

  /// A full pipe is refilled by the page, not by the message.
  @Test func aWriterWaitsForRoom() throws {
    /// Whether a writer that waited still does when there is room for it, but not for PIPE_BUF bytes.
    func waits() throws -> Bool {
      let (_, reader, writer) = try installed()
      _ = try writer.write([UInt8](repeating: 1, count: Pipe.defaultCapacity))
      let shared = Shared(value: writer)
      let written = DispatchSemaphore(value: 0)
      Thread.detachNewThread {
        _ = try? shared.value.write([7])
        written.signal()
      }
      usleep(20_000)
      #expect(try reader.read(4095).count == 4095)
      let isWaiting = written.wait(timeout: .now() + 0.05) == .timedOut
      #expect(try reader.read(1).count == 1)
      if isWaiting { #expect(written.wait(timeout: .now() + 60) == .success) }
      #expect(try reader.read(Pipe.defaultCapacity).last == 7)
      return isWaiting
    }
    // It need not wait if it comes late.
    var attempts = 0
    while try !waits(), attempts < 20 { attempts += 1 }
    #expect(attempts < 20)
  }

  /// Readers that wait behind one that takes the last bytes all hear of the end.
  @Test func theEndReachesAll() throws {
    for _ in 0..<200 {
      let (table, reader, writer) = try installed()
      let reading = Shared(value: reader)
      let readers = DispatchGroup()
      for _ in 0..<4 {
        Thread.detach(readers) { while let piece = try? reading.value.read(3), !piece.isEmpty {} }
      }
      _ = try writer.write([UInt8](repeating: 1, count: 20))
      try table.close(1)
      #expect(readers.wait(timeout: .now() + 60) == .success)
    }
  }

  /// Each is woken by another; nobody is forgotten.
  @Test func manyOnBothSides() throws {
    let (table, reader, writer) = try installed()
    let (writing, reading) = (Shared(value: writer), Shared(value: reader))
    let (writers, readers) = (DispatchGroup(), DispatchGroup())
    let count = 5
    // SAFETY: a word for each reader, read when all have ended.
    let received = UnsafeMutablePointer<Int>.allocate(capacity: count)
    received.initialize(repeating: 0, count: count)
    defer { received.deallocate() }
    for index in 0..<count {
      let mine = Shared(value: received + index)
      Thread.detach(readers) {
        while let piece = try? reading.value.read(100), !piece.isEmpty { mine.value.pointee += piece.count }
      }
      Thread.detach(writers) {
        for number in 0..<4000 { _ = try? writing.value.write([UInt8](repeating: 1, count: 1 + number % 200)) }
      }
    }
    #expect(writers.wait(timeout: .now() + 300) == .success)
    try table.close(1)
    #expect(readers.wait(timeout: .now() + 60) == .success)
    #expect((0..<count).reduce(0) { $0 + received[$1] } == count * (0..<4000).reduce(0) { $0 + 1 + $1 % 200 })
  }

  @Test func eventCounter() throws {
    let event = EventFile(value: 5, isSemaphore: false, flags: .nonBlocking)
    #expect(try event.writeNumber(7) == 8)
    #expect(try event.readNumber() == 12)
    #expect(throws: Errno.EAGAIN) { _ = try event.readNumber() }
    #expect(try event.writeNumber(.max - 1) == 8)
    #expect(event.readyMask == .readable)
    #expect(throws: Errno.EAGAIN) { _ = try event.writeNumber(1) }
    #expect(throws: Errno.EINVAL) { _ = try event.writeNumber(.max) }
    #expect(throws: Errno.EINVAL) { _ = try event.read(7) }
    let semaphore = EventFile(value: 2, isSemaphore: true, flags: .nonBlocking)
    #expect(try semaphore.readNumber() == 1)
    #expect(try semaphore.readNumber() == 1)
    #expect(semaphore.readyMask == .writable)
    #expect(throws: Errno.ESPIPE) { try semaphore.seek(0, from: .start) }
  }

  @Test func eventCounterBetweenThreads() throws {
    let event = Shared(value: EventFile(value: 0, isSemaphore: true))
    let group = DispatchGroup()
    for _ in 0..<2 {
      DispatchQueue.global().async(group: group) { for _ in 0..<500 { _ = try? event.value.writeNumber(1) } }
    }
    var sum: UInt64 = 0
    for _ in 0..<1000 { sum += try event.value.readNumber() }
    group.wait()
    #expect(sum == 1000)
  }
}
