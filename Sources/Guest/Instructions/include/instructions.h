// One static-inline function an instruction: the words that Swift lacks. Nothing here decides anything.
#pragma once
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
