// SlotTable: what a device has of the driver's, by the number of the descriptor that stands for it.
//
// Slots are taken and given back by one thread at a time. The device names them, and is not trusted: `word` of whatever number is 0 if nothing
// lies there.
import Base
import Pages

/// A word in each of a queue's slots, and the slots in which there is none.
struct SlotTable: ~Copyable {
  /// How many slots there are.
  let size: Int
  /// How many of them are free.
  private(set) var freeCount: Int
  // SAFETY: `size` words of the kernel heap, this table's own: what lies in each slot, or 0.
  private let words: UnsafeMutablePointer<UInt>
  // SAFETY: `size` numbers behind them, of which the first `freeCount` are the free slots.
  private let free: UnsafeMutablePointer<UInt16>

  /// A table of free slots, at most 32,768; nil if memory is out.
  init?(size: Int) {
    guard let heap = KernelHeap.allocateZeroed(byteCount: size &* 10) else { return nil }
    self.size = size
    words = heap.bindMemory(to: UInt.self, capacity: size)
    free = (heap + size &* 8).bindMemory(to: UInt16.self, capacity: size)
    freeCount = size
    // The first slots are taken first.
    for slot in 0..<size { free[slot] = (size &- 1 &- slot).u16 }
  }

  deinit { KernelHeap.free(UnsafeMutableRawPointer(words)) }

  /// What lies in a slot; 0 if nothing does, or there is no such slot.
  @inline(__always) func word(_ slot: Int) -> UInt { slot >= 0 && slot < size ? words[slot] : 0 }

  /// Puts a word, not 0, into a free slot, of which there is one.
  @inline(__always) mutating func take(for word: UInt) -> UInt16 {
    freeCount &-= 1
    let slot = free[freeCount]
    words[slot.int] = word
    return slot
  }

  /// Frees a slot in which a word lies.
  @inline(__always) mutating func giveBack(_ slot: Int) {
    words[slot] = 0
    free[freeCount] = slot.u16
    freeCount &+= 1
  }
}
