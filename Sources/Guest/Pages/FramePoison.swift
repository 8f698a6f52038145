// Poison in free frames (`--debug memory`): a frame is filled when it is freed and looked at when it is handed out again, so that
// whoever writes to it in between, a device too, is found out.
//
// A free frame that was never used is zero, one that was used holds poison; which of the two is seen by its first word.
import Base
import Platform

/// Filling and checking free frames.
enum FramePoison {
  static let word: UInt64 = 0xdead_f4ee_dead_f4ee

  /// Fills a block that is about to be freed.
  static func fill(_ block: PhysicalAddress, order: Int) {
    // SAFETY: the caller is the block's only holder.
    let words = LinearMap.pointer(block).bindMemory(to: UInt64.self, capacity: 512 << order)
    words.update(repeating: word, count: 512 << order)
  }

  /// The first word of a free block that is not as it was left, nil if there is none.
  static func damage(_ block: PhysicalAddress, order: Int, isZero: Bool) -> PhysicalAddress? {
    // SAFETY: the block was just taken, or is about to be freed: nobody else has it.
    let words = LinearMap.pointer(block).bindMemory(to: UInt64.self, capacity: 512 << order)
    var at = 0
    while at < 512 << order {
      let expected = isZero || words[at] == 0 ? 0 : word
      let end = at &+ 512
      while at < end {
        if words[at] != expected { return block + at &* 8 }
        at &+= 1
      }
    }
    return nil
  }

  /// Panics if somebody has written to a free block.
  static func check(_ block: PhysicalAddress, order: Int, isZero: Bool) {
    if let place = damage(block, order: order, isZero: isZero) { report(place) }
  }

  private static func report(_ place: PhysicalAddress) -> Never {
    var explanation = PanicExplanation(HeapDefect.wroteAfterFree.message)
    explanation.lines[0].append("physical address ")
    explanation.lines[0].append(hexadecimal: place.rawValue)
    explanation.lines[0].append(" of a free frame holds ")
    // SAFETY: a word of a frame of ours.
    let found = LinearMap.pointer(place).load(as: UInt64.self)
    explanation.lines[0].append(hexadecimal: found, digits: 16)
    panic(explanation)
  }
}
