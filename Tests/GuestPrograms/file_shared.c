// flavours: glibc-static
// guest-only
// args: 0
// Reads a file, appends to it, waits for so many seconds and reads it again: somebody else may write it meanwhile. Arguments: seconds, a
// file (else one in a RAM file system).
// expect: old
// expect: then
// expect: old
// expect: mine
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void show(int f) {
  char text[4096];
  long n = pread(f, text, sizeof text, 0);
  fwrite(text, 1, n > 0 ? (size_t)n : 0, stdout);
  fflush(stdout);
}

int main(int count, char **arguments) {
  mkdir("/tmp", 0777);
  const char *name = count > 2 ? arguments[2] : "/tmp/shared";
  int f = open(name, O_RDWR | O_APPEND | O_CREAT, 0644);
  if (f < 0) return perror(name), 1;
  if (count < 3 && write(f, "old\n", 4) != 4) return 1;
  show(f);
  if (write(f, "mine\n", 5) != 5) return perror("write"), 1;
  puts("then");
  fflush(stdout);
  sleep(count > 1 ? (unsigned)atoi(arguments[1]) : 0);
  show(f);
  return 0;
}
