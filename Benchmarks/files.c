// Calls on cached files and on pipes: nanoseconds an operation, the median of some batches, as lines of name, tab, number.
// The directory is a RAM file system on both sides: /dev/shm.
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "measure.h"

static char buffer[65536];
static int file, directory, ends[2], counter;
static long at;

static void fail(const char *what) { perror(what), exit(1); }
static void preadOne(void) { if (pread(file, buffer, 4096, (at++ & 255) << 12) != 4096) fail("pread"); }
static void pwriteOne(void) { if (pwrite(file, buffer, 4096, (at++ & 255) << 12) != 4096) fail("pwrite"); }
static void fstatOne(void) { struct stat s; if (fstat(file, &s)) fail("fstat"); }
static void lseekOne(void) { if (lseek(file, at++ & 4095, SEEK_SET) < 0) fail("lseek"); }
static void getdentsAll(void) {
  lseek(directory, 0, SEEK_SET);
  while (syscall(SYS_getdents64, directory, buffer, sizeof buffer) > 0) {}
}
static void openClose(void) { int f = open("d/file", O_RDONLY); if (f < 0) fail("open"); close(f); }
static void statOne(void) { struct stat s; if (stat("d/file", &s)) fail("stat"); }
static void statNone(void) { struct stat s; if (!stat("d/none", &s)) fail("stat"); }
static void accessOne(void) { if (access("d/file", R_OK)) fail("access"); }
static void createUnlink(void) {
  int f = open("d/new", O_CREAT | O_EXCL | O_WRONLY, 0600);
  if (f < 0 || write(f, buffer, 100) != 100) fail("create");
  close(f);
  unlink("d/new");
}
static void renameOne(void) { if (rename("d/file2", "d/file3") || rename("d/file3", "d/file2")) fail("rename"); }
static void pipeOne(void) { if (write(ends[1], buffer, 100) != 100 || read(ends[0], buffer, 100) != 100) fail("pipe"); }
static void pipePage(void) { if (write(ends[1], buffer, 4096) != 4096 || read(ends[0], buffer, 4096) != 4096) fail("pipe"); }
static void eventOne(void) { uint64_t one = 1; if (write(counter, &one, 8) != 8 || read(counter, &one, 8) != 8) fail("eventfd"); }

static int ascending(const void *a, const void *b) { return (*(double *)a > *(double *)b) - (*(double *)a < *(double *)b); }

static void measure(const char *name, void (*operation)(void), int count) {
  enum { BATCHES = 15 };
  double all[BATCHES];
  for (int i = 0; i < count; i++) operation();
  for (int batch = 0; batch < BATCHES; batch++) {
    double start = now();
    for (int i = 0; i < count; i++) operation();
    all[batch] = (now() - start) / count;
  }
  qsort(all, BATCHES, sizeof *all, ascending);
  printf("%s\t%.1f\n", name, all[BATCHES / 2]);
}

int main(void) {
  char path[] = "/dev/shm/files-XXXXXX";
  pin(0);
  if (!mkdtemp(path) || chdir(path) || mkdir("d", 0755)) fail(path);
  file = open("d/file", O_RDWR | O_CREAT, 0644);
  close(open("d/file2", O_RDWR | O_CREAT, 0644));
  for (int i = 0; i < 256; i++) pwriteOne();
  if (mkdir("many", 0755)) fail("many");
  char name[64];
  for (int i = 0; i < 100; i++) snprintf(name, sizeof name, "many/name of file %d", i), close(open(name, O_CREAT, 0600));
  directory = open("many", O_RDONLY | O_DIRECTORY);
  if (pipe(ends)) fail("pipe");
  counter = eventfd(0, 0);
  measure("pread_4k", preadOne, 2000);
  measure("pwrite_4k", pwriteOne, 2000);
  measure("fstat", fstatOne, 2000);
  measure("lseek", lseekOne, 2000);
  measure("getdents_100", getdentsAll, 200);
  measure("open_close", openClose, 1000);
  measure("stat", statOne, 2000);
  measure("stat_none", statNone, 2000);
  measure("access", accessOne, 2000);
  measure("create_write_unlink", createUnlink, 300);
  measure("rename_twice", renameOne, 500);
  measure("pipe_100", pipeOne, 1000);
  measure("pipe_4k", pipePage, 1000);
  measure("eventfd", eventOne, 1000);
  for (int i = 0; i < 100; i++) snprintf(name, sizeof name, "many/name of file %d", i), unlink(name);
  unlink("d/file"), unlink("d/file2"), rmdir("d"), rmdir("many"), chdir("/"), rmdir(path);
  return 0;
}
