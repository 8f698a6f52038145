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

  /// The address of the entries, made at the first trap; 0 before that. Each is an address, shifted left by 16, and a count.
  private let table = Atomic<UInt>(0)

  /// No counts.
  init() {}

  deinit {
    if let memory = UnsafeMutableRawPointer(bitPattern: table.load(ordering: .relaxed)) { KernelHeap.free(memory) }
  }

  private var entries: UnsafeMutablePointer<Atomic<UInt64>>? {
    // SAFETY: a block of that many words, zero at first; an atomic word is a word. It lives as long as the table.
    UnsafeMutableRawPointer(bitPattern: table.load(ordering: .acquiring))?
      .assumingMemoryBound(to: Atomic<UInt64>.self)
  }

  /// Makes the entries; nil if memory is out.
  private func makeEntries() -> UnsafeMutablePointer<Atomic<UInt64>>? {
    guard let memory = KernelHeap.allocateZeroed(byteCount: Self.setCount &* Self.setSize &* 8) else { return nil }
    let isFirst = table.compareExchange(
      expected: 0, desired: UInt(bitPattern: memory), ordering: .acquiringAndReleasing
    ).exchanged
    if !isFirst { KernelHeap.free(memory) }
    return entries
  }

  /// Where an address is counted: the top bits of the product choose the set.
  @inline(__always) private static func set(_ address: UInt64) -> Int {
    ((address &* 0x9e37_79b9_7f4a_7c15) >> 59).int &* setSize
  }

  /// Counts a trap. True once for each `threshold` traps at the same address: it is to be looked at, and settled from now on,
  /// until it is forgotten.
  func note(_ address: UInt64, threshold: UInt64) -> Bool {
    guard let entries = entries ?? makeEntries() else { return false }
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
