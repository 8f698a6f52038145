// What writing to standard output costs a program that does not buffer: bytes and lines, one write(2) each, into a pipe. Each line on
// standard error is "NAME NANOSECONDS OPERATIONS"; with an argument only the measurement of that name is made, or none.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { OPERATIONS = 50000 };
static const char line[] = "a line of sixty-four bytes, as a log may have many of them ...\n";

static void measure(const char *name, size_t count, const char *only) {
  struct timespec from, to;
  if (only && strcmp(only, name) != 0) return;
  clock_gettime(CLOCK_MONOTONIC, &from);
  for (int i = 0; i < OPERATIONS; ++i)
    if (write(1, line, count) != (ssize_t)count) exit(1);
  clock_gettime(CLOCK_MONOTONIC, &to);
  double time = (to.tv_sec - from.tv_sec) * 1e9 + (to.tv_nsec - from.tv_nsec);
  fprintf(stderr, "%s %.1f %d\n", name, time / OPERATIONS, OPERATIONS);
}

int main(int count, char **arguments) {
  const char *only = count > 1 ? arguments[1] : NULL;
  measure("write_byte", 1, only);
  measure("write_line", sizeof line - 1, only);
}
