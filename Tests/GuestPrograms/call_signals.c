// Signals and calls that have been made often: a blocked call is repeated or ends with EINTR, the handler sees the address it
// would on any Linux, an instruction right before a call faults at its own address, and longjmp leaves a call for good.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

// long call(long number, long a, long b, long c): the number in a register, as in libraries.
__asm__("  .text\n  .globl call\n  .type call, @function\ncall:\n  .cfi_startproc\n"
        "  movslq %edi, %rax\n  mov %rsi, %rdi\n  mov %rdx, %rsi\n  mov %rcx, %rdx\n  mov $0, %r10d\n"
        "call_site:  syscall\ncall_end:  ret\n  .cfi_endproc\n  .size call, . - call\n"
        // long load_and_call(int *from): getpid, with a load on the way that may fault.
        "  .globl load_and_call\n  .type load_and_call, @function\nload_and_call:\n  .cfi_startproc\n"
        "  mov $39, %eax\nload_site:  mov (%rdi), %edx\n  syscall\n  lea (%rax,%rdx), %rax\n  ret\n  .cfi_endproc\n"
        "  .size load_and_call, . - load_and_call\n");
long call(long, long, long, long), load_and_call(int *);
extern const char call_site[], call_end[], load_site[];

static volatile int seen, at_call, behind_call, at_load;
static int good = 7;
static sigjmp_buf back;

static void look(int number, siginfo_t *info, void *context) {
  (void)info;
  uintptr_t rip = ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
  seen = number;
  at_call += rip == (uintptr_t)call_site;
  behind_call += rip == (uintptr_t)call_end;
}
static void repair(int number, siginfo_t *info, void *context) {
  ucontext_t *interrupted = context;
  seen = number;
  at_load += (uintptr_t)interrupted->uc_mcontext.gregs[REG_RIP] == (uintptr_t)load_site && info->si_addr == (void *)16;
  interrupted->uc_mcontext.gregs[REG_RDI] = (uintptr_t)&good;
}
static void leave(int number) { siglongjmp(back, number); }

static int ends[2];
struct order {
  pthread_t target;
  int signal;
};
static void *interrupt_later(void *argument) {
  struct order *order = argument;
  usleep(20000);
  pthread_kill(order->target, order->signal);
  usleep(20000);
  if (write(ends[1], "z", 1) != 1) return argument;
  return NULL;
}
static void install(int number, void (*handler)(int, siginfo_t *, void *), int flags) {
  struct sigaction action = {.sa_flags = flags | SA_SIGINFO};
  action.sa_sigaction = handler;
  sigaction(number, &action, NULL);
}
static void blocked_read(const char *name, int signal) {
  struct order order = {pthread_self(), signal};
  pthread_t thread;
  char byte = 0;
  seen = at_call = behind_call = 0;
  pthread_create(&thread, NULL, interrupt_later, &order);
  long result = call(SYS_read, ends[0], (long)&byte, 1);
  printf("%s: %ld %c, signal %d, at the call %d, behind it %d\n", name, result, byte ? byte : '-', seen, at_call, behind_call);
  pthread_join(thread, NULL);
  if (result != 1 && read(ends[0], &byte, 1) != 1) printf("the byte is lost\n");
}

int main(void) {
  char byte = 'a';
  int pid = getpid(), wrong = 0;
  if (pipe(ends) != 0) return 1;
  for (int turn = 0; turn < 100; ++turn) {
    wrong += call(SYS_write, ends[1], (long)&byte, 1) != 1;
    wrong += call(SYS_read, ends[0], (long)&byte, 1) != 1;
    wrong += load_and_call(&good) != pid + 7;
  }
  printf("%d wrong\n", wrong);
  install(SIGUSR1, look, SA_RESTART);
  install(SIGUSR2, look, 0);
  install(SIGSEGV, repair, 0);
  for (int turn = 0; turn < 3; ++turn) {
    blocked_read("repeated", SIGUSR1);
    blocked_read("ended", SIGUSR2);
  }
  for (int turn = 0; turn < 3; ++turn) wrong += load_and_call((int *)16) != pid + 7;
  printf("%d wrong, signal %d, %d at the load\n", wrong, seen, at_load);
  signal(SIGHUP, leave);
  for (volatile int turn = 0; turn < 3; ++turn) {
    struct order order = {pthread_self(), SIGHUP};
    static pthread_t thread;
    int number = sigsetjmp(back, 1);
    if (number == 0) {
      pthread_create(&thread, NULL, interrupt_later, &order);
      call(SYS_read, ends[0], (long)&byte, 1);
    }
    printf("left by signal %d, then %ld\n", number, call(SYS_read, ends[0], (long)&byte, 1));
    pthread_join(thread, NULL);
  }
  return 0;
}
