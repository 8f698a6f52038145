// What memory costs: mapping, touching and unmapping, growing, moving and protecting it, and malloc between two threads. Run natively
// and in the guest, pinned alike by the program itself; each line is "NAME NANOSECONDS OPERATIONS": of one operation, the best of
// many short rounds (which is what a busy machine disturbs least), and how many operations there were in all.
//
//   memory [NAME...]      only the measurements whose names begin so
//
// All of it uses memory that the process has had before, so that neither kernel (nor, under the guest, the host) has to find any;
// first_touch and returned_touch say what a page costs that was never used, or not for a while.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "measure.h"

enum { PAGE = 4096, KIB = 1 << 10, MIB = 1 << 20 };

static char *map(size_t size) {
  char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) perror("mmap"), exit(1);
  return memory;
}

static void touch(char *memory, size_t size) {
  for (size_t i = 0; i < size; i += PAGE) ((volatile char *)memory)[i] = 1;
}

static void check(int result) {
  if (result != 0) perror("memory"), exit(1);
}

// ---- Mapping ---------------------------------------------------------------------------------------------------------
static double cycle(size_t size, int count) {
  double before = now();
  for (int i = 0; i < count; i++) {
    char *memory = map(size);
    touch(memory, size);
    check(munmap(memory, size));
  }
  return (now() - before) / count;
}

static double map_4k(int count) { return cycle(PAGE, count); }
static double map_1m(int count) { return cycle(MIB, count); }
static double map_256m(int count) { return cycle(256 * (size_t)MIB, count); }

// One page of memory that stays small pages: what a fault costs at best.
static double page_fault(int count) {
  size_t size = (size_t)count * PAGE;
  char *memory = map(size);
  check(madvise(memory, size, MADV_NOHUGEPAGE));
  double before = now();
  touch(memory, size);
  double result = (now() - before) / count;
  check(munmap(memory, size));
  return result;
}

// The same after a pause in which the kernel may clear what was given back.
static double page_fault_rested(int count) {
  usleep(10000);
  return page_fault(count);
}

static double discard_64k(int count) {
  char *memory = map(64 * KIB);
  double before = now();
  for (int i = 0; i < count; i++) {
    touch(memory, 64 * KIB);
    check(madvise(memory, 64 * KIB, MADV_DONTNEED));
  }
  double result = (now() - before) / count;
  check(munmap(memory, 64 * KIB));
  return result;
}

// ---- Growing and moving ----------------------------------------------------------------------------------------------
static double brk_growth(int count) {
  char *base = sbrk(0);
  double before = now();
  for (int i = 0; i < count; i++) {
    char *grown = sbrk(128 * KIB);
    if (grown == (void *)-1) perror("sbrk"), exit(1);
    touch(grown, 128 * KIB);
  }
  double result = (now() - before) / count;
  check(brk(base));
  return result;
}

static double mremap_grow(int count) {
  size_t size = MIB;
  char *memory = map(size);
  double before = now();
  for (int i = 0; i < count; i++) {
    char *grown = mremap(memory, size, size + 64 * KIB, MREMAP_MAYMOVE);
    if (grown == MAP_FAILED) perror("mremap"), exit(1);
    touch(grown + size, 64 * KIB);
    memory = mremap(grown, size + 64 * KIB, size, 0);
  }
  double result = (now() - before) / count;
  check(munmap(memory, size));
  return result;
}

static double mremap_move_1m(int count) {
  char *places = map(4 * MIB), *memory = places;
  touch(memory, MIB);
  double before = now();
  for (int i = 0; i < count; i++) {
    char *target = i % 2 ? places : places + 2 * MIB;
    if (mremap(memory, MIB, MIB, MREMAP_MAYMOVE | MREMAP_FIXED, target) != target) perror("mremap"), exit(1);
    memory = target;
  }
  double result = (now() - before) / count;
  check(munmap(places, 4 * MIB));
  return result;
}

// ---- Protecting ------------------------------------------------------------------------------------------------------
static double toggle(char *memory, size_t size, int count) {
  double before = now();
  for (int i = 0; i < count; i++) {
    check(mprotect(memory, size, PROT_READ));
    check(mprotect(memory, size, PROT_READ | PROT_WRITE));
    ((volatile char *)memory)[0] = 1;
  }
  return (now() - before) / count;
}

static double mprotect_1cpu(int count) {
  char *memory = map(64 * KIB);
  touch(memory, 64 * KIB);
  double result = toggle(memory, 64 * KIB, count);
  check(munmap(memory, 64 * KIB));
  return result;
}

static _Atomic int ready, stop;

static void *read_on(void *argument) {
  pin(1);
  volatile char *memory = argument;
  ready = 1;
  while (!stop)
    for (int i = 0; i < 16; i++) (void)memory[i * PAGE];
  return NULL;
}

// The same, and each page is written in turn.
static double mprotect_write(int count) {
  char *memory = map(64 * KIB);
  touch(memory, 64 * KIB);
  double before = now();
  for (int i = 0; i < count; i++) {
    check(mprotect(memory, 64 * KIB, PROT_READ));
    check(mprotect(memory, 64 * KIB, PROT_READ | PROT_WRITE));
    touch(memory, 64 * KIB);
  }
  double result = (now() - before) / count;
  check(munmap(memory, 64 * KIB));
  return result;
}

static double mprotect_2cpus(int count) {
  char *memory = map(64 * KIB);
  touch(memory, 64 * KIB);
  ready = stop = 0;
  pthread_t reader;
  check(pthread_create(&reader, NULL, read_on, memory));
  while (!ready) sched_yield();
  double result = toggle(memory, 64 * KIB, count);
  stop = 1;
  pthread_join(reader, NULL);
  check(munmap(memory, 64 * KIB));
  return result;
}

// ---- malloc ----------------------------------------------------------------------------------------------------------
enum { RING = 1024 };
static _Atomic(void *) ring[RING];
static int rest;

static size_t size_of(int i) { return 16 + (unsigned)i * 2654435761u % 1000; }

static void *consume(void *argument) {
  pin((int)(intptr_t)argument);
  for (int i = 0; i < rest; i++) {
    void *object;
    while (!(object = atomic_exchange_explicit(&ring[i % RING], NULL, memory_order_acquire))) sched_yield();
    free(object);
  }
  return NULL;
}

static double pass(int count, int consumer) {
  rest = count;
  pthread_t thread;
  check(pthread_create(&thread, NULL, consume, (void *)(intptr_t)consumer));
  double before = now();
  for (int i = 0; i < count; i++) {
    char *object = malloc(size_of(i));
    object[0] = 1;
    while (atomic_load_explicit(&ring[i % RING], memory_order_relaxed)) sched_yield();
    atomic_store_explicit(&ring[i % RING], object, memory_order_release);
  }
  pthread_join(thread, NULL);
  return (now() - before) / count;
}

static double malloc_pass_1cpu(int count) { return pass(count, 0); }
static double malloc_pass_2cpus(int count) { return pass(count, 1); }

static double malloc_1thread(int count) {
  static void *held[256];
  double before = now();
  for (int i = 0; i < count; i++) {
    int place = (unsigned)i * 2654435761u >> 24;
    free(held[place]);
    held[place] = malloc(size_of(i));
    *(char *)held[place] = 1;
  }
  double result = (now() - before) / count;
  for (int i = 0; i < 256; i++) free(held[i]), held[i] = NULL;
  return result;
}

// glibc maps what is large, and unmaps it again.
static double malloc_1m(int count) {
  double before = now();
  for (int i = 0; i < count; i++) {
    char *memory = malloc(MIB);
    touch(memory, MIB);
    free(memory);
  }
  return (now() - before) / count;
}

// ---- Pages that are not there yet ------------------------------------------------------------------------------------
static double first_touch(int count) {
  size_t size = (size_t)count * PAGE;
  char *memory = map(size);
  double before = now();
  touch(memory, size);
  double result = (now() - before) / count;
  check(munmap(memory, size));
  return result;
}

static double returned_touch(int count) {
  first_touch(count);
  struct timespec pause = {.tv_sec = 1};
  nanosleep(&pause, NULL);
  return first_touch(count);
}

static const struct {
  const char *name;
  double (*run)(int count);
  int count, rounds, cpus;
} all[] = {
    // First, before anything has been touched; each page is touched once in all.
    {"first_touch", first_touch, 16384, 1, 1},
    {"map_4k", map_4k, 100, 100, 1},
    {"map_1m", map_1m, 5, 100, 1},
    {"map_256m", map_256m, 1, 12, 1},
    {"page_fault", page_fault, 2048, 20, 1},
    {"page_fault_rested", page_fault_rested, 1024, 20, 1},
    {"discard_64k", discard_64k, 20, 100, 1},
    {"brk_growth", brk_growth, 16, 60, 1},
    {"mremap_grow", mremap_grow, 20, 100, 1},
    {"mremap_move_1m", mremap_move_1m, 20, 100, 1},
    {"mprotect_1cpu", mprotect_1cpu, 50, 100, 1},
    {"mprotect_write", mprotect_write, 20, 100, 1},
    {"mprotect_2cpus", mprotect_2cpus, 50, 60, 2},
    {"malloc_1thread", malloc_1thread, 10000, 40, 1},
    {"malloc_1m", malloc_1m, 10, 60, 1},
    {"malloc_pass_1cpu", malloc_pass_1cpu, 10000, 20, 1},
    {"malloc_pass_2cpus", malloc_pass_2cpus, 10000, 20, 2},
    {"returned_touch", returned_touch, 16384, 1, 1},
};

int main(int count, char **arguments) {
  pin(0);
  long present = sysconf(_SC_NPROCESSORS_ONLN);
  for (unsigned i = 0; i < sizeof all / sizeof all[0]; i++) {
    int wanted = count == 1;
    for (int j = 1; j < count; j++) wanted |= strncmp(all[i].name, arguments[j], strlen(arguments[j])) == 0;
    if (!wanted || present < all[i].cpus) continue;
    int rounds = all[i].rounds;
    // A round that is not counted gives the process its memory.
    if (rounds > 1) all[i].run(all[i].count);
    double best = all[i].run(all[i].count);
    for (int j = 1; j < rounds; j++) {
      double result = all[i].run(all[i].count);
      if (result < best) best = result;
    }
    printf("%s %.1f %d\n", all[i].name, best, all[i].count * (rounds + (rounds > 1)));
    fflush(stdout);
  }
  return 0;
}
