// Paths that are walked while others rename, exchange, replace, link, unlink, make and remove what lies on them: a walk comes to
// what was there at some moment, never to nothing where there always was something, and never to somebody else's file.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ROUNDS = 1000, WALKERS = 2 };

static atomic_int changing;
static atomic_int wrong[8];
static const char *const subjects[8] = {"exchanged", "replaced", "linked", "made and removed", "moved", "from a descriptor",
                                        "through a link", "access"};
static ino_t halves[2], file, target[2];
static int deep;

static void fail(int subject) { atomic_fetch_add(&wrong[subject], 1); }

static ino_t make(const char *path, int size) {
  int fd = open(path, O_CREAT | O_WRONLY, 0644);
  struct stat status;
  if (fd < 0 || write(fd, "abcdefgh", size) != size || fstat(fd, &status) != 0) exit(2);
  close(fd);
  return status.st_ino;
}

static void must(int result) {
  if (result != 0) exit(3);
}

static int exchange(const char *one, const char *two) {
  return syscall(SYS_renameat2, AT_FDCWD, one, AT_FDCWD, two, 2 /* RENAME_EXCHANGE */);
}

static void *change(void *argument) {
  switch ((long)argument) {
  case 0:
    for (int i = 0; i < ROUNDS * 2; i++) must(exchange("s/a", "s/b"));
    break;
  case 1:
    for (int i = 0; i < ROUNDS; i++) {
      make("r/next", 3);
      must(rename("r/next", "r/name"));
    }
    break;
  case 2:
    for (int i = 0; i < ROUNDS; i++) {
      must(link("l/base", "l/extra"));
      must(unlink("l/extra"));
    }
    break;
  case 3:
    for (int i = 0; i < ROUNDS; i++) {
      must(mkdir("d/x", 0755));
      must(mkdir("d/x/y", 0755));
      must(rmdir("d/x/y"));
      must(rmdir("d/x"));
    }
    break;
  case 4:
    for (int i = 0; i < ROUNDS; i++) {
      must(rename("m/one", "m/two"));
      must(rename("m/two", "m/one"));
    }
    break;
  case 5:
    for (int i = 0; i < ROUNDS; i++) {
      must(symlink(i & 1 ? "../t/a" : "../t/b", "k/next"));
      must(rename("k/next", "k/link"));
    }
    break;
  }
  atomic_fetch_sub(&changing, 1);
  return NULL;
}

static void *walk(void *argument) {
  struct stat status;
  char text[8];
  while (atomic_load(&changing) > 0) {
    if (stat("s/a/f", &status) != 0 || (status.st_ino != halves[0] && status.st_ino != halves[1])) fail(0);
    if (stat("s/../s/b/./f", &status) != 0 || status.st_size != (status.st_ino == halves[0] ? 1 : 2)) fail(0);
    int fd = open("r/name", O_RDONLY);
    if (fd < 0 || read(fd, text, 8) != 3 || fstat(fd, &status) != 0 || status.st_nlink > 1) fail(1);
    close(fd);
    if (stat("l/base", &status) != 0 || status.st_nlink < 1 || status.st_nlink > 2) fail(2);
    ino_t base = status.st_ino;
    if (stat("l/extra", &status) == 0 ? status.st_ino != base : errno != ENOENT) fail(2);
    if (stat("d/x/y", &status) == 0 ? !S_ISDIR(status.st_mode) : errno != ENOENT) fail(3);
    if (stat("d/x/..", &status) == 0 ? !S_ISDIR(status.st_mode) : errno != ENOENT) fail(3);
    if (stat("d/none", &status) == 0 || errno != ENOENT) fail(3);
    if (stat("m/one/deep/file", &status) == 0 ? status.st_ino != file : errno != ENOENT) fail(4);
    if (stat("m/two/deep/../deep/file", &status) == 0 ? status.st_ino != file : errno != ENOENT) fail(4);
    if (fstatat(deep, "file", &status, 0) != 0 || status.st_ino != file) fail(5);
    if (fstatat(deep, "../deep/file", &status, 0) != 0 || status.st_ino != file) fail(5);
    if (stat("k/link/f", &status) != 0 || (status.st_ino != target[0] && status.st_ino != target[1])) fail(6);
    if (lstat("k/link", &status) != 0 || !S_ISLNK(status.st_mode)) fail(6);
    if (access("s/a", R_OK | X_OK) != 0 || access("r/name", R_OK) != 0) fail(7);
    if (access("l/base/none", F_OK) == 0 || errno != ENOTDIR) fail(7);
  }
  return argument;
}

static void show(const char *path) {
  struct stat status;
  if (lstat(path, &status) != 0)
    printf("%s: %s\n", path, strerror(errno));
  else  // Not every file system counts the directories in a directory.
    printf("%s: %o, %d links\n", path, status.st_mode & S_IFMT, S_ISDIR(status.st_mode) ? 0 : (int)status.st_nlink);
}

int main(void) {
  char folder[] = "/tmp/walks.XXXXXX";
  if (mkdtemp(folder) == NULL || chdir(folder) != 0) return 1;
  static const char *const folders[] = {"s",   "s/a", "s/b",        "r", "l",   "d",  "m", "m/one",
                                        "m/one/deep", "k",   "t",          "t/a", "t/b"};
  for (unsigned i = 0; i < sizeof folders / sizeof folders[0]; i++) must(mkdir(folders[i], 0755));
  halves[0] = make("s/a/f", 1);
  halves[1] = make("s/b/f", 2);
  make("r/name", 3);
  make("l/base", 1);
  file = make("m/one/deep/file", 4);
  target[0] = make("t/a/f", 1);
  target[1] = make("t/b/f", 1);
  must(symlink("../t/a", "k/link"));
  deep = open("m/one/deep", O_RDONLY | O_DIRECTORY);

  pthread_t threads[6 + WALKERS];
  changing = 6;
  for (long i = 0; i < 6 + WALKERS; i++)
    if (pthread_create(&threads[i], NULL, i < 6 ? change : walk, (void *)i) != 0) return 1;
  for (int i = 0; i < 6 + WALKERS; i++) pthread_join(threads[i], NULL);

  for (int i = 0; i < 8; i++) printf("%s: %d wrong\n", subjects[i], wrong[i]);
  static const char *const shown[] = {"s", "s/a/f", "r/name", "r/next", "l/base", "l/extra", "d", "d/x", "m", "m/one/deep", "k/link"};
  for (unsigned i = 0; i < sizeof shown / sizeof shown[0]; i++) show(shown[i]);

  static const char *const files[] = {"s/a/f", "s/b/f", "r/name", "l/base", "m/one/deep/file", "k/link", "t/a/f", "t/b/f"};
  for (unsigned i = 0; i < sizeof files / sizeof files[0]; i++) must(unlink(files[i]));
  for (int i = sizeof folders / sizeof folders[0] - 1; i >= 0; i--) must(rmdir(folders[i]));
  must(chdir("/"));
  must(rmdir(folder));
  return 0;
}
