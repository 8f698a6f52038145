// The stack grows by faults to its limit; past it the program dies of SIGSEGV, not the kernel.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int deep(int level) {
  volatile char frame[4096];
  memset((void *)frame, level, sizeof frame);
  return level == 0 ? frame[0] : deep(level - 1) + (frame[100] != (char)level);
}

#pragma GCC diagnostic ignored "-Wpragmas"
#pragma GCC diagnostic ignored "-Winfinite-recursion"  // It is meant to be.
static long endless(long level) {
  volatile char frame[1024];
  frame[0] = (char)level;
  return endless(level + 1) + frame[0];
}

int main(void) {
  printf("4 MiB deep: %d\n", deep(1000));
  fflush(stdout);
  return (int)endless(0);
}
