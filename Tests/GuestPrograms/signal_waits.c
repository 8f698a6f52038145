// Waits with signal masks and time-outs: ppoll, pselect and epoll_pwait with a mask wait as long as they should, select and
// ppoll store what is left, a futex's time-out ends under a quicker timer, and a signal for the process goes to another
// thread once the one it was meant for blocks it, stops waiting for it, or ends.
// alone
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + time.tv_nsec / 1e9;
}

static volatile int alarms, nested, depth;
static void on_alarm(int number) { (void)number, alarms++; }
static void on_hangup(int number) {
  (void)number;
  if (nested++ == 0) kill(getpid(), SIGHUP);
}

static void waits_with_masks(void) {
  sigset_t none, alarm_only;
  sigemptyset(&none);
  sigemptyset(&alarm_only);
  sigaddset(&alarm_only, SIGALRM);
  struct timespec time = {0, 30000000};
  double start = now();
  printf("ppoll %d", ppoll(NULL, 0, &time, &none));
  printf(" %d\n", now() - start > 0.029);
  start = now();
  printf("pselect %d", pselect(0, NULL, NULL, NULL, &time, &none));
  printf(" %d\n", now() - start > 0.029);
  int epoll = epoll_create1(0);
  struct epoll_event event;
  start = now();
  printf("epoll_pwait %d", epoll_pwait(epoll, &event, 1, 30, &none));
  printf(" %d\n", now() - start > 0.029);
  // A blocked signal that is pending is let in by the mask, and the former mask is back afterwards.
  pthread_sigmask(SIG_BLOCK, &alarm_only, NULL);
  kill(getpid(), SIGALRM);
  int before = alarms;
  int result = ppoll(NULL, 0, NULL, &none);
  printf("let in %d %d %d\n", result, errno == EINTR, alarms - before);
  sigset_t mask;
  pthread_sigmask(SIG_UNBLOCK, &alarm_only, &mask);
  printf("blocked again %d\n", sigismember(&mask, SIGALRM));
  result = syscall(SYS_epoll_wait, epoll, &event, 0x7fffffff, 0);
  printf("too many %d %d\n", result, errno == EINVAL);
}

static void what_is_left(void) {
  int ends[2];
  if (pipe(ends) || write(ends[1], "x", 1) != 1) return;
  struct timeval time = {5, 0};
  fd_set set;
  FD_ZERO(&set);
  FD_SET(ends[0], &set);
  int ready = syscall(SYS_select, ends[0] + 1, &set, NULL, NULL, &time);
  printf("select %d, less left: %d\n", ready, time.tv_sec == 4 && time.tv_usec > 0);
  time = (struct timeval){0, 20000};
  ready = syscall(SYS_select, 0, NULL, NULL, NULL, &time);
  printf("select %d, nothing left: %d\n", ready, time.tv_sec == 0 && time.tv_usec == 0);
  struct timespec precise = {5, 0};
  struct pollfd wanted = {ends[0], POLLIN, 0};
  ready = syscall(SYS_ppoll, &wanted, 1, &precise, NULL, 0);
  printf("ppoll %d, less left: %d\n", ready, precise.tv_sec == 4 && precise.tv_nsec > 0);
}

static void time_out_under_a_timer(void) {
  struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
  sigaction(SIGALRM, &action, NULL);
  struct itimerval quick = {{0, 10000}, {0, 10000}}, off = {0};
  setitimer(ITIMER_REAL, &quick, NULL);
  int word = 0;
  struct timespec time = {0, 50000000};
  long result = syscall(SYS_futex, &word, 128 /* FUTEX_WAIT, private */, 0, &time, NULL, 0);
  printf("futex %ld %d\n", result, errno == EINTR);
  setitimer(ITIMER_REAL, &off, NULL);
}

// Which thread handled which signal.
static pthread_t handlers[2];
static volatile int taken;
static void on_second(int number) {
  (void)number;
  handlers[1] = pthread_self();
  taken = 1;
}
static void wait_for_taken(void) {
  for (double end = now() + 5; !taken && now() < end;) usleep(1000);
}
static void on_first(int number) {
  (void)number;
  handlers[0] = pthread_self();
  wait_for_taken();  // SIGUSR2 is blocked here: the other thread has to take it.
}
static void *sends_two(void *argument) {
  usleep(20000);  // Until the main thread waits, with nothing blocked.
  kill(getpid(), SIGUSR1);
  kill(getpid(), SIGUSR2);
  for (double end = now() + 5; !taken && now() < end;) usleep(100000);
  return argument;
}

static void *waits_for_first(void *argument) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  int number = 0;
  sigwait(&set, &number);
  *(int *)argument = number;
  return NULL;
}

static void passed_on(void) {
  struct sigaction second = {.sa_handler = on_second}, first = {.sa_handler = on_first};
  sigaddset(&first.sa_mask, SIGUSR2);
  sigaction(SIGUSR1, &first, NULL);
  sigaction(SIGUSR2, &second, NULL);
  pthread_t thread;
  pthread_create(&thread, NULL, sends_two, NULL);
  pthread_join(thread, NULL);
  printf("passed on %d, to another %d\n", taken, !pthread_equal(handlers[0], handlers[1]));
  // Two threads wait for two signals.
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
  int numbers[2] = {0, 0};
  pthread_t waiters[2];
  for (int i = 0; i < 2; i++) pthread_create(&waiters[i], NULL, waits_for_first, &numbers[i]);
  usleep(20000);
  kill(getpid(), SIGUSR1);
  while (!numbers[0] && !numbers[1]) usleep(1000);
  kill(getpid(), SIGUSR1);
  for (int i = 0; i < 2; i++) pthread_join(waiters[i], NULL);
  printf("waited for %d %d\n", numbers[0] == SIGUSR1, numbers[1] == SIGUSR1);
}

int main(void) {
  struct sigaction action = {.sa_handler = on_alarm}, again = {.sa_handler = on_hangup};
  sigaction(SIGALRM, &action, NULL);
  sigaction(SIGHUP, &again, NULL);
  kill(getpid(), SIGHUP);
  printf("a signal sent by its own handler comes behind it: %d\n", nested);
  waits_with_masks();
  what_is_left();
  time_out_under_a_timer();
  passed_on();
  return 0;
}
