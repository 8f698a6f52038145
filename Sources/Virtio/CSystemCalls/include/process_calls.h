// The Linux calls that the monitor needs for itself and Swift's Glibc module does not have, one wrapper each.
// Every wrapper returns the call's result, or the error number negated.
#pragma once
#include <stddef.h>

#include <stdint.h>

/// openat2(2) for reading, as if `root` were the root directory, through no magic link, without waiting for a pipe's writer;
/// close-on-exec is set.
int osv_open_in_root(int root, const char *path);

/// open(2) of a directory with O_PATH; close-on-exec is set.
int osv_open_directory(const char *path);

/// Closes every descriptor from 3 on but those in `keep`, which are in ascending order. Call it before anything is opened.
void osv_close_inherited(const int *keep, int count);

/// prctl(2) PR_SET_NO_NEW_PRIVS.
int osv_no_new_privileges(void);

/// Empties the effective, permitted, inheritable, ambient and (where allowed) bounding capability sets.
int osv_drop_capabilities(void);

/// One instruction of a classic BPF program, as seccomp takes them.
struct osv_filter_instruction {
  uint16_t code;
  uint8_t jump_true, jump_false;
  uint32_t constant;
};

/// seccomp(2) SECCOMP_SET_MODE_FILTER for the calling thread; it needs no_new_privs.
int osv_install_filter(const struct osv_filter_instruction *program, uint16_t count);

/// The Landlock interface version of this kernel, 0 without Landlock.
int osv_landlock_version(void);

/// Landlock: from now on this thread, and those it starts, open nothing of the file system but for reading what lies
/// beneath `readable`, and make, change and remove nothing but what lies beneath `writable`, and no devices there.
int osv_landlock(const int *writable, int writable_count, const int *readable, int readable_count);

/// How many descriptors this process may have, after raising the limit as far as it may (setrlimit(2)); at most 2^20.
long osv_descriptor_limit(void);

/// Resident memory of this process in bytes, read from an open /proc/self/statm; 0 if the kernel does not say.
uint64_t osv_resident_bytes(int statm);

/// A listening socket at `path` that only its owner may connect to, closed on exec; a socket there that nobody listens to any more
/// is replaced.
int osv_listen(const char *path);

/// Waits for a connection: a socket that does not block, closed on exec.
int osv_accept(int listener);

/// A connection to the socket at `path`, closed on exec.
int osv_connect(const char *path);

/// Where `needle` begins in `bytes` (memmem(3)), NULL if it does not occur.
const void *osv_find(const void *bytes, size_t count, const void *needle, size_t needle_count);
