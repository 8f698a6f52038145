// Fibers: several stacks on one host thread, switched by hand. For tests that run every interleaving of some code.
#pragma once
#include <stddef.h>

typedef struct fiber fiber;

/// A fiber that will run entry(argument) when first resumed; reuses stacks of destroyed ones.
fiber *fiber_create(void (*entry)(void *), void *argument);
/// Runs the fiber until it yields or its entry returns. Not from a fiber.
void fiber_resume(fiber *fiber);
/// Back to who resumed the running fiber.
void fiber_yield(void);
/// Gives the stack back, whether the fiber has ended or not: what was on it is abandoned.
void fiber_destroy(fiber *fiber);
