// A lock for threads of the program: one atomic word, the kernel only when somebody must wait.
//
// The word lies wherever the lock does; the kernel waits on words of program memory only, so a lock that is part of
// the image (a global) yields instead of sleeping.
import Base
import Synchronization

/// A mutual-exclusion lock. Not recursive, not fair.
public struct Lock: ~Copyable {
  private let state = Atomic<UInt32>(0)

  /// An open lock.
  public init() {}

  /// Waits until the lock is open, and closes it.
  public borrowing func lock() {
    if state.compareExchange(expected: 0, desired: 1, ordering: .acquiring).exchanged { return }
    // 2: closed, and somebody may be waiting.
    while state.exchange(2, ordering: .acquiring) != 0 { waitWhile(2) }
  }

  /// Opens the lock, which the caller has closed.
  public borrowing func unlock() {
    if state.exchange(0, ordering: .releasing) == 2 { wake() }
  }

  /// Runs `body` with the lock closed.
  public borrowing func withLock<Result, Failure: Error>(_ body: () throws(Failure) -> Result) throws(Failure) -> Result
  {
    lock()
    defer { unlock() }
    return try body()
  }

  private borrowing func waitWhile(_ value: UInt32) {
    withWord { address in
      if isProgramMemory(address) {
        _ = call(Call.futex, argument(address), Futex.wait, value.int, 0)
      } else {
        sleep(nanoseconds: 50_000)
      }
    }
  }

  private borrowing func wake() {
    withWord { address in
      if isProgramMemory(address) { _ = call(Call.futex, argument(address), Futex.wake, 1) }
    }
  }

  private borrowing func withWord(_ body: (UnsafeRawPointer) -> Void) {
    // SAFETY: the address of an Atomic is stable while it is borrowed, and only the kernel looks through it.
    withUnsafePointer(to: state) { body(UnsafeRawPointer($0)) }
  }
}

/// futex operations.
enum Futex {
  static let wait = 128
  static let wake = 129
}
