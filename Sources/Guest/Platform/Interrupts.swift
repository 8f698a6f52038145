// Masking interrupts and preemption on the current CPU.
//
// kvm_pvm has no usable RFLAGS.IF: a byte in the per-CPU area is the flag, and an interrupt that came while it was 0
// needs an exit to be delivered. Hardware has cli and sti.
import Base
import Instructions

/// The maskable interrupts of the current CPU.
public enum Interrupts {
  /// Disables them; says whether they were enabled. Nests by handing that to `restore`.
  @inline(__always) public static func disable() -> Bool {
    #if HOSTED
      let wasEnabled = per_cpu_interrupt_flag() == 0  // inverted there, so that a new host thread starts "enabled"
      per_cpu_set_interrupt_flag(1)
      return wasEnabled
    #else
      let wasEnabled = areEnabled
      if platformIsPVM { instruction_pvm_disable_interrupts() } else { instruction_cli() }
      return wasEnabled
    #endif
  }

  /// Enables them if `wasEnabled`.
  @inline(__always) public static func restore(_ wasEnabled: Bool) {
    if wasEnabled { enable() }
  }

  /// Enables them; those that wait are delivered before this returns.
  @inline(__always) public static func enable() {
    #if HOSTED
      per_cpu_set_interrupt_flag(0)
    #else
      if platformIsPVM { instruction_pvm_enable_interrupts() } else { instruction_sti() }
    #endif
  }

  /// Whether they are enabled.
  @inline(__always) public static var areEnabled: Bool {
    #if HOSTED
      per_cpu_interrupt_flag() == 0
    #else
      platformIsPVM ? per_cpu_interrupt_flag() != 0 : instruction_pushf() & TrapFrame.interruptFlag != 0
    #endif
  }
}

/// Keeping the current thread on its CPU and running, with interrupts served.
public enum Preemption {
  /// Preemption stays off until as many calls of `enable`.
  @inline(__always) public static func disable() { per_cpu_preemption_disable() }

  /// Undoes one `disable`; the last gives the CPU away if somebody asked for that meanwhile.
  @inline(__always) public static func enable() {
    per_cpu_preemption_enable()
    if per_cpu_preemption_count() == 0 && per_cpu_reschedule() != 0 { Preemption.check() }
  }

  /// Undoes one `disable` and never gives the CPU away; for code that is about to do so itself.
  @inline(__always) public static func enableWithoutCheck() { per_cpu_preemption_enable() }

  /// How many `disable` are open. Interrupt handlers run with one.
  @inline(__always) public static var count: UInt32 {
    get { per_cpu_preemption_count() }
    set { per_cpu_set_preemption_count(newValue) }
  }

  /// Whether somebody should run instead of the current thread: looked at when an interrupt returns and when preemption is
  /// enabled. Set for the current CPU (for another one, send it `BootVectors.wake`), cleared by the scheduler.
  @inline(__always) public static var isRequested: Bool {
    get { per_cpu_reschedule() != 0 }
    set { per_cpu_set_reschedule(newValue ? 1 : 0) }
  }

  /// Gives the CPU away now if that was asked for and may be done.
  @inline(never) public static func check() {
    guard per_cpu_preemption_count() == 0, Interrupts.areEnabled else { return }
    let wasEnabled = Interrupts.disable()
    if isRequested { Upcalls.callPreempt() }
    Interrupts.restore(wasEnabled)
  }
}
