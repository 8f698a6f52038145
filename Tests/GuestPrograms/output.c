// Much output in pieces of every size, on both streams in turn: nothing is lost, doubled or out of order.
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char buffer[200000];

static int put(int stream, const char *bytes, size_t count) {
  while (count > 0) {
    ssize_t n = write(stream, bytes, count);
    if (n <= 0) return 0;
    bytes += n, count -= (size_t)n;
  }
  return 1;
}

int main(void) {
  uint32_t seed = 1;
  for (int round = 0; round < 200; round++) {
    seed = seed * 1664525u + 1013904223u;
    size_t size = seed % 7 == 0 ? seed % sizeof buffer : seed % 300;
    for (size_t i = 0; i < size; i++) buffer[i] = (char)(i % 64 == 63 ? '\n' : 'a' + (i + (size_t)round) % 26);
    if (!put(1, buffer, size)) return 1;
  }
  fflush(stdout);
  return 0;
}
