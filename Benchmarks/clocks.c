// What a program pays for the time: nanoseconds a call, the best of many short rounds. A line each: name, tab, value.
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <sys/time.h>
#include <time.h>

enum { ROUNDS = 200, CALLS = 2000 };

static long long now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

#define MEASURE(name, call)                                                                                            \
  do {                                                                                                                 \
    long long best = 1ll << 62;                                                                                        \
    for (int round = 0; round < ROUNDS; round++) {                                                                     \
      long long start = now();                                                                                         \
      for (int i = 0; i < CALLS; i++) call;                                                                            \
      long long took = now() - start;                                                                                  \
      if (took < best) best = took;                                                                                    \
    }                                                                                                                  \
    printf("%s\t%.2f\n", name, (double)best / CALLS);                                                                  \
  } while (0)

int main(void) {
  struct timespec t;
  struct timeval v;
  unsigned cpu;
  MEASURE("clock_gettime(CLOCK_MONOTONIC)", clock_gettime(CLOCK_MONOTONIC, &t));
  MEASURE("clock_gettime(CLOCK_REALTIME)", clock_gettime(CLOCK_REALTIME, &t));
  MEASURE("clock_gettime(CLOCK_MONOTONIC_COARSE)", clock_gettime(CLOCK_MONOTONIC_COARSE, &t));
  MEASURE("gettimeofday", gettimeofday(&v, NULL));
  MEASURE("time", time(NULL));
  MEASURE("getcpu", getcpu(&cpu, NULL));
  MEASURE("clock_gettime(CLOCK_THREAD_CPUTIME_ID)", clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t));
  return 0;
}
