// AF_UNIX: pairs, names in files and abstract ones, connections, messages with descriptors and credentials, options, ends, readiness.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

static void show(const char *what, long result) {
  if (result < 0) printf("%s: %s\n", what, strerror(errno));
  else printf("%s: %ld\n", what, result);
}
static void ready(const char *what, int f) {
  struct pollfd p = {f, POLLIN | POLLOUT | POLLRDHUP, 0};
  poll(&p, 1, 0);
  printf("%s:%s%s%s%s%s\n", what, p.revents & POLLIN ? " in" : "", p.revents & POLLOUT ? " out" : "", p.revents & POLLHUP ? " hup" : "",
         p.revents & POLLERR ? " err" : "", p.revents & POLLRDHUP ? " rdhup" : "");
}
static socklen_t name(struct sockaddr_un *a, const char *text, int abstract) {
  memset(a, 0, sizeof *a);
  a->sun_family = AF_UNIX;
  strcpy(a->sun_path + abstract, text);
  return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(text) + 1);
}
static long send_files(int s, const char *text, int count, const int *files, int credentials) {
  char control[300] = "";
  struct iovec v = {(char *)text, strlen(text)};
  struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control};
  struct cmsghdr *c = (void *)control;
  if (count) {
    c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count), c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS;
    memcpy(CMSG_DATA(c), files, sizeof(int) * (size_t)count);
    m.msg_controllen += CMSG_SPACE(sizeof(int) * (size_t)count);
    c = (void *)(control + m.msg_controllen);
  }
  if (credentials) {
    struct ucred u = {getpid() + (credentials == 2 ? 54321 : 0), getuid(), getgid()};
    c->cmsg_len = CMSG_LEN(sizeof u), c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_CREDENTIALS;
    memcpy(CMSG_DATA(c), &u, sizeof u);
    m.msg_controllen += CMSG_SPACE(sizeof u);
  }
  return sendmsg(s, &m, 0);
}
// What comes, and how many descriptors with it; the last one is returned.
static int receive(const char *what, int s, size_t room, size_t control_room, int flags) {
  char text[1000] = "", control[300] = "";
  struct iovec v = {text, room};
  struct sockaddr_un from;
  struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = control_room, .msg_name = &from, .msg_namelen = sizeof from};
  ssize_t n = recvmsg(s, &m, flags);
  if (n < 0) return printf("%s: %s\n", what, strerror(errno)), -1;
  printf("%s: %zd '%s'%s%s", what, n, text, m.msg_flags & MSG_TRUNC ? " cut" : "", m.msg_flags & MSG_CTRUNC ? " control cut" : "");
  int last = -1;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
    if (c->cmsg_type == SCM_RIGHTS) {
      size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      printf(" %zu files", count);
      for (size_t i = 0; i < count; i++) {
        if (last >= 0) close(last);
        memcpy(&last, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
      }
    } else if (c->cmsg_type == SCM_CREDENTIALS) {
      struct ucred u;
      memcpy(&u, CMSG_DATA(c), sizeof u);
      printf(" from us %d", u.pid == getpid() && u.uid == getuid() && u.gid == getgid());
    }
  }
  printf("\n");
  return last;
}
static int option(int s, int o) {
  int v = -1;
  socklen_t n = sizeof v;
  return getsockopt(s, SOL_SOCKET, o, &v, &n) ? -errno : v;
}
static int pair[2], listener;
static void *write_later(void *a) {
  usleep(20000);
  if (write(pair[1], "abc", 3) != 3) return NULL;
  usleep(20000);
  if (write(pair[1], "defg", 4) != 4) return NULL;
  return a;
}
static void *connect_later(void *a) {
  usleep(20000);
  struct sockaddr_un u;
  int s = socket(AF_UNIX, SOCK_STREAM, 0);
  socklen_t n = name(&u, "stream", 0);
  show("connected later", connect(s, (void *)&u, n));
  if (write(s, "hello", 5) != 5) return NULL;
  close(s);
  return a;
}
static void *drain(void *a) {
  static char text[100000];
  long sum = 0;
  for (ssize_t n; (n = read(pair[0], text, sizeof text)) > 0;)
    for (ssize_t i = 0; i < n; i++) sum = sum * 31 % 1000003 + (unsigned char)text[i];
  *(long *)a = sum;
  return a;
}

int main(void) {
  char directory[] = "/tmp/sockets-XXXXXX";
  mkdir("/tmp", 0777);
  if (!mkdtemp(directory) || chdir(directory)) return perror("directory"), 1;
  setvbuf(stdout, NULL, _IONBF, 0);
  signal(SIGPIPE, SIG_IGN);
  umask(022);
  char text[1000];
  show("unknown family", socket(77, SOCK_STREAM, 0));
  show("unknown type", socket(AF_UNIX, 9, 0));
  show("unknown protocol", socket(AF_UNIX, SOCK_STREAM, 7));
  show("stream pair", socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
  printf("cloexec %d type %d domain %d listens %d error %d\n", fcntl(pair[0], F_GETFD), option(pair[0], SO_TYPE), option(pair[0], SO_DOMAIN),
         option(pair[0], SO_ACCEPTCONN), option(pair[0], SO_ERROR));
  struct stat s;
  fstat(pair[0], &s);
  printf("socket %d\n", S_ISSOCK(s.st_mode));
  ready("empty", pair[0]);
  show("send", send(pair[1], "hello", 5, 0));
  show("write", write(pair[1], " world", 6));
  ready("full", pair[0]);
  int count = 0;
  ioctl(pair[0], FIONREAD, &count);
  printf("FIONREAD %d\n", count);
  show("peek", recv(pair[0], text, 8, MSG_PEEK));
  memset(text, 0, sizeof text);
  show("both", recv(pair[0], text, 100, 0));
  puts(text);
  show("nothing", recv(pair[0], text, 100, MSG_DONTWAIT));
  pthread_t thread;
  pthread_create(&thread, NULL, write_later, NULL);
  show("all", recv(pair[0], text, 7, MSG_WAITALL));
  pthread_join(thread, NULL);
  show("seek", lseek(pair[0], 0, SEEK_SET));
  show("pread", pread(pair[0], text, 1, 0));
  show("connected again", connect(pair[0], (void *)&(struct sockaddr_un){AF_UNIX, "x"}, 4));
  show("send to", sendto(pair[0], "x", 1, 0, (void *)&(struct sockaddr_un){AF_UNIX, "x"}, 4));
  struct timeval time = {0, 20000};
  show("timeout", setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time));
  show("timed out", recv(pair[0], text, 1, 0));

  int file = open("f", O_CREAT | O_RDWR, 0600);
  if (write(file, "contents", 8) != 8) return 1;
  int files[3] = {file, pair[0], file};
  show("send files", send_files(pair[1], "one", 3, files, 0));
  show("send more", send(pair[1], "two", 3, 0));
  int got = receive("received", pair[0], 100, 300, MSG_CMSG_CLOEXEC);
  printf("cloexec %d\n", fcntl(got, F_GETFD));
  show("read through it", pread(got, text, 100, 0));
  close(got);
  receive("rest", pair[0], 100, 300, 0);
  send_files(pair[1], "one", 3, files, 0);
  close(receive("little room", pair[0], 100, CMSG_SPACE(sizeof(int)), 0));
  send_files(pair[1], "one", 1, files, 0);
  receive("no room", pair[0], 100, 0, 0);
  send_files(pair[1], "four", 1, files, 0);
  close(receive("peek", pair[0], 100, 300, MSG_PEEK));
  close(receive("taken", pair[0], 2, 300, 0));
  receive("the rest", pair[0], 100, 300, 0);
  show("bad file", send_files(pair[1], "x", 1, (int[]){99}, 0));
  int on = 1;
  show("credentials wanted", setsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
  show("with them", send_files(pair[1], "me", 0, NULL, 1));
  receive("credentials", pair[0], 100, 300, 0);
  show("without", send(pair[1], "me too", 6, 0));
  receive("credentials", pair[0], 100, 300, 0);
  receive("none", pair[0], 100, 300, MSG_DONTWAIT);
  show("with them", send_files(pair[1], "me", 0, NULL, 1));
  char control[300];
  struct iovec part = {text, 10};
  struct msghdr endless = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control};
  endless.msg_controllen--;
  show("more room than memory", recvmsg(pair[0], &endless, 0));
  printf("of it %lu\n", (unsigned long)endless.msg_controllen);
  struct ucred u;
  socklen_t n = sizeof u;
  show("peer", getsockopt(pair[0], SOL_SOCKET, SO_PEERCRED, &u, &n));
  printf("us %d\n", u.pid == getpid() && u.uid == getuid());

  show("shutdown", shutdown(pair[1], SHUT_WR));
  ready("after it", pair[0]);
  ready("the other", pair[1]);
  show("end", read(pair[0], text, 1));
  show("no more", send(pair[1], "x", 1, MSG_NOSIGNAL));
  show("back", send(pair[0], "back", 4, 0));
  show("read", read(pair[1], text, 10));
  show("wrong", shutdown(pair[1], 5));
  close(pair[1]);
  ready("closed", pair[0]);
  show("write", write(pair[0], "x", 1));
  show("end", read(pair[0], text, 1));
  close(pair[0]);
  socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
  show("unread", write(pair[1], "unread", 6));
  close(pair[0]);
  ready("reset", pair[1]);
  show("reset", read(pair[1], text, 1));
  show("then the end", read(pair[1], text, 1));
  close(pair[1]);

  struct sockaddr_un a;
  listener = socket(AF_UNIX, SOCK_STREAM, 0);
  ready("fresh", listener);
  show("not connected", send(listener, "x", 1, 0));
  show("not connected", recv(listener, text, 1, 0));
  show("no peer", getpeername(listener, (void *)&a, &(socklen_t){sizeof a}));
  show("listen without a name", listen(listener, 5));
  n = name(&a, "stream", 0);
  show("bind", bind(listener, (void *)&a, n));
  show("bind again", bind(listener, (void *)&a, n));
  stat("stream", &s);
  printf("mode %o\n", s.st_mode);
  int second = socket(AF_UNIX, SOCK_STREAM, 0);
  show("taken", bind(second, (void *)&a, n));
  show("nobody listens", connect(second, (void *)&a, n));
  show("accept", accept(listener, NULL, NULL));
  show("listen", listen(listener, 1));
  printf("listens %d\n", option(listener, SO_ACCEPTCONN));
  ready("nobody there", listener);
  show("connect", connect(second, (void *)&a, n));
  ready("somebody", listener);
  show("sent before", write(second, "early", 5));
  struct sockaddr_un b;
  memset(&b, 0, sizeof b);
  n = sizeof b;
  int accepted = accept4(listener, (void *)&b, &n, SOCK_NONBLOCK);
  printf("address of %d bytes family %d\n", (int)n, b.sun_family);
  printf("nonblocking %d\n", !!(fcntl(accepted, F_GETFL) & O_NONBLOCK));
  n = sizeof b;
  show("its name", getsockname(accepted, (void *)&b, &n));
  printf("%s %d\n", b.sun_path, (int)n);
  n = sizeof b;
  show("the other's peer", getpeername(second, (void *)&b, &n));
  printf("%s\n", b.sun_path);
  n = 4;
  show("cut off", getsockname(accepted, (void *)&b, &n));
  printf("%d\n", (int)n);
  show("read", read(accepted, text, 100));
  show("nothing", read(accepted, text, 100));
  pthread_create(&thread, NULL, connect_later, NULL);
  int third = accept(listener, NULL, NULL);
  pthread_join(thread, NULL);
  show("read", read(third, text, 100));
  show("end", read(third, text, 100));
  int many[4];
  n = name(&a, "stream", 0);
  for (int i = 0; i < 3; i++) {
    many[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    show("backlog", connect(many[i], (void *)&a, n));
  }
  close(listener);
  ready("refused in the backlog", many[0]);
  show("reset", read(many[0], text, 1));
  show("refused", connect(many[2], (void *)&a, n));
  show("no such", connect(many[2], (void *)&a, name(&a, "nope", 0)));
  show("no socket", connect(many[2], (void *)&a, name(&a, "f", 0)));
  show("wrong family", connect(many[2], (void *)&(struct sockaddr){.sa_family = AF_INET}, 16));
  show("open", open("stream", O_RDWR));
  for (int i = 0; i < 3; i++) close(many[i]);

  listener = socket(AF_UNIX, SOCK_SEQPACKET, 0);
  char unique[40];
  snprintf(unique, sizeof unique, "abstract-%d", getpid());
  n = name(&a, unique, 1);
  show("abstract", bind(listener, (void *)&a, n));
  listen(listener, 5);
  int other = socket(AF_UNIX, SOCK_SEQPACKET, 0);
  show("taken", bind(other, (void *)&a, n));
  show("not connected", send(other, "x", 1, 0));
  show("connect", connect(other, (void *)&a, n));
  accepted = accept(listener, NULL, NULL);
  show("send", send(other, "first", 5, 0));
  show("send", send(other, "second", 6, 0));
  receive("cut", accepted, 3, 300, 0);
  receive("whole", accepted, 100, 300, 0);
  show("send", send(other, "third", 5, 0));
  show("length", recv(accepted, text, 2, MSG_TRUNC));
  close(other);
  show("end", recv(accepted, text, 2, 0));
  show("EPIPE", send(accepted, "x", 1, MSG_NOSIGNAL));
  memset(&b, 0, sizeof b);
  n = sizeof b;
  getsockname(listener, (void *)&b, &n);
  printf("abstract name %d bytes, %d\n", (int)n - (int)strlen(unique), b.sun_path[0] == 0 && !strcmp(b.sun_path + 1, unique));

  int d = socket(AF_UNIX, SOCK_DGRAM, 0), e = socket(AF_UNIX, SOCK_DGRAM, 0);
  n = name(&a, "datagrams", 0);
  show("bind", bind(d, (void *)&a, n));
  show("listen", listen(d, 1));
  show("nowhere", send(e, "x", 1, 0));
  show("to it", sendto(e, "message", 7, 0, (void *)&a, n));
  show("empty", sendto(e, "", 0, 0, (void *)&a, n));
  receive("got", d, 100, 300, 0);
  receive("got", d, 100, 300, 0);
  receive("none", d, 100, 300, MSG_DONTWAIT);
  show("connect", connect(e, (void *)&a, n));
  show("to whom", send(e, "again", 5, 0));
  show("unnamed", bind(e, (void *)&a, sizeof(sa_family_t)));
  show("named", send(e, "named", 5, 0));
  receive("got", d, 100, 300, 0);
  memset(&b, 0, sizeof b);
  n = sizeof b;
  show("from", recvfrom(d, text, 100, 0, (void *)&b, &n));
  printf("name of %d bytes\n", (int)n);
  show("answer", sendto(d, "answer", 6, 0, (void *)&b, n));
  receive("answered", e, 100, 300, 0);
  show("wrong kind", connect(second, (void *)&a, name(&a, "datagrams", 0)));
  int st = socket(AF_UNIX, SOCK_STREAM, 0);
  show("wrong kind", connect(st, (void *)&a, name(&a, "datagrams", 0)));
  fcntl(e, F_SETFL, O_NONBLOCK);
  int sent = 0;
  while (send(e, "fill", 4, 0) == 4) sent++;
  printf("queue %d %s\n", sent, strerror(errno));
  ready("full", e);
  read(d, text, 100);
  ready("not full", e);
  static char huge[300000];
  show("too long", send(e, huge, sizeof huge, 0));
  close(d);
  show("gone", send(e, "x", 1, 0));
  show("gone", send(e, "x", 1, 0));

  socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
  int size = 20000;
  show("size", setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof size));
  printf("size %d\n", option(pair[1], SO_SNDBUF));
  show("unknown option", setsockopt(pair[1], SOL_SOCKET, 999, &size, sizeof size));
  show("unknown option", getsockopt(pair[1], SOL_SOCKET, 999, &size, &(socklen_t){4}));
  show("other level", setsockopt(pair[1], 6, 1, &size, sizeof size));
  long sum = 0, expected = 0;
  pthread_create(&thread, NULL, drain, &sum);
  for (int i = 0; i < 300000; i++) huge[i] = (char)(i / 7), expected = expected * 31 % 1000003 + (unsigned char)huge[i];
  show("much", write(pair[1], huge, sizeof huge));
  close(pair[1]);
  pthread_join(thread, NULL);
  printf("same %d\n", sum == expected);
  close(pair[0]);

  socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
  int epoll = epoll_create1(0);
  struct epoll_event wanted = {.events = EPOLLIN | EPOLLRDHUP, .data.u64 = 7}, event;
  epoll_ctl(epoll, EPOLL_CTL_ADD, pair[0], &wanted);
  show("quiet", epoll_wait(epoll, &event, 1, 0));
  pthread_create(&thread, NULL, write_later, NULL);
  show("event", epoll_wait(epoll, &event, 1, -1));
  printf("%x\n", event.events);
  pthread_join(thread, NULL);
  show("read", read(pair[0], text, 100));
  close(pair[1]);
  show("event", epoll_wait(epoll, &event, 1, -1));
  printf("%x\n", event.events);
  show("no socket", send(file, "x", 1, 0));
  show("no socket", listen(0, 1));
  show("splice", splice(pair[0], NULL, file, NULL, 10, 0));
  return 0;
}
