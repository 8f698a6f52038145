// The Linux calls that the devices need and Swift's Glibc module does not have.
#pragma once

#include <stddef.h>
#include <sys/uio.h>

/// eventfd(2): a counter of 0, non-blocking, closed on exec; the descriptor, or the error number negated.
int osv_eventfd(void);

/// writev(2), but EAGAIN where it would wait for room; EOPNOTSUPP where the kernel has no such write to this kind of file. Gives the
/// count, or -1 with errno.
long osv_write_now(int descriptor, const struct iovec *pieces, int count);

/// getrandom(2) without flags: bytes written, or the error number negated.
long osv_getrandom(void *buffer, size_t byte_count);
