// madvise, msync, mincore, mlock and its kin, and the limits of setrlimit: contents, results and errno.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)
#define PAGE 4096ul

static void say(const char *what, long r) {
  const char *name = "OK";
  if (r != 0) name = errno == EINVAL ? "EINVAL" : errno == ENOMEM ? "ENOMEM" : errno == EFAULT ? "EFAULT"
    : errno == EACCES ? "EACCES" : errno == EBUSY ? "EBUSY" : errno == EPERM ? "EPERM" : errno == EAGAIN ? "EAGAIN" : "?";
  printf("%s: %s\n", what, name);
}
static char *map(size_t n, int flags) { return mmap(0, n, RW, flags, -1, 0); }
static long advise(void *p, size_t n, int advice) { return syscall(SYS_madvise, p, n, advice); }
static int count(char *p, size_t pages) {
  unsigned char there[64];
  if (mincore(p, pages * PAGE, there)) return -1;
  int n = 0;
  for (size_t i = 0; i < pages; i++) n += there[i] & 1;
  return n;
}

static void advice(void) {
  char *p = map(16 * PAGE, ANON);
  memset(p, 1, 16 * PAGE);
  for (int a = 0; a < 4; a++) say("usual", advise(p, 16 * PAGE, a));
  printf("still %d\n", p[5 * PAGE]);
  say("dontneed", advise(p + 2 * PAGE, 2 * PAGE, MADV_DONTNEED));
  printf("%d%d%d%d\n", p[PAGE], p[2 * PAGE], p[3 * PAGE], p[4 * PAGE]);
  say("free", advise(p + 4 * PAGE, PAGE, 8));
  p[4 * PAGE] = 7;
  printf("%d\n", p[4 * PAGE]);
  int fork[] = {10, 11, 18, 19, 16, 17, 12, 13, 14, 15};
  for (int i = 0; i < 10; i++)
    if (fork[i] != 12 && fork[i] != 13) say("marks", advise(p, PAGE, fork[i]));
  say("unknown", advise(p, PAGE, 99));
  say("odd", advise(p + 1, PAGE, MADV_NORMAL));
  say("nothing", advise(p, 0, MADV_DONTNEED));
  say("odd length", advise(p, 1, MADV_DONTNEED));
  printf("%d\n", p[0]);
  munmap(p + 8 * PAGE, PAGE);
  p[7 * PAGE] = p[9 * PAGE] = 3;
  say("around a hole", advise(p + 7 * PAGE, 3 * PAGE, MADV_DONTNEED));
  printf("%d%d\n", p[7 * PAGE], p[9 * PAGE]);
  say("hint over a hole", advise(p + 7 * PAGE, 3 * PAGE, MADV_RANDOM));
  say("populate over a hole", advise(p + 7 * PAGE, 3 * PAGE, 23));
  say("remove private", advise(p, PAGE, MADV_REMOVE));
  char *s = map(4 * PAGE, MAP_SHARED | MAP_ANONYMOUS);
  memset(s, 5, 4 * PAGE);
  say("discard shared", advise(s, PAGE, MADV_DONTNEED));
  printf("%d\n", s[0]);
  say("remove shared", advise(s + PAGE, PAGE, MADV_REMOVE));
  printf("%d%d%d\n", s[0], s[PAGE], s[2 * PAGE]);
  size_t vast = 1ul << 37;
  char *v = map(vast, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE);
  v[0] = v[vast / 2] = v[vast - 1] = 6;
  struct timespec start, end;
  clock_gettime(CLOCK_MONOTONIC, &start);
  say("remove vast", advise(v + PAGE, vast - PAGE, MADV_REMOVE));
  clock_gettime(CLOCK_MONOTONIC, &end);
  printf("%d%d%d at once %d\n", v[0], v[vast / 2], v[vast - 1], end.tv_sec - start.tv_sec < 2);
  munmap(v, vast);
  say("free shared", advise(s, PAGE, 8));
  say("wipe shared", advise(s, PAGE, 18));
  char *q = map(32 * PAGE, ANON | MAP_NORESERVE | MAP_STACK);
  printf("fresh %d", count(q, 32));
  say(", populate read", advise(q, 32 * PAGE, 22));
  printf("%d %d", count(q, 32), q[3 * PAGE]);
  say(", populate write", advise(q, 32 * PAGE, 23));
  q[3 * PAGE] = 1;
  mprotect(q, 32 * PAGE, PROT_READ);
  say("populate write to read-only", advise(q, 32 * PAGE, 23));
  int file = open("/proc/self/exe", O_RDONLY);
  char *f = mmap(0, 4 * PAGE, PROT_READ, MAP_PRIVATE, file, 0);
  say("willneed", advise(f, 4 * PAGE, MADV_WILLNEED));
  say("free file", advise(f, PAGE, 8));
  char *huge = map(6 << 20, ANON);
  say("huge", advise(huge, 6 << 20, 14));
  memset(huge, 9, 6 << 20);
  say("no huge", advise(huge, 6 << 20, 15));
  munmap(huge + (3 << 20) + PAGE, PAGE);
  printf("%d%d\n", huge[(3 << 20) + 1], huge[(3 << 20) + 2 * PAGE]);
}

static void syncing(void) {
  char *p = map(4 * PAGE, MAP_SHARED | MAP_ANONYMOUS);
  say("sync", msync(p, 4 * PAGE, MS_SYNC));
  say("async", msync(p, 4 * PAGE, MS_ASYNC));
  say("both", msync(p, 4 * PAGE, MS_SYNC | MS_ASYNC));
  say("unknown", msync(p, 4 * PAGE, 64));
  say("odd", msync(p + 1, PAGE, MS_SYNC));
  munmap(p + PAGE, PAGE);
  say("hole", msync(p, 4 * PAGE, MS_SYNC));
  unsigned char there[4];
  say("mincore odd", mincore(p + 1, PAGE, there));
  say("mincore hole", mincore(p, 4 * PAGE, there));
  say("mincore nowhere", mincore(p, PAGE, (void *)8));
}

static void locking(void) {
  char *p = map(16 * PAGE, ANON);
  say("lock", mlock(p + 100, 5 * PAGE));
  printf("there %d\n", count(p, 6));
  say("forget locked", advise(p, PAGE, MADV_DONTNEED));
  say("invalidate locked", msync(p, PAGE, MS_INVALIDATE));
  say("unlock", munlock(p, 6 * PAGE));
  say("forget", advise(p, PAGE, MADV_DONTNEED));
  say("lock on fault", syscall(SYS_mlock2, p, 16 * PAGE, 1));
  say("lock unknown", syscall(SYS_mlock2, p, 16 * PAGE, 2));
  munmap(p + 8 * PAGE, PAGE);
  say("lock a hole", mlock(p, 16 * PAGE));
  say("unlock a hole", munlock(p, 16 * PAGE));
  say("lock nothing", mlock(p, 0));
  say("all, nothing", mlockall(0));
  say("all, unknown", mlockall(16));
  say("all, only on fault", mlockall(4));
  say("all", mlockall(MCL_CURRENT | MCL_FUTURE));
  char *q = map(8 * PAGE, ANON);
  printf("there %d\n", count(q, 8));
  say("forget", advise(q, PAGE, MADV_DONTNEED));
  say("none", munlockall());
  say("forget", advise(q, PAGE, MADV_DONTNEED));
}

static void limit(int what, unsigned long value) {
  struct rlimit r;
  getrlimit(what, &r);
  r.rlim_cur = value;
  if (setrlimit(what, &r)) perror("setrlimit");
}

static void limits(void) {
  limit(RLIMIT_AS, 256 << 20);
  printf("beyond AS %d", map(300 << 20, ANON | MAP_NORESERVE) == MAP_FAILED);
  printf(" %d\n", errno == ENOMEM);
  char *p = map(64 << 20, ANON | MAP_NORESERVE);
  printf("within %d\n", p != MAP_FAILED);
  printf("replacing %d\n", mmap(p, 64 << 20, RW, ANON | MAP_FIXED | MAP_NORESERVE, -1, 0) == p);
  printf("growing %d\n", mremap(p, 64 << 20, 300 << 20, MREMAP_MAYMOVE) == MAP_FAILED);
  limit(RLIMIT_AS, RLIM_INFINITY);
  limit(RLIMIT_DATA, 100 << 20);
  char *none = mmap(0, 120 << 20, PROT_NONE, ANON | MAP_NORESERVE, -1, 0);
  printf("reserved %d", none != MAP_FAILED);
  printf(" made writable %d %d\n", mprotect(none, 120 << 20, RW), errno == ENOMEM);
  printf("data %d\n", map(120 << 20, ANON | MAP_NORESERVE) == MAP_FAILED);
  printf("shared is no data %d\n", map(120 << 20, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE) != MAP_FAILED);
  char *heap = (char *)syscall(SYS_brk, 0);
  printf("break %d\n", (char *)syscall(SYS_brk, heap + (120 << 20)) == heap);
  limit(RLIMIT_DATA, RLIM_INFINITY);
  printf("over commit %d\n", map(1ul << 44, ANON) == MAP_FAILED && errno == ENOMEM);
}

int main(void) {
  advice();
  syncing();
  locking();
  limits();
  return 0;
}
