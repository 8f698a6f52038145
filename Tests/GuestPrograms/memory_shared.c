// Shared memory: memfd_create and its seals, shm_open, System V segments.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RW (PROT_READ | PROT_WRITE)
#define PAGE 4096ul
enum { ADD = 1033, GET = 1034, SEAL = 1, SHRINK = 2, GROW = 4, WRITE = 8, FUTURE = 16 };

static void say(const char *what, long r) {
  const char *name = "OK";
  if (r < 0) name = errno == EINVAL ? "EINVAL" : errno == ENOMEM ? "ENOMEM" : errno == EPERM ? "EPERM" : errno == EBUSY ? "EBUSY"
    : errno == EEXIST ? "EEXIST" : errno == ENOENT ? "ENOENT" : errno == EFAULT ? "EFAULT" : errno == EIDRM ? "EIDRM" : "?";
  printf("%s: %s\n", what, name);
}
static int make(const char *name, unsigned flags) { return (int)syscall(SYS_memfd_create, name, flags); }

static void seals(void) {
  int fd = make("one", 2);
  say("made", fd);
  char path[64], link[64] = "";
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  if (readlink(path, link, sizeof link - 1) < 0) perror("readlink");
  printf("%s, seals %d\n", link, fcntl(fd, GET));
  say("size", ftruncate(fd, 3 * PAGE));
  printf("write %zd", pwrite(fd, "hello", 5, PAGE));
  printf(" seek %ld", (long)lseek(fd, 0, SEEK_END));
  struct stat st;
  fstat(fd, &st);
  printf(" size %ld regular %d links %d\n", (long)st.st_size, S_ISREG(st.st_mode), (int)st.st_nlink);
  char *p = mmap(0, 3 * PAGE, RW, MAP_SHARED, fd, 0);
  printf("mapped %.5s\n", p + PAGE);
  p[PAGE] = 'j';
  char text[6] = "";
  printf("read %zd %s\n", pread(fd, text, 5, PAGE), text);
  say("seal writing while mapped", fcntl(fd, ADD, WRITE));
  say("seal future writing", fcntl(fd, ADD, FUTURE));
  p[PAGE] = 'c';
  say("write", pwrite(fd, "x", 1, 0));
  say("map writable", (long)mmap(0, PAGE, RW, MAP_SHARED, fd, 0));
  char *r = mmap(0, 3 * PAGE, PROT_READ, MAP_SHARED, fd, 0);
  printf("map readable %.5s\n", r + PAGE);
  munmap(p, 3 * PAGE);
  say("seal writing", fcntl(fd, ADD, WRITE));
  say("private and writable", (long)(mmap(0, PAGE, RW, MAP_PRIVATE, fd, 0) == MAP_FAILED ? -1 : 0));
  say("shrink", ftruncate(fd, PAGE));
  say("seal size", fcntl(fd, ADD, SHRINK | GROW));
  say("shrink", ftruncate(fd, 10));
  say("grow", ftruncate(fd, 2 * PAGE));
  say("same", ftruncate(fd, PAGE));
  say("unknown seal", fcntl(fd, ADD, 1024));
  say("seal seals", fcntl(fd, ADD, SEAL));
  say("one more", fcntl(fd, ADD, SHRINK));
  printf("seals %d\n", fcntl(fd, GET));
  close(fd);
  printf("still %d\n", r[0]);
}

static void plain(void) {
  int fd = make("plain", 0);
  printf("seals %d\n", fcntl(fd, GET));
  say("seal", fcntl(fd, ADD, WRITE));
  int grow = make("grow", 2);
  ftruncate(grow, 10);
  fcntl(grow, ADD, GROW);
  say("write past the end", pwrite(grow, "x", 1, 10));
  say("write across the end", pwrite(grow, "xyz", 3, 8) == 2 ? 0 : -1);
  say("punch", fallocate(grow, 3, 0, 5));
  say("unknown flag", make("a", 0x100));
  char name[300];
  memset(name, 'n', sizeof name);
  name[250] = 0;
  say("long name", make(name, 0));
  name[249] = 0;
  say("longest name", make(name, 0));
  say("no name", make((void *)1, 0));
  int file = open("/proc/self/exe", O_RDONLY);
  say("seals of a file", fcntl(file, GET) < 0 && errno == EINVAL ? 0 : 1);
  int pipes[2];
  if (pipe(pipes)) perror("pipe");
  say("seals of a pipe", fcntl(pipes[0], GET));
}

static void named(void) {
  const char *name = "/osv-memory-test";
  shm_unlink(name);
  say("missing", shm_open(name, O_RDWR, 0));
  int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
  say("made", fd);
  say("again", shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600));
  ftruncate(fd, 2 * PAGE);
  char *a = mmap(0, 2 * PAGE, RW, MAP_SHARED, fd, 0);
  int second = shm_open(name, O_RDONLY, 0);
  char *b = mmap(0, 2 * PAGE, PROT_READ, MAP_SHARED, second, 0);
  strcpy(a + PAGE, "shared");
  printf("%s %d\n", b + PAGE, a != b);
  say("unlink", shm_unlink(name));
  say("gone", shm_open(name, O_RDWR, 0));
  strcpy(a, "alive");
  printf("%s\n", b);
}

static void *other(void *p) {
  int id = *(int *)p;
  char *q = shmat(id, 0, 0);
  strcpy(q + 100, "from a thread");
  shmdt(q);
  return 0;
}

static void segments(void) {
  int id = shmget(IPC_PRIVATE, 3 * PAGE + 5, IPC_CREAT | 0600);
  say("get", id);
  char *a = shmat(id, 0, 0);
  char *b = shmat(id, 0, SHM_RDONLY);
  printf("attached %d %d\n", a != (void *)-1, b != (void *)-1 && a != b);
  pthread_t thread;
  pthread_create(&thread, 0, other, &id);
  pthread_join(thread, 0);
  printf("%s\n", b + 100);
  struct shmid_ds ds;
  say("stat", shmctl(id, IPC_STAT, &ds));
  printf("size %zu attached %d mode %o creator %d last %d\n", ds.shm_segsz, (int)ds.shm_nattch, ds.shm_perm.mode & 0777,
    ds.shm_cpid == getpid(), ds.shm_lpid == getpid());
  say("raise rights", mprotect(b, PAGE, RW) == -1 && errno == EACCES ? 0 : -1);
  say("detach", shmdt(b));
  say("again", shmdt(b));
  say("in the middle", shmdt(a + PAGE));
  ds.shm_perm.mode = 0400;
  say("set", shmctl(id, IPC_SET, &ds));
  say("remove", shmctl(id, IPC_RMID, 0));
  say("stat removed", shmctl(id, IPC_STAT, &ds));
  printf("removed %d attached %d mode %o\n", !!(ds.shm_perm.mode & 01000), (int)ds.shm_nattch, ds.shm_perm.mode & 0777);
  strcpy(a, "still here");
  printf("%s\n", a);
  munmap(a + PAGE, PAGE);
  say("detach the rest", shmdt(a));
  say("stat gone", shmctl(id, IPC_STAT, &ds));
  say("attach gone", (long)shmat(id, 0, 0));

  key_t key = 0x05f0 + getpid();
  say("no such key", shmget(key, PAGE, 0));
  int keyed = shmget(key, 2 * PAGE, IPC_CREAT | IPC_EXCL | 0600);
  say("make", keyed);
  say("exclusive", shmget(key, PAGE, IPC_CREAT | IPC_EXCL));
  printf("same %d\n", shmget(key, PAGE, IPC_CREAT) == keyed);
  say("larger", shmget(key, 3 * PAGE, 0));
  say("no size", shmget(IPC_PRIVATE, 0, IPC_CREAT));
  char *area = mmap(0, 8 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  say("onto something", (long)shmat(keyed, area + PAGE, 0));
  char *at = shmat(keyed, area + PAGE, SHM_REMAP);
  printf("there %d %d\n", at == area + PAGE, at[0]);
  say("odd", (long)shmat(keyed, area + PAGE + 1, 0));
  munmap(area + 4 * PAGE, 2 * PAGE);
  char *round = shmat(keyed, area + 4 * PAGE + 7, SHM_RND);
  printf("rounded %d\n", round == area + 4 * PAGE);
  shmdt(round);
  shmdt(at);
  say("remove", shmctl(keyed, IPC_RMID, 0));
  say("key gone", shmget(key, PAGE, 0));
  say("unknown", shmctl(keyed, 77, 0));
}

int main(void) {
  seals();
  plain();
  named();
  segments();
  return 0;
}
