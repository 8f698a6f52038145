// GCC's nested functions: code on the stack, which the program asks for with PT_GNU_STACK; far down a stack that grows, too.
// cflags: -Wl,-z,execstack
#include <stdio.h>
#include <string.h>

__attribute__((noinline)) static int apply(int (*function)(int), int value) { return function(value); }

__attribute__((noinline)) static int deep(int depth, int (*outer)(int)) {
  char room[4096];
  memset(room, depth, sizeof room);
  int add(int value) { return value + room[depth & 4095]; }
  if (depth == 0) return apply(add, 1) + apply(outer, 0);
  return apply(add, 0) + deep(depth - 1, depth & 1 ? add : outer);
}

int main(void) {
  volatile int base = 4;
  int plus(int value) { return value + base; }
  printf("%d\n", apply(plus, 3));
  base = 40;
  printf("%d\n", apply(plus, 2));
  printf("%d\n", deep(100, plus));
  return 0;
}
