// A program that steps through itself (TF): the steps go on through a system call that has been made often, and all of them are
// in the program's own code.
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

// long call(long trap_flag): getpid with the flag set from right before it to right behind it.
__asm__("  .text\n  .globl call\n  .type call, @function\ncall:\n  .cfi_startproc\n"
        "  mov %rdi, %rdx\n  pushfq\n  or %rdx, (%rsp)\n  popfq\n"
        "  mov $39, %eax\n  syscall\n  nop\ncall_end:  nop\n"
        "  pushfq\n  andq $~0x100, (%rsp)\n  popfq\n  ret\n  .cfi_endproc\n  .size call, . - call\n");
long call(long);
extern const char call_end[], __executable_start[], etext[];
static volatile int steps, at_end, elsewhere;

static void step(int number, siginfo_t *info, void *context) {
  (void)number;
  (void)info;
  uintptr_t rip = ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
  ++steps;
  at_end += rip == (uintptr_t)call_end;
  elsewhere += rip < (uintptr_t)__executable_start || rip >= (uintptr_t)etext;
}

int main(void) {
  struct sigaction action = {.sa_flags = SA_SIGINFO};
  int pid = getpid(), wrong = 0;
  action.sa_sigaction = step;
  sigaction(SIGTRAP, &action, NULL);
  for (int turn = 0; turn < 100; ++turn) wrong += call(0) != pid;
  printf("%d wrong, %d steps\n", wrong, steps);
  for (int turn = 0; turn < 5; ++turn) wrong += call(0x100) != pid;
  // How many steps a call takes may differ; that they go on behind it may not.
  printf("%d wrong, stepped past the call: %d times, %d elsewhere\n", wrong, at_end, elsewhere);
  return 0;
}
