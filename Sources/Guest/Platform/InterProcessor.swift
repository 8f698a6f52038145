// Interrupts from CPU to CPU.
import Base
import Instructions
import Synchronization

/// Sending interrupts to CPUs.
public enum InterProcessor {
  /// Interrupts CPU `cpu` (which may be the current one) with `vector`. Dear for the sender: up to 10 us on kvm_pvm if
  /// the other one has to be kicked.
  public static func send(_ vector: UInt32, to cpu: Int) {
    #if HOSTED
      hostedInterruptsSent &+= 1
      hostedLastInterrupt = (vector, cpu)
    #else
      ModelSpecificRegister.write(.interruptCommand, cpu.u64 &<< 32 | vector.u64)
    #endif
  }

  /// Returns when every other running CPU, or every one with a bit in `cpus`, has taken an interrupt since the call: each has executed a full memory barrier, and
  /// fetches its next instructions anew. With preemption disabled and interrupts enabled.
  public static func synchroniseOthers(_ cpus: UInt64 = .max) {
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    RemoteFlush.run(cpus)
    atomicMemoryFence(ordering: .sequentiallyConsistent)
  }

  #if GUEST
    /// Interrupts CPU `cpu` even where it has interrupts disabled (`InterruptTable.nonMaskable`).
    public static func sendNonMaskable(to cpu: Int) {
      ModelSpecificRegister.write(.interruptCommand, cpu.u64 &<< 32 | 0x400)
    }
  #endif

  #if HOSTED
    /// How many interrupts were sent; what a unit test sees.
    public static var sentCount: Int { hostedInterruptsSent }
    /// The last one.
    public static var lastSent: (vector: UInt32, cpu: Int) { hostedLastInterrupt }
  #endif
}

#if HOSTED
  // SAFETY: counts for unit tests: interrupts that several of their threads send at once may be counted as one.
  nonisolated(unsafe) private var hostedInterruptsSent: Int = 0
  nonisolated(unsafe) private var hostedLastInterrupt: (vector: UInt32, cpu: Int) = (0, 0)
#endif
