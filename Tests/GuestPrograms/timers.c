// Interval timers and timers by timer_create: signals in time, intervals, overruns, what is left, CPU time, errors.
// alone
// linux: 6.13
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static volatile sig_atomic_t alarms, expirations, code, value, virtuals, profs;
static volatile pid_t receiver;

static void on_alarm(int number) { alarms++; }
static void on_virtual(int number) { virtuals++; }
static void on_prof(int number) { profs++; }
static void on_timer(int number, siginfo_t *information, void *context) {
  expirations++;
  code = information->si_code;
  value = information->si_value.sival_int;
  receiver = (pid_t)syscall(SYS_gettid);
}

static long long now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void wait_for(volatile sig_atomic_t *count, int wanted) {
  for (int i = 0; i < 5000 && *count < wanted; i++) usleep(1000);
}

static volatile double sink;
static void burn_until(volatile sig_atomic_t *count, int wanted) {
  long long end = now() + 5000000000ll;
  while (*count < wanted && now() < end) sink += 1;
}

static void *own_timer(void *argument) {
  struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR2, .sigev_value.sival_int = 5};
  event.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
  timer_t timer;
  timer_create(CLOCK_MONOTONIC, &event, &timer);
  struct itimerspec setting = {.it_value.tv_nsec = 2000000};
  int before = expirations;
  timer_settime(timer, 0, &setting, NULL);
  while (expirations == before) usleep(500);
  timer_delete(timer);
  return (void *)(long)(receiver == event.sigev_notify_thread_id);
}

int main(void) {
  signal(SIGALRM, on_alarm);
  signal(SIGVTALRM, on_virtual);
  signal(SIGPROF, on_prof);
  struct sigaction action = {.sa_sigaction = on_timer, .sa_flags = SA_SIGINFO};
  sigaction(SIGUSR1, &action, NULL);
  sigaction(SIGUSR2, &action, NULL);

  struct itimerval interval = {.it_value.tv_usec = 5000, .it_interval.tv_usec = 5000}, old;
  long long start = now();
  printf("set %d\n", setitimer(ITIMER_REAL, &interval, NULL));
  wait_for(&alarms, 4);
  printf("four alarms, not early %d\n", now() - start >= 20000000);
  memset(&interval, 0, sizeof interval);
  setitimer(ITIMER_REAL, &interval, &old);
  printf("interval was %ld, left %d\n", (long)old.it_interval.tv_usec, old.it_value.tv_usec > 0);
  getitimer(ITIMER_REAL, &old);
  printf("stopped %d\n", old.it_value.tv_usec == 0 && old.it_value.tv_sec == 0);
  printf("alarm %u", alarm(100));
  printf(" left %u\n", alarm(0));
  printf("bad %d", setitimer(9, &interval, NULL));
  printf(" %s\n", strerror(errno));

  interval.it_value.tv_usec = 3000;
  setitimer(ITIMER_VIRTUAL, &interval, NULL);
  setitimer(ITIMER_PROF, &interval, NULL);
  burn_until(&virtuals, 1);
  burn_until(&profs, 1);
  printf("cpu time: %d %d\n", virtuals, profs);

  timer_t timer;
  struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 42};
  printf("create %d\n", timer_create(CLOCK_MONOTONIC, &event, &timer));
  struct itimerspec setting = {.it_value.tv_nsec = 3000000, .it_interval.tv_nsec = 3000000}, was;
  start = now();
  printf("settime %d\n", timer_settime(timer, 0, &setting, NULL));
  wait_for(&expirations, 3);
  printf("three, not early %d, from a timer %d, value %d\n", now() - start >= 9000000, code == SI_TIMER, value);
  printf("gettime %d", timer_gettime(timer, &was));
  printf(" interval %ld, left %d\n", was.it_interval.tv_nsec, was.it_value.tv_nsec > 0);

  // Blocked for 30 ms, or longer on a slow machine: one signal, the others are overruns, counted when it is taken.
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigprocmask(SIG_BLOCK, &set, NULL);
  siginfo_t information;
  struct timespec none = {0};
  while (sigtimedwait(&set, &information, &none) > 0) continue;
  start = now();
  int before = timer_getoverrun(timer), isFixed = 1;
  usleep(30000);
  isFixed &= timer_getoverrun(timer) == before;
  int isOne = sigtimedwait(&set, &information, &none) == SIGUSR1;
  int overrun = information.si_overrun, isCounted = overrun >= 5 && overrun <= (now() - start) / 3000000 + 1;
  usleep(10000);
  isFixed &= timer_getoverrun(timer) == overrun;
  printf("one signal %d, overruns %d, fixed when it was taken %d\n", isOne, isCounted, isFixed);
  // Disarmed, set anew or deleted, it takes its signal back; that of somebody else stays.
  setting.it_value.tv_nsec = setting.it_interval.tv_nsec = 0;
  timer_settime(timer, 0, &setting, NULL);
  printf("disarmed %d", sigtimedwait(&set, &information, &none));
  printf(" overruns %d\n", timer_getoverrun(timer));
  kill(getpid(), SIGUSR1);
  setting.it_value.tv_nsec = 1;
  timer_settime(timer, 0, &setting, NULL);
  usleep(10000);
  for (int i = 0; i < 3; i++) {
    int taken = sigtimedwait(&set, &information, &none);
    printf("beside another %d", taken == SIGUSR1);
    printf(" %d\n", taken < 0 ? 0 : information.si_code);
  }
  timer_settime(timer, 0, &setting, NULL);
  usleep(10000);
  kill(getpid(), SIGUSR1);
  printf("delete %d\n", timer_delete(timer));
  printf("left %d", sigtimedwait(&set, &information, &none) == SIGUSR1);
  printf(" code %d", information.si_code);
  printf(" more %d\n", sigtimedwait(&set, &information, &none));
  sigprocmask(SIG_UNBLOCK, &set, NULL);
  printf("again %d", (int)syscall(SYS_timer_delete, timer));
  printf(" %s\n", strerror(errno));

  // An absolute time that has passed: at once.
  timer_create(CLOCK_REALTIME, &event, &timer);
  memset(&setting, 0, sizeof setting);
  setting.it_value.tv_sec = 1;
  before = expirations;
  timer_settime(timer, TIMER_ABSTIME, &setting, NULL);
  wait_for(&expirations, before + 1);
  printf("past %d\n", expirations - before);
  timer_delete(timer);

  timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer);
  setting.it_value.tv_sec = 0, setting.it_value.tv_nsec = 3000000;
  before = expirations;
  timer_settime(timer, 0, &setting, NULL);
  burn_until(&expirations, before + 1);
  printf("thread's cpu time %d\n", expirations - before);
  timer_delete(timer);

  event.sigev_signo = 99;
  printf("bad signal %d", timer_create(CLOCK_MONOTONIC, &event, &timer));
  printf(" %s\n", strerror(errno));
  pthread_t thread;
  void *result;
  pthread_create(&thread, NULL, own_timer, NULL);
  pthread_join(thread, &result);
  printf("its own thread %ld\n", (long)result);
  return 0;
}
