// What programs that are linked with the kernel may call beside osv_gate: functions of the kernel, without a trap frame and without a
// number to look up. Each is a function of the C ABI, so that caller-saved and vector registers are dead here; callee-saved ones are
// kept by the kernel's function itself. RSP changes stacks in one instruction, both ways: an interrupt finds the program before it
// and the kernel behind it, and nothing in between. RBP, which the kernel's function keeps, leads back to the program's stack.
//
// There is no frame at the end of the kernel stack meanwhile, so signals cannot be delivered on the way back: if there is something
// to be done, an ordinary system call is made, which does it.
#include "cpu_layout.h"

    .text

// program_call NAME: osv_NAME calls program_NAME, on the kernel stack.
    .macro program_call name
    .globl osv_\name
    .type osv_\name, @function
    .balign 16
osv_\name:
    pushq %rbp
    movq %rsp, %rbp
    movq %gs:PER_CPU_KERNEL_STACK_TOP, %rsp
    call program_\name
    movq %rbp, %rsp
    popq %rbp
    movq %gs:PER_CPU_CURRENT_THREAD, %rcx
    testb $(THREAD_INTERRUPTED | THREAD_NOTICED), THREAD_PARK_WORD(%rcx)
    jnz program_return_slowly
    ret
    .endm

    program_call park
    program_call unpark
    program_call pass
    program_call yield

program_return_slowly:
    pushq %rax
    movl $39, %edi                  // getpid
    subq $16, %rsp                  // the seventh argument, and RSP a multiple of 16
    call osv_gate
    addq $16, %rsp
    popq %rax
    ret

// On the program's stack: it reads two words and the time-stamp counter.
    .globl osv_now
    .type osv_now, @function
    .balign 16
osv_now:
    jmp program_now
