// Writing back while others write: nothing counts as written that the source has not got.
import Base
import Dispatch
import Foundation
import Pages
import Platform
import Synchronization
import Testing

@testable import Memory

@Suite struct WriteBackTests {
  /// Runs a body once when the object reaches a place.
  private func interleave(_ object: MemoryObject, at place: Interleaving, _ body: @escaping () -> Void) {
    object.visitor = { reached in
      guard reached == place else { return }
      object.visitor = nil
      body()
    }
  }

  @Test func aPageWrittenBackHalfCopiedIsDirtyAfterwards() throws {
    HostedArena.prepare()
    let pager = TestPager([UInt8](repeating: 1, count: 4096))
    let object = MemoryObject(byteCount: 4096, pager: pager)
    try MemoryObjectTests.write(object, 0, [2])
    var reached = false
    // The page is dirty by the first write: the flusher takes it, old as it is.
    interleave(object, at: .copying) {
      reached = true
      #expect(throws: Never.self) { try object.writeBack() }
    }
    try MemoryObjectTests.write(object, 100, [3, 4, 5])
    #expect(reached && object.dirtyPages == 1)
    try object.writeBack()
    #expect(Array(pager.bytes[98..<104]) == [1, 1, 3, 4, 5, 1] && pager.bytes[0] == 2)
    #expect(object.dirtyPages == 0)
  }

  @Test func aPageBehindTheEndIsNotTakenForWritten() throws {
    HostedArena.prepare()
    let pager = TestPager([])
    let object = MemoryObject(byteCount: 0, pager: pager)
    interleave(object, at: .copying) { #expect(throws: Never.self) { try object.writeBack() } }
    try MemoryObjectTests.write(object, 10, [7, 8])
    #expect(object.byteCount == 12 && object.dirtyPages == 1)
    try object.writeBack()
    #expect(pager.bytes == [UInt8](repeating: 0, count: 10) + [7, 8])
  }

  /// Who asks for everything to be written waits for pages that somebody else has taken and not sent.
  @Test func whatIsUnderWayIsWaitedFor() throws {
    HostedArena.prepare()
    let pager = TestPager([])
    let object = MemoryObject(byteCount: 0, pager: pager)
    try MemoryObjectTests.write(object, 0, [9])
    let isDone = Atomic<Bool>(false)
    let ended = DispatchSemaphore(value: 0)
    interleave(object, at: .sending) {
      #expect(object.dirtyPages == 0 && object.isAheadOfSource)
      Thread.detachNewThread {
        try? object.writeBack()
        isDone.store(true, ordering: .sequentiallyConsistent)
        ended.signal()
      }
      usleep(50_000)
      let wasDone = isDone.load(ordering: .sequentiallyConsistent)
      #expect(!wasDone)
      #expect(pager.bytes.isEmpty)
    }
    try object.writeBack()
    #expect(ended.wait(timeout: .now() + 10) == .success)
    #expect(pager.bytes == [9] && !object.isAheadOfSource)
  }

  @Test func whatTheSourceRefusesStaysDirty() throws {
    HostedArena.prepare()
    let pager = TestPager([])
    let object = MemoryObject(byteCount: 0, pager: pager)
    try MemoryObjectTests.write(object, 0, [UInt8](repeating: 1, count: 10_000))
    pager.failure = .ENOSPC
    #expect(throws: Errno.ENOSPC) { try object.writeBack() }
    #expect(object.dirtyPages == 3 && object.isAheadOfSource)
    // Cut off while it was on its way: gone.
    pager.failure = .EIO
    interleave(object, at: .sending) { object.sourceChanged(byteCount: 5000) }
    #expect(throws: Errno.EIO) { try object.writeBack() }
    #expect(object.dirtyPages == 2)
    pager.failure = nil
    try object.writeBack()
    #expect(pager.bytes == [UInt8](repeating: 1, count: 5000) && !object.isAheadOfSource)
  }

  /// A run that the source does not take keeps no other from it.
  @Test func whatIsRefusedKeepsNothingElse() throws {
    HostedArena.prepare()
    let pager = TestPager([UInt8](repeating: 1, count: 5 * 4096))
    let object = MemoryObject(byteCount: 5 * 4096, pager: pager)
    for page in [0, 2, 4] as [UInt64] { try MemoryObjectTests.write(object, page * 4096, [2]) }
    var runs = 0
    object.visitor = { place in
      guard place == .sending else { return }
      runs += 1
      pager.failure = runs == 1 ? .ENOSPC : runs == 2 ? .EIO : nil
    }
    #expect(throws: Errno.ENOSPC) { try object.writeBack() }
    #expect(runs == 3 && object.dirtyPages == 2)
    #expect(pager.bytes[0] == 1 && pager.bytes[2 * 4096] == 1 && pager.bytes[4 * 4096] == 2)
    object.visitor = nil
    try object.writeBack()
    #expect(pager.bytes[0] == 2 && pager.bytes[2 * 4096] == 2 && !object.isAheadOfSource)
  }

  /// The source is cut between the copy of a write and its mark: the write comes after that.
  @Test(arguments: [(10_000, 5000), (1000, 500), (5000, 4090)]) func aWriteIsNotCut(_ size: Int, _ place: Int) throws {
    HostedArena.prepare()
    let pager = TestPager([UInt8](repeating: 1, count: size))
    let object = MemoryObject(byteCount: size.u64, pager: pager)
    var reached = false
    object.visitor = { [unowned object] at in
      guard at == .copying, !reached else { return }
      reached = true
      // The bytes are in the page already.
      LinearMap.pointer(object.pages.word(place.u64 >> 12).frame).storeBytes(
        of: 9, toByteOffset: place & 4095, as: UInt8.self)
      pager.bytes = [UInt8](repeating: 1, count: 10)
      object.sourceChanged(byteCount: 10, unlessAhead: true)
    }
    try MemoryObjectTests.write(object, place.u64, [7, 8])
    #expect(reached && object.byteCount == place.u64 + 2 && object.dirtyPages == 1)
    let expected = [UInt8](repeating: 1, count: 10) + [UInt8](repeating: 0, count: place - 10) + [7, 8]
    #expect(try MemoryObjectTests.read(object, 0, 20_000) == expected)
    try object.writeBack()
    #expect(pager.bytes == expected)
  }

  /// As long as the source has yet to get something, what it says of its size does not make that less.
  @Test func whatIsAheadIsNotCut() throws {
    HostedArena.prepare()
    let pager = TestPager([])
    let object = MemoryObject(byteCount: 0, pager: pager)
    try MemoryObjectTests.write(object, 0, [UInt8](repeating: 1, count: 9000))
    object.sourceChanged(byteCount: 5, unlessAhead: true)
    #expect(object.byteCount == 9000 && object.dirtyPages == 3)
    interleave(object, at: .sending) {
      object.sourceChanged(byteCount: 5, unlessAhead: true)
      #expect(object.byteCount == 9000)
    }
    try object.writeBack()
    #expect(pager.bytes == [UInt8](repeating: 1, count: 9000))
    object.sourceChanged(byteCount: 5, unlessAhead: true)
    #expect(object.byteCount == 5)
  }

  /// A part of the source becomes zero: what is dirty beside it stays, on the pages at its borders too.
  @Test(arguments: [
    (100, 3 * 4096 + 200), (100, 300), (4096, 8192), (4000, 8192), (4096, 8200), (4090, 4100), (0, 16_384),
  ])
  func whatIsForgottenIsNoMore(_ start: Int, _ end: Int) throws {
    HostedArena.prepare()
    let pager = TestPager([UInt8](repeating: 1, count: 4 * 4096))
    let object = MemoryObject(byteCount: 4 * 4096, pager: pager)
    var expected = pager.bytes
    for place in [0, 10, 99, 100, 310, 4094, 4096, 4101, 8000, 8199, 8201, 3 * 4096, 3 * 4096 + 200, 16_383] {
      try MemoryObjectTests.write(object, place.u64, [7])
      expected[place] = 7
    }
    let dirty = object.dirtyPages
    for place in start..<end {
      pager.bytes[place] = 0
      expected[place] = 0
    }
    object.forget(offset: start.u64, byteCount: (end - start).u64)
    #expect(object.dirtyPages == dirty - max(0, end / 4096 - (start + 4095) / 4096))
    #expect(try MemoryObjectTests.read(object, 0, 20_000) == expected)
    try object.writeBack()
    #expect(pager.bytes == expected)
  }

  /// Stores behind the end are not seen when a later write moves it away.
  @Test func whatWasStoredBehindTheEndIsCleared() throws {
    HostedArena.prepare()
    let pager = TestPager([])
    for object in [MemoryObject(), MemoryObject(byteCount: 0, pager: pager)] {
      for (end, next) in [(5, 20), (5, 4096), (100, 9000)] {
        try MemoryObjectTests.write(object, 0, [UInt8](repeating: 1, count: end))
        let frame = object.pages.word(0).frame
        for offset in end..<4096 { LinearMap.pointer(frame).storeBytes(of: 0xee, toByteOffset: offset, as: UInt8.self) }
        try MemoryObjectTests.write(object, UInt64(next), [2])
        let expected = [UInt8](repeating: 1, count: end) + [UInt8](repeating: 0, count: next - end) + [2]
        #expect(try MemoryObjectTests.read(object, 0, 10_000) == expected)
        object.sourceChanged(byteCount: 0)
      }
    }
  }

  /// Threads that write pieces of their own, and two that write back all the time: the source has everything in the end.
  @Test func writersAndFlushers() throws {
    HostedArena.prepare()
    let pager = TestPager([])
    let object = MemoryObject(byteCount: 0, pager: pager)
    let size = 64 * 4096
    try MemoryObjectTests.write(object, 0, [UInt8](repeating: 0, count: size))
    let isOver = Atomic<Bool>(false)
    let flushers = DispatchGroup()
    for _ in 0..<2 {
      flushers.enter()
      Thread.detachNewThread {
        while !isOver.load(ordering: .acquiring) { try? object.writeBack() }
        flushers.leave()
      }
    }
    let writers = 4
    DispatchQueue.concurrentPerform(iterations: writers) { index in
      var random = Generator(state: index.u64 + 1)
      for round in 0..<3000 {
        // Bytes that are this writer's alone, so that the last one counts.
        let piece = Int.random(in: 0..<size / 64 / writers, using: &random) * writers + index
        try? MemoryObjectTests.write(
          object, UInt64(piece * 64), [UInt8](repeating: UInt8(truncatingIfNeeded: round), count: 64))
      }
    }
    isOver.store(true, ordering: .releasing)
    flushers.wait()
    try object.writeBack()
    #expect(!object.isAheadOfSource && object.dirtyPages == 0)
    #expect(try MemoryObjectTests.read(object, 0, size) == pager.bytes)
  }
}
