// Death by a wild store: 128 + SIGSEGV.
// status: 139
// cflags: -Wno-array-bounds
int main(void) {
  *(volatile int *)0x10 = 1;
  return 0;
}
