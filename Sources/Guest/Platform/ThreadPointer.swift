// FS base: the thread pointer of programs. GS base is the kernel's, always.
import Instructions

/// The FS base register of the current CPU.
public enum ThreadPointer {
  /// Its value; belongs to the running thread.
  @inline(__always) public static var current: UInt64 {
    get {
      #if HOSTED
        hostedThreadPointer
      #else
        instruction_rdfsbase()
      #endif
    }
    set {
      #if HOSTED
        hostedThreadPointer = newValue
      #else
        instruction_wrfsbase(newValue)
      #endif
    }
  }
}

#if HOSTED
  // SAFETY: a whole word, for unit tests: one stands for all threads' registers.
  nonisolated(unsafe) private var hostedThreadPointer: UInt64 = 0
#endif
