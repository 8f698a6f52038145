// What a system call costs, called in a loop: where it has become a jump, and where it stays a trap because its code lies in
// anonymous memory. Each line is "NAME NANOSECONDS CYCLES" of one call, the median of several rounds.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

enum { ROUNDS = 15, CALLS = 20000 };
static int zero, null;
static char byte;
static long (*trapping)(void);

static void call_getpid(void) { getpid(); }
static void call_gettid(void) { syscall(SYS_gettid); }
static void call_getuid(void) { getuid(); }
static void call_trap(void) { trapping(); }
static void call_read(void) {
  if (read(zero, &byte, 1) != 1) exit(1);
}
static void call_write(void) {
  if (write(null, &byte, 1) != 1) exit(1);
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

static void measure(const char *name, void (*call)(void)) {
  double nanoseconds[ROUNDS], cycles[ROUNDS];
  for (int round = 0; round < ROUNDS; ++round) {
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    unsigned long start = __rdtsc();
    for (int i = 0; i < CALLS; ++i) call();
    cycles[round] = (double)(__rdtsc() - start) / CALLS;
    clock_gettime(CLOCK_MONOTONIC, &to);
    nanoseconds[round] = ((to.tv_sec - from.tv_sec) * 1e9 + (to.tv_nsec - from.tv_nsec)) / CALLS;
  }
  qsort(nanoseconds, ROUNDS, sizeof *nanoseconds, compare);
  qsort(cycles, ROUNDS, sizeof *cycles, compare);
  printf("%s %.1f %.1f\n", name, nanoseconds[ROUNDS / 2], cycles[ROUNDS / 2]);
}

int main(void) {
  // mov $39, %eax; syscall; ret
  static const unsigned char code[] = {0xb8, 0x27, 0, 0, 0, 0x0f, 0x05, 0xc3};
  void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return 1;
  memcpy(page, code, sizeof code);
  if (mprotect(page, 4096, PROT_READ | PROT_EXEC) != 0) return 1;
  trapping = (long (*)(void))page;
  zero = open("/dev/zero", O_RDONLY);
  null = open("/dev/null", O_WRONLY);
  measure("getpid", call_getpid);
  measure("gettid", call_gettid);
  measure("getuid", call_getuid);
  measure("read", call_read);
  measure("write", call_write);
  measure("trap", call_trap);
  return 0;
}
