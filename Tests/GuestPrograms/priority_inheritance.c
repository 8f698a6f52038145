// Priority inheritance: who has a lock with an owner runs with the priority of those who wait for it, by whatever way.
// alone
// flavours: glibc-static musl-static glibc-dynamic
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { LOCK_PI = 134, UNLOCK_PI = 135, TRYLOCK_PI = 136, WAIT_REQUEUE_PI = 139, CMP_REQUEUE_PI = 140, LOCK_PI2 = 141 };

static long futex(_Atomic uint32_t *word, int operation, uint32_t value, const void *timeout, void *second, uint32_t last) {
  return syscall(SYS_futex, word, operation, value, timeout, second, last);
}

static int identifier(void) { return (int)syscall(SYS_gettid); }

static void set_priority(int thread, int priority) {
  struct sched_param parameters = {.sched_priority = priority};
  if (syscall(SYS_sched_setscheduler, thread, priority ? SCHED_FIFO : SCHED_OTHER, &parameters) != 0) {
    printf("sched_setscheduler: %s\n", strerror(errno));
    exit(1);
  }
}

// Field 18 of a thread's stat: -1 - the real-time priority it runs with, or 20 + nice.
static int running_priority(int thread) {
  char path[64], text[1024];
  snprintf(path, sizeof path, "/proc/self/task/%d/stat", thread);
  FILE *file = fopen(path, "r");
  if (!file || !fgets(text, sizeof text, file)) return 999;
  fclose(file);
  char *at = strrchr(text, ')') + 2;
  for (int field = 3; field < 18; field++) at = strchr(at, ' ') + 1;
  return atoi(at);
}

// What it comes to within two seconds.
static int awaited(int thread, int wanted) {
  for (int i = 0; i < 2000 && running_priority(thread) != wanted; i++) usleep(1000);
  return running_priority(thread);
}

static void burn(int milliseconds) {
  struct timespec start, now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &start);
  do clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  while ((now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000 < milliseconds);
}

// --- The inversion: a middle one that wants the CPU for long keeps the low one from giving back what the high one waits for.

static pthread_mutex_t mutex;
static sem_t has_lock;
static char order[8];
static atomic_int count;

static void note(char who) { order[atomic_fetch_add(&count, 1)] = who; }

static void *low(void *argument) {
  set_priority(0, 10);
  pthread_mutex_lock(&mutex);
  sem_post(&has_lock);
  burn(20);
  pthread_mutex_unlock(&mutex);
  note('L');
  return NULL;
}

static void *middle(void *argument) {
  set_priority(0, 20);
  burn(150);
  note('M');
  return NULL;
}

static void *high(void *argument) {
  set_priority(0, 30);
  pthread_mutex_lock(&mutex);
  note('H');
  pthread_mutex_unlock(&mutex);
  return NULL;
}

static void inversion(int protocol, const char *name) {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setprotocol(&attributes, protocol);
  pthread_mutex_init(&mutex, &attributes);
  sem_init(&has_lock, 0, 0);
  memset(order, 0, sizeof order);
  count = 0;
  pthread_t threads[3];
  pthread_create(&threads[0], NULL, low, NULL);
  sem_wait(&has_lock);
  // Both run when this one, the most urgent, waits for them.
  pthread_create(&threads[1], NULL, high, NULL);
  pthread_create(&threads[2], NULL, middle, NULL);
  for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
  printf("%s: %s\n", name, order);
}

// --- Chains, time-outs, changes of policy.

static _Atomic uint32_t first, second, third;
static atomic_int numbers[3];
static sem_t go[3], done[3];

// Thread i takes one word, is told to go on, and takes another for as long as it may.
struct part {
  int index, priority;
  _Atomic uint32_t *has, *wants;
  int milliseconds;
  long result;
  int error;
};

static void *play(void *argument) {
  struct part *part = argument;
  set_priority(0, part->priority);
  if (part->has) futex(part->has, LOCK_PI, 0, NULL, NULL, 0);
  numbers[part->index] = identifier();
  sem_post(&done[part->index]);
  sem_wait(&go[part->index]);
  if (part->wants) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += part->milliseconds % 1000 * 1000000L;
    until.tv_sec += part->milliseconds / 1000 + until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    part->result = futex(part->wants, LOCK_PI2, 0, part->milliseconds ? &until : NULL, NULL, 0);
    part->error = part->result ? errno : 0;
    if (!part->result) futex(part->wants, UNLOCK_PI, 0, NULL, NULL, 0);
  }
  if (part->has) futex(part->has, UNLOCK_PI, 0, NULL, NULL, 0);
  sem_post(&done[part->index]);
  sem_wait(&go[part->index]);
  return NULL;
}

static void start(pthread_t *thread, struct part *part) {
  sem_init(&go[part->index], 0, 0);
  sem_init(&done[part->index], 0, 0);
  pthread_create(thread, NULL, play, part);
  sem_wait(&done[part->index]);
}

static void chain(int base) {
  pthread_t threads[3];
  struct part parts[3] = {
    {0, base, &first, NULL, 0}, {1, 15, &second, &first, 0}, {2, 30, NULL, &second, 2000}};
  for (int i = 0; i < 3; i++) start(&threads[i], &parts[i]);
  sem_post(&go[1]);
  printf("one waits: %d", awaited(numbers[0], -16));
  sem_post(&go[2]);
  printf(", another behind it: %d %d", awaited(numbers[0], -31), awaited(numbers[1], -31));
  sem_wait(&done[2]);
  printf(", which gave up (%s): %d %d", strerror(parts[2].error), awaited(numbers[0], -16), awaited(numbers[1], -16));
  set_priority(numbers[1], 25);
  printf(", a new policy: %d", awaited(numbers[0], -26));
  sem_post(&go[0]);
  sem_wait(&done[0]);
  sem_wait(&done[1]);
  printf(", given back: %d %d\n", running_priority(numbers[0]), running_priority(numbers[1]));
  for (int i = 0; i < 3; i++) sem_post(&go[i]);
  for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
  printf("free: %u %u, result %ld\n", first, second, parts[1].result);
}

// The last one to be given the lock runs with the priority of those who still wait.
static void hand_over(void) {
  pthread_t threads[3];
  struct part parts[3] = {
    {0, 20, NULL, &third, 0}, {1, 25, &second, &third, 0}, {2, 30, NULL, &second, 0}};
  futex(&third, LOCK_PI, 0, NULL, NULL, 0);
  for (int i = 0; i < 3; i++) start(&threads[i], &parts[i]);
  for (int i = 0; i < 3; i++) sem_post(&go[i]);
  printf("owner's own is higher: %d, middle: %d", running_priority(identifier()), awaited(numbers[1], -31));
  futex(&third, UNLOCK_PI, 0, NULL, NULL, 0);
  for (int i = 0; i < 3; i++) sem_wait(&done[i]);
  for (int i = 0; i < 3; i++) printf(" %d", running_priority(numbers[i]));
  printf(", results %ld %ld %ld\n", parts[0].result, parts[1].result, parts[2].result);
  for (int i = 0; i < 3; i++) sem_post(&go[i]);
  for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
}

static void circle(void) {
  pthread_t thread;
  struct part part = {0, 10, &first, &second, 0};
  futex(&second, LOCK_PI, 0, NULL, NULL, 0);
  start(&thread, &part);
  sem_post(&go[0]);
  awaited(numbers[0], -51);
  while (!(second & 0x80000000u)) usleep(1000);
  printf("circle: %ld", futex(&first, LOCK_PI, 0, NULL, NULL, 0));
  printf(" %s", strerror(errno));
  printf(", try %ld", futex(&first, TRYLOCK_PI, 0, NULL, NULL, 0));
  printf(" %s\n", strerror(errno));
  futex(&second, UNLOCK_PI, 0, NULL, NULL, 0);
  sem_wait(&done[0]);
  sem_post(&go[0]);
  pthread_join(thread, NULL);
}

// --- Waiters of a condition that are moved to a lock.

static _Atomic uint32_t condition;
static atomic_int waits;

static void *wait_for_condition(void *argument) {
  set_priority(0, (int)(intptr_t)argument);
  atomic_fetch_add(&waits, 1);
  long result = futex(&condition, WAIT_REQUEUE_PI, 0, NULL, &first, 0);
  if ((first & 0x3fffffff) != (uint32_t)identifier()) result = 99;
  futex(&first, UNLOCK_PI, 0, NULL, NULL, 0);
  return (void *)result;
}

static void requeue(void) {
  pthread_t owner, waiters[2];
  struct part part = {0, 10, &first, NULL, 0};
  start(&owner, &part);
  pthread_create(&waiters[0], NULL, wait_for_condition, (void *)30L);
  pthread_create(&waiters[1], NULL, wait_for_condition, (void *)20L);
  while (waits < 2) usleep(1000);
  usleep(200000);
  printf("not moved: %d", running_priority(numbers[0]));
  printf(", moved %ld", futex(&condition, CMP_REQUEUE_PI, 1, (void *)5L, &first, 0));
  printf(": %d", awaited(numbers[0], -31));
  sem_post(&go[0]);
  sem_wait(&done[0]);
  printf(", given back: %d", running_priority(numbers[0]));
  for (int i = 0; i < 2; i++) {
    void *result;
    pthread_join(waiters[i], &result);
    printf(" %ld", (long)result);
  }
  printf(", free: %u\n", first);
  sem_post(&go[0]);
  pthread_join(owner, NULL);
}

int main(void) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(0, &set);
  sched_setaffinity(0, sizeof set, &set);
  set_priority(0, 50);
  inversion(PTHREAD_PRIO_NONE, "no protocol");
  inversion(PTHREAD_PRIO_INHERIT, "inherited");
  chain(10);
  chain(0);  // An ordinary thread inherits too.
  hand_over();
  circle();
  requeue();
  return 0;
}
