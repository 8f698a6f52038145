// ReaderSlots: where readers of reader-writer locks stand when several CPUs read the same lock.
//
// Each CPU has a few sets of words, each set one cache line; a lock's identity chooses the set, the same on every CPU. A word
// is 0 or the identity of a lock, and then stands for one of that lock's readers, no matter which: any reader that leaves may
// clear any word that names its lock. So a lock needs no memory of its own for this, a reader no token, and readers on
// different CPUs write to different lines. Who wants to know whether a lock has readers looks at its set on every CPU.
//
// Invariants: a word leaves 0 and returns to it by compare-exchange only, so each stands for one reader at a time. There is no
// order among words: what a look at all of them proves is the lock's business (ReaderWriterLock 3).

import Base

// SAFETY: the words are atomic and outlive all locks; the rest never changes.
/// The slots of all CPUs; the same for all locks of a world.
public struct ReaderSlots<Word: LockWord & ~Copyable>: @unchecked Sendable {
  private let words: UnsafeMutablePointer<Word>?
  /// How many CPUs have slots; with fewer than two they are not worth using.
  let cpuCount: Int
  private let setBits: UInt
  private let ways: Int

  /// No slots: readers are counted in the lock itself.
  public static var none: ReaderSlots { ReaderSlots(words: nil, cpuCount: 0, setBits: 0, ways: 0) }

  /// Words that a set of the kernel's slots has: a cache line.
  static var usualWays: Int { 8 }
  /// The kernel has 2 to the power of this sets a CPU.
  static var usualSetBits: UInt { 3 }

  /// Slots in `words`, all 0: for each CPU in turn 2^`setBits` sets of `ways` words.
  public init(words: UnsafeMutablePointer<Word>?, cpuCount: Int, setBits: UInt, ways: Int) {
    self.words = words
    self.cpuCount = cpuCount
    self.setBits = setBits
    self.ways = ways
  }

  /// How many words the kernel's slots take for so many CPUs.
  public static func usualCount(cpuCount: Int) -> Int { cpuCount &* usualWays &<< usualSetBits.int }

  /// The kernel's slots in fresh memory (`usualCount` words, aligned to a cache line), which is never freed.
  public init(uninitialised words: UnsafeMutablePointer<Word>, cpuCount: Int) {
    for index in 0..<Self.usualCount(cpuCount: cpuCount) { (words + index).initialize(to: Word(0)) }
    self.init(words: words, cpuCount: cpuCount, setBits: Self.usualSetBits, ways: Self.usualWays)
  }

  /// The same slots again, from what they were made of; nil makes none.
  @inline(__always) public init(usual words: UnsafeMutablePointer<Word>?, cpuCount: Int) {
    self.init(words: words, cpuCount: cpuCount, setBits: Self.usualSetBits, ways: Self.usualWays)
  }

  /// The lock's set on that CPU.
  @inline(__always) private func set(_ lock: UInt, _ cpu: Int) -> UnsafeMutablePointer<Word> {
    // Fibonacci hashing: the upper bits of the product depend on all bits of the identity.
    let index = setBits == 0 ? 0 : (lock &* 0x9e37_79b9_7f4a_7c15) &>> (64 &- setBits)
    // SAFETY: called only with `cpuCount` above `cpu`, and then there are that many CPUs' sets.
    return words.unsafelyUnwrapped + (cpu &<< setBits.int &+ index.int) &* ways
  }

  /// Puts a reader into a free word of that CPU, which is returned; nil if there is none.
  @inline(__always) func claim(_ lock: UInt, cpu: Int) -> UnsafeMutablePointer<Word>? {
    guard cpu < cpuCount else { return nil }
    let set = set(lock, cpu)
    for way in 0..<ways where set[way].load() == 0 && set[way].compareExchange(0, lock) { return set + way }
    return nil
  }

  /// Takes a reader out of one of that CPU's words; false if none stands there.
  @inline(__always) func leave(_ lock: UInt, cpu: Int) -> Bool {
    guard cpu < cpuCount else { return false }
    let set = set(lock, cpu)
    for way in 0..<ways where set[way].load() == lock && set[way].compareExchange(lock, 0) { return true }
    return false
  }

  /// Takes a reader out wherever one stands; false if a look at every word found none.
  func leaveAnywhere(_ lock: UInt) -> Bool {
    for cpu in 0..<cpuCount where leave(lock, cpu: cpu) { return true }
    return false
  }

  /// Whether a look at every word, one after the other, found no reader of the lock.
  func isEmpty(_ lock: UInt) -> Bool {
    for cpu in 0..<cpuCount {
      let set = set(lock, cpu)
      for way in 0..<ways where set[way].load() == lock { return false }
    }
    return true
  }
}

/// The kernel's slots.
public enum LiveReaderSlots {
  #if HOSTED
    private static let slots = ReaderSlots<LiveWord>(
      uninitialised: .allocate(capacity: ReaderSlots<LiveWord>.usualCount(cpuCount: 4)), cpuCount: 4)
    static var current: ReaderSlots<LiveWord> { slots }
  #else
    // SAFETY: set once at boot, before a second CPU starts.
    nonisolated(unsafe) private static var words: UnsafeMutablePointer<LiveWord>? = nil
    nonisolated(unsafe) private static var cpuCount: Int = 0

    /// What `LiveWord` gives the locks.
    @inline(__always) static var current: ReaderSlots<LiveWord> {
      ReaderSlots(usual: words, cpuCount: cpuCount)
    }

    /// Gives all locks their slots, in fresh memory (`ReaderSlots.usualCount` words, aligned to a cache line) that is never
    /// freed. Once at boot, before a second CPU starts.
    public static func install(_ memory: UnsafeMutablePointer<LiveWord>, cpuCount count: Int) {
      _ = ReaderSlots(uninitialised: memory, cpuCount: count)
      words = memory
      cpuCount = count
    }
  #endif
}
