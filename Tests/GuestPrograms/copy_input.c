// stdin: the line that comes back
// What comes in goes out; the end of file is seen once and stays.
#include <stdio.h>
#include <unistd.h>

int main(void) {
  char buffer[100];
  ssize_t n;
  long total = 0;
  while ((n = read(0, buffer, sizeof buffer)) > 0) {
    total += n;
    if (write(1, buffer, (size_t)n) != n) return 1;
  }
  printf("%ld bytes, then %zd, then %zd\n", total, n, read(0, buffer, sizeof buffer));
  return 0;
}
