// Signals: handlers with siginfo and context, masks, alternate stacks, faults that a handler repairs, restarting and
// interrupted calls, thread-directed signals, and vector registers across a handler.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static volatile sig_atomic_t seen;
static void *volatile fault_address;
static volatile char *page;
static sigjmp_buf back;
static char alternate[64 * 1024];
static volatile int on_alternate;

static void on_user(int number, siginfo_t *info, void *context) {
  seen = number * 1000 + (info->si_pid == getpid()) * 10 + (context != NULL);
  double x = 1.5;
  __asm__ volatile("movsd %0, %%xmm7\n\tmovsd %0, %%xmm0" ::"m"(x) : "xmm0", "xmm7");
}
static void on_fault(int number, siginfo_t *info, void *context) {
  (void)context;
  fault_address = info->si_addr;
  seen = number;
  mprotect((void *)page, 4096, PROT_READ | PROT_WRITE);
}
static void jump(int number) {
  char here;
  on_alternate = &here >= alternate && &here < alternate + sizeof alternate;
  siglongjmp(back, number);
}
static void skip(int number, siginfo_t *info, void *context) {
  (void)info;
  seen = number;
  ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;
}
static void nothing(int number) { seen = number; }
static void install(int number, void (*handler)(int, siginfo_t *, void *), int flags) {
  struct sigaction action = {.sa_flags = flags | SA_SIGINFO};
  action.sa_sigaction = handler;
  sigaction(number, &action, NULL);
}
static volatile int thread_seen;
static pthread_t waiting;
static void in_thread(int number) { thread_seen = number + 100 * (pthread_equal(pthread_self(), waiting) != 0); }
static void *wait_for_signal(void *argument) {
  while (!thread_seen) usleep(1000);
  return argument;
}
static int overflow_stack(volatile char *p) {
  volatile char big[65536];
  big[0] = *p;
  return p == NULL ? 0 : overflow_stack(big) + big[0];
}

int main(void) {
  install(SIGUSR1, on_user, 0);
  double kept;
  __asm__ volatile("mov $0x4045000000000000, %%rax\n\tmovq %%rax, %%xmm7" ::: "rax", "xmm7");
  kill(getpid(), SIGUSR1);
  __asm__ volatile("movsd %%xmm7, %0" : "=m"(kept));
  printf("user %d, xmm7 %g\n", (int)seen, kept);

  sigset_t set, old, pending;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  seen = 0;
  sigprocmask(SIG_BLOCK, &set, &old);
  raise(SIGUSR1);
  sigpending(&pending);
  printf("blocked %d pending %d\n", (int)seen, sigismember(&pending, SIGUSR1));
  sigprocmask(SIG_SETMASK, &old, NULL);
  printf("unblocked %d\n", seen != 0);

  page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  install(SIGSEGV, on_fault, 0);
  page[123] = 7;
  printf("fault %d at page+%ld, value %d\n", (int)seen, (long)((volatile char *)fault_address - page), page[123]);

  stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
  sigaltstack(&stack, NULL);
  struct sigaction action = {.sa_handler = jump, .sa_flags = SA_ONSTACK};
  sigaction(SIGSEGV, &action, NULL);
  int number = sigsetjmp(back, 1);
  if (!number) overflow_stack(alternate);
  printf("stack overflow: signal %d on the alternate stack %d\n", number, on_alternate);
  sigaction(SIGFPE, &action, NULL);
  volatile int one = 1, zero = 0;
  volatile long wild = 8;
  number = sigsetjmp(back, 1);
  if (!number) printf("%d\n", one / zero);
  printf("division: signal %d\n", number);
  sigaction(SIGSEGV, &action, NULL);
  number = sigsetjmp(back, 1);
  if (!number) printf("%d\n", *(volatile int *)wild);
  printf("null: signal %d\n", number);

  install(SIGILL, skip, 0);
  seen = 0;
  __asm__ volatile("ud2");
  printf("illegal %d, skipped\n", (int)seen);
  action.sa_handler = nothing;
  action.sa_flags = 0;
  sigaction(SIGTRAP, &action, NULL);
  __asm__ volatile("int3");
  printf("trap %d\n", (int)seen);

  signal(SIGUSR2, in_thread);
  pthread_create(&waiting, NULL, wait_for_signal, NULL);
  usleep(3000);
  pthread_kill(waiting, SIGUSR2);
  pthread_join(waiting, NULL);
  printf("thread %d\n", thread_seen);

  signal(SIGPIPE, SIG_IGN);
  int ends[2];
  if (pipe(ends)) return 1;
  close(ends[0]);
  ssize_t written = write(ends[1], "x", 1);
  printf("pipe %zd %s\n", written, strerror(errno));
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigprocmask(SIG_BLOCK, &set, NULL);
  raise(SIGUSR1);
  struct timespec none = {0};
  printf("sigtimedwait %d\n", sigtimedwait(&set, NULL, &none));
  number = sigtimedwait(&set, NULL, &none);
  printf("sigtimedwait %d %s\n", number, strerror(errno));
  return 0;
}
