// Entering and leaving the kernel. One trap frame for interrupts, exceptions and system calls, on the thread's kernel
// stack; one way back from it.
//
// Interrupts and exceptions arrive on a stack of the CPU (IST 1) with interrupts off, so that the red zone of whatever ran
// is safe. Their registers are copied to a frame on the thread's kernel stack (below RSP, if the kernel was interrupted)
// and RSP follows: from then on the IST stack is free for the next. "In the kernel" means that RSP lies within the
// thread's kernel stack; CS cannot tell, since programs run at the same privilege.
//
// On kvm_pvm the way back is a plain ring-3 iretq that the CPU executes by itself; the interrupt flag is a byte set right
// before it. An interrupt may arrive between the two, when all registers but RAX are the program's and its iretq frame still
// lies on the kernel stack: such an interrupt adopts that frame instead of building another (the window rule), or else
// interrupts that follow each other closely would pile up frames without bound.
#include "cpu_layout.h"

    .text

// ---- 256 stubs of 16 bytes -----------------------------------------------------------------------------------------
    .globl trap_stubs
    .balign 16
trap_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)
    pushq $0
    .endif
    pushq $vector
    jmp trap_common
    .set vector, vector + 1
    .endr

// All registers to the frame at RAX: three of them lie on the CPU's stack, where trap_common pushed them. Destroys RCX.
    .macro move_registers
    movq 16(%rsp), %rcx
    movq %rcx, FRAME_RAX(%rax)
    movq 8(%rsp), %rcx
    movq %rcx, FRAME_RBX(%rax)
    movq (%rsp), %rcx
    movq %rcx, FRAME_RCX(%rax)
    movq %rdx, FRAME_RDX(%rax)
    movq %rsi, FRAME_RSI(%rax)
    movq %rdi, FRAME_RDI(%rax)
    movq %rbp, FRAME_RBP(%rax)
    movq %r8, FRAME_R8(%rax)
    movq %r9, FRAME_R9(%rax)
    movq %r10, FRAME_R10(%rax)
    movq %r11, FRAME_R11(%rax)
    movq %r12, FRAME_R12(%rax)
    movq %r13, FRAME_R13(%rax)
    movq %r14, FRAME_R14(%rax)
    movq %r15, FRAME_R15(%rax)
    .endm

// ---- Interrupts and exceptions -------------------------------------------------------------------------------------
// On the IST stack: 0 rcx, 8 rbx, 16 rax, 24 vector, 32 error, 40 rip, 48 cs, 56 rflags, 64 rsp, 72 ss.
    .balign 16
    .type trap_common, @function
trap_common:
    pushq %rax
    pushq %rbx
    pushq %rcx
    movq 40(%rsp), %rcx
    movq 64(%rsp), %rax             // the interrupted RSP
    leaq return_window(%rip), %rbx
    subq %rbx, %rcx
    cmpq $(return_iret - return_window), %rcx
    jbe trap_window
trap_outside_window:
    movq %rsp, %rbx
    andq $-0x4000, %rbx             // the per-CPU area
    movq PER_CPU_KERNEL_STACK_TOP(%rbx), %rcx
    subq %rax, %rcx
    cmpq $KERNEL_STACK_SIZE, %rcx
    jb 1f
    // From the program: the frame goes to the end of the kernel stack. But RSP just below the kernel stack, or on a stack
    // of the CPU (where the entry itself faulted), means that the kernel stack is full: there is no way on from that.
    cmpq $2 * KERNEL_STACK_SIZE, %rcx
    jb trap_lost
    movq %rax, %rcx
    subq %rbx, %rcx
    cmpq $PER_CPU_SIZE, %rcx
    jbe trap_lost
    movq PER_CPU_KERNEL_STACK_TOP(%rbx), %rax
    jmp 2f
1:  andq $-16, %rax                 // from the kernel, which has no red zone: below what is in use
2:  subq $FRAME_SIZE, %rax
    movq 72(%rsp), %rcx
    movq %rcx, FRAME_SS(%rax)
    movq 64(%rsp), %rcx
    movq %rcx, FRAME_RSP(%rax)
    movq 56(%rsp), %rcx
    movq %rcx, FRAME_RFLAGS(%rax)
    movq 48(%rsp), %rcx
    movq %rcx, FRAME_CS(%rax)
    movq 40(%rsp), %rcx
    movq %rcx, FRAME_RIP(%rax)
trap_registers:
    movq 32(%rsp), %rcx
    movq %rcx, FRAME_ERROR(%rax)
    movq 24(%rsp), %rcx
    movq %rcx, FRAME_VECTOR(%rax)
    move_registers
    wrgsbase %rbx                   // programs can change it
    movq %rax, %rsp                 // the IST stack is free: interrupts may be enabled from here on
    movq %rax, %rdi
    cld
    testl $0x40000, FRAME_RFLAGS(%rax)
    jnz 4f
3:  call trap_handle                // RBP is as it was: backtraces go on into interrupted kernel code
    jmp trap_return
4:  // The program has alignment checks on (AC); the kernel does not want them.
    pushfq
    andl $~0x40000, (%rsp)
    popfq
    jmp 3b

// RIP is within the way back (RCX = how far). Interrupts adopt the frame there, which RAX points at; of the exceptions only
// one that iretq itself raised, because RIP or the flags to return to are no good: it then looks as if the program had
// raised it there.
trap_window:
    cmpq $(return_iret - return_window), %rcx
    je 1f
    cmpq $32, 24(%rsp)
    jb trap_outside_window
    movq (%rax), %rcx               // RAX is still on the stack
    movq %rcx, 16(%rsp)
    addq $8, %rax
1:  subq $FRAME_RIP, %rax
    movq %rsp, %rbx
    andq $-0x4000, %rbx
    incq PER_CPU_ADOPTED(%rbx)
    jmp trap_registers

// The kernel stack is full. The frame is built on the stack for double faults, for the report.
trap_lost:
    leaq PER_CPU_DOUBLE_FAULT_STACK_END(%rbx), %rax
    subq $FRAME_SIZE, %rax
    .irp offset, 72, 64, 56, 48, 40
    movq \offset(%rsp), %rcx
    movq %rcx, (FRAME_RIP - 40 + \offset)(%rax)
    .endr
    .irp pair, 32, 24
    movq \pair(%rsp), %rcx
    movq %rcx, (FRAME_VECTOR - 24 + \pair)(%rax)
    .endr
    move_registers
    wrgsbase %rbx
    movq %rax, %rsp
    movq %rax, %rdi
    movl $1, %esi
    cld
    call trap_fatal
    ud2

// ---- The way back --------------------------------------------------------------------------------------------------
// New program threads start with a look at what is to be done before they return (RSP = frame).
    .globl trap_return_checked
    .balign 16
trap_return_checked:
    movq %rsp, %rdi
    xorl %ebp, %ebp
    call trap_leave
    jmp trap_return

// context_enter_program(frame)
    .globl context_enter_program
context_enter_program:
    movq %rdi, %rsp
    jmp trap_return_checked

// RSP = frame, interrupts disabled.
    .globl trap_return
    .balign 16
trap_return:
    movq FRAME_R15(%rsp), %r15
    movq FRAME_R14(%rsp), %r14
    movq FRAME_R13(%rsp), %r13
    movq FRAME_R12(%rsp), %r12
    movq FRAME_R11(%rsp), %r11
    movq FRAME_R10(%rsp), %r10
    movq FRAME_R9(%rsp), %r9
    movq FRAME_R8(%rsp), %r8
    movq FRAME_RBP(%rsp), %rbp
    movq FRAME_RDI(%rsp), %rdi
    movq FRAME_RSI(%rsp), %rsi
    movq FRAME_RDX(%rsp), %rdx
    movq FRAME_RCX(%rsp), %rcx
    movq FRAME_RBX(%rsp), %rbx
    cmpl $PLATFORM_PVM, %gs:PER_CPU_PLATFORM
    jne 1f
    movq $SELECTOR_NATIVE_CODE, FRAME_CS(%rsp)
    movq $SELECTOR_NATIVE_DATA, FRAME_SS(%rsp)
    addq $FRAME_RAX, %rsp
    testb $2, (FRAME_RFLAGS - FRAME_RAX + 1)(%rsp)
    jz return_last                  // interrupts were disabled there: they stay so
    movb $1, %gs:PER_CPU_INTERRUPT_FLAG
return_window:
    cmpb $0, %gs:PER_CPU_INTERRUPT_PENDING
    je return_last
    movl $HYPERCALL_NONE, %eax      // delivers what waits
    int $0x1b
return_last:
    popq %rax
return_iret:
    iretq
1:  movq $SELECTOR_KERNEL_CODE, FRAME_CS(%rsp)
    movq $SELECTOR_KERNEL_DATA, FRAME_SS(%rsp)
    addq $FRAME_RAX, %rsp
    jmp return_last                 // iretq sets the interrupt flag itself

// ---- System calls --------------------------------------------------------------------------------------------------
// By the instruction: RCX = where to go on, R11 = flags, interrupts disabled, still on the program's stack.
    .globl osv_system_call_entry
    .globl system_call_entry_start
    .globl system_call_entry_end
    .balign 16
system_call_entry_start:
osv_system_call_entry:
    movq %rsp, %gs:PER_CPU_SCRATCH
    movq %gs:PER_CPU_KERNEL_STACK_TOP, %rsp
    subq $FRAME_SIZE, %rsp
    movq $VECTOR_SYSTEM_CALL, FRAME_VECTOR(%rsp)
system_call_frame:
    movq %rax, FRAME_RAX(%rsp)
    movq %rax, FRAME_ERROR(%rsp)
    movq %rcx, FRAME_RIP(%rsp)
    movq %rcx, FRAME_RCX(%rsp)
    movq %r11, FRAME_RFLAGS(%rsp)
    movq %r11, FRAME_R11(%rsp)
    movq %gs:PER_CPU_SCRATCH, %rcx
    movq %rcx, FRAME_RSP(%rsp)
    movq %rbx, FRAME_RBX(%rsp)
    movq %rdx, FRAME_RDX(%rsp)
    movq %rsi, FRAME_RSI(%rsp)
    movq %rdi, FRAME_RDI(%rsp)
    movq %rbp, FRAME_RBP(%rsp)
    movq %r8, FRAME_R8(%rsp)
    movq %r9, FRAME_R9(%rsp)
    movq %r10, FRAME_R10(%rsp)
    movq %r12, FRAME_R12(%rsp)
    movq %r13, FRAME_R13(%rsp)
    movq %r14, FRAME_R14(%rsp)
    movq %r15, FRAME_R15(%rsp)
    movq %rsp, %rdi
    xorl %ebp, %ebp
    call trap_system_call
    jmp trap_return

// By a jump, through %gs:PER_CPU_JUMP from a rewritten site, or through %gs:PER_CPU_GATE from code that made a function call:
// RCX = where to go on; R11 is free; interrupts are enabled and stay so. Both ways RSP changes stacks in one instruction,
// so that an interrupt finds the program before it and the kernel behind it, and nothing in between.
//
// Who comes from a rewritten site did not make a call: every register but RCX and R11, the flags, the vector registers and
// what lies below RSP are as they were when it goes on.
    .macro jump_entry vector
    movq %rsp, %r11
    movq %gs:PER_CPU_KERNEL_STACK_TOP, %rsp
    pushq $SELECTOR_KERNEL_DATA
    pushq %r11
    pushfq
    movq (%rsp), %r11
    pushq $SELECTOR_KERNEL_CODE
    pushq %rcx                      // RIP
    pushq %rax
    pushq %rbx
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %rbp
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    pushq %rax                      // the number, where exceptions have their error code
    pushq $\vector
    subq $FRAME_VECTOR, %rsp
    movq %rsp, %rdi
    xorl %ebp, %ebp
    testl $(FLAG_DIRECTION | FLAG_ALIGNMENT_CHECK), %r11d
    jnz jump_with_odd_flags
    .endm

    .globl jump_entry
    .balign 64
jump_entry:
    jump_entry VECTOR_JUMP
jump_call:
    call *system_call_handler(%rip)

// Interrupts are enabled between the look at what is to be done first and the last step to the program, so one that comes in
// between may bring something to do: its way back begins again here (`Traps.leave`). RSP points to the frame all
// the while, and nothing but registers changes. The kernel's functions have kept RBX, RBP and R12 to R15.
    .globl jump_return
jump_return:
    movq %gs:PER_CPU_CURRENT_THREAD, %rax
    testb $(THREAD_INTERRUPTED | THREAD_NOTICED), THREAD_PARK_WORD(%rax)
    jnz jump_return_slowly
    cmpl $0, %gs:PER_CPU_RESCHEDULE
    jne jump_return_slowly
    movq FRAME_R11(%rsp), %r11
    movq FRAME_RBP(%rsp), %rbp
    movq FRAME_R10(%rsp), %r10
    movq FRAME_R9(%rsp), %r9
    movq FRAME_R8(%rsp), %r8
    movq FRAME_RDI(%rsp), %rdi
    movq FRAME_RSI(%rsp), %rsi
    movq FRAME_RDX(%rsp), %rdx
    // The flags, at a fraction of popfq's price: an addition overflows if OF was set, and sahf loads the others. Those that
    // are left have not changed: no program comes here whose direction or alignment flag is set.
    movl %r11d, %ecx
    movl %r11d, %eax
    andl $FLAG_OVERFLOW, %eax
    addl $(0x80000000 - FLAG_OVERFLOW), %eax
    movb %cl, %ah
    sahf
    movq FRAME_RAX(%rsp), %rax
    movq FRAME_RIP(%rsp), %rcx
    movq FRAME_RSP(%rsp), %rsp
    .globl jump_return_last
jump_return_last:
    jmpq *%rcx

    .globl gate_entry
    .balign 64
gate_entry:
    jump_entry VECTOR_GATE
    jmp jump_call

// The same for rewritten sites of which the kernel knows that their vector registers are dead.
    .globl leaf_entry
    .balign 64
leaf_entry:
    jump_entry VECTOR_LEAF
    jmp jump_call

// The kernel runs forwards and without alignment checks. All flags come back by the other way out.
jump_with_odd_flags:
    cld
    pushfq
    andl $~FLAG_ALIGNMENT_CHECK, (%rsp)
    popfq
    call *system_call_handler(%rip)
jump_return_slowly:
    movq %rsp, %rdi
    xorl %ebp, %ebp
    call trap_leave_enabled
    jmp trap_return
system_call_entry_end:

// What programs linked with the kernel call: long osv_gate(long number, long, long, long, long, long, long). A function
// of the C ABI, so the vector registers are dead here; all others survive.
    .globl osv_gate
    .type osv_gate, @function
    .balign 16
osv_gate:
    movq %rdi, %rax
    movq %rsi, %rdi
    movq %rdx, %rsi
    movq %rcx, %rdx
    movq %r8, %r10
    movq %r9, %r8
    movq 8(%rsp), %r9
    leaq 1f(%rip), %rcx
    jmpq *%gs:PER_CPU_GATE
1:  ret

// Who serves system calls that came by a jump: a function of the frame.
    .data
    .globl system_call_handler
    .balign 8
system_call_handler:
    .quad trap_unserved_call
    .text

// ---- NMI and double fault ------------------------------------------------------------------------------------------
// Each on a stack of its own: they may hit the entries above at any instruction. They return by the emulated iretq of
// kvm_pvm (CS as the hypervisor pushed it), which sets flags and RIP in one step: there is no window here.
    .macro save_registers
    movq %rax, FRAME_RAX(%rsp)
    movq %rbx, FRAME_RBX(%rsp)
    movq %rcx, FRAME_RCX(%rsp)
    movq %rdx, FRAME_RDX(%rsp)
    movq %rsi, FRAME_RSI(%rsp)
    movq %rdi, FRAME_RDI(%rsp)
    movq %rbp, FRAME_RBP(%rsp)
    movq %r8, FRAME_R8(%rsp)
    movq %r9, FRAME_R9(%rsp)
    movq %r10, FRAME_R10(%rsp)
    movq %r11, FRAME_R11(%rsp)
    movq %r12, FRAME_R12(%rsp)
    movq %r13, FRAME_R13(%rsp)
    movq %r14, FRAME_R14(%rsp)
    movq %r15, FRAME_R15(%rsp)
    .endm

    .globl trap_nmi
    .balign 16
trap_nmi:
    subq $FRAME_RIP, %rsp           // RSP was at RIP: the stack's end is the frame's
    save_registers
    movq $2, FRAME_VECTOR(%rsp)
    movq $0, FRAME_ERROR(%rsp)
    movq %rsp, %rbx
    andq $-0x4000, %rbx
    movq PER_CPU_AREA_POINTER(%rbx), %rbx
    rdgsbase %r12                   // may have hit an entry that has not set it yet
    wrgsbase %rbx
    movq %rsp, %rdi
    cld
    call trap_nmi_handle
    wrgsbase %r12
    movq FRAME_RAX(%rsp), %rax
    movq FRAME_RBX(%rsp), %rbx
    movq FRAME_RCX(%rsp), %rcx
    movq FRAME_RDX(%rsp), %rdx
    movq FRAME_RSI(%rsp), %rsi
    movq FRAME_RDI(%rsp), %rdi
    movq FRAME_RBP(%rsp), %rbp
    movq FRAME_R8(%rsp), %r8
    movq FRAME_R9(%rsp), %r9
    movq FRAME_R10(%rsp), %r10
    movq FRAME_R11(%rsp), %r11
    movq FRAME_R12(%rsp), %r12
    movq FRAME_R13(%rsp), %r13
    movq FRAME_R14(%rsp), %r14
    movq FRAME_R15(%rsp), %r15
    addq $FRAME_RIP, %rsp
    iretq

    .globl trap_double_fault
    .balign 16
trap_double_fault:
    xchgq %rax, (%rsp)              // the error code lies where RAX belongs
    subq $FRAME_RAX, %rsp
    movq %rax, FRAME_ERROR(%rsp)
    movq FRAME_RAX(%rsp), %rax
    save_registers
    movq $8, FRAME_VECTOR(%rsp)
    movq %rsp, %rbx
    andq $-0x4000, %rbx
    movq PER_CPU_AREA_POINTER(%rbx), %rbx
    wrgsbase %rbx
    movq %rsp, %rdi
    xorl %esi, %esi
    cld
    call trap_fatal
    ud2
