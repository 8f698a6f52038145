// Calls that need more memory than there is fail with ENOMEM, and a full file system can be emptied.
// guest-only
// memory: 16M
// flavours: glibc-static musl-static
// expect: far descriptor 1048575
// expect: poll refused 1
// expect: select 0
// expect: pipes stop 1
// expect: file system full 1
// expect: directories stop 1
// expect: emptied 1
// expect: room again 1
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static char bytes[65536];

int main(void) {
  setvbuf(stdout, NULL, _IONBF, 0);
  struct rlimit limit = {1 << 20, 1 << 20};
  setrlimit(RLIMIT_NOFILE, &limit);
  // A table for a million descriptors takes half of the memory, or more than there is in one piece.
  int event = eventfd(0, 0);
  int far = dup2(event, (1 << 20) - 1);
  printf("far descriptor %d\n", far < 0 && errno == ENOMEM ? (1 << 20) - 1 : far);
  int count = syscall(SYS_poll, (void *)4096, 1 << 20, 0);
  printf("poll refused %d\n", count < 0 && (errno == ENOMEM || errno == EFAULT));
  struct timeval zero = {0, 0};
  printf("select %d\n", (int)syscall(SYS_select, 1 << 20, NULL, NULL, NULL, &zero));
  close(far);
  int ends[2], pipes = 0, first = -1;
  while (pipes < 2000 && pipe(ends) == 0) {
    if (pipes++ == 0) first = ends[0];
  }
  printf("pipes stop %d\n", pipes > 10 && (errno == ENOMEM || errno == EMFILE));
  for (int i = 0; i < 2 * pipes; i++) close(first + i);
  int file = open("/tmp/file", O_CREAT | O_RDWR, 0600);
  memset(bytes, 1, sizeof bytes);
  ssize_t written;
  long total = 0;
  while ((written = write(file, bytes, sizeof bytes)) > 0) total += written;
  printf("file system full %d\n", total > 1000000 && errno == ENOSPC);
  char name[32];
  int made = 0;
  for (; made < 100000; made++) {
    snprintf(name, sizeof name, "/tmp/%d", made);
    if (mkdir(name, 0700)) break;
  }
  printf("directories stop %d\n", made > 10 && (errno == ENOMEM || errno == ENOSPC));
  int emptied = 1;
  for (int i = 0; i < made; i++) {
    snprintf(name, sizeof name, "/tmp/%d", i);
    if (rmdir(name)) emptied = 0;
  }
  if (ftruncate(file, 0) || unlink("/tmp/file")) emptied = 0;
  printf("emptied %d\n", emptied);
  lseek(file, 0, SEEK_SET);
  printf("room again %d\n", write(file, bytes, sizeof bytes) == sizeof bytes);
  return 0;
}
