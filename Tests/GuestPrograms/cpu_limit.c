// RLIMIT_CPU: SIGXCPU at the soft limit and each second after it, SIGKILL at the hard one.
// alone
// flavours: musl-static
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static long used_milliseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void exceeded(int signal) {
  struct rlimit limit;
  getrlimit(RLIMIT_CPU, &limit);
  long used = used_milliseconds();
  char text[96];
  // To the nearest second: a tick or a busy machine may be late.
  int length = snprintf(text, sizeof text, "signal %d after %ld s, next at %ld of %ld\n", signal, (used + 500) / 1000,
                        (long)limit.rlim_cur, (long)limit.rlim_max);
  if (write(1, text, (size_t)length) != length) _exit(1);
}

int main(void) {
  struct sigaction action = {.sa_handler = exceeded, .sa_flags = SA_RESTART};
  sigaction(SIGXCPU, &action, NULL);
  struct rlimit limit = {.rlim_cur = 1, .rlim_max = 3};
  printf("set %d", setrlimit(RLIMIT_CPU, &limit));
  limit = (struct rlimit){0, 0};
  getrlimit(RLIMIT_CPU, &limit);
  printf(": %ld %ld\n", (long)limit.rlim_cur, (long)limit.rlim_max);
  fflush(stdout);
  while (used_milliseconds() < 5000);
  puts("not killed");
  return 0;
}
