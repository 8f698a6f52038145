// Says "ready" and then does nothing until it is killed: in pause(), or in a loop that wakes up once a second. Without an argument it
// ends.
// flavours: glibc-static
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int main(int count, char **arguments) {
  puts("ready");
  fflush(stdout);
  while (count > 1) {
    struct timespec second = {.tv_sec = 1};
    if (strcmp(arguments[1], "nanosleep") == 0) nanosleep(&second, NULL);
    else pause();
  }
  return 0;
}
