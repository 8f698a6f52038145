// Instructions that a KVM may hand back because its emulator does not know them: a program gets the signal that a processor's
// exception would have become, with the same code and address, and goes on from its handler.
// flavours: glibc-static glibc-dynamic
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <ucontext.h>

static sigjmp_buf back;
static volatile int number, code, at;
static volatile uintptr_t start;

static void handle(int signal, siginfo_t *information, void *context) {
  number = signal;
  code = information->si_code;
  at = (uintptr_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] == start;
  siglongjmp(back, 1);
}

#define TRY(name, bytes)                                                                       \
  do {                                                                                         \
    number = code = at = 0;                                                                    \
    if (sigsetjmp(back, 1) == 0) {                                                             \
      __asm__ volatile("leaq 1f(%%rip), %%rdx\n\tmovq %%rdx, %0\n1:\t" bytes                   \
                       : "=m"(start)                                                           \
                       : "a"(0), "b"(0), "c"(0), "S"(scratch)                                  \
                       : "rdx", "memory");                                                     \
      printf("%s ran\n", name);                                                                \
    } else {                                                                                   \
      printf("%s: signal %d, code %d, at the instruction: %d\n", name, number, code, at);      \
    }                                                                                          \
  } while (0)

int main(void) {
  static uint64_t scratch[8];
  struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO};
  sigaction(SIGILL, &action, NULL);
  sigaction(SIGSEGV, &action, NULL);
  for (int round = 0; round < 3; round++) {
    TRY("ud2", ".byte 0x0f, 0x0b");
    TRY("ud1", ".byte 0x0f, 0xb9, 0xc0");
    TRY("ud0", ".byte 0x0f, 0xff, 0xc0");
    TRY("aad", ".byte 0xd5, 0x0a");
    TRY("invpcid", ".byte 0x66, 0x0f, 0x38, 0x82, 0x06");
    TRY("int 0x55", ".byte 0xcd, 0x55");
  }
  return 0;
}
