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

// ---- With AVX-512: by plain moves ------------------------------------------------------------------------------------
// XSAVE and XRSTOR cost 300 cycles whatever they move; moving the registers costs 50. What is in use says XINUSE
// (XGETBV with ECX = 1): only x87 needs the instructions.
//
// An image: 0 XINUSE as saved, 8 MXCSR, 16 K0 to K7, 128 + 64 n ZMM n (of those that were in use; of the low 16 only the
// XMM part unless AVX was in use).
    .set IN_USE_X87, 1
    .set IN_USE_WIDE, 0x44          // YMM and ZMM parts of the low 16
    .set IN_USE_MASKS, 0x20
    .set IN_USE_HIGH, 0x80          // ZMM16 to ZMM31

    // MXCSR of the image in RDI, and x87 as a program begins with it unless ESI says that it is so.
    .macro control_in
    testl %esi, %esi
    jnz 1f
    movl $1, %ecx
    xgetbv
    testl $IN_USE_X87, %eax
    jz 1f
    movl $1, %eax
    xorl %edx, %edx
    xrstor64 vector_initial(%rip)   // x87 alone
1:  vzeroupper
    ldmxcsr 8(%rdi)
    .endm

// _Bool vector_move_out(void *image): false, with nothing saved, if x87 is in use.
    .globl vector_move_out
    .type vector_move_out, @function
    .balign 16
vector_move_out:
    movl $1, %ecx
    xgetbv
    testl $IN_USE_X87, %eax
    jnz 9f
    movq %rax, (%rdi)
    stmxcsr 8(%rdi)
    testl $IN_USE_WIDE, %eax
    jnz 1f
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vmovdqa %xmm\n, (128 + 64 * \n)(%rdi)
    .endr
    jmp 2f
1:  .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vmovdqa64 %zmm\n, (128 + 64 * \n)(%rdi)
    .endr
2:  testl $IN_USE_HIGH, %eax
    jz 3f
    .irp n, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    vmovdqa64 %zmm\n, (128 + 64 * \n)(%rdi)
    .endr
3:  testl $IN_USE_MASKS, %eax
    jz 4f
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7
    kmovq %k\n, (16 + 8 * \n)(%rdi)
    .endr
4:  movl $1, %eax
    ret
9:  xorl %eax, %eax
    ret
    .size vector_move_out, . - vector_move_out

// void vector_move_in(const void *image, _Bool x87_is_clean): all registers become those of the image, what was not in use
// there becomes initial.
    .globl vector_move_in
    .type vector_move_in, @function
    .balign 16
vector_move_in:
    control_in
    movq (%rdi), %rcx
    testl $IN_USE_WIDE, %ecx
    jnz 2f
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vmovdqa (128 + 64 * \n)(%rdi), %xmm\n
    .endr
    jmp 3f
2:  .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vmovdqa64 (128 + 64 * \n)(%rdi), %zmm\n
    .endr
3:  testl $IN_USE_HIGH, %ecx
    jz 4f
    .irp n, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    vmovdqa64 (128 + 64 * \n)(%rdi), %zmm\n
    .endr
    jmp 5f
4:  .irp n, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    vpxorq %zmm\n, %zmm\n, %zmm\n
    .endr
5:  testl $IN_USE_MASKS, %ecx
    jz 6f
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7
    kmovq (16 + 8 * \n)(%rdi), %k\n
    .endr
    ret
6:  .irp n, 0, 1, 2, 3, 4, 5, 6, 7
    kxorq %k\n, %k\n, %k\n
    .endr
    ret
    .size vector_move_in, . - vector_move_in

// _Bool vector_control_out(void *image): MXCSR alone; false, with nothing saved, if x87 is in use.
    .globl vector_control_out
    .type vector_control_out, @function
    .balign 16
vector_control_out:
    movl $1, %ecx
    xgetbv
    testl $IN_USE_X87, %eax
    jnz 9f
    stmxcsr 8(%rdi)
    movl $1, %eax
    ret
9:  xorl %eax, %eax
    ret
    .size vector_control_out, . - vector_control_out

// void vector_control_in(const void *image, _Bool x87_is_clean): MXCSR, and x87 as a program begins with it.
    .globl vector_control_in
    .type vector_control_in, @function
    .balign 16
vector_control_in:
    control_in
    ret
    .size vector_control_in, . - vector_control_in

// MXCSR to memory and back.
    .globl vector_mxcsr_out
    .type vector_mxcsr_out, @function
vector_mxcsr_out:
    stmxcsr (%rdi)
    ret
    .size vector_mxcsr_out, . - vector_mxcsr_out
    .globl vector_mxcsr_in
    .type vector_mxcsr_in, @function
vector_mxcsr_in:
    ldmxcsr (%rdi)
    ret
    .size vector_mxcsr_in, . - vector_mxcsr_in

    .section .rodata
    .balign 64
// An XSAVE area in which nothing is in use.
vector_initial:
    .skip 576
