// args: one two
// The smallest thing: a line, the arguments, an exit status.
#include <stdio.h>

int main(int argc, char **argv) {
  printf("hello, %d arguments:", argc - 1);
  for (int i = 1; i < argc; i++) printf(" %s", argv[i]);
  putchar('\n');
  return 42;
}
