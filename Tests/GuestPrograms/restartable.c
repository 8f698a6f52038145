// Restartable sequences (rseq): the CPU's number is kept, a sequence is aborted when the thread loses its CPU or takes a signal, or by
// membarrier, increments of per-CPU counters are never lost, and wrong registrations are refused.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>
#if defined(__GLIBC__)
#include <sys/rseq.h>
#else
#define RSEQ_SIG 0x53053053
#endif

struct area {
  uint32_t start, cpu;
  uint64_t section;
  uint32_t flags, node, concurrency, padding;
} __attribute__((aligned(32)));

#if defined(__GLIBC__)
static volatile struct area *mine(void) { return (void *)((char *)__builtin_thread_pointer() + __rseq_offset); }
static void enter(void) {}
static void leave(void) {}
#else
static __thread struct area own;
static volatile struct area *mine(void) { return &own; }
static void enter(void) {
  own.cpu = -1;
  if (syscall(SYS_rseq, &own, sizeof own, 0, RSEQ_SIG) != 0) perror("rseq");
}
static void leave(void) { syscall(SYS_rseq, &own, sizeof own, 1, RSEQ_SIG); }
#endif

#define SECTION(body, commit)                                                                                            \
  ".pushsection __rseq_cs, \"aw\"\n.balign 32\n3: .long 0, 0\n.quad 1f, 2f - 1f, 4f\n.popsection\n"                      \
  "leaq 3b(%%rip), %%rax\nmovq %%rax, 8(%[area])\n1:\n" body "\n" commit "\n2:\nxorl %%eax, %%eax\njmp 5f\n"             \
  ".byte 0x0f, 0xb9, 0x3d\n.long 0x53053053\n4:\nmovl $1, %%eax\n5:\n"

// One more in the counter of this CPU; 1: aborted, nothing has happened.
static int increment(volatile struct area *area, uint64_t *counters) {
  int aborted;
  uint64_t cpu = area->start;
  __asm__ volatile(SECTION("cmpl %%edx, 4(%[area])\njne 4f\nmovq (%[counter]), %%rcx\nmovl $30, %%esi\n6: decl %%esi\njnz 6b\nincq %%rcx",
                           "movq %%rcx, (%[counter])")
                   : "=&a"(aborted)
                   : [area] "r"(area), [counter] "r"(counters + cpu * 8), "d"(cpu)
                   : "rcx", "rsi", "memory", "cc");
  return aborted;
}

// Stays inside a sequence until it is aborted.
static void spin(volatile struct area *area) {
  __asm__ volatile(SECTION("6: pause\njmp 6b", "nop") : : [area] "r"(area) : "rax", "memory", "cc");
}

enum { threads = 4, rounds = 200000 };
static uint64_t counters[64 * 8];

static void *add(void *unused) {
  enter();
  volatile struct area *area = mine();
  for (int i = 0; i < rounds; i++)
    while (increment(area, counters)) {}
  leave();
  return unused;
}

static volatile int seen, cleared, stop;
static void handler(int number) {
  (void)number;
  seen++;
  cleared = mine()->section == 0;
}

static void pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof set, &set);
}
static void *hog(void *unused) {
  pin(0);
  while (!stop) {}
  return unused;
}

// --- After membarrier nobody is in a sequence any more that began before it.

enum { BARRIER_SEQUENCES = 128, BARRIER_REGISTER = 256, BARRIER_ON_ONE_CPU = 1 };

static uint64_t pages[2][8];
static uint64_t *volatile page = pages[0];
static volatile int adding;

// One more in the counter of the page that is current at the beginning of the sequence.
static void add_to_page(volatile struct area *area) {
  __asm__ volatile(SECTION("movq (%[page]), %%rcx\nmovl $20000, %%esi\n6: decl %%esi\njnz 6b", "incq (%%rcx)")
                   : : [area] "r"(area), [page] "r"(&page) : "rax", "rcx", "rsi", "memory", "cc");
}

static void *add_to_pages(void *unused) {
  enter();
  volatile struct area *area = mine();
  while (!stop) {
    add_to_page(area);
    adding = 1;
  }
  leave();
  return unused;
}

static void wait_a_moment(volatile uint64_t *until_changed) {
  uint64_t before = *until_changed;
  for (int i = 0; i < 100000 && *until_changed == before; i++) if (i % 1000 == 999) sched_yield();
}

// How often a page that nobody should use any more was written all the same.
static int late_writes(int one_cpu) {
  int late = 0;
  for (int i = 0; i < 3000; i++) {
    uint64_t *old = page, *next = old == pages[0] ? pages[1] : pages[0];
    page = next;
    long result = 0;
    if (one_cpu) {
      for (int cpu = 0; cpu < 4; cpu++) result |= syscall(SYS_membarrier, BARRIER_SEQUENCES, BARRIER_ON_ONE_CPU, cpu);
    } else {
      result = syscall(SYS_membarrier, BARRIER_SEQUENCES, 0, 0);
    }
    uint64_t then = *(volatile uint64_t *)old;
    wait_a_moment(next);
    if (result != 0 || *(volatile uint64_t *)old != then) late++;
  }
  return late;
}

static void barriers(void) {
  long result = syscall(SYS_membarrier, BARRIER_SEQUENCES, 0, 0);
  printf("not registered: %ld %d", result, errno);
  printf(", register: %ld", syscall(SYS_membarrier, BARRIER_REGISTER, 0, 0));
  result = syscall(SYS_membarrier, BARRIER_SEQUENCES, 2, 0);
  printf(", other flags: %ld %d\n", result, errno);
  printf("a CPU that is not there: %ld\n", syscall(SYS_membarrier, BARRIER_SEQUENCES, BARRIER_ON_ONE_CPU, 4000));
  stop = 0;
  pthread_t handle;
  pthread_create(&handle, NULL, add_to_pages, NULL);
  while (!adding) sched_yield();
  printf("late writes: %d, by CPU: %d\n", late_writes(0), late_writes(1));
  stop = 1;
  pthread_join(handle, NULL);
}

static void refused(const char *what, volatile struct area *area, unsigned size, int flags, unsigned signature) {
  long result = syscall(SYS_rseq, area, size, flags, signature);
  printf("%s: %s\n", what, result == 0 ? "done" : "refused");
  if (result != 0) printf("  errno %d\n", errno);
}

int main(void) {
  enter();
  volatile struct area *area = mine();
  printf("registered %d\n", (int)area->cpu >= 0 && area->start == area->cpu);

  pthread_t handles[threads];
  for (int i = 0; i < threads; i++) pthread_create(handles + i, NULL, add, NULL);
  for (int i = 0; i < threads; i++) pthread_join(handles[i], NULL);
  uint64_t sum = 0;
  for (int i = 0; i < 64; i++) sum += counters[i * 8];
  printf("increments %llu of %d\n", (unsigned long long)sum, threads * rounds);

  signal(SIGALRM, handler);
  setitimer(ITIMER_REAL, &(struct itimerval){.it_value.tv_usec = 20000}, NULL);
  while (!seen) spin(area);
  printf("aborted by a signal: handled %d, cleared for the handler %d, cleared after %d\n", seen, cleared, area->section == 0);

  cpu_set_t all;
  sched_getaffinity(0, sizeof all, &all);
  pthread_create(handles, NULL, hog, NULL);
  pin(0);
  printf("pinned to 0: %u %u\n", area->start, area->cpu);
  spin(area);
  stop = 1;
  pthread_join(handles[0], NULL);
  printf("aborted by losing the CPU\n");
  int right = 1;
  for (int cpu = 0; cpu < 64; cpu++)
    if (CPU_ISSET(cpu, &all)) {
      pin(cpu);
      right &= (int)area->cpu == cpu && (int)area->start == cpu && sched_getcpu() == cpu;
    }
  printf("every CPU told %d\n", right);

  sched_setaffinity(0, sizeof all, &all);
  barriers();

  refused("again", area, 32, 0, RSEQ_SIG);
  refused("another signature", area, 32, 0, 1);
  refused("another place", area + 1, 32, 0, RSEQ_SIG);
  refused("unknown flags", area, 32, 4, RSEQ_SIG);
  refused("leave with another signature", area, 32, 1, 1);
  refused("leave", area, 32, 1, RSEQ_SIG);
  printf("left: %d\n", (int)area->cpu);
  refused("leave again", area, 32, 1, RSEQ_SIG);
  refused("misaligned", (void *)((char *)area + 8), 32, 0, RSEQ_SIG);
  refused("too small", area, 16, 0, RSEQ_SIG);
  return 0;
}
