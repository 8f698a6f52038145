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
//
// Words first: a repeated byte move takes 20 cycles to get going, and on some CPUs (Zen 3) hundreds to thousands where the target lies
// less than 32 bytes behind the source, modulo a page. Where a word cannot be moved, bytes are, up to the first that cannot.
    .set STRING_INSTRUCTIONS_FROM, 256

    .globl usercopy_copy
    .type usercopy_copy, @function
    .balign 16
usercopy_copy:
    cmpq $STRING_INSTRUCTIONS_FROM, %rdx
    jae 5f
    movq %rdx, %rcx
    shrq $3, %rcx
    jz 3f
1:  movq (%rsi), %rax
2:  movq %rax, (%rdi)
    addq $8, %rsi
    addq $8, %rdi
    subq $8, %rdx
    decq %rcx
    jnz 1b
3:  movq %rdx, %rcx
    testq %rcx, %rcx
    jz 4f
6:  movb (%rsi), %al
7:  movb %al, (%rdi)
    incq %rsi
    incq %rdi
    decq %rcx
    jnz 6b
4:  movq %rcx, %rax
    ret
5:  movq %rdx, %rcx
    shrq $3, %rcx
    andl $7, %edx
8:  rep movsq
    jmp 3b
9:  leaq (%rdx, %rcx, 8), %rdx      // words left, and the bytes behind them
    jmp 3b
    fixup 1b, 3b
    fixup 2b, 3b
    fixup 6b, 4b
    fixup 7b, 4b
    fixup 8b, 9b

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

// usercopy_string(to, from, limit) -> length, or limit if there is no NUL, or limit + 1. Up to `limit` bytes are stored: the string, its NUL,
// and perhaps some more.
    .globl usercopy_string
    .type usercopy_string, @function
    .balign 16
usercopy_string:
    xorl %eax, %eax
    movabsq $0x0101010101010101, %r8
    movabsq $0x8080808080808080, %r9
1:  leaq 8(%rax), %rcx
    cmpq %rdx, %rcx
    ja 3f
2:  movq (%rsi, %rax), %rcx
    movq %rcx, (%rdi, %rax)
    movq %rcx, %r10                 // the lowest byte of 0x80 is where the first NUL is
    subq %r8, %r10
    notq %rcx
    andq %rcx, %r10
    andq %r9, %r10
    jnz 5f
    addq $8, %rax
    jmp 1b
5:  bsfq %r10, %rcx
    shrl $3, %ecx
    addq %rcx, %rax
    ret
3:  cmpq %rdx, %rax                 // the last bytes, or those before a page that is not there
    jae 6f
4:  movb (%rsi, %rax), %cl
    movb %cl, (%rdi, %rax)
    testb %cl, %cl
    jz 6f
    incq %rax
    jmp 3b
6:  ret
7:  leaq 1(%rdx), %rax
    ret
    fixup 2b, 3b
    fixup 4b, 7b

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
