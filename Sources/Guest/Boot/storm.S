// The program of the interrupt storm (the kernel's self-test): an endless loop that fills every register, the red zone, the
// flags and the extended state with patterns, gives interrupts, faults and system calls a chance to spoil them, and looks.
// What it finds wrong it numbers in its block and stops at `ud2`.
//
// Test code: nothing else in the kernel runs it. The prefix vector_ allows it vector instructions.
#include "cpu_layout.h"
#include "storm_layout.h"

    .text

    .macro check number, found, wanted
    cmpq \found, \wanted
    movl $\number, %ecx
    jne vector_storm_failed
    .endm

    .globl vector_storm_program
    .type vector_storm_program, @function
    .balign 16
vector_storm_program:
    // New patterns.
    .set index, 0
    .rept 16
    addq $(0x1e3779b1 + 0x10001 * index), %fs:STORM_PATTERN + 8 * index
    rolq $7, %fs:STORM_PATTERN + 8 * index
    .set index, index + 1
    .endr
    movq %fs:STORM_PATTERN, %rax
    andq $STORM_FLAGS, %rax
    orq $0x202, %rax
    movq %rax, %fs:STORM_FLAGS_WANTED
    movq %fs:STORM_PATTERN + 8, %rax
    movl %eax, %ecx
    andl $63, %ecx
    shlq $12, %rcx
    movq $0x100000000000, %rdx
    addq %rdx, %rcx
    movq %rcx, %fs:STORM_FAULT_ADDRESS
    // A system call in every other iteration, by the instruction (1) or by a jump (2).
    shrl $8, %eax
    movl %eax, %ecx
    andl $1, %eax
    cmpl $1, %eax
    sbbq %rax, %rax
    shrl $1, %ecx
    andl $1, %ecx
    incl %ecx
    andq %rcx, %rax
    movq %rax, %fs:STORM_CALLS

    // Extended state.
    fildq %fs:STORM_PATTERN + 40
    movq %fs:STORM_PATTERN + 64, %xmm5
    punpcklqdq %xmm5, %xmm5
    testb $STORM_FEATURE_AVX, %fs:STORM_FEATURES
    jz 1f
    vmovq %fs:STORM_PATTERN + 8, %xmm2
    vinsertf128 $1, %xmm2, %ymm2, %ymm2
1:  testb $STORM_FEATURE_AVX512, %fs:STORM_FEATURES
    jz 1f
    movq %fs:STORM_PATTERN, %rax
    vpbroadcastq %rax, %zmm17
    movq %fs:STORM_PATTERN + 16, %rdx
    kmovq %rdx, %k1
1:
    // General registers, the red zone, and last the flags.
    movq %fs:STORM_PATTERN, %rax
    movq %fs:STORM_PATTERN + 8, %rbx
    movq %fs:STORM_PATTERN + 16, %rdx
    movq %fs:STORM_PATTERN + 24, %rsi
    movq %fs:STORM_PATTERN + 32, %rdi
    movq %fs:STORM_PATTERN + 40, %rbp
    movq %fs:STORM_PATTERN + 48, %r8
    movq %fs:STORM_PATTERN + 56, %r9
    movq %fs:STORM_PATTERN + 64, %r10
    movq %fs:STORM_PATTERN + 72, %r11
    movq %fs:STORM_PATTERN + 80, %r12
    movq %fs:STORM_PATTERN + 88, %r13
    movq %fs:STORM_PATTERN + 96, %r14
    movq %fs:STORM_FAULT_ADDRESS, %r15
    movq %fs:STORM_COUNT, %rcx
    movq %rax, -8(%rsp)
    movq %rbx, -16(%rsp)
    movq %rdx, -24(%rsp)
    movq %rsi, -32(%rsp)
    movq %rdi, -40(%rsp)
    movq %rbp, -48(%rsp)
    movq %r8, -56(%rsp)
    movq %r9, -64(%rsp)
    movq %r10, -72(%rsp)
    movq %r11, -80(%rsp)
    movq %r12, -88(%rsp)
    movq %r13, -96(%rsp)
    movq %r14, -104(%rsp)
    movq %r15, -112(%rsp)
    movq %rax, -120(%rsp)
    movq %rbx, -128(%rsp)
    leaq -256(%rsp), %rsp
    pushq %fs:STORM_FLAGS_WANTED
    popfq
    leaq 256(%rsp), %rsp

    // The time in which things happen. Nothing here changes a flag.
1:  movq %r14, (%r15)
    loop 1b
    movq %fs:STORM_CALLS, %rcx
    jrcxz 2f
    movl $STORM_CALL_NUMBER, %eax
    leaq -1(%rcx), %rcx
    jrcxz 3f
    leaq 4f(%rip), %rcx
    jmpq *%gs:PER_CPU_JUMP
4:  leaq vector_storm_called(%rip), %rcx
    jmp vector_storm_called
3:  syscall
vector_storm_called:
    movq %rax, %fs:STORM_CALL_RESULT
    movq %rcx, %fs:STORM_CALL_RCX
    movq %r11, %fs:STORM_CALL_R11
    movq %fs:STORM_PATTERN, %rax
    movq %fs:STORM_PATTERN + 72, %r11
    movl $0, %ecx
2:
    leaq -256(%rsp), %rsp
    pushfq
    popq %fs:STORM_FLAGS_FOUND
    pushq $0x202
    popfq                           // without alignment checks, forwards
    leaq 256(%rsp), %rsp

    jrcxz 1f
    movl $1, %ecx
    jmp vector_storm_failed
1:  check 2, %fs:STORM_PATTERN, %rax
    check 3, %fs:STORM_PATTERN + 8, %rbx
    check 4, %fs:STORM_PATTERN + 16, %rdx
    check 5, %fs:STORM_PATTERN + 24, %rsi
    check 6, %fs:STORM_PATTERN + 32, %rdi
    check 7, %fs:STORM_PATTERN + 40, %rbp
    check 8, %fs:STORM_PATTERN + 48, %r8
    check 9, %fs:STORM_PATTERN + 56, %r9
    check 10, %fs:STORM_PATTERN + 64, %r10
    check 11, %fs:STORM_PATTERN + 72, %r11
    check 12, %fs:STORM_PATTERN + 80, %r12
    check 13, %fs:STORM_PATTERN + 88, %r13
    check 14, %fs:STORM_PATTERN + 96, %r14
    check 15, %fs:STORM_FAULT_ADDRESS, %r15
    check 20, -8(%rsp), %rax
    check 21, -16(%rsp), %rbx
    check 22, -24(%rsp), %rdx
    check 23, -32(%rsp), %rsi
    check 24, -40(%rsp), %rdi
    check 25, -48(%rsp), %rbp
    check 26, -56(%rsp), %r8
    check 27, -64(%rsp), %r9
    check 28, -72(%rsp), %r10
    check 29, -80(%rsp), %r11
    check 30, -88(%rsp), %r12
    check 31, -96(%rsp), %r13
    check 32, -104(%rsp), %r14
    check 33, -112(%rsp), %r15
    check 34, -120(%rsp), %rax
    check 35, -128(%rsp), %rbx
    check 40, %fs:STORM_STACK, %rsp
    movq %fs:STORM_FLAGS_FOUND, %rdx
    andl $(STORM_FLAGS | 0x302), %edx
    check 41, %fs:STORM_FLAGS_WANTED, %rdx
    rdfsbase %rdx
    check 42, %fs:STORM_SELF, %rdx
    rdgsbase %rdx                   // some CPU's area: which one may have changed since
    check 43, 0x800(%rdx), %rdx

    // The extended state.
    fistpq %fs:STORM_X87
    movq %fs:STORM_PATTERN + 40, %rdx
    check 50, %fs:STORM_X87, %rdx
    movq %xmm5, %rdx
    check 51, %fs:STORM_PATTERN + 64, %rdx
    punpckhqdq %xmm5, %xmm5
    movq %xmm5, %rdx
    check 52, %fs:STORM_PATTERN + 64, %rdx
    testb $STORM_FEATURE_AVX, %fs:STORM_FEATURES
    jz 1f
    vextractf128 $1, %ymm2, %xmm3
    vmovq %xmm3, %rdx
    check 53, %fs:STORM_PATTERN + 8, %rdx
1:  testb $STORM_FEATURE_AVX512, %fs:STORM_FEATURES
    jz 1f
    vpbroadcastq %rax, %zmm18
    vpcmpneqq %zmm17, %zmm18, %k2
    kmovw %k2, %edx
    movzbl %dl, %edx
    check 54, $0, %rdx
    kmovq %k1, %rdx
    check 55, %fs:STORM_PATTERN + 16, %rdx
1:
    // The system call's own effects.
    cmpq $0, %fs:STORM_CALLS
    je 1f
    movq $STORM_CALL_ANSWER, %rdx
    check 60, %fs:STORM_CALL_RESULT, %rdx
    leaq vector_storm_called(%rip), %rdx
    check 61, %fs:STORM_CALL_RCX, %rdx
    movq %fs:STORM_CALL_R11, %rdx
    andl $(STORM_FLAGS | 0x302), %edx
    check 62, %fs:STORM_FLAGS_WANTED, %rdx
1:  incq %fs:STORM_ITERATIONS
    jmp vector_storm_program
    .size vector_storm_program, . - vector_storm_program

    .globl vector_storm_failed
    .type vector_storm_failed, @function
vector_storm_failed:
    movl %ecx, %ecx
    movq %rcx, %fs:STORM_FAILED_CHECK
    ud2
    .size vector_storm_failed, . - vector_storm_failed

// vector_spoil(kind): spoils extended state under the program's feet, to show that the storm would see it.
    .globl vector_spoil
    .type vector_spoil, @function
vector_spoil:
    pxor %xmm5, %xmm5
    ret
    .size vector_spoil, . - vector_spoil

// vector_load(pattern) and vector_read() -> pattern: XMM5, for the check of save and restore.
    .globl vector_load
    .type vector_load, @function
vector_load:
    movq %rdi, %xmm5
    ret
    .size vector_load, . - vector_load
    .globl vector_read
    .type vector_read, @function
vector_read:
    movq %xmm5, %rax
    ret
    .size vector_read, . - vector_read

// Programs of the other checks, each entered as a program is. They end with system call 0x5700, the result in RDI.

// By the instruction: number and six arguments must arrive, RAX the answer, all else must survive.
    .globl self_test_call_program
    .type self_test_call_program, @function
    .balign 16
self_test_call_program:
    movl $0x5710, %eax
    movl $1, %edi
    movl $2, %esi
    movl $3, %edx
    movl $4, %r10d
    movl $5, %r8d
    movl $6, %r9d
    movl $7, %ebx
    movl $8, %ebp
    movl $12, %r12d
    movl $13, %r13d
    movl $14, %r14d
    movl $15, %r15d
    movq $0x1122334455667788, %rcx
    movq %rcx, -8(%rsp)
    movq %rcx, -128(%rsp)
    syscall
self_test_call_returned:
    leaq self_test_call_returned(%rip), %r11
    subq %r11, %rcx
    addq $-21 - 7 - 8 - 12 - 13 - 14 - 15, %rax
    orq %rcx, %rax
    addq %rbx, %rax
    addq %rbp, %rax
    addq %rdi, %rax
    addq %rsi, %rax
    addq %rdx, %rax
    addq %r10, %rax
    addq %r8, %rax
    addq %r9, %rax
    addq %r12, %rax
    addq %r13, %rax
    addq %r14, %rax
    addq %r15, %rax
    movq $0x1122334455667788, %rcx
    subq -8(%rsp), %rcx
    orq %rcx, %rax
    movq $0x1122334455667788, %rcx
    subq -128(%rsp), %rcx
    orq %rcx, %rax
self_test_end:
    movq %rax, %rdi
    movl $0x5700, %eax
    syscall
    ud2

// By the gate, as a function of the C ABI with seven arguments: osv_gate(0x5711, 1 … 6).
    .globl self_test_gate_program
    .type self_test_gate_program, @function
    .balign 16
self_test_gate_program:
    movl $7, %ebx
    movl $8, %ebp
    movl $12, %r12d
    movl $13, %r13d
    movl $14, %r14d
    movl $15, %r15d
    movl $0x5711, %edi
    movl $1, %esi
    movl $2, %edx
    movl $3, %ecx
    movl $4, %r8d
    movl $5, %r9d
    movq %rsp, %r10
    subq $16, %rsp
    movq %r10, 8(%rsp)
    movq $6, (%rsp)
    call osv_gate
    popq %rcx
    addq $-6, %rcx
    popq %r10
    subq %rsp, %r10
    orq %r10, %rcx
    addq $-7 - 8 - 12 - 13 - 14 - 15, %rax
    addq %rbx, %rax
    addq %rbp, %rax
    addq %r12, %rax
    addq %r13, %rax
    addq %r14, %rax
    addq %r15, %rax
    orq %rcx, %rax
    jmp self_test_end

// System calls by jumps, as rewritten sites make them, timed: RDI = how many. The result is the cycles they took.
    .globl self_test_jump_program
    .type self_test_jump_program, @function
    .balign 16
self_test_jump_program:
    movl $100000, %ebx
    rdtsc
    shlq $32, %rdx
    orq %rax, %rdx
    movq %rdx, %r12
    .balign 64
1:  movl $0x5713, %eax
    leaq 2f(%rip), %rcx
    jmpq *%gs:PER_CPU_JUMP
2:  leaq 3f(%rip), %rcx
    jmp 3f
    .balign 64
3:  decl %ebx
    jnz 1b
    rdtsc
    shlq $32, %rdx
    orq %rdx, %rax
    subq %r12, %rax
    jmp self_test_end

// Exceptions: #DE, #BP, #UD, #GP, #PF, #GP by the kernel's own iretq,
// single steps, and an interrupt instruction. The test's handler records each and goes on behind the instruction, whose length
// it finds in RBX; R12 counts.
    .globl self_test_exception_program
    .type self_test_exception_program, @function
    .balign 16
self_test_exception_program:
    xorl %r12d, %r12d
    xorl %edx, %edx
    xorl %ecx, %ecx
    movl $1, %eax
    movl $2, %ebx
    divl %ecx
    incl %r12d
    movl $0, %ebx                   // a trap: RIP is behind it already
    int3
    incl %r12d
    movl $2, %ebx
    ud2
    incl %r12d
    movq $0x8000000000000000, %rdx
    movl $3, %ebx
    movq (%rdx), %rax
    incl %r12d
    movq $0x100000000ff8, %rdx      // in a page that is never mapped
    addq $(63 * 4096), %rdx
    movl $3, %ebx
    movq (%rdx), %rax
    incl %r12d
    leaq 1f(%rip), %r13             // a return to an address that is none: the fault is the program's
    movl $0x5712, %eax
    syscall
1:  incl %r12d
    xorl %ebx, %ebx
    pushfq                          // single steps, through a system call too
    orl $0x100, (%rsp)
    popfq
    nop
    nop
    movl $0x5713, %eax
    syscall
    nop
    pushfq
    andl $~0x100, (%rsp)
    popfq
    incl %r12d
    movl $2, %ebx                   // `int $0x70; jmp *%rsi` lies outside the kernel, where osv-run expects programs
    leaq 1f(%rip), %rsi
    movq $0x100000005000, %rdx
    jmpq *%rdx
1:  incl %r12d
    movq %r12, %rax
    jmp self_test_end
