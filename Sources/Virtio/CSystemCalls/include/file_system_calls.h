// The Linux calls that the file server needs and Swift's Glibc module does not have, one wrapper each.
// Every wrapper returns the call's result, or the error number negated.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/// Attributes of a file as the file server uses them: statx(2)'s, with the device numbers joined.
struct osv_attributes {
  uint64_t device, inode, size, blocks, attributes, attributes_mask;
  int64_t atime, mtime, ctime, btime;
  uint32_t atime_ns, mtime_ns, ctime_ns, btime_ns;
  uint32_t mode, links, uid, gid, block_size, rdev_major, rdev_minor, mask;
};

/// Sizes of a file system, as statfs(2) gives them.
struct osv_sizes {
  uint64_t blocks, blocks_free, blocks_available, files, files_free;
  uint32_t block_size, fragment_size, name_max;
};

extern const uint64_t osv_resolve_beneath;
extern const int osv_o_path, osv_o_directory, osv_o_noatime, osv_o_nofollow, osv_seek_data, osv_seek_hole;

/// openat2(2); close-on-exec is always set.
int osv_openat2(int directory, const char *path, int flags, uint64_t resolve);

/// openat(2); close-on-exec is always set.
int osv_openat(int directory, const char *path, int flags);

/// statx(2) of `path` beneath `directory`, or of `directory` itself where the path is empty; never follows a symbolic link.
int osv_statx(int directory, const char *path, struct osv_attributes *out);

/// getdents64(2).
long osv_getdents64(int directory, void *buffer, size_t byte_count);

/// preadv(2).
long osv_preadv(int file, const struct iovec *vectors, int count, int64_t offset);

/// lseek(2).
int64_t osv_lseek(int file, int64_t offset, int whence);

/// readlinkat(2) of the symbolic link that an O_PATH descriptor is.
long osv_readlink(int link, void *buffer, size_t byte_count);

/// faccessat2(2) of the file a descriptor is, O_PATH or not, with the effective ids.
int osv_access(int file, int mask);

/// fgetxattr(2).
long osv_fgetxattr(int file, const char *name, void *buffer, size_t byte_count);

/// flistxattr(2).
long osv_flistxattr(int file, void *buffer, size_t byte_count);

/// fstatfs(2).
int osv_fstatfs(int file, struct osv_sizes *out);
