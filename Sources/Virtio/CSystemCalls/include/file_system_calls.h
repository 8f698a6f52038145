// The Linux calls that the file server needs and Swift's Glibc module does not have, one wrapper each.
// Every wrapper returns the call's result, or the error number negated.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include <time.h>

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
extern const int osv_o_path, osv_o_directory, osv_o_noatime, osv_o_nofollow, osv_o_tmpfile, osv_seek_data, osv_seek_hole;
extern const unsigned osv_rename_noreplace, osv_rename_exchange;

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

/// Whether a file lies in a process file system (/proc): 1 or 0, or a negative error number.
int osv_is_process_file(int file);

/// fstatfs(2).
int osv_fstatfs(int file, struct osv_sizes *out);

// Changes. Names are single components; nothing here follows a symbolic link but where it says so.

/// openat2(2) that makes a file; close-on-exec is always set.
int osv_create(int directory, const char *name, int flags, unsigned mode, uint64_t resolve);

/// openat(2) of a new file without a name in `directory`; close-on-exec is always set.
int osv_tmpfile(int directory, int flags, unsigned mode);

/// pwritev(2).
long osv_pwritev(int file, const struct iovec *vectors, int count, int64_t offset);

/// mkdirat(2).
int osv_mkdirat(int directory, const char *name, unsigned mode);

/// mknodat(2) of a regular file, a FIFO or a socket.
int osv_mknodat(int directory, const char *name, unsigned mode);

/// symlinkat(2).
int osv_symlinkat(const char *target, int directory, const char *name);

/// linkat(2) that follows `old`: for names in /proc/self/fd.
int osv_linkat(int old_directory, const char *old, int directory, const char *name);

/// unlinkat(2).
int osv_unlinkat(int directory, const char *name, int is_directory);

/// renameat2(2).
int osv_renameat2(int directory, const char *name, int new_directory, const char *new_name, unsigned flags);

/// fchmodat(2) that follows `name`: for names in /proc/self/fd.
int osv_fchmodat(int directory, const char *name, unsigned mode);

/// fchownat(2) of the file a descriptor is, O_PATH or not; -1 leaves an id as it is.
int osv_chown(int file, unsigned uid, unsigned gid);

/// utimensat(2) of the file a descriptor is, O_PATH or not: access and modification time.
int osv_utimens(int file, const struct timespec times[2]);

/// ftruncate(2).
int osv_ftruncate(int file, int64_t size);

/// fallocate(2).
int osv_fallocate(int file, int mode, int64_t offset, int64_t count);

/// fsync(2), or fdatasync(2).
int osv_fsync(int file, int data_only);

/// syncfs(2).
int osv_syncfs(int file);

/// fsetxattr(2).
int osv_fsetxattr(int file, const char *name, const void *value, size_t byte_count, int flags);

/// fremovexattr(2).
int osv_fremovexattr(int file, const char *name);

/// copy_file_range(2).
long osv_copy_file_range(int from, int64_t from_offset, int to, int64_t to_offset, size_t byte_count);

/// What a process that writes files for others must not have: an own umask (becomes 0), and death by SIGXFSZ (becomes EFBIG).
void osv_prepare_writing(void);
