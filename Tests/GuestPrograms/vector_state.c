// Vector registers, x87 state, flags and MXCSR survive system calls, blocking ones, preemption and other threads that use them too.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static volatile int wrong;

static void fill(uint8_t *bytes, uint64_t seed) {
  for (int i = 0; i < 256; i++) bytes[i] = (uint8_t)(seed = seed * 6364136223846793005u + 1442695040888963407u, seed >> 56);
}

// Loads all sixteen XMM registers, makes a system call (number in rax), stores them again.
static void round_trip(const uint8_t *in, uint8_t *out, long number, long first, long second) {
  __asm__ volatile(
      "movdqu (%1), %%xmm0\n movdqu 16(%1), %%xmm1\n movdqu 32(%1), %%xmm2\n movdqu 48(%1), %%xmm3\n"
      "movdqu 64(%1), %%xmm4\n movdqu 80(%1), %%xmm5\n movdqu 96(%1), %%xmm6\n movdqu 112(%1), %%xmm7\n"
      "movdqu 128(%1), %%xmm8\n movdqu 144(%1), %%xmm9\n movdqu 160(%1), %%xmm10\n movdqu 176(%1), %%xmm11\n"
      "movdqu 192(%1), %%xmm12\n movdqu 208(%1), %%xmm13\n movdqu 224(%1), %%xmm14\n movdqu 240(%1), %%xmm15\n"
      "syscall\n"
      "movdqu %%xmm0, (%2)\n movdqu %%xmm1, 16(%2)\n movdqu %%xmm2, 32(%2)\n movdqu %%xmm3, 48(%2)\n"
      "movdqu %%xmm4, 64(%2)\n movdqu %%xmm5, 80(%2)\n movdqu %%xmm6, 96(%2)\n movdqu %%xmm7, 112(%2)\n"
      "movdqu %%xmm8, 128(%2)\n movdqu %%xmm9, 144(%2)\n movdqu %%xmm10, 160(%2)\n movdqu %%xmm11, 176(%2)\n"
      "movdqu %%xmm12, 192(%2)\n movdqu %%xmm13, 208(%2)\n movdqu %%xmm14, 224(%2)\n movdqu %%xmm15, 240(%2)\n"
      : "+a"(number)
      : "r"(in), "r"(out), "D"(first), "S"(second)
      : "rcx", "r11", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
        "xmm12", "xmm13", "xmm14", "xmm15");
}

static void *work(void *argument) {
  uint64_t seed = (uint64_t)(uintptr_t)argument;
  uint8_t in[256], out[256];
  struct timespec pause = {0, 200000};
  double sum = 0;
  for (int i = 0; i < 300; i++) {
    fill(in, seed + (uint64_t)i);
    long number = i % 3 == 0 ? 35 /* nanosleep */ : i % 3 == 1 ? 24 /* sched_yield */ : 39 /* getpid */;
    round_trip(in, out, number, (long)&pause, 0);
    if (memcmp(in, out, sizeof in) != 0) wrong = 1;
    // Long enough in between to be preempted with live vector and x87 state.
    long double x = 1;
    for (int k = 1; k < 3000; k++) x = x * 1.0001L + (long double)k / (k + 1);
    sum += (double)x;
  }
  double again = 0;
  for (int i = 0; i < 300; i++) {
    long double x = 1;
    for (int k = 1; k < 3000; k++) x = x * 1.0001L + (long double)k / (k + 1);
    again += (double)x;
  }
  if (again != sum) wrong = 2;
  return NULL;
}

int main(void) {
  pthread_t threads[4];
  for (long i = 0; i < 4; i++) pthread_create(&threads[i], NULL, work, (void *)(i * 1000 + 7));
  for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
  printf("vector state %s (%d)\n", wrong ? "damaged" : "kept", wrong);
  return wrong;
}
