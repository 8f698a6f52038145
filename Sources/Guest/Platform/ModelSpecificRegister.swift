// Model-specific registers: a hypercall on kvm_pvm (half the price of the trap), wrmsr on hardware. Those of the local interrupt controller
// are memory where a monitor other than osv-run has it in its older form (xAPIC; Intel SDM 3, 11.4 and 11.12): register 0x800 + n is at
// n * 16, and the command takes two writes.
#if GUEST
  import Base
  import Instructions

  enum ModelSpecificRegister: UInt32 {
    case timerDeadline = 0x6e0
    case endOfInterrupt = 0x80b
    case spuriousVector = 0x80f
    case interruptCommand = 0x830
    case timerVector = 0x832
    case timerCount = 0x838
    case timerDivide = 0x83e

    @inline(__always) static func write(_ register: ModelSpecificRegister, _ value: UInt64) {
      if platformIsPVM {
        _ = instruction_hypercall(0x1003, register.rawValue.u64, value)
      } else if let controller = controllerRegisters, register != .timerDeadline {
        store(controller, register, value)
      } else {
        instruction_wrmsr(register.rawValue, value)
      }
    }

    @inline(never) private static func store(
      _ controller: UnsafeMutableRawPointer, _ register: ModelSpecificRegister, _ value: UInt64
    ) {
      // SAFETY: the controller's page, which the bootstrap has mapped uncached for good.
      func set(_ number: Int, _ word: UInt32) {
        instruction_store32(controller + number &* 16, word)
      }
      guard register == .interruptCommand else { return set((register.rawValue &- 0x800).int, value.u32) }
      // Nothing may come between the halves: an interrupt handler may send one itself.
      let wasEnabled = Interrupts.disable()
      set(0x31, (value &>> 32).u32 &<< 24)
      set(0x30, value.u32)
      Interrupts.restore(wasEnabled)
    }
  }

  // SAFETY: set once, by the boot CPU before there is another.
  /// The local interrupt controller's registers where they are memory; nil: they are MSRs.
  nonisolated(unsafe) var controllerRegisters: UnsafeMutableRawPointer? = nil
#endif
