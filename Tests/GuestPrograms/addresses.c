// Where things lie. Without an argument it checks their order; with "show" it prints them, one a line, with "kernel" the kernel's too
// (which a guest's program can read, for it shares the kernel's address space): what varies from run to run is for the caller to see.
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

static int data = 1;
int main(int count, char **arguments) {
  uintptr_t program = (uintptr_t)main, stack = (uintptr_t)__builtin_frame_address(0);
  uintptr_t here = (uintptr_t)&data, end = (uintptr_t)sbrk(0), vdso = getauxval(AT_SYSINFO_EHDR);
  uintptr_t mapping = (uintptr_t)mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  uintptr_t interpreter = getauxval(AT_BASE);
  if (count > 1) {
    printf("program %lx\ndata %lx\nbreak %lx\nmapping %lx\nstack %lx\nvdso %lx\n", program, here, end, mapping, stack, vdso);
    if (interpreter) printf("interpreter %lx\n", interpreter);
    if (!strcmp(arguments[1], "kernel")) {
      uintptr_t area, gate;
      __asm__("mov %%gs:0x800, %0\n\tmov %%gs:0x828, %1" : "=r"(area), "=r"(gate));
      printf("linear %lx\nkernel %lx\n", area, gate);
    }
    return 0;
  }
  // Linux puts a static PIE among the mappings, and the break where other programs are.
  printf("the break is not in the program: %d\n", here > program && (end > here || end < program));
  printf("mappings are above the break: %d\n", mapping > end);
  printf("the stack is above mappings: %d\n", stack > mapping);
  printf("the interpreter is among them: %d\n", !interpreter || (interpreter > end && interpreter < stack));
  const uint64_t *random = (const uint64_t *)getauxval(AT_RANDOM);
  printf("random bytes: %d\n", random && random[0] != random[1] && random[0]);
  return 0;
}
