// Advice about files, reads and writes with flags, and capabilities that are given up.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

// linux/capability.h, which musl's compiler does not see.
#define _LINUX_CAPABILITY_VERSION_3 0x20080522
struct __user_cap_header_struct {
  uint32_t version;
  int pid;
};
struct __user_cap_data_struct {
  uint32_t effective, permitted, inheritable;
};

static void show(const char *what, long result) { printf("%s %ld %d\n", what, result, result < 0 ? errno : 0); }

int main(void) {
  char name[] = "/tmp/adviceXXXXXX";
  int file = mkstemp(name), ends[2];
  unlink(name);
  if (file < 0 || pipe(ends)) return 1;
  int place = open("/", O_PATH);

  show("fadvise", syscall(SYS_fadvise64, file, 0, 0, 2));
  show("fadvise on a pipe", syscall(SYS_fadvise64, ends[0], 0, 0, 2));
  show("fadvise on a place", syscall(SYS_fadvise64, place, 0, 0, 2));
  show("fadvise on nothing", syscall(SYS_fadvise64, 99, 0, 0, 2));
  show("bad advice", syscall(SYS_fadvise64, file, 0, 0, 6));
  show("bad length", syscall(SYS_fadvise64, file, 0, -1L, 2));

  show("readahead", syscall(SYS_readahead, file, 0, 4096));
  show("readahead on a pipe", syscall(SYS_readahead, ends[0], 0, 4096));
  show("readahead for writing", syscall(SYS_readahead, ends[1], 0, 4096));

  show("sync range", syscall(SYS_sync_file_range, file, 0L, 0L, 7));
  show("sync range, bad flags", syscall(SYS_sync_file_range, file, 0L, 0L, 8));
  show("sync range, negative", syscall(SYS_sync_file_range, file, -1L, 0L, 7));
  show("sync range on a pipe", syscall(SYS_sync_file_range, ends[0], 0L, 0L, 7));
  show("syncfs", syscall(SYS_syncfs, file));
  show("syncfs on nothing", syscall(SYS_syncfs, 99));

  char text[] = "0123456789", got[10] = {0};
  struct iovec out[2] = {{text, 4}, {text + 4, 6}}, in[1] = {{got, 10}};
  show("pwritev2", syscall(SYS_pwritev2, file, out, 2, 5L, 0L, 2));
  show("pwritev2 at the position", syscall(SYS_pwritev2, file, out, 1, -1L, -1L, 0));
  show("position", lseek(file, 0, SEEK_CUR));
  show("preadv2", syscall(SYS_preadv2, file, in, 1, 5L, 0L, 0));
  printf("%.10s\n", got);
  show("preadv2 at the position", syscall(SYS_preadv2, file, in, 1, -1L, -1L, 1));
  show("preadv2, unknown flag", syscall(SYS_preadv2, file, in, 1, 0L, 0L, 1 << 20));
  show("preadv2, bad offset", syscall(SYS_preadv2, file, in, 1, -2L, -1L, 0));
  show("preadv2 on a pipe", syscall(SYS_preadv2, ends[0], in, 1, 0L, 0L, 0));

  struct __user_cap_header_struct header = {.version = 1};
  struct __user_cap_data_struct sets[2];
  show("version asked for", syscall(SYS_capget, &header, NULL));
  printf("version %x\n", header.version);
  header.version = 1;
  show("wrong version", syscall(SYS_capget, &header, sets));
  header = (struct __user_cap_header_struct){.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  show("capget", syscall(SYS_capget, &header, sets));
  printf("effective within permitted %d\n", !(sets[0].effective & ~sets[0].permitted));
  uint32_t lowest = sets[0].permitted & -sets[0].permitted;
  struct __user_cap_data_struct less[2] = {sets[0], sets[1]};
  less[0].permitted &= ~lowest;
  less[0].effective &= ~lowest;
  show("given up", syscall(SYS_capset, &header, less));
  struct __user_cap_data_struct now[2];
  syscall(SYS_capget, &header, now);
  printf("gone %d\n", !memcmp(now, less, sizeof now));
  if (lowest) show("not coming back", syscall(SYS_capset, &header, sets));
  else printf("not coming back -1 1\n");
  header.pid = -1;
  show("bad process", syscall(SYS_capget, &header, sets));
  return 0;
}
