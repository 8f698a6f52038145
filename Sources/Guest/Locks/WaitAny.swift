// WaitAny: waiting for the first of several things that threads wait for: units of semaphores, conditions, timers.
//
// The thread is in all the queues at once, with a record in each, and sleeps on its one permit. Each queue has its condition,
// which an attempt looks at and, where that is the meaning (a unit of a semaphore), takes.
//
// Invariants, and why they hold:
//  1. No wake-up is missed: the thread is in every queue before it attempts each, and only then sleeps (WaitQueue 6).
//  2. At most one attempt succeeds: none is made after one that did.
//  3. No wake is lost on this thread. Once it runs, it leaves every queue; where it was woken before it could leave, that wake
//     has come to it. Either an attempt follows it, and then it is as good as used: what it told of was taken or is gone; or
//     none does, because another one succeeded, and then the wake is passed on to the next in that queue.
//  4. Its records are in no queue when it returns (WaitQueue 5).

import Base

/// Waiting for whichever comes first.
public enum WaitAny<Word: LockWord & ~Copyable> {
  /// Sleeps until an attempt succeeds, the deadline passes or an interrupt comes.
  /// - Parameters:
  ///   - queues: where to be woken; a queue may stand there twice. They stay in place during the call.
  ///   - attempt: whether what queue number i is for has happened; may take it, and then must be true. It must not sleep.
  /// - Returns: `.woken` and which attempt succeeded, the first in order if several could; else what ended the wait, and -1.
  public static func wait(
    _ queues: UnsafeBufferPointer<UnsafePointer<WaitQueueCore<Word>>>, until deadline: Deadline = .never,
    interruptible: Bool = false, attempt: (Int) -> Bool
  ) -> (result: WaitResult, index: Int) {
    if let index = first(queues.count, attempt) { return (.woken, index) }
    return withUnsafeTemporaryAllocation(of: WaitRecord<Word>.self, capacity: queues.count) { buffer in
      // SAFETY: one record a queue; all are out of their queues before the body returns.
      guard let records = buffer.baseAddress else { return (sleep(until: deadline, interruptible), -1) }
      for index in 0..<queues.count {
        (records + index).initialize(to: WaitRecord(parker: Word.currentParker))
      }
      defer { records.deinitialize(count: queues.count) }
      while true {
        let outcome = waitOnce(queues, records, deadline, interruptible, attempt)
        if outcome.result != .woken || outcome.index >= 0 { return outcome }
      }
    }
  }

  /// One sleep; `.woken` and -1 if it was for nothing.
  private static func waitOnce(
    _ queues: UnsafeBufferPointer<UnsafePointer<WaitQueueCore<Word>>>,
    _ records: UnsafeMutablePointer<WaitRecord<Word>>, _ deadline: Deadline, _ interruptible: Bool,
    _ attempt: (Int) -> Bool
  ) -> (result: WaitResult, index: Int) {
    for index in 0..<queues.count { queues[index].pointee.enter(records + index) }
    var found = first(queues.count, attempt)
    let wasThere = found != nil
    var result = WaitResult.woken
    if !wasThere {
      while result == .woken && isWaiting(records, queues.count) {
        result = Word.park(until: deadline, interruptible: interruptible)
      }
    }
    for index in 0..<queues.count { _ = queues[index].pointee.leave(records + index) }
    if !wasThere { found = first(queues.count, attempt) }
    // Attempted after the wake: all up to the one that succeeded.
    let attempted = wasThere ? 0 : (found ?? queues.count) &+ 1
    for index in 0..<queues.count
    where index >= attempted && records[index].state.load() == WaitQueueCore<Word>.woken {
      queues[index].pointee.wakeOne()
    }
    if let found { return (.woken, found) }
    return (result, -1)
  }

  private static func isWaiting(_ records: UnsafeMutablePointer<WaitRecord<Word>>, _ count: Int) -> Bool {
    for index in 0..<count where records[index].state.load() != WaitQueueCore<Word>.waiting { return false }
    return true
  }

  private static func first(_ count: Int, _ attempt: (Int) -> Bool) -> Int? {
    for index in 0..<count where attempt(index) { return index }
    return nil
  }

  /// Nothing to wait for but time.
  private static func sleep(until deadline: Deadline, _ interruptible: Bool) -> WaitResult {
    while true {
      let result = Word.park(until: deadline, interruptible: interruptible)
      if result != .woken { return result }
    }
  }
}
