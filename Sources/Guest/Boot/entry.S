// Where the kernel starts.
    .section .boot.text, "ax", @progbits
    .globl kernel_start
kernel_start:
    hlt
    jmp kernel_start
