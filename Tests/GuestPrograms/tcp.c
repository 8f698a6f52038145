// TCP over loopback: connections, names, ends, errors, options, urgent data, readiness, for both families.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

static char text[1 << 20];

static void show(const char *what, long result) {
  if (result < 0) printf("%s: %s\n", what, strerror(errno));
  else printf("%s: %ld\n", what, result);
}
static int events(int f) {
  struct pollfd p = {f, POLLIN | POLLOUT | POLLRDHUP | POLLPRI, 0};
  poll(&p, 1, 0);
  return p.revents;
}
static void ready(const char *what, int f) {
  int e = events(f);
  printf("%s:%s%s%s%s%s%s\n", what, e & POLLIN ? " in" : "", e & POLLPRI ? " pri" : "", e & POLLOUT ? " out" : "", e & POLLHUP ? " hup" : "", e & POLLERR ? " err" : "",
         e & POLLRDHUP ? " rdhup" : "");
}
// Waits, for a second at most, until all of that is so: a packet may take a moment.
static void until(const char *what, int f, int wanted) {
  for (int i = 0; i < 1000 && (events(f) & wanted) != wanted; i++) usleep(1000);
  ready(what, f);
}
static int family;
static struct sockaddr_storage storage;
static socklen_t name_size;
static void *loopback(int port) {
  memset(&storage, 0, sizeof storage);
  if (family == AF_INET) {
    struct sockaddr_in *a = (void *)&storage;
    *a = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((unsigned short)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    name_size = sizeof *a;
  } else {
    struct sockaddr_in6 *a = (void *)&storage;
    *a = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons((unsigned short)port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    name_size = sizeof *a;
  }
  return &storage;
}
static int port(int s) {
  struct sockaddr_storage a;
  socklen_t n = sizeof a;
  getsockname(s, (void *)&a, &n);
  return ntohs(a.ss_family == AF_INET ? ((struct sockaddr_in *)&a)->sin_port : ((struct sockaddr_in6 *)&a)->sin6_port);
}
static void name(const char *what, int (*get)(int, struct sockaddr *restrict, socklen_t *restrict), int s, int expected) {
  struct sockaddr_storage a;
  socklen_t n = sizeof a;
  char t[100] = "?";
  if (get(s, (void *)&a, &n)) return show(what, -1);
  int p = 0;
  if (a.ss_family == AF_INET) inet_ntop(AF_INET, &((struct sockaddr_in *)&a)->sin_addr, t, sizeof t), p = ((struct sockaddr_in *)&a)->sin_port;
  if (a.ss_family == AF_INET6) inet_ntop(AF_INET6, &((struct sockaddr_in6 *)&a)->sin6_addr, t, sizeof t), p = ((struct sockaddr_in6 *)&a)->sin6_port;
  printf("%s: %s %s\n", what, t, ntohs((unsigned short)p) == expected ? "expected" : p ? "some" : "none");
}
static int option(int s, int level, int o) {
  int v = -12345;
  socklen_t n = sizeof v;
  return getsockopt(s, level, o, &v, &n) ? -errno : v;
}
static int set(int s, int level, int o, int v) { return setsockopt(s, level, o, &v, sizeof v); }
static int listener(int backlog) {
  int s = socket(family, SOCK_STREAM, 0);
  set(s, SOL_SOCKET, SO_REUSEADDR, 1);
  if (bind(s, loopback(0), name_size) || listen(s, backlog)) show("listener", -1);
  return s;
}
// Two ends of a connection.
static void pair(int ends[2]) {
  int l = listener(5);
  ends[0] = socket(family, SOCK_STREAM, 0);
  if (connect(ends[0], loopback(port(l)), name_size)) show("connect", -1);
  ends[1] = accept(l, NULL, NULL);
  close(l);
}

static void connections(void) {
  int l = socket(family, SOCK_STREAM, 0), c = socket(family, SOCK_STREAM, 0);
  ready("fresh", c);
  show("send", send(c, "x", 1, MSG_NOSIGNAL));
  show("receive", recv(c, text, 1, 0));
  name("no peer", getpeername, c, 0);
  name("no name", getsockname, c, 0);
  show("accept", accept(l, NULL, NULL));
  show("shutdown", shutdown(l, SHUT_WR));
  close(l);
  l = socket(family, SOCK_STREAM, 0);
  show("bind", bind(l, loopback(0), name_size));
  int p = port(l);
  show("nobody listens", connect(c, loopback(p), name_size));
  close(c), c = socket(family, SOCK_STREAM, 0);
  printf("listens %d\n", option(l, SOL_SOCKET, SO_ACCEPTCONN));
  show("listen", listen(l, 3));
  show("again", listen(l, 5));
  printf("listens %d\n", option(l, SOL_SOCKET, SO_ACCEPTCONN));
  ready("nobody", l);
  show("connect of a listener", connect(l, loopback(p), name_size));
  int other = socket(family, SOCK_STREAM, 0);
  show("taken", bind(other, loopback(p), name_size));
  set(other, SOL_SOCKET, SO_REUSEADDR, 1);
  show("taken", bind(other, loopback(p), name_size));
  close(other);
  show("wrong family", connect(c, (void *)&(struct sockaddr){.sa_family = AF_UNIX}, sizeof(struct sockaddr)));
  show("too short", connect(c, loopback(p), 8));
  show("connect", connect(c, loopback(p), name_size));
  show("again", connect(c, loopback(p), name_size));
  ready("connected", c);
  until("somebody", l, POLLIN);
  name("peer", getpeername, c, p);
  name("own", getsockname, c, p);
  int s = accept4(l, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  printf("flags %d %d\n", !!(fcntl(s, F_GETFL) & O_NONBLOCK), fcntl(s, F_GETFD));
  name("server", getsockname, s, p);
  name("its peer", getpeername, s, port(c));
  show("nothing", recv(s, text, 10, 0));
  show("send", send(c, "hello", 5, 0));
  until("hello", s, POLLIN);
  int count = -1;
  ioctl(s, FIONREAD, &count);
  printf("FIONREAD %d\n", count);
  show("peek", recv(s, text, 3, MSG_PEEK));
  show("cut", recv(s, text, 3, MSG_TRUNC));
  memset(text, 0, 10);
  show("rest", recv(s, text, 10, 0));
  puts(text);
  struct iovec v[3] = {{"one ", 4}, {"two ", 4}, {"three", 5}};
  show("writev", writev(c, v, 3));
  memset(text, 0, 20);
  for (long n = 0, r; n < 13 && (until("some", s, POLLIN), r = read(s, text + n, 20)) > 0;) n += r;
  puts(text);
  show("send to", sendto(c, "x", 1, 0, loopback(1), name_size));
  char x;
  show("received", recv(s, &x, 1, 0) == 1 || errno == EAGAIN ? 0 : -1);
  show("seek", lseek(c, 0, SEEK_SET));
  show("listen when connected", listen(c, 1));
  show("bind when connected", bind(c, loopback(0), name_size));
  // Half closed.
  show("shutdown", shutdown(c, SHUT_WR));
  until("rdhup", s, POLLRDHUP);
  while (recv(s, text, 100, 0) > 0) continue;
  show("end", recv(s, text, 10, 0));
  show("no more", send(c, "x", 1, MSG_NOSIGNAL));
  show("back", send(s, "back", 4, 0));
  show("received", recv(c, text, 10, 0));
  show("shutdown", shutdown(s, SHUT_WR));
  until("over", c, POLLHUP);
  show("end", recv(c, text, 10, 0));
  close(s), close(c);
  // Gone with unread bytes: the other end is told.
  int ends[2];
  pair(ends);
  show("send", send(ends[0], "unread", 6, 0));
  until("unread", ends[1], POLLIN);
  close(ends[1]);
  until("reset", ends[0], POLLERR);
  show("reset", recv(ends[0], text, 10, 0));
  show("then the end", recv(ends[0], text, 10, 0));
  show("broken", send(ends[0], "x", 1, MSG_NOSIGNAL));
  close(ends[0]);
  pair(ends);
  struct linger linger = {1, 0};
  show("linger", setsockopt(ends[1], SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
  close(ends[1]);
  until("aborted", ends[0], POLLERR);
  printf("error %d\n", option(ends[0], SOL_SOCKET, SO_ERROR) == ECONNRESET);
  printf("error %d\n", option(ends[0], SOL_SOCKET, SO_ERROR));
  close(ends[0]);
  close(l);
  c = socket(family, SOCK_STREAM, 0);
  show("nobody any more", connect(c, loopback(p), name_size));
  close(c);
}

static void *drain(void *a) {
  static char part[70000];
  long sum = 0;
  for (ssize_t n; (n = read(*(int *)a, part, sizeof part)) > 0;)
    for (ssize_t i = 0; i < n; i++) sum = (sum * 31 + (unsigned char)part[i]) % 1000003;
  return (void *)sum;
}

static void streams(void) {
  int ends[2];
  pair(ends);
  pthread_t thread;
  long sum = 0;
  for (size_t i = 0; i < sizeof text; i++) text[i] = (char)(i * 7 >> 3);
  for (int round = 0; round < 8; round++)
    for (size_t i = 0; i < sizeof text; i++) sum = (sum * 31 + (unsigned char)text[i]) % 1000003;
  pthread_create(&thread, NULL, drain, &ends[1]);
  long sent = 0;
  for (int round = 0; round < 8; round++)
    for (size_t n = 0; n < sizeof text;) {
      ssize_t r = write(ends[0], text + n, sizeof text - n < 123456 ? sizeof text - n : 123456);
      if (r <= 0) break;
      n += (size_t)r, sent += r;
    }
  printf("sent %ld\n", sent);
  shutdown(ends[0], SHUT_WR);
  void *result;
  pthread_join(thread, &result);
  printf("same %d\n", (long)result == sum);
  close(ends[0]), close(ends[1]);
  // From a file.
  char path[] = "/tmp/tcp-XXXXXX";
  int file = mkstemp(path);
  unlink(path);
  show("file", write(file, text, 300000));
  sum = 0;
  for (int i = 0; i < 300000; i++) sum = (sum * 31 + (unsigned char)text[i]) % 1000003;
  pair(ends);
  pthread_create(&thread, NULL, drain, &ends[1]);
  off_t offset = 0;
  while (offset < 300000 && sendfile(ends[0], file, &offset, (size_t)(300000 - offset)) > 0) continue;
  printf("offset %ld\n", (long)offset);
  shutdown(ends[0], SHUT_WR);
  pthread_join(thread, &result);
  printf("same %d\n", (long)result == sum);
  close(ends[0]), close(ends[1]), close(file);
  // Full, and room again.
  pair(ends);
  fcntl(ends[0], F_SETFL, O_NONBLOCK);
  sent = 0;
  for (ssize_t n; (n = write(ends[0], text, 65536)) > 0;) sent += n;
  show("full", -1);
  printf("took much %d\n", sent > 100000);
  printf("writable %d\n", !!(events(ends[0]) & POLLOUT));
  long received = 0;
  while (received < sent) {
    ssize_t n = read(ends[1], text, sizeof text);
    if (n <= 0) break;
    received += n;
  }
  printf("all %d\n", received == sent);
  until("room", ends[0], POLLOUT);
  close(ends[0]), close(ends[1]);
}

static int shared[2];
static void *write_later(void *a) {
  usleep(20000);
  if (write(shared[0], "abc", 3) != 3) return NULL;
  usleep(20000);
  if (write(shared[0], "defg", 4) != 4) return NULL;
  return a;
}

static void waiting(void) {
  pair(shared);
  pthread_t thread;
  pthread_create(&thread, NULL, write_later, NULL);
  show("all", recv(shared[1], text, 7, MSG_WAITALL));
  pthread_join(thread, NULL);
  struct timeval time = {0, 20000};
  show("timeout", setsockopt(shared[1], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time));
  show("timed out", recv(shared[1], text, 1, 0));
  time.tv_usec = 0;
  setsockopt(shared[1], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
  // Only when there are five.
  show("low mark", set(shared[1], SOL_SOCKET, SO_RCVLOWAT, 5));
  show("three", write(shared[0], "abc", 3));
  usleep(20000);
  ready("too few", shared[1]);
  show("three", write(shared[0], "def", 3));
  until("enough", shared[1], POLLIN);
  show("read", read(shared[1], text, 10));
  set(shared[1], SOL_SOCKET, SO_RCVLOWAT, 1);

  int e = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u32 = 7}, got[4];
  show("add", epoll_ctl(e, EPOLL_CTL_ADD, shared[1], &event));
  show("edge", epoll_wait(e, got, 4, 1000));
  printf("%x %u\n", got[0].events, got[0].data.u32);
  show("no more", epoll_wait(e, got, 4, 0));
  show("write", write(shared[0], "x", 1));
  show("edge", epoll_wait(e, got, 4, 1000));
  printf("%x\n", got[0].events);
  show("no more", epoll_wait(e, got, 4, 20));
  show("write", write(shared[0], "y", 1));
  show("another", epoll_wait(e, got, 4, 1000));
  show("read", recv(shared[1], text, 10, 0));
  event.events = EPOLLIN;
  show("level", epoll_ctl(e, EPOLL_CTL_MOD, shared[1], &event));
  show("nothing", epoll_wait(e, got, 4, 0));
  show("write", write(shared[0], "z", 1));
  show("level", epoll_wait(e, got, 4, 1000));
  show("still", epoll_wait(e, got, 4, 0));
  event.events = EPOLLIN | EPOLLONESHOT;
  show("once", epoll_ctl(e, EPOLL_CTL_MOD, shared[1], &event));
  show("once", epoll_wait(e, got, 4, 0));
  show("not again", epoll_wait(e, got, 4, 0));
  show("rearmed", epoll_ctl(e, EPOLL_CTL_MOD, shared[1], &event));
  show("once more", epoll_wait(e, got, 4, 0));
  show("read", read(shared[1], text, 10));
  event.events = EPOLLIN | EPOLLRDHUP;
  epoll_ctl(e, EPOLL_CTL_MOD, shared[1], &event);
  close(shared[0]);
  show("closed", epoll_wait(e, got, 4, 1000));
  printf("%x\n", got[0].events);
  show("delete", epoll_ctl(e, EPOLL_CTL_DEL, shared[1], NULL));
  close(shared[1]);
  // Two epolls that share a listener.
  int l = listener(5), f = epoll_create1(0);
  event = (struct epoll_event){.events = EPOLLIN | EPOLLEXCLUSIVE};
  show("exclusive", epoll_ctl(e, EPOLL_CTL_ADD, l, &event));
  show("exclusive", epoll_ctl(f, EPOLL_CTL_ADD, l, &event));
  show("changed", epoll_ctl(e, EPOLL_CTL_MOD, l, &event));
  event.events = EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT;
  show("wrong", epoll_ctl(e, EPOLL_CTL_ADD, shared[1] = dup(l), &event));
  close(shared[1]);
  int c = socket(family, SOCK_STREAM, 0);
  show("connect", connect(c, loopback(port(l)), name_size));
  show("one of them", epoll_wait(e, got, 4, 100) + epoll_wait(f, got, 4, 100) >= 1);
  close(accept(l, NULL, NULL));
  close(c), close(l), close(e), close(f);
}

static void later(void) {
  int l = listener(5), c = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0);
  long r = connect(c, loopback(port(l)), name_size);
  printf("at once or in progress %d\n", r == 0 || errno == EINPROGRESS);
  until("connected", c, POLLOUT);
  printf("error %d\n", option(c, SOL_SOCKET, SO_ERROR));
  r = connect(c, loopback(port(l)), name_size);
  printf("connected or just so %d\n", r == 0 || errno == EISCONN);
  close(c);
  int p = port(l);
  close(l);
  c = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0);
  r = connect(c, loopback(p), name_size);
  printf("refused or in progress %d\n", r < 0 && (errno == EINPROGRESS || errno == ECONNREFUSED));
  if (errno == EINPROGRESS) {
    for (int i = 0; i < 1000 && !(events(c) & POLLERR); i++) usleep(1000);
    printf("refused %d\n", option(c, SOL_SOCKET, SO_ERROR) == ECONNREFUSED);
  } else {
    printf("refused 1\n");
  }
  close(c);
  l = listener(5);
  show("none there", fcntl(l, F_SETFL, O_NONBLOCK));
  show("none there", accept(l, NULL, NULL));
  close(l);
}

static void options(void) {
  int s = socket(family, SOCK_STREAM, 0);
  printf("type %d protocol %d domain %d\n", option(s, SOL_SOCKET, SO_TYPE), option(s, SOL_SOCKET, SO_PROTOCOL), option(s, SOL_SOCKET, SO_DOMAIN) == family);
  printf("nodelay %d cork %d keepalive %d idle %d interval %d count %d\n", option(s, 6, TCP_NODELAY), option(s, 6, TCP_CORK), option(s, SOL_SOCKET, SO_KEEPALIVE),
         option(s, 6, TCP_KEEPIDLE), option(s, 6, TCP_KEEPINTVL), option(s, 6, TCP_KEEPCNT));
  printf("syn count %d linger %d defer %d timeout %d quick %d\n", option(s, 6, TCP_SYNCNT), option(s, 6, TCP_LINGER2), option(s, 6, TCP_DEFER_ACCEPT),
         option(s, 6, TCP_USER_TIMEOUT), option(s, 6, TCP_QUICKACK) >= 0);
  show("nodelay", set(s, 6, TCP_NODELAY, 1));
  show("keepalive", set(s, SOL_SOCKET, SO_KEEPALIVE, 1));
  show("idle", set(s, 6, TCP_KEEPIDLE, 30));
  show("idle 0", set(s, 6, TCP_KEEPIDLE, 0));
  show("interval", set(s, 6, TCP_KEEPINTVL, 5));
  show("count", set(s, 6, TCP_KEEPCNT, 3));
  show("count", set(s, 6, TCP_KEEPCNT, 300));
  show("timeout", set(s, 6, TCP_USER_TIMEOUT, 10000));
  show("unknown", set(s, 6, 999, 1));
  show("too short", setsockopt(s, 6, TCP_NODELAY, "", 1));
  printf("nodelay %d idle %d interval %d count %d timeout %d\n", option(s, 6, TCP_NODELAY), option(s, 6, TCP_KEEPIDLE), option(s, 6, TCP_KEEPINTVL),
         option(s, 6, TCP_KEEPCNT), option(s, 6, TCP_USER_TIMEOUT));
  char congestion[20] = "";
  socklen_t n = sizeof congestion;
  show("congestion", setsockopt(s, 6, TCP_CONGESTION, "reno", 4));
  show("congestion", getsockopt(s, 6, TCP_CONGESTION, congestion, &n));
  puts(congestion);
  show("congestion", setsockopt(s, 6, TCP_CONGESTION, "nonsense", 8));
  show("multicast", set(s, SOL_IP, IP_MULTICAST_TTL, 3));
  close(s);
  int ends[2];
  pair(ends);
  struct tcp_info info;
  n = sizeof info;
  memset(&info, 0, sizeof info);
  show("info", getsockopt(ends[0], 6, TCP_INFO, &info, &n));
  printf("state %d mss %d\n", info.tcpi_state, info.tcpi_snd_mss > 500);
  printf("maximum segment %d\n", option(ends[0], 6, TCP_MAXSEG) > 500);
  // Nothing leaves before the cork does, or 200 ms.
  set(ends[0], 6, TCP_CORK, 1);
  show("corked", write(ends[0], "one", 3));
  usleep(5000);
  ready("nothing", ends[1]);
  set(ends[0], 6, TCP_CORK, 0);
  until("all", ends[1], POLLIN);
  show("read", read(ends[1], text, 10));
  close(ends[0]), close(ends[1]);
}

static void urgent(void) {
  int ends[2];
  pair(ends);
  show("before", send(ends[0], "abc", 3, 0));
  show("urgent", send(ends[0], "!", 1, MSG_OOB));
  show("after", send(ends[0], "def", 3, 0));
  until("urgent", ends[1], POLLIN | POLLPRI);
  int at = -1;
  ioctl(ends[1], SIOCATMARK, &at);
  printf("at the mark %d\n", at);
  memset(text, 0, 10);
  show("to the mark", recv(ends[1], text, 10, 0));
  puts(text);
  ioctl(ends[1], SIOCATMARK, &at);
  printf("at the mark %d\n", at);
  memset(text, 0, 10);
  show("urgent", recv(ends[1], text, 10, MSG_OOB));
  puts(text);
  show("no more", recv(ends[1], text, 10, MSG_OOB));
  memset(text, 0, 10);
  show("behind it", recv(ends[1], text, 10, 0));
  puts(text);
  set(ends[1], SOL_SOCKET, SO_OOBINLINE, 1);
  show("in line", send(ends[0], "xy", 2, MSG_OOB));
  until("urgent", ends[1], POLLIN | POLLPRI);
  memset(text, 0, 10);
  show("x", recv(ends[1], text, 10, 0));
  show("y", recv(ends[1], text + 1, 10, 0));
  puts(text);
  close(ends[0]), close(ends[1]);
}

// A server for all who come, a thread each; clients that ask it and compare.
static void *echo(void *a) {
  int s = (int)(long)a;
  char part[5000];
  for (ssize_t n; (n = read(s, part, sizeof part)) > 0;)
    for (ssize_t m = 0, w; m < n && (w = write(s, part + m, (size_t)(n - m))) > 0;) m += w;
  close(s);
  return NULL;
}
static void *server(void *a) {
  int l = (int)(long)a;
  for (int i = 0; i < 60; i++) {
    pthread_t thread;
    int s = accept(l, NULL, NULL);
    pthread_create(&thread, NULL, echo, (void *)(long)s);
    pthread_detach(thread);
  }
  return NULL;
}
static int server_port;
static void *client(void *a) {
  long good = 0;
  struct sockaddr_storage to = storage;
  for (int i = 0; i < 15; i++) {
    int s = socket(to.ss_family, SOCK_STREAM, 0);
    if (connect(s, (void *)&to, name_size)) break;
    char out[3000], in[3000];
    memset(out, 'a' + i, sizeof out);
    size_t got = 0;
    if (write(s, out, sizeof out) != sizeof out) break;
    for (ssize_t n; got < sizeof in && (n = read(s, in + got, sizeof in - got)) > 0;) got += (size_t)n;
    good += got == sizeof in && !memcmp(in, out, sizeof in);
    close(s);
  }
  return (void *)good;
}
static void many(void) {
  int l = listener(100);
  server_port = port(l);
  loopback(server_port);
  pthread_t s, c[4];
  pthread_create(&s, NULL, server, (void *)(long)l);
  for (int i = 0; i < 4; i++) pthread_create(&c[i], NULL, client, NULL);
  long sum = 0;
  for (int i = 0; i < 4; i++) {
    void *good;
    pthread_join(c[i], &good);
    sum += (long)good;
  }
  pthread_join(s, NULL);
  printf("good %ld of 60\n", sum);
  close(l);
}

int main(void) {
  setvbuf(stdout, NULL, _IONBF, 0);
  signal(SIGPIPE, SIG_IGN);
  for (int round = 0; round < 2; round++) {
    family = round ? AF_INET6 : AF_INET;
    printf("family %d\n", round ? 6 : 4);
    loopback(0);  // For its size.
    connections();
    streams();
    waiting();
    later();
    options();
    urgent();
    many();
  }
  return 0;
}
