// A system call that does not exist, bad arguments to some that do.
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static void show(long number, long result) {
  printf("%ld: %ld %s\n", number, result, result < 0 ? strerror(errno) : "");
}

int main(void) {
  static const long numbers[] = {999, 511, 100000, -1};
  for (int i = 0; i < 4; i++) show(numbers[i], syscall(numbers[i]));
  show(SYS_read, syscall(SYS_read, -1, 0, 0));
  show(SYS_open, syscall(SYS_open, (void *)-1l, 0, 0));
  show(SYS_write, syscall(SYS_write, 1, (void *)0x3fffffffffffl, 10));
  show(SYS_futex, syscall(SYS_futex, 1, 0, 0, 0));
  show(SYS_getrandom, syscall(SYS_getrandom, 0, 8, 0));
  printf("%d\n", (int)syscall(SYS_getpid) == getpid());
  return 0;
}
