// Telling the interrupt controller that an interrupt has been taken.
//
// Hardware has to be told. The kvm_pvm that we know has done so itself when it delivers an interrupt, and then telling it is an exit for
// nothing (1 us; 5 us where that KVM runs on another hypervisor). No document promises that, so it is found out: the first interrupts are looked up
// among those in service (Intel SDM 3, 11.8.4). If any of them is there, each is told from then on; if none is, none is looked up or told any more.
// To look one up costs what telling costs. What programs make (`int n`) is no interrupt there: it ends as an exception.
#if GUEST
  import Base
  import Instructions
  import Synchronization
  import VirtioABI

  enum EndOfInterrupt {
    /// Interrupts that are looked up.
    private static var trialCount: UInt32 { 64 }
    /// Register of the first 32 vectors in service; seven more follow.
    private static var inService: UInt32 { 0x810 }

    /// The interrupt of that vector has been taken. With interrupts disabled, before it is served.
    @inline(__always) static func tell(_ vector: UInt32) {
      if vector == BootVectors.spurious { return }
      if platformIsPVM && !endOfInterruptIsNeeded.load(ordering: .relaxed) && isEnded(vector) { return }
      ModelSpecificRegister.write(.endOfInterrupt, 0)
    }

    @inline(__always) private static func isEnded(_ vector: UInt32) -> Bool {
      endOfInterruptTrials.load(ordering: .relaxed) >= trialCount || lookUp(vector)
    }

    @inline(never) private static func lookUp(_ vector: UInt32) -> Bool {
      let bits = instruction_rdmsr(inService &+ vector &>> 5)
      if bits &>> (vector & 31).u64 & 1 != 0 {
        endOfInterruptIsNeeded.store(true, ordering: .relaxed)
        return false
      }
      if interruptEntries[vector.int].handler != nil { endOfInterruptTrials.add(1, ordering: .relaxed) }
      return true
    }
  }

  /// Set for good by the first interrupt that is found in service.
  private let endOfInterruptIsNeeded = Atomic<Bool>(false)
  /// Interrupts that have been looked up and were not in service.
  private let endOfInterruptTrials = Atomic<UInt32>(0)
#endif
