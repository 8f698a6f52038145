// Locks for threads of the program: the kernel's own algorithms, over the program's words (ProgramWord).
// SAFETY of all: that these objects are shared unchecked: what is in them, a `core`, never changes but for its words, which
// are atomic (or the holder's), and an object does not move.
import Base
import Locks

/// Mutual exclusion: sleeping, first come first served under contention, not recursive. Uncontended it costs one atomic instruction
/// each way.
public final class Mutex: @unchecked Sendable {
  let core = MutexCore<ProgramWord>()

  /// A free mutex.
  public init() {}

  /// Takes the mutex; sleeps while another thread has it.
  public func lock() { core.lock() }
  /// Takes the mutex if it is free, and says whether.
  public func tryLock() -> Bool { core.tryLock() }
  /// Gives the mutex back, which the caller has.
  public func unlock() { core.unlock() }
  /// Runs the body with the mutex.
  public func withLock<R, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
    core.lock()
    defer { core.unlock() }
    return try body()
  }
}

/// A mutex that its holder may take again.
public final class RecursiveMutex: @unchecked Sendable {
  private let core = RecursiveMutexCore<ProgramWord>()

  /// A free mutex.
  public init() {}

  /// Takes the mutex, once more if the caller has it.
  public func lock() { core.lock() }
  /// Takes the mutex if it is free or the caller's, and says whether.
  public func tryLock() -> Bool { core.tryLock() }
  /// Undoes one `lock`.
  public func unlock() { core.unlock() }
  /// Runs the body with the mutex.
  public func withLock<R, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
    core.lock()
    defer { core.unlock() }
    return try body()
  }
}

/// Waiting for a change of what a mutex guards. Who is woken is given the mutex, or a place in its queue: no thread runs only to
/// find the mutex taken.
public final class Condition: @unchecked Sendable {
  private let core = ConditionVariableCore<ProgramWord>()

  /// One that nobody waits for.
  public init() {}

  /// Gives the mutex back, sleeps until a wake or the deadline, and takes it again, always. May return for no reason: look at
  /// what you wait for, and wait again.
  @discardableResult public func wait(_ mutex: Mutex, until deadline: Deadline = .never) -> WaitResult {
    core.wait(mutex.core, until: deadline)
  }

  /// Sleeps as long as the condition holds, which is looked at with the mutex. False: the deadline passed first.
  public func wait(_ mutex: Mutex, until deadline: Deadline = .never, while condition: () -> Bool) -> Bool {
    while condition() {
      if core.wait(mutex.core, until: deadline) == .timedOut { return !condition() }
    }
    return true
  }

  /// Wakes the thread that has waited longest.
  public func wakeOne() { core.wakeOne() }
  /// Wakes all that wait now.
  public func wakeAll() { core.wakeAll() }
}

/// Many readers or one writer; fair to both. Readers on different CPUs share no cache line that is written.
public final class ReaderWriterLock: @unchecked Sendable {
  private let core = ReaderWriterLockCore<ProgramWord>()

  /// A free lock.
  public init() {}

  /// Runs the body while no writer is in.
  public func withReadLock<R, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
    core.readLock()
    defer { core.readUnlock() }
    return try body()
  }

  /// Runs the body while nobody else is in.
  public func withWriteLock<R, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
    core.writeLock()
    defer { core.writeUnlock() }
    return try body()
  }
}

/// A count of units.
public final class Semaphore: @unchecked Sendable {
  private let core: SemaphoreCore<ProgramWord>

  /// A semaphore with that many units.
  public init(_ units: Int = 0) { core = SemaphoreCore(units) }

  /// Takes a unit; sleeps while there is none. False: the deadline passed first, and nothing was taken.
  @discardableResult public func wait(until deadline: Deadline = .never) -> Bool {
    core.wait(until: deadline) == .woken
  }
  /// Takes a unit if there is one, and says whether.
  public func tryWait() -> Bool { core.tryWait() }
  /// Adds units.
  public func post(_ units: Int = 1) { core.post(units) }
  /// How many units there are; a hint.
  public var count: Int { core.count }

  /// A unit of it, as something to wait for among others.
  public var source: WaitSource { WaitSource(waiters: core.waiters, owner: self) { self.core.tryWait() } }
}

/// Threads that wait for whatever they say.
public final class WaitQueue: @unchecked Sendable {
  private let core = WaitQueueCore<ProgramWord>()

  /// An empty queue.
  public init() {}

  /// Sleeps as long as the condition holds; it is looked at before sleeping and after every wake, so who makes it false must then
  /// wake. False: the deadline passed first.
  @discardableResult public func wait(until deadline: Deadline = .never, while condition: () -> Bool) -> Bool {
    core.wait(until: deadline, while: condition) == .woken
  }
  /// Wakes the thread that has waited longest.
  public func wakeOne() { core.wakeOne() }
  /// Wakes all that wait now.
  public func wakeAll() { core.wakeAll() }

  /// The condition's being true, as something to wait for among others: who makes it true must then wake.
  public func source(when condition: @escaping () -> Bool) -> WaitSource {
    // SAFETY: the source keeps the queue alive, and objects do not move.
    WaitSource(waiters: withUnsafePointer(to: core) { $0 }, owner: self, attempt: condition)
  }
}
