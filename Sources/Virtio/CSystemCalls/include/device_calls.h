// The Linux calls that the devices need and Swift's Glibc module does not have.
#pragma once

#include <stddef.h>

/// eventfd(2): a counter of 0, non-blocking, closed on exec; the descriptor, or the error number negated.
int osv_eventfd(void);

/// getrandom(2) without flags: bytes written, or the error number negated.
long osv_getrandom(void *buffer, size_t byte_count);
