// flavours: glibc-static musl-static glibc-dynamic
// Changes to files and directories, on a RAM file system or (with an argument) in that directory: what each call answers, what the
// file holds then. Leaves a tree behind if it was given a directory, for a comparison with another one's.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static void show(const char *what, long result) {
  if (result < 0) printf("%s: %s\n", what, strerror(errno));
  else printf("%s: %ld\n", what, result);
}

static void state(const char *name) {
  struct stat s;
  if (lstat(name, &s)) return show(name, -1);
  printf("%s: mode %o links %ld size %ld\n", name, s.st_mode, (long)s.st_nlink, S_ISDIR(s.st_mode) ? 0L : (long)s.st_size);
}

static unsigned long checksum(const char *name) {
  int f = open(name, O_RDONLY);
  unsigned long sum = 5381;
  unsigned char buffer[8192];
  for (long n; (n = read(f, buffer, sizeof buffer)) > 0;)
    for (long i = 0; i < n; i++) sum = sum * 33 + buffer[i];
  close(f);
  return sum;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void list(const char *name) {
  DIR *d = opendir(name);
  char *names[64];
  int count = 0;
  for (struct dirent *e; count < 64 && (e = readdir(d));) names[count++] = strdup(e->d_name);
  closedir(d);
  qsort(names, (size_t)count, sizeof *names, by_name);
  printf("%s has", name);
  for (int i = 0; i < count; i++) printf(" %s", names[i]);
  puts("");
}

static char big[300000];
static volatile long bad = 16;

// Not in every C library.
static long renameat2_(const char *old, const char *new, unsigned flags) {
  return syscall(SYS_renameat2, AT_FDCWD, old, AT_FDCWD, new, flags);
}
enum { NOREPLACE = 1, EXCHANGE = 2 };

static void contents(void) {
  for (unsigned i = 0; i < sizeof big; i++) big[i] = (char)(i * 7 + i / 251);
  int f = open("big", O_RDWR | O_CREAT | O_EXCL, 0640);
  show("write", write(f, big, sizeof big));
  show("seek", lseek(f, 1000, SEEK_SET));
  show("overwrite", write(f, "0123456789", 10));
  show("pwrite behind the end", pwrite(f, "end", 3, 400001));
  show("pread in the hole", pread(f, big + 8, 4, 350000));
  printf("zeros %d\n", big[8] | big[9] | big[10] | big[11]);
  struct iovec parts[3] = {{"one", 3}, {"", 0}, {"three", 5}};
  show("pwritev", pwritev(f, parts, 3, 4094));
  state("big");
  show("fsync", fsync(f));
  show("fdatasync", fdatasync(f));
  show("truncate", ftruncate(f, 123457));
  show("longer again", ftruncate(f, 200000));
  show("read behind the cut", pread(f, big, 2, 123456));
  printf("last %d then %d\n", big[0] != 0, big[1]);
  show("allocate", posix_fallocate(f, 190000, 20000));
  state("big");
  show("punch", fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 5000, 10000));
  show("read the hole", pread(f, big, 1, 9000));
  printf("hole %d\n", big[0]);
  show("close", close(f));
  printf("sum %lx\n", checksum("big"));

  f = open("log", O_WRONLY | O_CREAT | O_APPEND, 0644);
  int g = open("log", O_WRONLY | O_APPEND);
  for (int i = 0; i < 20; i++) dprintf(i & 1 ? f : g, "line %d\n", i);
  show("pwrite of an appender", pwrite(f, "at the end\n", 11, 0));
  close(f), close(g);
  state("log");
  printf("sum %lx\n", checksum("log"));
  show("reading what is for writing", (f = open("log", O_WRONLY)) >= 3 && read(f, big, 1) < 0);
  close(f);
  show("emptied", (f = open("log", O_RDWR | O_TRUNC)) >= 3);
  show("nothing to read", read(f, big, 1));
  show("write again", write(f, "new\n", 4));
  close(f);
  state("log");

  f = open("readonly", O_RDWR | O_CREAT | O_EXCL, 0444);
  show("a file that may only be read, written by its maker", write(f, "content\n", 8));
  show("and cut", ftruncate(f, 4));
  close(f);
  state("readonly");
  printf("sum %lx\n", checksum("readonly"));
  f = open("closing", O_RDWR | O_CREAT, 0600);
  write(f, "before", 6);
  show("rights go while it is open", fchmod(f, 0));
  show("written all the same", write(f, " after", 6));
  show("read all the same", pread(f, big, 12, 0));
  printf("%.12s\n", big);
  fchmod(f, 0600);
  close(f);
  long page = sysconf(_SC_PAGESIZE);
  f = open("bad", O_RDWR | O_CREAT, 0600);
  show("a bad pointer", pwrite(f, (void *)bad, 10, 0));
  char *edge = mmap(NULL, (size_t)(2 * page), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  munmap(edge + page, (size_t)page);
  memset(edge, 'e', (size_t)page);
  show("half a bad pointer", pwrite(f, edge + page - 100, 200, 0) == 100);
  close(f);
  state("bad");
}

static void mappings(void) {
  int f = open("mapped", O_RDWR | O_CREAT, 0644);
  ftruncate(f, 3 * 4096 + 100);
  char *m = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
  show("map", m != MAP_FAILED);
  for (int i = 0; i < 3 * 4096 + 100; i += 50) m[i] = (char)('a' + i % 26);
  char text[8] = "";
  show("read sees a store", pread(f, text, 4, 50));
  printf("%d\n", text[0] == 'a' + 50 % 26);
  show("a store sees a write", pwrite(f, "XYZ", 3, 8192));
  printf("%.3s\n", m + 8192);
  show("msync", msync(m, 4096, MS_SYNC));
  show("asynchronous", msync(m, 8192, MS_ASYNC));
  m[4096 * 2 + 200] = 'Q';
  show("unmap", munmap(m, 4 * 4096));
  close(f);
  printf("sum %lx\n", checksum("mapped"));
  // A mapping outlives its descriptor and its name.
  f = open("gone", O_RDWR | O_CREAT, 0644);
  ftruncate(f, 4096);
  m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
  close(f);
  show("unlink what is mapped", unlink("gone"));
  strcpy(m, "still here");
  puts(m);
  show("msync of it", msync(m, 4096, MS_SYNC));
  munmap(m, 4096);
  // To itself: the source of the write is the page it goes to.
  f = open("mapped", O_RDWR);
  m = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
  show("write a mapping to its own file", pwrite(f, m, 8192, 4096));
  munmap(m, 3 * 4096);
  close(f);
  printf("sum %lx\n", checksum("mapped"));
}

static void names(void) {
  show("mkdir", mkdir("d", 0750));
  show("again", mkdir("d", 0750));
  show("deeper", mkdir("d/e", 0700));
  int f = open("d/file", O_RDWR | O_CREAT, 0644);
  write(f, "content", 7);
  show("link", link("d/file", "d/hard"));
  show("link over", link("d/file", "d/hard"));
  show("link of a directory", link("d/e", "d/x"));
  state("d/hard");
  show("symlink", symlink("file", "d/soft"));
  show("symlink to nothing", symlink("/nowhere/at all", "d/dangling"));
  char target[64] = "";
  show("readlink", readlink("d/dangling", target, sizeof target));
  puts(target);
  show("through the link", open("d/soft", O_RDONLY) >= 0);
  list("d");
  show("rename", rename("d/hard", "d/harder"));
  show("rename over", rename("d/harder", "d/file"));
  state("d/file");
  show("rename away", rename("d/file", "moved"));
  state("d/file");
  show("the other name goes", unlink("d/harder"));
  show("written after it moved", pwrite(f, "CONTENT", 7, 0));
  printf("sum %lx\n", checksum("moved"));
  show("noreplace", renameat2_("moved", "big", NOREPLACE));
  show("exchange", renameat2_("moved", "d/e", EXCHANGE));
  state("moved");
  state("d/e");
  show("back", renameat2_("moved", "d/e", EXCHANGE));
  show("into itself", rename("d", "d/e/d"));
  show("a directory over a file", rename("d/e", "moved"));
  show("a file over a directory", rename("moved", "d/e"));
  show("rmdir of what is full", rmdir("d"));
  show("rmdir of a file", rmdir("moved"));
  show("unlink of a directory", unlink("d/e"));
  show("unlink while it is open", unlink("moved"));
  struct stat s;
  fstat(f, &s);
  printf("links %ld size %ld\n", (long)s.st_nlink, (long)s.st_size);
  show("write without a name", pwrite(f, "nameless", 8, 3));
  show("read without a name", pread(f, target, 11, 0));
  printf("%.11s\n", target);
  show("a new one of that name", open("moved", O_RDWR | O_CREAT | O_EXCL, 0600) >= 0);
  state("moved");
  close(f);
  show("rmdir", rmdir("d/e"));
  show("mkdir after", mkdir("d/e", 0711));
  show("directory over an empty one", mkdir("n", 0755) == 0 && rename("n", "d/e") == 0);
  state("d/e");
  list("d");
  list(".");
  show("fifo", mkfifo("fifo", 0640));
  state("fifo");
  int reader = open("fifo", O_RDONLY | O_NONBLOCK), writer = open("fifo", O_WRONLY);
  show("through the fifo", write(writer, "hi", 2) == 2 && read(reader, target, 9) == 2);
  close(reader), close(writer);
  show("create again", open("d/new", O_CREAT | O_EXCL | O_WRONLY, 0600) >= 0);
  show("exclusively", open("d/new", O_CREAT | O_EXCL | O_WRONLY, 0600));
  show("trailing slash", open("d/other/", O_CREAT | O_WRONLY, 0600));
  show("long name", mkdir("d/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
                          "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 0700));
  chdir("d");
  show("in the directory", mkdir("../sub", 0700) == 0 && chdir("../sub") == 0 && rmdir("../sub") == 0);
  show("where there is no directory", open("file", O_CREAT | O_WRONLY, 0600));
  show("nor", mkdir("dir", 0700));
}

static void attributes(void) {
  int f = open("file", O_RDWR | O_CREAT, 0600);
  show("chmod", chmod("file", 0754));
  show("umask", umask(027));
  show("with it", open("masked", O_CREAT | O_WRONLY, 0666) >= 0 && mkdir("maskeddir", 0777) == 0);
  umask(022);
  state("file"), state("masked"), state("maskeddir");
  struct timespec t[2] = {{1000000000, 123456789}, {999999999, 987654321}};
  show("utimensat", utimensat(AT_FDCWD, "file", t, 0));
  struct stat s;
  stat("file", &s);
  printf("%ld.%09ld %ld.%09ld\n", s.st_atim.tv_sec, s.st_atim.tv_nsec, s.st_mtim.tv_sec, s.st_mtim.tv_nsec);
  struct timespec one[2] = {{0, UTIME_OMIT}, {5, 6}};
  show("one of them", futimens(f, one));
  stat("file", &s);
  printf("%ld.%09ld %ld.%09ld\n", s.st_atim.tv_sec, s.st_atim.tv_nsec, s.st_mtim.tv_sec, s.st_mtim.tv_nsec);
  struct timespec before, after;
  clock_gettime(CLOCK_REALTIME_COARSE, &before);
  write(f, "x", 1);
  fstat(f, &s);
  clock_gettime(CLOCK_REALTIME, &after);
  // Coarse clocks of two kernels may differ by a tick or two.
  printf("written now %d\n", s.st_mtim.tv_sec >= before.tv_sec - 1 && s.st_mtim.tv_sec <= after.tv_sec + 1);
  show("owner it has", chown("file", s.st_uid, s.st_gid));
  symlink("file", "link");
  show("times of a link", utimensat(AT_FDCWD, "link", t, AT_SYMLINK_NOFOLLOW));
  lstat("link", &s);
  printf("%ld.%09ld\n", s.st_mtim.tv_sec, s.st_mtim.tv_nsec);
  utimensat(AT_FDCWD, "file", t, 0);
  close(f);
  show("directory's time", mkdir("timed", 0755) == 0 && utimensat(AT_FDCWD, "timed", t, 0) == 0);
  stat("timed", &s);
  printf("%ld.%09ld\n", s.st_mtim.tv_sec, s.st_mtim.tv_nsec);
  show("truncate by name", truncate("file", 100));
  state("file");
  utimensat(AT_FDCWD, "file", t, 0);
}

int main(int count, char **arguments) {
  char directory[] = "/tmp/changes-XXXXXX";
  mkdir("/tmp", 0777);
  if (count < 2 && !mkdtemp(directory)) return perror("directory"), 1;
  if (chdir(count < 2 ? directory : arguments[1])) return perror("chdir"), 1;
  umask(022);
  int here = open(".", O_RDONLY);
  contents();
  mappings();
  names();
  show("back", fchdir(here));
  attributes();
  return 0;
}
