// Splice: bytes between pipes and files, and pipes of other sizes.
import Base
import Dispatch
import Foundation
import Memory
import Testing

@testable import Files

@Suite(.timeLimit(.minutes(15))) struct SpliceTests {
  func file(_ contents: [UInt8] = [], _ flags: OpenFlags = .readWrite) throws -> OpenFile {
    let vnode = MemoryFile(sealable: false, executable: false)
    let file = OpenFile(
      vnode: vnode, location: AnonymousFileSystem.location(of: vnode, prefix: "memfd:x"), flags: flags)
    if !contents.isEmpty {
      _ = try file.write(contents)
      _ = try file.seek(0, from: .start)
    }
    return file
  }

  func move(_ input: OpenFile, _ output: OpenFile, _ count: Int, at: UInt64? = nil) throws(Errno) -> Int {
    var (from, to): (UInt64?, UInt64?) = input is PipeEnd ? (nil, at) : (at, nil)
    return try Splice.move(from: input, at: &from, to: output, at: &to, count: count, nonBlocking: true)
  }

  @Test func fileAndPipe() throws {
    let (reader, writer) = try Pipe.make()
    let source = try file(Array(0..<200))
    #expect(try move(source, writer, 50) == 50)
    #expect(try move(source, writer, 10, at: 100) == 10)
    #expect(try source.seek(0, from: .current) == 50)
    let target = try file()
    #expect(try move(reader, target, 100) == 60)
    #expect(try target.seek(0, from: .current) == 60)
    _ = try target.seek(0, from: .start)
    #expect(try target.read(100) == Array(0..<50) + Array(100..<110))
  }

  @Test func refusals() throws {
    let (reader, writer) = try Pipe.make()
    let plain = try file([1, 2, 3])
    var none: UInt64?
    var zero: UInt64? = 0
    #expect(throws: Errno.EINVAL) { _ = try move(plain, try file(), 3) }
    #expect(throws: Errno.EBADF) { _ = try move(writer, plain, 3) }
    #expect(throws: Errno.EBADF) { _ = try move(plain, reader, 3) }
    #expect(throws: Errno.EINVAL) { _ = try move(reader, writer, 3) }
    #expect(throws: Errno.ESPIPE) {
      _ = try Splice.move(from: reader, at: &zero, to: plain, at: &none, count: 1, nonBlocking: true)
    }
    #expect(throws: Errno.EINVAL) { _ = try move(reader, try file([], [.readWrite, .append]), 3) }
    #expect(throws: Errno.EAGAIN) { _ = try move(reader, plain, 3) }
    #expect(throws: Errno.EINVAL) { _ = try Splice.tee(from: reader, to: writer, count: 1, nonBlocking: true) }
    #expect(throws: Errno.EBADF) { _ = try Splice.capacity(of: plain) }
  }

  @Test func pipeToPipe() throws {
    let (reader, writer) = try Pipe.make()
    let (reader2, writer2) = try Pipe.make()
    _ = try writer.write(Array(0..<100))
    #expect(try Splice.tee(from: reader, to: writer2, count: 40, nonBlocking: true) == 40)
    #expect(try Splice.tee(from: reader, to: writer2, count: 40, nonBlocking: true) == 40)
    #expect(try move(reader, writer2, 1000) == 100)
    #expect(throws: Errno.EAGAIN) { _ = try move(reader, writer2, 1) }
    #expect(try reader2.read(1000) == Array(0..<40) + Array(0..<40) + Array(0..<100))
    // A full target.
    writer2.setFlags(.nonBlocking)
    _ = try writer2.write([UInt8](repeating: 0, count: 100_000))
    _ = try writer.write([1])
    #expect(throws: Errno.EAGAIN) { _ = try move(reader, writer2, 1) }
    #expect(try reader.read(10) == [1])
  }

  /// A splice waits for bytes and for room; the bytes arrive in order.
  @Test func throughTwoPipes() throws {
    let (reader, writer) = try Pipe.make()
    let (reader2, writer2) = try Pipe.make()
    let total = 1_000_000
    let table = DescriptorTable()
    _ = try table.install(writer)
    _ = try table.install(writer2)
    let group = DispatchGroup()
    let shared = Shared(value: (reader, writer, writer2, table))
    for part in 0..<2 {
      group.enter()
      Thread.detachNewThread {
        let (reader, writer, writer2, table) = shared.value
        if part == 0 {
          var sent = 0
          while sent < total {
            let piece = (sent..<min(sent + 3001, total)).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 3) }
            sent += (try? writer.write(piece)) ?? 0
          }
          try? table.close(0)
        } else {
          var (none, none2): (UInt64?, UInt64?)
          while let count = try? Splice.move(
            from: reader, at: &none, to: writer2, at: &none2, count: 100_000, nonBlocking: false), count > 0
          {}
          try? table.close(1)
        }
        group.leave()
      }
    }
    var received = 0
    while true {
      let piece = try reader2.read(7919)
      if piece.isEmpty { break }
      for (index, byte) in piece.enumerated() where byte != UInt8(truncatingIfNeeded: (received + index) &* 31 >> 3) {
        Issue.record("byte \(received + index)")
        return
      }
      received += piece.count
    }
    group.wait()
    #expect(received == total)
  }

  @Test func sizes() throws {
    let (reader, writer) = try Pipe.make()
    writer.setFlags(.nonBlocking)
    #expect(try Splice.capacity(of: reader) == 65536)
    #expect(try Splice.resize(writer, to: 5000, isPrivileged: false) == 8192)
    #expect(try writer.write([UInt8](repeating: 7, count: 10_000)) == 8192)
    #expect(throws: Errno.EBUSY) { _ = try Splice.resize(writer, to: 4096, isPrivileged: false) }
    #expect(try reader.read(5000).count == 5000)
    #expect(try writer.write([UInt8](repeating: 8, count: 5000)) == 5000)
    #expect(try Splice.resize(writer, to: 100_000, isPrivileged: false) == 131_072)
    #expect(try writer.write([UInt8](repeating: 9, count: 130_000)) == 131_072 - 8192)
    let all = try reader.read(200_000)
    #expect(
      all == [UInt8](repeating: 7, count: 3192) + [UInt8](repeating: 8, count: 5000)
        + [UInt8](repeating: 9, count: 131_072 - 8192))
    #expect(throws: Errno.EPERM) { _ = try Splice.resize(writer, to: 2 << 20, isPrivileged: false) }
    #expect(try Splice.resize(writer, to: 2 << 20, isPrivileged: true) == 2 << 20)
    #expect(throws: Errno.EINVAL) { _ = try Splice.resize(writer, to: 3 << 30, isPrivileged: true) }
    #expect(try Splice.resize(writer, to: 0, isPrivileged: true) == 4096)
  }

  @Test func fileToFile() throws {
    let source = try file((0..<200_000).map { UInt8(truncatingIfNeeded: $0 >> 4) })
    let target = try file()
    var (none, none2, offset): (UInt64?, UInt64?, UInt64?) = (nil, nil, 1000)
    #expect(try Splice.copy(from: source, at: &none, to: target, at: &offset, count: 150_000) == 150_000)
    #expect(offset == 151_000)
    #expect(try source.seek(0, from: .current) == 150_000)
    #expect(try target.seek(0, from: .end) == 151_000)
    // What cannot be written goes back.
    let closed = try Pipe.make()
    let table = DescriptorTable()
    try table.close(try table.install(closed.reader))
    #expect(throws: Errno.EPIPE) {
      _ = try Splice.copy(from: source, at: &none, to: closed.writer, at: &none2, count: 10)
    }
    #expect(try source.seek(0, from: .current) == 150_000)
  }
}
