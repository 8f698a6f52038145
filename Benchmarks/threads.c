// What threads cost: switches, wake-ups on one CPU and between two, mutexes, creation. Run natively and in the guest, pinned
// alike by the program itself; each line is "NAME NANOSECONDS" (of one operation), the median of several rounds.
//
//   threads [NAME...]      only the measurements whose names begin so
#define _GNU_SOURCE
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e9 + t.tv_nsec;
}

static void pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof set, &set);
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

// ---- Two threads that answer each other ------------------------------------------------------------------------------
enum { FUTEX, CONDITION, SEMAPHORE, YIELD };
static int kind, rounds, cpus[2];
static pthread_barrier_t start;
static _Atomic uint32_t turn;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static sem_t semaphores[2];
static _Atomic double begun, ended;

static void *play(void *argument) {
  uint32_t me = (uint32_t)(uintptr_t)argument;
  pin(cpus[me]);
  pthread_barrier_wait(&start);
  if (me == 0) begun = now();
  for (int i = 0; i < rounds; i++) switch (kind) {
    case YIELD: sched_yield(); break;
    case FUTEX:
      while (atomic_load(&turn) != me) syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, !me, NULL, NULL, 0);
      atomic_store(&turn, !me);
      syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
      break;
    case CONDITION:
      pthread_mutex_lock(&lock);
      while (turn != me) pthread_cond_wait(&changed, &lock);
      turn = !me;
      pthread_cond_signal(&changed);
      pthread_mutex_unlock(&lock);
      break;
    case SEMAPHORE:
      sem_wait(&semaphores[me]);
      sem_post(&semaphores[!me]);
      break;
    }
  ended = now();
  return NULL;
}

static double duel(int what, int number, int first, int second) {
  kind = what, rounds = number, cpus[0] = first, cpus[1] = second, turn = 0;
  sem_init(&semaphores[0], 0, 1), sem_init(&semaphores[1], 0, 0);
  pthread_barrier_init(&start, NULL, 2);
  pthread_t threads[2];
  for (uintptr_t i = 0; i < 2; i++) pthread_create(&threads[i], NULL, play, (void *)i);
  for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  return (ended - begun) / number / 2;
}

static double yield_1(void) { return duel(YIELD, 20000, 0, 0); }
static double futex_1(void) { return duel(FUTEX, 10000, 0, 0); }
static double condition_1(void) { return duel(CONDITION, 10000, 0, 0); }
static double semaphore_1(void) { return duel(SEMAPHORE, 10000, 0, 0); }
static double futex_2(void) { return duel(FUTEX, 3000, 0, 1); }
static double condition_2(void) { return duel(CONDITION, 3000, 0, 1); }
static double semaphore_2(void) { return duel(SEMAPHORE, 3000, 0, 1); }

// ---- Creation --------------------------------------------------------------------------------------------------------
static void *nothing(void *argument) { return argument; }

static double create_join(void) {
  enum { COUNT = 1000 };
  double before = now();
  for (int i = 0; i < COUNT; i++) {
    pthread_t thread;
    pthread_create(&thread, NULL, nothing, NULL);
    pthread_join(thread, NULL);
  }
  return (now() - before) / COUNT;
}

// ---- Contention ------------------------------------------------------------------------------------------------------
static int contenders;
static volatile long guarded;
static pthread_rwlock_t shared_lock = PTHREAD_RWLOCK_INITIALIZER;

static void *contend(void *argument) {
  pthread_barrier_wait(&start);
  for (int i = 0; i < rounds; i++) {
    pthread_mutex_lock(&lock);
    for (int j = 0; j < 20; j++) guarded++;
    pthread_mutex_unlock(&lock);
    for (volatile int j = 0; j < 50; j++) {}
  }
  return NULL;
}

static void *share(void *argument) {
  pthread_barrier_wait(&start);
  for (int i = 0; i < rounds; i++) {
    if (i % 64 == 0) {
      pthread_rwlock_wrlock(&shared_lock);
      guarded++;
    } else {
      pthread_rwlock_rdlock(&shared_lock);
    }
    for (volatile int j = 0; j < 20; j++) {}
    pthread_rwlock_unlock(&shared_lock);
  }
  return NULL;
}

static double crowd(int number, int each, void *(*body)(void *)) {
  contenders = number, rounds = each;
  pthread_barrier_init(&start, NULL, number + 1);
  pthread_t threads[64];
  for (int i = 0; i < number; i++) pthread_create(&threads[i], NULL, body, NULL);
  double before = now();
  pthread_barrier_wait(&start);
  for (int i = 0; i < number; i++) pthread_join(threads[i], NULL);
  return (now() - before) / number / each;
}

static double mutex_2(void) { return crowd(2, 20000, contend); }
static double mutex_4(void) { return crowd(4, 20000, contend); }
static double rwlock_4(void) { return crowd(4, 20000, share); }

// ---- Broadcast -------------------------------------------------------------------------------------------------------
static int generation, arrived;
static pthread_cond_t all_arrived = PTHREAD_COND_INITIALIZER;

static void *listen_(void *argument) {
  for (int i = 0; i < rounds; i++) {
    pthread_mutex_lock(&lock);
    arrived++;
    pthread_cond_signal(&all_arrived);
    while (generation == i) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
  }
  return NULL;
}

static double broadcast_64(void) {
  generation = arrived = 0, rounds = 50;
  pthread_t threads[64];
  for (int i = 0; i < 64; i++) pthread_create(&threads[i], NULL, listen_, NULL);
  double before = now();
  for (int i = 0; i < rounds; i++) {
    pthread_mutex_lock(&lock);
    while (arrived != 64) pthread_cond_wait(&all_arrived, &lock);
    arrived = 0, generation++;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
  }
  double each = (now() - before) / rounds;
  for (int i = 0; i < 64; i++) pthread_join(threads[i], NULL);
  return each;
}

// ---- Timers ----------------------------------------------------------------------------------------------------------
static double late_50us(void) {
  enum { COUNT = 200 };
  double lates[COUNT];
  prctl(PR_SET_TIMERSLACK, 1);
  for (int i = 0; i < COUNT; i++) {
    double before = now();
    struct timespec pause = {.tv_nsec = 50000};
    nanosleep(&pause, NULL);
    lates[i] = now() - before - 50000;
  }
  qsort(lates, COUNT, sizeof lates[0], compare);
  return lates[COUNT / 2];
}

static double getpid_(void) {
  double before = now();
  for (int i = 0; i < 20000; i++) syscall(SYS_getppid);
  return (now() - before) / 20000;
}

static const struct {
  const char *name;
  double (*run)(void);
  int least;
} all[] = {
    {"system_call", getpid_, 1},       {"yield_1cpu", yield_1, 1},           {"futex_1cpu", futex_1, 1},
    {"condition_1cpu", condition_1, 1}, {"semaphore_1cpu", semaphore_1, 1},   {"futex_2cpus", futex_2, 2},
    {"condition_2cpus", condition_2, 2}, {"semaphore_2cpus", semaphore_2, 2}, {"create_join", create_join, 1},
    {"mutex_2", mutex_2, 1},           {"mutex_4", mutex_4, 1},              {"rwlock_4", rwlock_4, 1},
    {"broadcast_64", broadcast_64, 1}, {"late_50us", late_50us, 1},
};

int main(int count, char **arguments) {
  enum { TIMES = 7 };
  long present = sysconf(_SC_NPROCESSORS_ONLN);
  for (unsigned i = 0; i < sizeof all / sizeof all[0]; i++) {
    int wanted = count == 1;
    for (int j = 1; j < count; j++) wanted |= strncmp(all[i].name, arguments[j], strlen(arguments[j])) == 0;
    if (!wanted || present < all[i].least) continue;
    double results[TIMES];
    for (int j = 0; j < TIMES; j++) results[j] = all[i].run();
    qsort(results, TIMES, sizeof results[0], compare);
    printf("%s %.0f\n", all[i].name, results[TIMES / 2]);
    fflush(stdout);
  }
  return 0;
}
