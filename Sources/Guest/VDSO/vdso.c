// The vDSO: the kernel's code for programs, a shared object of its own that is mapped beside every program's stack with the
// clock page in front of it. glibc and musl find the functions by name and version (LINUX_2.6), and then ask the
// kernel for no time at all.
//
// Rules: position-independent, no data, no relocations, no vector register (the way into the kernel by a jump counts on their being
// dead). The clock page is written by the monitor under a sequence number (Virtio/ABI/BootInformation.swift, `ClockPage`, has
// the layout) and by nobody else; times are the ones of the system calls, computed alike.
#include "cpu_layout.h"
#include <stdint.h>

struct clock_page {
  uint64_t sequence, base_tsc, base_nanoseconds, realtime_offset, multiplier;
};
struct timespec {
  int64_t seconds, nanoseconds;
};
struct timeval {
  int64_t seconds, microseconds;
};
struct timezone {
  int32_t minutes_west, dst_time;
};

// The page in front of the image, by the linker script.
extern const volatile struct clock_page vdso_clock __attribute__((visibility("hidden")));

#define BILLION 1000000000ull
#define EXPORT __attribute__((visibility("default")))

enum { call_clock_gettime = 228, call_clock_getres = 229, call_getrandom = 318 };

// The kernel, by a jump: no trap. The C ABI has it that vector registers are dead here.
static inline long kernel(long number, long first, long second, long third) {
  __asm__ volatile("leaq 1f(%%rip), %%rcx\n\t"
                   "jmpq *%%gs:%c[gate]\n"
                   "1:"
                   : "+a"(number)
                   : "D"(first), "S"(second), "d"(third), [gate] "i"(PER_CPU_GATE)
                   : "rcx", "r11", "memory", "cc");
  return number;
}

// The counter. In order, it is read after every load in front of it: another CPU's reading that was loaded there is older. Out of
// order it costs two thirds, and may be some nanoseconds old: good enough for the coarse clocks.
static inline __attribute__((always_inline)) uint64_t counter(_Bool in_order) {
  uint32_t low, high;
  if (in_order) __asm__ volatile("lfence" ::: "memory");
  __asm__ volatile("rdtsc" : "=a"(low), "=d"(high)::"memory");
  return (uint64_t)high << 32 | low;
}

// CLOCK_MONOTONIC, in nanoseconds, or with `wall` CLOCK_REALTIME.
static inline __attribute__((always_inline)) uint64_t now(_Bool wall, _Bool in_order) {
  for (;;) {
    uint64_t before = vdso_clock.sequence;
    __asm__ volatile("" ::: "memory");
    uint64_t elapsed = counter(in_order) - vdso_clock.base_tsc;
    uint64_t time = vdso_clock.base_nanoseconds + (uint64_t)((unsigned __int128)elapsed * vdso_clock.multiplier >> 32);
    if (wall) time += vdso_clock.realtime_offset;
    __asm__ volatile("" ::: "memory");
    if (__builtin_expect(!(before & 1) && vdso_clock.sequence == before, 1)) return time;
    __asm__ volatile("pause");
  }
}

// Which clocks are which, as bit sets of their numbers: REALTIME, REALTIME_COARSE, TAI; MONOTONIC, MONOTONIC_RAW,
// MONOTONIC_COARSE, BOOTTIME. The others count CPU time or are refused: the kernel's business.
#define WALL_CLOCKS (1u << 0 | 1u << 5 | 1u << 11)
#define STEADY_CLOCKS (1u << 1 | 1u << 4 | 1u << 6 | 1u << 7)
#define COARSE_CLOCKS (1u << 5 | 1u << 6)
static inline _Bool is_among(uint32_t clocks, int32_t clock) { return (uint32_t)clock < 32 && clocks >> clock & 1; }

EXPORT int __vdso_clock_gettime(int32_t clock, struct timespec *result) {
  uint64_t time;
  if (__builtin_expect(is_among(STEADY_CLOCKS & ~COARSE_CLOCKS, clock), 1)) time = now(0, 1);
  else if (is_among(WALL_CLOCKS & ~COARSE_CLOCKS, clock)) time = now(1, 1);
  else if (is_among(COARSE_CLOCKS, clock)) time = now(clock == 5, 0);
  else return (int)kernel(call_clock_gettime, clock, (long)result, 0);
  uint64_t seconds = time / BILLION;
  result->seconds = (int64_t)seconds;
  result->nanoseconds = (int64_t)(time - seconds * BILLION);
  return 0;
}

EXPORT int __vdso_clock_getres(int32_t clock, struct timespec *result) {
  if (!is_among(STEADY_CLOCKS | WALL_CLOCKS, clock)) return (int)kernel(call_clock_getres, clock, (long)result, 0);
  if (result) {
    result->seconds = 0;
    result->nanoseconds = 1;
  }
  return 0;
}

EXPORT int __vdso_gettimeofday(struct timeval *result, struct timezone *zone) {
  if (result) {
    uint64_t time = now(1, 1);
    uint64_t seconds = time / BILLION;
    result->seconds = (int64_t)seconds;
    result->microseconds = (int64_t)((time - seconds * BILLION) / 1000);
  }
  if (zone) {
    zone->minutes_west = 0;
    zone->dst_time = 0;
  }
  return 0;
}

EXPORT int64_t __vdso_time(int64_t *result) {
  int64_t seconds = (int64_t)(now(1, 0) / BILLION);
  if (result) *result = seconds;
  return seconds;
}

// GS holds the CPU's area, in programs too. (RDPID shows the host's CPU on kvm_pvm.)
EXPORT long __vdso_getcpu(uint32_t *cpu, uint32_t *node, void *unused) {
  (void)unused;
  if (cpu) {
    uint32_t index;
    __asm__ volatile("movl %%gs:%c1, %0" : "=r"(index) : "i"(PER_CPU_INDEX));
    *cpu = index;
  }
  if (node) *node = 0;
  return 0;
}

// vgetrandom (getrandom(2), vdso(7)): the state that a thread keeps is for generators in user space, which a fork or a snapshot could
// make repeat themselves. The kernel's own is a jump away, so there is no state: only the size of one is promised,
// and as in Linux a state of another size means the system call.
struct random_parameters {
  uint32_t state_size, mapping_protection, mapping_flags, reserved[13];
};
EXPORT long __vdso_getrandom(void *buffer, uint64_t count, uint32_t flags, void *state, uint64_t state_size) {
  if (__builtin_expect(state_size == ~0ull && count == 0 && buffer == 0 && flags == 0, 0)) {
    struct random_parameters *parameters = state;
    parameters->state_size = 64;
    parameters->mapping_protection = 3;    // PROT_READ | PROT_WRITE
    parameters->mapping_flags = 0x02 | 0x20; // MAP_PRIVATE | MAP_ANONYMOUS
    for (int i = 0; i < 13; i++) parameters->reserved[i] = 0;
    return 0;
  }
  return kernel(call_getrandom, (long)buffer, (long)count, flags);
}

#define ALIAS(name) EXPORT __typeof__(__vdso_##name) name __attribute__((weak, alias("__vdso_" #name)))
ALIAS(clock_gettime);
ALIAS(clock_getres);
ALIAS(gettimeofday);
ALIAS(time);
ALIAS(getcpu);
ALIAS(getrandom);
