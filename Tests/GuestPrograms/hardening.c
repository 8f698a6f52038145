// What memory refuses: the null page, stores to code and constants, fetches from data, stacks that run over; and that mprotect's
// word is kept in both directions.
// cflags: -Wno-infinite-recursion -Wno-array-bounds -Wno-nonnull
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define PAGE 4096ul
#define RW (PROT_READ | PROT_WRITE)
#define RX (PROT_READ | PROT_EXEC)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)

static __thread sigjmp_buf back;
static __thread volatile int seen_signal, seen_code;
static __thread char *volatile seen_address;

static void handler(int signal, siginfo_t *info, void *context) {
  seen_signal = signal;
  seen_code = info->si_code;
  seen_address = info->si_addr;
  siglongjmp(back, 1);
}

static const char *code_name(void) {
  return !seen_signal                ? "nothing"
         : seen_signal != SIGSEGV    ? "another signal"
         : seen_code == SEGV_MAPERR  ? "SEGV_MAPERR"
         : seen_code == SEGV_ACCERR  ? "SEGV_ACCERR"
                                     : "another code";
}

// Tries `access`; says what came of it, and whether si_addr is `address`.
#define TRY(what, address, access)                                                                                     \
  do {                                                                                                                 \
    seen_signal = 0;                                                                                                   \
    if (!sigsetjmp(back, 1)) { access; }                                                                               \
    printf("%s: %s%s\n", what, code_name(), seen_signal && seen_address != (char *)(address) ? " elsewhere" : "");     \
  } while (0)

// mov $42, %eax; ret
static const unsigned char code[] = {0xb8, 42, 0, 0, 0, 0xc3};
static const char *const constants[] = {"one", "two"};
static unsigned char initialised[16] = {0xb8, 42, 0, 0, 0, 0xc3};
static unsigned char zeroes[16];

typedef int function(void);
static int call(const void *place) { return ((function *)(uintptr_t)place)(); }

static char *volatile deepest;
static __attribute__((noinline)) int overrun(int depth) {
  volatile char frame[1024];
  frame[0] = (char)depth;
  deepest = (char *)frame;
  return overrun(depth + 1) + frame[0];
}

// Runs over the stack that it is on; the fault must be right where the stack went.
static void run_over(const char *what, size_t limit) {
  char *start = (char *)__builtin_frame_address(0);
  seen_signal = 0;
  if (!sigsetjmp(back, 1)) overrun(0);
  long distance = deepest - seen_address;
  printf("%s: %s, %s, %s\n", what, code_name(), distance > -2048 && distance < 8192 ? "at the frame" : "elsewhere",
    (size_t)(start - seen_address) <= limit ? "within the limit" : "beyond the limit");
}

static void alternate_stack(void) {
  static __thread char stack[65536];
  stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
  if (sigaltstack(&alternate, 0)) perror("sigaltstack");
}

static void *thread(void *argument) {
  alternate_stack();
  run_over(argument, 256 << 10);
  unsigned char bytes[16], *volatile on_stack = bytes;
  memcpy(on_stack, code, sizeof code);
  TRY("a fetch from the thread's stack", on_stack, call(on_stack));
  return 0;
}

static void threads_overrun(size_t guard) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 256 << 10);
  pthread_attr_setguardsize(&attributes, guard);
  pthread_t id;
  // Twice: the second one may get the first one's stack again.
  for (int round = 0; round < 2; round++) {
    if (pthread_create(&id, &attributes, thread, "overrun of a thread's stack")) perror("pthread_create");
    pthread_join(id, 0);
  }
}

int main(void) {
  alternate_stack();
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  sigaction(SIGSEGV, &action, 0);
  sigaction(SIGBUS, &action, 0);

  char *volatile null = 0;
  TRY("a load at null", 0, *(volatile char *)null);
  TRY("a store at null", 0, *(volatile char *)null = 1);
  TRY("a fetch at null", 0, call(null));
  TRY("a fetch in the null page", 24, call(null + 24));

  TRY("a store to code", (uintptr_t)main, *(volatile char *)(uintptr_t)main = 1);
  TRY("a store to a constant", code, *(volatile char *)(uintptr_t)code = 1);
  TRY("a store to relocated constants", constants, *(const char *volatile *)(uintptr_t)constants = "x");
  char *vdso = (char *)getauxval(AT_SYSINFO_EHDR);
  TRY("a store to the vDSO", vdso, *(volatile char *)vdso = 1);

  unsigned char bytes[16], *volatile on_stack = bytes;
  memcpy(on_stack, code, sizeof code);
  TRY("a fetch from the stack", on_stack, call(on_stack));
  TRY("a fetch from data", initialised, call(initialised));
  TRY("a fetch from zeroed data", zeroes, call(zeroes));
  TRY("a fetch from constants", code, call(code));
  unsigned char *heap = malloc(64);
  memcpy(heap, code, sizeof code);
  TRY("a fetch from the heap", heap, call(heap));
  unsigned char *broken = sbrk(PAGE);
  if (broken != (void *)-1) {
    memcpy(broken, code, sizeof code);
    TRY("a fetch from the break", broken, call(broken));
  }
  unsigned char *p = mmap(0, 4 * PAGE, RW, ANON, -1, 0);
  memcpy(p, code, sizeof code);
  TRY("a fetch from anonymous memory", p, call(p));
  TRY("a fetch from memory that was never touched", p + 2 * PAGE, call(p + 2 * PAGE));
  unsigned char *large = mmap(0, 8 << 20, RW, ANON, -1, 0);
  unsigned char *in_large = large + (4 << 20) + 64;
  madvise(large, 8 << 20, MADV_HUGEPAGE);
  memcpy(in_large, code, sizeof code);
  TRY("a fetch from a large mapping", in_large, call(in_large));

  // From writable to executable and back.
  mprotect(p, PAGE, RX);
  TRY("code, after mprotect", p, printf("%d\n", call(p)));
  TRY("a store to it", p, *(volatile char *)p = 1);
  mprotect(p, PAGE, RW);
  TRY("a store after mprotect", p + 1, p[1] = 43);
  TRY("a fetch then", p, call(p));
  mprotect(p, PAGE, RX);
  TRY("code, after mprotect again", p, printf("%d\n", call(p)));
  TRY("a fetch beside it", p + PAGE, call(p + PAGE));
  mprotect(in_large - 64, PAGE, RX);
  TRY("code in a large mapping", in_large, printf("%d\n", call(in_large)));
  TRY("a fetch beside it", in_large + PAGE, call(in_large + PAGE));
  mprotect(p, PAGE, PROT_NONE);
  TRY("a fetch without rights", p, call(p));
  // Who asks for both gets both, as a compiler at run time may.
  mprotect(p, PAGE, RW | PROT_EXEC);
  TRY("writable code", p, (p[1] = 44, printf("%d\n", call(p))));
  munmap(p, 4 * PAGE);
  TRY("a fetch from memory that is gone", p, call(p));

  threads_overrun(PAGE);
  threads_overrun(64 << 10);
  struct rlimit limit = {2 << 20, RLIM_INFINITY};
  getrlimit(RLIMIT_STACK, &limit);
  limit.rlim_cur = 2 << 20;
  setrlimit(RLIMIT_STACK, &limit);
  run_over("overrun of the first stack", (2 << 20) + PAGE);
  puts("done");
  return 0;
}
