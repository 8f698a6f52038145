// inotify: what is told of files and directories, in which order, with which names and cookies; and signalfd.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void show(const char *what, long result) {
  if (result < 0) printf("%s: %s\n", what, strerror(errno));
  else printf("%s: %ld\n", what, result);
}
// musl has no renameat2.
static long exchange(const char *one, const char *two) {
  return syscall(SYS_renameat2, AT_FDCWD, one, AT_FDCWD, two, 2);
}
static int notify;
static unsigned cookies[16], cookie_count;
static void events(const char *what) {
  static const char *names[] = {"ACCESS", "MODIFY", "ATTRIB", "CLOSE_WRITE", "CLOSE_NOWRITE", "OPEN", "MOVED_FROM", "MOVED_TO",
                                "CREATE", "DELETE", "DELETE_SELF", "MOVE_SELF", 0, "UNMOUNT", "Q_OVERFLOW", "IGNORED"};
  printf("%s:\n", what);
  _Alignas(struct inotify_event) char buffer[4096];
  ssize_t count;
  while ((count = read(notify, buffer, sizeof buffer)) > 0)
    for (char *p = buffer; p < buffer + count;) {
      struct inotify_event *e = (void *)p;
      printf("  %d", e->wd);
      for (int i = 0; i < 16; i++)
        if (e->mask & 1u << i) printf(" %s", names[i]);
      if (e->mask & IN_ISDIR) printf(" ISDIR");
      if (e->cookie) {
        unsigned i = 0;
        while (i < cookie_count && cookies[i] != e->cookie) i++;
        if (i == cookie_count) cookies[cookie_count++] = e->cookie;
        printf(" cookie %u", i);
      }
      if (e->len) printf(" %s (%u)", e->name, e->len);
      printf("\n");
      p += sizeof *e + e->len;
    }
}
static void put(const char *name, const char *text) {
  int f = open(name, O_WRONLY | O_CREAT, 0600);
  if (f < 0 || write(f, text, strlen(text)) < 0) perror(name);
  close(f);
}

static void *later(void *a) {
  usleep(20000);
  put("d/late", "x");
  usleep(20000);
  kill(getpid(), SIGUSR1);
  return a;
}

int main(void) {
  char directory[] = "/tmp/watching-XXXXXX";
  mkdir("/tmp", 0777);
  if (!mkdtemp(directory) || chdir(directory)) return perror("directory"), 1;
  mkdir("d", 0700), mkdir("e", 0700), put("f", "text");
  notify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  show("read nothing", read(notify, cookies, sizeof cookies));
  show("d", inotify_add_watch(notify, "d", IN_ALL_EVENTS));
  show("f", inotify_add_watch(notify, "f", IN_ALL_EVENTS));
  show("d again", inotify_add_watch(notify, "d", IN_ALL_EVENTS));
  show("no such", inotify_add_watch(notify, "nope", IN_ALL_EVENTS));
  show("no mask", inotify_add_watch(notify, "f", 0));
  show("only directories", inotify_add_watch(notify, "f", IN_OPEN | IN_ONLYDIR));
  show("only new", inotify_add_watch(notify, "f", IN_OPEN | IN_MASK_CREATE));
  show("not inotify", inotify_add_watch(0, "f", IN_OPEN));
  show("no watch", inotify_rm_watch(notify, 77));
  put("d/a", "1");
  events("create and write");
  int f = open("d/a", O_RDWR);
  char text[100];
  if (read(f, text, 1) != 1 || read(f, text, 1) != 0 || write(f, "abc", 3) != 3 || write(f, "abc", 3) != 3) return 1;
  events("read and write");
  show("truncate", ftruncate(f, 1));
  show("chmod", fchmod(f, 0644));
  show("times", futimens(f, NULL));
  events("attributes");
  show("link", link("d/a", "d/b"));
  show("symlink", symlink("a", "d/s"));
  show("mkdir", mkdir("d/sub", 0700));
  events("names");
  show("rename", rename("d/b", "d/c"));
  show("out", rename("d/c", "e/c"));
  show("in", rename("e/c", "d/b"));
  show("directory", rename("d/sub", "d/sub2"));
  events("moves");
  show("over", rename("d/b", "d/a"));
  put("d/x", "1");
  events("same file");
  show("over", rename("d/x", "d/a"));
  events("replaced");
  if (write(f, "more", 4) != 4) return 1;
  close(f);
  events("unlinked file");
  show("exchange", exchange("d/a", "f"));
  events("exchanged");
  show("and back", exchange("d/a", "f"));
  show("rmdir", rmdir("d/sub2"));
  show("unlink", unlink("d/s"));
  events("removed");
  int d = open("d", O_RDONLY | O_DIRECTORY);
  if (d < 0) return 1;
  close(d);
  events("directory opened");
  f = open("f", O_RDONLY);
  show("unlink open", unlink("f"));
  events("not gone yet");
  close(f);
  events("gone");
  put("g", "x");
  show("g", inotify_add_watch(notify, "g", IN_DELETE_SELF | IN_ATTRIB));
  show("unlink", unlink("g"));
  events("g gone");
  show("one shot", inotify_add_watch(notify, "d", IN_CREATE | IN_ONESHOT));
  put("d/y", "1"), put("d/z", "1");
  events("once");
  show("d", inotify_add_watch(notify, "d", IN_CREATE));
  show("added", inotify_add_watch(notify, "d", IN_DELETE | IN_MASK_ADD));
  put("d/1", ""), unlink("d/1");
  events("both");
  show("remove", inotify_rm_watch(notify, 5));
  put("d/2", "");
  events("removed watch");
  show("e", inotify_add_watch(notify, "e", IN_DELETE_SELF | IN_MOVE_SELF));
  rename("e", "e2"), rmdir("e2");
  events("directory gone");

  char name[NAME_MAX + 10] = "d/";
  memset(name + 2, 'n', NAME_MAX);
  show("d", inotify_add_watch(notify, "d", IN_CREATE | IN_DELETE));
  put(name, "");
  int pending = 0;
  ioctl(notify, FIONREAD, &pending);
  printf("pending %d\n", pending);
  show("too small", read(notify, text, 50));
  events("long");
  for (int i = 0; i < 10000; i++) put("d/o", ""), unlink("d/o");
  pending = 0;
  ioctl(notify, FIONREAD, &pending);
  printf("pending %d\n", pending);
  int seen = 0, lost = 0;
  _Alignas(struct inotify_event) char buffer[4096];
  for (ssize_t n; (n = read(notify, buffer, sizeof buffer)) > 0;)
    for (char *p = buffer; p < buffer + n; p += sizeof(struct inotify_event) + ((struct inotify_event *)p)->len)
      if (((struct inotify_event *)p)->mask & IN_Q_OVERFLOW) lost += ((struct inotify_event *)p)->wd == -1;
      else seen++;
  printf("seen %d lost %d\n", seen, lost);
  show("read by path", open("d", O_PATH) > 0);
  events("a place is no opening");

  sigset_t set;
  sigemptyset(&set), sigaddset(&set, SIGUSR1), sigaddset(&set, SIGRTMIN + 1), sigaddset(&set, SIGCHLD);
  sigprocmask(SIG_BLOCK, &set, NULL);
  int signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
  struct signalfd_siginfo info[4];
  show("no signal", read(signals, info, sizeof info));
  show("small", read(signals, info, 127));
  union sigval value = {.sival_int = 4711};
  kill(getpid(), SIGUSR1), sigqueue(getpid(), SIGRTMIN + 1, value), pthread_kill(pthread_self(), SIGRTMIN + 1);
  struct pollfd ready[2] = {{signals, POLLIN, 0}, {notify, POLLIN, 0}};
  show("poll", poll(ready, 2, 0));
  ssize_t got = read(signals, info, sizeof info);
  printf("%zd bytes\n", got);
  for (int i = 0; i < got / (ssize_t)sizeof *info; i++)
    printf("signal %d code %d ours %d value %d\n", (int)info[i].ssi_signo - (info[i].ssi_signo > 30 ? SIGRTMIN : 0), info[i].ssi_code,
           info[i].ssi_pid == (unsigned)getpid() && info[i].ssi_uid == getuid(), info[i].ssi_int);
  int epoll = epoll_create1(0);
  struct epoll_event wanted = {.events = EPOLLIN, .data.u64 = 1}, other = {.events = EPOLLIN, .data.u64 = 2}, event;
  show("epoll", epoll_ctl(epoll, EPOLL_CTL_ADD, signals, &wanted));
  show("epoll", epoll_ctl(epoll, EPOLL_CTL_ADD, notify, &other));
  pthread_t thread;
  pthread_create(&thread, NULL, later, NULL);
  show("event", epoll_wait(epoll, &event, 1, -1));
  printf("from %d\n", (int)event.data.u64);
  events("late");
  show("event", epoll_wait(epoll, &event, 1, -1));
  printf("from %d\n", (int)event.data.u64);
  show("signal", read(signals, info, sizeof info));
  pthread_join(thread, NULL);
  fcntl(signals, F_SETFL, 0);
  pthread_create(&thread, NULL, later, NULL);
  show("waits", read(signals, info, sizeof info));
  pthread_join(thread, NULL);
  sigdelset(&set, SIGUSR1);
  show("another set", signalfd(signals, &set, 0) == signals);
  kill(getpid(), SIGUSR1);
  show("not in it", poll(ready, 1, 0));
  show("no signalfd", signalfd(notify, &set, 0));
  show("bad flags", signalfd(-1, &set, 1));
  return 0;
}
