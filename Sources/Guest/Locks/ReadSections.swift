// ReadSections: RCU whose readers may sleep and fault, for programs; the kernel's own readers keep the CPU (ReadCopyUpdate).
//
// Each CPU has two pairs of counters, entered and left, one pair for each parity of `phase`. A reader counts itself in at the pair
// of the phase that it has read, on the CPU where it happens to be, and out at the same parity, wherever it is then. Readers on
// different CPUs write to different lines.
//
// Invariants, and why they hold:
//  1. If a writer adds up, for one parity, first all that left and then all that entered, and both are equal, then there was a
//     moment between the two sums when every reader that had entered with that parity before had left: each exit that was
//     counted belongs to an entry before it, which is counted too; an entry that was counted without its exit makes the sums
//     differ.
//  2. `synchronize` waits until one parity is empty, makes it the current one, and waits until the other is. A reader that
//     entered before it began is counted with either parity and is waited for. A reader that read the phase before the change and
//     counts itself in after the writer has looked at that parity does so after the writer's look, a read after the
//     change of `phase` (all sequentially consistent or behind a read-modify-write): it loads pointers after that, and so
//     sees what was unlinked before. New readers count with the new parity, so the wait ends.
//  3. No wake-up is missed: a reader counts itself out (read-modify-write), then looks for a `waiter`; the writer puts itself
//     there (exchange), then looks at the counters, then sleeps.
// Writers come one at a time, by `writers`.
//
// SAFETY of all: there are `stride` words for each of at least one CPU, fresh and never freed; a counter's place is within
// them, for its CPU's number is cut off at the last one's, and a parity is 0 or 1. All words are atomic.

import Base

/// Readers that a writer may wait for, and that may sleep meanwhile.
public struct ReadSectionsCore<Word: LockWord & ~Copyable>: ~Copyable {
  private let phase = Word(0)
  private let waiter = Word(0)
  private let writers = MutexCore<Word>()
  private let counters: UnsafeMutablePointer<Word>
  private let cpuCount: Int

  /// Words from one CPU's counters to the next one's: a cache line.
  public static var stride: Int { 8 }

  /// Sections of that many CPUs (a reader on another one counts at the last), with fresh memory for `stride` words each, aligned to a
  /// cache line, which outlives this.
  public init(counters: UnsafeMutablePointer<Word>, cpuCount: Int) {
    for index in 0..<cpuCount &* Self.stride { (counters + index).initialize(to: Word(0)) }
    self.counters = counters
    self.cpuCount = cpuCount
  }

  @inline(__always) private borrowing func counter(
    _ parity: UInt, hasLeft: Bool, cpu: Int
  ) -> UnsafeMutablePointer<Word> {
    counters + (min(cpu, cpuCount &- 1) &* Self.stride &+ parity.int &* 2 &+ (hasLeft ? 1 : 0))
  }

  /// Enters a section; what it returns is given to `leave`. Sections nest and may sleep.
  @inline(__always) public borrowing func enter() -> UInt {
    let parity = phase.load() & 1
    _ = counter(parity, hasLeft: false, cpu: Word.currentCPU).pointee.add(1)
    return parity
  }

  /// Leaves the section.
  @inline(__always) public borrowing func leave(_ parity: UInt) {
    _ = counter(parity, hasLeft: true, cpu: Word.currentCPU).pointee.add(1)
    if waiter.load() != 0 { wakeWaiter() }
  }

  @inline(never) private borrowing func wakeWaiter() {
    let parker = waiter.exchange(0)
    if parker != 0 { Word.unpark(parker) }
  }

  /// Returns when every section that was entered before it has been left. Sleeps; not within a section.
  public borrowing func synchronize() {
    writers.lock()
    let current = phase.load() & 1
    waitUntilEmpty(1 &- current)
    _ = phase.add(1)
    waitUntilEmpty(current)
    writers.unlock()
  }

  private borrowing func waitUntilEmpty(_ parity: UInt) {
    while !isEmpty(parity) {
      _ = waiter.exchange(Word.currentParker)
      if isEmpty(parity) { break }
      _ = Word.park(until: .never, interruptible: false)
    }
    // A reader may have taken it: then a permit comes that nobody waits for.
    _ = waiter.exchange(0)
  }

  private borrowing func isEmpty(_ parity: UInt) -> Bool {
    sum(parity, hasLeft: true) == sum(parity, hasLeft: false)
  }

  private borrowing func sum(_ parity: UInt, hasLeft: Bool) -> UInt {
    var total: UInt = 0
    for cpu in 0..<cpuCount { total &+= counter(parity, hasLeft: hasLeft, cpu: cpu).pointee.load() }
    return total
  }
}

// SAFETY: all that changes is an atomic word.
extension ReadSectionsCore: @unchecked Sendable where Word: ~Copyable {}
