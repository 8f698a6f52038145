// RCU's readers in unit tests on the host: who waits for a grace period waits until none is left.
#if HOSTED
  import Glibc

  /// Readers of the host's threads. They hold a reader-writer lock of the host's, which lets readers in while others wait for writing: they nest.
  public enum HostedReaders {
    // SAFETY: a global is never moved, and a lock is made to be shared.
    nonisolated(unsafe) private static var lock = pthread_rwlock_t()

    static func enter() { pthread_rwlock_rdlock(&lock) }
    static func leave() { pthread_rwlock_unlock(&lock) }

    /// Returns when every reader that was under way has ended. Not for a reader.
    public static func wait() {
      pthread_rwlock_wrlock(&lock)
      pthread_rwlock_unlock(&lock)
    }

    /// Whether no reader is under way; waits for none.
    public static var areGone: Bool {
      guard pthread_rwlock_trywrlock(&lock) == 0 else { return false }
      pthread_rwlock_unlock(&lock)
      return true
    }
  }
#endif
