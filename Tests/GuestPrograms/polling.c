// Waiting for readiness: poll, select and epoll over pipes and eventfds, with and without time-outs.
// alone
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <fcntl.h>
#include <unistd.h>

static int ends[2], event;
static void *later(void *a) {
  usleep(10000);
  if (write(ends[1], "abc", 3) != 3) return NULL;
  usleep(10000);
  uint64_t five = 5;
  return write(event, &five, 8) == 8 ? a : NULL;
}

int main(void) {
  if (pipe2(ends, O_CLOEXEC) || (event = eventfd(0, 0)) < 0) return 1;
  struct pollfd set[3] = {{ends[0], POLLIN, 0}, {event, POLLIN, 0}, {ends[1], POLLOUT, 0}};
  int ready = poll(set, 3, 0);
  printf("poll now %d: %d %d %d\n", ready, set[0].revents, set[1].revents, set[2].revents);
  printf("poll 20 ms %d\n", poll(set, 2, 20));
  pthread_t thread;
  pthread_create(&thread, NULL, later, NULL);
  ready = poll(set, 2, -1);
  printf("poll %d: %d %d\n", ready, set[0].revents, set[1].revents);
  char text[8] = "";
  ssize_t got_bytes = read(ends[0], text, 8);
  printf("read %zd %s\n", got_bytes, text);
  int epoll = epoll_create1(0);
  struct epoll_event wanted = {.events = EPOLLIN, .data.u64 = 99}, got;
  printf("add %d", epoll_ctl(epoll, EPOLL_CTL_ADD, event, &wanted));
  ready = epoll_ctl(epoll, EPOLL_CTL_ADD, event, &wanted);
  printf(" again %d %s\n", ready, strerror(errno));
  int count = epoll_wait(epoll, &got, 1, -1);
  printf("epoll %d: %d %d\n", count, (int)got.data.u64, (int)got.events);
  uint64_t value = 0;
  got_bytes = read(event, &value, 8);
  printf("event %zd %d\n", got_bytes, (int)value);
  printf("epoll empty %d\n", epoll_wait(epoll, &got, 1, 0));
  pthread_join(thread, NULL);
  fd_set readable;
  FD_ZERO(&readable);
  FD_SET(ends[0], &readable);
  close(ends[1]);
  ready = select(ends[0] + 1, &readable, NULL, NULL, NULL);
  printf("select %d %d\n", ready, FD_ISSET(ends[0], &readable));
  printf("end %zd\n", read(ends[0], text, 8));
  set[1].fd = 55;
  ready = poll(set, 2, 0);
  printf("closed %d: %d %d\n", ready, set[0].revents, set[1].revents);
  fcntl(event, F_SETFL, O_NONBLOCK);
  got_bytes = read(event, &value, 8);
  printf("nonblocking %zd %s\n", got_bytes, strerror(errno));
  return 0;
}
