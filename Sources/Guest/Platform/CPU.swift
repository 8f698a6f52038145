// CPUs: numbers, what each keeps for itself, and how the others are started.
//
// A field of the current CPU is one instruction relative to GS; its value may be another CPU's a moment later unless
// preemption or interrupts are disabled.
import Base
import Instructions
import VirtioABI

/// The processors of the virtual machine.
public enum CPU {
  /// The most CPUs there can be.
  public static let limit: Int = 64

  /// The number of the current CPU, 0 to `count` - 1.
  @inline(__always) public static var current: Int { per_cpu_index().int }

  /// How many CPUs there are.
  @inline(__always) public static var count: Int { cpuCount }

  /// The running thread, an object of the module Threads; of no meaning before there are threads. Survives a migration,
  /// since the value moves with the thread. The way back from system calls looks at its word at THREAD_PARK_WORD.
  @inline(__always) public static var currentThread: UnsafeMutableRawPointer? {
    get { per_cpu_current_thread() }
    set { per_cpu_set_current_thread(newValue) }
  }

  /// The end of the running thread's kernel stack (`kernelStackByteCount` bytes, 16-byte aligned): where entries from the
  /// program put their frame, and how the kernel knows itself. Set with interrupts disabled, right before a switch.
  @inline(__always) public static var kernelStackTop: VirtualAddress {
    get { VirtualAddress(per_cpu_kernel_stack_top()) }
    set { per_cpu_set_kernel_stack_top(newValue.rawValue) }
  }

  /// Bytes of every kernel stack.
  public static let kernelStackByteCount: UInt64 = 0x4000

  /// One of 16 pointers that each CPU keeps for the modules above (see `CPUSlot` for who has which).
  @inline(__always) public static func slot(_ slot: CPUSlot) -> UnsafeMutableRawPointer? {
    per_cpu_slot(slot.rawValue)
  }
  /// Sets one of them, on the current CPU.
  @inline(__always) public static func setSlot(_ slot: CPUSlot, _ value: UnsafeMutableRawPointer?) {
    per_cpu_set_slot(slot.rawValue, value)
  }

  /// Whether an interrupt handler is running: nothing may sleep then.
  @inline(__always) public static var isInInterrupt: Bool { per_cpu_in_interrupt() != 0 }
}

/// Who has which per-CPU pointer.
public enum CPUSlot: UInt64 {
  /// The scheduler's run queue.
  case scheduler = 0
  /// The idle thread.
  case idleThread = 1
  /// Magazines of the frame allocator.
  case frames = 2
  /// Magazines of the kernel heap.
  case heap = 3
  /// The active address space.
  case addressSpace = 4
  /// Read-copy-update.
  case rcu = 5
  /// Timers.
  case timers = 6
  /// Free for tests.
  case test = 15
}

// SAFETY: set once, by the boot CPU before there is another.
nonisolated(unsafe) var cpuCount: Int = 1
