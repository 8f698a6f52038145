// RCU's readers in unit tests on the host: who waits for a grace period waits until none is left that was under way.
//
// Readers count themselves in at the counter of the phase that they have read, and out at the same one; they nest. Who waits sees each counter
// at 0 once, and begins another phase between the two looks: so readers that come later, however many and without a pause, do not keep it. One
// that has read the phase before such a change and counts itself in after the look at its counter reads what it reads after that look, and
// so after what the waiter has unlinked before. All orders are sequentially consistent: nobody measures this.
#if HOSTED
  import Glibc
  import Synchronization

  /// Readers of the host's threads.
  public enum HostedReaders {
    private static let phase = Atomic<Int>(0)
    private static let even = Atomic<Int>(0)
    private static let odd = Atomic<Int>(0)
    // SAFETY: a global is never moved, and a lock is made to be shared.
    nonisolated(unsafe) private static var waiters = pthread_mutex_t()

    /// Begins a reader; what it returns is given to `leave`.
    static func enter() -> Int {
      let parity = phase.load(ordering: .sequentiallyConsistent) & 1
      if parity == 0 {
        even.add(1, ordering: .sequentiallyConsistent)
      } else {
        odd.add(1, ordering: .sequentiallyConsistent)
      }
      return parity
    }

    static func leave(_ parity: Int) {
      if parity == 0 {
        even.subtract(1, ordering: .sequentiallyConsistent)
      } else {
        odd.subtract(1, ordering: .sequentiallyConsistent)
      }
    }

    /// Returns when every reader that was under way has ended. Not for a reader.
    public static func wait() {
      pthread_mutex_lock(&waiters)
      let parity = phase.load(ordering: .sequentiallyConsistent) & 1
      waitUntilEmpty(1 - parity)
      phase.add(1, ordering: .sequentiallyConsistent)
      waitUntilEmpty(parity)
      pthread_mutex_unlock(&waiters)
    }

    private static func waitUntilEmpty(_ parity: Int) {
      var looks = 0
      while !isEmpty(parity) {
        looks += 1
        if looks < 100 { sched_yield() } else { usleep(50) }
      }
    }

    private static func isEmpty(_ parity: Int) -> Bool {
      (parity == 0 ? even.load(ordering: .sequentiallyConsistent) : odd.load(ordering: .sequentiallyConsistent)) == 0
    }

    /// Whether no reader is left that was under way; waits for none.
    public static var areGone: Bool { isEmpty(0) && isEmpty(1) }
  }
#endif
