// Anonymous memory: mapping, protection, moving, giving back, the heap, and a deep stack.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static int deep(int n) {
  volatile char page[4096];
  page[0] = (char)n;
  page[4095] = 1;
  return n == 0 ? 0 : deep(n - 1) + page[4095] + (page[0] == (char)n);
}

static unsigned long sum(const unsigned char *p, size_t n) {
  unsigned long s = 0;
  for (size_t i = 0; i < n; i++) s = s * 31 + p[i];
  return s;
}

int main(void) {
  size_t size = 8 << 20;
  unsigned char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return 1;
  printf("zero %lu\n", sum(p, size));
  for (size_t i = 0; i < size; i++) p[i] = (unsigned char)(i * 7 + i / 4096);
  printf("sum %lu\n", sum(p, size));
  printf("unmap middle %d\n", munmap(p + (1 << 20), 4096));
  printf("left %d right %d\n", p[(1 << 20) - 1], p[(1 << 20) + 4096]);
  unsigned char *again = mmap(p + (1 << 20), 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  printf("fixed %d zero %lu\n", again == p + (1 << 20), sum(again, 4096));
  unsigned char *moved = mremap(p, 1 << 20, 2 << 20, MREMAP_MAYMOVE);
  printf("moved %d same %d new %lu\n", moved != MAP_FAILED, moved[4096] == (unsigned char)(4096 * 7 + 1), sum(moved + (1 << 20), 4096));
  moved[(2 << 20) - 1] = 5;
  printf("dontneed %d", madvise(moved, 4096, MADV_DONTNEED));
  printf(" zero %lu\n", sum(moved, 4096));
  printf("read only %d\n", mprotect(moved, 4096, PROT_READ));
  printf("into read only %d", (int)read(open("/dev/zero", 0), moved, 16));
  printf(" %s\n", strerror(errno));
  printf("misaligned %d", munmap(moved + 1, 4096));
  printf(" %s\n", strerror(errno));
  printf("kernel range %d", mmap((void *)(1ul << 63), 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED);
  printf(" %s\n", strerror(errno));
  char *heap = (char *)syscall(SYS_brk, 0);
  printf("brk %d", (char *)syscall(SYS_brk, heap + 100000) == heap + 100000);
  memset(heap, 1, 100000);
  printf(" %d", heap[99999]);
  printf(" back %d\n", (char *)syscall(SYS_brk, heap) == heap);
  unsigned long total = 0;
  for (int i = 1; i < 3000; i++) {
    char *q = malloc((size_t)i * 37);
    memset(q, i, (size_t)i * 37);
    total += (unsigned char)q[i * 36];
    if (i % 3) free(q);
  }
  printf("malloc %lu\n", total);
  printf("deep %d\n", deep(1000));
  return 0;
}
