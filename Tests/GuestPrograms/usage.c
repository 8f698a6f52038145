// What a program has used: page faults of threads and of the process, switches, and the time of each CPU.
// alone
// flavours: glibc-static musl-static
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef RUSAGE_THREAD
#define RUSAGE_THREAD 1
#endif

static const char *yes(int condition) { return condition ? "yes" : "no"; }

static long faults(int who) {
  struct rusage usage;
  getrusage(who, &usage);
  return usage.ru_minflt;
}

// Field 10 (or 12) of stat: page faults.
static long stat_field(const char *path, int field) {
  char text[1024] = "";
  FILE *file = fopen(path, "r");
  if (!file || !fgets(text, sizeof text, file)) return -1;
  fclose(file);
  char *at = strrchr(text, ')') + 2;
  for (int i = 3; i < field; i++) at = strchr(at, ' ') + 1;
  return atol(at);
}

// Touches fresh memory: a fault each page by Linux, fewer where the kernel maps ahead.
static void touch(void) {
  enum { SIZE = 8 << 20 };
  char *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  madvise(memory, SIZE, MADV_NOHUGEPAGE);
  for (int i = 0; i < SIZE; i += 4096) memory[i] = 1;
  munmap(memory, SIZE);
}

static long of_thread;

static void *toucher(void *argument) {
  long before = faults(RUSAGE_THREAD);
  touch();
  of_thread = faults(RUSAGE_THREAD) - before;
  return NULL;
}

static void page_faults(void) {
  long before = faults(RUSAGE_SELF);
  touch();
  long mine = faults(RUSAGE_SELF) - before;
  printf("faults: %s", yes(mine >= 8 && mine <= 4096));
  long thread_before = faults(RUSAGE_THREAD);
  before = faults(RUSAGE_SELF);
  pthread_t thread;
  pthread_create(&thread, NULL, toucher, NULL);
  pthread_join(thread, NULL);
  printf(", of a thread: %s", yes(of_thread >= 8));
  printf(", not of this one: %s", yes(faults(RUSAGE_THREAD) - thread_before < of_thread));
  printf(", kept when it has ended: %s", yes(faults(RUSAGE_SELF) - before >= of_thread));
  long low = faults(RUSAGE_SELF);
  long told = stat_field("/proc/self/stat", 10);
  printf(", told in /proc: %s", yes(told >= low && told <= faults(RUSAGE_SELF)));
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  printf(", major: %s\n", yes(usage.ru_majflt >= 0 && stat_field("/proc/self/stat", 12) >= usage.ru_majflt));
}

static void children(void) {
  struct rusage before, after, child;
  getrusage(RUSAGE_CHILDREN, &before);
  pid_t pid = vfork();
  if (pid == 0) {
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do clock_gettime(CLOCK_MONOTONIC, &now);
    while ((now.tv_sec - start.tv_sec) * 1000000000L + now.tv_nsec - start.tv_nsec < 50000000);
    _exit(0);
  }
  wait4(pid, NULL, 0, &child);
  getrusage(RUSAGE_CHILDREN, &after);
  long used = (child.ru_utime.tv_sec + child.ru_stime.tv_sec) * 1000000 + child.ru_utime.tv_usec + child.ru_stime.tv_usec;
  long grew = (after.ru_utime.tv_sec + after.ru_stime.tv_sec - before.ru_utime.tv_sec - before.ru_stime.tv_sec) * 1000000
              + after.ru_utime.tv_usec + after.ru_stime.tv_usec - before.ru_utime.tv_usec - before.ru_stime.tv_usec;
  printf("child: %s", yes(used > 10000));
  // Linux tells a child's time in ticks of its own making: the two need not agree to the microsecond.
  printf(", added: %s\n", yes(labs(grew - used) < 20000));
}

static void switches(void) {
  struct rusage before, after;
  getrusage(RUSAGE_SELF, &before);
  // Long enough that no machine, however slow, finds the time over before it has slept.
  for (int i = 0; i < 10; i++) usleep(5000);
  getrusage(RUSAGE_SELF, &after);
  printf("voluntary switches: %s\n", yes(after.ru_nvcsw - before.ru_nvcsw >= 10));
}

// The busy and the idle hundredths of a CPU; -1: of all.
static int times(int cpu, long *busy, long *idle) {
  char name[16], line[512];
  if (cpu < 0) strcpy(name, "cpu "); else snprintf(name, sizeof name, "cpu%d ", cpu);
  FILE *file = fopen("/proc/stat", "r");
  while (file && fgets(line, sizeof line, file)) {
    if (strncmp(line, name, strlen(name)) != 0) continue;
    long user, nice, system, rest;
    sscanf(strchr(line, ' '), "%ld %ld %ld %ld", &user, &nice, &system, &rest);
    *busy = user + nice + system;
    *idle = rest;
    fclose(file);
    return 1;
  }
  return 0;
}

static void burn_on(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof set, &set);
  long busy, idle, busy_after, idle_after, all, all_after;
  times(cpu, &busy, &idle);
  times(-1, &all, &idle);
  struct timespec start, now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &start);
  do clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  while ((now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000 < 300);
  times(cpu, &busy_after, &idle_after);
  times(-1, &all_after, &idle_after);
  printf("busy: %s, of all: %s\n", yes(busy_after - busy >= 25), yes(all_after - all >= 25));
}

static void sleep_on(int cpu) {
  long busy, idle, busy_after, idle_after;
  times(-1, &busy, &idle);
  usleep(300000);
  times(-1, &busy_after, &idle_after);
  long cpus = sysconf(_SC_NPROCESSORS_ONLN);
  // All that passed, on all CPUs, was either.
  long sum = busy_after - busy + idle_after - idle;
  printf("all time is told: %s\n", yes(sum >= 15 && sum <= 120 * cpus));
}

int main(void) {
  page_faults();
  children();
  switches();
  long busy, idle;
  int last = times(1, &busy, &idle) ? 1 : 0;
  burn_on(0);
  burn_on(last);
  sleep_on(last);
  return 0;
}
