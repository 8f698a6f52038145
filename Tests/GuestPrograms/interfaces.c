// Interfaces as programs ask for them, of loopback, which every Linux has: getifaddrs, ioctl, netlink, /proc/net, /sys/class/net, by name and number.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void show(const char *what, long result) {
  if (result < 0) printf("%s: %s\n", what, strerror(errno));
  else printf("%s: %ld\n", what, result);
}
static void print(const char *what, const struct sockaddr *a) {
  char t[100];
  if (!a) return;
  if (a->sa_family == AF_INET) printf(" %s %s", what, inet_ntop(AF_INET, &((struct sockaddr_in *)a)->sin_addr, t, sizeof t));
  if (a->sa_family == AF_INET6) printf(" %s %s", what, inet_ntop(AF_INET6, &((struct sockaddr_in6 *)a)->sin6_addr, t, sizeof t));
}
// The lines of a file that have a word.
static void lines(const char *path, const char *word) {
  char line[500];
  FILE *f = fopen(path, "r");
  if (!f) return show(path, -1);
  for (int i = 0; fgets(line, sizeof line, f); i++)
    if (strstr(line, word)) printf("%s", line);
  fclose(f);
}
static void first(const char *path) {
  char line[500] = "";
  FILE *f = fopen(path, "r");
  if (!f) return show(path, -1);
  if (fgets(line, sizeof line, f)) printf("%s: %s", path, line);
  fclose(f);
}

int main(void) {
  setvbuf(stdout, NULL, _IONBF, 0);
  struct ifaddrs *all;
  show("getifaddrs", getifaddrs(&all));
  for (struct ifaddrs *a = all; a; a = a->ifa_next) {
    if (strcmp(a->ifa_name, "lo")) continue;
    printf("%s flags %x family %d", a->ifa_name, a->ifa_flags & 0xffff, a->ifa_addr ? a->ifa_addr->sa_family : -1);
    print("address", a->ifa_addr), print("mask", a->ifa_netmask);
    printf("\n");
  }
  freeifaddrs(all);
  printf("number %u\n", if_nametoindex("lo"));
  char name[IF_NAMESIZE];
  printf("name %s\n", if_indextoname(1, name));
  show("no such", if_nametoindex("nothing0") ? 0 : -1);
  printf("%d\n", if_indextoname(12345, name) == NULL && errno == ENXIO);

  // By a socket of any family.
  int sockets[] = {socket(AF_INET, SOCK_DGRAM, 0), socket(AF_INET6, SOCK_DGRAM, 0), socket(AF_UNIX, SOCK_DGRAM, 0)};
  for (int i = 0; i < 3; i++) {
    struct ifreq r = {.ifr_name = "lo"};
    show("flags", ioctl(sockets[i], SIOCGIFFLAGS, &r));
    printf("%x\n", r.ifr_flags);
    show("mtu", ioctl(sockets[i], SIOCGIFMTU, &r));
    printf("%d\n", r.ifr_mtu);
    show("number", ioctl(sockets[i], SIOCGIFINDEX, &r));
    printf("%d\n", r.ifr_ifindex);
    show("link address", ioctl(sockets[i], SIOCGIFHWADDR, &r));
    printf("%d %02x\n", r.ifr_hwaddr.sa_family, r.ifr_hwaddr.sa_data[5]);
    memset(r.ifr_name, 0, sizeof r.ifr_name);
    r.ifr_ifindex = 1;
    show("name", ioctl(sockets[i], SIOCGIFNAME, &r));
    puts(r.ifr_name);
    strcpy(r.ifr_name, "nothing0");
    show("no such", ioctl(sockets[i], SIOCGIFMTU, &r));
  }
  struct ifreq r = {.ifr_name = "lo"};
  show("address", ioctl(sockets[0], SIOCGIFADDR, &r));
  print("is", &r.ifr_addr);
  show("\nmask", ioctl(sockets[0], SIOCGIFNETMASK, &r));
  print("is", &r.ifr_netmask);
  struct ifconf c = {0};
  show("\nroom", ioctl(sockets[0], SIOCGIFCONF, &c));
  printf("room for some %d\n", c.ifc_len >= (int)sizeof(struct ifreq) && c.ifc_len % (int)sizeof(struct ifreq) == 0);
  struct ifreq list[50];
  c.ifc_len = sizeof list, c.ifc_req = list;
  show("list", ioctl(sockets[0], SIOCGIFCONF, &c));
  for (int i = 0; i < c.ifc_len / (int)sizeof *list; i++)
    if (!strcmp(list[i].ifr_name, "lo")) print(list[i].ifr_name, &list[i].ifr_addr);
  printf("\n");
  show("unknown", ioctl(sockets[0], 0x89ef, &r));
  show("no address there", ioctl(sockets[0], SIOCGIFMTU, (void *)8));

  first("/proc/net/dev");
  lines("/proc/net/if_inet6", " lo");
  first("/proc/net/route");
  first("/proc/net/tcp");
  first("/proc/net/udp");
  first("/sys/class/net/lo/mtu");
  first("/sys/class/net/lo/address");
  first("/sys/class/net/lo/flags");
  first("/sys/class/net/lo/type");
  first("/sys/class/net/lo/operstate");
  first("/sys/class/net/lo/ifindex");
  first("/proc/sys/net/ipv4/ip_local_port_range");
  first("/proc/sys/net/ipv6/bindv6only");

  // A socket in a table.
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(34567), .sin_addr = {htonl(INADDR_LOOPBACK)}};
  show("bind", bind(sockets[0], (void *)&a, sizeof a));
  char line[500];
  FILE *f = fopen("/proc/net/udp", "r");
  while (fgets(line, sizeof line, f))
    if (strstr(line, ":8707 ")) printf("%.30s\n", strchr(line, ':'));
  fclose(f);
  return 0;
}
