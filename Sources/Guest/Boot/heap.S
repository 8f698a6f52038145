// The names of the C library that the Swift compiler does not let Swift define.
    .section .text.free, "ax", @progbits
    .globl free
    .hidden free
    .type free, @function
free:
    jmp kernel_free
    .size free, . - free

    .section .text.malloc, "ax", @progbits
    .globl malloc
    .hidden malloc
    .type malloc, @function
malloc:
    jmp kernel_malloc
    .size malloc, . - malloc
