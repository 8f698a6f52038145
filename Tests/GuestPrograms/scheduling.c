// Policies, nice levels, affinity and CPU-time clocks: what can be asked and set without privilege.
// alone
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct attributes {
  unsigned size, policy;
  unsigned long long flags;
  int nice;
  unsigned priority;
  unsigned long long runtime, deadline, period;
};

static long long now(clockid_t clock) {
  struct timespec t;
  if (clock_gettime(clock, &t)) return -1;
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static volatile int stop;

static void *spin(void *argument) {
  while (!stop) {}
  return NULL;
}

int main(void) {
  printf("policy %d", (int)syscall(SYS_sched_getscheduler, 0));
  struct sched_param parameters = {0};
  printf(", get %ld priority %d\n", syscall(SYS_sched_getparam, 0, &parameters), parameters.sched_priority);
  printf("batch %ld", syscall(SYS_sched_setscheduler, 0, SCHED_BATCH, &parameters));
  printf(" %ld\n", syscall(SYS_sched_getscheduler, 0));
  printf("other %ld", syscall(SYS_sched_setscheduler, 0, SCHED_OTHER, &parameters));
  printf(" %ld\n", syscall(SYS_sched_getscheduler, 0));
  parameters.sched_priority = 1;
  printf("wrong priority %ld", syscall(SYS_sched_setscheduler, 0, SCHED_OTHER, &parameters));
  printf(" %s\n", strerror(errno));
  printf("wrong policy %ld", syscall(SYS_sched_setscheduler, 0, 77, &parameters));
  printf(" %s\n", strerror(errno));
  printf("nobody %ld", syscall(SYS_sched_getscheduler, 999999));
  printf(" %s\n", strerror(errno));
  printf("priorities %d to %d, %d to %d\n", sched_get_priority_min(SCHED_FIFO), sched_get_priority_max(SCHED_FIFO),
         sched_get_priority_min(SCHED_OTHER), sched_get_priority_max(SCHED_OTHER));
  printf("nice %d", getpriority(PRIO_PROCESS, 0));
  printf(" set %d", setpriority(PRIO_PROCESS, 0, 7));
  printf(" now %d", getpriority(PRIO_PROCESS, 0));
  printf(" clamped %d %d\n", setpriority(PRIO_PROCESS, 0, 100), getpriority(PRIO_PROCESS, 0));
  struct attributes attributes = {0};
  printf("attributes %ld: size %u policy %u nice %d\n",
         syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0), attributes.size >= 48, attributes.policy,
         attributes.nice);
  cpu_set_t set;
  CPU_ZERO(&set);
  printf("affinity %d", sched_getaffinity(0, sizeof set, &set));
  printf(" has 0: %d\n", CPU_ISSET(0, &set) != 0);
  CPU_ZERO(&set);
  CPU_SET(0, &set);
  printf("pin %d", sched_setaffinity(0, sizeof set, &set));
  printf(" on %d\n", sched_getcpu());
  CPU_ZERO(&set);
  printf("nowhere %d", sched_setaffinity(0, sizeof set, &set));
  printf(" %s\n", strerror(errno));
  // Larger than any kernel's set.
  static unsigned char large[1 << 16] = {1};
  printf("huge set %ld", syscall(SYS_sched_setaffinity, 0, (size_t)-1, large));
  printf(" none %ld", syscall(SYS_sched_setaffinity, 0, 0, large));
  printf(" %s\n", strerror(errno));

  pthread_t thread;
  pthread_create(&thread, NULL, spin, NULL);
  clockid_t clock, process;
  printf("clock of thread %d", pthread_getcpuclockid(thread, &clock));
  printf(", of process %d\n", clock_getcpuclockid(0, &process));
  long long start = now(clock), all = now(CLOCK_PROCESS_CPUTIME_ID), mine = now(CLOCK_THREAD_CPUTIME_ID);
  // Its nice level is 19: on a machine that others use too it may have to wait.
  for (int i = 0; i < 200 && now(clock) - start <= 5000000; i++) usleep(60000);
  long long used = now(clock) - start, total = now(process) - all, own = now(CLOCK_THREAD_CPUTIME_ID) - mine;
  printf("it ran %d, counted in the process %d, I did not %d\n", used > 5000000, total >= used, own < used);
  stop = 1;
  pthread_join(thread, NULL);
  struct rusage usage;
  printf("usage %d", getrusage(RUSAGE_THREAD, &usage));
  printf(" switched %d\n", usage.ru_nvcsw > 0);
  return 0;
}
