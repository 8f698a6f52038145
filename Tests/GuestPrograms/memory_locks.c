// Locked memory and its limit, limits that only root may raise, and what small calls about memory answer: as another user.
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096ul
#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)

static const char *name(long result) {
  if (result != -1) return "OK";
  switch (errno) {
  case EAGAIN: return "EAGAIN";
  case EINVAL: return "EINVAL";
  case ENOMEM: return "ENOMEM";
  case EPERM: return "EPERM";
  case EFAULT: return "EFAULT";
  default: return "other";
  }
}
#define SAY(what, call) printf("%s: %s\n", what, name((long)(call)))

static char *map(size_t size, int protection, int flags) { return mmap(0, size, protection, ANON | flags, -1, 0); }

static void limit(unsigned long current, unsigned long maximum) {
  struct rlimit limit = {current, maximum};
  SAY("limit", setrlimit(RLIMIT_MEMLOCK, &limit));
}

int main(void) {
  char *p = map(4 * PAGE, RW, 0), *none = map(2 * PAGE, PROT_NONE, 0);
  memset(p, 1, 4 * PAGE);
  SAY("lock nothing accessible", mlock(none, PAGE));
  SAY("lock", mlock(p, PAGE));
  SAY("discard locked", madvise(p, PAGE, MADV_DONTNEED));
  SAY("discard even locked", madvise(p, 2 * PAGE, 24));
  printf("%d%d%d\n", p[0], p[PAGE], p[2 * PAGE]);
  SAY("unlock", munlockall());

  // Two regions, since their rights differ.
  mprotect(p, PAGE, PROT_READ);
  SAY("same size over two", mremap(p, 4 * PAGE, 4 * PAGE, 0) == p ? 0 : -1);
  SAY("larger over two", mremap(p, 4 * PAGE, 5 * PAGE, MREMAP_MAYMOVE));
  SAY("smaller over two", mremap(p, 4 * PAGE, 2 * PAGE, 0) == p ? 0 : -1);
  SAY("what is left", madvise(p, 2 * PAGE, MADV_NORMAL));
  SAY("what is not", madvise(p + 2 * PAGE, PAGE, MADV_NORMAL));

  SAY("wake at a place not mapped", syscall(SYS_futex, 64, 1 | 128, 1, 0, 0, 0));
  SAY("wake at an odd place", syscall(SYS_futex, 65, 1 | 128, 1, 0, 0, 0));
  printf("slack %d", prctl(PR_GET_TIMERSLACK));
  printf(" %d", prctl(PR_SET_TIMERSLACK, 1));
  printf(" %d", prctl(PR_GET_TIMERSLACK));
  printf(" %d", prctl(PR_SET_TIMERSLACK, 0));
  printf(" %d\n", prctl(PR_GET_TIMERSLACK));

  SAY("another user", syscall(SYS_setresuid, 1000, 1000, 1000));
  limit(2 * PAGE, 8 * PAGE);
  SAY("map locked, too much", map(16 * PAGE, RW, MAP_LOCKED));
  char *locked = map(2 * PAGE, RW, MAP_LOCKED);
  SAY("map locked", locked);
  SAY("grow locked", mremap(locked, 2 * PAGE, 3 * PAGE, MREMAP_MAYMOVE));
  SAY("lock more", mlock(p, PAGE));
  munlock(locked, 2 * PAGE);
  limit(0, 8 * PAGE);
  SAY("map locked, nothing allowed", map(PAGE, RW, MAP_LOCKED));
  SAY("lock, nothing allowed", mlock(p, PAGE));
  limit(8 * PAGE, 16 * PAGE);
  limit(8 * PAGE, 8 * PAGE);
  limit(4 * PAGE, 4 * PAGE);
  limit(8 * PAGE, 8 * PAGE);
  return 0;
}
