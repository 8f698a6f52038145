// What is mounted where: tmpfs with its options, bind mounts, read-only, moved, detached; pivot_root and chroot; what /proc says of it.
// (Natively this takes root and a mount namespace; the lines below are what Linux says then.)
// flavours: glibc-static
// guest-only
// expect: tmpfs: 0
// expect: mode 40750 other device 1
// expect: tmpfs 1 blocks 256 size 4096
// expect: half: 524288
// expect: the other half: 524288
// expect: more: No space left on device
// expect: truncate: 0
// expect: again: 4096
// expect: busy: Device or resource busy
// expect: no mount: Invalid argument
// expect: unknown: No such device
// expect: bad option: Invalid argument
// expect: on a file: Not a directory
// expect: no such: No such file or directory
// expect: bind: 0
// expect: through it: opened
// expect: read-only: 0
// expect: for writing: Read-only file system
// expect: new: Read-only file system
// expect: mkdir: Read-only file system
// expect: unlink: Read-only file system
// expect: chmod: Read-only file system
// expect: truncate: Read-only file system
// expect: there still: opened
// expect: across: Invalid cross-device link
// expect: link across: Invalid cross-device link
// expect: writable: 0
// expect: mkdir: 0
// expect: bind a file: 0
// expect: a file on a directory: Not a directory
// expect: name of a mount: Device or resource busy
// expect: rmdir of a mount: Device or resource busy
// expect: rename of a mount: Device or resource busy
// expect: * mine at /t tmpfs
// expect: * mine at /b tmpfs
// expect: * root at /t/in/x ramfs
// expect: * / at /t rw,nosuid,nodev,relatime - tmpfs mine
// expect: * /in at /b rw,relatime - tmpfs mine
// expect: * /file at /t/in/x rw,relatime - ramfs root
// expect: recursive: 0
// expect: spaces: 0
// expect: * mine at /t tmpfs
// expect: * mine at /b tmpfs
// expect: * root at /t/in/x ramfs
// expect: * mine at /m tmpfs
// expect: * root at /m/in/x ramfs
// expect: * a\040source at /a\040b tmpfs
// expect: move: 0
// expect: moved: opened
// expect: into itself: Too many levels of symbolic links
// expect: no mount: Invalid argument
// expect: something inside: Device or resource busy
// expect: detach: 0
// expect: still there: opened
// expect: the one below: 0
// expect: * mine at /t tmpfs
// expect: * mine at /b tmpfs
// expect: * root at /t/in/x ramfs
// expect: another: 0
// expect: detach from inside: 0
// expect: move what lies nowhere: Invalid argument
// expect: pivot to what lies nowhere: Invalid argument
// expect: above it: itself
// expect: another in its place: 0
// expect: seen: opened
// expect: umount: 0
// expect: its place: 0
// expect: proc: 0
// expect: proc's: opened
// expect: umount: 0
// expect: flags: Invalid argument
// expect: umount: 0
// expect: umount: 0
// expect: not below: Device or resource busy
// expect: no mount: Device or resource busy
// expect: pivot: 0
// expect: chdir: 0
// expect: big: opened
// expect: old: opened
// expect: up: opened
// expect: * / at  rw,relatime - proc proc
// expect: detach the old: 0
// expect: old: No such file or directory
// expect: chroot: 0
// expect: outside: No such file or directory
// expect: chdir: 0
// expect: inside: 0
// expect: /in
// expect: up: No such file or directory
// expect: * proc at proc proc
// expect: chroot to a file: Not a directory
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

static void show(const char *what, long result) {
  if (result < 0) printf("%s: %s\n", what, strerror(errno));
  else printf("%s: %ld\n", what, result);
}
static void opened(const char *what, long result) {
  if (result < 0) printf("%s: %s\n", what, strerror(errno));
  else printf("%s: opened\n", what), close((int)result);
}
static char base[] = "/tmp/mounts-XXXXXX";
// The lines that tell of what is below our directory, without the numbers.
static void list(const char *name, const char *below) {
  FILE *f = fopen(name, "r");
  char line[1000];
  if (!f) return perror(name);
  while (fgets(line, sizeof line, f)) {
    char *fields[20], *rest = line;
    int count = 0;
    while (count < 20 && (fields[count] = strsep(&rest, " \n"))) count++;
    int is_long = strstr(name, "info") != NULL;
    const char *path = fields[is_long ? 4 : 1];
    if (strncmp(path, below, strlen(below))) continue;
    path += strlen(below);
    if (is_long) printf("* %s at %s %s - %s %s\n", strcmp(fields[3], "/") ? fields[3] + strlen(base) * !strncmp(fields[3], base, strlen(base)) : "/", path, fields[5], fields[7], fields[8]);
    else printf("* %s at %s %s\n", fields[0], path, fields[2]);
  }
  fclose(f);
}

int main(void) {
  setvbuf(stdout, NULL, _IONBF, 0);
  mkdir("/tmp", 0777);
  unshare(CLONE_NEWNS);  // Natively; the guest has one namespace.
  mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
  if (!mkdtemp(base) || chdir(base)) return perror("directory"), 1;
  mkdir("t", 0755), mkdir("b", 0755), mkdir("m", 0755), mkdir("a b", 0755);
  close(open("file", O_CREAT | O_WRONLY, 0644));
  show("tmpfs", mount("mine", "t", "tmpfs", MS_NOSUID | MS_NODEV, "mode=750,size=1m"));
  struct stat s, above;
  stat("t", &s), stat(".", &above);
  printf("mode %o other device %d\n", s.st_mode, s.st_dev != above.st_dev);
  struct statfs fs;
  statfs("t", &fs);
  printf("tmpfs %d blocks %ld size %ld\n", fs.f_type == 0x01021994, (long)fs.f_blocks, (long)fs.f_bsize);
  int f = open("t/big", O_CREAT | O_RDWR, 0644);
  static char block[1 << 19];
  show("half", write(f, block, sizeof block));
  show("the other half", pwrite(f, block, sizeof block, sizeof block));
  show("more", pwrite(f, block, 4096, 2 * sizeof block) < 0 ? -1 : 0);
  show("truncate", ftruncate(f, 4096));
  show("again", pwrite(f, block, 4096, 2 * sizeof block));
  show("busy", umount("t"));
  close(f);
  show("no mount", umount("b"));
  show("unknown", mount("x", "b", "nonsense", 0, NULL));
  show("bad option", mount("x", "b", "tmpfs", 0, "wrong=1"));
  show("on a file", mount("x", "file", "tmpfs", 0, NULL));
  show("no such", mount("x", "nope", "tmpfs", 0, NULL));
  mkdir("t/in", 0755), close(open("t/in/x", O_CREAT | O_WRONLY, 0644));
  show("bind", mount("t/in", "b", NULL, MS_BIND, NULL));
  opened("through it", open("b/x", O_RDWR));
  show("read-only", mount(NULL, "b", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
  opened("for writing", open("b/x", O_RDWR));
  opened("new", open("b/y", O_CREAT | O_RDWR, 0600));
  show("mkdir", mkdir("b/z", 0700));
  show("unlink", unlink("b/x"));
  show("chmod", chmod("b/x", 0600));
  show("truncate", truncate("b/x", 5));
  opened("there still", open("t/in/x", O_RDWR));
  show("across", rename("b/x", "t/in/y"));
  show("link across", link("b/x", "t/in/y"));
  show("writable", mount(NULL, "b", NULL, MS_REMOUNT | MS_BIND, NULL));
  show("mkdir", mkdir("b/z", 0700));
  show("bind a file", mount("file", "t/in/x", NULL, MS_BIND, NULL));
  show("a file on a directory", mount("file", "m", NULL, MS_BIND, NULL));
  show("name of a mount", unlink("t/in/x"));
  show("rmdir of a mount", rmdir("b"));
  show("rename of a mount", rename("b", "c"));
  list("/proc/self/mounts", base);
  list("/proc/self/mountinfo", base);
  show("recursive", mount("t", "m", NULL, MS_BIND | MS_REC, NULL));
  show("spaces", mount("a source", "a b", "tmpfs", MS_RDONLY | MS_NOEXEC, NULL));
  list("/proc/self/mounts", base);
  show("move", mount("m", "a b", NULL, MS_MOVE, NULL));
  opened("moved", open("a b/in/y", O_CREAT | O_RDWR, 0600));
  show("into itself", mount("a b", "a b/in/z", NULL, MS_MOVE, NULL));
  show("no mount", mount("m", "b", NULL, MS_MOVE, NULL));
  show("something inside", umount("a b"));
  f = open("a b/in", O_RDONLY);
  show("detach", umount2("a b", MNT_DETACH));
  opened("still there", openat(f, "y", O_RDONLY));
  close(f);
  show("the one below", umount("a b"));
  list("/proc/self/mounts", base);
  mkdir("p", 0755);
  show("another", mount("gone", "p", "tmpfs", 0, NULL));
  char place[100];
  snprintf(place, sizeof place, "%s/m", base);
  mkdir("p/in", 0755), chdir("p");
  show("detach from inside", umount2(".", MNT_DETACH));
  show("move what lies nowhere", mount(".", place, NULL, MS_MOVE, NULL));
  show("pivot to what lies nowhere", syscall(SYS_pivot_root, ".", place));
  stat(".", &s), stat("..", &above);
  printf("above it: %s\n", s.st_dev == above.st_dev && s.st_ino == above.st_ino ? "itself" : "another");
  chdir(base);
  show("another in its place", mount("new", "p", "tmpfs", 0, NULL));
  opened("seen", open("p/x", O_CREAT | O_RDWR, 0600));
  show("umount", umount("p"));
  show("its place", rmdir("p"));
  show("proc", mount("proc", "m", "proc", 0, NULL));
  opened("proc's", open("m/self/status", O_RDONLY));
  show("umount", umount("m"));
  show("flags", umount2("b", 128));
  show("umount", umount("b"));
  show("umount", umount("t/in/x"));

  mkdir("t/old", 0755), mkdir("t/proc", 0755);
  show("not below", syscall(SYS_pivot_root, "t", "b"));
  show("no mount", syscall(SYS_pivot_root, "b", "b"));
  show("pivot", syscall(SYS_pivot_root, "t", "t/old"));
  show("chdir", chdir("/"));
  opened("big", open("/big", O_RDONLY));
  char old[100];
  snprintf(old, sizeof old, "/old%s/file", base);
  opened("old", open(old, O_RDONLY));
  opened("up", open("../../../big", O_RDONLY));
  mount("proc", "/proc", "proc", 0, NULL);
  list("/proc/self/mountinfo", "/proc");
  show("detach the old", umount2("/old", MNT_DETACH));
  opened("old", open(old, O_RDONLY));
  mkdir("/jail", 0755), mkdir("/jail/proc", 0755), mkdir("/jail/in", 0755);
  mount("proc", "/jail/proc", "proc", 0, NULL);
  show("chroot", chroot("/jail"));
  char text[100];
  show("outside", getcwd(text, sizeof text) ? 0 : -1);
  show("chdir", chdir("/in"));
  show("inside", getcwd(text, sizeof text) ? 0 : -1);
  printf("%s\n", text);
  opened("up", open("../../../big", O_RDONLY));
  list("/proc/self/mounts", "/");
  show("chroot to a file", chroot("/proc/version"));
  return 0;
}
