// flavours: glibc-static
// Stores all over a file through a mapping for so many milliseconds, a few at a time, so that some of its pages are being written back all the
// while; writes what the file is to have to another one, and ends without a word to the kernel. Arguments: a directory (else a RAM file
// system), milliseconds.
// expect: stored
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { PAGES = 2048, PAGE = 4096 };

static long now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int main(int count, char **arguments) {
  char directory[] = "/tmp/stores-XXXXXX";
  mkdir("/tmp", 0777);
  if (count < 2 && !mkdtemp(directory)) return perror("directory"), 1;
  if (chdir(count < 2 ? directory : arguments[1])) return perror("chdir"), 1;
  int f = open("stores", O_RDWR | O_CREAT, 0644);
  if (f < 0 || ftruncate(f, (off_t)PAGES * PAGE)) return perror("stores"), 1;
  volatile unsigned char *bytes = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
  unsigned char *model = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (bytes == MAP_FAILED || model == MAP_FAILED) return perror("mmap"), 1;
  unsigned random = 1;
  long start = now(), span = count > 2 ? atol(arguments[2]) : 20;
  for (unsigned long n = 1; now() - start < span; n++) {
    random = random * 1103515245 + 12345;
    // Every second page, so that each is a run of its own.
    unsigned long place = (random >> 12) % (PAGES / 2) * 2 * PAGE;
    bytes[place]++, model[place]++;
    if (n % 64 == 0) usleep(1000);
  }
  int g = open("model", O_WRONLY | O_CREAT, 0644);
  if (g < 0 || write(g, model, PAGES * PAGE) != PAGES * PAGE) return perror("model"), 1;
  puts("stored");
  fflush(stdout);
  syscall(SYS_exit_group, 0);
}
