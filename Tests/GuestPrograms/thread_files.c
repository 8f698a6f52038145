// What /proc tells of each thread: its name (which others may set), state, signals and CPUs.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static volatile int tid;
static int stop[2];

static void *sleeper(void *argument) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigaddset(&set, SIGRTMIN + 4);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(0, &cpus);
  sched_setaffinity(0, sizeof cpus, &cpus);
  for (int i = 0; i < 10; i++) usleep(1000);
  tid = (int)syscall(SYS_gettid);
  char end;
  if (read(stop[0], &end, 1) != 1) perror("read");
  char name[17] = "";
  prctl(PR_GET_NAME, name);
  printf("its own name %s\n", name);
  return NULL;
}

static void handler(int signal) {}

static char text[8192];
static void load(int thread, const char *file) {
  char path[64];
  if (thread) {
    snprintf(path, sizeof path, "/proc/self/task/%d/%s", thread, file);
  } else {
    snprintf(path, sizeof path, "/proc/self/%s", file);
  }
  int fd = open(path, O_RDONLY);
  ssize_t count = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  text[count < 0 ? 0 : count] = 0;
  close(fd);
}

static void line(const char *what, const char *key) {
  char *at = strstr(text, key);
  int length = at ? (int)strcspn(at, "\n") : 0;
  printf("%s: %.*s\n", what, length, at ? at : "");
}

static int set(int thread, const char *name, int flags) {
  char path[64];
  snprintf(path, sizeof path, "/proc/self/task/%d/comm", thread);
  int fd = open(path, O_WRONLY | flags);
  if (fd < 0) return -1;
  int count = (int)write(fd, name, strlen(name));
  close(fd);
  return count;
}

int main(void) {
  // What whoever started it ignores is not its affair.
  const struct { void *handler; unsigned long flags; void *restorer; unsigned long mask; } plain = {0};
  for (int number = 1; number <= 64; number++) syscall(SYS_rt_sigaction, number, &plain, NULL, 8);
  signal(SIGUSR2, handler);
  signal(SIGHUP, SIG_IGN);
  if (pipe(stop)) perror("pipe");
  pthread_t thread;
  pthread_create(&thread, NULL, sleeper, NULL);
  while (!tid) usleep(1000);
  prctl(PR_SET_NAME, "first");
  printf("set %d", set(tid, "second", 0));
  printf(" cut %d", set(tid, "a name of more than 15", O_TRUNC));
  printf(" none %d", set(999999, "x", 0));
  printf(" %d\n", errno == ENOENT);
  load(tid, "comm");
  printf("comm %s", text);
  load(0, "comm");
  printf("comm %s", text);
  load((int)getpid(), "comm");
  printf("comm %s", text);

  sigset_t mine;
  sigemptyset(&mine);
  sigaddset(&mine, SIGTERM);
  sigaddset(&mine, SIGUSR1);
  sigprocmask(SIG_BLOCK, &mine, NULL);
  kill(getpid(), SIGUSR1);
  syscall(SYS_tgkill, getpid(), getpid(), SIGTERM);
  pthread_kill(thread, SIGRTMIN + 4);
  usleep(20000);
  const char *keys[] = {"Name:", "Threads:", "SigPnd:", "ShdPnd:", "SigBlk:", "SigIgn:"};
  load(0, "status");
  line("process", "State:");
  for (int i = 0; i < 6; i++) line("process", keys[i]);
  int first = 0, second = 0;
  char *at = strstr(text, "\nPid:");
  if (at) sscanf(at, "\nPid:\t%d", &first);
  unsigned long long caught = 0, used = 0, limit = 0;
  if ((at = strstr(text, "SigCgt:"))) sscanf(at, "SigCgt:\t%llx", &caught);
  if ((at = strstr(text, "SigQ:"))) sscanf(at, "SigQ:\t%llu/%llu", &used, &limit);
  printf("caught %d, queued %d\n", (int)(caught >> (SIGUSR2 - 1) & 1), used >= 3 && limit >= used);
  char state = 0;
  for (int i = 0; i < 500 && state != 'S'; i++) {
    usleep(10000);
    load(tid, "status");
    if ((at = strstr(text, "State:"))) state = at[7];
  }
  printf("state %c\n", state);
  for (int i = 0; i < 6; i++) line("thread", keys[i]);
  line("thread", "Cpus_allowed_list:");
  if ((at = strstr(text, "\nPid:"))) sscanf(at, "\nPid:\t%d", &second);
  printf("numbers %d %d\n", first == getpid(), second == tid);
  unsigned long long switches = 0;
  if ((at = strstr(text, "\nvoluntary_ctxt_switches:"))) sscanf(at, "\nvoluntary_ctxt_switches:\t%llu", &switches);
  printf("switches %d, involuntary told %d\n", switches > 5, strstr(text, "\nnonvoluntary_ctxt_switches:\t") != NULL);

  load(tid, "stat");
  int number = 0;
  char name[32] = "";
  sscanf(text, "%d (%31[^)]) %c", &number, name, &state);
  printf("stat %d %s\n", number == tid, name);
  if (write(stop[1], "", 1) != 1) perror("write");
  pthread_join(thread, NULL);
  // It is joined before it is gone.
  for (int i = 0; i < 500; i++) {
    load(tid, "comm");
    if (text[0] == 0) break;
    usleep(10000);
  }
  printf("gone %d\n", text[0] == 0);
  return 0;
}
