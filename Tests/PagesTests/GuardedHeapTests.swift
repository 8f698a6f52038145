// The debugging heap: objects end at pages that are never mapped, freed ones are away, records name them, damage is seen; and the
// poison of free frames.
import Base
import Dispatch
import Platform
import Testing

@testable import Pages

@Suite struct GuardedHeapTests {
  /// A heap in tables of its own; its memory is seen through the linear map.
  private final class Bench {
    let table = PageTableTests.makeTable()
    let heap = UnsafeMutablePointer<GuardedHeap>.allocate(capacity: 1)

    init(pages: UInt64 = 16384) {
      let window = VirtualRange(start: VirtualAddress(0x1_2340_0000), count: pages << 12)
      heap.initialize(to: GuardedHeap(table: table, window: window))
    }

    func bytes(_ address: VirtualAddress) -> UnsafeMutablePointer<UInt8>? {
      table.translate(address).map { LinearMap.pointer($0).assumingMemoryBound(to: UInt8.self) }
    }
    func allocate(_ byteCount: Int, alignment: Int = 16) -> VirtualAddress? {
      heap.allocate(byteCount: byteCount, alignment: alignment).map { VirtualAddress($0) }
    }
    func free(_ address: VirtualAddress) -> HeapDefect? { heap.free(address.unsafePointer) }
  }

  @Test(arguments: [0, 1, 15, 16, 24, 100, 4095, 4096, 4097, 12288, 70_000], [1, 16, 64, 4096, 16384])
  func objectsEndAtAGuard(byteCount: Int, alignment: Int) throws {
    let bench = Bench()
    let first = try #require(bench.allocate(byteCount, alignment: alignment))
    #expect(first.isAligned(to: max(alignment.u64, 16)))
    #expect(bench.heap.byteCount(first.unsafePointer) == byteCount)
    let end = first + max(byteCount.u64, 1).alignedUp(to: min(max(alignment.u64, 16), 4096))
    #expect(end.isAligned())
    for page: UInt64 in 0..<7 { #expect(bench.table.translate(end + page << 12) == nil) }
    // All of it is there, in one piece.
    let start = try #require(bench.table.translate(first))
    for at in stride(from: 0, to: byteCount, by: 512) { #expect(bench.table.translate(first + at) == start + at) }
    #expect(bench.heap.defect(at: end)?.defect == .overrun)
    #expect(bench.heap.defect(at: end + 8192)?.word.byteCount == byteCount)
    #expect(bench.free(first) == nil)
    #expect(bench.table.translate(first) == nil)
    #expect(bench.heap.defect(at: first)?.defect == .usedAfterFree)
    #expect(bench.heap.defect(at: first)?.word.byteCount == byteCount)
    #expect(bench.free(first) == .freedTwice)
  }

  @Test func damageIsSeenAtTheFree() throws {
    let bench = Bench()
    for (offset, defect) in [
      (-1, HeapDefect.wroteBefore), (-4000, .wroteBefore), (20, .wroteBehind), (31, .wroteBehind),
    ] {
      let object = try #require(bench.allocate(20))
      try #require(bench.bytes(object + offset))[0] ^= 1
      #expect(bench.free(object) == defect)
    }
    let object = try #require(bench.allocate(20))
    for offset in 0..<20 { try #require(bench.bytes(object + offset))[0] = 7 }
    #expect(bench.free(object + 16) == .notAnObject)
    #expect(bench.free(object) == nil)
    #expect(bench.free(VirtualAddress(0x1_2340_0000) + 16000 << 12) == .notAnObject)
  }

  @Test func whatLiesBeforeAnObjectIsItsUnderrun() throws {
    let bench = Bench()
    let first = try #require(bench.allocate(100))
    let second = try #require(bench.allocate(200))
    let found = try #require(bench.heap.defect(at: second.alignedDown() - 8))
    #expect(found.defect == .underrun && found.word.byteCount == 200)
    let behind = try #require(bench.heap.defect(at: (first + 112)))
    #expect(behind.defect == .overrun && behind.word.byteCount == 100)
    // Both reports name their object.
    let text = bench.heap.explanation(.overrun, first + 112).lines[0]
    let line = String(decoding: (0..<text.byteCount).map { text[$0] }, as: UTF8.self)
    #expect(line.hasPrefix("the object: 100 bytes at 0x") && line.hasSuffix("+ 112"), "\(line)")
  }

  /// Addresses are used again only after the others; living objects stay where they are.
  @Test(arguments: [1, 2]) func aSmallWindowIsGoneRound(seed: UInt64) throws {
    let bench = Bench(pages: 160)
    var random = Generator(state: seed)
    var held: [(VirtualAddress, Int, UInt8)] = []
    var places = Set<UInt64>()
    for step in 0..<3000 {
      let count = Int.random(in: 1...9000, using: &random)
      if held.count < 8, let object = bench.allocate(count) {
        places.insert(object.rawValue)
        for at in 0..<count { bench.bytes(object + at)![0] = step.u8 }
        held.append((object, count, step.u8))
      } else if !held.isEmpty {
        let (object, count, mark) = held.remove(at: Int.random(in: 0..<held.count, using: &random))
        let isWhole = (0..<count).allSatisfy { bench.bytes(object + $0)![0] == mark }
        #expect(isWhole)
        #expect(bench.free(object) == nil)
      }
    }
    #expect(places.count > 20)
    for (object, _, _) in held { #expect(bench.free(object) == nil) }
  }

  @Test func aFullWindowIsNoMemory() throws {
    let bench = Bench(pages: 80)
    var objects: [VirtualAddress] = []
    while let object = bench.allocate(64) { objects.append(object) }
    #expect(objects.count == 10)
    #expect(bench.free(objects[4]) == nil)
    #expect(bench.allocate(64) == objects[4])
    #expect(bench.allocate(64) == nil)
  }

  @Test func threadsMayUseItAtOnce() {
    nonisolated(unsafe) let bench = Bench()
    DispatchQueue.concurrentPerform(iterations: 4) { number in
      var random = Generator(state: number.u64)
      var held: [VirtualAddress] = []
      for _ in 0..<500 {
        if held.isEmpty || Bool.random(using: &random) {
          guard let object = bench.allocate(Int.random(in: 1...600, using: &random)) else { continue }
          bench.bytes(object)![0] = number.u8
          held.append(object)
        } else {
          let object = held.remove(at: Int.random(in: 0..<held.count, using: &random))
          #expect(bench.bytes(object)![0] == number.u8)
          #expect(bench.free(object) == nil)
        }
      }
      for object in held { #expect(bench.free(object) == nil) }
    }
  }

  @Test func poisonOfFreeFrames() {
    let block = Frames.allocate(order: 2)!
    FramePoison.fill(block, order: 2)
    #expect(FramePoison.damage(block, order: 2, isZero: false) == nil)
    #expect(FramePoison.damage(block, order: 2, isZero: true) == block)
    // Frames that were never used may lie among others.
    clearMemory(LinearMap.pointer(block + 4096), byteCount: 4096)
    #expect(FramePoison.damage(block, order: 2, isZero: false) == nil)
    for offset: UInt64 in [8, 4096, 8184, 16376] {
      let word = LinearMap.pointer(block + offset).assumingMemoryBound(to: UInt64.self)
      let before = word.pointee
      word.pointee ^= 1 << 40
      #expect(FramePoison.damage(block, order: 2, isZero: false) != nil)
      word.pointee = before
    }
    Frames.free(block, order: 2)
  }
}
