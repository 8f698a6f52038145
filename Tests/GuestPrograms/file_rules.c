// flavours: glibc-static
// linux: 6.6
// The rules of calls on files, one after another: every call on every kind of file and on every kind of path that is not one, in a fresh
// directory each time, and what is in that directory afterwards; rights of other users; which times move. Each line says what came of
// a case. Arguments: a directory (else a RAM file system, and the rights of other users are looked at too), "all" to see the directories.
#define _GNU_SOURCE
#include "file_rules.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { NOREPLACE = 1, EXCHANGE = 2 };
static char long255[256], long256[257], path4095[4096], path4096[4097];
static volatile uintptr_t bad = 16;

// MARK: Calls with one path

static long closing(int f) {
  if (f >= 0) close(f);
  return f < 0 ? -1 : 0;
}
static struct stat one;
static struct timespec times[2] = {{1000, 5}, {2000, 6}};
static long doStat(const char *p) { return stat(p, &one) ? -1 : (long)(one.st_mode & S_IFMT); }
static long doLstat(const char *p) { return lstat(p, &one) ? -1 : (long)(one.st_mode & S_IFMT); }
static long doChmod(const char *p) { return chmod(p, 0511); }
static long doChmodSpecial(const char *p) { return chmod(p, 07711); }
static long doChown(const char *p) { return chown(p, getuid(), getgid()); }
static long doLchown(const char *p) { return lchown(p, getuid(), getgid()); }
static long doLinkFrom(const char *p) { return link(p, "new"); }
static long doLinkFollow(const char *p) { return linkat(AT_FDCWD, p, AT_FDCWD, "new", AT_SYMLINK_FOLLOW); }
static long doLinkTo(const char *p) { return link("file", p); }
static long doMkdir(const char *p) { return mkdir(p, 0751); }
static long doMkfifo(const char *p) { return mkfifo(p, 0642); }
static long doMknod(const char *p) { return mknod(p, S_IFREG | 0641, 0); }
static long doMknodSocket(const char *p) { return mknod(p, S_IFSOCK | 0641, 0); }
static long doMknodDirectory(const char *p) { return mknod(p, S_IFDIR | 0641, 0); }
static long doRenameFrom(const char *p) { return rename(p, "new"); }
static long doRenameTo(const char *p) { return rename("other", p); }
static long doRenameDirectoryTo(const char *p) { return rename("dir", p); }
static long doRmdir(const char *p) { return rmdir(p); }
static long doUnlink(const char *p) { return unlink(p); }
static long doUnlinkDirectory(const char *p) { return unlinkat(AT_FDCWD, p, AT_REMOVEDIR); }
static long doSymlink(const char *p) { return symlink("target", p); }
static long doSymlinkOf(const char *p) { return symlink(p, "new"); }
static long doTruncate(const char *p) { return truncate(p, 3); }
static long doTruncateLonger(const char *p) { return truncate(p, 20); }
static long doTruncateNegative(const char *p) { return truncate(p, -1); }
static long doUtimes(const char *p) { return utimensat(AT_FDCWD, p, times, 0); }
static long doUtimesNoFollow(const char *p) { return utimensat(AT_FDCWD, p, times, AT_SYMLINK_NOFOLLOW); }
static long doReadlink(const char *p) { char text[PATH_MAX]; return readlink(p, text, sizeof text); }
static long doReadlinkNothing(const char *p) { char text[1]; return syscall(SYS_readlink, p, text, 0); }
static long doAccess(const char *p) { return access(p, R_OK | W_OK); }
static long doAccessWrong(const char *p) { return access(p, 8); }
static long doChdir(const char *p) { return chdir(p); }
static long doStatfs(const char *p) { struct statfs s; return statfs(p, &s); }
static long doOpendir(const char *p) { return closing(open(p, O_RDONLY | O_DIRECTORY)); }
static long doGetxattr(const char *p) { char text[10]; return getxattr(p, "user.none", text, 10); }
static long doListxattr(const char *p) { return llistxattr(p, NULL, 0) < 0 ? -1 : 0; }

static const struct { const char *name; long (*call)(const char *); } calls[] = {
  {"stat", doStat}, {"lstat", doLstat}, {"chmod", doChmod}, {"chmod special", doChmodSpecial}, {"chown", doChown},
  {"lchown", doLchown}, {"link from", doLinkFrom}, {"linkat following", doLinkFollow}, {"link to", doLinkTo}, {"mkdir", doMkdir},
  {"mkfifo", doMkfifo}, {"mknod", doMknod}, {"mknod socket", doMknodSocket}, {"mknod directory", doMknodDirectory},
  {"rename from", doRenameFrom}, {"rename to", doRenameTo}, {"rename directory to", doRenameDirectoryTo}, {"rmdir", doRmdir},
  {"unlink", doUnlink}, {"unlinkat directory", doUnlinkDirectory}, {"symlink", doSymlink}, {"symlink of", doSymlinkOf},
  {"truncate", doTruncate}, {"truncate longer", doTruncateLonger}, {"truncate negative", doTruncateNegative},
  {"utimensat", doUtimes}, {"utimensat nofollow", doUtimesNoFollow}, {"readlink", doReadlink}, {"readlink 0", doReadlinkNothing},
  {"access", doAccess}, {"access wrong", doAccessWrong}, {"chdir", doChdir}, {"statfs", doStatfs}, {"opendir", doOpendir},
  {"getxattr", doGetxattr}, {"listxattr", doListxattr},
};

static const char *paths[] = {
  "file", "hard", "dir", "full", "fifo", "tofile", "todir", "dangling", "loop", "new", "", "nope/x", "file/x", "file/", "dir/", "full/",
  "full/inner", "full/sub", "full/new", "tofile/", "todir/", "todir/x", "dangling/", "dangling/x", "loop/x", "new/", "dir/.", "dir/..",
  "full/sub/..", "./file", "dir/../file", "dir//", "fifo/x", "fifo/", ".", "..", "/", "./", "tofile/x", "todir/../file", "full/./inner",
};

static void onePath(void) {
  for (unsigned c = 0; c < sizeof calls / sizeof *calls; c++) {
    for (unsigned p = 0; p < sizeof paths / sizeof *paths + 5; p++) {
      const char *more[] = {long255, long256, path4095, path4096, (char *)bad};
      int isMore = p >= sizeof paths / sizeof *paths;
      const char *path = isMore ? more[p - sizeof paths / sizeof *paths] : paths[p];
      // Where the directory lies is not looked at: names of what is above it are its own business.
      int isAbove = !isMore && (!strcmp(path, "/") || !strcmp(path, "..")), isRoot = isAbove && *path == '/';
      long (*call)(const char *) = calls[c].call;
      if (isAbove && (call == doChmod || call == doChmodSpecial || call == doUtimes || call == doUtimesNoFollow)) continue;
      if (isAbove && (call == doChown || call == doLchown || call == doRmdir)) continue;
      if (isRoot && (call == doListxattr || call == doAccess || call == doLinkFrom || call == doLinkFollow)) continue;
      if (isRoot && (call == doRenameFrom || call == doRenameTo || call == doRenameDirectoryTo)) continue;
      prepare();
      errno = 0;
      long result = call(path);
      finish(calls[c].name, path == (char *)bad ? "(bad)" : path, "", result);
    }
  }
}

// MARK: Calls with two

static const char *kinds[] = {"file", "hard", "other", "dir", "full", "fifo", "tofile", "todir", "dangling", "loop", "new", "full/inner", "full/sub", "full/new", "dir/new", "."};
enum { KINDS = sizeof kinds / sizeof *kinds };

static void twoPaths(void) {
  static const unsigned flags[] = {0, NOREPLACE, EXCHANGE, NOREPLACE | EXCHANGE, 8};
  static const char *names[] = {"rename", "noreplace", "exchange", "both", "unknown"};
  for (unsigned f = 0; f < 5; f++)
    for (int from = 0; from < KINDS; from++)
      for (int to = 0; to < KINDS; to++) {
        if (f > 2 && (from > 2 || to > 2)) continue;
        prepare();
        long result = syscall(SYS_renameat2, AT_FDCWD, kinds[from], AT_FDCWD, kinds[to], flags[f]);
        finish(names[f], kinds[from], kinds[to], result);
      }
  for (int from = 0; from < KINDS; from++)
    for (int to = 0; to < KINDS; to++) {
      prepare();
      long result = link(kinds[from], kinds[to]);
      finish("link", kinds[from], kinds[to], result);
    }
  static const char *into[] = {"dir", "full", "full/sub"};
  static const char *below[] = {"dir/a", "full/sub/a", "full/a", "full/sub/../b", "dir/../full/sub/c"};
  for (int from = 0; from < 3; from++)
    for (int to = 0; to < 5; to++) {
      prepare();
      long result = rename(into[from], below[to]);
      finish("rename below", into[from], below[to], result);
    }
}

// MARK: open

static const struct { const char *name; int flags; } opens[] = {
  {"r", O_RDONLY}, {"w", O_WRONLY}, {"rw", O_RDWR}, {"3", 3}, {"trunc", O_WRONLY | O_TRUNC}, {"r trunc", O_RDONLY | O_TRUNC},
  {"creat", O_WRONLY | O_CREAT}, {"creat r", O_RDONLY | O_CREAT}, {"creat trunc", O_RDWR | O_CREAT | O_TRUNC}, {"excl", O_WRONLY | O_CREAT | O_EXCL},
  {"excl nofollow", O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW}, {"creat nofollow", O_WRONLY | O_CREAT | O_NOFOLLOW},
  {"nofollow", O_RDONLY | O_NOFOLLOW}, {"directory", O_RDONLY | O_DIRECTORY}, {"directory w", O_WRONLY | O_DIRECTORY},
  {"directory nofollow", O_RDONLY | O_DIRECTORY | O_NOFOLLOW}, {"creat directory", O_RDONLY | O_CREAT | O_DIRECTORY}, {"path", O_PATH},
  {"path nofollow", O_PATH | O_NOFOLLOW}, {"path directory", O_PATH | O_DIRECTORY}, {"append", O_WRONLY | O_APPEND}, {"tmpfile", O_RDWR | O_TMPFILE},
  {"excl w/o creat", O_RDWR | O_EXCL}, {"sync", O_WRONLY | O_SYNC | O_CREAT},
};

static void opening(void) {
  static const char *more[] = {"file/", "dir/", "new/", "todir/", "tofile/", "dangling/", "file/x", "nope/x", "todir/new", "full/sub", "", "dir/.", "..", "/"};
  for (unsigned o = 0; o < sizeof opens / sizeof *opens; o++)
    for (int k = 0; k < KINDS + 14; k++) {
      const char *path = k < KINDS ? kinds[k] : more[k - KINDS];
      if (!strcmp(path, "/") || !strcmp(path, "..")) if (opens[o].flags & (O_TMPFILE & ~O_DIRECTORY)) continue;
      prepare();
      int f = open(path, opens[o].flags | O_NONBLOCK, 0653);
      long result = f < 0 ? -1 : 0;
      char text[64];
      if (f >= 0) {
        int saved = fcntl(f, F_GETFL);
        snprintf(text, sizeof text, "%o %s", saved & ~(O_NONBLOCK | 0100000), write(f, "W", 1) == 1 ? "written" : strerrorname_np(errno));
        close(f);
      } else strcpy(text, "");
      if (result < 0) f = open(path, opens[o].flags | O_NONBLOCK, 0653);  // For errno, after the text.
      finish(opens[o].name, path, text, result);
    }
}

// MARK: Modes

static void modes(void) {
  static const mode_t some[] = {0, 0111, 0222, 0400, 0644, 0777, 01777, 02755, 04755, 06711, 07777};
  static const mode_t masks[] = {0, 022, 077, 0777};
  for (unsigned m = 0; m < sizeof some / sizeof *some; m++)
    for (unsigned k = 0; k < 4; k++) {
      prepare();
      umask(masks[k]);
      long result = closing(open("new1", O_CREAT | O_WRONLY, some[m]));
      result += mkdir("new2", some[m]) + mkfifo("new3", some[m]) + mknod("new4", S_IFREG | some[m], 0);
      struct stat s;
      char text[80] = "";
      for (int i = 1; i <= 4; i++) {
        char name[8];
        sprintf(name, "new%d", i);
        lstat(name, &s);
        sprintf(text + strlen(text), "%o ", s.st_mode & 07777);
      }
      umask(022);
      chmod("new1", 0600), chmod("new2", 0700), chmod("new4", 0600);
      finish("modes", text, "", result);
    }
  for (unsigned m = 0; m < sizeof some / sizeof *some; m++) {
    prepare();
    struct stat a, b;
    long result = chmod("file", some[m]) + chmod("dir", some[m]) + chmod("fifo", some[m]);
    stat("file", &a), stat("dir", &b);
    char text[64];
    sprintf(text, "%o %o", a.st_mode, b.st_mode);
    chmod("file", 0644), chmod("dir", 0755);
    finish("chmod", text, "", result);
  }
  // Set-user and set-group bits go with a write, a cut and a new owner; as far as they do for who has all rights, they stay.
  static const mode_t special[] = {04755, 02755, 06755, 02745, 06700};
  for (int how = 0; how < 3; how++)
    for (int m = 0; m < 5; m++) {
      prepare();
      chmod("file", special[m]);
      int f = open("file", O_RDWR);
      long result = how == 0 ? 0 : how == 1 ? ftruncate(f, 3) : fchown(f, getuid(), getgid());
      struct stat s;
      fstat(f, &s);
      char text[64];
      sprintf(text, "%o", how == 1 ? s.st_mode & 0777 : s.st_mode);
      close(f);
      chmod("file", 0644);
      finish(how == 0 ? "special" : how == 1 ? "special cut" : "special owner", text, "", result);
    }
  prepare();
  chmod("dir", 02775);
  long result = mkdir("dir/sub", 0755) + closing(open("dir/new", O_CREAT | O_WRONLY, 0644));
  finish("set-group directory", "", "", result);
}

// MARK: Descriptors

static void descriptors(void) {
  struct stat s;
  char text[100] = "";
  prepare();
  int f = open("file", O_RDWR);
  long result = unlink("file") + unlink("hard");
  fstat(f, &s);
  sprintf(text, "links %ld", (long)s.st_nlink);
  result += pwrite(f, "more", 4, 20) + pread(f, text + 40, 24, 0);
  close(f);
  finish("unlinked while open", text, "", result);
  prepare();
  f = open("dir", O_RDONLY | O_DIRECTORY);
  result = rmdir("dir");
  fstat(f, &s);
  sprintf(text, "%d", (int)s.st_nlink);
  errno = 0;
  int inside = openat(f, "x", O_CREAT | O_WRONLY, 0600);
  sprintf(text + strlen(text), " %s", inside < 0 ? strerrorname_np(errno) : "made");
  errno = 0;
  sprintf(text + strlen(text), " %s", mkdirat(f, "x", 0700) ? strerrorname_np(errno) : "made");
  errno = 0;
  sprintf(text + strlen(text), " %s", fstatat(f, ".", &s, 0) ? strerrorname_np(errno) : "there");
  errno = 0;
  sprintf(text + strlen(text), " %s", fstatat(f, "..", &s, 0) ? strerrorname_np(errno) : "there");
  close(f);
  finish("removed while open", text, "", result);
  prepare();
  f = open("other", O_RDWR);
  result = rename("file", "other");
  fstat(f, &s);
  sprintf(text, "%ld %ld", (long)s.st_nlink, (long)s.st_size);
  close(f);
  finish("replaced while open", text, "", result);
  static const struct { const char *name; int flags; off_t to; } cuts[] = {
    {"file", O_RDONLY, 3}, {"file", O_WRONLY, 3}, {"file", O_RDWR, 0}, {"file", O_RDWR, 100000}, {"file", O_RDWR, -1}, {"dir", O_RDONLY, 0},
    {"fifo", O_RDWR, 0}, {"file", O_WRONLY | O_APPEND, 2},
  };
  for (unsigned i = 0; i < sizeof cuts / sizeof *cuts; i++) {
    prepare();
    f = open(cuts[i].name, cuts[i].flags);
    result = ftruncate(f, cuts[i].to);
    int error = errno;
    close(f), errno = error;
    sprintf(text, "%o %ld", cuts[i].flags, (long)cuts[i].to);
    finish("ftruncate", cuts[i].name, text, result);
  }
  // Names come and go while a directory is read: each that stays is seen once.
  prepare();
  if (mkdir("many", 0755)) exit(1);
  for (int i = 0; i < 300; i++) {
    sprintf(text, "many/name%d", i);
    close(open(text, O_CREAT | O_WRONLY, 0600));
  }
  DIR *d = opendir("many");
  int kept = 0, removed = 0;
  for (struct dirent *e; (e = readdir(d));) {
    int number;
    if (sscanf(e->d_name, "name%d", &number) != 1) continue;
    if (number % 3 == 0) kept++;
    else removed += unlinkat(dirfd(d), e->d_name, 0) == 0;
  }
  rewinddir(d);
  int left = 0;
  while (readdir(d)) left++;
  closedir(d);
  sprintf(text, "kept %d removed %d left %d", kept, removed, left);
  for (int i = 0; i < 300; i += 3) {
    char name[32];
    sprintf(name, "many/name%d", i);
    unlink(name);
  }
  finish("read while names go", text, "", 0);
}

// MARK: Times

// What has moved since it was set to the past: m for the modification, c for the change.
static struct timespec changed[4];
static const char *watched[4] = {".", "file", "dir", "full"};
static void past(void) {
  struct timespec old[2] = {{1000, 0}, {1000, 0}};
  struct stat s;
  for (int i = 0; i < 4; i++) {
    if (utimensat(AT_FDCWD, watched[i], old, 0)) perror("past"), exit(1);
    lstat(watched[i], &s);
    changed[i] = s.st_ctim;
  }
  usleep(12000);
}
static void moved(char *text) {
  struct stat s;
  *text = 0;
  for (int i = 0; i < 4; i++) {
    if (lstat(watched[i], &s)) {
      strcat(text, "- ");
      continue;
    }
    if (s.st_mtim.tv_sec != 1000) strcat(text, "m");
    if (s.st_ctim.tv_sec != changed[i].tv_sec || s.st_ctim.tv_nsec != changed[i].tv_nsec) strcat(text, "c");
    strcat(text, "/ ");
  }
}

static long touchWrite(void) { int f = open("file", O_WRONLY); long r = write(f, "x", 1); close(f); return r; }
static long touchWriteNothing(void) { int f = open("file", O_WRONLY); long r = write(f, "x", 0); close(f); return r; }
static long touchCut(void) { return truncate("file", 2); }
static long touchCutSame(void) { return truncate("file", 7); }
static long touchOpenCut(void) { return closing(open("file", O_WRONLY | O_TRUNC)); }
static long touchOpen(void) { return closing(open("file", O_RDWR)); }
static long touchRead(void) { char c; int f = open("file", O_RDONLY); long r = read(f, &c, 1); close(f); return r; }
static long touchChmod(void) { return chmod("file", 0600); }
static long touchChown(void) { return chown("file", getuid(), getgid()); }
static long touchLink(void) { return link("file", "new"); }
static long touchUnlink(void) { return unlink("hard"); }
static long touchRename(void) { return rename("hard", "new"); }
static long touchRenameSame(void) { return rename("hard", "file"); }
static long touchRenameInto(void) { return rename("other", "dir/other"); }
static long touchRenameOver(void) { return rename("other", "hard"); }
static long touchRenameDirectory(void) { return rename("full/sub", "dir/sub"); }
static long touchExchange(void) { return syscall(SYS_renameat2, AT_FDCWD, "file", AT_FDCWD, "full/inner", EXCHANGE); }
static long touchMkdir(void) { return mkdir("dir/x", 0700); }
static long touchRmdir(void) { return rmdir("full/sub"); }
static long touchCreate(void) { return closing(open("dir/x", O_CREAT | O_WRONLY, 0600)); }
static long touchSymlink(void) { return symlink("a", "dir/x"); }
static long touchFifo(void) { return mkfifo("dir/x", 0600); }
static long touchFail(void) { return mkdir("full/sub", 0700); }
static long touchXattr(void) { return setxattr("file", "user.a", "b", 1, 0); }
static long touchTimes(void) { return utimensat(AT_FDCWD, "file", (struct timespec[]){{0, UTIME_NOW}, {0, UTIME_OMIT}}, 0); }
static long touchNow(void) { return utimensat(AT_FDCWD, "file", NULL, 0); }
static long touchOmit(void) { return utimensat(AT_FDCWD, "file", (struct timespec[]){{0, UTIME_OMIT}, {0, UTIME_OMIT}}, 0); }
static long touchFallocate(void) { int f = open("file", O_WRONLY); long r = fallocate(f, 0, 0, 100); close(f); return r; }
static const struct { const char *name; long (*call)(void); } touches[] = {
  {"write", touchWrite}, {"write nothing", touchWriteNothing}, {"truncate", touchCut}, {"truncate same", touchCutSame}, {"open trunc", touchOpenCut}, {"open", touchOpen},
  {"read", touchRead}, {"chmod", touchChmod}, {"chown", touchChown}, {"link", touchLink}, {"unlink", touchUnlink}, {"rename", touchRename},
  {"rename same", touchRenameSame}, {"rename into", touchRenameInto}, {"rename over", touchRenameOver}, {"rename directory", touchRenameDirectory},
  {"exchange", touchExchange}, {"mkdir", touchMkdir}, {"rmdir", touchRmdir}, {"create", touchCreate}, {"symlink", touchSymlink}, {"mkfifo", touchFifo}, {"failed", touchFail},
  {"setxattr", touchXattr}, {"access now", touchTimes}, {"now", touchNow}, {"omit", touchOmit}, {"fallocate", touchFallocate},
};

static void whatMoves(void) {
  for (unsigned i = 0; i < sizeof touches / sizeof *touches; i++) {
    char text[64];
    prepare();
    past();
    long result = touches[i].call();
    int error = errno;
    moved(text);
    errno = error;
    finish("times", touches[i].name, text, result);
  }
  static const struct timespec odd[][2] = {
    {{-1, 0}, {-100000, 999999999}}, {{1LL << 31, 1}, {(1LL << 32) + 5, 2}}, {{5, 1000000000}, {5, 0}}, {{5, -1}, {5, 0}}, {{0, 0}, {0, 1}},
    {{7, UTIME_OMIT}, {7, 5}}, {{7, 5}, {7, UTIME_OMIT}},
  };
  for (unsigned i = 0; i < sizeof odd / sizeof *odd; i++) {
    char text[120];
    prepare();
    long result = utimensat(AT_FDCWD, "file", odd[i], 0);
    int error = errno;
    struct stat s;
    stat("file", &s);
    sprintf(text, "%ld.%ld", i == 5 || result ? 0L : (long)s.st_atim.tv_sec, i == 5 || result ? 0L : s.st_atim.tv_nsec);
    if (i != 6 && !result) sprintf(text + strlen(text), " %ld.%ld", (long)s.st_mtim.tv_sec, s.st_mtim.tv_nsec);
    errno = error;
    finish("odd times", text, "", result);
  }
}

// MARK: Rights of other users: only where there are some

static void asUser(uid_t user, gid_t group) {
  if (setresgid((gid_t)-1, group, (gid_t)-1) || setresuid((uid_t)-1, user, (uid_t)-1)) perror("user"), exit(1);
}
static void asRoot(void) {
  if (setresuid((uid_t)-1, 0, (uid_t)-1) || setresgid((gid_t)-1, 0, (gid_t)-1)) perror("root"), exit(1);
}
static long chownUser(const char *p) { return chown(p, 1001, (gid_t)-1); }
static long chownGroup(const char *p) { return chown(p, (uid_t)-1, 2001); }
static long chownOwnGroup(const char *p) { return chown(p, (uid_t)-1, 2000); }
static long openRead(const char *p) { return closing(open(p, O_RDONLY | O_NONBLOCK)); }
static long openWrite(const char *p) { return closing(open(p, O_WRONLY | O_NONBLOCK)); }
static long openCreate(const char *p) { return closing(open(p, O_WRONLY | O_CREAT, 0600)); }
static long openNoTime(const char *p) { return closing(open(p, O_RDONLY | O_NOATIME)); }
static long utimesNow(const char *p) { return utimensat(AT_FDCWD, p, NULL, 0); }
static long accessAll(const char *p) { return faccessat(AT_FDCWD, p, R_OK | W_OK | X_OK, AT_EACCESS); }
static long setAttribute(const char *p) { return setxattr(p, "user.x", "y", 1, 0); }
static const struct { const char *name; long (*call)(const char *); } restricted[] = {
  {"stat", doStat}, {"open r", openRead}, {"open w", openWrite}, {"creat", openCreate}, {"noatime", openNoTime}, {"opendir", doOpendir},
  {"access", accessAll}, {"chmod", doChmod}, {"chmod special", doChmodSpecial}, {"chown user", chownUser}, {"chown group", chownGroup},
  {"chown own group", chownOwnGroup}, {"truncate", doTruncate}, {"unlink", doUnlink}, {"rmdir", doRmdir}, {"rename from", doRenameFrom},
  {"link to", doLinkTo}, {"mkdir", doMkdir}, {"symlink", doSymlink}, {"utimes", doUtimes}, {"utimes now", utimesNow}, {"setxattr", setAttribute},
  {"getxattr", doGetxattr}, {"chdir", doChdir},
};

static void users(void) {
  static const mode_t rights[] = {0, 0700, 0070, 0007, 0755, 0333, 01777};
  static const char *targets[] = {"mine", "area/new", "area/mine", "area/theirs", "area/dir", "area"};
  static const struct { uid_t user; gid_t group; } whos[] = {{1000, 2000}, {1001, 2000}, {1001, 2001}};
  if (mkdir("case", 0777) || chdir("case") || chmod(".", 0777)) perror("users"), exit(1);
  for (unsigned r = 0; r < sizeof rights / sizeof *rights; r++)
    for (unsigned w = 0; w < 3; w++)
      for (unsigned c = 0; c < sizeof restricted / sizeof *restricted; c++)
        for (unsigned t = 0; t < 6; t++) {
          if (t > 2 && restricted[c].call != doUnlink && restricted[c].call != doRmdir && restricted[c].call != doRenameFrom && t != 5) continue;
          put("mine", "my own", rights[r]), put("file", "content", 0644), mkdir("area", 0777);
          put("area/mine", "my own", 0644), put("area/theirs", "not mine", 0644), mkdir("area/dir", 0777);
          if (chown("mine", 1000, 2000) || chown("area/mine", 1000, 2000) || chown("area", 1000, 2000)) perror("owner"), exit(1);
          if (chown("file", whos[w].user, whos[w].group)) perror("owner"), exit(1);
          chmod("mine", rights[r]), chmod("area", rights[r]);
          asUser(whos[w].user, whos[w].group);
          errno = 0;
          long result = restricted[c].call(targets[t]);
          int error = result < 0 ? errno : 0;
          if (fchdir(home) || chdir("case")) perror("back"), exit(1);
          asRoot();
          struct stat s;
          if (stat(targets[t], &s)) memset(&s, 0, sizeof s);
          printf("%o %d:%d %s %s: %s %o %d:%d %ld\n", rights[r], whos[w].user, whos[w].group, restricted[c].name, targets[t],
            result < 0 ? strerrorname_np(error) : "done", s.st_mode, s.st_uid, s.st_gid, (long)s.st_nlink);
          static const char *all[] = {"mine", "file", "new", "area/mine", "area/theirs", "area/new"};
          for (int i = 0; i < 6; i++) if (unlink(all[i]) && rmdir(all[i]) && errno == ENOTEMPTY) removeTree(all[i]);
          rmdir("area/dir");
          if (rmdir("area") && unlink("area") && errno != ENOENT) perror("area"), exit(1);
        }
  if (fchdir(home) || rmdir("case")) perror("case"), exit(1);
}

int main(int count, char **arguments) {
  char name[PATH_MAX] = "/dev/shm/rules-XXXXXX";
  int isOwn = count < 2 || !strcmp(arguments[1], "all");
  isVerbose = count > 1 && !strcmp(arguments[count - 1], "all");
  if (!isOwn) snprintf(name, sizeof name, "%s", arguments[1]);
  else if (!mkdtemp(name)) return perror("directory"), 1;
  if (chdir(name)) return perror(name), 1;
  if (isOwn) chmod(".", 0755);
  umask(022);
  memset(long255, 'n', 255), memset(long256, 'n', 256);
  memset(path4095, '/', 4095), memset(path4096, '/', 4096);
  memcpy(path4095, "./", 2), memcpy(path4095 + 4091, "file", 4);
  memcpy(path4096, "./", 2), memcpy(path4096 + 4092, "file", 4);
  home = open(".", O_RDONLY | O_DIRECTORY);
  setvbuf(stdout, NULL, _IOFBF, 1 << 16);
  prepare();
  examine();
  fresh = digest;
  finish("nothing", "", "", 0);
  onePath();
  twoPaths();
  opening();
  modes();
  descriptors();
  whatMoves();
  prepare();
  bindSocket("socket");
  long result = closing(open("socket", O_RDWR));
  finish("open", "socket", "", result);
  if (isThere) removeTree("case");
  if (isOwn && geteuid() == 0) users();
  fflush(stdout);
  if (fchdir(home)) return 1;
  return isOwn ? rmdir(name) : 0;
}
