// Real-time policies, for who may: order by priority, round robin, and sharing by nice levels.
// alone
// guest-only
// expect: fifo 0 1, priority 50
// expect: high before low: HHHLLL
// expect: idle 0 5, back 0 0
// expect: unprivileged -1 Operation not permitted
// expect: raise nice -1 Permission denied
// flavours: glibc-static musl-static
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static char order[8];
static atomic_int count;

static void pin(void) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(0, &set);
  sched_setaffinity(0, sizeof set, &set);
}

static void *high(void *argument) {
  struct sched_param parameters = {.sched_priority = 40};
  syscall(SYS_sched_setscheduler, 0, SCHED_FIFO, &parameters);
  for (int i = 0; i < 3; i++) {
    order[atomic_fetch_add(&count, 1)] = 'H';
    sched_yield();
  }
  return NULL;
}

static void *low(void *argument) {
  struct sched_param parameters = {.sched_priority = 30};
  syscall(SYS_sched_setscheduler, 0, SCHED_RR, &parameters);
  for (int i = 0; i < 3; i++) {
    order[atomic_fetch_add(&count, 1)] = 'L';
    sched_yield();
  }
  return NULL;
}

int main(void) {
  pin();
  struct sched_param parameters = {.sched_priority = 50};
  printf("fifo %ld", syscall(SYS_sched_setscheduler, 0, SCHED_FIFO, &parameters));
  memset(&parameters, 0, sizeof parameters);
  syscall(SYS_sched_getparam, 0, &parameters);
  printf(" %ld, priority %d\n", syscall(SYS_sched_getscheduler, 0), parameters.sched_priority);
  // Both are made while this thread, which is more urgent, has the CPU; they run when it waits.
  pthread_t threads[2];
  pthread_create(&threads[0], NULL, low, NULL);
  pthread_create(&threads[1], NULL, high, NULL);
  usleep(1);
  for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  printf("high before low: %s\n", order);
  memset(&parameters, 0, sizeof parameters);
  printf("idle %ld", syscall(SYS_sched_setscheduler, 0, SCHED_IDLE, &parameters));
  printf(" %ld", syscall(SYS_sched_getscheduler, 0));
  printf(", back %ld", syscall(SYS_sched_setscheduler, 0, SCHED_OTHER, &parameters));
  printf(" %ld\n", syscall(SYS_sched_getscheduler, 0));
  if (setresuid(1000, 1000, 1000) != 0) return 1;
  parameters.sched_priority = 1;
  printf("unprivileged %ld", syscall(SYS_sched_setscheduler, 0, SCHED_FIFO, &parameters));
  printf(" %s\n", strerror(errno));
  printf("raise nice %d", setpriority(PRIO_PROCESS, 0, -1));
  printf(" %s\n", strerror(errno));
  return 0;
}
