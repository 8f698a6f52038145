// What threads cost: switches, wake-ups on one CPU and between two, mutexes, creation. Run natively and in the guest, pinned
// alike by the program itself; each line is "NAME NANOSECONDS OPERATIONS SWITCHES INTERRUPTS": the median of several rounds for one
// operation; how many there were; and, for one operation, how often its threads were switched and how many interrupts went between
// CPUs (natively those of the whole machine).
//
// Percentiles are those of all rounds together.
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
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "measure.h"

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

// ---- What it took ----------------------------------------------------------------------------------------------------
// Operations of all rounds so far.
static long operations;

// Switches of this process's threads, by their will or not.
static double switches(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_nvcsw + usage.ru_nivcsw;
}

// Interrupts by which CPUs ask others to schedule.
static double interrupts(void) {
  char line[4096];
  double sum = 0;
  FILE *file = fopen("/proc/interrupts", "r");
  while (file && fgets(line, sizeof line, file)) {
    char *at = strstr(line, "RES:"), *end;
    if (!at) continue;
    for (at += 4;; at = end) {
      double value = strtod(at, &end);
      if (end == at) break;
      sum += value;
    }
  }
  if (file) fclose(file);
  return sum;
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
  operations += 2 * number;
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
  operations += COUNT;
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
  operations += (long)number * each;
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
  operations += rounds;
  for (int i = 0; i < 64; i++) pthread_join(threads[i], NULL);
  return each;
}

// ---- A ring of semaphores --------------------------------------------------------------------------------------------
enum { RING = 8 };
static sem_t ring[RING];

static void *hand_on(void *argument) {
  uintptr_t me = (uintptr_t)argument;
  pthread_barrier_wait(&start);
  for (int i = 0; i < rounds; i++) {
    sem_wait(&ring[me]);
    sem_post(&ring[(me + 1) % RING]);
  }
  return NULL;
}

// One unit goes round: each hop wakes a thread that sleeps.
static double chain_8(void) {
  rounds = 500;
  for (int i = 0; i < RING; i++) sem_init(&ring[i], 0, i == 0);
  pthread_barrier_init(&start, NULL, RING + 1);
  pthread_t threads[RING];
  for (uintptr_t i = 0; i < RING; i++) pthread_create(&threads[i], NULL, hand_on, (void *)i);
  double before = now();
  pthread_barrier_wait(&start);
  for (int i = 0; i < RING; i++) pthread_join(threads[i], NULL);
  operations += rounds * RING;
  return (now() - before) / rounds / RING;
}

// ---- Latencies: the samples of all rounds ----------------------------------------------------------------------------
typedef struct {
  int count;
  double values[20000];
} samples_t;

static void sample(samples_t *samples, double value) {
  if (samples->count < 20000) samples->values[samples->count++] = value;
}

static double percentile(samples_t *samples, double part) {
  qsort(samples->values, samples->count, sizeof samples->values[0], compare);
  int index = samples->count * part;
  return samples->values[index < samples->count ? index : samples->count - 1];
}

// ---- A sleeper among hogs --------------------------------------------------------------------------------------------
static samples_t among_hogs;
static atomic_int stop;

static void *hog(void *argument) {
  while (!atomic_load_explicit(&stop, memory_order_relaxed)) {}
  return NULL;
}

// Two hogs a CPU; the sleeper wants little and should get it at once.
static double hogs_p50(void) {
  enum { COUNT = 500 };
  long number = 2 * sysconf(_SC_NPROCESSORS_ONLN);
  pthread_t threads[16];
  if (number > 16) number = 16;
  stop = 0;
  prctl(PR_SET_TIMERSLACK, 1);
  for (int i = 0; i < number; i++) pthread_create(&threads[i], NULL, hog, NULL);
  double each[COUNT];
  for (int i = 0; i < COUNT; i++) {
    double before = now();
    struct timespec pause = {.tv_nsec = 300000};
    nanosleep(&pause, NULL);
    sample(&among_hogs, each[i] = now() - before - 300000);
  }
  stop = 1;
  operations += COUNT;
  for (int i = 0; i < number; i++) pthread_join(threads[i], NULL);
  qsort(each, COUNT, sizeof each[0], compare);
  return each[COUNT / 2];
}

static double hogs_p99(void) { return among_hogs.count || hogs_p50() ? percentile(&among_hogs, 0.99) : 0; }
static double hogs_p999(void) { return among_hogs.count || hogs_p50() ? percentile(&among_hogs, 0.999) : 0; }

// ---- A thread that sleeps on an idle CPU, woken from another ---------------------------------------------------------
static _Atomic double sent_at;

static void *receive(void *argument) {
  double *lates = argument;
  pin(1);
  for (int i = 0; i < rounds; i++) {
    sem_wait(&semaphores[0]);
    lates[i] = now() - sent_at;
    sem_post(&semaphores[1]);
  }
  return NULL;
}

// The CPU has been idle for 2 ms: it no longer polls, in the guest and on the host.
static double parked_2cpus(void) {
  double lates[100];
  cpu_set_t before;
  sched_getaffinity(0, sizeof before, &before);
  rounds = 100;
  sem_init(&semaphores[0], 0, 0), sem_init(&semaphores[1], 0, 0);
  pthread_t thread;
  pthread_create(&thread, NULL, receive, lates);
  pin(0);
  for (int i = 0; i < rounds; i++) {
    for (double from = now(); now() - from < 2e6;) {}
    sent_at = now();
    sem_post(&semaphores[0]);
    sem_wait(&semaphores[1]);
  }
  operations += rounds;
  pthread_join(thread, NULL);
  sched_setaffinity(0, sizeof before, &before);
  qsort(lates, rounds, sizeof lates[0], compare);
  return lates[rounds / 2];
}

// ---- After sysbench threads: a few locks, and a yield while one is held -----------------------------------------------
static pthread_mutex_t locks[4] = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER,
                                   PTHREAD_MUTEX_INITIALIZER};

static void *lock_and_yield(void *argument) {
  pthread_barrier_wait(&start);
  for (int i = 0; i < rounds; i++) {
    pthread_mutex_lock(&locks[i % 4]);
    sched_yield();
    pthread_mutex_unlock(&locks[i % 4]);
  }
  return NULL;
}

static double sysbench_8(void) { return crowd(8, 2000, lock_and_yield); }

// ---- After hackbench: groups of senders and receivers over pipes -----------------------------------------------------
enum { SENDERS = 5, MESSAGES = 100, BYTES = 100 };
static int pipes[SENDERS][2];

static void *send_all(void *argument) {
  char message[BYTES] = {0};
  pthread_barrier_wait(&start);
  for (int i = 0; i < MESSAGES; i++)
    for (int j = 0; j < SENDERS; j++)
      if (write(pipes[j][1], message, BYTES) != BYTES) abort();
  return NULL;
}

static void *receive_all(void *argument) {
  char message[BYTES];
  pthread_barrier_wait(&start);
  for (int i = 0; i < MESSAGES * SENDERS; i++)
    for (int done = 0; done < BYTES;) {
      ssize_t count = read(pipes[(uintptr_t)argument][0], message + done, BYTES - done);
      if (count <= 0) abort();
      done += count;
    }
  return NULL;
}

static double hackbench_10(void) {
  pthread_t threads[2 * SENDERS];
  pthread_barrier_init(&start, NULL, 2 * SENDERS + 1);
  for (uintptr_t i = 0; i < SENDERS; i++) {
    if (pipe(pipes[i]) != 0) abort();
    pthread_create(&threads[2 * i], NULL, send_all, NULL);
    pthread_create(&threads[2 * i + 1], NULL, receive_all, (void *)i);
  }
  double before = now();
  pthread_barrier_wait(&start);
  for (int i = 0; i < 2 * SENDERS; i++) pthread_join(threads[i], NULL);
  double each = (now() - before) / (SENDERS * SENDERS * MESSAGES);
  operations += SENDERS * SENDERS * MESSAGES;
  for (int i = 0; i < SENDERS; i++) close(pipes[i][0]), close(pipes[i][1]);
  return each;
}

// ---- After schbench: one thread gives work to others, which think for a while ----------------------------------------
enum { WORKERS = 6, REQUESTS = 150 };
static samples_t wakes;
static struct {
  sem_t work;
  _Atomic double since;
  double lates[REQUESTS];
} workers[WORKERS];

static void *think(void *argument) {
  uintptr_t me = (uintptr_t)argument;
  for (int i = 0; i < REQUESTS; i++) {
    sem_wait(&workers[me].work);
    workers[me].lates[i] = now() - workers[me].since;
    for (double from = now(); now() - from < 100e3;) {}
    sem_post(&semaphores[0]);
  }
  return NULL;
}

static double schbench_p50(void) {
  pthread_t threads[WORKERS];
  sem_init(&semaphores[0], 0, 0);
  for (uintptr_t i = 0; i < WORKERS; i++) {
    sem_init(&workers[i].work, 0, 0);
    pthread_create(&threads[i], NULL, think, (void *)i);
  }
  for (int i = 0; i < REQUESTS; i++) {
    for (int j = 0; j < WORKERS; j++) {
      workers[j].since = now();
      sem_post(&workers[j].work);
    }
    for (int j = 0; j < WORKERS; j++) sem_wait(&semaphores[0]);
  }
  double each[WORKERS * REQUESTS];
  int count = 0;
  for (int i = 0; i < WORKERS; i++) {
    pthread_join(threads[i], NULL);
    for (int j = 0; j < REQUESTS; j++) sample(&wakes, each[count++] = workers[i].lates[j]);
  }
  operations += count;
  qsort(each, count, sizeof each[0], compare);
  return each[count / 2];
}

static double schbench_p99(void) { return wakes.count || schbench_p50() ? percentile(&wakes, 0.99) : 0; }

// ---- Timers ----------------------------------------------------------------------------------------------------------
static double late(int by_descriptor) {
  enum { COUNT = 200 };
  double lates[COUNT];
  prctl(PR_SET_TIMERSLACK, 1);
  int timer = by_descriptor ? timerfd_create(CLOCK_MONOTONIC, 0) : -1;
  for (int i = 0; i < COUNT; i++) {
    struct itimerspec once = {.it_value.tv_nsec = 50000};
    uint64_t expirations;
    double before = now();
    if (by_descriptor) {
      timerfd_settime(timer, 0, &once, NULL);
      if (read(timer, &expirations, sizeof expirations) != sizeof expirations) abort();
    } else {
      nanosleep(&once.it_value, NULL);
    }
    lates[i] = now() - before - 50000;
  }
  if (by_descriptor) close(timer);
  operations += COUNT;
  qsort(lates, COUNT, sizeof lates[0], compare);
  return lates[COUNT / 2];
}

static double late_50us(void) { return late(0); }
static double late_timerfd(void) { return late(1); }

static double getpid_(void) {
  double before = now();
  for (int i = 0; i < 20000; i++) syscall(SYS_getppid);
  operations += 20000;
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
    {"broadcast_64", broadcast_64, 1}, {"chain_8", chain_8, 1},              {"sysbench_8", sysbench_8, 1},
    {"hackbench_10", hackbench_10, 1}, {"hogs_p50", hogs_p50, 1},            {"hogs_p99", hogs_p99, 1},
    {"hogs_p999", hogs_p999, 1},       {"schbench_p50", schbench_p50, 1},    {"schbench_p99", schbench_p99, 1},
    {"parked_2cpus", parked_2cpus, 2}, {"late_50us", late_50us, 1},          {"late_timerfd", late_timerfd, 1},
};

int main(int count, char **arguments) {
  enum { TIMES = 7 };
  long present = sysconf(_SC_NPROCESSORS_ONLN);
  for (unsigned i = 0; i < sizeof all / sizeof all[0]; i++) {
    int wanted = count == 1;
    for (int j = 1; j < count; j++) wanted |= strncmp(all[i].name, arguments[j], strlen(arguments[j])) == 0;
    if (!wanted || present < all[i].least) continue;
    double results[TIMES], switched = switches(), interrupted = interrupts();
    operations = 0;
    for (int j = 0; j < TIMES; j++) results[j] = all[i].run();
    qsort(results, TIMES, sizeof results[0], compare);
    switched = switches() - switched, interrupted = interrupts() - interrupted;
    if (operations == 0) operations = 1;
    printf("%s %.0f %ld %.3f %.4f\n", all[i].name, results[TIMES / 2], operations, switched / operations,
           interrupted / operations);
    fflush(stdout);
  }
  return 0;
}
