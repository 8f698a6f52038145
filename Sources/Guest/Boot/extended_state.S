// Saving and restoring the extended state (x87, SSE, AVX…) that belongs to programs: the only code of the kernel that
// touches it. The prefix vector_ marks it for the test that looks for such instructions.

    .text

    .macro state_function name, instruction
    .globl \name
    .type \name, @function
    .balign 16
\name:
    movq %rsi, %rdx
    movl %esi, %eax
    shrq $32, %rdx
    \instruction (%rdi)
    ret
    .size \name, . - \name
    .endm

    state_function vector_xsave, xsave64
    state_function vector_xsaveopt, xsaveopt64
    state_function vector_xrstor, xrstor64
    state_function vector_fxsave, fxsave64
    state_function vector_fxrstor, fxrstor64
