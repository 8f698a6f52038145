// The only kind of spin lock the kernel has: held for a few dozen instructions with interrupts off, so that its
// holder cannot be preempted and an interrupt handler may take it too. Nothing may be awaited under it.
import Instructions
import Locks
import Platform
import Synchronization

/// A lock for innermost data that every context may need, or that so many threads share that one which is switched away from while it
/// holds it would have all of them queue.
public struct SpinLock: ~Copyable {
  private let taken = Atomic<Bool>(false)

  /// A free lock.
  public init() {}

  /// Runs `body` with interrupts off and the lock held.
  @inline(__always)
  public func withLock<Result: ~Copyable>(_ body: () -> Result) -> Result {
    let interrupts = Interrupts.disable()
    while taken.exchange(true, ordering: .acquiring) {
      while taken.load(ordering: .relaxed) { instruction_pause() }
    }
    defer {
      taken.store(false, ordering: .releasing)
      Interrupts.restore(interrupts)
    }
    return body()
  }
}
