// The trap frame: what the program (or the interrupted kernel code) had in its registers. A C type, so that tables of
// C functions can take it; offsets are asserted against those that assembly uses.
#pragma once
#include "cpu_layout.h"
#include <stddef.h>
#include <stdint.h>

/// What an interrupt, exception or system call saves at the top of the thread's kernel stack, and what it returns to.
typedef struct trap_frame {
  uint64_t reserved0;
  uint64_t reserved1;
  /// The vector, 0 to 255, or VECTOR_SYSTEM_CALL, VECTOR_GATE or VECTOR_JUMP.
  uint64_t vector;
  /// The CPU's error code; for system calls the number as it was called (RAX is the result's).
  uint64_t error;
  uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
  uint64_t rip, cs, rflags, rsp, ss;
} trap_frame;

_Static_assert(offsetof(trap_frame, vector) == FRAME_VECTOR, "trap frame");
_Static_assert(offsetof(trap_frame, r15) == FRAME_R15, "trap frame");
_Static_assert(offsetof(trap_frame, rax) == FRAME_RAX, "trap frame");
_Static_assert(offsetof(trap_frame, ss) == FRAME_SS, "trap frame");
_Static_assert(sizeof(trap_frame) == FRAME_SIZE, "trap frame");
