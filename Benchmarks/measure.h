// What the measuring programs share: the time, and a CPU of their own. _GNU_SOURCE is defined by whoever includes this.
#include <sched.h>
#include <time.h>

// Nanoseconds of the monotonic clock.
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e9 + t.tv_nsec;
}

// The calling thread runs on that CPU alone.
static void pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof set, &set);
}
