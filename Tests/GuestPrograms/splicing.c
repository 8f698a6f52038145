// Bytes from file to file: sendfile, splice, tee, vmsplice, copy_file_range, sizes of pipes, FIONREAD; and what is refused.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static void show(const char *what, long result) {
  if (result < 0) printf("%s: %s\n", what, strerror(errno));
  else printf("%s: %ld\n", what, result);
}
static long copy(int in, long *from, int out, long *to, size_t count, unsigned flags) {
  return syscall(SYS_copy_file_range, in, from, out, to, count, flags);
}
static unsigned sum(int f) {
  unsigned value = 0;
  unsigned char byte;
  for (long at = 0; pread(f, &byte, 1, at) == 1; at++) value = value * 31 + byte;
  return value;
}
static int pair[2];
static void *feed(void *a) {
  usleep(20000);
  if (write(pair[1], "late", 4) != 4) return NULL;
  close(pair[1]);
  return a;
}

int main(void) {
  char directory[] = "/tmp/splicing-XXXXXX";
  mkdir("/tmp", 0777);
  if (!mkdtemp(directory) || chdir(directory)) return perror("directory"), 1;
  signal(SIGPIPE, SIG_IGN);
  int a = open("a", O_RDWR | O_CREAT, 0600), b = open("b", O_RDWR | O_CREAT, 0600);
  char text[10000];
  for (int i = 0; i < 10000; i++) text[i] = (char)(i * 7 / 3);
  show("write", write(a, text, sizeof text));
  off_t at = 100;
  show("sendfile", sendfile(b, a, &at, 5000));
  printf("offset %ld position %ld %ld\n", (long)at, (long)lseek(a, 0, SEEK_CUR), (long)lseek(b, 0, SEEK_CUR));
  lseek(a, 9000, SEEK_SET);
  show("sendfile at the position", sendfile(b, a, NULL, 5000));
  show("at the end", sendfile(b, a, NULL, 5000));
  printf("sum %x\n", sum(b));
  int added = open("b", O_WRONLY | O_APPEND), only = open("a", O_RDONLY), here = open(".", O_RDONLY);
  at = 0;
  show("sendfile to the end", sendfile(added, a, &at, 10));
  show("sendfile to a file for reading", sendfile(only, a, &at, 10));
  show("sendfile from a file for writing", sendfile(b, added, &at, 10));
  show("sendfile from a directory", sendfile(b, here, NULL, 10));
  at = -1;
  show("sendfile from -1", sendfile(b, a, &at, 10));

  long from = 10, to = 20000;
  show("copy", copy(a, &from, b, &to, 4000, 0));
  printf("offsets %ld %ld\n", from, to);
  struct stat s;
  fstat(b, &s);
  printf("size %ld sum %x\n", (long)s.st_size, sum(b));
  lseek(a, 9990, SEEK_SET), lseek(b, 0, SEEK_SET);
  show("copy at the positions", copy(a, NULL, b, NULL, 100, 0));
  printf("positions %ld %ld\n", (long)lseek(a, 0, SEEK_CUR), (long)lseek(b, 0, SEEK_CUR));
  from = 50000, to = 0;
  show("copy behind the end", copy(a, &from, b, &to, 100, 0));
  from = 0, to = 50;
  show("copy over itself", copy(a, &from, a, &to, 100, 0));
  to = 20000;
  show("copy within", copy(a, &from, a, &to, 100, 0));
  show("copy with flags", copy(a, &from, b, &to, 100, 1));
  show("copy to the end", copy(a, &from, added, NULL, 100, 0));
  show("copy to a file for reading", copy(b, &from, only, NULL, 100, 0));
  show("copy from a directory", copy(here, NULL, b, NULL, 100, 0));
  if (pipe(pair)) return 1;
  show("copy from a pipe", copy(pair[0], NULL, b, NULL, 100, 0));

  loff_t place = 200, none = 0;
  show("splice in", splice(a, &place, pair[1], NULL, 300, 0));
  printf("place %ld\n", (long)place);
  int count;
  show("FIONREAD", ioctl(pair[0], FIONREAD, &count));
  printf("%d\n", count);
  lseek(a, 50, SEEK_SET);
  ioctl(a, FIONREAD, &count);
  printf("of a file %d\n", count);
  int second[2];
  if (pipe(second)) return 1;
  show("tee", tee(pair[0], second[1], 1000, 0));
  show("splice out", splice(pair[0], NULL, b, NULL, 100, 0));
  place = 30000;
  show("splice out at", splice(pair[0], NULL, b, &place, 1000, 0));
  show("empty", splice(pair[0], NULL, b, NULL, 100, SPLICE_F_NONBLOCK));
  show("pipe to pipe", splice(second[0], NULL, pair[1], NULL, 120, 0));
  show("read", read(pair[0], text, 1000));
  show("read rest", read(second[0], text + 120, 1000));
  char same[300];
  printf("same %d\n", pread(a, same, 300, 200) == 300 && !memcmp(text, same, 300));
  printf("sum %x\n", sum(b));
  struct iovec pieces[2] = {{"abc", 3}, {"defg", 4}};
  show("vmsplice", vmsplice(pair[1], pieces, 2, 0));
  struct iovec back[1] = {{text, 100}};
  show("vmsplice back", vmsplice(pair[0], back, 1, 0));
  printf("%.7s\n", text);
  show("vmsplice of a file", vmsplice(a, pieces, 2, 0));
  show("no pipe", splice(a, NULL, b, NULL, 10, 0));
  show("same pipe", splice(pair[0], NULL, pair[1], NULL, 10, 0));
  show("wrong end", splice(pair[1], NULL, b, NULL, 10, 0));
  show("offset of a pipe", splice(pair[0], &none, b, NULL, 10, 0));
  show("to the end of a file", splice(pair[0], NULL, added, NULL, 10, 0));
  show("wrong flags", splice(a, NULL, pair[1], NULL, 10, 64));
  show("nothing", splice(a, NULL, pair[1], NULL, 0, 0));
  show("tee of a file", tee(a, pair[1], 10, 0));
  close(second[0]);
  show("broken", splice(a, NULL, second[1], NULL, 10, 0));

  show("size", fcntl(pair[0], F_GETPIPE_SZ));
  show("smaller", fcntl(pair[0], F_SETPIPE_SZ, 5000));
  fcntl(pair[1], F_SETFL, O_NONBLOCK);
  memset(text, 'x', sizeof text);
  show("filled", write(pair[1], text, sizeof text));
  show("full", splice(a, NULL, pair[1], NULL, 10, SPLICE_F_NONBLOCK));
  show("too small", fcntl(pair[0], F_SETPIPE_SZ, 4096));
  show("larger", fcntl(pair[0], F_SETPIPE_SZ, 1 << 20));
  show("filled more", write(pair[1], text, sizeof text));
  show("drained", read(pair[0], text, 8192));
  show("no size", fcntl(pair[0], F_SETPIPE_SZ, 0));
  show("size of a file", fcntl(a, F_GETPIPE_SZ));
  show("drained", read(pair[0], text, sizeof text));
  fcntl(pair[1], F_SETFL, 0);
  pthread_t thread;
  pthread_create(&thread, NULL, feed, NULL);
  lseek(b, 0, SEEK_SET);
  show("late", splice(pair[0], NULL, b, NULL, 100, 0));
  pthread_join(thread, NULL);
  show("over", splice(pair[0], NULL, b, NULL, 100, 0));
  show("over", tee(pair[0], second[1], 100, 0));
  show("lease", fcntl(a, F_GETLEASE) == F_UNLCK);
  return 0;
}
