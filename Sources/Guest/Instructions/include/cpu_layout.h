// Offsets that assembly, C and Swift must agree on: the per-CPU area, the trap frame, kernel stacks.
// Read by the assembler too: preprocessor definitions only.
#pragma once

// The per-CPU area. GS base always holds its address, in programs and in the kernel alike.
// +0 is the interrupt-flag record of kvm_pvm; +0x4000 the end of the stack on which all but NMI and double fault
// arrive (so that `rsp & -0x4000` on it is the area); two more pieces of 16 KiB hold the stacks of those two, each with a pointer
// to the area at its very end. The lowest page of each stack's piece that could be reached by an overflow is not mapped
// (BootInformation.perCPUGuards).
#define PER_CPU_INTERRUPT_FLAG 0x000    // u8, kvm_pvm: 1 = maskable interrupts enabled
#define PER_CPU_INTERRUPT_PENDING 0x001 // u8, kvm_pvm: an interrupt waits while the flag is 0
#define PER_CPU_FAULT_ADDRESS 0x008     // u64, kvm_pvm: CR2
#define PER_CPU_SELF 0x800              // the area's own address
#define PER_CPU_KERNEL_STACK_TOP 0x808  // u64, end of the current thread's kernel stack
#define PER_CPU_INDEX 0x810             // u32, the CPU's number
#define PER_CPU_PLATFORM 0x814          // u32, a BootPlatform
#define PER_CPU_PREEMPTION_COUNT 0x818  // u32, 0 = may be preempted
#define PER_CPU_RESCHEDULE 0x81c        // u32, not 0 = somebody should run instead
#define PER_CPU_CURRENT_THREAD 0x820    // pointer, of the module Threads
#define PER_CPU_GATE 0x828              // entry address of system calls from code that made a function call
#define PER_CPU_SCRATCH 0x830           // u64, RSP during system-call entry
#define PER_CPU_RELEASE 0x838           // u64, a waiting secondary CPU starts on the stack that is stored here
#define PER_CPU_RELEASE_ENTRY 0x840     // u64, the function it calls
#define PER_CPU_IN_INTERRUPT 0x848      // u32, not 0 = an interrupt handler runs
#define PER_CPU_ADOPTED 0x850          // u64, interrupts that adopted the frame on its way back
#define PER_CPU_JUMP 0x858              // entry address of system calls from rewritten sites
#define PER_CPU_NOBODY 0x860            // two zero words: what CURRENT_THREAD points to before there are threads
#define PER_CPU_LEAF 0x870              // entry address of system calls from rewritten leaf stubs
#define PER_CPU_SLOTS 0x880             // 16 pointers for the modules above
#define PER_CPU_FLUSH 0x900             // three u64: flushes requested by other CPUs, done, and who sleeps for them
#define PER_CPU_INTERRUPT_STACK_END 0x4000
#define PER_CPU_NMI_STACK_END 0x7ff0
#define PER_CPU_DOUBLE_FAULT_STACK_END 0xbff0
#define PER_CPU_AREA_POINTER 0x3ff8 // behind `rsp & -0x4000` on those two stacks: the area's address
#define PER_CPU_SIZE 0xc000

#define KERNEL_STACK_SIZE 0x4000

// The trap frame, the same for interrupts, exceptions and system calls.
#define FRAME_VECTOR 16
#define FRAME_ERROR 24
#define FRAME_R15 32
#define FRAME_R14 40
#define FRAME_R13 48
#define FRAME_R12 56
#define FRAME_R11 64
#define FRAME_R10 72
#define FRAME_R9 80
#define FRAME_R8 88
#define FRAME_RBP 96
#define FRAME_RDI 104
#define FRAME_RSI 112
#define FRAME_RDX 120
#define FRAME_RCX 128
#define FRAME_RBX 136
#define FRAME_RAX 144 // directly below RIP: the return pops RAX and is then at the frame of iretq
#define FRAME_RIP 152
#define FRAME_CS 160
#define FRAME_RFLAGS 168
#define FRAME_RSP 176
#define FRAME_SS 184
#define FRAME_SIZE 192

#define VECTOR_SYSTEM_CALL 0x100 // by the syscall instruction
#define VECTOR_GATE 0x101        // by a jump, from code that made a function call
#define VECTOR_JUMP 0x102        // by a jump, from a rewritten site
#define VECTOR_LEAF 0x103        // by a jump, from a rewritten site in a leaf stub: its caller made a function call

// Bits of RFLAGS.
#define FLAG_DIRECTION 0x400
#define FLAG_OVERFLOW 0x800
#define FLAG_ALIGNMENT_CHECK 0x40000

// What entries look at in a thread's control block: the word that says whether the thread is interrupted or has something else to
// hear before it goes on in its program, and the bits.
#define THREAD_PARK_WORD 0
#define THREAD_INTERRUPTED 8
#define THREAD_NOTICED 16

// Selectors of the GDT that the monitor made. On kvm_pvm everything runs at hardware CPL 3 and returns by an
// ordinary ring-3 iretq; on hardware everything runs at CPL 0.
#define SELECTOR_KERNEL_CODE 0x10
#define SELECTOR_KERNEL_DATA 0x18
#define SELECTOR_NATIVE_CODE 0x33
#define SELECTOR_NATIVE_DATA 0x2b

#define PLATFORM_HARDWARE 0
#define PLATFORM_PVM 1

#define HYPERCALL_WRITE_CR3 0x1001
#define HYPERCALL_WRITE_MSR 0x1003
#define HYPERCALL_FLUSH_ALL 0x1007
#define HYPERCALL_FLUSH_ONE 0x1008
#define HYPERCALL_NONE 0x1fff // unknown on purpose: the cheapest exit, at which pending interrupts are delivered
