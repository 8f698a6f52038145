// Where the CPUs start: 64-bit mode, paging on, interrupts off, GS base = the CPU's per-CPU area (see
// Sources/Virtio/ABI/BootInformation.swift for all that osv-run promises). The image is already relocated and .bss zero.
#include "cpu_layout.h"

    .section .boot.text, "ax", @progbits

// CPU 0. RDI = the boot information.
    .globl kernel_start
    .type kernel_start, @function
kernel_start:
    leaq boot_stack_top(%rip), %rsp
    // Until the platform has filled in the area: traps must find a kernel stack.
    movq %rsp, %gs:PER_CPU_KERNEL_STACK_TOP
    xorl %ebp, %ebp
    cld
    call kernel_main
    ud2

// The others wait here, each for a word in its own area: the stack it shall start on, with the function and its argument
// on top (CPU.start).
    .globl osv_secondary_start
    .type osv_secondary_start, @function
osv_secondary_start:
1:  pause
    movq %gs:PER_CPU_RELEASE, %rsp
    testq %rsp, %rsp
    jz 1b
    popq %rdi
    popq %rsi
    subq $32, %rsp // never at the very end: RSP there means "in the program" to no one, but a frame must fit above
    xorl %ebp, %ebp
    cld
    call secondary_main
    ud2

    .section .boot_stack, "aw", @nobits
    .balign 4096
    .skip KERNEL_STACK_SIZE
    .globl boot_stack_top
boot_stack_top:
