// The region tree against an array.
import Base
import Pages
import Testing

@testable import Memory

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

@Suite struct RegionTreeTests {
  @Test(arguments: [1, 2, 3, 4]) func agreesWithAnArray(seed: UInt64) {
    var random = Generator(state: seed)
    var tree = RegionTree()
    var model: [(start: UInt64, end: UInt64, region: RegionPointer)] = []
    let low: UInt64 = 0x10000
    let high: UInt64 = 0x400_0000
    for step in 0..<3000 {
      switch Int.random(in: 0..<5, using: &random) {
      case 0, 1:
        let start = UInt64.random(in: low >> 12..<high >> 12, using: &random) << 12
        let end = start + UInt64.random(in: 1...64, using: &random) << 12
        let isFree = !model.contains { $0.start < end && start < $0.end }
        let treeSaysFree = tree.isFree(start, end)
        #expect(treeSaysFree == isFree)
        guard isFree, end <= high else { continue }
        let region = RegionPointer.make(Region(start: start, end: end, protection: .read, flags: []))!
        tree.insert(region)
        model.append((start, end, region))
      case 2:
        guard !model.isEmpty else { continue }
        let entry = model.remove(at: Int.random(in: 0..<model.count, using: &random))
        tree.remove(entry.region)
        entry.region.discard()
      case 3:
        guard !model.isEmpty else { continue }
        let index = Int.random(in: 0..<model.count, using: &random)
        let pages = (model[index].end - model[index].start) >> 12
        let start = model[index].start + UInt64.random(in: 0..<pages, using: &random) << 12
        let end = model[index].end
        tree.resize(model[index].region, start: start, end: end)
        model[index].start = start
      default:
        let address = UInt64.random(in: low..<high, using: &random)
        let found = tree.find(address)
        let next = tree.first(endingAbove: address)
        let last = tree.last(startingBelow: address)
        #expect(found == model.first { $0.start <= address && address < $0.end }?.region)
        #expect(next == model.filter { $0.end > address }.min { $0.start < $1.start }?.region)
        #expect(last == model.filter { $0.start < address }.max { $0.start < $1.start }?.region)
        let size = UInt64.random(in: 1...200, using: &random) << 12
        let alignment: UInt64 = Bool.random(using: &random) ? 4096 : 0x20_0000
        let gap = tree.highestGap(size: size, low: low, high: high, alignment: alignment)
        let expected = Self.highestGap(model.map { ($0.start, $0.end) }, size, low, high, alignment)
        #expect(gap == expected)
      }
      if step % 50 == 0 {
        let isSound = tree.isSound()
        #expect(isSound)
      }
      let (count, bytes) = (tree.count, tree.byteCount)
      #expect(count == model.count)
      #expect(bytes == model.reduce(0) { $0 + $1.end - $1.start })
    }
    for entry in model {
      tree.remove(entry.region)
      entry.region.discard()
    }
  }

  static func highestGap(
    _ regions: [(UInt64, UInt64)], _ size: UInt64, _ low: UInt64, _ high: UInt64, _ alignment: UInt64
  ) -> UInt64? {
    var top = high
    for (start, end) in regions.sorted(by: { $0.0 > $1.0 }) + [(0, low)] {
      if top > end, top - end >= size {
        let place = (top - size) & ~(alignment - 1)
        if place >= end { return place }
      }
      top = min(top, start)
    }
    return nil
  }
}
