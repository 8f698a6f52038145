// How often system calls have trapped, by the address behind the instruction. A small table, four entries of a set side by side:
// a site that finds its set full takes the place of the one that has trapped least, so that a few busy sites are not
// forgotten for many that are not.
//
// Threads may lose each other's counts; nothing depends on one more or less.
import Base
import Pages
import Synchronization

/// The counts of a process.
struct TrapCounts: ~Copyable {
  private static let setCount = 32
  private static let setSize = 4
  /// Instead of a count: the site has been looked at.
  private static let settled: UInt64 = 0xffff

  /// For each entry an address, shifted left by 16, and a count.
  private let entries: UnsafeMutablePointer<Atomic<UInt64>>?

  /// No counts; if memory is out, none ever.
  init() {
    let memory = KernelHeap.allocateZeroed(byteCount: Self.setCount &* Self.setSize &* 8)
    // SAFETY: an atomic word is a word, and zero is a good one.
    entries = memory?.bindMemory(to: Atomic<UInt64>.self, capacity: Self.setCount &* Self.setSize)
  }

  deinit { if let entries { KernelHeap.free(UnsafeMutableRawPointer(entries)) } }

  /// Where an address is counted: the top bits of the product choose the set.
  @inline(__always) private static func set(_ address: UInt64) -> Int {
    ((address &* 0x9e37_79b9_7f4a_7c15) >> 59).int &* setSize
  }

  /// Counts a trap. True once for each `threshold` traps at the same address: it is to be looked at, and settled from now on,
  /// until it is forgotten.
  func note(_ address: UInt64, threshold: UInt64) -> Bool {
    guard let entries else { return false }
    let set = entries + Self.set(address)
    var least = set
    var leastCount = UInt64.max
    for way in 0..<Self.setSize {
      let entry = set + way
      let word = entry.pointee.load(ordering: .relaxed)
      let count = word & 0xffff
      if word >> 16 == address {
        if count == Self.settled { return false }
        let isDue = count &+ 1 >= threshold
        entry.pointee.store(isDue ? word | Self.settled : word &+ 1, ordering: .relaxed)
        return isDue
      }
      if count < leastCount { (least, leastCount) = (entry, count) }
    }
    let isDue = threshold <= 1
    least.pointee.store(address << 16 | (isDue ? Self.settled : 1), ordering: .relaxed)
    return isDue
  }

  /// The site traps no more: its entry is free.
  func forget(_ address: UInt64) {
    guard let entries else { return }
    let set = entries + Self.set(address)
    for way in 0..<Self.setSize where (set + way).pointee.load(ordering: .relaxed) >> 16 == address {
      (set + way).pointee.store(0, ordering: .relaxed)
    }
  }
}
