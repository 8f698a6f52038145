// Accesses to program memory. Each instruction that may fault has an entry in the table of fixups: where a fault cannot be
// resolved, execution goes on there.

    .macro fixup instruction, target
    .pushsection .fixups, "a", @progbits
    .long \instruction - .
    .long \target - .
    .popsection
    .endm

    .text

// usercopy_copy(to, from, count) -> bytes not copied
    .globl usercopy_copy
    .type usercopy_copy, @function
    .balign 16
usercopy_copy:
    movq %rdx, %rcx
1:  rep movsb
2:  movq %rcx, %rax
    ret
    fixup 1b, 2b

// usercopy_zero(to, count) -> bytes not stored
    .globl usercopy_zero
    .type usercopy_zero, @function
    .balign 16
usercopy_zero:
    movq %rsi, %rcx
    xorl %eax, %eax
1:  rep stosb
2:  movq %rcx, %rax
    ret
    fixup 1b, 2b

// usercopy_string_length(from, limit) -> length, or limit + 1
    .globl usercopy_string_length
    .type usercopy_string_length, @function
    .balign 16
usercopy_string_length:
    xorl %eax, %eax
1:  cmpq %rsi, %rax
    jae 3f
2:  cmpb $0, (%rdi, %rax)
    je 3f
    incq %rax
    jmp 1b
3:  ret
4:  leaq 1(%rsi), %rax
    ret
    fixup 2b, 4b

// usercopy_load32(from, value*) -> bool
    .globl usercopy_load32
    .type usercopy_load32, @function
    .balign 16
usercopy_load32:
    xorl %eax, %eax
1:  movl (%rdi), %ecx
    movl %ecx, (%rsi)
    incl %eax
2:  ret
    fixup 1b, 2b

// usercopy_store32(to, value) -> bool
    .globl usercopy_store32
    .type usercopy_store32, @function
    .balign 16
usercopy_store32:
    xorl %eax, %eax
1:  xchgl %esi, (%rdi)              // locked: a full barrier, as futex words want
    incl %eax
2:  ret
    fixup 1b, 2b

// usercopy_compare_exchange32(at, expected*, desired) -> bool
    .globl usercopy_compare_exchange32
    .type usercopy_compare_exchange32, @function
    .balign 16
usercopy_compare_exchange32:
    movl (%rsi), %eax
1:  lock cmpxchgl %edx, (%rdi)
    movl %eax, (%rsi)
    movl $1, %eax
    ret
2:  xorl %eax, %eax
    ret
    fixup 1b, 2b
