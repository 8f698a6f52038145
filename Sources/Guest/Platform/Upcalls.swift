// The calls upwards: what Platform asks of the layers above it, through a table that Kernel fills at boot.
//
// They are C function pointers: a call is a load and a jump, with no reference counting. None is optional once
// interrupts are on in a system that runs programs; before that, an event without an upcall is a panic.
//
// SAFETY of all: each is set before anything can call it: `preempt` before a second CPU schedules, the others before the
// first program runs. The self-tests' are set and taken back while no program runs. A C function pointer is an address and
// nothing else.
import Base
import Instructions

/// The table.
public enum Upcalls {
  /// A page fault at `address` (frame.error has the CPU's error code). True: repeat the instruction. False: the program
  /// gets `exception`; kernel code goes to its fixup, and without one the kernel panics. Runs on the thread's kernel stack,
  /// interrupts as they were; called only where it may sleep, or in programs.
  nonisolated(unsafe) public static var pageFault: (@convention(c) (UnsafeMutablePointer<TrapFrame>, UInt64) -> Bool)? =
    nil
  /// The program did something wrong (vector, error; `address` for page faults): make it a signal. Interrupts are enabled.
  nonisolated(unsafe) public static var exception: (@convention(c) (UnsafeMutablePointer<TrapFrame>, UInt64) -> Void)? =
    nil
  /// A system call; its result goes to frame.rax. Interrupts are enabled, preemption too.
  nonisolated(unsafe) public static var systemCall: (@convention(c) (UnsafeMutablePointer<TrapFrame>) -> Void)? = nil {
    didSet {
      #if GUEST
        set_system_call_handler(unsafeBitCast(systemCall, to: UnsafeMutableRawPointer?.self))
      #endif
    }
  }
  /// A system call has come by the instruction and is about to be served: it may be made cheaper for the next time.
  /// Interrupts are enabled, preemption too.
  nonisolated(unsafe) public static var systemCallTrap: (@convention(c) (UnsafeMutablePointer<TrapFrame>) -> Void)? =
    nil
  /// The program is about to go on: deliver signals, end the thread. Called with interrupts disabled and returns so, with
  /// nothing left to do, but may enable them and sleep meanwhile.
  nonisolated(unsafe) public static var returnToProgram: (@convention(c) (UnsafeMutablePointer<TrapFrame>) -> Void)? =
    nil
  /// A fault of the kernel's own that nothing can resolve: what is known about the address. Nil without a debugging heap.
  nonisolated(unsafe) public static var explainFault: ((UInt64) -> PanicExplanation?)? = nil
  /// Run somebody else (`Preemption.isRequested`). Called and returns with interrupts disabled, when the thread goes on.
  nonisolated(unsafe) public static var preempt: (@convention(c) () -> Void)? = nil

  @inline(__always) static func callPreempt() {
    if let preempt { preempt() } else { Preemption.isRequested = false }
  }
}
