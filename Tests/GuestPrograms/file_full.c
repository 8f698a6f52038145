// flavours: glibc-static
// guest-only
// A file system that is full: small writes are told by later ones, by fsync and by close, and all is well once there is room. Argument: a
// directory with little room (else nothing is done).
// expect: no directory
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void show(const char *what, long result) { printf("%s: %s\n", what, result < 0 ? strerror(errno) : "done"); }

int main(int count, char **arguments) {
  if (count < 2) return puts("no directory"), 0;
  if (chdir(arguments[1])) return perror(arguments[1]), 1;
  char text[1000];
  memset(text, 'x', sizeof text);
  int f = open("large", O_RDWR | O_CREAT, 0644);
  long n = 0, result = 0;
  while (n < 64 << 20 && (result = write(f, text, sizeof text)) > 0) n += result;
  show("write", result);
  show("next write", write(f, text, sizeof text));
  show("fsync", fsync(f));
  printf("end %d\n", lseek(f, 0, SEEK_END) >= n);
  show("close", close(f));
  f = open("small", O_RDWR | O_CREAT, 0644);
  result = write(f, text, 500);
  printf("close or write: %s\n", close(f) < 0 || result < 0 ? strerror(errno) : "done");
  show("truncate", truncate("large", 1000));
  f = open("small", O_RDWR);
  show("write", pwrite(f, text, 500, 0));
  show("fsync", fsync(f));
  show("close", close(f));
  return 0;
}
