// Descriptors in unusual numbers: a limit that cannot be, numbers far out, huge counts for poll and select; epolls one in
// another, as deep as they may be and deeper; timers whose intervals are as long or as short as can be written.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static void show(const char *name, long result) {
  if (result < 0) {
    int code = errno;
    printf("%s: error %d\n", name, code);
  } else {
    printf("%s: %ld\n", name, result);
  }
}

static void limits(void) {
  struct rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  rlim_t most = limit.rlim_max;
  limit = (struct rlimit){1024, 1ul << 40};
  show("limit of 2^40", setrlimit(RLIMIT_NOFILE, &limit));
  limit.rlim_max = most;
  show("limit of 1024", setrlimit(RLIMIT_NOFILE, &limit));
  struct timeval zero = {0, 0};
  // Descriptors that do not exist are not looked for in memory either.
  show("select far", syscall(SYS_select, 0x7fffffff, NULL, NULL, NULL, &zero));
  show("select negative", syscall(SYS_select, -1, NULL, NULL, NULL, &zero));
  show("poll far", syscall(SYS_poll, NULL, 0xffffffff, 0));
  int last = fcntl(eventfd(0, 0), F_DUPFD, 1023);
  show("last", last);
  show("behind it", dup2(0, 1024));
  struct pollfd set = {last, POLLOUT, 0};
  show("poll", poll(&set, 1, 0));
  close(last);
}

static void nested(void) {
  int epolls[40], refused = -1, code = 0;
  for (int i = 0; i < 40; i++) epolls[i] = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN, .data.u64 = 5};
  int depth = 0;
  for (; depth < 39; depth++) {
    refused = epoll_ctl(epolls[depth], EPOLL_CTL_ADD, epolls[depth + 1], &event);
    code = errno;
    if (refused) break;
  }
  printf("as deep as %d, then error %d\n", depth, refused ? code : 0);
  int bottom = eventfd(0, 0);
  show("add", epoll_ctl(epolls[depth], EPOLL_CTL_ADD, bottom, &event));
  show("not ready", epoll_wait(epolls[0], &event, 1, 0));
  uint64_t one = 1;
  if (write(bottom, &one, 8) == 8) show("ready", epoll_wait(epolls[0], &event, 1, 0));
}

static volatile int expirations;
static void on_alarm(int number) { (void)number, expirations++; }

static void odd_timers(void) {
  struct itimerspec rarely = {{INT64_MAX, 0}, {0, 1}}, soon = {{0, 1}, {0, 1}};
  int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  timerfd_settime(timer, 0, &rarely, NULL);
  usleep(10000);
  uint64_t count = 0;
  show("timerfd", read(timer, &count, 8));
  printf("count %d\n", (int)count);
  show("once more", read(timer, &count, 8));
  close(timer);
  signal(SIGALRM, on_alarm);
  struct sigevent how = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
  timer_t posix;
  timer_create(CLOCK_MONOTONIC, &how, &posix);
  timer_settime(posix, 0, &rarely, NULL);
  for (struct timespec rest = {0, 30000000}; nanosleep(&rest, &rest);) continue;
  printf("expirations %d\n", expirations);
  // A signal that nobody takes, every nanosecond: the CPU has time for other things.
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGALRM);
  sigprocmask(SIG_BLOCK, &set, NULL);
  timer_settime(posix, 0, &soon, NULL);
  struct timespec start, end;
  clock_gettime(CLOCK_MONOTONIC, &start);
  for (volatile long i = 0; i < 20000000; i++) continue;
  clock_gettime(CLOCK_MONOTONIC, &end);
  printf("progress %d\n", end.tv_sec - start.tv_sec <= 1);
  timer_delete(posix);
}

static void odd_lengths(void) {
  char byte[2] = "x";
  struct iovec pieces[2] = {{byte, 1}, {NULL, INT64_MAX}};
  int sink = open("/dev/null", O_WRONLY), memory = memfd_create("m", 0);
  pieces[1].iov_len = 0;
  show("writev", writev(sink, pieces, 2));
  pieces[0].iov_len = -1;
  show("negative", writev(sink, pieces, 1));
  show("mincore of nothing", syscall(SYS_mincore, NULL, 0, NULL));
  void *place = mmap(NULL, 8192, PROT_READ, MAP_SHARED, memory, 0x7ffffffffffff000);
  show("mmap at the end", place == MAP_FAILED ? -1 : 0);
}

int main(void) {
  limits();
  nested();
  odd_timers();
  odd_lengths();
  return 0;
}
