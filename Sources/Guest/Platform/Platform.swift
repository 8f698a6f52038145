// Platform: the KVMs behind one interface. One image runs on hardware KVM and on kvm_pvm; which of them this is stands in
// the boot information and decides, once, how interrupts are masked, model-specific registers written and translations
// flushed. Nothing above this module knows. It calls upwards only through `Upcalls` and `InterruptTable`.
//
// For the host, the same names are working fakes: one CPU a thread, the host's clock, counters where hardware would act.
import Base
import Instructions
import VirtioABI

/// Which KVM the kernel runs on.
public enum Platform {
  /// Whether this is the software-virtualised kvm_pvm (else it is hardware, or the host's unit tests).
  @inline(__always) public static var isPVM: Bool { platformIsPVM }

  /// The name of the KVM, for people.
  public static var name: StaticString {
    #if HOSTED
      "host"
    #else
      isPVM ? "kvm_pvm (software)" : "hardware KVM"
    #endif
  }
}

// SAFETY: set once, by the boot CPU before there is another.
nonisolated(unsafe) var platformIsPVM: Bool = false
