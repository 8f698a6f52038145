// The vDSO (Sources/Guest/VDSO) within the kernel's image, on pages of its own, which programs see.
    .section .rodata.vdso, "a", @progbits
    .balign 4096
    .globl vdso_start
vdso_start:
    .incbin "vdso.so"
    .balign 4096
    .globl vdso_end
vdso_end:
