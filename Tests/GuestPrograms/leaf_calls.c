// Calls of the C library behind which vector registers are dead, made often enough to become jumps, between threads of one CPU that hold
// vector state across calls of their own, or across signals: all of them keep what is theirs. What a function call keeps by the ABI,
// MXCSR and the x87 control word, stays with each thread also through the former.
// flavours: glibc-static glibc-dynamic musl-static
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

static volatile int wrong, stop;

static uint32_t mxcsr(void) {
  uint32_t value;
  __asm__ volatile("stmxcsr %0" : "=m"(value));
  return value & 0xffc0;
}
static void set_mxcsr(uint32_t value) { __asm__ volatile("ldmxcsr %0" ::"m"(value)); }
static uint16_t x87(void) {
  uint16_t value;
  __asm__ volatile("fnstcw %0" : "=m"(value));
  return value;
}
static void set_x87(uint16_t value) { __asm__ volatile("fldcw %0" ::"m"(value)); }

/// Only calls of the library; its own rounding (of SSE, and for some of x87).
static void *caller(void *argument) {
  long number = (long)argument;
  uint32_t mine = 0x1f80 | (uint32_t)(number & 3) << 13;
  uint16_t control = number & 4 ? 0x037f | (uint16_t)(number & 3) << 10 : 0x037f;
  set_mxcsr(mine);
  set_x87(control);
  volatile double x = 1.0 + number;
  double kept = x * 3;
  for (int i = 0; i < 2500; i++) {
    if (i & 1) sched_yield();
    else syscall(SYS_sched_yield);
    if (mxcsr() != mine || x87() != control) wrong = 1;
    if (kept != x * 3) wrong = 2;
  }
  return NULL;
}

/// Everything in registers across a call that is written out here, as a function that keeps values would have it.
static void *holder(void *argument) {
  uint64_t seed = (uint64_t)(uintptr_t)argument * 0x9e3779b97f4a7c15u;
  uint8_t in[256], out[256];
  while (!stop) {
    for (int i = 0; i < 32; i++) {
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      memcpy(in + 8 * i, &seed, 8);
    }
    long number = SYS_sched_yield;
    __asm__ volatile(
        "movdqu (%1), %%xmm0\n movdqu 16(%1), %%xmm1\n movdqu 112(%1), %%xmm7\n movdqu 240(%1), %%xmm15\n"
        "syscall\n"
        "movdqu %%xmm0, (%2)\n movdqu %%xmm1, 16(%2)\n movdqu %%xmm7, 112(%2)\n movdqu %%xmm15, 240(%2)\n"
        : "+a"(number)
        : "r"(in), "r"(out)
        : "rcx", "r11", "memory", "xmm0", "xmm1", "xmm7", "xmm15");
    if (memcmp(in, out, 32) || memcmp(in + 112, out + 112, 16) || memcmp(in + 240, out + 240, 16)) wrong = 3;
  }
  return NULL;
}

/// Computes with live registers, preempted and interrupted by signals whose handler makes such calls.
static void *computer(void *argument) {
  double first = 0;
  int rounds = 0;
  while (!stop) {
    double a = 1, b = 2, c = 3, d = 4;
    for (int i = 1; i < 4000; i++) a = a * 0.99 + b / i, b = b * 0.98 + c / i, c = c * 0.97 + d / i, d = d * 0.96 + a / i;
    double sum = a + b + c + d;
    if (rounds++ == 0) first = sum;
    if (sum != first) wrong = 4;
  }
  return NULL;
}

static volatile double spoiled;
static void handler(int number) {
  for (int i = 0; i < 3; i++) {
    spoiled = spoiled * 1.5 + i;
    sched_yield();
    syscall(SYS_sched_yield);
  }
}

int main(void) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(0, &set);
  sched_setaffinity(0, sizeof set, &set);
  struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
  sigaction(SIGALRM, &action, NULL);
  struct itimerval often = {{0, 2000}, {0, 2000}};
  setitimer(ITIMER_REAL, &often, NULL);
  pthread_t others[3], callers[8];
  pthread_create(&others[0], NULL, holder, (void *)1);
  pthread_create(&others[1], NULL, holder, (void *)2);
  pthread_create(&others[2], NULL, computer, NULL);
  for (long i = 0; i < 8; i++) pthread_create(&callers[i], NULL, caller, (void *)i);
  for (int i = 0; i < 8; i++) pthread_join(callers[i], NULL);
  stop = 1;
  for (int i = 0; i < 3; i++) pthread_join(others[i], NULL);
  printf("registers %s (%d)\n", wrong ? "damaged" : "kept", wrong);
  return wrong;
}
