// See include/network_calls.h.
#define _GNU_SOURCE
#include "network_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// Newer than some headers.
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

_Static_assert(OSV_TAP_CHECKSUM == TUN_F_CSUM && OSV_TAP_TCP4 == TUN_F_TSO4 && OSV_TAP_TCP6 == TUN_F_TSO6, "same bits");
_Static_assert(OSV_TAP_ECN == TUN_F_TSO_ECN && OSV_TAP_UDP4 == TUN_F_USO4 && OSV_TAP_UDP6 == TUN_F_USO6, "same bits");

const int osv_tap_has_header = IFF_VNET_HDR, osv_tap_multi_queue = IFF_MULTI_QUEUE, osv_tap_no_information = IFF_NO_PI;
const unsigned long osv_tap_requests[2] = {TUNSETOFFLOAD, TUNSETQUEUE};

static int result(long value) { return value < 0 ? -errno : (int)value; }

static void set_name(struct ifreq *request, const char *name) {
  memset(request, 0, sizeof *request);
  strncpy(request->ifr_name, name, IFNAMSIZ - 1);
}

int osv_tap_open(char *name, int flags) {
  int tap = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (tap < 0) return -errno;
  struct ifreq request;
  set_name(&request, name);
  request.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | flags);
  if (ioctl(tap, TUNSETIFF, &request) < 0) {
    int error = errno;
    close(tap);
    return -error;
  }
  memcpy(name, request.ifr_name, IFNAMSIZ);
  return tap;
}

int osv_tap_identify(int tap, char *name) {
  struct ifreq request;
  memset(&request, 0, sizeof request);
  if (ioctl(tap, TUNGETIFF, &request) < 0) return -errno;
  if (!(request.ifr_flags & IFF_TAP)) return -EBADFD;
  memcpy(name, request.ifr_name, IFNAMSIZ);
  name[IFNAMSIZ - 1] = 0;
  return (unsigned short)request.ifr_flags;
}

int osv_tap_set_header(int tap, int byte_count) { return result(ioctl(tap, TUNSETVNETHDRSZ, &byte_count)); }

int osv_tap_set_offloads(int tap, unsigned offloads) { return result(ioctl(tap, TUNSETOFFLOAD, (unsigned long)offloads)); }

int osv_tap_use_queue(int tap, int is_used) {
  struct ifreq request;
  memset(&request, 0, sizeof request);
  request.ifr_flags = is_used ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE;
  return result(ioctl(tap, TUNSETQUEUE, &request));
}

// An ioctl of an interface by its name, on a socket of a family.
static int interface_call(int family, unsigned long request, void *argument) {
  int control = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (control < 0) return -errno;
  int done = result(ioctl(control, request, argument));
  close(control);
  return done;
}

int osv_interface_mtu(const char *name) {
  struct ifreq request;
  set_name(&request, name);
  int done = interface_call(AF_INET, SIOCGIFMTU, &request);
  return done < 0 ? done : request.ifr_mtu;
}

int osv_interface_set_mtu(const char *name, int mtu) {
  struct ifreq request;
  set_name(&request, name);
  request.ifr_mtu = mtu;
  return interface_call(AF_INET, SIOCSIFMTU, &request);
}

int osv_interface_mac(const char *name, uint8_t address[6]) {
  struct ifreq request;
  set_name(&request, name);
  int done = interface_call(AF_INET, SIOCGIFHWADDR, &request);
  memcpy(address, request.ifr_hwaddr.sa_data, 6);
  return done;
}

int osv_interface_add_ipv4(const char *name, const uint8_t address[4], int prefix) {
  struct ifreq request;
  set_name(&request, name);
  struct sockaddr_in *place = (struct sockaddr_in *)&request.ifr_addr;
  place->sin_family = AF_INET;
  memcpy(&place->sin_addr, address, 4);
  int done = interface_call(AF_INET, SIOCSIFADDR, &request);
  if (done < 0) return done;
  set_name(&request, name);
  place->sin_family = AF_INET;
  place->sin_addr.s_addr = htonl(prefix == 0 ? 0 : 0xffffffffu << (32 - prefix));
  return interface_call(AF_INET, SIOCSIFNETMASK, &request);
}

int osv_interface_add_ipv6(const char *name, const uint8_t address[16], int prefix) {
  struct ifreq index;
  set_name(&index, name);
  int done = interface_call(AF_INET6, SIOCGIFINDEX, &index);
  if (done < 0) return done;
  // By rtnetlink and not SIOCSIFADDR, which leaves the address without use for a second while the link is asked whether somebody has
  // it already: behind this interface is the guest alone.
  struct {
    struct nlmsghdr header;
    struct ifaddrmsg body;
    struct rtattr local;
    uint8_t local_address[16];
    struct rtattr flags;
    uint32_t flag_word;
  } request = {
      .header = {.nlmsg_len = sizeof request, .nlmsg_type = RTM_NEWADDR, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE},
      .body = {.ifa_family = AF_INET6, .ifa_prefixlen = (uint8_t)prefix, .ifa_index = (uint32_t)index.ifr_ifindex},
      .local = {.rta_len = RTA_LENGTH(16), .rta_type = IFA_LOCAL},
      .flags = {.rta_len = RTA_LENGTH(4), .rta_type = IFA_FLAGS},
      .flag_word = IFA_F_NODAD,
  };
  memcpy(request.local_address, address, 16);
  struct {
    struct nlmsghdr header;
    struct nlmsgerr body;
  } answer;
  int channel = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
  if (channel < 0) return -errno;
  ssize_t count = send(channel, &request, sizeof request, 0);
  if (count >= 0) count = recv(channel, &answer, sizeof answer, 0);
  done = count < 0 ? -errno : count < (ssize_t)sizeof answer || answer.header.nlmsg_type != NLMSG_ERROR ? -EPROTO : answer.body.error;
  close(channel);
  return done == -EEXIST ? 0 : done;
}

int osv_interface_up(const char *name) {
  struct ifreq request;
  set_name(&request, name);
  int done = interface_call(AF_INET, SIOCGIFFLAGS, &request);
  if (done < 0 || request.ifr_flags & IFF_UP) return done;
  request.ifr_flags |= IFF_UP;
  return interface_call(AF_INET, SIOCSIFFLAGS, &request);
}

int osv_socket_pair(int sockets[2]) {
  return result(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sockets));
}

extern char **environ;

int osv_start_program(char *const arguments[], int passed, int errors) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  sigset_t signals;
  pid_t child;
  int error = posix_spawn_file_actions_init(&actions);
  if (error) return -error;
  posix_spawnattr_init(&attributes);
  // Out of the way of the numbers that are given out below.
  int kept = fcntl(passed, F_DUPFD_CLOEXEC, 4);
  if (kept < 0) error = errno;
  if (!error) error = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
  if (!error) error = posix_spawn_file_actions_adddup2(&actions, errors, 2);
  if (!error) error = posix_spawn_file_actions_adddup2(&actions, 0, 1);
  if (!error) error = posix_spawn_file_actions_adddup2(&actions, kept, 3);
  if (!error) error = posix_spawn_file_actions_addclosefrom_np(&actions, 4);
  sigemptyset(&signals);
  posix_spawnattr_setsigmask(&attributes, &signals);
  sigfillset(&signals);
  posix_spawnattr_setsigdefault(&attributes, &signals);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  if (!error) error = posix_spawnp(&child, arguments[0], &actions, &attributes, arguments, environ);
  if (kept >= 0) close(kept);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  return error ? -error : child;
}

int osv_wait_child(int child, int milliseconds) {
  struct timespec pause = {.tv_nsec = 500000};
  for (long left = 2 * (long)milliseconds;; left--) {
    int status;
    pid_t done = waitpid(child, &status, WNOHANG);
    if (done == child) return status;
    if (done < 0 && errno != EINTR) return -errno;
    if (left <= 0) return -ETIME;
    nanosleep(&pause, NULL);
  }
}

int osv_bounded_file(const char *name, long byte_count) {
  int file = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (file < 0) return -errno;
  if (ftruncate(file, byte_count) == 0 && fcntl(file, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SEAL) == 0) return file;
  int error = errno;
  close(file);
  return -error;
}

int osv_unread_bytes(int socket) {
  int count = 0;
  int done = result(ioctl(socket, SIOCOUTQ, &count));
  return done < 0 ? done : count;
}

int osv_unix_socket_type(int descriptor) {
  int family, type;
  socklen_t size = sizeof family;
  if (getsockopt(descriptor, SOL_SOCKET, SO_DOMAIN, &family, &size) < 0) return -errno;
  size = sizeof type;
  if (getsockopt(descriptor, SOL_SOCKET, SO_TYPE, &type, &size) < 0) return -errno;
  return family == AF_UNIX ? type : -EAFNOSUPPORT;
}

int osv_set_nonblocking(int descriptor) {
  int flags = fcntl(descriptor, F_GETFL);
  return flags < 0 ? -errno : result(fcntl(descriptor, F_SETFL, flags | O_NONBLOCK));
}

int osv_ppoll(struct pollfd *waits, unsigned long count, const struct timespec *limit) {
  return result(ppoll(waits, count, limit, NULL));
}

int osv_get_affinity(int thread, void *set, size_t byte_count) {
  return sched_getaffinity(thread, byte_count, set) == 0 ? 0 : -errno;
}

int osv_set_affinity(int thread, const void *set, size_t byte_count) {
  return sched_setaffinity(thread, byte_count, set) == 0 ? 0 : -errno;
}

int osv_current_processor(void) { return sched_getcpu(); }
