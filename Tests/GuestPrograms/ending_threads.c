// A process ends while threads of its own make more threads: none of them is left when its parent has been told, neither those that there
// were nor those that were being made.
// flavours: glibc-static musl-static
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 200, THREADS = 48, STACK = 16384, MAKERS = 2 };

static char stacks[THREADS + MAKERS + 1][STACK] __attribute__((aligned(64)));
static atomic_int made, signs;

static const int shared = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;

static void rest(long nanoseconds) {
  struct timespec time = {0, nanoseconds};
  syscall(SYS_nanosleep, &time, NULL);
}

static int live(void *argument) {
  for (;;) {
    atomic_fetch_add(&signs, 1);
    rest(500000);
  }
  return 0;
}

static int make(void *argument) {
  for (;;) {
    int index = atomic_fetch_add(&made, 1);
    if (index >= THREADS) rest(1000000);
    else clone(live, stacks[index] + STACK, shared, NULL);
  }
  return 0;
}

static int child(void *argument) {
  for (int i = 0; i < MAKERS; i++) clone(make, stacks[THREADS + i] + STACK, shared, NULL);
  rest(20000 + *(int *)argument % 20 * 20000);
  syscall(SYS_exit_group, 7);
  return 0;
}

int main(void) {
  int wrong = 0, left = 0;
  for (int round = 0; round < ROUNDS; round++) {
    atomic_store(&made, 0);
    pid_t process = clone(child, stacks[THREADS + MAKERS] + STACK, CLONE_VM | CLONE_VFORK | SIGCHLD, &round);
    int status = 0;
    if (waitpid(process, &status, 0) != process || !WIFEXITED(status) || WEXITSTATUS(status) != 7) wrong++;
    int before = atomic_load(&signs);
    rest(2000000);
    left += atomic_load(&signs) != before;
  }
  printf("%d wrong, %d with threads that were left\n", wrong, left);
  return 0;
}
