// The fields of the current CPU's area, each read and written by one instruction relative to GS, so that a
// preemption between address and access cannot hit another CPU's. On the host, where there is no such area, each
// thread has one of its own: unit tests may run side by side.
#pragma once
#include "cpu_layout.h"
#include <stdint.h>

#ifdef GUEST
#define PER_CPU_FIELD(type, name, offset)                                                                              \
  static inline __attribute__((always_inline)) type per_cpu_##name(void) {                                             \
    return *(__typeof__(type) volatile __attribute__((address_space(256))) *)(uintptr_t)(offset);                                  \
  }                                                                                                                    \
  static inline __attribute__((always_inline)) void per_cpu_set_##name(type value) {                                   \
    *(__typeof__(type) volatile __attribute__((address_space(256))) *)(uintptr_t)(offset) = value;                                 \
  }
#else
extern _Thread_local uint8_t hosted_per_cpu[0x1000] __attribute__((aligned(64)));
uint8_t *hosted_per_cpu_area(void);
#define PER_CPU_FIELD(type, name, offset)                                                                              \
  static inline type per_cpu_##name(void) { return *(__typeof__(type) volatile *)(hosted_per_cpu_area() + (offset)); }             \
  static inline void per_cpu_set_##name(type value) { *(__typeof__(type) volatile *)(hosted_per_cpu_area() + (offset)) = value; }
#endif

PER_CPU_FIELD(uint8_t, interrupt_flag, PER_CPU_INTERRUPT_FLAG)
PER_CPU_FIELD(uint8_t, interrupt_pending, PER_CPU_INTERRUPT_PENDING)
PER_CPU_FIELD(uint64_t, fault_address, PER_CPU_FAULT_ADDRESS)
PER_CPU_FIELD(uint64_t, kernel_stack_top, PER_CPU_KERNEL_STACK_TOP)
PER_CPU_FIELD(uint32_t, index, PER_CPU_INDEX)
PER_CPU_FIELD(uint32_t, preemption_count, PER_CPU_PREEMPTION_COUNT)
PER_CPU_FIELD(uint32_t, reschedule, PER_CPU_RESCHEDULE)
PER_CPU_FIELD(void *, current_thread, PER_CPU_CURRENT_THREAD)
PER_CPU_FIELD(uint64_t, adopted, PER_CPU_ADOPTED)
PER_CPU_FIELD(uint32_t, in_interrupt, PER_CPU_IN_INTERRUPT)

#ifdef GUEST
/// One of the 16 pointers that the modules above may keep for each CPU.
static inline __attribute__((always_inline)) void *per_cpu_slot(uint64_t index) {
  return *(void *volatile __attribute__((address_space(256))) *)(uintptr_t)(PER_CPU_SLOTS + index * 8);
}
static inline __attribute__((always_inline)) void per_cpu_set_slot(uint64_t index, void *value) {
  *(void *volatile __attribute__((address_space(256))) *)(uintptr_t)(PER_CPU_SLOTS + index * 8) = value;
}
static inline __attribute__((always_inline)) void per_cpu_preemption_disable(void) {
  __asm__ volatile("incl %%gs:%c0" ::"i"(PER_CPU_PREEMPTION_COUNT) : "memory", "cc");
}
static inline __attribute__((always_inline)) void per_cpu_preemption_enable(void) {
  __asm__ volatile("decl %%gs:%c0" ::"i"(PER_CPU_PREEMPTION_COUNT) : "memory", "cc");
}
#else
static inline void *per_cpu_slot(uint64_t index) { return ((void **)(hosted_per_cpu_area() + PER_CPU_SLOTS))[index]; }
static inline void per_cpu_set_slot(uint64_t index, void *value) {
  ((void **)(hosted_per_cpu_area() + PER_CPU_SLOTS))[index] = value;
}
static inline void per_cpu_preemption_disable(void) { ++*(uint32_t *)(hosted_per_cpu_area() + PER_CPU_PREEMPTION_COUNT); }
static inline void per_cpu_preemption_enable(void) { --*(uint32_t *)(hosted_per_cpu_area() + PER_CPU_PREEMPTION_COUNT); }
#endif
