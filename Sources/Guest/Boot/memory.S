// The memory functions that the compiler calls. No vector registers: general ones for short spans, string instructions for
// long ones, which current CPUs execute a cache line at a time.

    .text

    .set STRING_INSTRUCTIONS_FROM, 256

// memcpy(to, from, count) -> to. Up to 32 bytes everything is loaded before anything is stored, which memmove uses.
    .globl memcpy
    .type memcpy, @function
    .balign 16
memcpy:
    movq %rdi, %rax
    cmpq $32, %rdx
    ja copy_long
copy_short:
    cmpl $16, %edx
    jae 3f
    cmpl $8, %edx
    jae 2f
    cmpl $4, %edx
    jae 1f
    testl %edx, %edx
    jz 4f
    movzbl (%rsi), %ecx
    movzbl -1(%rsi, %rdx), %r8d
    cmpl $3, %edx
    jb 5f
    movzbl 1(%rsi), %r9d
    movb %r9b, 1(%rdi)
5:  movb %cl, (%rdi)
    movb %r8b, -1(%rdi, %rdx)
4:  ret
1:  movl (%rsi), %ecx
    movl -4(%rsi, %rdx), %r8d
    movl %ecx, (%rdi)
    movl %r8d, -4(%rdi, %rdx)
    ret
2:  movq (%rsi), %rcx
    movq -8(%rsi, %rdx), %r8
    movq %rcx, (%rdi)
    movq %r8, -8(%rdi, %rdx)
    ret
3:  movq (%rsi), %rcx
    movq 8(%rsi), %r8
    movq -16(%rsi, %rdx), %r9
    movq -8(%rsi, %rdx), %r10
    movq %rcx, (%rdi)
    movq %r8, 8(%rdi)
    movq %r9, -16(%rdi, %rdx)
    movq %r10, -8(%rdi, %rdx)
    ret
copy_long:
    cmpq $STRING_INSTRUCTIONS_FROM, %rdx
    jae 2f
1:  movq (%rsi), %rcx
    movq 8(%rsi), %r8
    movq 16(%rsi), %r9
    movq 24(%rsi), %r10
    movq %rcx, (%rdi)
    movq %r8, 8(%rdi)
    movq %r9, 16(%rdi)
    movq %r10, 24(%rdi)
    addq $32, %rsi
    addq $32, %rdi
    subq $32, %rdx
    cmpq $32, %rdx
    ja 1b
    jmp copy_short
2:  movq %rdx, %rcx                 // not by bytes: see usercopy_copy
    shrq $3, %rcx
    andl $7, %edx
    rep movsq
    jmp copy_short

// memmove(to, from, count) -> to
    .globl memmove
    .type memmove, @function
    .balign 16
memmove:
    movq %rdi, %rax
    cmpq $32, %rdx
    jbe copy_short
    movq %rdi, %rcx
    subq %rsi, %rcx
    cmpq %rdx, %rcx
    jb 2f
    negq %rcx
    cmpq %rdx, %rcx
    jae copy_long                   // no overlap
1:  movq (%rsi), %rcx               // overlapping, downwards: forwards
    movq %rcx, (%rdi)
    addq $8, %rsi
    addq $8, %rdi
    subq $8, %rdx
    cmpq $32, %rdx
    ja 1b
    jmp copy_short
2:  movq -8(%rsi, %rdx), %rcx       // overlapping, upwards: from the end
    movq %rcx, -8(%rdi, %rdx)
    subq $8, %rdx
    cmpq $32, %rdx
    ja 2b
    jmp copy_short

// memset(to, byte, count) -> to
    .globl memset
    .type memset, @function
    .balign 16
memset:
    movq %rdi, %r8
    movzbl %sil, %eax
    cmpq $64, %rdx
    jae 3f
    movabsq $0x0101010101010101, %rcx
    imulq %rcx, %rax
    cmpl $8, %edx
    jb 2f
1:  movq %rax, -8(%rdi, %rdx)       // the last eight bytes, then whole words from the front
    subq $8, %rdx
    jz 4f
5:  movq %rax, (%rdi)
    addq $8, %rdi
    subq $8, %rdx
    ja 5b
4:  movq %r8, %rax
    ret
2:  testl %edx, %edx
    jz 4b
6:  movb %al, (%rdi)
    incq %rdi
    decl %edx
    jnz 6b
    movq %r8, %rax
    ret
3:  movq %rdx, %rcx
    rep stosb
    movq %r8, %rax
    ret

// memcmp(a, b, count) -> negative, 0 or positive
    .globl memcmp
    .type memcmp, @function
    .balign 16
memcmp:
    xorl %eax, %eax
1:  cmpq $8, %rdx
    jb 3f
    movq (%rdi), %rcx
    movq (%rsi), %r8
    cmpq %r8, %rcx
    jne 2f
    addq $8, %rdi
    addq $8, %rsi
    subq $8, %rdx
    jmp 1b
2:  bswapq %rcx                     // the first differing byte decides
    bswapq %r8
    cmpq %r8, %rcx
    sbbl %eax, %eax
    orl $1, %eax
    ret
3:  testq %rdx, %rdx
    jz 5f
4:  movzbl (%rdi), %eax
    movzbl (%rsi), %ecx
    subl %ecx, %eax
    jnz 5f
    incq %rdi
    incq %rsi
    decq %rdx
    jnz 4b
5:  ret

// strlen(string)
    .globl strlen
    .type strlen, @function
    .balign 16
strlen:
    movq %rdi, %rax
1:  cmpb $0, (%rax)
    je 2f
    incq %rax
    jmp 1b
2:  subq %rdi, %rax
    ret
