// flavours: glibc-static musl-static
// linux: 6.6
// What /proc and /sys tell, against what the program knows by other ways: files that libraries, servers and tools of the system read.
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <unistd.h>

static char text[1 << 20];
static long slurp(const char *name) {
  int f = open(name, O_RDONLY);
  if (f < 0) return printf("%s: %s\n", name, strerror(errno)), text[0] = 0, -1;
  long n = 0, got;
  while ((got = read(f, text + n, sizeof text - 1 - (size_t)n)) > 0) n += got;
  text[n] = 0;
  close(f);
  return n;
}
static void check(const char *what, int isSo) { printf("%s: %s\n", what, isSo ? "yes" : "NO"); }
static long field(const char *name) {
  char *at = strstr(text, name);
  return at ? strtol(at + strlen(name), NULL, 0) : -1;
}
static long sum(const char *name) {
  long total = 0;
  for (char *at = text; (at = strstr(at, name)); at++)
    if (at == text || at[-1] == '\n') total += strtol(at + strlen(name), NULL, 10);
  return total;
}
static int isNumber(const char *name) { return slurp(name) > 1 && strspn(text, "0123456789") == strlen(text) - 1; }
static void *wait_(void *p) { return pthread_barrier_wait(p), pthread_barrier_wait(p), NULL; }

int main(void) {
  long n = slurp("/proc/self/auxv");
  int hasEntry = 0, hasPage = 0;
  for (Elf64_auxv_t *a = (void *)text; (char *)a < text + n; a++) {
    if (a->a_type == AT_ENTRY) hasEntry = a->a_un.a_val == getauxval(AT_ENTRY);
    if (a->a_type == AT_PAGESZ) hasPage = a->a_un.a_val == 4096;
  }
  check("auxv", hasEntry && hasPage && n % 16 == 0 && ((Elf64_auxv_t *)(text + n))[-1].a_type == AT_NULL);

  int f = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  lseek(f, 1234, SEEK_SET);
  char name[100];
  snprintf(name, sizeof name, "/proc/self/fdinfo/%d", f);
  slurp(name);
  check("fdinfo", field("pos:") == 1234 && field("flags:") == 02100000 && strstr(text, "mnt_id:\t") && strstr(text, "ino:\t"));
  f = open("/tmp", O_RDONLY | O_DIRECTORY);
  snprintf(name, sizeof name, "/proc/self/fdinfo/%d", f);
  slurp(name);
  check("fdinfo of a directory", field("flags:") == (fcntl(f, F_GETFL) | 0));
  f = eventfd(7, 0);
  snprintf(name, sizeof name, "/proc/self/fdinfo/%d", f);
  slurp(name);
  check("fdinfo of a counter", field("eventfd-count:") == 7);
  check("fdinfo of nothing", access("/proc/self/fdinfo/999", F_OK) < 0 && errno == ENOENT);

  size_t size = 8 << 20;
  char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memset(memory, 1, size);
  mlock(memory, 4096);
  slurp("/proc/self/smaps");
  long resident = sum("Rss:"), anonymous = sum("Anonymous:"), locked = sum("Locked:"), shares = sum("Pss:");
  check("smaps", resident >= 8192 && anonymous >= 8192 && anonymous <= resident && shares <= resident && shares >= 8192 && locked >= 4);
  check("smaps has flags", strstr(text, "VmFlags: rd wr") && strstr(text, "[stack]") && strstr(text, "Private_Dirty:"));
  slurp("/proc/self/smaps_rollup");
  check("smaps_rollup", strstr(text, "[rollup]\n") && labs(field("\nRss:") - resident) < 1024);
  munmap(memory, size);
  slurp("/proc/self/smaps_rollup");
  check("given back", field("\nRss:") < resident - 7000);

  pthread_barrier_t barrier;
  pthread_t thread;
  pthread_barrier_init(&barrier, NULL, 2);
  pthread_create(&thread, NULL, wait_, &barrier);
  pthread_barrier_wait(&barrier);
  slurp("/proc/loadavg");
  double averages[3];
  int running, all, last;
  check("loadavg", sscanf(text, "%lf %lf %lf %d/%d %d\n", averages, averages + 1, averages + 2, &running, &all, &last) == 6
    && running >= 1 && all >= 2 && last >= getpid());
  pthread_barrier_wait(&barrier);
  pthread_join(thread, NULL);

  struct utsname system;
  uname(&system);
  slurp("/proc/sys/kernel/hostname");
  check("hostname", !strncmp(text, system.nodename, strlen(text) - 1));
  slurp("/proc/sys/kernel/osrelease");
  check("osrelease", !strncmp(text, system.release, strlen(text) - 1) && strlen(text) == strlen(system.release) + 1);
  slurp("/proc/version");
  check("version", !strncmp(text, "Linux version ", 14) && strstr(text, system.release));
  char first[100];
  slurp("/proc/sys/kernel/random/boot_id"), memcpy(first, text, 99);
  slurp("/proc/sys/kernel/random/boot_id");
  check("boot_id", strlen(text) == 37 && text[14] == '4' && !strcmp(text, first));
  slurp("/proc/sys/kernel/random/uuid"), memcpy(first, text, 99);
  slurp("/proc/sys/kernel/random/uuid");
  check("uuid", strlen(text) == 37 && text[8] == '-' && text[14] == '4' && strcmp(text, first));
  static const char *numbers[] = {
    "kernel/pid_max", "kernel/threads-max", "kernel/shmmax", "kernel/shmmni", "kernel/randomize_va_space", "kernel/ngroups_max",
    "kernel/cap_last_cap", "vm/overcommit_memory", "vm/overcommit_ratio", "vm/max_map_count", "vm/min_free_kbytes", "vm/swappiness",
    "vm/mmap_min_addr", "vm/nr_hugepages", "fs/file-max", "fs/nr_open", "fs/pipe-max-size", "fs/aio-max-nr",
    "fs/inotify/max_user_watches", "fs/epoll/max_user_watches", "net/core/somaxconn", "net/core/rmem_max", "net/core/wmem_max",
  };
  for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    snprintf(name, sizeof name, "/proc/sys/%s", numbers[i]);
    check(numbers[i], isNumber(name));
  }
  static const char *tables[] = {"net/dev", "net/tcp", "net/udp", "net/route", "self/net/tcp", "swaps", "sysvipc/shm", "cgroups", "filesystems", "partitions"};
  for (unsigned i = 0; i < sizeof tables / sizeof *tables; i++) {
    snprintf(name, sizeof name, "/proc/%s", tables[i]);
    check(tables[i], slurp(name) > 10 && text[strlen(text) - 1] == '\n');
  }
  struct sockaddr_un name_ = {.sun_family = AF_UNIX, .sun_path = "\0of system_files"};
  int listener = socket(AF_UNIX, SOCK_STREAM, 0), pair[2];
  bind(listener, (void *)&name_, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 16));
  listen(listener, 3), socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair);
  struct stat status;
  fstat(pair[0], &status);
  slurp("/proc/net/unix");
  char *at = strstr(text, " @of system_files\n"), inode[30];
  check("net/unix listening", at && at - text > 45 && (memcpy(name, at - 45, 45), name[45] = 0, strstr(name, "00010000 0001 01") != NULL));
  snprintf(inode, sizeof inode, " 0005 03 %5lu\n", (unsigned long)status.st_ino);
  check("net/unix pair", strstr(text, inode) != NULL);
  check("cgroup", slurp("/proc/self/cgroup") > 3);
  check("oom_score_adj", slurp("/proc/self/oom_score_adj") > 1 && atol(text) == 0);
  check("timerslack_ns", isNumber("/proc/self/timerslack_ns") && atol(text) == 50000);
  check("vmstat", slurp("/proc/vmstat") > 10 && field("nr_free_pages ") > 0);

  int count = (int)sysconf(_SC_NPROCESSORS_CONF);
  slurp("/proc/cpuinfo");
  int found = 0;
  for (char *at = text; (at = strstr(at, "processor\t: ")); at++) found++;
  check("cpuinfo", found == sysconf(_SC_NPROCESSORS_ONLN) && strstr(text, "vendor_id\t: ") && strstr(text, " sse2 ") && field("cpu family\t: ") > 0);
  __builtin_cpu_init();
  check("cpuinfo has avx2", !!strstr(text, " avx2 ") == !!__builtin_cpu_supports("avx2"));
  slurp("/sys/devices/system/cpu/online");
  check("cpus online", atoi(text) == 0 && (count == 1 || strchr(text, '-') || strchr(text, ',')));
  slurp("/sys/devices/system/cpu/possible");
  check("cpus possible", !strncmp(text, "0", 1));
  check("core", slurp("/sys/devices/system/cpu/cpu0/topology/core_id") > 0 && slurp("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list") > 0);
  check("package", isNumber("/sys/devices/system/cpu/cpu0/topology/physical_package_id"));
  check("cache", slurp("/sys/devices/system/cpu/cpu0/cache/index0/size") > 2 && text[strlen(text) - 2] == 'K');
  check("cache line", slurp("/sys/devices/system/cpu/cpu0/cache/index0/coherency_line_size") > 0 && atol(text) == 64);
  slurp("/sys/kernel/mm/transparent_hugepage/enabled");
  check("huge pages", strchr(text, '[') && strstr(text, "madvise") && strstr(text, "never"));
  check("huge page", slurp("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size") > 0 && atol(text) == 2 << 20);
  check("cannot be written", open("/sys/devices/system/cpu/possible", O_WRONLY) < 0);
  return 0;
}
