// Waiting for an interrupt.
import Instructions

/// Sleeping until something happens.
public enum Idle {
  /// Enables interrupts and halts, without a gap between the two. To be called with interrupts disabled, after a last
  /// look for work; returns with interrupts enabled, after an interrupt or, now and then, for no reason.
  public static func wait() {
    #if HOSTED
      Interrupts.enable()
    #else
      if platformIsPVM { idle_pvm() } else { idle_hardware() }
    #endif
  }
}
