// Writing through the cache: the source has what the cache has, whatever fails and whoever else writes.
import Base
import Dispatch
import Pages
import Platform
import Synchronization
import Testing

@testable import Memory

@Suite struct WriteThroughTests {
  /// A source that a write-through goes to.
  private final class Sink: @unchecked Sendable {
    let pager: TestPager
    let lock = Mutex<Void>(())
    var failure: Errno?
    /// Most bytes taken at once.
    var most = Int.max
    var calls: [(UInt64, Int)] = []

    init(_ bytes: [UInt8]) { pager = TestPager(bytes) }

    /// What `writeThrough` calls: takes the bytes from the frames as a device would.
    func send(_ offset: UInt64, _ frames: UnsafeBufferPointer<PhysicalAddress>, _ start: Int, _ count: Int)
      throws(Errno) -> Int
    {
      if let failure { throw failure }
      let taken = min(count, most)
      lock.withLock { _ in
        calls.append((offset, taken))
        pager.store(at: offset.int, frames, from: start, taken)
      }
      return taken
    }
  }

  private func write(_ object: MemoryObject, _ sink: Sink, _ offset: Int, _ bytes: [UInt8], pages: Int = 64) throws
    -> Int
  {
    try bytes.withUnsafeBytes { buffer -> Int in
      var transfer = Transfer(kernelSource: buffer)
      return try object.writeThrough(at: offset.u64, from: &transfer, pages: pages) {
        (offset, frames, start, count) throws(Errno) in try sink.send(offset, frames, start, count)
      }
    }
  }

  /// The source is cut after the copy of a write and before it has its bytes: it gets them all the same.
  @Test(arguments: [(10_000, 5000), (1000, 500), (9000, 4090)])
  func whatIsCutOnItsWayIsSentAgain(_ size: Int, _ place: Int) throws {
    HostedArena.prepare()
    let sink = Sink([UInt8](repeating: 1, count: size))
    let object = MemoryObject(byteCount: size.u64, pager: sink.pager)
    #expect(try MemoryObjectTests.read(object, 0, size).count == size)
    let bytes: [UInt8] = [7, 8, 9, 7, 8, 9, 7, 8]
    var isCut = false
    let written = try bytes.withUnsafeBytes { buffer -> Int in
      var transfer = Transfer(kernelSource: buffer)
      return try object.writeThrough(at: place.u64, from: &transfer, pages: 64) {
        (offset, frames, start, count) throws(Errno) in
        if !isCut {
          isCut = true
          sink.pager.bytes = [UInt8](repeating: 1, count: 10)
          object.sourceChanged(byteCount: 10, unlessAhead: true)
        }
        return try sink.send(offset, frames, start, count)
      }
    }
    #expect(written == bytes.count && object.byteCount == (place + bytes.count).u64)
    let expected = [UInt8](repeating: 1, count: 10) + [UInt8](repeating: 0, count: place - 10) + bytes
    #expect(sink.pager.bytes == expected)
    #expect(try MemoryObjectTests.read(object, 0, 20_000) == expected)
  }

  @Test(arguments: [1, 2, 64]) func cacheAndSourceAreTheSame(pages: Int) throws {
    HostedArena.prepare()
    var random = Generator(state: pages.u64 + 7)
    var model = MemoryObjectTests.pattern(20_000)
    let sink = Sink(model)
    let object = MemoryObject(byteCount: model.count.u64, pager: sink.pager)
    for _ in 0..<300 {
      let offset = Int.random(in: 0..<40_000, using: &random)
      let bytes = (0..<Int.random(in: 1..<9_000, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) }
      switch Int.random(in: 0..<5, using: &random) {
      case 0...2:
        #expect(try write(object, sink, offset, bytes, pages: pages) == bytes.count)
        if model.count < offset + bytes.count {
          model += [UInt8](repeating: 0, count: offset + bytes.count - model.count)
        }
        model.replaceSubrange(offset..<offset + bytes.count, with: bytes)
      case 3: object.invalidate()
      default:
        let end = Int.random(in: 0..<40_000, using: &random)
        try object.truncate(to: end.u64)
        model = Array(model.prefix(end)) + [UInt8](repeating: 0, count: max(0, end - model.count))
        sink.pager.bytes = model
      }
      #expect(sink.pager.bytes == model)
      #expect(object.byteCount == model.count.u64)
      #expect(try MemoryObjectTests.read(object, 0, 100_000) == model)
      #expect(object.dirtyPages == 0)
    }
  }

  @Test func wholePagesAreNotReadFirst() throws {
    HostedArena.prepare()
    let sink = Sink([UInt8](repeating: 1, count: 40_960))
    let object = MemoryObject(byteCount: 40_960, pager: sink.pager)
    #expect(try write(object, sink, 8192, [UInt8](repeating: 2, count: 8192)) == 8192)
    #expect(try write(object, sink, 40_960, [UInt8](repeating: 3, count: 100)) == 100)
    #expect(sink.pager.fills.load(ordering: .relaxed) == 0)
    #expect(sink.calls.map(\.1) == [8192, 100])
    #expect(try write(object, sink, 20_000, [9]) == 1)
    #expect(sink.pager.fills.load(ordering: .relaxed) == 1)
  }

  @Test func whatTheSourceDoesNotTakeIsNotKept() throws {
    HostedArena.prepare()
    let sink = Sink([UInt8](repeating: 1, count: 10_000))
    let object = MemoryObject(byteCount: 10_000, pager: sink.pager)
    _ = try MemoryObjectTests.read(object, 0, 10_000)
    sink.failure = .ENOSPC
    #expect(throws: Errno.ENOSPC) { try write(object, sink, 5000, [UInt8](repeating: 2, count: 9000)) }
    #expect(object.byteCount == 10_000)
    sink.failure = nil
    #expect(try MemoryObjectTests.read(object, 0, 20_000) == [UInt8](repeating: 1, count: 10_000))
    // A part of it: that much is written, and there it ends.
    sink.most = 6000
    #expect(try write(object, sink, 5000, [UInt8](repeating: 2, count: 9000)) == 6000)
    #expect(object.byteCount == 11_000)
    let expected = [UInt8](repeating: 1, count: 5000) + [UInt8](repeating: 2, count: 6000)
    #expect(try MemoryObjectTests.read(object, 0, 20_000) == expected)
    #expect(sink.pager.bytes == expected)
  }

  @Test func writersOfTheSameBytesLeaveOneResult() throws {
    HostedArena.prepare()
    let sink = Sink([UInt8](repeating: 0, count: 65_536))
    let object = MemoryObject(byteCount: 65_536, pager: sink.pager)
    DispatchQueue.concurrentPerform(iterations: 4) { writer in
      var random = Generator(state: writer.u64 + 1)
      for _ in 0..<200 {
        let offset = Int.random(in: 0..<60_000, using: &random)
        let bytes = [UInt8](repeating: UInt8(writer + 1), count: Int.random(in: 1..<5_000, using: &random))
        _ = try? write(object, sink, offset, bytes)
        if Int.random(in: 0..<8, using: &random) == 0 { object.invalidate() }
      }
    }
    #expect(try MemoryObjectTests.read(object, 0, 65_536) == sink.pager.bytes)
    object.invalidate()
    #expect(try MemoryObjectTests.read(object, 0, 65_536) == sink.pager.bytes)
  }

  @Test func dirtyPagesAreCounted() throws {
    HostedArena.prepare()
    let sink = Sink([UInt8](repeating: 0, count: 40_960))
    let object = MemoryObject(byteCount: 40_960, pager: sink.pager)
    try MemoryObjectTests.write(object, 100, [UInt8](repeating: 1, count: 10_000))
    #expect(object.dirtyPages == 3)
    // A write through a dirty page leaves it dirty: what was stored elsewhere in it is still to be written.
    #expect(try write(object, sink, 200, [7]) == 1)
    #expect(object.dirtyPages == 3)
    object.invalidate()
    try object.writeBack()
    #expect(object.dirtyPages == 0)
    try MemoryObjectTests.write(object, 0, [UInt8](repeating: 2, count: 20_000))
    try object.truncate(to: 5000)
    #expect(object.dirtyPages == 2)
    object.forget(offset: 0, byteCount: 4096)
    #expect(object.dirtyPages == 1)
  }
}
