// Read-copy-update for programs: readers take no lock, write to no line that another CPU writes to, and may sleep.
//
// What readers reach is replaced as a whole; the old is destroyed once no reader can be looking at it any more.
import Base
import Locks

/// Reading without locks.
public enum RCU {
  /// Calls that are put off until readers are gone; more than this are made by whoever adds the next.
  private static var most: Int { 64 }

  // SAFETY: `later` is touched with `mutex`; the sections' words are atomic.
  private final class State: @unchecked Sendable {
    let sections: ReadSectionsCore<ProgramWord>
    let mutex = Mutex()
    var later: [() -> Void] = []

    init() {
      let cpus = CPUs.count
      let count = cpus &* ReadSectionsCore<ProgramWord>.stride
      let memory = UnsafeMutableRawPointer.allocate(byteCount: count &* 8, alignment: 64)
      // SAFETY: fresh memory of that size, never freed.
      sections = ReadSectionsCore(
        counters: memory.bindMemory(to: ProgramWord.self, capacity: count), cpuCount: cpus)
    }
  }
  private static let state = State()

  /// Runs the body as a reader: what it reaches through pointers that it loads stays as it is until it returns. It may sleep, and
  /// read within itself; it must not `synchronize`.
  public static func read<R, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
    let section = state.sections.enter()
    defer { state.sections.leave(section) }
    return try body()
  }

  /// Returns when every reader that was under way has ended.
  public static func synchronize() { state.sections.synchronize() }

  /// Puts a call off until every reader that is under way now has ended. The call is made by some thread that calls `later` or
  /// `barrier`, so this may sleep, and must not be called with a lock that such calls take.
  public static func later(_ body: @escaping () -> Void) {
    let count = state.mutex.withLock {
      state.later.append(body)
      return state.later.count
    }
    if count >= most { barrier() }
  }

  /// Makes all calls that were put off before.
  public static func barrier() {
    let calls = state.mutex.withLock {
      let calls = state.later
      state.later = []
      return calls
    }
    if calls.isEmpty { return }
    state.sections.synchronize()
    for call in calls { call() }
  }
}

// SAFETY: the pointer is an atomic word; writers come one after the other, by `writers`.
/// A value that is read without a lock and replaced as a whole.
public final class RCUPointer<Value>: @unchecked Sendable {
  private let pointer: RCUPointerCore<ProgramWord, Value>
  private let writers = Mutex()

  /// With that value to begin with.
  public init(_ value: Value) { pointer = RCUPointerCore(Self.box(value)) }

  deinit {
    guard let last = pointer.load() else { return }
    last.deinitialize(count: 1)
    last.deallocate()
  }

  private static func box(_ value: Value) -> UnsafeMutablePointer<Value> {
    let box = UnsafeMutablePointer<Value>.allocate(capacity: 1)
    box.initialize(to: value)
    return box
  }

  /// Gives the body the value as it is now, as a reader (`RCU.read`).
  public func read<R, E: Error>(_ body: (borrowing Value) throws(E) -> R) throws(E) -> R {
    // SAFETY: there is always a value, which is not freed while a reader is under way.
    try RCU.read { () throws(E) in try body(pointer.load().unsafelyUnwrapped.pointee) }
  }

  /// Replaces the value; the old one is destroyed when its readers are gone.
  public func replace(with value: Value) { update { _ in value } }

  /// Replaces the value by what the body makes of it; writers come one after the other.
  public func update(_ body: (borrowing Value) -> Value) {
    let old = writers.withLock {
      // SAFETY: as above; no other writer is here.
      pointer.replace(Self.box(body(pointer.load().unsafelyUnwrapped.pointee))).unsafelyUnwrapped
    }
    RCU.later {
      old.deinitialize(count: 1)
      old.deallocate()
    }
  }
}
