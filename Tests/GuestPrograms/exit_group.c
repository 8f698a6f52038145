// A thread ends the whole process while others sleep, spin and wait.
// status: 17
// expect: bye
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;
static void *sleeper(void *a) { return sleep(1000), a; }
static void *spinner(void *a) { for (volatile long i = 0;; i++); return a; }
static void *waiter(void *a) { return pthread_mutex_lock(&held), a; }
static void *reader(void *a) {
  int ends[2];
  char c;
  if (pipe(ends)) return a;
  return read(ends[0], &c, 1) ? a : NULL;
}
static void *ender(void *a) {
  usleep(20000);
  puts("bye");
  fflush(stdout);
  _exit(17);
  return a;
}

int main(void) {
  pthread_t t;
  pthread_mutex_lock(&held);
  pthread_create(&t, NULL, sleeper, NULL);
  pthread_create(&t, NULL, spinner, NULL);
  pthread_create(&t, NULL, waiter, NULL);
  pthread_create(&t, NULL, reader, NULL);
  pthread_create(&t, NULL, ender, NULL);
  pthread_join(t, NULL);
  return 1;
}
