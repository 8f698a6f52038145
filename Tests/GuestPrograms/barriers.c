// membarrier: commands, registration, refusals, and that it is a barrier: of two threads that write and then look at the other's
// word, one without any fence of its own, at least one sees the other's write.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
  QUERY = 0, GLOBAL = 1, GLOBAL_EXPEDITED = 2, REGISTER_GLOBAL = 4, PRIVATE = 8, REGISTER_PRIVATE = 16, SYNC_CORE = 32,
  REGISTER_SYNC_CORE = 64, RSEQ = 128, REGISTER_RSEQ = 256
};

static int barrier(int command, unsigned flags) {
  int result = syscall(SYS_membarrier, command, flags, 0);
  return result < 0 ? -errno : result;
}

static const char *name(int result) {
  switch (result) {
    case 0: return "0";
    case -EINVAL: return "EINVAL";
    case -EPERM: return "EPERM";
    default: return "something else";
  }
}

#define ROUNDS 2000
static atomic_int x, y, round_begun, round_done, seen;

static void *light(void *unused) {
  for (int i = 1; i <= ROUNDS; i++) {
    for (int spins = 0; atomic_load_explicit(&round_begun, memory_order_acquire) != i; spins++) {
      if (spins > 200) sched_yield();
    }
    atomic_store_explicit(&x, 1, memory_order_relaxed);
    __asm__ volatile("" ::: "memory");
    int value = atomic_load_explicit(&y, memory_order_relaxed);
    atomic_store_explicit(&seen, value, memory_order_relaxed);
    atomic_store_explicit(&round_done, i, memory_order_release);
  }
  return unused;
}

int main(void) {
  int supported = barrier(QUERY, 0);
  int wanted = GLOBAL | GLOBAL_EXPEDITED | REGISTER_GLOBAL | PRIVATE | REGISTER_PRIVATE | SYNC_CORE | REGISTER_SYNC_CORE;
  printf("all there %d\n", (supported & wanted) == wanted);
  printf("flags %s\n", name(barrier(QUERY, 1)));
  printf("unknown %s, two at once %s, negative %s\n", name(barrier(1 << 20, 0)), name(barrier(GLOBAL | PRIVATE, 0)),
         name(barrier(-1, 0)));
  printf("not registered: %s %s\n", name(barrier(PRIVATE, 0)), name(barrier(SYNC_CORE, 0)));
  printf("global %s, expedited %s\n", name(barrier(GLOBAL, 0)), name(barrier(GLOBAL_EXPEDITED, 0)));
  printf("register %s", name(barrier(REGISTER_PRIVATE, 0)));
  printf(", private %s, the other still %s\n", name(barrier(PRIVATE, 0)), name(barrier(SYNC_CORE, 0)));
  printf("register %s", name(barrier(REGISTER_SYNC_CORE, 0)));
  printf(", core %s\n", name(barrier(SYNC_CORE, 0)));
  printf("register %s", name(barrier(REGISTER_GLOBAL, 0)));
  printf(", global %s\n", name(barrier(GLOBAL_EXPEDITED, 0)));
  // Restartable sequences: refused where the query does not name them.
  int expected = supported & REGISTER_RSEQ ? 0 : -EINVAL;
  printf("rseq as told %d\n", barrier(REGISTER_RSEQ, 0) == expected && barrier(RSEQ, 0) == expected);

  pthread_t other;
  pthread_create(&other, NULL, light, NULL);
  int missed = 0;
  for (int i = 1; i <= ROUNDS; i++) {
    atomic_store(&x, 0);
    atomic_store(&y, 0);
    atomic_store_explicit(&round_begun, i, memory_order_release);
    atomic_store_explicit(&y, 1, memory_order_relaxed);
    barrier(PRIVATE, 0);
    int value = atomic_load_explicit(&x, memory_order_relaxed);
    while (atomic_load_explicit(&round_done, memory_order_acquire) != i) sched_yield();
    if (!value && !atomic_load(&seen)) missed++;
  }
  pthread_join(other, NULL);
  printf("missed %d\n", missed);
  return 0;
}
