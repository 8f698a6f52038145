// The vDSO: its symbols are found as libraries find them, its clocks agree with the system calls and never go back, on any CPU.
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const char *base;

// By DT_HASH and the version definitions, as musl does.
static void *find(const char *name, const char *version) {
  const Elf64_Ehdr *header = (const Elf64_Ehdr *)base;
  const Elf64_Phdr *segments = (const Elf64_Phdr *)(base + header->e_phoff);
  const Elf64_Dyn *dynamic = NULL;
  uintptr_t bias = -1;
  for (int i = 0; i < header->e_phnum; i++) {
    if (segments[i].p_type == PT_LOAD) bias = (uintptr_t)base + segments[i].p_offset - segments[i].p_vaddr;
    if (segments[i].p_type == PT_DYNAMIC) dynamic = (const Elf64_Dyn *)(base + segments[i].p_offset);
  }
  const char *strings = NULL;
  const Elf64_Sym *symbols = NULL;
  const uint32_t *hash = NULL;
  const uint16_t *versions = NULL;
  const Elf64_Verdef *definitions = NULL;
  for (; dynamic->d_tag; dynamic++) {
    const void *at = (const void *)(bias + dynamic->d_un.d_ptr);
    switch (dynamic->d_tag) {
    case DT_STRTAB: strings = at; break;
    case DT_SYMTAB: symbols = at; break;
    case DT_HASH: hash = at; break;
    case DT_VERSYM: versions = at; break;
    case DT_VERDEF: definitions = at; break;
    }
  }
  for (uint32_t i = 0; hash && i < hash[1]; i++) {
    if (symbols[i].st_shndx == 0 || strcmp(strings + symbols[i].st_name, name)) continue;
    for (const Elf64_Verdef *d = definitions;; d = (const Elf64_Verdef *)((const char *)d + d->vd_next)) {
      const Elf64_Verdaux *aux = (const Elf64_Verdaux *)((const char *)d + d->vd_aux);
      if (d->vd_ndx == (versions[i] & 0x7fff) && !strcmp(strings + aux->vda_name, version))
        return (void *)(bias + symbols[i].st_value);
      if (!d->vd_next) break;
    }
  }
  return NULL;
}

static int (*vdso_gettime)(clockid_t, struct timespec *);
static int (*vdso_getres)(clockid_t, struct timespec *);
static int (*vdso_gettimeofday)(struct timeval *, struct timezone *);
static time_t (*vdso_time)(time_t *);
static long (*vdso_getcpu)(unsigned *, unsigned *, void *);

static long long from(struct timespec t) { return t.tv_sec * 1000000000ll + t.tv_nsec; }
static long long by_call(clockid_t clock) {
  struct timespec t;
  return syscall(SYS_clock_gettime, clock, &t) ? -1 : from(t);
}
static long long by_vdso(clockid_t clock) {
  struct timespec t;
  return vdso_gettime(clock, &t) ? -1 : t.tv_nsec >= 1000000000 ? -2 : from(t);
}

// Three readings in a row are in order; the system call, the vDSO, the system call.
static void compare(const char *name, clockid_t clock) {
  int wrong = 0;
  for (int i = 0; i < 2000; i++) {
    long long a = by_call(clock), b = by_vdso(clock), c = by_call(clock);
    wrong += !(a >= 0 && a <= b && b <= c);
  }
  printf("%s disagrees %d\n", name, wrong);
}

static _Atomic long long latest;
static atomic_int backwards;

static void *watch(void *cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET((long)cpu, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set); // with one CPU there is no second: then both share it
  for (int i = 0; i < 200000; i++) {
    long long before = atomic_load(&latest);
    long long now = by_vdso(CLOCK_MONOTONIC);
    if (now < before) backwards++;
    while (before < now && !atomic_compare_exchange_weak(&latest, &before, now)) {}
  }
  return NULL;
}

int main(void) {
  base = (const char *)getauxval(AT_SYSINFO_EHDR);
  if (!base) return printf("no vDSO\n"), 1;
  printf("ELF %d, page aligned %d\n", !memcmp(base, ELFMAG, SELFMAG), (uintptr_t)base % 4096 == 0);
  vdso_gettime = find("__vdso_clock_gettime", "LINUX_2.6");
  vdso_getres = find("__vdso_clock_getres", "LINUX_2.6");
  vdso_gettimeofday = find("__vdso_gettimeofday", "LINUX_2.6");
  vdso_time = find("__vdso_time", "LINUX_2.6");
  vdso_getcpu = find("__vdso_getcpu", "LINUX_2.6");
  printf("found %d %d %d %d %d, other version %d\n", !!vdso_gettime, !!vdso_getres, !!vdso_gettimeofday, !!vdso_time,
         !!vdso_getcpu, !!find("__vdso_time", "LINUX_2.5"));

  compare("realtime", CLOCK_REALTIME);
  compare("monotonic", CLOCK_MONOTONIC);
  compare("raw", CLOCK_MONOTONIC_RAW);
  compare("boottime", CLOCK_BOOTTIME);
  compare("tai", CLOCK_TAI);
  compare("coarse realtime", CLOCK_REALTIME_COARSE);
  compare("coarse monotonic", CLOCK_MONOTONIC_COARSE);
  compare("process", CLOCK_PROCESS_CPUTIME_ID);
  compare("thread", CLOCK_THREAD_CPUTIME_ID);
  long long fine = by_vdso(CLOCK_MONOTONIC), coarse = by_vdso(CLOCK_MONOTONIC_COARSE);
  printf("coarse close %d\n", coarse > fine - 20000000 && coarse < fine + 20000000);

  struct timespec t;
  printf("bad clocks %d %d %d\n", vdso_gettime(1000, &t), vdso_gettime(10, &t), vdso_getres(1000, &t));
  printf("resolution %d", vdso_getres(CLOCK_MONOTONIC, &t));
  printf(" %ld, none wanted %d\n", t.tv_nsec, vdso_getres(CLOCK_REALTIME, NULL));

  struct timeval day;
  struct timezone zone = {.tz_minuteswest = 7};
  long long before = by_call(CLOCK_REALTIME);
  int result = vdso_gettimeofday(&day, &zone);
  long long at = day.tv_sec * 1000000ll + day.tv_usec;
  printf("day %d %d %d %d\n", result, at >= before / 1000, at <= by_call(CLOCK_REALTIME) / 1000, zone.tz_minuteswest);
  printf("nothing wanted %d\n", vdso_gettimeofday(NULL, NULL));
  time_t seconds, same = vdso_time(&seconds);
  printf("time %d %d\n", same == seconds, seconds - before / 1000000000 <= 1);

  int wrong = 0;
  for (long cpu = 0; cpu < sysconf(_SC_NPROCESSORS_ONLN); cpu++) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set)) continue;
    unsigned here = 99, node = 99;
    wrong += vdso_getcpu(&here, &node, NULL) || here != cpu || node != 0;
  }
  printf("wrong CPU %d, nothing wanted %ld\n", wrong, vdso_getcpu(NULL, NULL, NULL));

  pthread_t threads[2];
  for (long i = 0; i < 2; i++) pthread_create(&threads[i], NULL, watch, (void *)i);
  for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  printf("backwards %d\n", backwards);

  // Only of newer kernels, here always: it has a state to keep, and gives bytes.
  struct { uint32_t size, protection, flags, reserved[13]; } parameters;
  long (*vdso_getrandom)(void *, size_t, unsigned, void *, size_t) = find("__vdso_getrandom", "LINUX_2.6");
  int good = 1;
  if (vdso_getrandom) {
    good = vdso_getrandom(NULL, 0, 0, &parameters, -1) == 0 && parameters.size > 0 && parameters.size <= 4096;
    void *state = mmap(NULL, 4096, parameters.protection, parameters.flags, -1, 0);
    unsigned char bytes[2][32] = {{0}};
    for (int i = 0; i < 2; i++) good &= vdso_getrandom(bytes[i], 32, 0, state, parameters.size) == 32;
    good &= memcmp(bytes[0], bytes[1], 32) != 0;
    good &= vdso_getrandom(bytes[0], 32, 0x80, state, parameters.size) == -EINVAL;
    good &= vdso_getrandom(bytes[0], 32, 0, state, parameters.size - 1) == 32;
  }
  printf("random %d\n", good);
  return 0;
}
