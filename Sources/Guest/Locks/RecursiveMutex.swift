// RecursiveMutex: a mutex that its holder may take again.
//
// State: a `Mutex`; `owner`, the parker of the thread that has it, or 0; `depth`, how often that thread has taken it besides.
//
// Invariants, and why they hold:
//  1. `owner` names a thread only while that thread has the mutex: the thread stores its own name after it got the mutex and
//     0 before it gives it back. So a thread that reads its own name has the mutex, and one that has not never reads its
//     own name, whatever it reads.
//  2. `depth` is touched by the holder alone.
// Orders: those of the mutex; `owner` needs none, since only a thread's own stores make it read its own name.

import Base

/// A sleeping mutual exclusion lock that may be taken several times by the same thread; thread context only.
public struct RecursiveMutexCore<Word: LockWord & ~Copyable>: ~Copyable {
  private let mutex: MutexCore<Word>
  private let owner: Word
  private let depth: Word

  /// A free mutex.
  @inline(__always) public init() {
    mutex = MutexCore()
    owner = Word(0)
    depth = Word(0)
  }

  /// Whether the calling thread has it.
  public var isMine: Bool { owner.load() == Word.currentParker }

  /// Takes the mutex, once more if the caller has it.
  public borrowing func lock() {
    let me = Word.currentParker
    if owner.load() == me {
      depth.poke(depth.peek() &+ 1)
    } else {
      mutex.lock()
      owner.store(me)
    }
  }

  /// Takes the mutex if it is free or the caller's, and says whether.
  public borrowing func tryLock() -> Bool {
    let me = Word.currentParker
    if owner.load() == me {
      depth.poke(depth.peek() &+ 1)
      return true
    }
    guard mutex.tryLock() else { return false }
    owner.store(me)
    return true
  }

  /// Undoes one `lock`; the last one gives the mutex back. The caller must have it.
  public borrowing func unlock() {
    let more = depth.peek()
    if more != 0 { return depth.poke(more &- 1) }
    owner.store(0)
    mutex.unlock()
  }

  /// Runs the body with the mutex.
  @inline(__always) public borrowing func withLock<R: ~Copyable, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
    lock()
    defer { unlock() }
    return try body()
  }
}

/// The kernel's recursive mutex.
public typealias RecursiveMutex = RecursiveMutexCore<LiveWord>

// Locks are made to be shared.
// SAFETY: all that changes is an atomic word, or the holder's.
extension RecursiveMutexCore: @unchecked Sendable where Word: ~Copyable {}
