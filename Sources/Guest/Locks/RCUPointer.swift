// RCUPointer: a pointer that readers follow under RCU while a writer replaces what it points to.
//
// Orders: replacing releases (what the writer stored in the new object comes before it), loading acquires. Writers come one at a
// time or use `replace`, which says what was there before: that is freed after a grace period.

/// A pointer to something that is replaced as a whole.
public struct RCUPointerCore<Word: LockWord & ~Copyable, Pointee: ~Copyable>: ~Copyable {
  private let word: Word

  /// Points there.
  @inline(__always) public init(_ pointer: UnsafeMutablePointer<Pointee>?) { word = Word(UInt(bitPattern: pointer)) }

  /// What it points to now. A reader may use that until its section ends, a writer that keeps others out for longer.
  @inline(__always) public borrowing func load() -> UnsafeMutablePointer<Pointee>? {
    // SAFETY: only addresses of such objects are stored.
    UnsafeMutablePointer(bitPattern: word.load())
  }

  /// Makes it point elsewhere. Readers that began before may use the old object until a grace period has passed.
  /// - Returns: the old object.
  @inline(__always) public borrowing func replace(
    _ pointer: UnsafeMutablePointer<Pointee>?
  ) -> UnsafeMutablePointer<Pointee>? {
    // SAFETY: as above.
    UnsafeMutablePointer(bitPattern: word.exchange(UInt(bitPattern: pointer)))
  }
}

/// The kernel's.
public typealias RCUPointer<Pointee: ~Copyable> = RCUPointerCore<LiveWord, Pointee>

// Pointers under RCU are made to be shared.
// SAFETY: all that changes is an atomic word. (Whether what it points to may be shared is for its users to say.)
extension RCUPointerCore: @unchecked Sendable where Word: ~Copyable, Pointee: ~Copyable {}
