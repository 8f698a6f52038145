// Cancelling threads that wait in a system call, or are about to: cleanup handlers run, and the thread ends as cancelled. The C
// libraries tell by the interrupted address whether the call has begun (musl) or unwind from it (glibc).
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <unistd.h>

static int ends[2];
static sem_t ready;
static volatile int cleaned;

static void clean(void *argument) { cleaned += *(int *)argument; }

static void *wait_in_read(void *argument) {
  char byte;
  pthread_cleanup_push(clean, argument);
  sem_post(&ready);
  while (read(ends[0], &byte, 1) != 1 || byte != 'x') {
  }
  pthread_cleanup_pop(0);
  return NULL;
}

static void *spin_through_calls(void *argument) {
  pthread_cleanup_push(clean, argument);
  sem_post(&ready);
  for (;;) {
    if (write(ends[1], "y", 0) != 0) break;
  }
  pthread_cleanup_pop(0);
  return NULL;
}

int main(void) {
  int one = 1, cancelled = 0;
  if (pipe(ends) != 0 || sem_init(&ready, 0, 0) != 0) return 1;
  for (int turn = 0; turn < 40; ++turn) {
    pthread_t thread;
    void *result;
    pthread_create(&thread, NULL, turn & 1 ? wait_in_read : spin_through_calls, &one);
    while (sem_wait(&ready) != 0) {
    }
    if (turn % 3 == 0) usleep(500);
    pthread_cancel(thread);
    pthread_join(thread, &result);
    cancelled += result == PTHREAD_CANCELED;
  }
  printf("%d cancelled, %d cleaned\n", cancelled, cleaned);
  return 0;
}
