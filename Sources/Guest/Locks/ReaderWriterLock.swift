// ReaderWriterLock: many readers or one writer; sleeping.
//
// State, one word: bit 0, a writer has it; bits 1 to 31, writers that want it; bits 32 and up, readers that have it.
//
// Invariants, and why they hold:
//  1. A writer is alone: the writer bit is set only by a compare-exchange from a value with no writer and no readers;
//     readers are added only by one from a value with no writer.
//  2. Writers do not starve: a reader does not come in while a writer wants the lock. Readers do not starve for ever
//     either unless writers come without a pause; then order of arrival among writers is all that is promised.
//  3. No wake-up is missed: each release changes the word before it looks whom to wake, and each waiter queues before it
//     looks at the word (WaitQueue 6). The last reader out wakes a writer; a writer out wakes a writer, or if none
//     wants the lock all readers; a writer that gives up wanting wakes the readers it had kept out.

import Base

/// A reader-writer lock that prefers writers; not recursive, not for interrupt handlers.
public struct ReaderWriterLockCore<Word: LockWord & ~Copyable>: ~Copyable {
  private let state: Word
  private let readers: WaitQueueCore<Word>
  private let writers: WaitQueueCore<Word>

  private static var writer: UInt { 1 }
  private static var wanting: UInt { 2 }
  private static var allWanting: UInt { 0xffff_fffe }
  private static var reader: UInt { 1 << 32 }

  /// A free lock.
  @inline(__always) public init() {
    state = Word(0)
    readers = WaitQueueCore()
    writers = WaitQueueCore()
  }

  /// Takes the lock for reading if no writer has it or wants it, and says whether.
  @inline(__always) public borrowing func tryReadLock() -> Bool {
    while true {
      let value = state.load()
      if value & (Self.writer | Self.allWanting) != 0 { return false }
      if state.compareExchange(value, value &+ Self.reader) { return true }
    }
  }

  /// Takes the lock for reading.
  @inline(__always) public borrowing func readLock() {
    if !tryReadLock() { _ = readers.wait { !tryReadLock() } }
  }

  /// Gives back a lock taken for reading.
  @inline(__always) public borrowing func readUnlock() {
    let value = state.add(0 &- Self.reader) &- Self.reader
    if value < Self.reader && value & Self.allWanting != 0 { writers.wakeOne() }
  }

  /// Takes the lock for writing if it is free, and says whether.
  @inline(__always) public borrowing func tryWriteLock() -> Bool {
    while true {
      let value = state.load()
      if value & Self.writer != 0 || value >= Self.reader { return false }
      if state.compareExchange(value, value | Self.writer) { return true }
    }
  }

  /// Takes the lock for writing.
  @inline(__always) public borrowing func writeLock() {
    if state.compareExchange(0, Self.writer) { return }
    _ = state.add(Self.wanting)
    _ = writers.wait { !tryWriteLock() }
    _ = state.add(0 &- Self.wanting)
  }

  /// Gives back a lock taken for writing.
  @inline(__always) public borrowing func writeUnlock() {
    let value = state.add(0 &- Self.writer) &- Self.writer
    if value & Self.allWanting != 0 { writers.wakeOne() } else { readers.wakeAll() }
  }

  /// Runs the body with the lock taken for reading.
  @inline(__always) public borrowing func withReadLock<R: ~Copyable, E: Error>(
    _ body: () throws(E) -> R
  ) throws(E) -> R {
    readLock()
    defer { readUnlock() }
    return try body()
  }

  /// Runs the body with the lock taken for writing.
  @inline(__always) public borrowing func withWriteLock<R: ~Copyable, E: Error>(
    _ body: () throws(E) -> R
  ) throws(E) -> R {
    writeLock()
    defer { writeUnlock() }
    return try body()
  }
}

/// The kernel's reader-writer lock.
public typealias ReaderWriterLock = ReaderWriterLockCore<LiveWord>

// Locks are made to be shared.
extension ReaderWriterLockCore: @unchecked Sendable where Word: ~Copyable {}
