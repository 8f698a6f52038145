#include "fibers.h"
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { STACK = 256 * 1024 };

struct fiber {
  void *stack_pointer, *resumer;
  void (*entry)(void *);
  void *argument;
  fiber *next_free;
};

static _Thread_local fiber *running, *free_fibers;

// Saves the callee-saved registers and RSP to *from, and goes on with those of `to`.
void fiber_switch(void **from, void *to);
__asm__(".text\n"
        ".globl fiber_switch\n"
        ".type fiber_switch, @function\n"
        "fiber_switch:\n"
        "  push %rbp\n  push %rbx\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
        "  mov %rsp, (%rdi)\n  mov %rsi, %rsp\n"
        "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbx\n  pop %rbp\n"
        "  ret\n"
        ".size fiber_switch, .-fiber_switch\n");

static void fiber_main(void) {
  running->entry(running->argument);
  for (;;) fiber_yield();
}

fiber *fiber_create(void (*entry)(void *), void *argument) {
  fiber *f = free_fibers;
  if (f) {
    free_fibers = f->next_free;
  } else {
    char *memory = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) abort();
    f = (fiber *)(memory + STACK - sizeof(fiber));
  }
  f->entry = entry;
  f->argument = argument;
  uint64_t *top = (uint64_t *)((uintptr_t)f & ~(uintptr_t)15);
  *--top = 0; // where fiber_main would return to
  *--top = (uint64_t)(uintptr_t)fiber_main;
  for (int i = 0; i < 6; i++) *--top = 0;
  f->stack_pointer = top;
  return f;
}

void fiber_resume(fiber *f) {
  running = f;
  fiber_switch(&f->resumer, f->stack_pointer);
  running = NULL;
}

void fiber_yield(void) { fiber_switch(&running->stack_pointer, running->resumer); }

void fiber_destroy(fiber *f) {
  f->next_free = free_fibers;
  free_fibers = f;
}
