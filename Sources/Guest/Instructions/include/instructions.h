// One static-inline function an instruction: the words that Swift lacks. Nothing here decides anything.
#pragma once
#include "entries.h"
#include "per_cpu.h"
#include "storm_layout.h"
#include "trap_frame.h"
#include <stdint.h>

#define INSTRUCTION static inline __attribute__((always_inline))

/// The time-stamp counter, not ordered with the loads around it.
INSTRUCTION uint64_t instruction_rdtsc(void) {
  uint32_t low, high;
  __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
  return (uint64_t)high << 32 | low;
}

/// A hint that this is a spin loop.
INSTRUCTION void instruction_pause(void) { __asm__ volatile("pause"); }

/// The compiler must not move memory accesses across this point.
INSTRUCTION void instruction_compiler_barrier(void) { __asm__ volatile("" ::: "memory"); }

/// One load, which the compiler neither drops nor moves across other memory accesses.
INSTRUCTION uint64_t instruction_load64(const void *from) {
  uint64_t value;
  __asm__ volatile("movq %1, %0" : "=r"(value) : "m"(*(const uint64_t *)from) : "memory");
  return value;
}

/// high:low divided by divisor. The quotient must fit into 64 bits, or the CPU raises #DE.
INSTRUCTION uint64_t instruction_divide128(uint64_t high, uint64_t low, uint64_t divisor) {
  uint64_t quotient, remainder;
  __asm__("divq %4" : "=a"(quotient), "=d"(remainder) : "a"(low), "d"(high), "r"(divisor) : "cc");
  return quotient;
}

/// RDRAND; false if the generator had nothing to give.
INSTRUCTION _Bool instruction_rdrand(uint64_t *value) {
  _Bool ok;
  __asm__ volatile("rdrandq %0" : "=r"(*value), "=@ccc"(ok));
  return ok;
}

/// CPUID: the leaf in *a, the subleaf in *c; the answer in all four.
INSTRUCTION void instruction_cpuid(uint32_t *a, uint32_t *b, uint32_t *c, uint32_t *d) {
  __asm__ volatile("cpuid" : "+a"(*a), "=b"(*b), "+c"(*c), "=d"(*d));
}

/// XGETBV of register 0.
INSTRUCTION uint64_t instruction_xgetbv(void) {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t)high << 32 | low;
}

#ifdef GUEST

/// CLI and STI. Not for kvm_pvm, where they trap and change nothing.
INSTRUCTION void instruction_cli(void) { __asm__ volatile("cli" ::: "memory"); }
INSTRUCTION void instruction_sti(void) { __asm__ volatile("sti" ::: "memory"); }

/// HLT, with interrupts disabled: until a reset.
INSTRUCTION void instruction_hlt(void) { __asm__ volatile("hlt" ::: "memory"); }

/// RFLAGS.
INSTRUCTION uint64_t instruction_pushf(void) {
  uint64_t flags;
  __asm__ volatile("pushfq; popq %0" : "=r"(flags)::"memory");
  return flags;
}

/// The CPL in hardware: 3 on kvm_pvm, 0 on hardware KVM.
INSTRUCTION uint32_t instruction_privilege_level(void) {
  uint32_t selector;
  __asm__("movl %%cs, %0" : "=r"(selector));
  return selector & 3;
}

/// A 32-bit write to an I/O port.
INSTRUCTION void instruction_out32(uint16_t port, uint32_t value) {
  __asm__ volatile("outl %0, %1" ::"a"(value), "Nd"(port) : "memory");
}

/// A 16-bit and an 8-bit one, and reads.
INSTRUCTION void instruction_out16(uint16_t port, uint16_t value) {
  __asm__ volatile("outw %0, %1" ::"a"(value), "Nd"(port) : "memory");
}
INSTRUCTION void instruction_out8(uint16_t port, uint8_t value) {
  __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port) : "memory");
}
INSTRUCTION uint32_t instruction_in32(uint16_t port) {
  uint32_t value;
  __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
  return value;
}
INSTRUCTION uint16_t instruction_in16(uint16_t port) {
  uint16_t value;
  __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port) : "memory");
  return value;
}
INSTRUCTION uint8_t instruction_in8(uint16_t port) {
  uint8_t value;
  __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
  return value;
}

/// One access of exactly that width to a device's register.
INSTRUCTION void instruction_store32(void *to, uint32_t value) {
  __asm__ volatile("movl %1, %0" : "=m"(*(uint32_t *)to) : "r"(value) : "memory");
}
INSTRUCTION void instruction_store16(void *to, uint16_t value) {
  __asm__ volatile("movw %1, %0" : "=m"(*(uint16_t *)to) : "r"(value) : "memory");
}
INSTRUCTION void instruction_store8(void *to, uint8_t value) {
  __asm__ volatile("movb %1, %0" : "=m"(*(uint8_t *)to) : "q"(value) : "memory");
}
INSTRUCTION uint32_t instruction_load32(const void *from) {
  uint32_t value;
  __asm__ volatile("movl %1, %0" : "=r"(value) : "m"(*(const uint32_t *)from) : "memory");
  return value;
}
INSTRUCTION uint16_t instruction_load16(const void *from) {
  uint16_t value;
  __asm__ volatile("movw %1, %0" : "=r"(value) : "m"(*(const uint16_t *)from) : "memory");
  return value;
}
INSTRUCTION uint8_t instruction_load8(const void *from) {
  uint8_t value;
  __asm__ volatile("movb %1, %0" : "=q"(value) : "m"(*(const uint8_t *)from) : "memory");
  return value;
}

/// A hypercall of kvm_pvm; all registers but RAX survive it.
INSTRUCTION int64_t instruction_hypercall(uint64_t number, uint64_t first, uint64_t second) {
  int64_t result;
  __asm__ volatile("int $0x1b" : "=a"(result) : "a"(number), "b"(first), "c"(second) : "memory");
  return result;
}

INSTRUCTION void instruction_wrmsr(uint32_t msr, uint64_t value) {
  __asm__ volatile("wrmsr" ::"c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}
INSTRUCTION uint64_t instruction_rdmsr(uint32_t msr) {
  uint32_t low, high;
  __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr) : "memory");
  return (uint64_t)high << 32 | low;
}
INSTRUCTION void instruction_invlpg(uint64_t address) { __asm__ volatile("invlpg (%0)" ::"r"(address) : "memory"); }
INSTRUCTION uint64_t instruction_read_cr2(void) {
  uint64_t value;
  __asm__ volatile("movq %%cr2, %0" : "=r"(value));
  return value;
}
INSTRUCTION uint64_t instruction_read_cr3(void) {
  uint64_t value;
  __asm__ volatile("movq %%cr3, %0" : "=r"(value)::"memory");
  return value;
}
INSTRUCTION void instruction_write_cr3(uint64_t value) { __asm__ volatile("movq %0, %%cr3" ::"r"(value) : "memory"); }
INSTRUCTION void instruction_write_cr4(uint64_t value) { __asm__ volatile("movq %0, %%cr4" ::"r"(value) : "memory"); }
INSTRUCTION void instruction_xsetbv(uint64_t value) {
  __asm__ volatile("xsetbv" ::"c"(0), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

INSTRUCTION uint64_t instruction_rdfsbase(void) {
  uint64_t value;
  __asm__ volatile("rdfsbase %0" : "=r"(value));
  return value;
}
INSTRUCTION void instruction_wrfsbase(uint64_t value) { __asm__ volatile("wrfsbase %0" ::"r"(value) : "memory"); }
INSTRUCTION uint64_t instruction_rdgsbase(void) {
  uint64_t value;
  __asm__ volatile("rdgsbase %0" : "=r"(value));
  return value;
}
INSTRUCTION void instruction_wrgsbase(uint64_t value) { __asm__ volatile("wrgsbase %0" ::"r"(value) : "memory"); }

/// RBP: the frame record of the function this is inlined into.
INSTRUCTION uint64_t instruction_frame_pointer(void) {
  uint64_t value;
  __asm__ volatile("movq %%rbp, %0" : "=r"(value));
  return value;
}

/// Sets kvm_pvm's interrupt flag; an interrupt that already waits needs an exit to be delivered.
INSTRUCTION void instruction_pvm_enable_interrupts(void) {
  __asm__ volatile("movb $1, %%gs:%c0\n\t"
                   "cmpb $0, %%gs:%c1\n\t"
                   "je 1f\n\t"
                   "movl %2, %%eax\n\t"
                   "int $0x1b\n"
                   "1:" ::"i"(PER_CPU_INTERRUPT_FLAG),
                   "i"(PER_CPU_INTERRUPT_PENDING), "i"(HYPERCALL_NONE)
                   : "rax", "memory", "cc");
}
INSTRUCTION void instruction_pvm_disable_interrupts(void) {
  __asm__ volatile("movb $0, %%gs:%c0" ::"i"(PER_CPU_INTERRUPT_FLAG) : "memory");
}

#endif
