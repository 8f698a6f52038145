// Threads that never enter the kernel still share the CPU: each of three must get on while the others spin.
// alone
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

static atomic_long progress[3];
static atomic_int stop;

static void *spin(void *argument) {
  atomic_long *mine = argument;
  while (!atomic_load_explicit(&stop, memory_order_relaxed)) atomic_fetch_add_explicit(mine, 1, memory_order_relaxed);
  return NULL;
}

int main(void) {
  pthread_t threads[3];
  for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, spin, &progress[i]);
  // Waiting by spinning, too: only preemption lets the others run on one CPU.
  for (int i = 0; i < 3; i++) {
    long start = atomic_load(&progress[i]);
    while (atomic_load(&progress[i]) < start + 100000) {}
  }
  atomic_store(&stop, 1);
  for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
  puts("all three got on");
  return 0;
}
