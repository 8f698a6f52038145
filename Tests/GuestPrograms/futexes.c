// futex(2) beyond waiting and waking: operations on a second word, locks with owners, robust mutexes, shared words, several
// words at once.
// alone
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// From <linux/futex.h>, which not every C library's headers include.
enum {
  FUTEX_WAIT = 0, FUTEX_WAKE = 1, FUTEX_PRIVATE_FLAG = 128,
  FUTEX_WAIT_PRIVATE = 128, FUTEX_WAKE_PRIVATE = 129, FUTEX_WAKE_OP_PRIVATE = 133, FUTEX_LOCK_PI_PRIVATE = 134,
  FUTEX_UNLOCK_PI_PRIVATE = 135, FUTEX_TRYLOCK_PI_PRIVATE = 136,
  FUTEX_OP_SET = 0, FUTEX_OP_ADD = 1, FUTEX_OP_OR = 2, FUTEX_OP_OPARG_SHIFT = 8,
  FUTEX_OP_CMP_EQ = 0, FUTEX_OP_CMP_NE = 1, FUTEX_OP_CMP_LT = 2,
};
#define FUTEX_WAITERS 0x80000000u
#define FUTEX_TID_MASK 0x3fffffffu
#define FUTEX_OP(operation, operand, comparison, compared) \
  ((uint32_t)(operation) << 28 | (uint32_t)(comparison) << 24 | ((uint32_t)(operand) & 0xfff) << 12 | (compared))

static long futex(_Atomic uint32_t *word, int operation, uint32_t value, const void *timeout, void *second, uint32_t last) {
  return syscall(SYS_futex, word, operation, value, timeout, second, last);
}

static _Atomic uint32_t one, two, lock, started;

static void *wait_on(void *word) {
  atomic_fetch_add(&started, 1);
  return (void *)(intptr_t)futex(word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
}

// Until so many sleep there: a requeue to itself with an impossible count tells nothing, so wait and hope generously.
static void settle(uint32_t count) {
  while (atomic_load(&started) < count) usleep(100);
  usleep(20000);
}

static void wake_operations(void) {
  pthread_t threads[4];
  started = 0;
  for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, wait_on, &one);
  for (int i = 2; i < 4; i++) pthread_create(&threads[i], NULL, wait_on, &two);
  settle(4);
  // The second word becomes 5 and was 0: both are woken.
  long woken = futex(&one, FUTEX_WAKE_OP_PRIVATE, 1, (void *)9L, &two, FUTEX_OP(FUTEX_OP_SET, 5, FUTEX_OP_CMP_EQ, 0));
  printf("wake op: %ld, word %u\n", woken, two);
  // It was 5, which is not less than 3: only the first is woken.
  woken = futex(&one, FUTEX_WAKE_OP_PRIVATE, 9, (void *)9L, &two, FUTEX_OP(FUTEX_OP_ADD, -2, FUTEX_OP_CMP_LT, 3));
  printf("wake op: %ld, word %u\n", woken, two);
  woken = futex(&one, FUTEX_WAKE_OP_PRIVATE, 9, (void *)9L, &two,
                FUTEX_OP((FUTEX_OP_OR | FUTEX_OP_OPARG_SHIFT), 4, FUTEX_OP_CMP_NE, 3));
  printf("wake op: %ld, word %u\n", woken, two);
  printf("bad operation: %ld %s\n", futex(&one, FUTEX_WAKE_OP_PRIVATE, 1, NULL, &two, 0x70000000), strerror(errno));
  for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
  one = two = 0;
}

static void *take(void *argument) {
  atomic_fetch_add(&started, 1);
  long result = futex(&lock, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0);
  int mine = (lock & FUTEX_TID_MASK) == (uint32_t)syscall(SYS_gettid);
  if (futex(&lock, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0) != 0) mine = 0;
  return (void *)(intptr_t)(result == 0 && mine);
}

static void owned_locks(void) {
  uint32_t me = (uint32_t)syscall(SYS_gettid);
  printf("lock %ld", futex(&lock, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0));
  printf(" mine %d\n", lock == me);
  printf("again %ld", futex(&lock, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0));
  printf(" %s\n", strerror(errno));
  pthread_t threads[3];
  started = 0;
  for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, take, NULL);
  settle(3);
  printf("waiters %d\n", (lock & FUTEX_WAITERS) != 0);
  printf("unlock %ld\n", futex(&lock, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0));
  long got = 0;
  for (int i = 0; i < 3; i++) {
    void *result;
    pthread_join(threads[i], &result);
    got += (long)result;
  }
  printf("handed over %ld, word %u\n", got, lock);
  printf("not mine %ld", futex(&lock, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0));
  printf(" %s\n", strerror(errno));
  lock = 0x3ffffff;
  printf("nobody's %ld", futex(&lock, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0));
  printf(" %s\n", strerror(errno));
  lock = 0;
  printf("try %ld\n", futex(&lock, FUTEX_TRYLOCK_PI_PRIVATE, 0, NULL, NULL, 0));
  struct timespec past = {.tv_sec = 1};
  lock = 0;
  futex(&lock, FUTEX_LOCK_PI_PRIVATE, 0, &past, NULL, 0);
  futex(&lock, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0);
}

static pthread_mutex_t inheriting, robust;

static void *contend(void *argument) {
  long *counter = argument;
  for (int i = 0; i < 2000; i++) {
    pthread_mutex_lock(&inheriting);
    ++*counter;
    pthread_mutex_unlock(&inheriting);
    if (i % 100 == 0) usleep(1);
  }
  return NULL;
}

static void *timed(void *argument) {
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_nsec += 5000000;
  if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
  return (void *)(intptr_t)pthread_mutex_timedlock(&inheriting, &until);
}

static atomic_int held;

static void *die_with_it(void *argument) {
  pthread_mutex_lock(&robust);
  atomic_store(&held, 1);
  usleep(20000);
  return NULL;
}

static void mutexes(int protocol) {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setprotocol(&attributes, protocol);
  pthread_mutex_init(&inheriting, &attributes);
  pthread_t threads[4];
  long counter = 0;
  for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, contend, &counter);
  for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
  pthread_mutex_lock(&inheriting);
  pthread_create(&threads[0], NULL, timed, NULL);
  void *result;
  pthread_join(threads[0], &result);
  pthread_mutex_unlock(&inheriting);
  printf("counter %ld, timed lock %s\n", counter, strerror((int)(intptr_t)result));

  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&robust, &attributes);
  atomic_store(&held, 0);
  pthread_create(&threads[0], NULL, die_with_it, NULL);
  while (!atomic_load(&held)) usleep(1000);
  int first = pthread_mutex_lock(&robust);
  printf("robust: %s", strerror(first));
  printf(", consistent %d", pthread_mutex_consistent(&robust));
  pthread_mutex_unlock(&robust);
  printf(", then %d\n", pthread_mutex_lock(&robust));
  pthread_mutex_unlock(&robust);
  pthread_join(threads[0], NULL);
}

static void *wait_shared(void *word) {
  atomic_fetch_add(&started, 1);
  return (void *)(intptr_t)futex(word, FUTEX_WAIT, 0, NULL, NULL, 0);
}

static void shared_words(void) {
  int file = memfd_create("word", 0);
  if (ftruncate(file, 8192) != 0) return;
  char *first = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  char *second = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 4096);
  pthread_t thread;
  started = 0;
  pthread_create(&thread, NULL, wait_shared, first + 4096 + 64);
  settle(1);
  printf("elsewhere %ld", futex((void *)second, FUTEX_WAKE, 1, NULL, NULL, 0));
  printf(", by its other address %ld\n", futex((void *)(second + 64), FUTEX_WAKE, 1, NULL, NULL, 0));
  pthread_join(thread, NULL);
}

struct entry {
  uint64_t value, address;
  uint32_t flags, reserved;
};

static void *wait_several(void *argument) {
  struct entry entries[2] = {{0, (uintptr_t)&one, 2 | FUTEX_PRIVATE_FLAG, 0}, {0, (uintptr_t)&two, 2 | FUTEX_PRIVATE_FLAG, 0}};
  atomic_fetch_add(&started, 1);
  return (void *)syscall(449, entries, 2, 0, NULL, CLOCK_MONOTONIC);
}

static void several(void) {
  pthread_t thread;
  started = 0;
  one = two = 0;
  pthread_create(&thread, NULL, wait_several, NULL);
  settle(1);
  printf("woken %ld", futex(&two, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0));
  void *result;
  pthread_join(thread, &result);
  printf(", index %ld, nobody left %ld\n", (long)result, futex(&one, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0));
  struct entry wrong = {1, (uintptr_t)&one, 2 | FUTEX_PRIVATE_FLAG, 0};
  printf("differs %ld", syscall(449, &wrong, 1, 0, NULL, CLOCK_MONOTONIC));
  printf(" %s\n", strerror(errno));
  struct timespec past = {.tv_sec = 1};
  wrong.value = 0;
  printf("late %ld", syscall(449, &wrong, 1, 0, &past, CLOCK_REALTIME));
  printf(" %s\n", strerror(errno));
}

int main(void) {
  wake_operations();
  owned_locks();
  mutexes(PTHREAD_PRIO_NONE);
  mutexes(PTHREAD_PRIO_INHERIT);
  shared_words();
  several();
  return 0;
}
