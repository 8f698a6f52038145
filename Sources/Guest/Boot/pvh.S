// The entry under another monitor (PVH; the image's note "Xen", kernel.ld): 32-bit protected mode, paging off, flat segments, interrupts
// disabled, EBX = the start information. Makes an identity map of the lower 4 GiB in the first pages behind 1 MiB, which is RAM
// on every PC and below the image, goes to 64-bit mode, relocates the image to where it lies, and calls Swift (Bootstrap). Swift
// comes back through bootstrap_enter, which moves the image to its virtual address and enters the kernel as osv-run does.
#include "cpu_layout.h"

// The tables: one top table, one of pointers, four of directories; a page for the first stack behind them.
#define IDENTITY_TABLES 0x100000
#define IDENTITY_STACK_END 0x107000

    .section .boot.text, "ax", @progbits

    .code32
    .globl osv_pvh_start
    .type osv_pvh_start, @function
osv_pvh_start:
    cld
    movl $IDENTITY_STACK_END, %esp
    call 1f
1:  popl %ebp // where this label lies
    // Zero tables.
    movl $IDENTITY_TABLES, %edi
    xorl %eax, %eax
    movl $(6 * 1024), %ecx
    rep stosl
    movl $(IDENTITY_TABLES + 0x1000 + 0x3), IDENTITY_TABLES
    movl $(IDENTITY_TABLES + 0x2000 + 0x3), %eax
    movl $(IDENTITY_TABLES + 0x1000), %edi
    movl $4, %ecx
2:  movl %eax, (%edi)
    addl $0x1000, %eax
    addl $8, %edi
    loop 2b
    // 2,048 pages of 2 MiB; the last 16 MiB and what else is a device's is uncached by the processor's own range registers.
    movl $(IDENTITY_TABLES + 0x2000), %edi
    movl $0x83, %eax
    movl $2048, %ecx
3:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 3b
    movl $0x620, %eax // PAE OSFXSR OSXMMEXCPT
    movl %eax, %cr4
    movl $IDENTITY_TABLES, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx // EFER: SCE LME NXE
    movl $0x901, %eax
    xorl %edx, %edx
    wrmsr
    movl $0x80050033, %eax // PE MP ET NE WP AM PG
    movl %eax, %cr0
    // A GDT on the stack: code of 64 bits as selector 8, data as 16, at an address that the far return then forgets.
    pushl $0x00cf9300
    pushl $0x0000ffff
    pushl $0x00af9b00
    pushl $0x0000ffff
    pushl $0
    pushl $0
    movl %esp, %eax
    pushl %eax
    pushw $23
    lgdt (%esp)
    leal (4f - 1b)(%ebp), %eax
    pushl $8
    pushl %eax
    lretl

    .code64
4:  movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %ebx, %ebx // the upper half is undefined after the change of mode
    leaq boot_stack_top(%rip), %rsp
    leaq kernel_image_start(%rip), %rdi
    movq %rdi, %rsi
    movq %rdi, %rdx
    call relocate_image
    movq %rbx, %rdi
    xorl %ebp, %ebp
    call bootstrap_main
    ud2

// RDI = where the image lies, RSI = the address it shall run at, RDX = how far that is from the one it runs at now (from its
// link address, 0, at first). The two tables are in the image (VMM/Machine/KernelImage does the same for osv-run).
relocate_image:
    leaq rela_start(%rip), %r8
    leaq rela_end(%rip), %r9
1:  cmpq %r9, %r8
    jae 2f
    movq (%r8), %rax
    movq 16(%r8), %rcx
    addq %rsi, %rcx
    movq %rcx, (%rdi, %rax)
    addq $24, %r8
    jmp 1b
    // Packed: an even word is the place of a word to be moved; an odd one has a bit for each of the 63 words behind those of the word before.
2:  leaq relr_start(%rip), %r8
    leaq relr_end(%rip), %r9
    xorl %r10d, %r10d
3:  cmpq %r9, %r8
    jae 6f
    movq (%r8), %rax
    addq $8, %r8
    testb $1, %al
    jnz 4f
    addq %rdx, (%rdi, %rax)
    leaq 8(%rax), %r10
    jmp 3b
4:  movq %r10, %rcx
    addq $(63 * 8), %r10
5:  shrq $1, %rax
    jz 3b
    testb $1, %al
    jz 7f
    addq %rdx, (%rdi, %rcx)
7:  addq $8, %rcx
    jmp 5b
6:  ret

// RDI = bootstrap_words (Instructions/include/entries.h). Nothing of Swift runs any more: pointers in the image are about to be the kernel's.
    .globl bootstrap_enter
    .type bootstrap_enter, @function
bootstrap_enter:
    movq 0(%rdi), %r12 // root
    movq 8(%rdi), %r13 // virtual address of the image
    movq 16(%rdi), %r14 // GDT
    movq 24(%rdi), %r15 // its limit
    movq 32(%rdi), %rbx // IDT
    movq 40(%rdi), %rbp // selector of the TSS
    pushq 48(%rdi) // per-CPU area
    pushq 56(%rdi) // boot information
    leaq kernel_image_start(%rip), %rdi
    movq %r13, %rsi
    movq %r13, %rdx
    subq %rdi, %rdx
    movq %rdx, %r11
    call relocate_image
    popq %rdi
    popq %rsi
    leaq 1f(%rip), %rax
    addq %r11, %rax
    jmp *%rax
    // At the kernel's address now, which both tables have.
1:  movq %r12, %cr3
    leaq boot_stack_top(%rip), %rsp
    pushq %r14
    pushq %r15
    // A table's register is loaded from 2 bytes of limit and 8 of base.
    movq %r15, %rax
    shlq $48, %rax
    movq %rax, (%rsp)
    lgdt 6(%rsp)
    movq %rbx, 8(%rsp)
    movl $0xfff, %eax
    shlq $48, %rax
    movq %rax, (%rsp)
    lidt 6(%rsp)
    movl $SELECTOR_KERNEL_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    ltr %bp
    pushq $SELECTOR_KERNEL_CODE
    leaq 2f(%rip), %rax
    pushq %rax
    lretq
2:  movl $0xc0000101, %ecx // GS base
    movl %esi, %eax
    movq %rsi, %rdx
    shrq $32, %rdx
    wrmsr
    jmp kernel_start
