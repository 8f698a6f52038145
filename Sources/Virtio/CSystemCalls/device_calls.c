// See include/device_calls.h.
#define _GNU_SOURCE
#include "device_calls.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <sys/random.h>

int osv_eventfd(void) {
  int descriptor = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  return descriptor < 0 ? -errno : descriptor;
}

long osv_write_now(int descriptor, const struct iovec *pieces, int count) {
  return pwritev2(descriptor, pieces, count, -1, RWF_NOWAIT);
}

long osv_getrandom(void *buffer, size_t byte_count) {
  long count = getrandom(buffer, byte_count, 0);
  return count < 0 ? -(long)errno : count;
}
