// flavours: glibc-static
// What a program leaves in a file when it ends without having closed, unmapped or synchronised anything: by returning, by a signal, or
// (synced) not at all, for whoever kills the machine then. Arguments: how, and a directory (else a RAM file system).
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int count, char **arguments) {
  char directory[] = "/tmp/left-XXXXXX";
  mkdir("/tmp", 0777);
  if (count < 3 && !mkdtemp(directory)) return perror("directory"), 1;
  if (chdir(count < 3 ? directory : arguments[2])) return perror("chdir"), 1;
  const char *how = count > 1 ? arguments[1] : "return";
  size_t size = 1 << 20;
  int f = open("left", O_RDWR | O_CREAT, 0644);
  if (f < 0 || ftruncate(f, (off_t)size)) return perror("left"), 1;
  unsigned *words = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
  if (words == MAP_FAILED) return perror("mmap"), 1;
  for (unsigned i = 0; i < size / sizeof *words; i++) words[i] = i * 2654435761u;
  int g = open("written", O_WRONLY | O_CREAT, 0644);
  for (int i = 0; i < 1000; i++) dprintf(g, "line %d\n", i);
  if (!strcmp(how, "abort")) abort();
  if (!strcmp(how, "synced")) {
    if (fsync(f) || fsync(g)) return perror("fsync"), 1;
    int d = open(".", O_RDONLY);
    if (fsync(d)) return perror("fsync of a directory"), 1;
    puts("synced");
    fflush(stdout);
    for (;;) pause();
  }
  puts("left");
  return 0;
}
