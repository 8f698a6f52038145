// Threads: creation, joining, thread-local storage, mutexes and condition variables under contention, vector registers
// that survive switches, detached threads, and many short-lived ones.
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { THREADS = 4, ROUNDS = 2000 };
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn_changed = PTHREAD_COND_INITIALIZER;
static long counter, turn;
static __thread long local;
static atomic_long detached_done;

static void *count(void *argument) {
  long id = (long)argument;
  double x = (double)id + 0.5;
  for (int i = 0; i < ROUNDS; i++) {
    pthread_mutex_lock(&lock);
    counter++;
    pthread_mutex_unlock(&lock);
    local++;
    x = x * 1.0000001 + 0.25;
    if (i % 500 == 0) usleep(10);
  }
  return (void *)(local * 10 + (x > (double)id));
}

static void *in_turn(void *argument) {
  long id = (long)argument;
  for (int i = 0; i < 20; i++) {
    pthread_mutex_lock(&lock);
    while (turn % THREADS != id) pthread_cond_wait(&turn_changed, &lock);
    turn++;
    pthread_cond_broadcast(&turn_changed);
    pthread_mutex_unlock(&lock);
  }
  return NULL;
}

static void *spin(void *argument) {
  double x = 0, step = (double)(long)argument;
  for (long i = 0; i < 20 * 1000 * 1000; i++) x += step;
  return (void *)(long)x;
}

static void *nothing(void *argument) { return argument; }

static void *detached(void *argument) {
  atomic_fetch_add(&detached_done, 1);
  return argument;
}

int main(void) {
  pthread_t threads[THREADS];
  for (long i = 0; i < THREADS; i++)
    if (pthread_create(&threads[i], NULL, count, (void *)i)) return 1;
  for (int i = 0; i < THREADS; i++) {
    void *result;
    pthread_join(threads[i], &result);
    printf("thread %d: %ld\n", i, (long)result);
  }
  printf("counter %ld, main's local %ld\n", counter, local);
  for (long i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, in_turn, (void *)i);
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  printf("turn %ld\n", turn);
  for (long i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, spin, (void *)(i + 1));
  for (int i = 0; i < THREADS; i++) {
    void *result;
    pthread_join(threads[i], &result);
    printf("spin %d: %ld\n", i, (long)result);
  }
  long sum = 0;
  for (long i = 0; i < 300; i++) {
    void *result;
    if (pthread_create(&threads[0], NULL, nothing, (void *)i)) return 2;
    pthread_join(threads[0], &result);
    sum += (long)result;
  }
  printf("short-lived %ld\n", sum);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  for (int i = 0; i < 20; i++) pthread_create(&threads[0], &attributes, detached, NULL);
  while (atomic_load(&detached_done) < 20) usleep(100);
  printf("detached %ld\n", atomic_load(&detached_done));
  return 0;
}
