// Advisory locks: flock, record locks of a process and of an open file; split, merged, waited for, and given back by a close.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void show(const char *what, long result) {
  if (result < 0) printf("%s: %s\n", what, strerror(errno));
  else printf("%s: %ld\n", what, result);
}
static long lock(int f, int command, int type, int whence, off_t start, off_t count) {
  struct flock l = {.l_type = (short)type, .l_whence = (short)whence, .l_start = start, .l_len = count};
  return fcntl(f, command, &l);
}
static void ask(const char *what, int f, int command, int type, off_t start, off_t count) {
  struct flock l = {.l_type = (short)type, .l_start = start, .l_len = count};
  int result = fcntl(f, command, &l);
  if (result < 0) printf("%s: %s\n", what, strerror(errno));
  else if (l.l_type == F_UNLCK) printf("%s: free\n", what);
  else
    printf("%s: %s %d+%ld %ld of %s\n", what, l.l_type == F_WRLCK ? "write" : "read", l.l_whence, (long)l.l_start,
           (long)l.l_len, l.l_pid == -1 ? "an open file" : l.l_pid == getpid() ? "us" : "somebody");
}
// What a child may get is what a process that does not share our locks would.
static const char *volatile child_text;
static int child_file;
static void from_child(const char *what, int type, off_t start, off_t count) {
  pid_t child = vfork();
  if (!child) {
    struct flock l = {.l_type = (short)type, .l_start = start, .l_len = count};
    _exit(fcntl(child_file, F_SETLK, &l) ? errno == EAGAIN || errno == EACCES ? 1 : 2 : 0);
  }
  int status;
  waitpid(child, &status, 0);
  printf("child %s: %s\n", what, WEXITSTATUS(status) == 0 ? "got it" : WEXITSTATUS(status) == 1 ? "refused" : "failed");
}
static int shared, first, second;
static volatile int has, waited = -2;
static void *wait_flock(void *a) {
  waited = flock(second, LOCK_EX);  // Told by who waits for this thread: two would tell in any order.
  has = 1;
  flock(second, LOCK_UN);
  return a;
}
static void *wait_open(void *a) {
  show("open file waited", lock(second, F_OFD_SETLKW, F_WRLCK, SEEK_SET, 5, 1));
  has = 1;
  return a;
}
static void nothing(int s) { (void)s; }
static void *interrupted(void *a) {
  show("interrupted", lock(second, F_OFD_SETLKW, F_WRLCK, SEEK_SET, 0, 0));
  show("flock interrupted", flock(second, LOCK_EX));
  has = 1;
  return a;
}

int main(void) {
  char directory[] = "/tmp/locks-XXXXXX";
  mkdir("/tmp", 0777);
  if (!mkdtemp(directory) || chdir(directory)) return perror("directory"), 1;
  setvbuf(stdout, NULL, _IONBF, 0);
  first = open("f", O_RDWR | O_CREAT, 0600);
  second = open("f", O_RDWR);
  shared = child_file = dup(first);
  int reader = open("f", O_RDONLY), writer = open("f", O_WRONLY), path = open("f", O_PATH);

  show("flock", flock(first, LOCK_EX));
  show("of another", flock(second, LOCK_SH | LOCK_NB));
  show("of the same", flock(shared, LOCK_EX | LOCK_NB));
  show("to shared", flock(first, LOCK_SH));
  show("of another", flock(second, LOCK_SH | LOCK_NB));
  show("to exclusive", flock(second, LOCK_EX | LOCK_NB));
  show("by the first", flock(first, LOCK_EX | LOCK_NB));
  show("wrong", flock(first, 3));
  show("on a place", flock(path, LOCK_SH));
  show("on nothing", flock(99, LOCK_SH));
  pthread_t thread;
  pthread_create(&thread, NULL, wait_flock, NULL);
  usleep(20000);
  printf("waits %d\n", has);
  show("unlock", flock(first, LOCK_UN));
  pthread_join(thread, NULL);
  show("waited", waited);

  show("write lock", lock(first, F_SETLK, F_WRLCK, SEEK_SET, 10, 10));
  show("our own again", lock(second, F_SETLK, F_RDLCK, SEEK_SET, 14, 2));
  ask("ours are no conflict", first, F_GETLK, F_WRLCK, 0, 0);
  ask("1", first, F_OFD_GETLK, F_WRLCK, 0, 0);
  ask("2", first, F_OFD_GETLK, F_WRLCK, 14, 0);
  ask("3", first, F_OFD_GETLK, F_WRLCK, 16, 1);
  ask("read beside read", first, F_OFD_GETLK, F_RDLCK, 14, 2);
  from_child("10", F_RDLCK, 10, 1);
  from_child("14", F_RDLCK, 14, 2);
  from_child("14 for writing", F_WRLCK, 14, 2);
  from_child("20", F_WRLCK, 20, 0);
  lock(first, F_SETLK, F_WRLCK, SEEK_SET, 14, 2);
  ask("merged", first, F_OFD_GETLK, F_RDLCK, 0, 0);
  lock(first, F_SETLK, F_UNLCK, SEEK_SET, 12, 3);
  ask("left", first, F_OFD_GETLK, F_RDLCK, 0, 0);
  ask("right", first, F_OFD_GETLK, F_RDLCK, 12, 0);
  if (pwrite(first, "0123456789", 10, 0) != 10) return 1;
  show("from the end", lock(first, F_SETLK, F_WRLCK, SEEK_END, -3, 0));
  ask("from the end", first, F_OFD_GETLK, F_RDLCK, 0, 0);
  lseek(first, 5, SEEK_SET);
  show("backwards", lock(first, F_SETLK, F_RDLCK, SEEK_CUR, 0, -2));
  ask("backwards", first, F_OFD_GETLK, F_WRLCK, 0, 5);
  show("before the start", lock(first, F_SETLK, F_RDLCK, SEEK_SET, -1, 0));
  show("too far back", lock(first, F_SETLK, F_RDLCK, SEEK_SET, 1, -2));
  show("too far", lock(first, F_SETLK, F_RDLCK, SEEK_SET, 0x7fffffffffffffff, 2));
  show("wrong type", lock(first, F_SETLK, 9, SEEK_SET, 0, 0));
  show("wrong whence", lock(first, F_SETLK, F_RDLCK, 7, 0, 0));
  show("write lock for a reader", lock(reader, F_SETLK, F_WRLCK, SEEK_SET, 0, 0));
  show("read lock for a writer", lock(writer, F_SETLK, F_RDLCK, SEEK_SET, 0, 0));
  show("on a place", lock(path, F_SETLK, F_RDLCK, SEEK_SET, 0, 0));
  close(reader);
  ask("after a close", first, F_OFD_GETLK, F_WRLCK, 0, 0);

  show("open file's", lock(first, F_OFD_SETLK, F_WRLCK, SEEK_SET, 0, 10));
  show("against another's", lock(second, F_OFD_SETLK, F_RDLCK, SEEK_SET, 9, 1));
  show("against ours", lock(second, F_SETLK, F_RDLCK, SEEK_SET, 9, 1));
  show("by the same", lock(shared, F_OFD_SETLK, F_RDLCK, SEEK_SET, 9, 1));
  ask("holder", second, F_GETLK, F_WRLCK, 0, 0);
  from_child("0", F_RDLCK, 0, 1);
  struct flock l = {.l_type = F_RDLCK, .l_pid = 5};
  show("with a number", fcntl(first, F_OFD_SETLK, &l));
  has = 0;
  pthread_create(&thread, NULL, wait_open, NULL);
  usleep(20000);
  printf("waits %d\n", has);
  close(first);
  usleep(20000);
  printf("still waits %d\n", has);
  close(shared);
  pthread_join(thread, NULL);

  first = open("f", O_RDWR);
  show("all", lock(first, F_OFD_SETLK, F_UNLCK, SEEK_SET, 0, 0));
  lock(second, F_OFD_SETLK, F_UNLCK, SEEK_SET, 0, 0);
  show("all", lock(first, F_OFD_SETLK, F_WRLCK, SEEK_SET, 0, 0));
  show("flock", flock(first, LOCK_EX));
  struct sigaction action = {.sa_handler = nothing};
  sigaction(SIGUSR1, &action, NULL);
  has = 0;
  pthread_create(&thread, NULL, interrupted, NULL);
  while (!has) usleep(5000), pthread_kill(thread, SIGUSR1);
  pthread_join(thread, NULL);
  printf("done\n");
  return 0;
}
