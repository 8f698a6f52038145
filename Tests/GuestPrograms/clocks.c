// Clocks advance, agree, and sleeping takes the time it says.
// alone
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <sys/times.h>
#include <time.h>
#include <unistd.h>

static long long now(clockid_t clock) {
  struct timespec t;
  if (clock_gettime(clock, &t)) return -1;
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

int main(void) {
  long long before = now(CLOCK_MONOTONIC);
  long long last = before;
  int backwards = 0;
  for (int i = 0; i < 10000; i++) {
    long long next = now(CLOCK_MONOTONIC);
    backwards += next < last;
    last = next;
  }
  printf("backwards %d advanced %d\n", backwards, last > before);
  before = now(CLOCK_MONOTONIC);
  struct timespec pause = {.tv_nsec = 30 * 1000 * 1000};
  nanosleep(&pause, NULL);
  long long slept = now(CLOCK_MONOTONIC) - before;
  printf("slept enough %d, not far too long %d\n", slept >= 30000000, slept < 2000000000);
  struct timespec until;
  clock_gettime(CLOCK_MONOTONIC, &until);
  until.tv_nsec += 10 * 1000 * 1000;
  if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
  printf("absolute %d\n", clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL));
  printf("arrived %d\n", now(CLOCK_MONOTONIC) >= until.tv_sec * 1000000000ll + until.tv_nsec);
  struct timeval day;
  gettimeofday(&day, NULL);
  printf("after 2025 %d, time agrees %d\n", day.tv_sec > 1735689600, time(NULL) - day.tv_sec <= 1);
  printf("cpu time %d\n", now(CLOCK_PROCESS_CPUTIME_ID) > 0 && now(CLOCK_THREAD_CPUTIME_ID) > 0);
  struct timespec resolution;
  printf("resolution %d", clock_getres(CLOCK_MONOTONIC, &resolution));
  printf(" %ld\n", resolution.tv_nsec);
  printf("bad clock %d", clock_gettime(1000, &resolution));
  printf(" %s\n", strerror(errno));
  struct timespec bad = {.tv_nsec = 1000000000};
  printf("bad time %d", nanosleep(&bad, NULL));
  printf(" %s\n", strerror(errno));
  return 0;
}
