// The file calls on a RAM file system: create, write, seek, holes, truncate, link, rename, directories, and their errors.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static void show(const char *what, long result) {
  if (result < 0) printf("%s: %s\n", what, strerror(errno));
  else printf("%s: %ld\n", what, result);
}
static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

int main(void) {
  char directory[] = "/tmp/files-XXXXXX";
  mkdir("/tmp", 0777);
  if (!mkdtemp(directory) || chdir(directory)) return perror("directory"), 1;
  umask(022);
  volatile long bad = 1;
  int f = open("a", O_RDWR | O_CREAT | O_EXCL, 0666);
  show("create", f >= 3);
  show("again", open("a", O_CREAT | O_EXCL, 0666));
  show("write", write(f, "hello world", 11));
  show("seek", lseek(f, 6, SEEK_SET));
  char text[32] = "";
  show("read", read(f, text, sizeof text));
  puts(text);
  show("hole", pwrite(f, "x", 1, 100000));
  struct stat s;
  show("stat", fstat(f, &s));
  printf("size %ld mode %o links %ld\n", (long)s.st_size, s.st_mode, (long)s.st_nlink);
  show("pread in the hole", pread(f, text, 4, 50000));
  printf("zero %d\n", text[0] | text[1] | text[2] | text[3]);
  show("truncate", ftruncate(f, 5));
  struct iovec parts[2] = {{text, 3}, {text + 8, 8}};
  memset(text, 0, sizeof text);
  lseek(f, 0, SEEK_SET);
  show("readv", readv(f, parts, 2));
  printf("%s|%s\n", text, text + 8);
  show("bad pointer", write(f, (void *)bad, 5));
  show("bad descriptor", close(77));
  show("dup", fcntl(f, F_DUPFD_CLOEXEC, 20));
  show("flags", fcntl(20, F_GETFD));
  show("close", close(20));
  show("append", openat(AT_FDCWD, "a", O_WRONLY | O_APPEND) > 0);
  show("mkdir", mkdir("d", 0777));
  show("mkdir again", mkdir("d", 0777));
  show("link", link("a", "d/b"));
  show("symlink", symlink("../a", "d/s"));
  memset(text, 0, sizeof text);
  show("readlink", readlink("d/s", text, sizeof text));
  puts(text);
  show("lstat", lstat("d/s", &s));
  printf("link %d\n", S_ISLNK(s.st_mode));
  show("stat through", stat("d/s", &s));
  printf("links %ld\n", (long)s.st_nlink);
  show("no such", open("nope/x", O_RDONLY));
  show("not a directory", open("a/x", O_RDONLY));
  show("nofollow", open("d/s", O_RDONLY | O_NOFOLLOW));
  show("a loop", symlink("l", "l"));
  show("through the loop", open("l", O_RDONLY));
  show("rename", rename("d/b", "c"));
  show("rmdir full", rmdir("d"));
  show("unlink", unlink("d/s"));
  show("rmdir", rmdir("d"));
  show("directory as file", open(".", O_WRONLY));
  show("access", access("a", R_OK));
  show("long name", open("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", O_RDONLY));
  DIR *open_directory = opendir(".");
  char *names[16];
  int count = 0;
  for (struct dirent *e; count < 16 && (e = readdir(open_directory));) names[count++] = strdup(e->d_name);
  qsort(names, (size_t)count, sizeof *names, by_name);
  for (int i = 0; i < count; i++) printf("entry %s\n", names[i]);
  char *cwd = getcwd(NULL, 0);
  printf("cwd %d\n", strcmp(cwd, directory) == 0);
  show("unlink open file", unlink("a"));
  show("still there", pread(f, text, 5, 0));
  unlink("c");
  unlink("l");
  show("remove", chdir("/") + rmdir(directory));
  return 0;
}
