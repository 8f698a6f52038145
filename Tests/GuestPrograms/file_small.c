// flavours: glibc-static
// Small writes by several threads: each makes, appends to, overwrites, cuts, maps, renames and removes files of its own against a model in
// memory, and all write records of their own to one file, while another synchronises. What is left at the end, one file still open and
// just written to, is the same whatever the timing. Arguments: a directory (else a RAM file system), a seed, rounds.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { THREADS = 3, LARGEST = 200000, RECORD = 64, RECORDS = 3000, PAGE = 4096 };

struct worker {
  int number, rounds, at, file;
  unsigned long long state;
  long size;
  unsigned char model[LARGEST], buffer[LARGEST];
  int directory, shared;
  pthread_t thread;
};

static volatile int over;

static unsigned long below(struct worker *w, unsigned long limit) {
  w->state ^= w->state << 13, w->state ^= w->state >> 7, w->state ^= w->state << 17;
  return (w->state >> 11) % limit;
}

static void fail(struct worker *w, const char *what, long a, long b) {
  printf("thread %d, round %d: %s %ld %ld, errno %d (%s)\n", w->number, w->at, what, a, b, errno, strerror(errno));
  exit(1);
}

static void check(struct worker *w, long at, long count) {
  long got = pread(w->file, w->buffer, (size_t)count, at);
  long left = at > w->size ? 0 : w->size - at, want = count < left ? count : left;
  if (got != want) fail(w, "read", got, want);
  for (long i = 0; i < got; i++)
    if (w->buffer[i] != w->model[at + i]) fail(w, "another byte", at + i, w->buffer[i]);
}

static void put(struct worker *w, long at, long count, int positioned) {
  if (at + count > LARGEST) return;
  for (long i = 0; i < count; i++) w->model[at + i] = w->buffer[i] = (unsigned char)(below(w, 255) + 1);
  long got = positioned ? pwrite(w->file, w->buffer, (size_t)count, at) : write(w->file, w->buffer, (size_t)count);
  if (got != count) fail(w, "write", got, count);
  if (at + count > w->size) w->size = at + count;
}

static void cut(struct worker *w, long to) {
  if (ftruncate(w->file, to)) fail(w, "ftruncate", to, 0);
  if (to < w->size) memset(w->model + to, 0, (size_t)(w->size - to));
  w->size = to;
}

static void change(struct worker *w, const char *name) {
  static const int flags[] = {0, 0, 0, O_TRUNC, O_SYNC, O_DSYNC};
  int more = flags[below(w, 6)], appends = below(w, 4) == 0;
  w->file = openat(w->directory, name, O_RDWR | O_CREAT | more, 0644);
  if (w->file < 0) fail(w, "open", 0, 0);
  struct stat s;
  if (fstat(w->file, &s)) fail(w, "fstat", 0, 0);
  w->size = s.st_size;
  memset(w->model, 0, sizeof w->model);
  if (pread(w->file, w->model, LARGEST, 0) != w->size) fail(w, "first read", 0, w->size);
  if (appends) fcntl(w->file, F_SETFL, O_APPEND);
  for (int i = (int)below(w, 120) + 1; i > 0; i--) {
    long count = (long)below(w, below(w, 8) ? 300 : 5000) + 1, at = (long)below(w, (unsigned long)w->size + 6000);
    switch (below(w, 40)) {
    case 0 ... 19: lseek(w->file, 0, SEEK_END), put(w, w->size, count, 0); break;
    case 20 ... 27: appends ? put(w, w->size, count, 0) : put(w, at, count, 1); break;
    case 28: cut(w, (long)below(w, (unsigned long)(w->size + 3000 < LARGEST ? w->size + 3000 : LARGEST))); break;
    case 29: if (below(w, 2) ? fsync(w->file) : fdatasync(w->file)) fail(w, "fsync", 0, 0);
      break;
    case 30:
      if (w->size > 0) {
        long page = (long)below(w, (unsigned long)w->size) / PAGE * PAGE;
        unsigned char *m = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, w->file, page);
        if (m == MAP_FAILED) fail(w, "mmap", page, 0);
        for (long k = 0; k < 300; k++)
          if (page + k * 7 % PAGE < w->size) w->model[page + k * 7 % PAGE] = m[k * 7 % PAGE] = (unsigned char)k;
        if (msync(m, PAGE, MS_SYNC)) fail(w, "msync", page, 0);  // Their time is that of their way to the host.
        munmap(m, PAGE);
      }
      break;
    case 31: fchmod(w->file, below(w, 2) ? 0400 : 0640); break;
    case 32: {
      if (fstat(w->file, &s) || s.st_size != w->size) fail(w, "size", s.st_size, w->size);
      struct stat again;
      fstat(w->file, &again);
      if (again.st_mtim.tv_sec != s.st_mtim.tv_sec || again.st_mtim.tv_nsec != s.st_mtim.tv_nsec) fail(w, "time", 0, 0);
      break;
    }
    case 33:
      if (fallocate(w->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, 5000)) fail(w, "punch", at, 0);
      for (long k = at; k < at + 5000 && k < w->size; k++) w->model[k] = 0;
      break;
    case 34: if (below(w, 8) == 0) usleep((unsigned)below(w, 3000)); break;
    default: check(w, at < LARGEST ? at : 0, (long)below(w, 9000)); break;
    }
  }
  check(w, 0, LARGEST);
  // A time that was told stays when the file is closed.
  fstat(w->file, &s);
  fchmod(w->file, 0640);
  if (close(w->file)) fail(w, "close", 0, 0);
  struct stat after;
  if (fstatat(w->directory, name, &after, 0)) fail(w, "stat", 0, 0);
  if (after.st_size != w->size) fail(w, "size after close", after.st_size, w->size);
  if (after.st_mtim.tv_sec != s.st_mtim.tv_sec || after.st_mtim.tv_nsec != s.st_mtim.tv_nsec) fail(w, "time after close", 0, 0);
}

static void *work(void *argument) {
  struct worker *w = argument;
  char name[16], other[16];
  for (w->at = 0; w->at < w->rounds; w->at++) {
    snprintf(name, sizeof name, "f%lu", below(w, 8)), snprintf(other, sizeof other, "f%lu", below(w, 8));
    switch (below(w, 8)) {
    case 0: renameat(w->directory, name, w->directory, other); break;
    case 1: unlinkat(w->directory, name, 0); break;
    case 2: {
      // Written without a name, and gone.
      int f = openat(w->directory, "gone", O_RDWR | O_CREAT, 0600);
      if (write(f, "nameless", 8) != 8 || unlinkat(w->directory, "gone", 0) || write(f, "more", 4) != 4) fail(w, "gone", 0, 0);
      if (pread(f, w->buffer, 100, 0) != 12 || memcmp(w->buffer, "namelessmore", 12)) fail(w, "gone read", 0, 0);
      close(f);
      break;
    }
    default: change(w, name);
    }
    for (int i = 0; i < 20; i++) {
      char record[RECORD];
      memset(record, 'a' + w->number, sizeof record);
      snprintf(record, sizeof record, "thread %d round %d", w->number, w->at);
      long at = (long)below(w, RECORDS) * THREADS + w->number;
      if (pwrite(w->shared, record, RECORD, at * RECORD) != RECORD) fail(w, "record", at, 0);
      if (pread(w->shared, w->buffer, RECORD, at * RECORD) != RECORD || memcmp(record, w->buffer, RECORD)) fail(w, "record read", at, 0);
    }
  }
  return NULL;
}

static void *synchronise(void *argument) {
  int f = *(int *)argument;
  for (int i = 0; !over; i++) {
    if (i % 3 ? fdatasync(f) : syncfs(f)) perror("synchronise");
    usleep(2000);
  }
  return NULL;
}

int main(int count, char **arguments) {
  char name[4096] = "/tmp/small-XXXXXX";
  mkdir("/tmp", 0777);
  if (count > 1) snprintf(name, sizeof name, "%s", arguments[1]);
  else if (!mkdtemp(name)) return perror("directory"), 1;
  if (chdir(name)) return perror(name), 1;
  umask(022);
  unsigned long long seed = count > 2 ? strtoull(arguments[2], NULL, 10) : 1;
  int shared = open("shared", O_RDWR | O_CREAT, 0644);
  if (shared < 0 || ftruncate(shared, (off_t)RECORDS * THREADS * RECORD)) return perror("shared"), 1;
  static struct worker workers[THREADS];
  pthread_t other;
  pthread_create(&other, NULL, synchronise, &shared);
  for (int i = 0; i < THREADS; i++) {
    struct worker *w = &workers[i];
    snprintf(name, sizeof name, "t%d", i);
    mkdir(name, 0755);
    *w = (struct worker){.number = i, .rounds = count > 3 ? atoi(arguments[3]) : 60, .shared = shared};
    w->state = (seed * THREADS + (unsigned)i + 1) * 0x9e3779b97f4a7c15 | 1;
    w->directory = open(name, O_RDONLY | O_DIRECTORY);
    pthread_create(&w->thread, NULL, work, w);
  }
  for (int i = 0; i < THREADS; i++) pthread_join(workers[i].thread, NULL);
  over = 1;
  pthread_join(other, NULL);
  int last = open("last", O_WRONLY | O_CREAT, 0644);
  for (int i = 0; i < 500; i++) dprintf(last, "left at the end %d\n", i);
  unsigned long sum = 5381;
  char buffer[4096];
  lseek(shared, 0, SEEK_SET);
  for (long n; (n = read(shared, buffer, sizeof buffer)) > 0;)
    for (long i = 0; i < n; i++) sum = sum * 33 + (unsigned char)buffer[i];
  printf("seed %llu sum %lx\n", seed, sum);
  fflush(stdout);
  _exit(0);
}
