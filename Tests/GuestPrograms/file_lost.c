// flavours: glibc-static
// guest-only
// Stores more through a mapping than its file's file system has room for, and ends as if all were well. Argument: a directory with less room
// than 4 MiB (else nothing is done).
// expect: no directory
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int count, char **arguments) {
  if (count < 2) return puts("no directory"), 0;
  if (chdir(arguments[1])) return perror(arguments[1]), 1;
  size_t size = 4 << 20;
  int f = open("large", O_RDWR | O_CREAT, 0644);
  if (f < 0 || ftruncate(f, (off_t)size)) return perror("large"), 1;
  char *bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
  if (bytes == MAP_FAILED) return perror("mmap"), 1;
  memset(bytes, 'x', size);
  puts("stored");
  return 0;
}
