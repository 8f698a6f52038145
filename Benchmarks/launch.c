// Starts a command and says when its first output came and when its end was collected, in microseconds since just before execve.
//
//   launch COMMAND [ARGUMENT...]      prints "FIRST-OUTPUT END STATUS" on standard error's twin, descriptor 3
//
// The command's standard output is read and dropped; its standard input is /dev/null. The start is stamped by the child itself, the
// instant before execve, so that the price of making a process is not counted.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

int main(int count, char **arguments) {
  if (count < 2) return fprintf(stderr, "usage: launch COMMAND [ARGUMENT...]\n"), 2;
  volatile double *start = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  int output[2];
  if (pipe(output) != 0) return perror("pipe"), 2;
  pid_t child = vfork();
  if (child == 0) {
    dup2(output[1], 1);
    close(output[0]), close(output[1]);
    int null = open("/dev/null", O_RDONLY);
    dup2(null, 0);
    close(null), close(3);
    *start = now();
    execv(arguments[1], arguments + 1);
    _exit(127);
  }
  close(output[1]);
  static char buffer[1 << 16];
  double first = 0;
  for (;;) {
    ssize_t n = read(output[0], buffer, sizeof buffer);
    if (n <= 0) break;
    if (first == 0) first = now();
  }
  int status;
  waitpid(child, &status, 0);
  double end = now();
  dprintf(3, "%.1f %.1f %d\n", first == 0 ? 0 : first - *start, end - *start, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
  return 0;
}
