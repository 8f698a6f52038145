// Depots and the stock of zeroed frames.
import Base
import Dispatch
import Platform
import Synchronization
import Testing

@testable import Pages

/// Depots that expectations can copy a reference to.
private final class FrameDepotBox {
  private let depot: FrameDepot
  init(capacity: UInt32, memory: UnsafeMutableRawPointer) { depot = FrameDepot(capacity: capacity, memory: memory) }
  var isEmpty: Bool { depot.isEmpty }
  var frameCount: Int { depot.frameCount }
  func put(copying batch: [UInt32]) -> Bool { depot.put(copying: batch) }
  func take(into batch: inout [UInt32]) -> Bool { depot.take(into: &batch) }
}

private final class ObjectDepotBox {
  private let depot: ObjectDepot
  init(capacity: UInt32, mostOfClass: Int, memory: UnsafeMutableRawPointer) {
    depot = ObjectDepot(capacity: capacity, mostOfClass: mostOfClass, memory: memory)
  }
  func put(_ list: ObjectCache, _ sizeClass: Int) -> Bool { depot.put(list, sizeClass) }
  func take(_ sizeClass: Int) -> ObjectCache? { depot.take(sizeClass) }
}

@Suite struct DepotTests {
  /// Memory of its own, so that nobody else changes the numbers.
  private func makeState(_ mebibytes: UInt64 = 64) -> UnsafeMutablePointer<FrameState> {
    let start = HostedArena.place(byteCount: mebibytes << 20)
    return FrameState.make(start: start, end: start + mebibytes << 20, cpuCount: 1)
  }

  private func number(_ entry: UInt32) -> UInt32 { entry & ~FrameState.zeroBit }
  private func bytes(_ entry: UInt32) -> UnsafeMutableRawBufferPointer {
    UnsafeMutableRawBufferPointer(
      start: LinearMap.pointer(PhysicalAddress(number(entry).u64 << frameShift)), count: 4096)
  }
  private func isZero(_ entry: UInt32) -> Bool { bytes(entry).allSatisfy { $0 == 0 } }

  /// Takes so many frames, writes to them and gives them back: free memory that is not zero.
  private func dirty(_ state: UnsafeMutablePointer<FrameState>, _ count: Int) {
    let frames = (0..<count).map { _ in state.popFrame(.kernel) }
    for entry in frames {
      bytes(entry).initializeMemory(as: UInt8.self, repeating: 0x5a)
      state.pushFrame(number(entry), isZero: false)
    }
  }

  private func clear(_ state: UnsafeMutablePointer<FrameState>) -> Int {
    var count = 0
    while let frame = state.nextToClear() {
      bytes(frame).initializeMemory(as: UInt8.self, repeating: 0)
      state.hasCleared()
      count += 1
    }
    return count
  }

  private func isEmpty(_ state: UnsafeMutablePointer<FrameState>) -> (depot: Bool, zeroed: Bool) {
    (state.pointee.depot.isEmpty, state.pointee.zeroed.isEmpty)
  }

  private func expectBalance(_ state: UnsafeMutablePointer<FrameState>, _ location: SourceLocation = #_sourceLocation) {
    let account = state.account()
    #expect(account.isExact && FrameAccountTests.sum(account) == account.total, sourceLocation: location)
    let audited = state.pointee.allocator.audit()
    #expect(audited == account.free, sourceLocation: location)
  }

  @Test func batchesGoInAndOut() {
    let memory = UnsafeMutableRawPointer.allocate(byteCount: FrameDepot.byteCount(capacity: 2), alignment: 64)
    memory.initializeMemory(as: UInt8.self, repeating: 0, count: FrameDepot.byteCount(capacity: 2))
    defer { memory.deallocate() }
    let depot = FrameDepotBox(capacity: 2, memory: memory)
    var batch = (0..<32).map { UInt32($0) }
    #expect(depot.isEmpty && !depot.take(into: &batch))
    #expect(depot.put(copying: batch))
    #expect(depot.put(copying: batch.map { $0 + 100 }))
    #expect(!depot.put(copying: batch), "there is room for two")
    #expect(depot.frameCount == 64)
    #expect(depot.take(into: &batch) && batch == (100..<132).map { UInt32($0) })
    #expect(depot.take(into: &batch) && batch == (0..<32).map { UInt32($0) })
    #expect(depot.isEmpty && depot.frameCount == 0 && !depot.take(into: &batch))
    // Nodes are used again.
    for _ in 0..<10 { #expect(depot.put(copying: batch) && depot.take(into: &batch)) }
  }

  /// What threads put in and take out at once is neither lost nor doubled.
  @Test func threadsExchangeBatches() {
    final class Shared: @unchecked Sendable {
      let memory: UnsafeMutableRawPointer
      let depot: FrameDepot
      let holders = UnsafeMutablePointer<Atomic<Int>>.allocate(capacity: 8 * 32)
      let mistakes = Atomic<Int>(0)
      init() {
        let byteCount = FrameDepot.byteCount(capacity: 6)
        memory = .allocate(byteCount: byteCount, alignment: 64)
        memory.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
        depot = FrameDepot(capacity: 6, memory: memory)
        for index in 0..<8 * 32 { (holders + index).initialize(to: Atomic(0)) }
      }
    }
    let shared = Shared()
    // Each of four threads begins with two batches; the depot has room for six of the eight.
    DispatchQueue.concurrentPerform(iterations: 4) { number in
      var held = [number * 2, number * 2 + 1].map { batch in (0..<32).map { UInt32(batch * 32 + $0) } }
      var random = Generator(state: number.u64)
      for _ in 0..<30_000 {
        if Bool.random(using: &random), var batch = held.popLast() {
          for frame in batch where shared.holders[Int(frame)].exchange(0, ordering: .relaxed) != 0 {
            shared.mistakes.add(1, ordering: .relaxed)
          }
          if !shared.depot.put(copying: batch) { held.append(batch) }
          batch = []
        } else {
          var batch = [UInt32](repeating: 0, count: 32)
          guard shared.depot.take(into: &batch) else { continue }
          // Nobody else has taken any of them.
          for frame in batch where shared.holders[Int(frame)].exchange(1, ordering: .relaxed) != 0 {
            shared.mistakes.add(1, ordering: .relaxed)
          }
          for frame in batch { shared.holders[Int(frame)].store(0, ordering: .relaxed) }
          held.append(batch)
        }
      }
      while let batch = held.popLast() {
        if !shared.depot.put(copying: batch) { shared.mistakes.add(batch.count == 32 ? 0 : 1, ordering: .relaxed) }
      }
    }
    let mistakes = shared.mistakes.load(ordering: .relaxed)
    #expect(mistakes == 0)
    let frameCount = shared.depot.frameCount
    #expect(frameCount == 6 * 32)
    var seen = Set<UInt32>()
    var batch = [UInt32](repeating: 0, count: 32)
    while shared.depot.take(into: &batch) {
      #expect(batch.enumerated().allSatisfy { $0.element == batch[0] + UInt32($0.offset) })
      seen.formUnion(batch)
    }
    #expect(seen.count == 6 * 32)
  }

  @Test func whatIsFreedComesBackWithoutTheLists() {
    let state = makeState()
    dirty(state, 200)
    let before = state.pointee.allocator.freeFrames
    let batches = state.pointee.depot.batchCount
    #expect(batches > 1)
    // Three batches and a half, freed and taken again: the buddy allocator sees none of it.
    for _ in 0..<20 {
      let frames = (0..<112).map { _ in state.popFrame(.program) }
      for entry in frames { state.pushFrame(number(entry), isZero: false) }
    }
    let after = state.pointee.allocator.freeFrames
    #expect(after == before)
    expectBalance(state)
  }

  @Test func theStockIsZeroAndGivenToThoseWhoAskForZero() {
    let state = makeState()
    #expect(clear(state) == 0, "memory that was never used is zero already")
    dirty(state, 4000)
    let limit = state.pointee.zeroedLimit
    #expect(limit == 3)
    #expect(clear(state) == limit * 32)
    #expect(clear(state) == 0, "no more than the limit")
    expectBalance(state)
    let free = state.freeCount
    // Others are not given zero ones while there are others.
    let other = state.popFrame(.kernel)
    #expect(other & FrameState.zeroBit == 0)
    for _ in 0..<limit * 32 {
      let entry = state.popFrame(.program, zeroed: true)
      #expect(entry & FrameState.zeroBit != 0)
      #expect(isZero(entry))
    }
    #expect(state.popFrame(.program, zeroed: true) & FrameState.zeroBit == 0, "the stock is used up")
    #expect(state.freeCount == free - limit * 32 - 2)
    expectBalance(state)
    // And filled again.
    #expect(clear(state) == limit * 32)
  }

  @Test func aBatchMayBeClearedInParts() throws {
    let state = makeState()
    dirty(state, 4000)
    let first = try #require(state.nextToClear())
    #expect(state.nextToClear() == first, "the same until it is cleared")
    bytes(first).initializeMemory(as: UInt8.self, repeating: 0)
    state.hasCleared()
    #expect(state.nextToClear() == first + 1)
    // Nothing is in stock before the batch is whole, but all is accounted for.
    #expect(isEmpty(state).zeroed)
    expectBalance(state)
    #expect(clear(state) == 31 + 2 * 32)
  }

  @Test func theStockIsTakenBackWhenMemoryIsShort() {
    let state = makeState()
    dirty(state, 8000)
    #expect(clear(state) > 0)
    let all = state.freeCount
    var count = 0
    while true {
      let entry = state.popFrame(.kernel)
      guard entry != 0 else { break }
      count += 1
    }
    #expect(count == all, "every free frame was to be had")
    #expect(isEmpty(state).zeroed && isEmpty(state).depot)
    expectBalance(state)
  }

  @Test func aLargeBlockIsJoinedFromTheDepots() throws {
    let state = makeState(16)
    // All frames through the magazine: in the end some lie in the depot.
    var frames: [UInt32] = []
    while case let entry = state.popFrame(.kernel), entry != 0 { frames.append(number(entry)) }
    for frame in frames.sorted() { state.pushFrame(frame, isZero: false) }
    #expect(!isEmpty(state).depot)
    var blocks = 0
    while state.takeBlock(order: 5, .kernel) != nil { blocks += 1 }
    #expect(isEmpty(state).depot)
    #expect(blocks >= (frames.count - 64) / 32 - 2)
    expectBalance(state)
  }

  @Test func noStockIsMadeWhereMemoryIsShort() {
    let state = makeState(16)
    dirty(state, 3000)
    while state.pointee.allocator.freeFrames > state.pointee.highMark { _ = state.popFrame(.kernel) }
    #expect(clear(state) == 0)
  }

  @Test func objectsOfTheHeapGoByTheDepot() {
    let byteCount = ObjectDepot.byteCount(capacity: 3)
    let memory = UnsafeMutableRawPointer.allocate(byteCount: byteCount, alignment: 64)
    memory.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
    defer { memory.deallocate() }
    let depot = ObjectDepotBox(capacity: 3, mostOfClass: 2, memory: memory)
    #expect(depot.take(4) == nil)
    #expect(depot.put(ObjectCache(head: 16, count: 1), 4) && depot.put(ObjectCache(head: 32, count: 2), 4))
    #expect(!depot.put(ObjectCache(head: 48, count: 3), 4), "two of a class")
    #expect(depot.put(ObjectCache(head: 48, count: 3), 5))
    #expect(!depot.put(ObjectCache(head: 64, count: 4), 6), "three in all")
    #expect(depot.take(5)?.count == 3 && depot.take(5) == nil)
    #expect(depot.take(4)?.head == 32 && depot.take(4)?.head == 16 && depot.take(4) == nil)
    #expect(depot.put(ObjectCache(head: 80, count: 5), 6))
  }
}
