// Opening in all its forms: openat2's limits, descriptors that are only places, files without names; extended attributes, holes, sizes
// that are not allowed, times, the older getdents. In a directory of its own, or in that of its argument.
// linux: 6.6
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

static void show(const char *what, long result) {
  if (result < 0) printf("%s: %s\n", what, strerror(errno));
  else printf("%s: %ld\n", what, result);
}
// A descriptor's number tells nothing.
static void opened(const char *what, long result) {
  if (result < 0) printf("%s: %s\n", what, strerror(errno));
  else printf("%s: opened\n", what), close((int)result);
}
struct how { uint64_t flags, mode, resolve, more; };
static long open2(int at, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve) {
  struct how how = {flags, mode, resolve, 0};
  return syscall(437, at, path, &how, 24);
}
enum { NO_XDEV = 1, NO_MAGIC = 2, NO_LINKS = 4, BENEATH = 8, IN_ROOT = 16 };
/// Every call that takes a directory's descriptor and a path, with a descriptor that is none (-1, or that of a file): who has no need of it
/// does not look.
static void without(const char *what, int at, const char *path, const char *missing) {
  char text[PATH_MAX];
  char x[256];
  struct stat s;
  unlink("d/f"), rmdir("d/f"), unlink("d/absent");
  close(open("d/f", O_CREAT | O_WRONLY, 0644));
  printf("%s\n", what);
  opened("openat", openat(at, path, O_RDONLY));
  for (unsigned r = 0; r <= 16; r = r ? r * 2 : 1) opened("openat2", open2(at, path, O_PATH, 0, r & ~1u));
  opened("created", openat(at, missing, O_CREAT | O_EXCL | O_WRONLY, 0600));
  show("newfstatat", syscall(SYS_newfstatat, at, path, &s, 0));
  if (strcmp(what, "nowhere")) show("empty", syscall(SYS_newfstatat, at, path, &s, AT_EMPTY_PATH));
  show("statx", syscall(SYS_statx, at, path, 0, 0x200, x));
  show("faccessat", syscall(SYS_faccessat, at, path, R_OK));
  show("readlinkat", readlinkat(at, path, text, sizeof text));
  show("fchmodat", syscall(SYS_fchmodat, at, path, 0644));
  show("fchownat", fchownat(at, path, getuid(), getgid(), 0));
  show("utimensat", syscall(SYS_utimensat, at, path, NULL, 0));
  show("futimesat", syscall(SYS_futimesat, at, path, NULL));
  show("mkdirat", mkdirat(at, path, 0700));
  show("mknodat", mknodat(at, path, S_IFREG | 0600, 0));
  show("symlinkat", symlinkat("x", at, path));
  show("linkat", linkat(at, path, at, missing, 0));
  show("renameat", renameat(at, path, at, missing));
  show("renameat2", syscall(SYS_renameat2, at, path, at, missing, 1));
  show("unlinkat", unlinkat(at, missing, 0));
  show("rmdir", unlinkat(at, missing, AT_REMOVEDIR));
}
static void limit(int s) { printf("signal %d\n", s); }

int main(int count, char **arguments) {
  char directory[] = "/tmp/places-XXXXXX";
  mkdir("/tmp", 0777);
  if (count < 2 && !mkdtemp(directory)) return perror("directory"), 1;
  if (chdir(count < 2 ? directory : arguments[1])) return perror("chdir"), 1;
  setvbuf(stdout, NULL, _IONBF, 0);
  umask(022);
  mkdir("d", 0755), mkdir("d/e", 0755);
  close(open("d/f", O_CREAT | O_WRONLY, 0644)), close(open("outside", O_CREAT | O_WRONLY, 0644));
  if (symlink("f", "d/l") || symlink("../outside", "d/up") || symlink("/f", "d/abs") || symlink("e/../f", "d/within")) return 1;
  int d = open("d", O_RDONLY | O_DIRECTORY);
  static const char *paths[] = {"f", "l", "up", "abs", "within", "e/..", "..", "../d/f", "/f", "e/../../outside", "nope", "/proc/self/fd/0"};
  for (unsigned i = 0; i < sizeof paths / sizeof *paths; i++)
    for (unsigned r = 0; r <= 16; r = r ? r * 2 : 1) {
      if (i == 3 && r == NO_XDEV) continue;  // Whether /tmp is a mount is not our business.
      char text[100];
      snprintf(text, sizeof text, "%s %u", paths[i], r);
      opened(text, open2(d, paths[i], O_PATH, 0, r));
    }
  opened("link itself", open2(d, "l", O_PATH | O_NOFOLLOW, 0, NO_LINKS));
  opened("/proc", open2(AT_FDCWD, "/proc/version", O_RDONLY, 0, NO_XDEV));
  struct how how = {O_RDONLY, 0, 0, 0};
  opened("larger", syscall(437, d, "f", &how, 32));
  how.more = 1;
  opened("more", syscall(437, d, "f", &how, 32));
  opened("small", syscall(437, d, "f", &how, 16));
  opened("huge", syscall(437, d, "f", &how, 5000));
  opened("mode", open2(d, "f", O_RDONLY, 0644, 0));
  opened("wrong mode", open2(d, "f", O_RDONLY | O_CREAT, 0100644, 0));
  opened("wrong flags", open2(d, "f", 1ull << 40, 0, 0));
  opened("wrong resolve", open2(d, "f", O_RDONLY, 0, 64));
  opened("both", open2(d, "f", O_RDONLY, 0, BENEATH | IN_ROOT));
  opened("O_PATH and more", open2(d, "f", O_PATH | O_APPEND, 0, 0));
  opened("created", open2(d, "new", O_RDWR | O_CREAT | O_EXCL, 0600, BENEATH));
  opened("above", open2(d, "../new", O_RDWR | O_CREAT | O_EXCL, 0600, BENEATH));

  char absolute[PATH_MAX], absent[PATH_MAX];
  if (!getcwd(absolute, PATH_MAX - 20)) return 1;
  strcat(strcpy(absent, absolute), "/d/absent"), strcat(absolute, "/d/f");
  int file = open("d/f", O_RDONLY);
  without("absolute", -1, absolute, absent), without("absolute, of a file", file, absolute, absent);
  without("relative", -1, "d/f", "d/absent"), without("relative, of a file", file, "d/f", "d/absent");
  without("none", -1, "", ""), without("none, of a file", file, "", "");
  without("nowhere", -1, NULL, NULL);
  show("one of two", linkat(-1, absolute, d, "linked", 0));
  show("the other", renameat(d, "linked", -1, absent)), show("both", unlinkat(-1, absent, 0));
  close(file);

  int place = open("d/f", O_PATH);
  char text[PATH_MAX] = "";
  struct stat s;
  struct statfs fs;
  printf("flags %o\n", fcntl(place, F_GETFL));
  show("F_GETFD", fcntl(place, F_GETFD));
  show("dup", dup2(place, 50) == 50);
  show("fstat", fstat(place, &s));
  show("fstatfs", fstatfs(place, &fs));
  show("read", read(place, text, 1));
  show("write", write(place, text, 1));
  show("pread", pread(place, text, 1, 0));
  show("lseek", lseek(place, 0, SEEK_SET));
  show("fchmod", fchmod(place, 0600));
  show("fchown", fchown(place, getuid(), getgid()));
  show("ftruncate", ftruncate(place, 0));
  show("fsync", fsync(place));
  show("ioctl", ioctl(place, FIONREAD, text));
  show("fgetxattr", fgetxattr(place, "user.x", text, 1));
  show("flock", flock(place, LOCK_SH));
  show("F_SETFL", fcntl(place, F_SETFL, O_APPEND));
  show("F_GETLK", fcntl(place, F_GETLK, &(struct flock){0}));
  show("mmap", mmap(NULL, 1, PROT_READ, MAP_PRIVATE, place, 0) == MAP_FAILED ? -1 : 0);
  show("fallocate", fallocate(place, 0, 0, 10));
  show("getdents", syscall(SYS_getdents64, place, text, 1000));
  show("fadvise", posix_fadvise(place, 0, 0, 0));
  show("futimens", futimens(place, NULL));
  show("sendfile", sendfile(place, place, NULL, 10));
  struct pollfd ready = {place, POLLIN, 0};
  show("poll", poll(&ready, 1, 0));
  printf("revents %d\n", ready.revents);
  show("epoll", epoll_ctl(epoll_create1(0), EPOLL_CTL_ADD, place, &(struct epoll_event){.events = EPOLLIN}));
  show("by an empty path", fchownat(place, "", getuid(), getgid(), AT_EMPTY_PATH));
  show("fchmodat2", syscall(452, place, "", 0640, AT_EMPTY_PATH));
  show("fstat", fstat(place, &s));
  printf("mode %o\n", s.st_mode);
  show("fchmodat2 of a link", syscall(452, d, "l", 0640, AT_SYMLINK_NOFOLLOW));
  show("fchmodat2 flags", syscall(452, d, "l", 0640, 1));
  snprintf(text, sizeof text, "/proc/self/fd/%d", place);
  opened("reopened", open(text, O_RDWR));
  int link_place = open("d/l", O_PATH | O_NOFOLLOW);
  show("a link's place", readlinkat(link_place, "", text, sizeof text));
  show("fchdir", fchdir(open("d", O_PATH)));
  show("and back", fchdir(open("..", O_PATH)));
  opened("directory wanted", open("d/f", O_PATH | O_DIRECTORY));

  int t = open("d", O_TMPFILE | O_RDWR, 0644);
  opened("for reading", open("d", O_TMPFILE | O_RDONLY, 0644));
  opened("not in a file", open("d/f", O_TMPFILE | O_RDWR, 0644));
  show("write", write(t, "nameless", 8));
  fstat(t, &s);
  printf("links %d mode %o size %ld\n", (int)s.st_nlink, s.st_mode, (long)s.st_size);
  snprintf(text, sizeof text, "/proc/self/fd/%d", t);
  char target[PATH_MAX];
  ssize_t length = readlink(text, target, sizeof target);
  printf("deleted %d\n", length > 10 && !memcmp(target + length - 10, " (deleted)", 10));
  show("linked", linkat(AT_FDCWD, text, AT_FDCWD, "d/named", AT_SYMLINK_FOLLOW));
  fstat(t, &s);
  printf("links %d\n", (int)s.st_nlink);
  show("again", linkat(t, "", AT_FDCWD, "d/second", AT_EMPTY_PATH));
  fstat(t, &s);
  printf("links %d\n", (int)s.st_nlink);
  int named = open("d/named", O_RDONLY);
  show("read", read(named, text, 100));
  t = open("d", O_TMPFILE | O_RDWR | O_EXCL, 0644);
  show("never a name", linkat(t, "", AT_FDCWD, "d/third", AT_EMPTY_PATH));
  t = open("d/f", O_RDWR);
  unlink("d/f");
  show("its last name is gone", linkat(t, "", AT_FDCWD, "d/third", AT_EMPTY_PATH));

  close(open("x", O_CREAT | O_RDWR, 0644));
  show("set", setxattr("x", "user.one", "value", 5, 0));
  show("create", setxattr("x", "user.one", "value", 5, XATTR_CREATE));
  show("replace", setxattr("x", "user.one", "longer value", 12, XATTR_REPLACE));
  show("replace", setxattr("x", "user.two", "longer value", 12, XATTR_REPLACE));
  show("empty", setxattr("x", "user.two", NULL, 0, XATTR_CREATE));
  show("get", getxattr("x", "user.one", text, 100));
  show("size", getxattr("x", "user.one", NULL, 0));
  show("small", getxattr("x", "user.one", text, 3));
  show("get empty", getxattr("x", "user.two", text, 100));
  show("get none", getxattr("x", "user.three", text, 100));
  show("class", setxattr("x", "other.one", "value", 5, 0));
  show("no name", setxattr("x", "", "value", 5, 0));
  show("only a class", setxattr("x", "user.", "value", 5, 0));
  memset(text, 'n', sizeof text);
  memcpy(text, "user.", 5);
  text[256] = 0;
  static char large[70000];
  show("long name", setxattr("x", text, "value", 5, 0));
  show("too long a value", setxattr("x", "user.x", large, 70000, 0));
  show("flags", setxattr("x", "user.x", text, 1, 8));
  if (symlink("x", "xl")) return 1;
  show("through a link", getxattr("xl", "user.one", text, 100));
  show("of a link", lsetxattr("xl", "user.one", "v", 1, 0));
  show("of a link", lgetxattr("xl", "user.one", text, 100));
  mkfifo("p", 0600);
  show("of a FIFO", setxattr("p", "user.one", "v", 1, 0));
  show("of a directory", setxattr("d", "user.one", "v", 1, 0));
  int x = open("x", O_RDWR);
  show("by descriptor", fsetxattr(x, "user.three", "33", 2, 0));
  length = listxattr("x", text, sizeof text);
  int seen = 0;
  for (char *p = text; p < text + length; p += strlen(p) + 1) seen += !strncmp(p, "user.", 5);
  printf("listed %d\n", seen);
  show("list small", flistxattr(x, text, 5));
  show("remove", removexattr("x", "user.one"));
  show("remove", removexattr("x", "user.one"));
  show("remove", fremovexattr(x, "user.two"));
  show("remove", lremovexattr("xl", "user.three"));

  ftruncate(x, 1 << 20);
  if (pwrite(x, "data", 4, 256 << 10) != 4 || pwrite(x, "data", 4, 512 << 10) != 4) return 1;
  show("data", lseek(x, 0, SEEK_DATA));
  show("data", lseek(x, (256 << 10) + 2, SEEK_DATA));
  show("hole", lseek(x, 0, SEEK_HOLE));
  show("hole", lseek(x, 256 << 10, SEEK_HOLE));
  show("hole", lseek(x, 512 << 10, SEEK_HOLE));
  show("data", lseek(x, 600 << 10, SEEK_DATA));
  show("hole", lseek(x, 1 << 20, SEEK_HOLE));
  show("punch", fallocate(x, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 200 << 10, 200 << 10));
  show("data", lseek(x, 0, SEEK_DATA));
  show("punch without", fallocate(x, FALLOC_FL_PUNCH_HOLE, 0, 4096));
  show("keep", fallocate(x, FALLOC_FL_KEEP_SIZE, 1 << 20, 4096));
  fstat(x, &s);
  printf("size %ld\n", (long)s.st_size);
  show("allocate", fallocate(x, 0, 1 << 20, 4096));
  fstat(x, &s);
  printf("size %ld\n", (long)s.st_size);
  show("none", fallocate(x, 0, 0, 0));
  show("negative", fallocate(x, 0, -1, 10));
  show("too far", fallocate(x, 0, 0x7fffffffffffffff, 10));
  int pair[2];
  if (pipe(pair)) return 1;
  show("of a pipe", fallocate(pair[1], 0, 0, 10));
  show("for reading", fallocate(named, 0, 0, 10));

  struct sigaction action = {.sa_handler = limit};
  sigaction(SIGXFSZ, &action, NULL);
  setrlimit(RLIMIT_FSIZE, &(struct rlimit){10000, RLIM_INFINITY});
  int y = open("y", O_CREAT | O_RDWR, 0644);
  char many[4096] = "";
  show("within", write(y, many, 4096));
  show("at", pwrite(y, many, 4096, 8000));
  show("behind", pwrite(y, many, 1, 10000));
  show("nothing", pwrite(y, many, 0, 10000));
  show("truncate", ftruncate(y, 10001));
  show("truncate", ftruncate(y, 5000));
  show("truncate", truncate("y", 20000));
  show("allocate", fallocate(y, 0, 0, 20000));
  show("larger already", ftruncate(x, 15000));
  show("inside", pwrite(x, many, 10, 12000));
  setrlimit(RLIMIT_FSIZE, &(struct rlimit){RLIM_INFINITY, RLIM_INFINITY});

  setrlimit(RLIMIT_NOFILE, &(struct rlimit){70, 4096});
  show("dup2 at the limit", dup2(y, 70));
  show("dup2 below", dup2(y, 69));
  show("F_DUPFD at the limit", fcntl(y, F_DUPFD, 70));
  while (dup(y) >= 0) {}
  show("all taken", open("y", O_RDONLY));
  for (int i = 51; i < 70; i++) close(i);

  struct timespec times[2] = {{1000, 5}, {2000, 999999999}};
  show("times", utimensat(AT_FDCWD, "y", times, 0));
  stat("y", &s);
  printf("%ld.%09ld %ld.%09ld\n", (long)s.st_atim.tv_sec, s.st_atim.tv_nsec, (long)s.st_mtim.tv_sec, s.st_mtim.tv_nsec);
  times[0].tv_nsec = UTIME_OMIT, times[1] = (struct timespec){-5, 7};
  show("one", utimensat(AT_FDCWD, "y", times, 0));
  stat("y", &s);
  printf("%ld.%09ld %ld.%09ld\n", (long)s.st_atim.tv_sec, s.st_atim.tv_nsec, (long)s.st_mtim.tv_sec, s.st_mtim.tv_nsec);
  times[1].tv_nsec = UTIME_OMIT;
  show("none of nothing", utimensat(AT_FDCWD, "nope", times, 0));
  times[1].tv_nsec = 1000000000;
  show("too many", utimensat(AT_FDCWD, "y", times, 0));
  show("wrong flags", utimensat(AT_FDCWD, "y", NULL, 1));
  struct timeval old[2] = {{100, 5}, {200, 6}};
  show("futimesat", futimesat(d, "named", old));
  stat("d/named", &s);
  printf("%ld.%09ld %ld.%09ld\n", (long)s.st_atim.tv_sec, s.st_atim.tv_nsec, (long)s.st_mtim.tv_sec, s.st_mtim.tv_nsec);
  old[0].tv_usec = 1000000;
  show("too many", futimesat(d, "named", old));

  struct { unsigned long inode, next; unsigned short length; char name[]; } *entry;
  long got = syscall(SYS_getdents, d, text, sizeof text);
  int types[3] = {0};
  for (char *p = text; p < text + got; p += entry->length) {
    entry = (void *)p;
    char type = p[entry->length - 1];
    types[type == DT_DIR ? 0 : type == DT_LNK ? 1 : 2]++;
    if (!strcmp(entry->name, "within")) printf("found\n");
  }
  printf("directories %d links %d others %d\n", types[0], types[1], types[2]);
  show("small", (lseek(d, 0, SEEK_SET), syscall(SYS_getdents, d, text, 10)));

  char *path = malloc(5000);
  memset(path, '/', 5000);
  memcpy(path + 4094, "y", 2);
  opened("4095 bytes", open(path, O_RDONLY));
  path[0] = '.', path[4094] = '/', path[4095] = 'y', path[4096] = 0;
  opened("4096 bytes", open(path, O_RDONLY));
  char name[300];
  memset(name, 'n', sizeof name);
  name[255] = 0;
  opened("255", open(name, O_CREAT | O_RDWR, 0600));
  name[255] = 'n', name[256] = 0;
  opened("256", open(name, O_CREAT | O_RDWR, 0600));
  char from[20], to[20] = "y";
  for (int i = 0; i < 42; i++) {
    snprintf(from, sizeof from, "link%d", i);
    if (symlink(to, from)) return 1;
    strcpy(to, from);
  }
  opened("40 links", open("link39", O_RDONLY));
  opened("41 links", open("link40", O_RDONLY));
  show("whiteout", syscall(SYS_renameat2, AT_FDCWD, "y", AT_FDCWD, "z", 4 | 2));
  show("handle", syscall(SYS_name_to_handle_at, d, "nope", NULL, NULL, 0) < 0 ? 0 : 1);
  return 0;
}
