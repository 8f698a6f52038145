// More wanted than there is of memory; what is done is the first argument. By itself: malloc under RLIMIT_AS, as on Linux.
// args: limit
// flavours: glibc-static musl-static
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

// The file that the tests make: the 64-bit word at offset 8 * i is i * ODD.
#define ODD 0x9e3779b97f4a7c15ull

static const char *path;
static size_t size;

static int open_file(void) {
  int file = open(path, O_RDONLY);
  struct stat status;
  if (file < 0 || fstat(file, &status)) {
    perror(path);
    exit(1);
  }
  size = status.st_size;
  return file;
}

static long wrong_words(const uint64_t *words, size_t count, uint64_t first) {
  long wrong = 0;
  for (size_t i = 0; i < count; i++) wrong += words[i] != (first + i) * ODD;
  return wrong;
}

static void *read_all(void *rounds) {
  int file = open_file();
  uint64_t *buffer = malloc(1 << 16);
  long wrong = 0;
  for (long round = 0; round < (long)rounds; round++) {
    for (size_t at = 0; at < size;) {
      ssize_t count = pread(file, buffer, 1 << 16, at);
      if (count <= 0 || count % 8) {
        perror("pread");
        exit(1);
      }
      wrong += wrong_words(buffer, count / 8, at / 8);
      at += count;
    }
  }
  free(buffer);
  close(file);
  return (void *)wrong;
}

// A private mapping of the whole file, walked through from its start, and with other steps in between.
static void *map_all(void *rounds) {
  int file = open_file();
  char *memory = mmap(NULL, size, PROT_READ, MAP_PRIVATE, file, 0);
  if (memory == MAP_FAILED) {
    perror("mmap");
    exit(1);
  }
  long wrong = 0;
  for (long round = 0; round < (long)rounds; round++) {
    for (size_t at = 0; at < size; at += 4096) wrong += wrong_words((uint64_t *)(memory + at), 512, at / 8);
    for (size_t step = 0; step < 500; step++) {
      size_t at = (step * 7919 + round * 31) % (size / 4096) * 4096;
      wrong += wrong_words((uint64_t *)(memory + at), 512, at / 8);
    }
  }
  munmap(memory, size);
  close(file);
  return (void *)wrong;
}

static void both(void *(*first)(void *), void *(*second)(void *), long rounds) {
  pthread_t other;
  if (pthread_create(&other, NULL, first, (void *)rounds)) exit(2);
  void *there, *here = second((void *)rounds);
  pthread_join(other, &there);
  printf("wrong words %ld\n", (long)here + (long)there);
}

static void *sleep_on(void *unused) {
  for (;;) pause();
  return unused;
}

static void *touch(void *count) {
  for (long i = 0; i < (long)count; i++) {
    char *memory = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
      perror("mmap");
      exit(3);
    }
    memset(memory, 1, 1 << 20);
  }
  return NULL;
}

int main(int count, char **words) {
  setvbuf(stdout, NULL, _IONBF, 0);
  const char *what = words[1];
  path = count > 2 ? words[2] : "";
  if (!strcmp(what, "limit")) {
    struct rlimit limit = {64 << 20, 64 << 20};
    setrlimit(RLIMIT_AS, &limit);
    int blocks = 0;
    while (malloc(1 << 20)) blocks++;
    printf("blocks %d, ENOMEM %d\n", blocks > 40 && blocks < 64, errno == ENOMEM);
  } else if (!strcmp(what, "read")) {
    printf("wrong words %ld\n", (long)read_all((void *)2));
  } else if (!strcmp(what, "map")) {
    printf("wrong words %ld\n", (long)map_all((void *)2));
  } else if (!strcmp(what, "both")) {
    both(read_all, map_all, 2);
  } else if (!strcmp(what, "maps")) {
    both(map_all, map_all, 2);
  } else if (!strcmp(what, "promise")) {
    // All memory there is and as much again, at once: refused. In parts it is promised, and nothing happens until it is touched.
    size_t all = sysconf(_SC_PHYS_PAGES) * 4096ul;
    void *twice = malloc(2 * all);
    printf("at once %d\n", twice == NULL && errno == ENOMEM);
    int parts = 0;
    while (parts < 16 && mmap(NULL, all / 2, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED) parts++;
    printf("in parts %d\n", parts);
  } else if (!strcmp(what, "touch")) {
    touch((void *)1000);
  } else if (!strcmp(what, "touches")) {
    both(touch, touch, 1000);
  } else if (!strcmp(what, "kernel")) {
    // The page that is missing is touched by the kernel, for a read.
    int zero = open("/dev/zero", O_RDONLY);
    for (;;) {
      char *memory = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (memory == MAP_FAILED) exit(3);
      if (read(zero, memory, 1 << 20) < 0) {
        perror("read");
        exit(4);
      }
    }
  } else if (!strcmp(what, "threads")) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 65536);
    int threads = 0, failure = 0;
    pthread_t thread;
    while (threads < 20000 && !(failure = pthread_create(&thread, &attributes, sleep_on, NULL))) threads++;
    printf("threads stop %d, EAGAIN %d\n", threads > 50 && threads < 20000, failure == EAGAIN);
  }
  return 0;
}
