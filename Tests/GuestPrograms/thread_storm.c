// Many threads that come and go, contend for one mutex, and wait for each other on a condition variable.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn = PTHREAD_COND_INITIALIZER;
static long counter;
static int next;
static __thread long mine;

static void *work(void *argument) {
  long number = (long)argument;
  for (int i = 0; i < 1000; i++) {
    pthread_mutex_lock(&lock);
    counter++;
    pthread_mutex_unlock(&lock);
    mine++;
  }
  pthread_mutex_lock(&lock);
  while (next != number) pthread_cond_wait(&turn, &lock);
  next++;
  pthread_cond_broadcast(&turn);
  pthread_mutex_unlock(&lock);
  return (void *)mine;
}

int main(void) {
  long sum = 0;
  for (int round = 0; round < 5; round++) {
    pthread_t threads[32];
    next = 0;
    for (long i = 0; i < 32; i++)
      if (pthread_create(&threads[i], NULL, work, (void *)i) != 0) return 1;
    for (int i = 0; i < 32; i++) {
      void *result;
      pthread_join(threads[i], &result);
      sum += (long)result;
    }
  }
  printf("counter %ld, threads' own %ld\n", counter, sum);
  return 0;
}
