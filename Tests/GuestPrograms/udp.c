// UDP over loopback: names, ports, connections, what is cut off, errors that come back, options, control messages, readiness.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

// struct sock_extended_err, which not every libc has.
struct extended_error {
  unsigned number;
  unsigned char origin, type, code, padding;
  unsigned information, data;
};

static char text[70000];

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
static struct sockaddr_in four(const char *address, int port) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
  inet_pton(AF_INET, address, &a.sin_addr);
  return a;
}
static struct sockaddr_in6 six(const char *address, int port) {
  struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons((unsigned short)port)};
  inet_pton(AF_INET6, address, &a.sin6_addr);
  return a;
}
static int port(int s) {
  struct sockaddr_storage a;
  socklen_t n = sizeof a;
  if (getsockname(s, (void *)&a, &n)) return -1;
  return ntohs(a.ss_family == AF_INET ? ((struct sockaddr_in *)&a)->sin_port : ((struct sockaddr_in6 *)&a)->sin6_port);
}
// An address; the port as "mine", "yours" or "some", for it is another one each time.
static void name(const char *what, const void *address, socklen_t n, int mine, int yours) {
  const struct sockaddr_storage *a = address;
  char t[100] = "?";
  int p = -1;
  if (n && a->ss_family == AF_INET) inet_ntop(AF_INET, &((struct sockaddr_in *)a)->sin_addr, t, sizeof t), p = ntohs(((struct sockaddr_in *)a)->sin_port);
  if (n && a->ss_family == AF_INET6) inet_ntop(AF_INET6, &((struct sockaddr_in6 *)a)->sin6_addr, t, sizeof t), p = ntohs(((struct sockaddr_in6 *)a)->sin6_port);
  printf("%s: %s %s (%d bytes)\n", what, t, p == mine ? "mine" : p == yours ? "yours" : p > 0 ? "some" : "none", (int)n);
}
static void own(const char *what, int s) {
  struct sockaddr_storage a;
  socklen_t n = sizeof a;
  if (getsockname(s, (void *)&a, &n)) return show(what, -1);
  name(what, &a, n, -2, -2);
}
static void from(const char *what, int s, int mine, int yours) {
  struct sockaddr_storage a;
  socklen_t n = sizeof a;
  memset(text, 0, 100);
  long r = recvfrom(s, text, sizeof text, MSG_DONTWAIT, (void *)&a, &n);
  if (r < 0) return show(what, r);
  printf("%s: %ld '%.50s' ", what, r, text);
  name("from", &a, n, mine, yours);
}
static int option(int s, int level, int o) {
  int v = -12345;
  socklen_t n = sizeof v;
  return getsockopt(s, level, o, &v, &n) ? -errno : v;
}
static int set(int s, int level, int o, int v) { return setsockopt(s, level, o, &v, sizeof v); }
static void control(const char *what, int s, int flags) {
  char c[500];
  struct sockaddr_storage a = {0};
  struct iovec v = {text, sizeof text};
  struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c, .msg_name = &a, .msg_namelen = sizeof a};
  memset(text, 0, 100);
  long r = recvmsg(s, &m, flags | MSG_DONTWAIT);
  if (r < 0) return show(what, r);
  printf("%s: %ld '%.30s' flags %x family %d\n", what, r, text, m.msg_flags, a.ss_family);
  for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
    printf("  level %d type %d length %d", h->cmsg_level, h->cmsg_type, (int)(h->cmsg_len - CMSG_LEN(0)));
    if (h->cmsg_level == SOL_SOCKET) {
      struct timespec t;
      struct timeval u;
      time_t now = time(NULL);
      memcpy(&t, CMSG_DATA(h), sizeof t);
      memcpy(&u, CMSG_DATA(h), sizeof u);
      printf(" now %d", t.tv_sec - now <= 1 && now - t.tv_sec <= 1);
    } else if (h->cmsg_level == SOL_IP && h->cmsg_type == IP_PKTINFO) {
      struct in_pktinfo p;
      char d[50], e[50];
      memcpy(&p, CMSG_DATA(h), sizeof p);
      printf(" interface %d %s %s", p.ipi_ifindex, inet_ntop(AF_INET, &p.ipi_spec_dst, d, 50), inet_ntop(AF_INET, &p.ipi_addr, e, 50));
    } else if (h->cmsg_level == SOL_IPV6 && h->cmsg_type == IPV6_PKTINFO) {
      struct in6_pktinfo p;
      char d[50];
      memcpy(&p, CMSG_DATA(h), sizeof p);
      printf(" interface %d %s", p.ipi6_ifindex, inet_ntop(AF_INET6, &p.ipi6_addr, d, 50));
    } else if (h->cmsg_type == IP_RECVERR || (h->cmsg_level == SOL_IPV6 && h->cmsg_type == IPV6_RECVERR)) {
      struct extended_error e;
      char d[50] = "";
      memcpy(&e, CMSG_DATA(h), sizeof e);
      struct sockaddr_storage o;
      memcpy(&o, CMSG_DATA(h) + sizeof e, h->cmsg_len - CMSG_LEN(0) - sizeof e);
      if (o.ss_family == AF_INET) inet_ntop(AF_INET, &((struct sockaddr_in *)&o)->sin_addr, d, 50);
      if (o.ss_family == AF_INET6) inet_ntop(AF_INET6, &((struct sockaddr_in6 *)&o)->sin6_addr, d, 50);
      printf(" %s origin %d type %d code %d by %s", strerror((int)e.number), e.origin, e.type, e.code, d);
    } else {
      int value = 0;
      memcpy(&value, CMSG_DATA(h), h->cmsg_len - CMSG_LEN(0) < 4 ? h->cmsg_len - CMSG_LEN(0) : 4);
      printf(" %d", value);
    }
    printf("\n");
  }
}

static void kinds(void) {
  show("raw without a protocol", socket(AF_INET, SOCK_RAW, 0));
  show("stream of UDP", socket(AF_INET, SOCK_STREAM, IPPROTO_UDP));
  show("datagrams of TCP", socket(AF_INET, SOCK_DGRAM, IPPROTO_TCP));
  show("sequenced", socket(AF_INET, SOCK_SEQPACKET, 0));
  show("protocol too large", socket(AF_INET, SOCK_DGRAM, 1000));
  show("type too large", socket(AF_INET, 12, 0));
  show("pair", socketpair(AF_INET, SOCK_DGRAM, 0, (int[2]){0}));
  int s = socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_UDP);
  printf("type %d domain %d protocol %d\n", option(s, SOL_SOCKET, SO_TYPE), option(s, SOL_SOCKET, SO_DOMAIN), option(s, SOL_SOCKET, SO_PROTOCOL));
  own("unbound", s);
  close(s);
}

static void binding(void) {
  int s = socket(AF_INET, SOCK_DGRAM, 0), t = socket(AF_INET, SOCK_DGRAM, 0);
  struct sockaddr_in a = four("127.0.0.1", 0);
  show("too short", bind(s, (void *)&a, 8));
  a.sin_family = AF_INET6;
  show("other family", bind(s, (void *)&a, sizeof a));
  a = four("203.0.113.7", 0);
  show("not ours", bind(s, (void *)&a, sizeof a));
  a = four("127.0.0.1", 0);
  show("bind", bind(s, (void *)&a, sizeof a));
  own("bound", s);
  printf("in range %d\n", port(s) >= 32768 && port(s) <= 60999);
  show("again", bind(s, (void *)&a, sizeof a));
  a = four("127.0.0.1", port(s));
  show("taken", bind(t, (void *)&a, sizeof a));
  a = four("0.0.0.0", port(s));
  show("all taken", bind(t, (void *)&a, sizeof a));
  a = four("127.0.0.2", port(s));
  show("another address", bind(t, (void *)&a, sizeof a));
  close(t);
  t = socket(AF_INET6, SOCK_DGRAM, 0);
  struct sockaddr_in6 b = six("::", port(s));
  show("all of both", bind(t, (void *)&b, sizeof b));
  set(t, SOL_IPV6, IPV6_V6ONLY, 1);
  show("all of IPv6", bind(t, (void *)&b, sizeof b));
  show("too late", set(t, SOL_IPV6, IPV6_V6ONLY, 0));
  close(t);
  t = socket(AF_INET6, SOCK_DGRAM, 0);
  b = six("fe80::1", 0);
  show("link-local", bind(t, (void *)&b, sizeof b));
  b = six("::ffff:127.0.0.1", 0);
  show("mapped", bind(t, (void *)&b, sizeof b));
  own("mapped", t);
  close(t);
  close(s);
  s = socket(AF_INET, SOCK_DGRAM, 0), t = socket(AF_INET, SOCK_DGRAM, 0);
  set(s, SOL_SOCKET, SO_REUSEADDR, 1), set(t, SOL_SOCKET, SO_REUSEADDR, 1);
  a = four("127.0.0.1", 0);
  bind(s, (void *)&a, sizeof a);
  a = four("127.0.0.1", port(s));
  show("shared", bind(t, (void *)&a, sizeof a));
  int u = socket(AF_INET, SOCK_DGRAM, 0);
  sendto(u, "x", 1, 0, (void *)&a, sizeof a);
  ready("first", s);
  ready("last", t);
  close(s), close(t), close(u);
}

static void messages(int family) {
  struct sockaddr_in a4;
  struct sockaddr_in6 a6;
  void *a;
  socklen_t n;
  if (family == AF_INET) a4 = four("127.0.0.1", 0), a = &a4, n = sizeof a4;
  else a6 = six("::1", 0), a = &a6, n = sizeof a6;
  int s = socket(family, SOCK_DGRAM, 0), t = socket(family, SOCK_DGRAM, 0);
  bind(s, a, n);
  if (family == AF_INET) a4.sin_port = htons((unsigned short)port(s));
  else a6.sin6_port = htons((unsigned short)port(s));
  show("to nowhere", send(t, "x", 1, 0));
  show("nothing there", recv(s, text, 10, MSG_DONTWAIT));
  ready("nothing", s);
  show("send", sendto(t, "hello", 5, 0, a, n));
  own("named by that", t);
  ready("something", s);
  int count = -1;
  ioctl(s, FIONREAD, &count);
  printf("FIONREAD %d\n", count);
  ioctl(s, TIOCOUTQ, &count);
  printf("SIOCOUTQ %d\n", count);
  show("peek", recv(s, text, 3, MSG_PEEK));
  show("length", recv(s, text, 3, MSG_PEEK | MSG_TRUNC));
  from("whole", s, port(t), port(s));
  show("empty", sendto(t, "", 0, 0, a, n));
  ready("empty one", s);
  from("empty", s, port(t), port(s));
  show("send", sendto(t, "truncated", 9, 0, a, n));
  struct iovec v[2] = {{text, 2}, {text + 100, 3}};
  struct msghdr m = {.msg_iov = v, .msg_iovlen = 2};
  show("cut", recvmsg(s, &m, 0));
  printf("flags %x %.2s %.3s\n", m.msg_flags, text, text + 100);
  show("large", sendto(t, text, 65507, 0, a, n));
  show("received", recv(s, text, sizeof text, 0));
  show("too large", sendto(t, text, 65536, 0, a, n));
  show("port 0", sendto(t, "x", 1, 0, family == AF_INET ? (void *)&(struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}} : (void *)&(struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT}, n));
  if (family == AF_INET) show("out of band", sendto(t, "x", 1, MSG_OOB, a, n));
  show("listen", listen(t, 1));
  show("accept", accept(t, NULL, NULL));
  // Ended, though it says that it is not connected.
  int e = socket(family, SOCK_DGRAM, 0);
  show("shutdown", shutdown(e, SHUT_WR));
  show("no more", sendto(e, "x", 1, 0, a, n));
  show("no more", write(e, "x", 1));
  close(e);
  // More to come.
  show("one", sendto(t, "one ", 4, MSG_MORE, a, n));
  show("two", sendto(t, "two ", 4, MSG_MORE, a, n));
  ready("not yet", s);
  show("three", sendto(t, "three", 5, 0, a, n));
  from("all", s, port(t), port(s));
  show("cork", set(t, SOL_UDP, UDP_CORK, 1));
  show("one", sendto(t, "one", 3, 0, a, n));
  ready("not yet", s);
  show("uncork", set(t, SOL_UDP, UDP_CORK, 0));
  from("all", s, port(t), port(s));

  show("connect", connect(t, a, n));
  own("own", t);
  struct sockaddr_storage p;
  socklen_t pn = sizeof p;
  show("peer", getpeername(t, (void *)&p, &pn));
  name("peer", &p, pn, port(s), port(t));
  show("send", send(t, "connected", 9, 0));
  from("got", s, port(t), port(s));
  int u = socket(family, SOCK_DGRAM, 0);
  struct sockaddr_storage ta;
  socklen_t tn = sizeof ta;
  getsockname(t, (void *)&ta, &tn);
  show("by a stranger", sendto(u, "stranger", 8, 0, (void *)&ta, tn));
  show("by the friend", sendto(s, "friend", 6, 0, (void *)&ta, tn));
  from("from the friend alone", t, port(s), port(u));
  from("nothing else", t, port(s), port(u));
  show("write", write(t, "written", 7));
  memset(text, 0, 10);
  show("read", read(s, text, 10));
  puts(text);
  show("disconnect", connect(t, (void *)&(struct sockaddr){.sa_family = AF_UNSPEC}, sizeof(struct sockaddr)));
  show("no peer", getpeername(t, (void *)&p, &pn));
  own("own", t);
  show("send", send(t, "x", 1, 0));
  connect(t, a, n);
  close(s);
  show("to nobody", send(t, "x", 1, 0));
  usleep(10000);
  ready("refused", t);
  printf("error %d\n", option(t, SOL_SOCKET, SO_ERROR) == ECONNREFUSED);
  printf("error %d\n", option(t, SOL_SOCKET, SO_ERROR));
  show("to nobody", send(t, "x", 1, 0));
  usleep(10000);
  show("refused", recv(t, text, 10, MSG_DONTWAIT));
  show("then nothing", recv(t, text, 10, MSG_DONTWAIT));
  show("to nobody", send(t, "x", 1, 0));
  usleep(10000);
  show("refused", send(t, "x", 1, 0));
  show("receiving ends", shutdown(t, SHUT_RD));
  usleep(10000);
  option(t, SOL_SOCKET, SO_ERROR);
  ready("ended", t);
  show("end", recv(t, text, 10, 0));
  show("sending ends", shutdown(t, SHUT_WR));
  ready("ended", t);
  show("no more", send(t, "x", 1, MSG_NOSIGNAL));
  close(t), close(u);
}

static void *send_later(void *a) {
  struct sockaddr_in to = four("127.0.0.1", *(int *)a);
  int s = socket(AF_INET, SOCK_DGRAM, 0);
  usleep(20000);
  sendto(s, "later", 5, 0, (void *)&to, sizeof to);
  close(s);
  return NULL;
}

static void waiting(void) {
  int s = socket(AF_INET, SOCK_DGRAM, 0);
  struct sockaddr_in a = four("127.0.0.1", 0);
  bind(s, (void *)&a, sizeof a);
  int p = port(s);
  struct timeval time = {0, 20000};
  setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
  show("timed out", recv(s, text, 10, 0));
  time.tv_usec = 0;
  setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
  pthread_t thread;
  pthread_create(&thread, NULL, send_later, &p);
  show("waited", recv(s, text, 10, 0));
  pthread_join(thread, NULL);
  pthread_create(&thread, NULL, send_later, &p);
  struct pollfd f = {s, POLLIN, 0};
  show("poll", poll(&f, 1, -1));
  pthread_join(thread, NULL);
  int e = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u32 = 7};
  epoll_ctl(e, EPOLL_CTL_ADD, s, &event);
  show("epoll", epoll_wait(e, &event, 1, 0));
  show("edge", epoll_wait(e, &event, 1, 0));
  recv(s, text, 10, 0);
  pthread_create(&thread, NULL, send_later, &p);
  show("epoll", epoll_wait(e, &event, 1, -1));
  printf("%x %d\n", event.events, event.data.u32);
  pthread_join(thread, NULL);
  close(e);
  // Many at once.
  recv(s, text, 10, 0);
  int t = socket(AF_INET, SOCK_DGRAM, 0);
  a = four("127.0.0.1", p);
  connect(t, (void *)&a, sizeof a);
  struct mmsghdr many[8];
  struct iovec v[8];
  static char parts[8][10];
  memset(many, 0, sizeof many);
  for (int i = 0; i < 8; i++) sprintf(parts[i], "%d", i * 111), v[i] = (struct iovec){parts[i], strlen(parts[i])}, many[i].msg_hdr.msg_iov = &v[i], many[i].msg_hdr.msg_iovlen = 1;
  show("sendmmsg", sendmmsg(t, many, 5, 0));
  printf("%u %u %u\n", many[0].msg_len, many[1].msg_len, many[4].msg_len);
  for (int i = 0; i < 8; i++) v[i].iov_len = 10, memset(parts[i], 0, 10);
  show("recvmmsg", recvmmsg(s, many, 8, MSG_WAITFORONE, NULL));
  printf("%s %s %s\n", parts[0], parts[1], parts[4]);
  show("recvmmsg", recvmmsg(s, many, 8, MSG_DONTWAIT, NULL));
  // Much: what does not fit is lost, and what is there is whole.
  for (int i = 0; i < 2000; i++) send(t, &i, sizeof i, 0);
  int last = -1, got = 0, i;
  while (recv(s, &i, sizeof i, MSG_DONTWAIT) == sizeof i) got += i == last + 1, last = i;
  printf("a good number %d, in order %d\n", got > 100 && got < 2000, got == last + 1);
  close(s), close(t);
}

static void options(void) {
  int s = socket(AF_INET, SOCK_DGRAM, 0);
  printf("ttl %d tos %d mtu discovery %d multicast ttl %d loop %d all %d\n", option(s, SOL_IP, IP_TTL), option(s, SOL_IP, IP_TOS), option(s, SOL_IP, IP_MTU_DISCOVER),
         option(s, SOL_IP, IP_MULTICAST_TTL), option(s, SOL_IP, IP_MULTICAST_LOOP), option(s, SOL_IP, IP_MULTICAST_ALL));
  show("ttl", set(s, SOL_IP, IP_TTL, 5));
  show("ttl too large", set(s, SOL_IP, IP_TTL, 256));
  show("ttl 0", set(s, SOL_IP, IP_TTL, 0));
  show("ttl in a byte", setsockopt(s, SOL_IP, IP_TTL, "\7", 1));
  printf("ttl %d\n", option(s, SOL_IP, IP_TTL));
  unsigned char byte = 0;
  socklen_t n = 1;
  show("in a byte", getsockopt(s, SOL_IP, IP_TTL, &byte, &n));
  printf("%d of %d bytes\n", byte, (int)n);
  show("default", set(s, SOL_IP, IP_TTL, -1));
  printf("ttl %d\n", option(s, SOL_IP, IP_TTL));
  show("tos", set(s, SOL_IP, IP_TOS, 0x10));
  printf("tos %d\n", option(s, SOL_IP, IP_TOS));
  show("header included", set(s, SOL_IP, IP_HDRINCL, 1));
  show("mtu discovery", set(s, SOL_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO));
  show("mtu discovery", set(s, SOL_IP, IP_MTU_DISCOVER, 9));
  show("mtu of nothing", option(s, SOL_IP, IP_MTU) == -ENOTCONN);
  show("unknown", set(s, SOL_IP, 999, 1));
  show("IPv6 of IPv4", set(s, SOL_IPV6, IPV6_V6ONLY, 1));
  show("other level", set(s, 77, 1, 1));
  show("TCP's level", set(s, 6, 1, 1));
  show("segment", set(s, SOL_UDP, UDP_SEGMENT, 70000));
  show("unknown of UDP", set(s, SOL_UDP, 99, 1));
  show("broadcast", set(s, SOL_SOCKET, SO_BROADCAST, 1));
  printf("broadcast %d reuse %d keepalive %d\n", option(s, SOL_SOCKET, SO_BROADCAST), option(s, SOL_SOCKET, SO_REUSEADDR), option(s, SOL_SOCKET, SO_KEEPALIVE));
  struct ip_mreqn mreq = {.imr_multiaddr = {htonl(0xe8010203)}, .imr_ifindex = 1};
  show("join", setsockopt(s, SOL_IP, IP_ADD_MEMBERSHIP, &mreq, sizeof mreq));
  show("again", setsockopt(s, SOL_IP, IP_ADD_MEMBERSHIP, &mreq, sizeof mreq));
  show("leave", setsockopt(s, SOL_IP, IP_DROP_MEMBERSHIP, &mreq, sizeof mreq));
  show("again", setsockopt(s, SOL_IP, IP_DROP_MEMBERSHIP, &mreq, sizeof mreq));
  mreq.imr_multiaddr.s_addr = htonl(0x7f000001);
  show("no group", setsockopt(s, SOL_IP, IP_ADD_MEMBERSHIP, &mreq, sizeof mreq));
  mreq.imr_multiaddr.s_addr = htonl(0xe8010203), mreq.imr_ifindex = 12345;
  show("no interface", setsockopt(s, SOL_IP, IP_ADD_MEMBERSHIP, &mreq, sizeof mreq));
  show("device", setsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3));
  char device[20] = "";
  n = sizeof device;
  show("device", getsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, device, &n));
  printf("'%s' %d\n", device, (int)n);
  show("no device", setsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, "nothing0", 9));
  close(s);
  s = socket(AF_INET6, SOCK_DGRAM, 0);
  printf("only %d hops %d multicast %d loop %d class %d mtu discovery %d\n", option(s, SOL_IPV6, IPV6_V6ONLY), option(s, SOL_IPV6, IPV6_UNICAST_HOPS),
         option(s, SOL_IPV6, IPV6_MULTICAST_HOPS), option(s, SOL_IPV6, IPV6_MULTICAST_LOOP), option(s, SOL_IPV6, IPV6_TCLASS), option(s, SOL_IPV6, IPV6_MTU_DISCOVER));
  show("hops", set(s, SOL_IPV6, IPV6_UNICAST_HOPS, 300));
  show("hops", set(s, SOL_IPV6, IPV6_UNICAST_HOPS, 3));
  printf("hops %d\n", option(s, SOL_IPV6, IPV6_UNICAST_HOPS));
  show("class", set(s, SOL_IPV6, IPV6_TCLASS, 0x20));
  show("ttl of IPv6", set(s, SOL_IP, IP_TTL, 9));
  show("unknown", set(s, SOL_IPV6, 999, 1));
  struct ipv6_mreq mreq6 = {.ipv6mr_interface = 1};
  inet_pton(AF_INET6, "ff02::1234", &mreq6.ipv6mr_multiaddr);
  show("join", setsockopt(s, SOL_IPV6, IPV6_JOIN_GROUP, &mreq6, sizeof mreq6));
  show("again", setsockopt(s, SOL_IPV6, IPV6_JOIN_GROUP, &mreq6, sizeof mreq6));
  show("leave", setsockopt(s, SOL_IPV6, IPV6_LEAVE_GROUP, &mreq6, sizeof mreq6));
  show("again", setsockopt(s, SOL_IPV6, IPV6_LEAVE_GROUP, &mreq6, sizeof mreq6));
  close(s);
}

static void controls(void) {
  int s = socket(AF_INET, SOCK_DGRAM, 0), t = socket(AF_INET, SOCK_DGRAM, 0);
  struct sockaddr_in a = four("0.0.0.0", 0);
  bind(s, (void *)&a, sizeof a);
  a = four("127.0.0.5", port(s));
  show("pktinfo", set(s, SOL_IP, IP_PKTINFO, 1));
  show("ttl", set(s, SOL_IP, IP_RECVTTL, 1));
  show("tos", set(s, SOL_IP, IP_RECVTOS, 1));
  show("time", set(s, SOL_SOCKET, SO_TIMESTAMPNS, 1));
  set(t, SOL_IP, IP_TTL, 9), set(t, SOL_IP, IP_TOS, 0x28);
  sendto(t, "told", 4, 0, (void *)&a, sizeof a);
  control("all", s, 0);
  // From another address, with another TTL.
  char c[200] = "";
  struct iovec v = {"chosen", 6};
  struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = c, .msg_controllen = CMSG_SPACE(sizeof(struct in_pktinfo)) + CMSG_SPACE(sizeof(int)), .msg_name = &a, .msg_namelen = sizeof a};
  struct cmsghdr *h = CMSG_FIRSTHDR(&m);
  h->cmsg_len = CMSG_LEN(sizeof(struct in_pktinfo)), h->cmsg_level = SOL_IP, h->cmsg_type = IP_PKTINFO;
  struct in_pktinfo p = {.ipi_spec_dst = {htonl(0x7f000009)}};
  memcpy(CMSG_DATA(h), &p, sizeof p);
  h = CMSG_NXTHDR(&m, h);
  h->cmsg_len = CMSG_LEN(sizeof(int)), h->cmsg_level = SOL_IP, h->cmsg_type = IP_TTL;
  memcpy(CMSG_DATA(h), &(int){33}, sizeof(int));
  show("sent", sendmsg(t, &m, 0));
  struct sockaddr_in f;
  socklen_t n = sizeof f;
  recvfrom(s, text, 10, MSG_PEEK, (void *)&f, &n);
  printf("from %s\n", inet_ntoa(f.sin_addr));
  control("chosen", s, 0);
  memcpy(CMSG_DATA(h), &(int){333}, sizeof(int));
  show("ttl too large", sendmsg(t, &m, 0));
  // Little room.
  sendto(t, "cut", 3, 0, (void *)&a, sizeof a);
  m = (struct msghdr){.msg_iov = &(struct iovec){text, 10}, .msg_iovlen = 1, .msg_control = c, .msg_controllen = 20};
  show("cut", recvmsg(s, &m, 0));
  printf("flags %x control %d\n", m.msg_flags, (int)m.msg_controllen);
  close(s), close(t);

  s = socket(AF_INET6, SOCK_DGRAM, 0), t = socket(AF_INET6, SOCK_DGRAM, 0);
  struct sockaddr_in6 b = six("::", 0);
  bind(s, (void *)&b, sizeof b);
  show("pktinfo", set(s, SOL_IPV6, IPV6_RECVPKTINFO, 1));
  show("hops", set(s, SOL_IPV6, IPV6_RECVHOPLIMIT, 1));
  show("class", set(s, SOL_IPV6, IPV6_RECVTCLASS, 1));
  set(t, SOL_IPV6, IPV6_UNICAST_HOPS, 11), set(t, SOL_IPV6, IPV6_TCLASS, 0x48);
  b = six("::1", port(s));
  sendto(t, "six", 3, 0, (void *)&b, sizeof b);
  control("all", s, 0);
  b = six("::ffff:127.0.0.1", port(s));
  show("mapped", sendto(t, "four", 4, 0, (void *)&b, sizeof b));
  control("all", s, 0);
  close(s), close(t);

  // Errors, with what they are about.
  for (int family = AF_INET; family == AF_INET || family == AF_INET6; family += AF_INET6 - AF_INET) {
    s = socket(family, SOCK_DGRAM, 0), t = socket(family, SOCK_DGRAM, 0);
    a = four("127.0.0.1", 0), b = six("::1", 0);
    bind(t, family == AF_INET ? (void *)&a : (void *)&b, family == AF_INET ? sizeof a : sizeof b);
    a = four("127.0.0.1", port(t)), b = six("::1", port(t));
    close(t);
    show("errors", set(s, family == AF_INET ? SOL_IP : SOL_IPV6, family == AF_INET ? IP_RECVERR : IPV6_RECVERR, 1));
    control("none", s, MSG_ERRQUEUE);
    show("send", sendto(s, "nobody", 6, 0, family == AF_INET ? (void *)&a : (void *)&b, family == AF_INET ? sizeof a : sizeof b));
    usleep(10000);
    ready("error", s);
    show("told", recv(s, text, 10, MSG_DONTWAIT));
    control("details", s, MSG_ERRQUEUE);
    control("no more", s, MSG_ERRQUEUE);
    close(s);
  }
}

static void segments(void) {
  int s = socket(AF_INET, SOCK_DGRAM, 0), t = socket(AF_INET, SOCK_DGRAM, 0);
  struct sockaddr_in a = four("127.0.0.1", 0);
  bind(s, (void *)&a, sizeof a);
  a = four("127.0.0.1", port(s));
  connect(t, (void *)&a, sizeof a);
  for (int i = 0; i < 3000; i++) text[i] = (char)('a' + i / 1000);
  show("segment", set(t, SOL_UDP, UDP_SEGMENT, 1000));
  show("send", send(t, text, 2500, 0));
  for (int i = 0; i < 4; i++) {
    memset(text, 0, 3000);
    show("part", recv(s, text, 3000, MSG_DONTWAIT));
    printf("%c\n", text[0] ? text[0] : '-');
  }
  show("together", set(s, SOL_UDP, UDP_GRO, 1));
  show("send", send(t, text, 2500, 0));
  control("together", s, 0);
  show("small", send(t, text, 500, 0));
  control("small", s, 0);
  show("many", send(t, text, 60000, 0));
  show("received", recv(s, text, sizeof text, MSG_DONTWAIT));
  set(t, SOL_UDP, UDP_SEGMENT, 100);
  show("too many", send(t, text, 60000, 0));
  close(s), close(t);
}

static void sharing(void) {
  int s[4], counts[4] = {0}, port_number = 0;
  struct sockaddr_in a = four("127.0.0.1", 0);
  for (int i = 0; i < 4; i++) {
    s[i] = socket(AF_INET, SOCK_DGRAM, 0);
    set(s[i], SOL_SOCKET, SO_REUSEPORT, 1);
    a = four("127.0.0.1", port_number);
    show("bind", bind(s[i], (void *)&a, sizeof a));
    port_number = port(s[i]);
  }
  a = four("127.0.0.1", port_number);
  for (int i = 0; i < 400; i++) {
    int t = socket(AF_INET, SOCK_DGRAM, 0);
    sendto(t, "x", 1, 0, (void *)&a, sizeof a);
    close(t);
  }
  int sum = 0, least = 1000;
  for (int i = 0; i < 4; i++) {
    while (recv(s[i], text, 10, MSG_DONTWAIT) == 1) counts[i]++;
    sum += counts[i];
    if (counts[i] < least) least = counts[i];
    close(s[i]);
  }
  printf("sum %d, each many %d\n", sum, least > 50);
}

static void groups(void) {
  int s[2], t = socket(AF_INET, SOCK_DGRAM, 0), port_number = 0;
  for (int i = 0; i < 2; i++) {
    s[i] = socket(AF_INET, SOCK_DGRAM, 0);
    set(s[i], SOL_SOCKET, SO_REUSEADDR, 1);
    struct sockaddr_in a = four("0.0.0.0", port_number);
    show("bind", bind(s[i], (void *)&a, sizeof a));
    port_number = port(s[i]);
    struct ip_mreqn m = {.imr_multiaddr = {htonl(0xe8010204)}, .imr_ifindex = 1};
    show("join", setsockopt(s[i], SOL_IP, IP_ADD_MEMBERSHIP, &m, sizeof m));
  }
  struct ip_mreqn m = {.imr_address = {htonl(INADDR_LOOPBACK)}, .imr_ifindex = 1};
  show("interface", setsockopt(t, SOL_IP, IP_MULTICAST_IF, &m, sizeof m));
  struct sockaddr_in a = four("232.1.2.4", port_number);
  show("send", sendto(t, "to all", 6, 0, (void *)&a, sizeof a));
  from("first", s[0], port(t), port_number);
  from("second", s[1], port(t), port_number);
  // One has left, and takes only what it has joined.
  set(s[0], SOL_IP, IP_MULTICAST_ALL, 0);
  m.imr_multiaddr.s_addr = htonl(0xe8010204);
  show("leave", setsockopt(s[0], SOL_IP, IP_DROP_MEMBERSHIP, &m, sizeof m));
  show("send", sendto(t, "to one", 6, 0, (void *)&a, sizeof a));
  from("first", s[0], port(t), port_number);
  from("second", s[1], port(t), port_number);
  close(s[0]), close(s[1]), close(t);
}

int main(void) {
  setvbuf(stdout, NULL, _IONBF, 0);
  kinds();
  binding();
  messages(AF_INET);
  messages(AF_INET6);
  waiting();
  options();
  controls();
  segments();
  sharing();
  groups();
  return 0;
}
