// Sleeps for as many seconds as the argument says: what an idle guest costs.
// args: 0
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int count, char **arguments) {
  sleep(count > 1 ? (unsigned)atoi(arguments[1]) : 0);
  puts("slept");
  return 0;
}
