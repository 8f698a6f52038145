// The first instruction of a program that is linked with the kernel (see images/): what the C start-up code is elsewhere.
//
// The kernel enters image_start like any program: on the program's stack, RSP a multiple of 16, RDI = argc, RSI = argv,
// RDX = envp. osv_main is GuestAPI's, present in such images only: a weak reference, 0 in the kernel alone.
    .text
    .weak osv_main

    .globl image_start
    .type image_start, @function
    .balign 16
image_start:
    xorl %ebp, %ebp
    call osv_main
    movslq %eax, %rsi
    movl $231, %edi                 // exit_group
    call osv_gate
    ud2

// The address of osv_main, 0 if there is none.
    .globl image_main
    .type image_main, @function
    .balign 16
image_main:
    movq osv_main@GOTPCREL(%rip), %rax
    ret

// The address of image_start.
    .globl image_start_address
    .type image_start_address, @function
    .balign 16
image_start_address:
    leaq image_start(%rip), %rax
    ret

// The version of the boot information that this kernel understands, for the image's note (kernel.ld).
    .globl osv_boot_version
    .set osv_boot_version, BOOT_INFORMATION_VERSION
