// Mounts in one another, hundreds deep: shown at another place with all that is below, moved, and taken away at once.
// (Natively this takes root and a mount namespace; the lines below are what Linux says then.)
// flavours: glibc-static
// guest-only
// expect: 500 mounts
// expect: bind: 0, 1000 mounts
// expect: move: 0, 1000 mounts
// expect: deep: 0
// expect: detach: 0, 500 mounts
// expect: detach the other: 0, 0 mounts
// expect: deep: itself
// expect: removed: 0
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEPTH = 500 };

static char base[] = "/tmp/deep-XXXXXX";

static int mounts(void) {
  FILE *file = fopen("/proc/self/mounts", "r");
  static char line[1 << 16];
  int count = 0;
  if (!file) return -1;
  while (fgets(line, sizeof line, file)) count += strstr(line, base) != NULL;
  fclose(file);
  return count;
}

static int said(int result) { return result < 0 ? -errno : result; }

int main(void) {
  setvbuf(stdout, NULL, _IONBF, 0);
  mkdir("/tmp", 0777);
  unshare(CLONE_NEWNS);  // Natively; the guest has one namespace.
  mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
  if (!mkdtemp(base) || chdir(base)) return perror("directory"), 1;
  mkdir("a", 0755), mkdir("b", 0755), mkdir("c", 0755);
  int made = mount("deep", "a", "tmpfs", 0, NULL) == 0;
  if (chdir("a")) return 1;
  while (made < DEPTH && !mkdir("d", 0755) && !mount("deep", "d", "tmpfs", 0, NULL) && !chdir("d")) made++;
  struct stat lowest, status;
  stat(".", &lowest);
  if (chdir(base)) return 1;
  printf("%d mounts\n", mounts());
  int result = said(mount("a", "b", NULL, MS_BIND | MS_REC, NULL));
  printf("bind: %d, %d mounts\n", result, mounts());
  result = said(mount("b", "c", NULL, MS_MOVE, NULL));
  printf("move: %d, %d mounts\n", result, mounts());
  if (chdir("c")) return 1;
  for (int i = 1; i < DEPTH; i++)
    if (chdir("d")) return perror("d"), 1;
  stat(".", &status);
  printf("deep: %d\n", status.st_dev == lowest.st_dev && status.st_ino == lowest.st_ino ? 0 : 1);
  char place[100];
  snprintf(place, sizeof place, "%s/c", base);
  result = said(umount2(place, MNT_DETACH));
  printf("detach: %d, %d mounts\n", result, mounts());
  snprintf(place, sizeof place, "%s/a", base);
  result = said(umount2(place, MNT_DETACH));
  printf("detach the other: %d, %d mounts\n", result, mounts());
  stat("..", &lowest);
  printf("deep: %s\n", status.st_dev == lowest.st_dev && status.st_ino == lowest.st_ino ? "itself" : "another");
  if (chdir(base)) return 1;
  result = rmdir("a") | rmdir("b") | rmdir("c");
  printf("removed: %d\n", said(chdir("/") | rmdir(base) | result));
  return 0;
}
