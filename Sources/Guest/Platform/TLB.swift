// Address translation: the root of the page tables, and dropping translations that are no longer right.
//
// A new translation where there was none, or more rights, needs no flush. On kvm_pvm a CPU's own flush drops the
// translation on all CPUs; on hardware the others are called by an interrupt and this waits for them.
import Base
import Instructions

/// The translation caches.
public enum TLB {
  /// Drops the translation of the page at `address` on the current CPU (on kvm_pvm: on all).
  public static func flush(_ address: VirtualAddress) {
    #if HOSTED
      hostedFlushes &+= 1
    #else
      if platformIsPVM {
        _ = instruction_hypercall(0x1008, address.rawValue, 0)
      } else {
        instruction_invlpg(address.rawValue)
      }
    #endif
  }

  /// Drops all translations of the current CPU (on kvm_pvm: all that changed, on all CPUs).
  public static func flushAll() {
    #if HOSTED
      hostedFlushes &+= 1
    #else
      if platformIsPVM {
        _ = instruction_hypercall(0x1007, 0, 0)
      } else {
        instruction_write_cr3(instruction_read_cr3())
      }
    #endif
  }

  /// Whether `flush` and `flushAll` act on all CPUs by themselves.
  @inline(__always) public static var flushesEverywhere: Bool { platformIsPVM }

  /// Drops the translation of the page at `address` on all CPUs, and returns when that is done. With preemption disabled.
  /// On hardware this waits for the others' interrupts: nobody may wait for another CPU with interrupts disabled, except
  /// in here.
  public static func flushEverywhere(_ address: VirtualAddress) {
    flush(address)
    if !flushesEverywhere { RemoteFlush.run() }
  }

  /// Drops the translations of a few pages likewise.
  @inline(__always) public static func flushEverywhere(count: Int, _ address: (Int) -> VirtualAddress) {
    var index = 0
    while index < count {
      flush(address(index))
      index &+= 1
    }
    if !flushesEverywhere { RemoteFlush.run() }
  }

  /// Drops all translations on all CPUs, and returns when that is done. With preemption disabled.
  public static func flushAllEverywhere() {
    flushAll()
    if !flushesEverywhere { RemoteFlush.run() }
  }

  /// Makes `root` (a level-4 table) the current CPU's page tables and drops all older translations.
  public static func setRoot(_ root: PhysicalAddress) {
    #if HOSTED
      hostedRoot = root
    #else
      if platformIsPVM {
        _ = instruction_hypercall(0x1001, root.rawValue, 0)
      } else {
        instruction_write_cr3(root.rawValue)
      }
    #endif
  }

  #if HOSTED
    /// How many flushes there were; what a unit test sees.
    public static var flushCount: Int { hostedFlushes }
    /// The last root set.
    public static var currentRoot: PhysicalAddress { hostedRoot }
  #endif
}

#if HOSTED
  // SAFETY: whole words for unit tests: flushes of several threads at once may be counted as one.
  nonisolated(unsafe) private var hostedFlushes: Int = 0
  nonisolated(unsafe) private var hostedRoot: PhysicalAddress = PhysicalAddress(0)

  enum RemoteFlush {
    static func run(_ cpus: UInt64 = .max) {}
  }
#endif
