// SequenceCount: words that change under a lock and are read, all of one moment, without it.
//
// The writer, alone by the lock that guards the words, makes the count odd, stores them and makes the count even again. A reader
// loads them between two looks at the count and believes them if it was even and both times the same.
//
// Invariants, and why they hold (words are loaded acquiring and stored releasing, like the count):
//  1. What a reader believes are the words of one moment. Say that both looks found the even number c. What the write that made c
//     stored is seen, for c was stored after it. And nothing that a later write stores was seen: a word of that write is stored
//     after its odd count, so the reader's second look, which comes after its load of that word, would have found that or more.
//  2. A reader that does not get there after a few attempts gives up and takes the lock: it may keep its CPU, and then must not
//     wait. That is rare, for a writer keeps its CPU from the odd count to the even one.
// The count does not come round under a reader: it keeps its CPU, or finds out by 2^63 writes.

import Base

/// A count of writes, by which readers tell that they had nothing half written.
public struct SequenceCountCore<Word: LockWord & ~Copyable>: ~Copyable {
  private let count: Word

  /// Nothing has been written.
  @inline(__always) public init() { count = Word(0) }

  /// Runs a body that stores the words; with the lock that guards them. It must not sleep.
  @inline(__always) public borrowing func write<R>(_ body: () -> R) -> R {
    Word.disablePreemption()
    let before = count.peek()
    count.store(before &+ 1)
    let result = body()
    count.store(before &+ 2)
    Word.enablePreemption()
    return result
  }

  /// Runs a body that loads the words, more than once if need be: what it returned when they were those of one moment, nil if they
  /// kept changing.
  @inline(__always) public borrowing func read<R>(_ body: () -> R) -> R? {
    var attempts = 0
    while attempts < 4 {
      attempts &+= 1
      let before = count.load()
      guard before & 1 == 0 else { continue }
      let result = body()
      if count.load() == before { return result }
    }
    return nil
  }
}

/// The kernel's.
public typealias SequenceCount = SequenceCountCore<LiveWord>

// SAFETY: all that changes is an atomic word.
extension SequenceCountCore: @unchecked Sendable where Word: ~Copyable {}
