// What stands in for the assembly under Boot when the guest's modules are compiled for the host.
#include "instructions.h"

#ifndef GUEST
#include <string.h>

_Thread_local uint8_t hosted_per_cpu[0x1000] __attribute__((aligned(64)));
uint8_t *hosted_per_cpu_area(void) { return hosted_per_cpu; }

__asm__(".text\n"
        ".globl context_switch\n"
        ".type context_switch, @function\n"
        "context_switch:\n"
        "  push %rbp\n  push %rbx\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
        "  movq %rsp, (%rdi)\n"
        "  movq (%rsi), %rsp\n"
        "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbx\n  pop %rbp\n"
        "  ret\n"
        ".globl context_start\n"
        ".type context_start, @function\n"
        "context_start:\n"
        "  andq $-16, %rsp\n"
        "  movq %r13, %rdi\n"
        "  xorl %ebp, %ebp\n"
        "  call *%r12\n"
        "  ud2\n");

uint64_t usercopy_copy(void *to, const void *from, uint64_t count) {
  memmove(to, from, count);
  return 0;
}
uint64_t usercopy_zero(void *to, uint64_t count) {
  memset(to, 0, count);
  return 0;
}
uint64_t usercopy_string_length(const void *from, uint64_t limit) { return strnlen(from, limit); }
uint64_t usercopy_string(void *to, const void *from, uint64_t limit) {
  uint64_t length = strnlen(from, limit);
  memcpy(to, from, length < limit ? length + 1 : limit);
  return length;
}
_Bool usercopy_load32(const void *from, uint32_t *value) {
  *value = __atomic_load_n((const uint32_t *)from, __ATOMIC_SEQ_CST);
  return 1;
}
_Bool usercopy_store32(void *to, uint32_t value) {
  __atomic_store_n((uint32_t *)to, value, __ATOMIC_SEQ_CST);
  return 1;
}
_Bool usercopy_compare_exchange32(void *at, uint32_t *expected, uint32_t desired) {
  __atomic_compare_exchange_n((uint32_t *)at, expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  return 1;
}
#endif
