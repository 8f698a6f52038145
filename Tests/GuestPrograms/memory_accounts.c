// What /proc says about memory adds up: of the process, and of the machine while two threads map, touch, unmap, and make and remove files.
// guest-only
// flavours: glibc-static musl-static
// expect: parts make up VmRSS 1
// expect: statm says the same 1
// expect: anonymous memory is counted 1
// expect: shared memory is counted 1
// expect: code is there 1
// expect: the machine adds up 1
// expect: and was read often 1
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static char text[8192];

static const char *contents(const char *path) {
  int file = open(path, O_RDONLY);
  ssize_t count = read(file, text, sizeof text - 1);
  close(file);
  text[count > 0 ? count : 0] = 0;
  return text;
}

static long field(const char *all, const char *name) {
  const char *found = strstr(all, name);
  return found ? strtol(found + strlen(name), NULL, 10) : -1;
}

static atomic_int stop;

static void *churn(void *argument) {
  char name[] = "/tmp/churn0";
  name[10] += (long)argument;
  for (unsigned i = 0; !atomic_load(&stop); i++) {
    size_t size = (1 + i % 40) << 16;
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (size_t at = 0; at < size; at += 4096) memory[at] = 1;
    int file = open(name, O_CREAT | O_RDWR, 0600);
    if (write(file, memory, 20000) != 20000) exit(1);
    close(file);
    unlink(name);
    munmap(memory, size);
  }
  return NULL;
}

int main(void) {
  const char *status = contents("/proc/self/status");
  long resident = field(status, "VmRSS:"), own = field(status, "RssAnon:"), shared = field(status, "RssShmem:");
  printf("parts make up VmRSS %d\n", resident > 0 && own > 0 && resident == own + field(status, "RssFile:") + shared);
  const char *statm = contents("/proc/self/statm");
  long size = strtol(statm, (char **)&statm, 10), pages = strtol(statm, NULL, 10);
  printf("statm says the same %d\n", size > pages && labs(pages * 4 - resident) <= 64);
  enum { SIZE = 3 << 20 };
  char *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memset(memory, 1, SIZE);
  status = contents("/proc/self/status");
  printf("anonymous memory is counted %d\n", labs(field(status, "RssAnon:") - own - SIZE / 1024) <= 128);
  char *both = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  memset(both, 1, SIZE);
  status = contents("/proc/self/status");
  printf("shared memory is counted %d\n", labs(field(status, "RssShmem:") - shared - SIZE / 1024) <= 128);
  printf("code is there %d\n", field(status, "VmExe:") > 0 && field(status, "VmStk:") > 0 && field(status, "VmData:") > 0);
  pthread_t threads[2];
  for (long i = 0; i < 2; i++) pthread_create(threads + i, NULL, churn, (void *)i);
  struct timespec now, end;
  clock_gettime(CLOCK_MONOTONIC, &end);
  end.tv_sec += 1;
  int rounds = 0, wrong = 0;
  do {
    const char *all = contents("/proc/meminfo");
    long total = field(all, "MemTotal:"), sum = field(all, "MemFree:") + field(all, "AnonPages:");
    sum += field(all, "Cached:") + field(all, "Slab:") + field(all, "KernelStack:") + field(all, "PageTables:");
    sum += field(all, "VmallocUsed:");
    if (sum != total && !wrong++) printf("%ld of %ld\n%s", sum, total, all);
    rounds++;
    clock_gettime(CLOCK_MONOTONIC, &now);
  } while (now.tv_sec < end.tv_sec || (now.tv_sec == end.tv_sec && now.tv_nsec < end.tv_nsec));
  atomic_store(&stop, 1);
  for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  printf("the machine adds up %d\nand was read often %d\n", wrong == 0, rounds > 10);
  return 0;
}
