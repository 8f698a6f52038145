// What a handler of a synchronous signal is told, to the bit: si_code and si_addr, every register of the context, the extended state,
// and that what it changes there holds when it has returned; on both stacks, with every flag, nested, and blocked.
// cflags: -mno-red-zone -Wno-array-bounds
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

// Each probe is a function of two words and two doubles that fills all registers with known values, sets CF, PF, AF and SF, and executes one
// instruction; what RCX, R15 and the flags hold behind it is stored.
__asm__(
  ".text\n"
  ".macro probe name, instruction:vararg\n"
  ".globl \\name, at_\\name, next_\\name\n"
  "\\name: push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
  "movabs $0x1b1b1b1b00000001, %rbx; movabs $0x1b1b1b1b00000002, %r12; movabs $0x1b1b1b1b00000003, %r13\n"
  "movabs $0x1b1b1b1b00000004, %r14; movabs $0x1b1b1b1b00000005, %r15; movabs $0x1b1b1b1b00000006, %r8\n"
  "movabs $0x1b1b1b1b00000007, %r9; movabs $0x1b1b1b1b00000008, %r10; movabs $0x1b1b1b1b00000009, %r11\n"
  "movabs $0x1b1b1b1b0000000a, %rcx; mov %rdi, %rbp; xor %edx, %edx; mov %rsp, probe_rsp(%rip)\n"
  "xor %eax, %eax; sub $1, %eax; mov $11, %eax\n"
  "at_\\name: \\instruction\n"
  "next_\\name: mov %rcx, probe_rcx(%rip); mov %r15, probe_r15(%rip); pushf; pop probe_flags(%rip)\n"
  "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret\n"
  ".endm\n"
  "probe load, mov (%rdi), %rax\n"
  "probe store, movb $1, (%rdi)\n"
  "probe add, addq $1, (%rdi)\n"
  "probe fetch, jmp *%rdi\n"
  "probe frame, mov (%rbp), %rax\n"
  "probe divide, divl %esi\n"
  "probe illegal, ud2\n"
  "probe breakpoint, int3\n"
  "probe sse_divide, divsd %xmm1, %xmm0\n"
  "probe sse_multiply, mulsd %xmm1, %xmm0\n"
  "probe x87, fwait\n"
  "probe traced, nop\n"
  ".data\n.balign 8\n"
  ".globl probe_rsp, probe_rcx, probe_r15, probe_flags\n"
  "probe_rsp: .quad 0\nprobe_rcx: .quad 0\nprobe_r15: .quad 0\nprobe_flags: .quad 0\n"
  ".text\n");
extern uint64_t probe_rsp, probe_rcx, probe_r15, probe_flags;
typedef long probe(void *, long, double, double);
#define DECLARE(name)                                                                                                  \
  extern probe name;                                                                                                   \
  extern char at_##name[], next_##name[];
DECLARE(load) DECLARE(store) DECLARE(add) DECLARE(fetch) DECLARE(frame) DECLARE(divide) DECLARE(illegal)
DECLARE(breakpoint) DECLARE(sse_divide) DECLARE(sse_multiply) DECLARE(x87) DECLARE(traced)

#define ARITHMETIC 0xcd5ul
static struct {
  int count, signal, code, told, uc_flags, depth;
  char *address, *frame;
  long long gregs[23];
  stack_t stack;
  uint64_t mask;
} seen;
static char *go_on;
static void (*change)(ucontext_t *);

static void note(int signal, siginfo_t *info, ucontext_t *context) {
  seen.count++;
  seen.signal = signal;
  seen.frame = __builtin_frame_address(0);
  if (info) { seen.code = info->si_code, seen.address = info->si_addr, seen.told = info->si_signo; }
  memcpy(seen.gregs, context->uc_mcontext.gregs, sizeof seen.gregs);
  seen.uc_flags = context->uc_flags;
  seen.stack = context->uc_stack;
  memcpy(&seen.mask, &context->uc_sigmask, 8);
}

static void handler(int signal, siginfo_t *info, void *context) {
  ucontext_t *uc = context;
  note(signal, info, uc);
  long long *g = uc->uc_mcontext.gregs;
  // Back behind the instruction with other registers and flags: CF clear, ZF set.
  g[REG_RIP] = (long long)go_on;
  g[REG_RAX] = 0x600d;
  g[REG_RCX] = 0x7e7e000000000001;
  g[REG_R15] = 0x7e7e000000000002;
  g[REG_EFL] = (g[REG_EFL] & ~(ARITHMETIC | 0x100)) | 0x40;
  if (change) change(uc);
}

static void install(int signal, void (*function)(int, siginfo_t *, void *), int flags) {
  struct sigaction action = {.sa_sigaction = function, .sa_flags = flags};
  sigemptyset(&action.sa_mask);
  sigaction(signal, &action, 0);
}

static const char *name(int signal) {
  return signal == SIGSEGV ? "SIGSEGV" : signal == SIGBUS ? "SIGBUS" : signal == SIGFPE ? "SIGFPE"
       : signal == SIGILL ? "SIGILL" : signal == SIGTRAP ? "SIGTRAP" : "another";
}

static int registers_are_wrong(void) {
  static const int order[] = {REG_RBX, REG_R12, REG_R13, REG_R14, REG_R15, REG_R8, REG_R9, REG_R10, REG_R11, REG_RCX};
  int wrong = 0;
  for (int i = 0; i < 10; i++) wrong |= (seen.gregs[order[i]] != 0x1b1b1b1b00000001 + i) << i;
  if (seen.gregs[REG_RAX] != 11) wrong |= 1 << 10;
  if (seen.gregs[REG_RDX] != 0) wrong |= 1 << 11;
  if ((uint64_t)seen.gregs[REG_RSP] != probe_rsp) wrong |= 1 << 12;
  return wrong;
}

static void try_probe(const char *what, probe *function, char *at, char *next, char *argument, double a, double b) {
  memset(&seen, 0, sizeof seen);
  go_on = next;
  long result = function(argument, 0, a, b);
  char *rip = (char *)seen.gregs[REG_RIP];
  printf("%s: %d %s code %d told %d, si_addr %s, rip %s", what, seen.count, name(seen.signal), seen.code, seen.told == seen.signal,
    !seen.address ? "0" : seen.address == at ? "instruction" : seen.address == next ? "next" : seen.address == argument ? "operand" : "else",
    rip == at ? "instruction" : rip == next ? "next" : rip == argument ? "operand" : "else");
  // Whether a page was there when it was denied is the kernel's business.
  long long error = seen.gregs[REG_ERR];
  printf(", trap %lld error %#llx", seen.gregs[REG_TRAPNO], seen.gregs[REG_TRAPNO] == 14 ? error & ~1 : error);
  if (seen.gregs[REG_TRAPNO] == 14) printf(" cr2 %s", (char *)seen.gregs[REG_CR2] == argument ? "operand" : "else");
  printf(", registers %x, flags %#llx", registers_are_wrong(), seen.gregs[REG_EFL] & (ARITHMETIC | 0x300));
  printf("; then %#lx %#lx %#lx %#lx\n", result, probe_rcx, probe_r15, probe_flags & ARITHMETIC);
}
#define TRY(what, function, argument, a, b) try_probe(what, function, at_##function, next_##function, argument, a, b)

static void set_mxcsr(unsigned value) { __asm__ volatile("ldmxcsr %0" : : "m"(value)); }
static void all_masked(ucontext_t *uc) {
  unsigned value = 0x1f80;
  memcpy((char *)uc->uc_mcontext.fpregs + 24, &value, 4);
}
static void x87_at_rest(ucontext_t *uc) {
  uint16_t *words = (uint16_t *)uc->uc_mcontext.fpregs;
  printf("  x87 control %#x, status %#x\n", words[0], words[1] & ~0x3800);
  words[0] = 0x37f, words[1] = 0;
}

static void exceptions(void) {
  char *pages = mmap(0, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memset(pages, 0, 4 * 4096);
  mprotect(pages, 4096, PROT_READ);
  mprotect(pages + 4096, 4096, PROT_NONE);
  munmap(pages + 8192, 4096);
  TRY("load at null", load, 0, 0, 0);
  TRY("load, not mapped", load, pages + 8192 + 24, 0, 0);
  TRY("store, not mapped", store, pages + 8192 + 4095, 0, 0);
  TRY("read and write, not mapped", add, pages + 8192 + 8, 0, 0);
  TRY("store, read-only", store, pages + 77, 0, 0);
  TRY("load, no rights", load, pages + 4096 + 8, 0, 0);
  TRY("store, no rights", store, pages + 4096 + 8, 0, 0);
  TRY("fetch, not mapped", fetch, pages + 8192 + 3, 0, 0);
  TRY("fetch, data", fetch, pages + 4096 * 3 + 5, 0, 0);
  TRY("fetch, no rights", fetch, pages + 4096 + 5, 0, 0);
  TRY("fetch at null", fetch, 0, 0, 0);
  FILE *file = tmpfile();
  char *mapped = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0);
  if (ftruncate(fileno(file), 100)) perror("ftruncate");
  TRY("load, behind the file", load, mapped + 4096 + 9, 0, 0);
  TRY("store, behind the file", store, mapped + 4096 + 9, 0, 0);
  TRY("load, no address", load, (char *)0x8000000000000000, 0, 0);
  TRY("load by the stack's segment, no address", frame, (char *)0x8000000000000000, 0, 0);
  TRY("division by zero", divide, 0, 0, 0);
  TRY("no instruction", illegal, 0, 0, 0);
  TRY("breakpoint", breakpoint, 0, 0, 0);
  change = all_masked;
  static const struct { const char *what; unsigned bit; int multiply; double a, b; } cases[] = {
    {"invalid", 0x80, 0, 0, 0}, {"division", 0x200, 0, 1, 0}, {"overflow", 0x400, 1, 1e308, 1e308},
    {"underflow", 0x800, 1, 1e-308, 1e-308}, {"inexact", 0x1000, 0, 1, 3}, {"denormal", 0x100, 1, 1e-310, 1}};
  for (int i = 0; i < 6; i++) {
    set_mxcsr(0x1f80 & ~cases[i].bit);
    if (cases[i].multiply) TRY(cases[i].what, sse_multiply, 0, cases[i].a, cases[i].b);
    else TRY(cases[i].what, sse_divide, 0, cases[i].a, cases[i].b);
  }
  change = x87_at_rest;
  uint16_t control = 0x37f & ~4;
  __asm__ volatile("fldcw %0; fld1; fldz; fdivrp %%st, %%st(1)" : : "m"(control));
  TRY("x87 division", x87, 0, 0, 0);
  control = 0x37f & ~1;
  __asm__ volatile("fninit; fldcw %0; fldz; fldz; fdivrp %%st, %%st(1)" : : "m"(control));
  TRY("x87 invalid", x87, 0, 0, 0);
  __asm__ volatile("fninit");
  change = 0;
}

// Single steps: the flag is set behind the known flags, and a trap comes after each instruction until the handler clears it.
static char *steps[8];
static void step(int signal, siginfo_t *info, void *context) {
  ucontext_t *uc = context;
  note(signal, info, uc);
  char *rip = (char *)uc->uc_mcontext.gregs[REG_RIP];
  if (seen.count <= 8) steps[seen.count - 1] = rip;
  if (rip != seen.address) puts("si_addr is not rip");
  if (seen.count == 4) uc->uc_mcontext.gregs[REG_EFL] &= ~0x100;
}
__asm__(".text\n.globl stepped, stepped_from\n"
        "stepped: pushf; orl $0x100, (%rsp); popf\nstepped_from: nop\nnop\nnop\nnop\nnop\nnop\nret\n");
extern void stepped(void);
extern char stepped_from[];
static void single_steps(void) {
  memset(&seen, 0, sizeof seen);
  install(SIGTRAP, step, SA_SIGINFO);
  stepped();
  printf("%d steps, code %d, trap %lld error %lld, flags %#llx:", seen.count, seen.code, seen.gregs[REG_TRAPNO], seen.gregs[REG_ERR],
    seen.gregs[REG_EFL] & 0x300);
  for (int i = 0; i < seen.count && i < 8; i++) printf(" +%ld", (long)(steps[i] - stepped_from));
  puts("");
  install(SIGTRAP, handler, SA_SIGINFO);
}

// Extended state. `vector_probe` loads everything, faults, and stores everything.
struct vectors {
  uint8_t ymm[16][32];
  uint32_t mxcsr;
  uint16_t control, spare;
  uint8_t st0[16];
} __attribute__((aligned(64)));
__asm__(
  ".text\n.globl vector_probe, at_vector, next_vector\n"
  "vector_probe:\n"
  ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vmovdqa 32*\\n(%rdi), %ymm\\n\n .endr\n"
  "ldmxcsr 512(%rdi); fninit; fldcw 516(%rdi); fldt 520(%rdi)\n"
  "xor %eax, %eax\n"
  "at_vector: mov (%rax), %rax\n"
  "next_vector: stmxcsr 512(%rsi); fnstcw 516(%rsi); fstpt 520(%rsi); fninit\n"
  ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vmovdqa %ymm\\n, 32*\\n(%rsi)\n .endr\n"
  "vzeroupper; push %rax; movl $0x1f80, (%rsp); ldmxcsr (%rsp); pop %rax; ret\n");
extern void vector_probe(const struct vectors *, struct vectors *);
extern char next_vector[];
static struct vectors before, after;
static enum { LOOK, CHANGE, NO_IMAGE, NO_MAGIC, BAD_HEADER } doing;

static void vector_handler(int signal, siginfo_t *info, void *context) {
  ucontext_t *uc = context;
  uint8_t *image = (uint8_t *)uc->uc_mcontext.fpregs;
  uint32_t magic1, size, image_size, magic2, mxcsr;
  uint64_t components, present;
  seen.count++;
  memcpy(&magic1, image + 464, 4), memcpy(&size, image + 468, 4), memcpy(&components, image + 472, 8);
  memcpy(&image_size, image + 480, 4), memcpy(&magic2, image + image_size, 4), memcpy(&present, image + 512, 8);
  memcpy(&mxcsr, image + 24, 4);
  int low = 0, high = 0;
  for (int i = 0; i < 16; i++) {
    low += !memcmp(image + 160 + 16 * i, before.ymm[i], 16);
    high += !memcmp(image + 576 + 16 * i, before.ymm[i] + 16, 16);
  }
  if (doing == LOOK)
    printf("image: aligned %d, magic %#x %#x, size %d, x87 SSE AVX %d of which used %d; xmm %d, ymm %d, mxcsr %#x, control %#x, st0 %d\n",
      (uintptr_t)image % 64 == 0, magic1, magic2, size == image_size + 4, (int)(components & 7), (int)(present & 7), low, high, mxcsr,
      *(uint16_t *)image, !memcmp(image + 32, before.st0, 10));
  uc->uc_mcontext.gregs[REG_RIP] = (long long)next_vector;
  if (doing == NO_IMAGE) uc->uc_mcontext.fpregs = 0;
  if (doing == NO_MAGIC) memset(image + 464, 0, 4);
  if (doing == BAD_HEADER) memset(image + 520, 0xff, 8);
  if (doing != LOOK) {
    memset(image + 160 + 16 * 3, 0xa3, 16);
    memset(image + 576 + 16 * 3, 0xb3, 16);
    mxcsr = 0x3f80;
    memcpy(image + 24, &mxcsr, 4);
    *(uint16_t *)image = 0x67f;
    image[32 + 9] ^= 0x80;  // The sign of ST(0).
  }
  // What the handler does with its own registers is lost.
  __asm__ volatile("vpcmpeqd %%xmm7, %%xmm7, %%xmm7; fninit" : : : "xmm7");
}

static void extended_state(void) {
  if (!__builtin_cpu_supports("avx2")) return;
  uint8_t *bytes = (uint8_t *)&before;
  for (unsigned i = 0; i < sizeof before.ymm; i++) bytes[i] = (uint8_t)(i * 7 + i / 32 + 1);
  before.mxcsr = 0x5fa0, before.control = 0x27f;
  long double pi = 3.14159265358979323846L;
  memcpy(before.st0, &pi, 10);
  static const char *const names[] = {"looked at", "changed", "without an image", "without its magic", "with a bad header"};
  for (doing = LOOK; doing <= BAD_HEADER; doing++) {
    memset(&after, 0, sizeof after);
    seen.count = 0;
    install(SIGSEGV, vector_handler, SA_SIGINFO | (doing & 1 ? SA_ONSTACK : 0) | (doing == BAD_HEADER ? SA_RESETHAND : 0));
    if (doing == BAD_HEADER) {
      // Not to be loaded: the end, by SIGSEGV.
      fflush(stdout);
      pid_t child = vfork();
      if (child == 0) { vector_probe(&before, &after); _exit(7); }
      int status;
      waitpid(child, &status, 0);
      printf("%s: signal %d\n", names[doing], WIFSIGNALED(status) ? WTERMSIG(status) : -WEXITSTATUS(status));
      continue;
    }
    vector_probe(&before, &after);
    int same = 0, upper = 0;
    for (int i = 0; i < 16; i++) {
      same += !memcmp(before.ymm[i], after.ymm[i], 16);
      upper += !memcmp(before.ymm[i] + 16, after.ymm[i] + 16, 16);
    }
    printf("%s: %d signal, the same %d and %d, xmm3 %#x, ymm3 %#x, xmm7 %#x, mxcsr %#x, control %#x, st0 %s\n", names[doing], seen.count, same,
      upper, after.ymm[3][5], after.ymm[3][21], after.ymm[7][0], after.mxcsr, after.control,
      !memcmp(before.st0, after.st0, 10) ? "kept" : (after.st0[9] ^ before.st0[9]) == 0x80 ? "changed" : "else");
  }
  install(SIGSEGV, handler, SA_SIGINFO);
}

// Stacks, flags and masks.
static char alternate[64 << 10];
static int is_on_alternate(void) { return seen.frame > alternate && seen.frame < alternate + sizeof alternate; }
static void plain(int signal) {
  memset(&seen, 0, sizeof seen);
  seen.count = 1, seen.signal = signal, seen.frame = __builtin_frame_address(0);
  // The registers are there all the same, where SA_SIGINFO has them.
  install(signal, handler, SA_SIGINFO);
}
static sigjmp_buf back;
static void nested(int signal, siginfo_t *info, void *context) {
  note(signal, info, context);
  sigset_t now;
  sigprocmask(SIG_BLOCK, 0, &now);
  printf("  depth %d: blocked %d, frame below the last %d, on the alternate stack %d\n", seen.depth, sigismember(&now, signal),
    (char *)__builtin_frame_address(0) < (char *)seen.gregs[REG_RSP], is_on_alternate());
  if (++seen.depth < 3) *(volatile char *)16 = 1;
  siglongjmp(back, 1);
}
static uint64_t word(const sigset_t *set) {
  uint64_t value;
  memcpy(&value, set, 8);
  return value;
}

static void stacks_and_flags(void) {
  stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGUSR2);
  sigprocmask(SIG_BLOCK, &mask, 0);
  TRY("no alternate stack", load, 0, 0, 0);
  // SS_DISABLE is there if whoever ran exec had an alternate stack once: Linux takes the stack away then, not the flag.
  printf("  on it %d, flags %d, uc_flags %d, mask %#lx %#llx, segments %#llx\n", is_on_alternate(),
    seen.stack.ss_flags & ~SS_DISABLE, seen.uc_flags, seen.mask, seen.gregs[REG_OLDMASK], seen.gregs[REG_CSGSFS]);
  sigaltstack(&stack, 0);
  TRY("alternate stack, not asked for", load, 0, 0, 0);
  printf("  on it %d, flags %d, its own %d\n", is_on_alternate(), seen.stack.ss_flags, seen.stack.ss_sp == alternate);
  install(SIGSEGV, handler, SA_SIGINFO | SA_ONSTACK);
  TRY("alternate stack", load, 0, 0, 0);
  printf("  on it %d, flags %d, its own %d, below RSP %d\n", is_on_alternate(), seen.stack.ss_flags, seen.stack.ss_sp == alternate,
    seen.frame < (char *)seen.gregs[REG_RSP] && seen.frame > (char *)seen.gregs[REG_RSP] - 65536);

  seen.depth = 0;
  install(SIGSEGV, nested, SA_SIGINFO | SA_NODEFER);
  puts("nested, SA_NODEFER");
  if (!sigsetjmp(back, 1)) *(volatile char *)8 = 1;
  seen.depth = 0;
  install(SIGSEGV, nested, SA_SIGINFO | SA_NODEFER | SA_ONSTACK);
  puts("nested, SA_NODEFER and SA_ONSTACK");
  if (!sigsetjmp(back, 1)) *(volatile char *)8 = 1;
  printf("  in the context of the last: flags %d\n", seen.stack.ss_flags);

  install(SIGSEGV, handler, SA_SIGINFO | SA_RESETHAND);
  struct sigaction now;
  TRY("SA_RESETHAND", load, 0, 0, 0);
  sigaction(SIGSEGV, 0, &now);
  printf("  default %d, flags %#x\n", now.sa_handler == SIG_DFL, now.sa_flags & ~0x04000000);

  struct sigaction action = {.sa_handler = plain};
  sigaddset(&action.sa_mask, SIGUSR1);
  sigaction(SIGSEGV, &action, 0);
  memset(&seen, 0, sizeof seen);
  // The first fault comes to `plain`, which returns to the instruction; the second one to `handler`.
  go_on = next_load;
  load(0, 0, 0, 0);
  printf("without SA_SIGINFO: %d signals, rip %d, mask %#lx\n", seen.count, (char *)seen.gregs[REG_RIP] == at_load, seen.mask);

  // A signal that no exception caused shows the last exception.
  install(SIGUSR1, handler, SA_SIGINFO);
  memset(&seen, 0, sizeof seen);
  TRY("once more", store, (char *)0x1230, 0, 0);
  __asm__ volatile("lea 1f(%%rip), %%rax; mov %%rax, %0; mov %1, %%edi; mov $10, %%esi; mov $200, %%eax; syscall\n1:" : "=m"(go_on)
    : "r"(gettid()) : "rax", "rcx", "r11", "rdi", "rsi", "r15", "memory", "cc");
  printf("tkill: code %d, trap %lld, error %lld, cr2 %#llx, rip %d\n", seen.code, seen.gregs[REG_TRAPNO], seen.gregs[REG_ERR],
    seen.gregs[REG_CR2], (char *)seen.gregs[REG_RIP] == go_on);
  sigset_t left;
  sigprocmask(SIG_SETMASK, &mask, &left);
  printf("blocked at the end: %#lx\n", word(&left));
}

// A blocked or ignored signal that cannot wait ends the process.
static void deadly(const char *what, int signal, probe *function, char *next) {
  fflush(stdout);
  for (int way = 0; way < 3; way++) {
    pid_t child = vfork();
    if (child == 0) {
      sigset_t mask;
      sigemptyset(&mask);
      sigaddset(&mask, signal);
      struct sigaction action = {.sa_handler = way == 1 ? SIG_IGN : SIG_DFL};
      if (way == 0) sigprocmask(SIG_BLOCK, &mask, 0);
      else sigaction(signal, &action, 0);
      go_on = next;
      function(0, 0, 0, 0);
      _exit(7);
    }
    int status;
    if (waitpid(child, &status, 0) != child) perror("waitpid");
    printf("%s, %s: %s %d\n", what, way == 0 ? "blocked" : way == 1 ? "ignored" : "default", WIFSIGNALED(status) ? "signal" : "status",
      WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
  }
}

int main(void) {
  static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
  for (int i = 0; i < 5; i++) install(signals[i], handler, SA_SIGINFO);
  exceptions();
  single_steps();
  extended_state();
  stacks_and_flags();
  for (int i = 0; i < 5; i++) install(signals[i], handler, SA_SIGINFO);
  deadly("fault", SIGSEGV, load, next_load);
  deadly("division", SIGFPE, divide, next_divide);
  deadly("no instruction", SIGILL, illegal, next_illegal);
  deadly("breakpoint", SIGTRAP, breakpoint, next_breakpoint);
  puts("done");
  return 0;
}
