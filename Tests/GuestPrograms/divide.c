// An integer division by zero ends the program with SIGFPE.
#include <stdio.h>

int main(int count, char **arguments) {
  (void)arguments;
  puts("dividing");
  fflush(stdout);
  volatile int zero = count - 1;
  return 7 / zero;
}
