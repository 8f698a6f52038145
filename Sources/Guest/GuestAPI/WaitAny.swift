// Waiting for the first of several things, and timers, which are one of them.
import Base
import Locks

/// Something that a thread can wait for among others.
public struct WaitSource {
  fileprivate let waiters: UnsafePointer<WaitQueueCore<ProgramWord>>?
  /// Keeps what is waited for alive.
  fileprivate let owner: AnyObject
  fileprivate let attempt: () -> Bool
  /// When to attempt without having been woken.
  fileprivate let deadline: () -> Deadline

  init(
    waiters: UnsafePointer<WaitQueueCore<ProgramWord>>?, owner: AnyObject,
    deadline: @escaping () -> Deadline = { .never }, attempt: @escaping () -> Bool
  ) {
    self.waiters = waiters
    self.owner = owner
    self.deadline = deadline
    self.attempt = attempt
  }
}

/// Sleeps until one of the things has happened, and takes that one: a semaphore's unit, a timer's expiry.
/// - Returns: which, the first in order if several could be taken; nil if the deadline passed first.
public func waitForAny(_ sources: [WaitSource], until deadline: Deadline = .never) -> Int? {
  var queues: [UnsafePointer<WaitQueueCore<ProgramWord>>] = []
  var indices: [Int] = []
  for index in 0..<sources.count {
    guard let waiters = sources[index].waiters else { continue }
    queues.append(waiters)
    indices.append(index)
  }
  while true {
    var earliest = deadline
    for source in sources { earliest = min(earliest, source.deadline()) }
    let outcome = queues.withUnsafeBufferPointer { queues in
      WaitAny<ProgramWord>.wait(queues, until: earliest) { sources[indices[$0]].attempt() }
    }
    if outcome.index >= 0 { return indices[outcome.index] }
    for index in 0..<sources.count where sources[index].attempt() { return index }
    if currentTime() >= deadline.nanoseconds { return nil }
  }
}

// SAFETY: `next` is touched with `mutex`, and the rest never changes.
/// Expires at a time, once or again and again. Nothing runs for it: who waits for it wakes up by itself.
public final class Timer: @unchecked Sendable {
  private let mutex = Mutex()
  private var next: Deadline
  private let period: UInt64

  /// A timer that expires so many nanoseconds from now.
  /// - Parameter every: how long after each expiry the next one is; 0: there is one.
  public init(after nanoseconds: UInt64, every: UInt64 = 0) {
    next = .after(nanoseconds: nanoseconds)
    period = every
  }

  /// Takes the expiry, if it is time; of several that were missed, one.
  public func tryTake() -> Bool {
    mutex.withLock {
      let now = currentTime()
      guard now >= next.nanoseconds else { return false }
      let missed = period == 0 ? 0 : (now &- next.nanoseconds) / period
      next = period == 0 ? .never : .after((missed &+ 1) &* period, from: next.nanoseconds)
      return true
    }
  }

  /// Sleeps until it expires; false at once if it never will.
  @discardableResult public func wait() -> Bool {
    while true {
      let deadline = self.deadline
      if deadline == .never { return false }
      if tryTake() { return true }
      sleep(until: deadline)
    }
  }

  /// It expires no more, until `restart`.
  public func cancel() { mutex.withLock { next = .never } }

  /// It expires so many nanoseconds from now. Who waits for it already finds out at the time that was set before.
  public func restart(after nanoseconds: UInt64) { mutex.withLock { next = .after(nanoseconds: nanoseconds) } }

  /// When it expires next.
  public var deadline: Deadline { mutex.withLock { next } }

  /// Its expiry, as something to wait for among others.
  public var source: WaitSource {
    WaitSource(waiters: nil, owner: self, deadline: { self.deadline }, attempt: { self.tryTake() })
  }
}

/// Sleeps until that time.
public func sleep(until deadline: Deadline) {
  while ProgramWord.park(until: deadline, interruptible: false) != .timedOut {}
}
