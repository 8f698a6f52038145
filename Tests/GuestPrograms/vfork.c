// vfork on a shared stack: the child runs where its parent waits, the same call returns twice, by the instruction and by a jump (the
// calls are made often enough to be rewritten); what children leave behind, what waits tell of them, and what is theirs alone.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(condition)                                                   \
  do {                                                                     \
    if (!(condition)) {                                                    \
      printf("line %d: %s (%s)\n", __LINE__, #condition, strerror(errno)); \
      exit(1);                                                             \
    }                                                                      \
  } while (0)

static volatile int shared;
static volatile sig_atomic_t heard;
static siginfo_t told;

static void hear(int number, siginfo_t *information, void *context) {
  heard++;
  told = *information;
}

/// The child's calls go deep over what the parent had below its frame.
__attribute__((noinline)) static int deep(int depth) {
  volatile char room[512];
  memset((char *)room, depth, sizeof room);
  getppid();
  return depth == 0 ? room[7] : deep(depth - 1) + room[3] - depth;
}

/// Children one after another, from one place: its call returns twice each time, and becomes a jump on the way.
__attribute__((noinline)) static void many(int count) {
  volatile uint64_t canary[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  for (int i = 0; i < count; i++) {
    pid_t parent = getpid();
    pid_t child = vfork();
    CHECK(child >= 0);
    if (child == 0) {
      shared = deep(20) + i;
      if (getppid() != parent || getpid() == parent) _exit(99);
      _exit(i & 0x7f);
    }
    // It has run before its parent goes on.
    CHECK(shared == i);
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == (i & 0x7f));
    for (int j = 0; j < 8; j++) CHECK(canary[j] == (uint64_t)j + 1);
  }
  int status;
  CHECK(waitpid(-1, &status, 0) == -1 && errno == ECHILD);
}

/// The call itself, with the registers that a program may hold across it.
__attribute__((always_inline)) static inline long raw_vfork(void) {
  long result;
  register long r12 __asm__("r12") = 0x1212;
  register long r15 __asm__("r15") = 0x1515;
  __asm__ volatile("syscall" : "=a"(result), "+r"(r12), "+r"(r15) : "a"(SYS_vfork) : "rcx", "r11", "memory");
  if (r12 != 0x1212 || r15 != 0x1515) _exit(98);
  return result;
}

__attribute__((noinline)) static pid_t raw_child(int status) {
  long child = raw_vfork();
  CHECK(child >= 0);
  if (child == 0) _exit(status);
  return child;
}

static void *beside(void *argument) {
  for (int i = 0; i < 200; i++) {
    pid_t child = vfork();
    if (child == 0) _exit(3);
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child || WEXITSTATUS(status) != 3) return (void *)1;
  }
  return NULL;
}

/// A child that runs a function: the frame whose call returns twice keeps nothing else.
__attribute__((noinline)) static pid_t child_that(int (*body)(int *), int *argument) {
  pid_t child = vfork();
  if (child == 0) _exit(body(argument));
  return child;
}

static int changes(int *file) {
  close(*file);
  signal(SIGCHLD, SIG_IGN);
  if (chdir("/dev") != 0) return 1;
  return 5;
}
static int writes(int *ends) { return write(ends[1], "child", 5) != 5; }
static int kills_itself(int *unused) { return kill(getpid(), SIGTERM); }
static int nothing(int *unused) { return 0; }

static int child_function(void *argument) {
  *(int *)argument = 7;
  return 11;
}

int main(void) {
  many(100);
  printf("many\n");

  // Twenty with the instruction written out here.
  for (int i = 0; i < 20; i++) {
    pid_t child = raw_child(40 + i);
    int status;
    CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 40 + i);
  }
  printf("raw\n");

  // Descriptors and signal actions are the child's own.
  struct sigaction action = {.sa_sigaction = hear, .sa_flags = SA_SIGINFO | SA_RESTART};
  sigaction(SIGCHLD, &action, NULL);
  int file = open("/dev/null", O_RDONLY);
  pid_t child = child_that(changes, &file);
  CHECK(fcntl(file, F_GETFD) >= 0);
  struct sigaction now;
  sigaction(SIGCHLD, NULL, &now);
  CHECK(now.sa_sigaction == hear);
  char *place = getcwd(NULL, 0);
  CHECK(strcmp(place, "/dev") != 0);
  // Linux lets the parent go on before it tells it of the child's end.
  for (int i = 0; i < 5000 && !heard; i++) usleep(1000);
  CHECK(heard == 1 && told.si_signo == SIGCHLD && told.si_code == CLD_EXITED && told.si_pid == child);
  CHECK(told.si_status == 5);
  siginfo_t information;
  CHECK(waitid(P_PID, child, &information, WEXITED | WNOWAIT) == 0 && information.si_status == 5);
  CHECK(waitid(P_ALL, 0, &information, WEXITED) == 0 && information.si_pid == child);
  CHECK(information.si_code == CLD_EXITED && information.si_status == 5);
  CHECK(waitid(P_ALL, 0, &information, WEXITED) == -1 && errno == ECHILD);
  printf("its own\n");

  // A pipe whose writing end only the child has left is at its end with it.
  int ends[2];
  CHECK(pipe(ends) == 0);
  child = child_that(writes, ends);
  close(ends[1]);
  char text[10] = "";
  CHECK(read(ends[0], text, 10) == 5 && !strcmp(text, "child") && read(ends[0], text, 10) == 0);
  CHECK(waitpid(0, NULL, 0) == child);
  printf("pipe\n");

  // Death by a signal.
  child = child_that(kills_itself, NULL);
  int status;
  CHECK(wait(&status) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
  CHECK(told.si_code == CLD_KILLED && told.si_status == SIGTERM);
  CHECK(kill(child, 0) == -1 && errno == ESRCH);
  printf("killed\n");

  // Nobody to wait for.
  CHECK(waitpid(-1, &status, WNOHANG) == -1 && errno == ECHILD);
  signal(SIGCHLD, SIG_IGN);
  child = child_that(nothing, NULL);
  CHECK(waitpid(child, &status, 0) == -1 && errno == ECHILD);
  signal(SIGCHLD, SIG_DFL);
  printf("unwanted\n");

  // From several threads, each waiting for its own.
  pthread_t threads[4];
  for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, beside, NULL) == 0);
  for (int i = 0; i < 4; i++) {
    void *failed;
    pthread_join(threads[i], &failed);
    CHECK(!failed);
  }
  printf("threads\n");

  // A stack of its own, as posix_spawn gives it.
  char *stack = malloc(65536);
  int seen = 0;
  child = clone(child_function, stack + 65536, CLONE_VM | CLONE_VFORK | SIGCHLD, &seen);
  CHECK(child > 0 && seen == 7 && waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 11);
  printf("clone\n");

  // A program that is not there: the child's failure reaches its parent through the shared memory.
  char *arguments[] = {"no-such-program", NULL};
  CHECK(posix_spawn(&child, "/no-such-program", NULL, NULL, arguments, NULL) != 0);
  CHECK(waitpid(-1, &status, 0) == -1 && errno == ECHILD);
  printf("spawn\n");
  return 0;
}
