// What a file took that has just been removed, or replaced, is there for whoever writes next, though other CPUs never rest: all of the
// memory, given up with a file and at once wanted again, written and mapped.
// guest-only
// memory: 64M
// flavours: glibc-static musl-static
// expect: removed, then written: 20 of 20
// expect: replaced, then written: 20 of 20
// expect: removed, then mapped: 20 of 20
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

enum { ROUNDS = 20, CHUNK = 65536, WANTED = 4 << 20 };
static char bytes[CHUNK];
static volatile int ends;

static void *spin(void *argument) {
  while (!ends) __asm__ volatile("pause");
  return argument;
}

static int make(const char *name) {
  int file = open(name, O_CREAT | O_EXCL | O_RDWR, 0600);
  if (file < 0) perror(name), exit(1);
  return file;
}

/// Writes so much, or until there is no room.
static long fill(int file, long size) {
  long written = 0;
  while (written < size) {
    ssize_t count = write(file, bytes, CHUNK);
    if (count <= 0) break;
    written += count;
  }
  return written;
}

/// Takes all of the memory but a little.
static void take(const char *name) {
  int file = make(name);
  long size = fill(file, 1L << 40);
  if (size < 16 << 20 || ftruncate(file, size - CHUNK)) printf("only %ld\n", size);
  close(file);
}

static int map(int file) {
  if (ftruncate(file, WANTED)) return 0;
  char *memory = mmap(NULL, WANTED, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (memory == MAP_FAILED) return 0;
  for (long i = 0; i < WANTED; i += 4096) memory[i] = 1;
  munmap(memory, WANTED);
  return 1;
}

int main(void) {
  setvbuf(stdout, NULL, _IONBF, 0);
  mkdir("/tmp", 0777);
  memset(bytes, 1, sizeof bytes);
  pthread_t spinner;
  pthread_create(&spinner, NULL, spin, NULL);
  static const char *const subjects[] = {"removed, then written", "replaced, then written", "removed, then mapped"};
  for (int subject = 0; subject < 3; subject++) {
    int good = 0;
    for (int i = 0; i < ROUNDS; i++) {
      int next = make("/tmp/next");
      take("/tmp/all");
      if (subject == 1 ? rename("/tmp/next", "/tmp/all") : unlink("/tmp/all")) perror("unlink");
      good += subject == 2 ? map(next) : fill(next, WANTED) >= WANTED;
      close(next);
      unlink(subject == 1 ? "/tmp/all" : "/tmp/next");
    }
    printf("%s: %d of %d\n", subjects[subject], good, ROUNDS);
  }
  ends = 1;
  pthread_join(spinner, NULL);
  return 0;
}
