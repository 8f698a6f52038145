// A directory of the host: nanoseconds of each measurement as lines of name, tab, number. Arguments: the directory, in which "big" is a
// large file and "tree" many small ones; MiB to write.
#define _GNU_SOURCE
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "measure.h"

static char buffer[1 << 20];
static long files;
static void fail(const char *what) { perror(what), exit(1); }

static void readAll(const char *name) {
  double start = now();
  int f = open("big", O_RDONLY);
  while (read(f, buffer, sizeof buffer) > 0) {}
  close(f);
  printf("%s\t%.0f\n", name, now() - start);
}

static int visit(const char *path, const struct stat *s, int type, struct FTW *walk) { return files++, 0; }
static void walk(const char *name) {
  double start = now();
  if (nftw("tree", visit, 20, FTW_PHYS)) fail("tree");
  printf("%s\t%.0f\n", name, now() - start);
}

static void writeAll(const char *name, size_t piece, long total, int synchronises) {
  double start = now();
  int f = open("new", O_WRONLY | O_CREAT | O_TRUNC, 0644);
  for (long done = 0; done < total; done += (long)piece)
    if (write(f, buffer, piece) != (ssize_t)piece) fail("write");
  if (synchronises && fsync(f)) fail("fsync");
  close(f);
  printf("%s\t%.0f\n", name, now() - start);
  unlink("new");
}

// What unpacking an archive does.
static void makeMany(void) {
  double start = now();
  char name[64];
  struct timespec times[2] = {{1000000000, 0}, {1000000000, 0}};
  mkdir("made", 0755);
  for (int i = 0; i < 500; i++) {
    snprintf(name, sizeof name, "made/file%d", i);
    int f = open(name, O_WRONLY | O_CREAT | O_EXCL, 0644);
    for (int k = 0; k < 8; k++) if (write(f, buffer, 700) != 700) fail(name);
    if (futimens(f, times)) fail("times");
    close(f);
  }
  printf("make_500_files\t%.0f\n", now() - start);
  for (int i = 0; i < 500; i++) snprintf(name, sizeof name, "made/file%d", i), unlink(name);
  rmdir("made");
}

int main(int count, char **arguments) {
  pin(0);
  if (count < 3 || chdir(arguments[1])) fail("directory");
  long total = atol(arguments[2]) << 20;
  memset(buffer, 'b', sizeof buffer);
  // Memory that the guest is given for the first time is not what is measured.
  char *memory = mmap(NULL, (size_t)total + (64 << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memset(memory, 1, (size_t)total + (64 << 20));
  munmap(memory, (size_t)total + (64 << 20));
  readAll("read_cold");
  readAll("read_warm");
  walk("walk_cold");
  walk("walk_warm");
  writeAll("write_1m_fsync", sizeof buffer, total, 1);
  writeAll("write_4k_fsync", 4096, total / 8, 1);
  writeAll("write_100", 100, total / 256, 0);
  makeMany();
  return 0;
}
