// The surplus, zero blocks and stashes, on pieces of the arena that `Frames` does not manage and on its own.
import Base
import Glibc
import Platform
import Testing

@testable import Pages

/// An allocator over megabytes of its own.
private final class Box {
  private var allocator = FrameAllocator()

  init(megabytes count: UInt32) {
    let first = HostedArena.place(byteCount: count.u64 << 20, alignment: 64 << 20).frameNumber
    let added = allocator.add(first: first, end: first + count << 8)
    #expect(added)
  }

  func take(order: Int) -> (frame: UInt32, isZero: Bool)? { allocator.take(order: order) }
  func takeSurplus(maximumOrder: Int) -> (frame: UInt32, order: Int)? {
    allocator.takeSurplus(maximumOrder: maximumOrder)
  }
  func give(_ frame: UInt32, order: Int, isZero: Bool) { allocator.give(frame, order: order, isZero: isZero) }
  func audit() -> Int { allocator.audit() }
  var surplusFrames: Int { allocator.surplusFrames }
  var freeFrames: Int { allocator.freeFrames }
  var totalFrames: Int { allocator.totalFrames }
  var leastSurplus: Int {
    get { allocator.leastSurplus }
    set { allocator.leastSurplus = newValue }
  }
}

@Suite struct SurplusTests {
  @Test func whatTheHostHasMemoryForIsUsedFirst() {
    let allocator = Box(megabytes: 32)
    // Everything out of the frontier, in blocks of 2 MiB.
    var blocks: [UInt32] = []
    while let block = allocator.take(order: 9) { blocks.append(block.frame) }
    for (index, block) in blocks.enumerated() { allocator.give(block, order: 9, isZero: index % 4 != 1) }
    let dirty = Set(blocks.indices.filter { $0 % 4 == 1 }.map { blocks[$0] })
    #expect(allocator.surplusFrames == dirty.count * 512)
    for _ in dirty {
      let block = allocator.take(order: 9)
      #expect(block.map { dirty.contains($0.frame) && !$0.isZero } == true)
    }
    #expect(allocator.surplusFrames == 0)
    let last = allocator.take(order: 9)
    #expect(last?.isZero == true)
    let audited = allocator.audit()
    #expect(audited == allocator.freeFrames)
  }

  @Test func largeBlocksJoinWithTheirLikeUntilALargerOneIsWanted() {
    let allocator = Box(megabytes: 32)
    guard let whole = allocator.take(order: 12) else { return #expect(Bool(false), "no 16 MiB") }
    while allocator.take(order: 9) != nil {}
    for piece: UInt32 in 0..<8 { allocator.give(whole.frame + piece << 9, order: 9, isZero: piece % 2 == 0) }
    #expect(allocator.surplusFrames == 4 * 512)
    // Two halves of 4 MiB are both zero and dirty: nothing has joined, until it must.
    let block = allocator.take(order: 12)
    #expect(block?.frame == whole.frame && block?.isZero == false)
    let audited = allocator.audit()
    #expect(audited == allocator.freeFrames)
  }

  @Test func theLeastSurplusIsWhatWasNotNeeded() {
    let allocator = Box(megabytes: 32)
    let blocks = (0..<6).compactMap { _ in allocator.take(order: 9)?.frame }
    for block in blocks { allocator.give(block, order: 9, isZero: false) }
    allocator.leastSurplus = allocator.surplusFrames
    #expect(allocator.surplusFrames == 6 * 512)
    // A program that takes two blocks and gives them back, over and over.
    for _ in 0..<5 {
      let taken = (0..<2).compactMap { _ in allocator.take(order: 9)?.frame }
      for block in taken { allocator.give(block, order: 9, isZero: false) }
    }
    #expect(allocator.leastSurplus == 4 * 512)
    // Taking it away is no need of anybody's.
    let surplus = allocator.takeSurplus(maximumOrder: 10)
    #expect(surplus.map { $0.order <= 10 && $0.order >= 9 } == true)
    #expect(allocator.leastSurplus == 4 * 512)
    // One frame taken out of a block counts for the whole block.
    allocator.leastSurplus = allocator.surplusFrames
    let before = allocator.surplusFrames
    while allocator.take(order: 0) != nil, allocator.surplusFrames == before {}
    #expect(allocator.leastSurplus < before)
  }

  /// A block that is said to be zero has no frame that was given back otherwise, whatever happened to its parts.
  @Test(arguments: 1...6 as ClosedRange<UInt64>) func zeroMeansZero(seed: UInt64) {
    var random = Generator(state: seed)
    let allocator = Box(megabytes: 48)
    let total = allocator.totalFrames
    var dirty = Set<UInt32>()
    var held: [(frame: UInt32, order: Int)] = []
    for step in 0..<4000 {
      switch Int.random(in: 0..<8, using: &random) {
      case 0..<3:
        let order = Bool.random(using: &random) ? 9 : Int.random(in: 0...12, using: &random)
        guard let block = allocator.take(order: order) else { continue }
        let frames = block.frame..<block.frame + (1 << order.u32)
        #expect(!block.isZero || frames.allSatisfy { !dirty.contains($0) })
        held.append((block.frame, order))
      case 3:
        let maximum = Int.random(in: 9...12, using: &random)
        guard let block = allocator.takeSurplus(maximumOrder: maximum) else { continue }
        #expect(block.order >= 9 && block.order <= maximum && block.frame % (1 << block.order.u32) == 0)
        // The host takes it: its frames are zero now.
        for frame in block.frame..<block.frame + (1 << block.order.u32) { dirty.remove(frame) }
        allocator.give(block.frame, order: block.order, isZero: true)
      default:
        guard !held.isEmpty else { continue }
        let block = held.remove(at: Int.random(in: 0..<held.count, using: &random))
        let isZero = Int.random(in: 0..<4, using: &random) == 0
        let frames = block.frame..<block.frame + (1 << block.order.u32)
        for frame in frames { if isZero { dirty.remove(frame) } else { dirty.insert(frame) } }
        allocator.give(block.frame, order: block.order, isZero: isZero)
      }
      let free = allocator.freeFrames
      let inUse = held.reduce(0) { $0 + (1 << $1.order) }
      #expect(free == total - inUse)
      let audited = step % 64 == 0 ? allocator.audit() : free
      #expect(audited == free)
    }
  }

  @Test func stashesKeepBlocksAndCountThem() {
    HostedArena.prepare()
    var stash = FrameStash()
    var blocks: [UInt64: Int] = [:]
    for order in [9, 0, 3, 9, 0, 5] {
      guard let frame = Frames.allocate(order: order) else { return #expect(Bool(false), "no memory") }
      blocks[frame.rawValue] = order
      stash.push(frame, order: order)
    }
    let count = stash.frameCount
    #expect(count == 2 * 512 + 2 + 8 + 32)
    guard let small = stash.pop(maximumOrder: 4) else { return #expect(Bool(false), "nothing small") }
    #expect(small.order == 3)
    Frames.free(small.frame, order: 3)
    blocks = blocks.filter { $0.value != 3 }
    var orders: [Int] = []
    while let block = stash.pop(maximumOrder: .max) {
      #expect(blocks.removeValue(forKey: block.frame.rawValue) == block.order)
      orders.append(block.order)
      Frames.free(block.frame, order: block.order)
    }
    let rest = stash.frameCount
    #expect(orders == [9, 9, 5, 0, 0] && rest == 0)
    let nothing = stash.pop(maximumOrder: .max)
    #expect(nothing == nil)
  }
}
