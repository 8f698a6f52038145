// A system call in progress: its arguments, and how a handler says what came out.
//
// Handlers are methods of `SystemCall`, one file a subject. They return the value for RAX or throw the error. Rules: a
// handler runs on the thread's kernel stack with interrupts and preemption on, may sleep, holds nothing when it
// returns, and touches program memory only through UserSpan and Transfer.
import Base
import Memory
import Platform

/// One call of the running thread.
struct SystemCall {
  /// The program's registers.
  let frame: UnsafeMutablePointer<TrapFrame>
  /// Who calls. The thread keeps it alive, so nothing is counted here.
  let reference: Unmanaged<Task>

  /// Who calls; holding on to it costs a count.
  @inline(__always) var task: Task { reference._withUnsafeGuaranteedRef { $0 } }
  /// The caller's process, likewise.
  @inline(__always) var process: Process { reference._withUnsafeGuaranteedRef { $0.process } }

  /// Looks at the caller without counting.
  @inline(__always) func withTask<R>(_ body: (Task) -> R) -> R { reference._withUnsafeGuaranteedRef(body) }
  /// Looks at the caller's process without counting.
  @inline(__always) func withProcess<R>(_ body: (Process) -> R) -> R {
    reference._withUnsafeGuaranteedRef { $0.processReference._withUnsafeGuaranteedRef(body) }
  }

  // SAFETY: the frame lies on the kernel stack of the running thread until the call returns.
  @inline(__always) var argument0: UInt64 { frame.pointee.rdi }
  @inline(__always) var argument1: UInt64 { frame.pointee.rsi }
  @inline(__always) var argument2: UInt64 { frame.pointee.rdx }
  @inline(__always) var argument3: UInt64 { frame.pointee.r10 }
  @inline(__always) var argument4: UInt64 { frame.pointee.r8 }
  @inline(__always) var argument5: UInt64 { frame.pointee.r9 }

  @inline(__always) var address0: VirtualAddress { VirtualAddress(argument0) }
  @inline(__always) var address1: VirtualAddress { VirtualAddress(argument1) }
  @inline(__always) var address2: VirtualAddress { VirtualAddress(argument2) }
  @inline(__always) var address3: VirtualAddress { VirtualAddress(argument3) }
  @inline(__always) var address4: VirtualAddress { VirtualAddress(argument4) }

  /// A descriptor argument: the low 32 bits, as a signed number.
  @inline(__always) var descriptor: Int { argument0.i32.int }

  /// A byte count that fits into a transfer: Linux cuts larger ones off at this (MAX_RW_COUNT).
  @inline(__always) static func byteCount(_ argument: UInt64) -> Int { min(argument, 0x7fff_f000).int }
}

extension VirtualAddress {
  /// NULL.
  @inline(__always) var isNull: Bool { rawValue == 0 }
}
