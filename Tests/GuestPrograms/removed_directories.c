// Directories in one another that have been removed from below while the lowest was kept: by a descriptor, by the working directory, by a
// file that is open in none of them any more. All of them end when it is given up, one after another, however many they are.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEPTH = 1000 };

static void must(int result) {
  if (result < 0) {
    perror("directories");
    exit(1);
  }
}

static void down(void) {
  for (int i = 0; i < DEPTH; i++) {
    must(mkdir("d", 0755));
    must(chdir("d"));
  }
}

static void up(void) {
  for (int i = 0; i < DEPTH; i++) {
    must(chdir(".."));
    must(rmdir("d"));
  }
}

int main(void) {
  char folder[] = "/tmp/removed.XXXXXX";
  if (mkdtemp(folder) == NULL || chdir(folder) != 0) return 1;
  struct stat status;

  down();
  int lowest = open(".", O_RDONLY | O_DIRECTORY);
  up();
  must(fstat(lowest, &status));
  printf("links of what is kept: %d\n", (int)status.st_nlink);
  printf("in it: %d", openat(lowest, "f", O_CREAT | O_WRONLY, 0644));
  printf(" (%s)\n", strerror(errno));
  must(close(lowest));

  down();
  lowest = open(".", O_RDONLY | O_DIRECTORY);
  up();
  must(fchdir(lowest));
  must(close(lowest));
  char path[100];
  printf("where it was: %s", getcwd(path, sizeof path) == NULL ? "nowhere" : path);
  printf(" (%s)\n", strerror(errno));
  must(chdir(folder));

  down();
  int file = open("f", O_CREAT | O_RDWR, 0644);
  must(file);
  if (write(file, "kept", 4) != 4) return 1;
  must(unlink("f"));
  up();
  printf("kept: %d bytes\n", (int)pread(file, path, sizeof path, 0));
  must(close(file));

  // Half of them, then the other half: what is still there stays.
  down();
  lowest = open(".", O_RDONLY | O_DIRECTORY);
  for (int i = 0; i < DEPTH / 2; i++) {
    must(chdir(".."));
    must(rmdir("d"));
  }
  must(close(lowest));
  must(mkdir("d", 0755));
  must(rmdir("d"));
  for (int i = 0; i < DEPTH / 2; i++) {
    must(chdir(".."));
    must(rmdir("d"));
  }
  must(chdir("/"));
  must(rmdir(folder));
  printf("all removed\n");
  return 0;
}
