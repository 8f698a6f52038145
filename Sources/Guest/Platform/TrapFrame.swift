// The trap frame: the registers of the interrupted program or kernel code, on the thread's kernel stack.
import Base
import Instructions

/// What an interrupt, exception or system call saves, and what it returns to. Fields are the registers' names, `vector`
/// and `error`; for system calls RAX is the result and `error` the number that was called.
public typealias TrapFrame = trap_frame

/// How code that was made for it jumps to the kernel: `lea resume(%rip), %rcx; jmp *%gs:pointerOffset`, and the call returns
/// to `resume`.
public enum JumpEntry {
  /// Offset in the per-CPU area of the entry's address.
  public static let pointerOffset: UInt32 = PER_CPU_JUMP.u32
  /// The same for sites in leaf stubs.
  public static let leafPointerOffset: UInt32 = PER_CPU_LEAF.u32
  /// Bytes of the two instructions.
  public static let sequenceByteCount: UInt64 = 15
}

extension trap_frame {
  /// `vector` of a system call made by the instruction.
  public static let systemCallVector: UInt64 = 0x100
  /// `vector` of a system call that came by a jump from code that made a function call: vector registers are dead.
  public static let gateVector: UInt64 = 0x101
  /// `vector` of a system call that came by a jump from a rewritten site: everything but RCX and R11 is live.
  public static let jumpVector: UInt64 = 0x102
  /// `vector` of a system call that came by a jump from a rewritten site in a leaf stub: as `jumpVector`, but vector registers are dead.
  public static let leafVector: UInt64 = 0x103
  /// RFLAGS.IF.
  public static let interruptFlag: UInt64 = 0x200
  /// RFLAGS.TF: a debug exception after each instruction.
  public static let trapFlag: UInt64 = 0x100
  /// The flags that a program may set by sigreturn: CF PF AF ZF SF TF DF OF AC ID.
  public static let programFlags: UInt64 = 0x24_0dd5

  /// Whether interrupts were enabled where this happened.
  @inline(__always) public var interruptsWereEnabled: Bool { rflags & Self.interruptFlag != 0 }
  /// Whether this came by a jump, of any kind: the way back is a jump too.
  @inline(__always) public var isJump: Bool { vector > Self.systemCallVector }
  /// Whether the vector registers are dead: whoever called this way made a function call, behind which, by the ABI, only MXCSR and the
  /// control word of x87 hold what they held, and x87's stack is empty.
  @inline(__always) public var hasDeadVectors: Bool { vector == Self.leafVector || vector == Self.gateVector }
  /// Whether this came by a system call, of either kind.
  @inline(__always) public var isSystemCall: Bool { vector >= Self.systemCallVector }

  /// Whether this interrupted the program: RSP was outside the running thread's kernel stack. (CS cannot tell: programs
  /// run at the kernel's privilege.)
  @inline(__always) public var isFromProgram: Bool {
    CPU.kernelStackTop.rawValue &- rsp >= CPU.kernelStackByteCount
  }

  /// The flags with which a program may go on, whatever `flags` holds: interrupts enabled, nothing privileged.
  @inline(__always) public static func sanitized(flags: UInt64) -> UInt64 {
    flags & programFlags | interruptFlag | 2
  }
}
