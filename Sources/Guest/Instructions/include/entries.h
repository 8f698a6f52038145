// What the assembly under Boot offers to C and Swift. The host, where that assembly is not built, has stand-ins for
// what makes sense there (instructions.c): switching between stacks, and copying without faults.
#pragma once
#include "trap_frame.h"
#include <stdint.h>

/// Saves the callee-saved registers on this stack, stores RSP through `from`, loads it from `to`, and returns there.
void context_switch(uint64_t *from, const uint64_t *to);
/// Where a new kernel thread begins: calls R12(R13), which must not return.
void context_start(void);

#ifdef GUEST
/// A label of the assembly, as an address.
#define ENTRY_LABEL(label)                                                                                             \
  extern const char label[];                                                                                           \
  static inline const void *address_of_##label(void) { return label; }

/// 256 stubs of 16 bytes, one for each vector; those of NMI and double fault are apart.
ENTRY_LABEL(trap_stubs)
ENTRY_LABEL(trap_nmi)
ENTRY_LABEL(trap_double_fault)
/// The return path: RSP points to a trap frame.
ENTRY_LABEL(trap_return)
/// The same, after a look at rescheduling and signals: where a new program thread begins.
ENTRY_LABEL(trap_return_checked)
/// Where jumps enter (`syscall` enters at osv_system_call_entry, by the note in the image).
ENTRY_LABEL(gate_entry)
ENTRY_LABEL(jump_entry)
ENTRY_LABEL(leaf_entry)
ENTRY_LABEL(osv_system_call_entry)
/// The way back from jumps: interrupts that come between these labels begin it again; the last instruction is at the second.
ENTRY_LABEL(jump_return)
ENTRY_LABEL(jump_return_last)
/// Who serves system calls that come by a jump.
extern void *system_call_handler;
static inline void set_system_call_handler(void *function) { system_call_handler = function; }
/// All of that code.
ENTRY_LABEL(system_call_entry_start)
ENTRY_LABEL(system_call_entry_end)
/// The instructions of the idle loop between which an interrupt must look as if it came behind `hlt`.
ENTRY_LABEL(idle_start)
ENTRY_LABEL(idle_end)
/// First byte of the image, the byte behind its last, and its segments' (the text begins with the image, the stack ends with it).
ENTRY_LABEL(kernel_image_start)
ENTRY_LABEL(kernel_image_end)
ENTRY_LABEL(text_segment_end)
ENTRY_LABEL(rodata_segment_start)
ENTRY_LABEL(rodata_segment_end)
ENTRY_LABEL(data_segment_start)
ENTRY_LABEL(data_segment_end)
ENTRY_LABEL(stack_segment_start)
/// The table that guards accesses to program memory.
ENTRY_LABEL(fixups_start)
ENTRY_LABEL(fixups_end)
/// The vDSO's pages.
ENTRY_LABEL(vdso_start)
ENTRY_LABEL(vdso_end)
/// End of CPU 0's first kernel stack.
ENTRY_LABEL(boot_stack_top)
/// What the boot CPU enters the kernel with under another monitor (Boot/pvh.S): page tables and virtual addresses.
typedef struct bootstrap_words {
  uint64_t root, image_virtual, gdt, gdt_limit, idt, task_selector, area, information;
} bootstrap_words;
_Noreturn void bootstrap_enter(const bootstrap_words *words);
/// Leaves the kernel by the checked return path, with the frame at `frame`.
_Noreturn void context_enter_program(uint64_t frame);
/// Enables interrupts and halts. Called with interrupts disabled; returns with interrupts enabled.
void idle_pvm(void);
void idle_hardware(void);
/// Extended state (x87, SSE, AVX…) of the running thread.
void vector_xsave(void *area, uint64_t mask);
void vector_xsaveopt(void *area, uint64_t mask);
void vector_xrstor(const void *area, uint64_t mask);
void vector_fxsave(void *area);
void vector_fxrstor(const void *area);
/// The same by plain moves, with AVX-512: false, with nothing saved, if x87 is in use.
_Bool vector_move_out(void *image);
void vector_move_in(const void *image, _Bool x87_is_clean);
/// The same for MXCSR alone, and x87 as it is at first.
_Bool vector_control_out(void *image);
void vector_control_in(const void *image, _Bool x87_is_clean);
/// MXCSR to memory and back.
void vector_mxcsr_out(void *word);
void vector_mxcsr_in(const void *word);
#endif

/// Copies; gives the number of bytes not copied because the program's memory could not be accessed.
uint64_t usercopy_copy(void *to, const void *from, uint64_t count);
/// Stores zeros, likewise.
uint64_t usercopy_zero(void *to, uint64_t count);
/// Bytes before the first NUL, at most `limit`; or limit + 1 where the memory could not be read before a NUL was found.
uint64_t usercopy_string_length(const void *from, uint64_t limit);
// Copies a string with its NUL (and perhaps bytes behind it) to `to`, which has `limit` bytes: its length, or `limit` if there is no NUL
// in so many bytes, or more if one of them cannot be read.
uint64_t usercopy_string(void *to, const void *from, uint64_t limit);
/// Loads 32 bits; false if that faulted.
_Bool usercopy_load32(const void *from, uint32_t *value);
/// Stores 32 bits; false if that faulted.
_Bool usercopy_store32(void *to, uint32_t value);
/// Compares and exchanges 32 bits; `*expected` becomes what was found. False if that faulted.
_Bool usercopy_compare_exchange32(void *at, uint32_t *expected, uint32_t desired);

#ifdef GUEST
/// Programs of the self-test (Boot/storm.S).
ENTRY_LABEL(vector_storm_program)
ENTRY_LABEL(self_test_call_program)
ENTRY_LABEL(self_test_gate_program)
ENTRY_LABEL(self_test_jump_program)
ENTRY_LABEL(self_test_exception_program)
ENTRY_LABEL(vector_storm_failed)
/// Spoils a vector register of the running program.
void vector_spoil(void);
/// Loads a pattern into XMM5, and reads it back.
void vector_load(uint64_t pattern);
uint64_t vector_read(void);
#endif
