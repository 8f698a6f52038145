// The directory that each case of file_rules.c begins with, and what is said of it afterwards: everything in it, in an order of its own,
// as a digest, or (`isVerbose`) in full.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

static int isVerbose;

static void put(const char *name, const char *text, mode_t mode) {
  int f = open(name, O_WRONLY | O_CREAT | O_EXCL, 0600);
  if (f < 0 || write(f, text, strlen(text)) != (ssize_t)strlen(text) || fchmod(f, mode)) perror(name), exit(1);
  close(f);
}

static void bindSocket(const char *name) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strcpy(address.sun_path, name);
  int s = socket(AF_UNIX, SOCK_STREAM, 0);
  if (bind(s, (void *)&address, sizeof address)) perror("bind"), exit(1);
  close(s);
}

// What is still as it was is used again.
static unsigned long fresh;
static int isThere;

static void prepare(void) {
  if (isThere) {
    if (chdir("case")) perror("case"), exit(1);
    return;
  }
  isThere = 1;
  if (mkdir("case", 0755) || chdir("case")) perror("case"), exit(1);
  put("file", "content", 0644), put("other", "something else", 0640);
  if (link("file", "hard") || mkdir("dir", 0755) || mkdir("full", 0700) || mkdir("full/sub", 0755)) perror("case"), exit(1);
  put("full/inner", "inner", 0600);
  if (mkfifo("fifo", 0640) || symlink("file", "tofile") || symlink("dir", "todir") || symlink("nowhere", "dangling")) perror("case"), exit(1);
  if (symlink("loop2", "loop") || symlink("loop", "loop2")) perror("case"), exit(1);
}

static int byName(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }
static unsigned long digest;
static ino_t seen[64];
static int seenCount;

static void note(const char *text) {
  for (; *text; text++) digest = (digest ^ (unsigned char)*text) * 0x100000001b3;
}

static void look(const char *name) {
  char *names[64], text[PATH_MAX + 300], path[PATH_MAX];
  int count = 0;
  DIR *d = opendir(name);
  if (!d) return;
  for (struct dirent *e; count < 64 && (e = readdir(d));)
    if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) names[count++] = strdup(e->d_name);
  closedir(d);
  qsort(names, (size_t)count, sizeof *names, byName);
  for (int i = 0; i < count; i++) {
    snprintf(path, sizeof path, "%s/%s", name, names[i]);
    free(names[i]);
    struct stat s;
    if (lstat(path, &s)) perror(path), exit(1);
    int group = 0;
    while (group < seenCount && seen[group] != s.st_ino) group++;
    if (group == seenCount) seen[seenCount++] = s.st_ino;
    char rest[200] = "";
    if (S_ISLNK(s.st_mode)) {
      ssize_t n = readlink(path, rest, sizeof rest - 1);
      rest[n < 0 ? 0 : n] = 0;
    } else if (S_ISREG(s.st_mode)) {
      int f = open(path, O_RDONLY);
      ssize_t n = f < 0 ? 0 : read(f, rest, sizeof rest - 1);
      rest[n < 0 ? 0 : n] = 0;
      close(f);
    }
    snprintf(text, sizeof text, "  %s %o %ld #%d %ld %.180s\n", path, s.st_mode, (long)s.st_nlink, group,
      S_ISDIR(s.st_mode) ? 0L : (long)s.st_size, rest);
    note(text);
    if (isVerbose) fputs(text, stdout);
    if (S_ISDIR(s.st_mode)) look(path);
  }
}

static void removeTree(const char *name) {
  DIR *d = opendir(name);
  for (struct dirent *e; d && (e = readdir(d));) {
    if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", name, e->d_name);
    if (unlink(path)) chmod(path, 0700), removeTree(path);
  }
  if (d) closedir(d);
  if (rmdir(name)) perror(name), exit(1);
}

static void examine(void) {
  struct stat s;
  char text[32];
  stat(".", &s);
  snprintf(text, sizeof text, "%o\n", s.st_mode);
  digest = 0xcbf29ce484222325, seenCount = 0;
  note(text);
  if (isVerbose) fputs(text, stdout);
  look(".");
}

static int home;
static void finish(const char *what, const char *one, const char *two, long result) {
  int error = errno;
  if (strlen(one) > 60) one = strlen(one) > 300 ? strlen(one) > 4095 ? "(4096)" : "(4095)" : strlen(one) > 255 ? "(256)" : "(255)";
  printf("%s %s %s: ", what, one, two);
  if (result < 0) printf("%s", strerrorname_np(error));
  else printf("%ld", result);
  if (isVerbose) puts("");
  if (fchdir(home) || chdir("case")) perror("back"), exit(1);
  examine();
  printf(" %lx\n", digest);
  if (fchdir(home)) perror("back"), exit(1);
  if (digest == fresh) return;
  chmod("case", 0755);
  removeTree("case");
  isThere = 0;
}
