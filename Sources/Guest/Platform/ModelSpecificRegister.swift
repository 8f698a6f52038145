// Model-specific registers: a hypercall on kvm_pvm (half the price of the trap), wrmsr on hardware.
#if GUEST
  import Base
  import Instructions

  enum ModelSpecificRegister: UInt32 {
    case timerDeadline = 0x6e0
    case endOfInterrupt = 0x80b
    case spuriousVector = 0x80f
    case interruptCommand = 0x830
    case timerVector = 0x832

    @inline(__always) static func write(_ register: ModelSpecificRegister, _ value: UInt64) {
      if platformIsPVM {
        _ = instruction_hypercall(0x1003, register.rawValue.u64, value)
      } else {
        instruction_wrmsr(register.rawValue, value)
      }
    }
  }
#endif
