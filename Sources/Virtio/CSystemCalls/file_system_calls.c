// See include/file_system_calls.h.
#define _GNU_SOURCE
#include "file_system_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <linux/stat.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

const uint64_t osv_resolve_beneath = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS;
const int osv_o_path = O_PATH, osv_o_directory = O_DIRECTORY, osv_o_noatime = O_NOATIME, osv_o_nofollow = O_NOFOLLOW, osv_o_tmpfile = O_TMPFILE;
const unsigned osv_rename_noreplace = RENAME_NOREPLACE, osv_rename_exchange = RENAME_EXCHANGE;
const int osv_seek_data = SEEK_DATA, osv_seek_hole = SEEK_HOLE;

static long osv_result(long result) { return result < 0 ? -(long)errno : result; }

int osv_openat2(int directory, const char *path, int flags, uint64_t resolve) {
  struct open_how how = {.flags = (uint64_t)(unsigned)(flags | O_CLOEXEC), .mode = 0, .resolve = resolve};
  return (int)osv_result(syscall(SYS_openat2, directory, path, &how, sizeof how));
}

int osv_openat(int directory, const char *path, int flags) {
  return (int)osv_result(openat(directory, path, flags | O_CLOEXEC));
}

int osv_statx(int directory, const char *path, struct osv_attributes *out) {
  struct statx s;
  long result = syscall(SYS_statx, directory, path, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT,
                        STATX_BASIC_STATS | STATX_BTIME, &s);
  if (result < 0) return (int)osv_result(result);
  out->device = (uint64_t)s.stx_dev_major << 32 | s.stx_dev_minor;
  out->inode = s.stx_ino;
  out->size = s.stx_size;
  out->blocks = s.stx_blocks;
  out->attributes = s.stx_attributes;
  out->attributes_mask = s.stx_attributes_mask;
  out->atime = s.stx_atime.tv_sec;
  out->mtime = s.stx_mtime.tv_sec;
  out->ctime = s.stx_ctime.tv_sec;
  out->atime_ns = s.stx_atime.tv_nsec;
  out->mtime_ns = s.stx_mtime.tv_nsec;
  out->ctime_ns = s.stx_ctime.tv_nsec;
  int birth = (s.stx_mask & STATX_BTIME) != 0;
  out->btime = birth ? s.stx_btime.tv_sec : 0;
  out->btime_ns = birth ? s.stx_btime.tv_nsec : 0;
  out->mode = s.stx_mode;
  out->links = s.stx_nlink;
  out->uid = s.stx_uid;
  out->gid = s.stx_gid;
  out->block_size = s.stx_blksize;
  out->rdev_major = s.stx_rdev_major;
  out->rdev_minor = s.stx_rdev_minor;
  out->mask = s.stx_mask;
  return 0;
}

long osv_getdents64(int directory, void *buffer, size_t byte_count) {
  return osv_result(syscall(SYS_getdents64, directory, buffer, byte_count));
}

long osv_preadv(int file, const struct iovec *vectors, int count, int64_t offset) {
  return osv_result(preadv(file, vectors, count, offset));
}

int64_t osv_lseek(int file, int64_t offset, int whence) {
  return osv_result(lseek(file, offset, whence));
}

long osv_readlink(int link, void *buffer, size_t byte_count) {
  return osv_result(readlinkat(link, "", (char *)buffer, byte_count));
}

int osv_access(int file, int mask) {
  return (int)osv_result(syscall(SYS_faccessat2, file, "", mask, AT_EMPTY_PATH | AT_EACCESS));
}

long osv_fgetxattr(int file, const char *name, void *buffer, size_t byte_count) {
  return osv_result(fgetxattr(file, name, buffer, byte_count));
}

long osv_flistxattr(int file, void *buffer, size_t byte_count) {
  return osv_result(flistxattr(file, (char *)buffer, byte_count));
}

int osv_is_process_file(int file) {
  struct statfs s;
  if (fstatfs(file, &s) < 0) return -errno;
  return s.f_type == PROC_SUPER_MAGIC;
}

int osv_fstatfs(int file, struct osv_sizes *out) {
  struct statfs s;
  if (fstatfs(file, &s) < 0) return -errno;
  out->blocks = s.f_blocks;
  out->blocks_free = s.f_bfree;
  out->blocks_available = s.f_bavail;
  out->files = s.f_files;
  out->files_free = s.f_ffree;
  out->block_size = (uint32_t)s.f_bsize;
  out->fragment_size = (uint32_t)s.f_frsize;
  out->name_max = (uint32_t)s.f_namelen;
  return 0;
}

int osv_create(int directory, const char *name, int flags, unsigned mode, uint64_t resolve) {
  struct open_how how = {.flags = (uint64_t)(unsigned)(flags | O_CREAT | O_CLOEXEC), .mode = mode, .resolve = resolve};
  return (int)osv_result(syscall(SYS_openat2, directory, name, &how, sizeof how));
}

int osv_tmpfile(int directory, int flags, unsigned mode) {
  return (int)osv_result(openat(directory, ".", flags | O_TMPFILE | O_CLOEXEC, mode));
}

long osv_pwritev(int file, const struct iovec *vectors, int count, int64_t offset) {
  return osv_result(pwritev(file, vectors, count, offset));
}

int osv_mkdirat(int directory, const char *name, unsigned mode) { return (int)osv_result(mkdirat(directory, name, mode)); }

int osv_mknodat(int directory, const char *name, unsigned mode) {
  return (int)osv_result(syscall(SYS_mknodat, directory, name, mode, 0));
}

int osv_symlinkat(const char *target, int directory, const char *name) {
  return (int)osv_result(symlinkat(target, directory, name));
}

int osv_linkat(int old_directory, const char *old, int directory, const char *name) {
  return (int)osv_result(linkat(old_directory, old, directory, name, AT_SYMLINK_FOLLOW));
}

int osv_unlinkat(int directory, const char *name, int is_directory) {
  return (int)osv_result(unlinkat(directory, name, is_directory ? AT_REMOVEDIR : 0));
}

int osv_renameat2(int directory, const char *name, int new_directory, const char *new_name, unsigned flags) {
  return (int)osv_result(syscall(SYS_renameat2, directory, name, new_directory, new_name, flags));
}

int osv_fchmodat(int directory, const char *name, unsigned mode) {
  return (int)osv_result(syscall(SYS_fchmodat, directory, name, mode));
}

int osv_chown(int file, unsigned uid, unsigned gid) {
  return (int)osv_result(fchownat(file, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW));
}

int osv_utimens(int file, const struct timespec times[2]) {
  return (int)osv_result(syscall(SYS_utimensat, file, "", times, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW));
}

int osv_ftruncate(int file, int64_t size) { return (int)osv_result(ftruncate(file, size)); }

int osv_fallocate(int file, int mode, int64_t offset, int64_t count) {
  return (int)osv_result(fallocate(file, mode, offset, count));
}

int osv_fsync(int file, int data_only) { return (int)osv_result(data_only ? fdatasync(file) : fsync(file)); }

int osv_syncfs(int file) { return (int)osv_result(syncfs(file)); }

int osv_fsetxattr(int file, const char *name, const void *value, size_t byte_count, int flags) {
  return (int)osv_result(fsetxattr(file, name, value, byte_count, flags));
}

int osv_fremovexattr(int file, const char *name) { return (int)osv_result(fremovexattr(file, name)); }

long osv_copy_file_range(int from, int64_t from_offset, int to, int64_t to_offset, size_t byte_count) {
  loff_t source = from_offset, target = to_offset;
  return osv_result(syscall(SYS_copy_file_range, from, &source, to, &target, byte_count, 0));
}

void osv_prepare_writing(void) {
  umask(0);
  signal(SIGXFSZ, SIG_IGN);
}
