// Every way to touch memory wrongly: signal, si_code and si_addr, and what the program can do about it.
// cflags: -Wno-array-bounds -Wno-infinite-recursion -Wno-unused-but-set-variable
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)
#define PAGE 4096ul

static sigjmp_buf back;
static volatile int seen_signal, seen_code;
static char *volatile seen_address;

static void handler(int signal, siginfo_t *info, void *context) {
  seen_signal = signal;
  seen_code = info->si_code;
  seen_address = info->si_addr;
  siglongjmp(back, 1);
}

static void report(const char *what, char *base) {
  const char *name = seen_signal == SIGSEGV ? seen_code == SEGV_MAPERR ? "MAPERR" : seen_code == SEGV_ACCERR ? "ACCERR" : "other"
    : seen_signal == SIGBUS ? seen_code == BUS_ADRERR ? "ADRERR" : "other" : "none";
  printf("%s: signal %d %s at %ld\n", what, seen_signal, name, seen_signal ? (long)(seen_address - base) : 0);
}
#define TRY(what, base, access) do { seen_signal = 0; if (!sigsetjmp(back, 1)) { access; } report(what, base); } while (0)

static __attribute__((noinline)) int overflow(int n) {
  volatile char page[PAGE];
  page[0] = (char)n;
  return overflow(n + 1) + page[0];
}

int main(void) {
  static char stack[65536];
  stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
  sigaltstack(&alternate, 0);
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  sigaction(SIGSEGV, &action, 0);
  sigaction(SIGBUS, &action, 0);

  volatile char sink;
  char *p = mmap(0, 8 * PAGE, RW, ANON, -1, 0);
  TRY("null", 0, sink = *(volatile char *)8);
  TRY("null, last page that is never mapped", 0, *(volatile char *)0xfff8 = 1);
  p[0] = 1;
  mprotect(p + PAGE, PAGE, PROT_READ);
  TRY("store to read-only, never touched", p, p[PAGE + 9] = 1);
  sink = p[PAGE];
  TRY("store to read-only, touched", p, p[PAGE + 10] = 1);
  mprotect(p + 2 * PAGE, PAGE, PROT_NONE);
  TRY("load from none", p, sink = ((volatile char *)p)[2 * PAGE + 11]);
  p[3 * PAGE] = 7;
  mprotect(p + 3 * PAGE, PAGE, PROT_NONE);
  TRY("load from none, touched before", p, sink = ((volatile char *)p)[3 * PAGE]);
  mprotect(p + 3 * PAGE, PAGE, PROT_READ);
  printf("kept %d\n", p[3 * PAGE]);
  munmap(p + 4 * PAGE, PAGE);
  TRY("load from a hole", p, sink = ((volatile char *)p)[4 * PAGE + 12]);
  TRY("jump to data", p, ((void (*)(void))(p + 5 * PAGE + 16))());
  p[5 * PAGE] = (char)0xc3;
  mprotect(p + 5 * PAGE, PAGE, PROT_READ | PROT_EXEC);
  TRY("call of code", p, ((void (*)(void))(p + 5 * PAGE))());
  TRY("store to code", p, p[5 * PAGE + 1] = 1);
  TRY("across the end", p, sink = (char)*(volatile uint64_t *)(p + 4 * PAGE - 4));

  int fd = (int)syscall(SYS_memfd_create, "file", 0);
  ftruncate(fd, PAGE + 100);
  char *f = mmap(0, 4 * PAGE, RW, MAP_SHARED, fd, 0);
  TRY("within the last page", f, sink = ((volatile char *)f)[PAGE + 4000]);
  TRY("behind the end", f, sink = ((volatile char *)f)[2 * PAGE + 5]);
  TRY("store behind the end", f, f[3 * PAGE + 6] = 1);
  ftruncate(fd, 3 * PAGE);
  TRY("grown", f, f[2 * PAGE + 5] = 2);
  ftruncate(fd, PAGE);
  TRY("cut off", f, sink = ((volatile char *)f)[2 * PAGE + 5]);
  char *own = mmap(0, 4 * PAGE, RW, MAP_PRIVATE, fd, 0);
  TRY("private, behind the end", own, own[PAGE] = 1);
  printf("read into it: %zd\n", pread(fd, own + PAGE, 1, 0));
  // A string instruction that runs over the border has done what was before it.
  seen_signal = 0;
  if (!sigsetjmp(back, 1)) memset(p + 4 * PAGE - 64, 9, 128);
  report("filling over the border", p);

  char *grow = mmap(0, 4 * PAGE, RW, ANON | MAP_GROWSDOWN, -1, 0);
  munmap(grow, 2 * PAGE);
  TRY("far below a growing region", grow, grow[-(long)(64 * PAGE)] = 1);
  struct rlimit limit = {256 << 10, RLIM_INFINITY};
  getrlimit(RLIMIT_STACK, &limit);
  limit.rlim_cur = 512 << 10;
  setrlimit(RLIMIT_STACK, &limit);
  seen_signal = 0;
  if (!sigsetjmp(back, 1)) overflow(0);
  printf("stack overflow: signal %d, %s\n", seen_signal, seen_code == SEGV_MAPERR ? "MAPERR" : "other");
  return 0;
}
