// Switching kernel stacks, and waiting for an interrupt.
#include "cpu_layout.h"

    .text

// context_switch(from, to): interrupts are disabled. Who was interrupted leaves later, by its own way back.
    .globl context_switch
    .type context_switch, @function
    .balign 16
context_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq (%rsi), %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret

// A new kernel thread: R12 = function, R13 = argument.
    .globl context_start
    .type context_start, @function
    .balign 16
context_start:
    andq $-16, %rsp
    movq %r13, %rdi
    xorl %ebp, %ebp
    call *%r12
    ud2

// Enables interrupts and halts. An interrupt between the two must not be slept through. kvm_pvm's hypervisor looks for it,
// and `sti` holds interrupts off for one instruction; but an NMI there ends that, and so may a hypervisor that is entered
// and left there. So the trap code sends an interrupt that finds RIP from idle_start on back to idle_end.
    .globl idle_pvm
    .type idle_pvm, @function
    .globl idle_hardware
    .type idle_hardware, @function
    .globl idle_start
    .globl idle_end
    .balign 16
idle_start:
idle_pvm:
    movb $1, %gs:PER_CPU_INTERRUPT_FLAG
    hlt
    ret
idle_hardware:
    sti
    hlt
idle_end:
    ret
