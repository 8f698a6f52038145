// The buddy allocator against a naive model, on pieces of the arena that `Frames` does not manage.
import Base
import Glibc
import Platform
import Testing

@testable import Pages

/// A small generator with a seed, so that failures repeat.
struct Generator: RandomNumberGenerator {
  var state: UInt64
  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var word = state
    word = (word ^ (word >> 30)) &* 0xbf58_476d_1ce4_e5b9
    word = (word ^ (word >> 27)) &* 0x94d0_49bb_1331_11eb
    return word ^ (word >> 31)
  }
}

@Suite struct BuddyTests {
  @Test(arguments: [1, 2, 3]) func randomRequestsNeverOverlapAndAddUp(seed: UInt64) {
    var random = Generator(state: seed)
    var allocator = FrameAllocator()
    // 40 MiB in two pieces, neither aligned to anything.
    let base = HostedArena.place(byteCount: 64 << 20, alignment: 64 << 20).frameNumber
    let added = (allocator.add(first: base + 3, end: base + 6000), allocator.add(first: base + 6000, end: base + 10243))
    #expect(added == (true, true))
    let total = allocator.totalFrames
    var held: [(frame: UInt32, order: Int)] = []
    var owner: [UInt32: Int] = [:]
    for step in 0..<6000 {
      if held.isEmpty || Bool.random(using: &random) {
        let order = Int.random(in: 0...Int.random(in: 0...11, using: &random), using: &random)
        guard let block = allocator.take(order: order) else { continue }
        #expect(block.frame % (1 << order.u32) == 0)
        for frame in block.frame..<block.frame + (1 << order.u32) {
          #expect(owner[frame] == nil)
          let isKnown = allocator.descriptor(frame) != nil
          #expect(isKnown)
          owner[frame] = step
        }
        held.append((block.frame, order))
      } else {
        let block = held.remove(at: Int.random(in: 0..<held.count, using: &random))
        for frame in block.frame..<block.frame + (1 << block.order.u32) { owner[frame] = nil }
        if block.order > 0 && block.order < 6 && Bool.random(using: &random) {
          allocator.split(block.frame, order: block.order)
          for frame in block.frame..<block.frame + (1 << block.order.u32) {
            allocator.give(frame, order: 0, isZero: false)
          }
        } else {
          allocator.give(block.frame, order: block.order, isZero: false)
        }
      }
      let free = allocator.freeFrames
      let audited = step % 64 == 0 ? allocator.audit() : free
      #expect(audited == free)
      #expect(free == total - owner.count)
    }
    for block in held { allocator.give(block.frame, order: block.order, isZero: false) }
    let (audited, free) = (allocator.audit(), allocator.freeFrames)
    #expect(audited == total)
    #expect(free == total)
  }

  /// Memory in which somebody has been before: descriptors are cleared, and no block is taken for zero.
  @Test func memoryThatIsNotZero() {
    var allocator = FrameAllocator(isFreshZero: false)
    let place = HostedArena.place(byteCount: 8 << 20, alignment: 8 << 20)
    memset(LinearMap.pointer(place), 0xa5, 8 << 20)
    let base = place.frameNumber
    let added = allocator.add(first: base, end: base + 2048)
    #expect(added)
    let total = allocator.totalFrames
    var blocks: [UInt32] = []
    for order in [0, 9, 3, 0] {
      guard let block = allocator.take(order: order) else {
        Issue.record("no block of order \(order)")
        return
      }
      #expect(!block.isZero)
      blocks.append(block.frame)
    }
    while let block = allocator.take(order: 0) {
      if block.isZero { Issue.record("frame \(block.frame) is taken for zero") }
      blocks.append(block.frame)
    }
    let free = allocator.freeFrames
    #expect(Set(blocks).count == blocks.count && free == 0)
    #expect(blocks.count == total - 511 - 7)
    let audited = allocator.audit()
    #expect(audited == 0)
  }

  @Test func everythingCanBeTakenAndComesBackWhole() {
    var allocator = FrameAllocator()
    let base = HostedArena.place(byteCount: 96 << 20, alignment: 64 << 20).frameNumber
    let added = allocator.add(first: base, end: base + (96 << 8))
    #expect(added)
    let total = allocator.totalFrames
    var frames: [UInt32] = []
    while let block = allocator.take(order: 0) {
      #expect(block.isZero)
      frames.append(block.frame)
    }
    #expect(frames.count == total)
    let rest = allocator.freeFrames
    #expect(rest == 0)
    for frame in frames.shuffled() { allocator.give(frame, order: 0, isZero: true) }
    let audited = allocator.audit()
    #expect(audited == total)
    // 32 MiB at the start + 32 MiB are whole again, and known to be zero.
    let block = allocator.take(order: 13)
    #expect(block?.isZero == true)
  }

  @Test func startingTouchesAHandfulOfPages() {
    let start = HostedArena.place(byteCount: 1 << 30)
    let end = start + (1 << 30)
    let state = FrameState.make(start: start, end: end, cpuCount: 8)
    for _ in 0..<50 { #expect(state.popFrame(.kernel) != 0) }
    var resident = [UInt8](repeating: 0, count: 1 << 18)
    #expect(mincore(LinearMap.pointer(start), 1 << 30, &resident) == 0)
    let touched = resident.count { $0 & 1 != 0 }
    // The allocator's state, and the first page of its table: no more for 1 GiB of RAM.
    #expect(touched <= 3, "\(touched) pages touched")
  }

  @Test func memoryBehindTheHoleIsAdded() {
    // Not through `Frames` itself: memory added there would serve every other test of the process from then on.
    func ranges(_ old: UInt64, _ new: UInt64) -> [[UInt64]] {
      let grown = Frames.grownRanges(from: old << 20, to: new << 20)
      return [grown.low, grown.high].map { $0.map { [$0.start.rawValue >> 20, $0.end.rawValue >> 20] } ?? [] }
    }
    #expect(ranges(128, 2048) == [[128, 2048], []])
    #expect(ranges(2980, 3076) == [[2980, 3072], [4096, 4100]])
    #expect(ranges(3072, 5120) == [[], [4096, 6144]])
    #expect(ranges(4096, 5120) == [[], [5120, 6144]])
    #expect(ranges(2048, 2048) == [[], []])
    #expect(AddressMap.physical(ofMemoryOffset: 3 << 30) == AddressMap.highMemoryStart)
  }
}
