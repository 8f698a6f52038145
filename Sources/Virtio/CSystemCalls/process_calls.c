// Implementation of process_calls.h: nothing but calls.
#define _GNU_SOURCE
#include "process_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

_Static_assert(sizeof(struct osv_filter_instruction) == sizeof(struct sock_filter), "same layout");

static int result(long value) { return value < 0 ? -errno : (int)value; }

int osv_open_in_root(int root, const char *path) {
  struct open_how how = {.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
  return result(syscall(SYS_openat2, root, path, &how, sizeof how));
}

int osv_open_directory(const char *path) { return result(open(path, O_PATH | O_DIRECTORY | O_CLOEXEC)); }

void osv_close_inherited(const int *keep, int count) {
  int first = 3;
  for (int i = 0; i < count; i++) {
    if (keep[i] < first) continue;
    if (keep[i] > first && close_range((unsigned)first, (unsigned)keep[i] - 1, 0) < 0)
      for (int file = first; file < keep[i]; file++) close(file);
    first = keep[i] + 1;
  }
  // The C library does without close_range(2) where the kernel has none.
  closefrom(first);
}

int osv_no_new_privileges(void) { return result(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)); }

int osv_drop_capabilities(void) {
  // The bounding set can be lowered only by whom has CAP_SETPCAP; no_new_privs makes it moot for others.
  if (cap_get_bound(CAP_SETPCAP) == 1) {
    for (cap_value_t cap = 0; cap_get_bound(cap) >= 0; cap++)
      if (cap_drop_bound(cap) != 0) break;
  }
  cap_reset_ambient();
  cap_t none = cap_init();
  if (!none) return -ENOMEM;
  int done = cap_set_proc(none);
  int error = errno;
  cap_free(none);
  return done == 0 ? 0 : -error;
}

int osv_install_filter(const struct osv_filter_instruction *program, uint16_t count) {
  struct sock_fprog filter = {.len = count, .filter = (struct sock_filter *)program};
  return result(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter));
}

int osv_landlock_version(void) {
  long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
  return version > 0 ? (int)version : 0;
}

// Newer than some headers.
#ifndef LANDLOCK_ACCESS_FS_TRUNCATE
#define LANDLOCK_ACCESS_FS_TRUNCATE (1ULL << 14)
#endif

static long allow(int ruleset, const int *directories, int count, uint64_t rights) {
  for (int i = 0; i < count; i++) {
    struct landlock_path_beneath_attr beneath = {.allowed_access = rights, .parent_fd = directories[i]};
    if (syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) < 0) return -1;
  }
  return 0;
}

int osv_landlock(const int *writable, int writable_count, const int *readable, int readable_count) {
  uint64_t reading = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
  uint64_t writing = LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE |
                     LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_SOCK |
                     LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_SYM;
  struct landlock_ruleset_attr rules = {.handled_access_fs = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1};
  // Moving files between directories (before version 2 it is always refused), and changing sizes (before version 3 it never is).
  int version = osv_landlock_version();
  uint64_t later = (version >= 2 ? LANDLOCK_ACCESS_FS_REFER : 0) | (version >= 3 ? LANDLOCK_ACCESS_FS_TRUNCATE : 0);
  rules.handled_access_fs |= later;
  writing |= later;
  long ruleset = syscall(SYS_landlock_create_ruleset, &rules, sizeof rules.handled_access_fs, 0);
  if (ruleset < 0) return -errno;
  long done = allow((int)ruleset, readable, readable_count, reading);
  if (done == 0) done = allow((int)ruleset, writable, writable_count, reading | writing);
  if (done == 0) done = syscall(SYS_landlock_restrict_self, ruleset, 0);
  int error = errno;
  close((int)ruleset);
  return done == 0 ? 0 : -error;
}

long osv_descriptor_limit(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  if (limit.rlim_cur < limit.rlim_max) {
    struct rlimit most = {.rlim_cur = limit.rlim_max, .rlim_max = limit.rlim_max};
    if (setrlimit(RLIMIT_NOFILE, &most) == 0) limit = most;
  }
  return limit.rlim_cur > 1 << 20 ? 1 << 20 : (long)limit.rlim_cur;
}

uint64_t osv_resident_bytes(int statm) {
  char text[128];
  ssize_t count = pread(statm, text, sizeof text - 1, 0);
  if (count <= 0) return 0;
  text[count] = 0;
  unsigned long size, resident;
  return sscanf(text, "%lu %lu", &size, &resident) == 2 ? (uint64_t)resident * 4096 : 0;
}

// A stream socket and the address of `path`; the socket, or the error number negated.
static int socket_for(const char *path, struct sockaddr_un *address) {
  if (strlen(path) >= sizeof address->sun_path) return -ENAMETOOLONG;
  memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  strcpy(address->sun_path, path);
  return result(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

int osv_connect(const char *path) {
  struct sockaddr_un address;
  int connection = socket_for(path, &address);
  if (connection < 0 || connect(connection, (struct sockaddr *)&address, sizeof address) == 0) return connection;
  int error = errno;
  close(connection);
  return -error;
}

int osv_listen(const char *path) {
  struct sockaddr_un address;
  int listener = socket_for(path, &address);
  if (listener < 0) return listener;
  mode_t mask = umask(0177);
  int done = bind(listener, (struct sockaddr *)&address, sizeof address), error = errno;
  if (done != 0 && error == EADDRINUSE) {
    // A file that is no socket refuses connections too.
    struct stat status;
    int other = osv_connect(path);
    if (other >= 0) close(other);
    if (other == -ECONNREFUSED && lstat(path, &status) == 0 && S_ISSOCK(status.st_mode) && unlink(path) == 0)
      done = bind(listener, (struct sockaddr *)&address, sizeof address), error = errno;
  }
  umask(mask);
  if (done == 0) done = listen(listener, 4), error = errno;
  if (done == 0) return listener;
  close(listener);
  return -error;
}

int osv_accept(int listener) { return result(accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)); }

const void *osv_find(const void *bytes, size_t count, const void *needle, size_t needle_count) {
  return memmem(bytes, count, needle, needle_count);
}
