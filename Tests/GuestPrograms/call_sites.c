// System calls keep every register but RAX, RCX and R11, the flags, the red zone and the vector registers, whatever stands
// around the instruction, while signals come in at any place and another thread does the same.
// flavours: glibc-static glibc-static-pie fixed musl-static musl-static-pie
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

// What a probe loads and what it finds: general registers (rbx rbp rdx rsi rdi r8 r9 r10 r12 r13 r14 r15), the red zone, xmm0-15.
struct state {
  uint64_t general[12];
  uint64_t red_zone[16];
  uint64_t vectors[32];
  uint64_t flags;
  uint64_t rax, rcx, r11;
};
struct block {
  struct state wanted;  // at 0
  struct state found;   // at 512
} __attribute__((aligned(16)));
_Static_assert(sizeof(struct state) == 512, "offsets in the assembly");

#define LOAD                                                                                                         \
  "  .cfi_startproc\n  push %rbx\n  push %rbp\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"                  \
  "  sub $40, %rsp\n  mov %rdi, (%rsp)\n"                                                                            \
  "  mov 0(%rdi), %rbx\n  mov 8(%rdi), %rbp\n  mov 16(%rdi), %rdx\n  mov 24(%rdi), %rsi\n"                            \
  "  mov 40(%rdi), %r8\n  mov 48(%rdi), %r9\n  mov 56(%rdi), %r10\n  mov 64(%rdi), %r12\n  mov 72(%rdi), %r13\n"      \
  "  mov 80(%rdi), %r14\n  mov 88(%rdi), %r15\n"                                                                     \
  "  .set i, 0\n  .rept 16\n  mov 96 + 8 * i(%rdi), %rax\n  mov %rax, -8 - 8 * i(%rsp)\n  .set i, i + 1\n  .endr\n"   \
  "  .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n  movups 224 + 16 * \\n(%rdi), %xmm\\n\n  .endr\n" \
  "  lea -256(%rsp), %rsp\n  pushq 480(%rdi)\n  popfq\n  lea 256(%rsp), %rsp\n"                                       \
  "  mov 32(%rdi), %rdi\n"
#define STORE                                                                                                       \
  "  mov %rcx, 16(%rsp)\n  mov (%rsp), %rcx\n  mov %rax, 512 + 488(%rcx)\n"                                           \
  "  mov 8(%rsp), %rax\n  mov %rax, 512 + 504(%rcx)\n"                                                               \
  "  lea -256(%rsp), %rsp\n  pushfq\n  popq 512 + 480(%rcx)\n  cld\n  lea 256(%rsp), %rsp\n"                          \
  "  mov 16(%rsp), %rax\n  mov %rax, 512 + 496(%rcx)\n"                                                              \
  "  mov %rbx, 512 + 0(%rcx)\n  mov %rbp, 512 + 8(%rcx)\n  mov %rdx, 512 + 16(%rcx)\n  mov %rsi, 512 + 24(%rcx)\n"    \
  "  mov %rdi, 512 + 32(%rcx)\n  mov %r8, 512 + 40(%rcx)\n  mov %r9, 512 + 48(%rcx)\n  mov %r10, 512 + 56(%rcx)\n"    \
  "  mov %r12, 512 + 64(%rcx)\n  mov %r13, 512 + 72(%rcx)\n  mov %r14, 512 + 80(%rcx)\n  mov %r15, 512 + 88(%rcx)\n"  \
  "  .set i, 0\n  .rept 16\n  mov -8 - 8 * i(%rsp), %rax\n  mov %rax, 512 + 96 + 8 * i(%rcx)\n  .set i, i + 1\n  .endr\n" \
  "  .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n  movups %xmm\\n, 512 + 224 + 16 * \\n(%rcx)\n  .endr\n" \
  "  add $40, %rsp\n  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbp\n  pop %rbx\n  ret\n  .cfi_endproc\n"
#define PROBE(name, body) "  .globl " name "\n  .type " name ", @function\n" name ":\n" LOAD body STORE "  .size " name ", . - " name "\n"

// The number right before; other instructions in between, one of them relative to RIP; nothing long before; the same, and a
// branch to what stands behind; a loop back to the call itself.
__asm__("  .text\n"
  PROBE("probe_before", "  mov $39, %eax\n  syscall\nprobe_before_end:\n  mov %r11, 8(%rsp)\n")
  PROBE("probe_between",
        "  mov number(%rip), %eax\n  mov %rbx, %rbx\n  movaps %xmm0, %xmm0\n  syscall\nprobe_between_end:\n  mov %r11, 8(%rsp)\n")
  PROBE("probe_after",
        "  mov $39, %eax\n  nop\n  nop\n  nop\n  nop\n  nop\n  nop\n  nop\n  nop\n  nop\n  syscall\nprobe_after_end:\n"
        "  mov %r11, 8(%rsp)\n")
  PROBE("probe_branch",
        "  lea 1f(%rip), %rcx\n  mov %rcx, %r11\n  mov $-1, %rax\n  jmp 1f\n"
        "  nop\n  nop\n  nop\n  nop\n  nop\n  nop\n  nop\n  nop\n  nop\n  syscall\n1:  mov %r11, 8(%rsp)\n")
  PROBE("probe_loop",
        "  mov $39, %eax\n  movq $3, 24(%rsp)\n1:  mov $39, %al\n2:  syscall\nprobe_loop_end:\n  mov %r11, 8(%rsp)\n"
        "  mov 24(%rsp), %rcx\n  lea -1(%rcx), %rcx\n  mov %rcx, 24(%rsp)\n  jrcxz 3f\n  mov $39, %eax\n  jmp 2b\n"
        "3:  lea probe_loop_end(%rip), %rcx\n")
  "  .section .rodata\nnumber:  .long 39\n  .text\n");
void probe_before(struct block *), probe_between(struct block *), probe_after(struct block *), probe_branch(struct block *),
    probe_loop(struct block *);
extern const char probe_before_end[], probe_between_end[], probe_after_end[], probe_loop_end[];
extern const char __executable_start[], etext[];

static volatile int wrong_places, signals, is_over;

static void handler(int number, siginfo_t *info, void *context) {
  (void)info;
  ucontext_t *interrupted = context;
  uint64_t rip = interrupted->uc_mcontext.gregs[REG_RIP];
  if (rip < (uintptr_t)__executable_start || rip >= (uintptr_t)etext) ++wrong_places;
  ++signals;
  __asm__ volatile("pcmpeqd %%xmm0, %%xmm0\n\tpcmpeqd %%xmm5, %%xmm5\n\tpcmpeqd %%xmm15, %%xmm15" ::: "xmm0", "xmm5", "xmm15");
  if (syscall(SYS_gettid) <= 0 || number != SIGUSR1) abort();
}

static uint64_t random_word(uint64_t *seed) {
  *seed ^= *seed << 13;
  *seed ^= *seed >> 7;
  *seed ^= *seed << 17;
  return *seed;
}

#define FLAGS 0xcd5  // CF PF AF ZF SF DF OF

static int probe(const char *name, void (*function)(struct block *), const char *end, long result, int count, uint64_t seed) {
  static __thread struct block block;
  for (int turn = 0; turn < count; ++turn) {
    memset(&block, 0, sizeof block);
    uint64_t *words = (uint64_t *)&block.wanted;
    for (int index = 0; index < 60; ++index) words[index] = random_word(&seed);
    block.wanted.flags = (random_word(&seed) & FLAGS) | 0x202;
    function(&block);
    if (memcmp(block.wanted.general, block.found.general, sizeof block.wanted.general) != 0) return printf("%s: a register\n", name);
    if (memcmp(block.wanted.red_zone, block.found.red_zone, sizeof block.wanted.red_zone) != 0)
      return printf("%s: the red zone\n", name);
    if (memcmp(block.wanted.vectors, block.found.vectors, sizeof block.wanted.vectors) != 0)
      return printf("%s: a vector register\n", name);
    if ((block.found.flags & FLAGS) != (block.wanted.flags & FLAGS)) return printf("%s: the flags\n", name);
    if (block.found.rax != (uint64_t)result) return printf("%s: the result\n", name);
    if (end == NULL) continue;
    if (block.found.rcx != (uintptr_t)end) return printf("%s: RCX\n", name);
    if ((block.found.r11 & (FLAGS | 0x202)) != block.wanted.flags) return printf("%s: R11\n", name);
  }
  return 0;
}

static void *all(void *argument) {
  intptr_t failures = 0;
  uint64_t seed = 88172645463325252u + (uintptr_t)argument;
  // The first thread goes on until signals have come in.
  for (int round = 0; round < 10 || (argument == (void *)2 && signals < 20 && round < 5000); ++round) {
    failures += probe("before", probe_before, probe_before_end, getpid(), 300, seed += round);
    failures += probe("between", probe_between, probe_between_end, getpid(), 300, seed += round);
    failures += probe("after", probe_after, probe_after_end, getpid(), 300, seed += round);
    failures += probe("branch", probe_branch, NULL, -1, 20, seed += round);
    failures += probe("loop", probe_loop, probe_loop_end, getpid(), 100, seed += round);
  }
  return (void *)failures;
}

static void *shoot(void *target) {
  while (!is_over) {
    pthread_kill(*(pthread_t *)target, SIGUSR1);
    sched_yield();
  }
  return NULL;
}

int main(void) {
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART};
  sigaction(SIGUSR1, &action, NULL);
  pthread_t self = pthread_self(), shooter, other;
  void *result;
  pthread_create(&shooter, NULL, shoot, &self);
  pthread_create(&other, NULL, all, (void *)1);
  long failures = (long)all((void *)2);
  is_over = 1;
  pthread_join(other, &result);
  pthread_join(shooter, NULL);
  failures += (long)result;
  printf("%s, %s, %d in wrong places\n", failures == 0 ? "all as it was" : "something was lost",
         signals > 0 ? "signals came" : "no signal came", wrong_places);
  return failures != 0 || wrong_places != 0;
}
