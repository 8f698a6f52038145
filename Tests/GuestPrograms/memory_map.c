// Every flag of mmap, how munmap cuts, what mprotect refuses, and mremap in all its forms: results, errno and contents.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef MAP_SHARED_VALIDATE
#define MAP_SHARED_VALIDATE 3
#endif
#ifndef MAP_SYNC
#define MAP_SYNC 0x80000
#endif
#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)
#define PAGE 4096ul

static const char *name(int error) {
  switch (error) {
  case 0: return "OK";
  case EINVAL: return "EINVAL";
  case ENOMEM: return "ENOMEM";
  case EEXIST: return "EEXIST";
  case EACCES: return "EACCES";
  case EBADF: return "EBADF";
  case EFAULT: return "EFAULT";
  case EPERM: return "EPERM";
  case EOVERFLOW: return "EOVERFLOW";
  case EOPNOTSUPP: return "EOPNOTSUPP";
  case ENODEV: return "ENODEV";
  default: return "?";
  }
}
// Straight to the kernel: C libraries check some arguments themselves.
static char *map(void *at, size_t n, int prot, int flags, int fd, long offset) {
  long r = syscall(SYS_mmap, at, n, prot, flags, fd, offset);
  return r == -1 ? MAP_FAILED : (char *)r;
}
static void refused(const char *what, void *p) { printf("%s: %s\n", what, p == MAP_FAILED ? name(errno) : "mapped"); }
static void result(const char *what, long r) { printf("%s: %s\n", what, r == 0 ? "OK" : name(errno)); }

static void flags(void) {
  refused("no length", map(0, 0, RW, ANON, -1, 0));
  refused("no type", map(0, PAGE, RW, MAP_ANONYMOUS, -1, 0));
  refused("too long", map(0, 1ul << 62, RW, ANON, -1, 0));
  refused("longest", map(0, ~0ul, RW, ANON, -1, 0));
  refused("odd offset", map(0, PAGE, RW, ANON, -1, 1));
  refused("odd fixed", map((void *)0x100001, PAGE, RW, ANON | MAP_FIXED, -1, 0));
  refused("bad descriptor", map(0, PAGE, RW, MAP_PRIVATE, 99, 0));
  refused("validate anonymous", map(0, PAGE, RW, MAP_SHARED_VALIDATE | MAP_ANONYMOUS, -1, 0));
  refused("grows down, shared", map(0, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_GROWSDOWN, -1, 0));
  int file = open("/proc/self/exe", O_RDONLY);
  refused("write to read-only", map(0, PAGE, RW, MAP_SHARED, file, 0));
  char *text = map(0, PAGE, RW, MAP_PRIVATE, file, 0);
  printf("private file: %d", text[1] == 'E' && text[2] == 'L');
  text[1] = 'x';
  printf(" %c", text[1]);
  char *other = map(0, PAGE, PROT_READ, MAP_SHARED, file, 0);
  printf(" %c\n", other[1]);
  result("raise shared", mprotect(other, PAGE, RW));
  refused("validate unknown", map(0, PAGE, PROT_READ, MAP_SHARED_VALIDATE | MAP_SYNC, file, 0));
  refused("validate known", map(0, PAGE, PROT_READ, MAP_SHARED_VALIDATE, file, 0));
  int directory = open("/", O_RDONLY);
  refused("directory", map(0, PAGE, PROT_READ, MAP_PRIVATE, directory, 0));
  close(file);
  printf("after close: %c\n", other[2]);

  char *low = map(0, PAGE, RW, ANON | MAP_32BIT, -1, 0);
  printf("low: %d\n", low != MAP_FAILED && (uintptr_t)low < (1ul << 31));
  char *reserved = map(0, 64ul << 30, RW, ANON | MAP_NORESERVE, -1, 0);
  printf("reserved: %d", reserved != MAP_FAILED);
  reserved[40ul << 30] = 1;
  printf(" %d\n", munmap(reserved, 64ul << 30));
  unsigned char there[16];
  char *populated = map(0, 16 * PAGE, RW, ANON | MAP_POPULATE, -1, 0);
  result("populated", mincore(populated, 16 * PAGE, there));
  int all = 1;
  for (int i = 0; i < 16; i++) all &= there[i] & 1;
  printf("all there: %d\n", all);
  char *fixed = map(populated + 4 * PAGE, 2 * PAGE, RW, ANON | MAP_FIXED, -1, 0);
  printf("fixed: %d\n", fixed == populated + 4 * PAGE);
  refused("fixed no replace", map(fixed, PAGE, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0));
  munmap(fixed, PAGE);
  printf("no replace of a hole: %d\n", map(fixed, PAGE, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0) == fixed);
  char *hint = map(populated, PAGE, RW, ANON, -1, 0);
  printf("hint in use: %d\n", hint != populated && hint != MAP_FAILED);
}

static int mapped(char *p) {
  unsigned char there;
  return mincore(p, PAGE, &there) == 0;
}

static void cutting(void) {
  char *p = map(0, 10 * PAGE, RW, ANON, -1, 0);
  for (int i = 0; i < 10; i++) p[i * PAGE] = (char)('a' + i);
  result("middle", munmap(p + 3 * PAGE, 2 * PAGE));
  result("again", munmap(p + 3 * PAGE, 2 * PAGE));
  result("across the hole", munmap(p + 2 * PAGE, 5 * PAGE));
  for (int i = 0; i < 10; i++) printf("%c", mapped(p + i * PAGE) ? p[i * PAGE] : '-');
  printf("\n");
  result("odd address", munmap(p + 1, PAGE));
  result("no length", munmap(p, 0));
  result("odd length", munmap(p, 1));
  printf("%d%d\n", mapped(p), mapped(p + PAGE));
  result("beyond the end", munmap((void *)(1ul << 62), PAGE));

  result("protect a hole", mprotect(p, 10 * PAGE, PROT_READ));
  result("protect up to a hole", mprotect(p + 7 * PAGE, 4 * PAGE, PROT_READ) == -1 && errno == ENOMEM ? 0 : -1);
  result("protect nothing", mprotect(p, 0, PROT_READ));
  result("protect odd", mprotect(p + 7 * PAGE + 1, PAGE, PROT_READ));
  errno = 0;
  result("protect odd bits", syscall(SYS_mprotect, p + 7 * PAGE, PAGE, 0x100));
  result("grows up and down", syscall(SYS_mprotect, p + 7 * PAGE, PAGE, PROT_READ | 0x3000000));
  result("grows down", syscall(SYS_mprotect, p + 8 * PAGE, PAGE, PROT_READ | 0x1000000));
  result("whole", mprotect(p + 7 * PAGE, 3 * PAGE, PROT_NONE));
  result("and back", mprotect(p + 7 * PAGE, 3 * PAGE, RW));
  printf("%c%c%c\n", p[7 * PAGE], p[8 * PAGE], p[9 * PAGE]);
}

static char *fill(size_t pages, int flags) {
  char *p = map(0, pages * PAGE, RW, flags, -1, 0);
  for (size_t i = 0; i < pages; i++) p[i * PAGE] = (char)('A' + i);
  return p;
}
static void show(char *p, size_t pages) {
  for (size_t i = 0; i < pages; i++) printf("%c", p[i * PAGE] ? p[i * PAGE] : '0');
  printf("\n");
}
static char *move(void *p, size_t old, size_t new, int flags, void *to) {
  long r = syscall(SYS_mremap, p, old, new, flags, to);
  return r == -1 ? MAP_FAILED : (char *)r;
}

static void moving(void) {
  char *p = fill(4, ANON);
  p = move(p, 4 * PAGE, 8 * PAGE, MREMAP_MAYMOVE, 0);
  show(p, 8);
  p = move(p, 8 * PAGE, 2 * PAGE, 0, 0);
  show(p, 2);
  printf("cut: %d\n", mapped(p + 2 * PAGE));
  refused("no new size", move(p, 2 * PAGE, 0, MREMAP_MAYMOVE, 0));
  refused("bad flags", move(p, 2 * PAGE, PAGE, 64, 0));
  refused("fixed alone", move(p, 2 * PAGE, PAGE, MREMAP_FIXED, p + 64 * PAGE));
  refused("odd", move(p + 1, 2 * PAGE, PAGE, MREMAP_MAYMOVE, 0));
  refused("overlapping", move(p, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p + PAGE));
  refused("nothing there", move(p + 2 * PAGE, PAGE, 2 * PAGE, MREMAP_MAYMOVE, 0));
  char *wall = map(p + 2 * PAGE, PAGE, PROT_NONE, ANON | MAP_FIXED, -1, 0);
  refused("no room", move(p, 2 * PAGE, 4 * PAGE, 0, 0));
  munmap(wall, PAGE);
  char *place = map(0, 16 * PAGE, RW, ANON, -1, 0);
  place[5 * PAGE] = 'z';
  char *q = move(p, 2 * PAGE, 3 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place + 4 * PAGE);
  printf("fixed: %d gone: %d\n", q == place + 4 * PAGE, mapped(p));
  show(q, 3);
  char *kept = fill(3, ANON);
  char *copy = move(kept, 3 * PAGE, 3 * PAGE, MREMAP_MAYMOVE | 4, 0);
  printf("kept: %d\n", copy != MAP_FAILED && copy != kept && mapped(kept));
  show(copy, 3);
  show(kept, 3);
  refused("kept, other size", move(copy, 3 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | 4, 0));
  char *shared = fill(3, MAP_SHARED | MAP_ANONYMOUS);
  char *twin = move(shared, 0, 3 * PAGE, MREMAP_MAYMOVE, 0);
  show(twin, 3);
  twin[PAGE] = 'y';
  show(shared, 3);
  refused("twin of private", move(copy, 0, PAGE, MREMAP_MAYMOVE, 0));
  refused("twin in place", move(shared, 0, PAGE, 0, 0));
  // A gigabyte of addresses, its pages far apart, moved at once.
  char *big = map(0, 1ul << 30, RW, ANON | MAP_NORESERVE, -1, 0);
  for (size_t i = 0; i < 8; i++) big[i << 27] = (char)('0' + i);
  big = move(big, 1ul << 30, (1ul << 30) + (1ul << 28), MREMAP_MAYMOVE, 0);
  for (size_t i = 0; i < 8; i++) printf("%c", big[i << 27]);
  printf(" %d\n", munmap(big, (1ul << 30) + (1ul << 28)));
  // Far more addresses than there is memory for their tables; only what is there moves.
  size_t vast = 1ul << 36;
  big = map(0, vast, RW, ANON | MAP_NORESERVE, -1, 0);
  big[0] = 'a', big[vast / 2 - 1] = 'b', big[vast - 1] = 'c';
  big = move(big, vast, vast, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)0x300000000000);
  printf("vast: %d %c%c%c %d\n", big == (void *)0x300000000000, big[0], big[vast / 2 - 1], big[vast - 1], big[vast / 4]);
  char *after = map(0, 1 << 20, RW, ANON, -1, 0);
  printf("afterwards: %d\n", after != MAP_FAILED && after[99] == 0);
  printf("vast unmapped %d\n", munmap(big, vast));
}

int main(void) {
  flags();
  cutting();
  moving();
  return 0;
}
