// Switching kernel stacks: what a thread switch comes down to. The same on the host, where stacks are fibers.
import Base
import Instructions

/// A kernel stack that does not run: where its RSP is, above the callee-saved registers.
public struct SavedStack {
  /// RSP.
  public var stackPointer: UInt64
  /// Nothing saved yet: for the stack that runs now, filled in by the first switch away from it.
  public init() { stackPointer = 0 }
  fileprivate init(_ stackPointer: UInt64) { self.stackPointer = stackPointer }
}

/// Kernel stacks and switches between them.
public enum ContextSwitch {
  /// What a kernel thread runs; it must not return.
  public typealias Entry = @convention(c) (UnsafeMutableRawPointer?) -> Void

  /// Leaves the running stack, saved to `from`, for `to`; returns when somebody switches back. Interrupts must be disabled,
  /// and are so in the code switched to: a new thread enables them itself. `CPU.kernelStackTop` and the thread pointer are
  /// the caller's business, before the switch.
  @inline(__always) public static func run(
    from: UnsafeMutablePointer<SavedStack>, to: UnsafePointer<SavedStack>
  ) {
    // SAFETY: SavedStack is one UInt64.
    context_switch(
      UnsafeMutableRawPointer(from).assumingMemoryBound(to: UInt64.self),
      UnsafeRawPointer(to).assumingMemoryBound(to: UInt64.self))
  }

  /// Prepares a stack (its end, 16-byte aligned) that runs `entry(argument)` when first switched to.
  public static func prepare(
    stackTop: VirtualAddress, entry: @escaping Entry, argument: UnsafeMutableRawPointer?
  ) -> SavedStack {
    // SAFETY: the caller owns the stack; this writes 64 bytes below its end.
    let words = (stackTop - 64).unsafePointer.assumingMemoryBound(to: UInt64.self)
    words[0] = 0  // r15
    words[1] = 0  // r14
    words[2] = UInt(bitPattern: argument).u64  // r13
    words[3] = address(of: entry)  // r12
    words[4] = 0  // rbx
    words[5] = 0  // rbp
    words[6] = address(of: context_start as @convention(c) () -> Void)  // the return address
    words[7] = 0
    return SavedStack(stackTop.rawValue &- 64)
  }

  #if GUEST
    /// Where the frame of a thread that runs a program lies: at the top of its kernel stack, always.
    @inline(__always) public static func programFrame(
      stackTop: VirtualAddress
    ) -> UnsafeMutablePointer<TrapFrame> {
      // SAFETY: entries from the program put the frame there and nowhere else.
      (stackTop - TrapFrame.byteCount).unsafePointer.assumingMemoryBound(to: TrapFrame.self)
    }

    /// Prepares a stack that enters a program when first switched to: with the registers of `programFrame(stackTop:)`,
    /// which the caller fills in (CS and SS are set here).
    public static func prepareProgram(stackTop: VirtualAddress) -> SavedStack {
      // SAFETY: as above; 56 bytes below the frame.
      let words = (stackTop - TrapFrame.byteCount - 56).unsafePointer.assumingMemoryBound(to: UInt64.self)
      for index in 0..<6 { words[index] = 0 }
      words[6] = UInt(bitPattern: address_of_trap_return_checked()).u64
      return SavedStack(stackTop.rawValue &- TrapFrame.byteCount &- 56)
    }

    /// Leaves the kernel for the program whose registers are in `programFrame` of the running thread's stack.
    public static func enterProgram() -> Never {
      _ = Interrupts.disable()
      context_enter_program(CPU.kernelStackTop.rawValue &- TrapFrame.byteCount)
    }
  #endif
}

extension trap_frame {
  /// Bytes of a frame.
  public static let byteCount: UInt64 = 192
}

private func address(of function: ContextSwitch.Entry) -> UInt64 {
  // SAFETY: a C function pointer is an address.
  UInt(bitPattern: unsafeBitCast(function, to: UnsafeRawPointer.self)).u64
}
private func address(of function: @convention(c) () -> Void) -> UInt64 {
  // SAFETY: a C function pointer is an address.
  UInt(bitPattern: unsafeBitCast(function, to: UnsafeRawPointer.self)).u64
}
