// The record of one waiter: lives on the waiter's stack while it is in a queue.

/// What a waiter leaves in a queue. Fields are words so that any thread may read what it needs of them; which thread may
/// touch which field when is written with the algorithm that owns the queue.
struct WaitRecord<Word: LockWord & ~Copyable>: ~Copyable {
  /// Where the waiter stands; the values belong to the queue's algorithm.
  let state: Word
  /// The next older record on the lock-free stack of newcomers.
  let newer: Word
  /// The next record on the lock-free stack of those who want to leave.
  let leaving: Word
  /// The next record in the list of the one who serves.
  let next: Word
  /// The record before it in that list.
  let previous: Word
  /// The mutex that the waiter is to have before it goes on (its address); 0: none. Constant while the record is queued.
  let mutex: Word
  /// Who waits; constant.
  let parker: UInt

  init(parker: UInt) {
    state = Word(0)
    newer = Word(0)
    leaving = Word(0)
    next = Word(0)
    previous = Word(0)
    mutex = Word(0)
    self.parker = parker
  }

  /// Runs the body with the address of a fresh record of the calling thread, on its stack.
  @inline(__always) static func withRecord<R>(_ body: (UnsafeMutablePointer<WaitRecord>) -> R) -> R {
    withUnsafeTemporaryAllocation(of: WaitRecord.self, capacity: 1) { buffer in
      // SAFETY: the buffer has one element; the algorithms take it out of every queue before the body returns.
      let record = buffer.baseAddress.unsafelyUnwrapped
      record.initialize(to: WaitRecord(parker: Word.currentParker))
      defer { record.deinitialize(count: 1) }
      return body(record)
    }
  }

  /// The record whose address a queue's word holds; nil for 0.
  @inline(__always) static func at(_ word: UInt) -> UnsafeMutablePointer<WaitRecord>? {
    // SAFETY: the words of queues hold 0 or addresses of records that are still in the queue.
    UnsafeMutablePointer<WaitRecord>(bitPattern: word)
  }
}

extension UnsafeMutablePointer where Pointee: ~Copyable {
  /// The address as a queue's word holds it.
  @inline(__always) var word: UInt { UInt(bitPattern: self) }
}
