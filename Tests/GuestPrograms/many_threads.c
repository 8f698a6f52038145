// As many threads as the argument says (200; at most ten thousand) at once, each with a small stack, all waiting, then all ended.
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 10000 };
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int count = 200, present, released;

static void *wait_for_all(void *argument) {
  pthread_mutex_lock(&lock);
  if (++present == count) pthread_cond_broadcast(&changed);
  while (!released) pthread_cond_wait(&changed, &lock);
  present--;
  pthread_mutex_unlock(&lock);
  return NULL;
}

int main(int arguments, char **values) {
  static pthread_t threads[MOST];
  if (arguments > 1) count = atoi(values[1]);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 32768);
  for (int i = 0; i < count; i++) {
    int error = pthread_create(&threads[i], &attributes, wait_for_all, NULL);
    if (error) return printf("thread %d: %s\n", i, strerror(error)), 1;
  }
  pthread_mutex_lock(&lock);
  while (present < count) pthread_cond_wait(&changed, &lock);
  printf("present %d\n", present);
  released = 1;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
  for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
  printf("left %d\n", present);
  return 0;
}
