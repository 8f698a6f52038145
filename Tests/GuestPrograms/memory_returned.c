// Memory that is freed, and not used for so long that the host may have it back, comes back as zeros; what was kept is as it was.
// flavours: glibc-static musl-static
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { SIZE = 48 << 20, KEPT = 3 << 20 };

static uint64_t *map(size_t size) {
  void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return memory == MAP_FAILED ? NULL : memory;
}

static void fill(uint64_t *memory, size_t size, uint64_t salt) {
  for (size_t i = 0; i < size / 8; i++) memory[i] = i * 0x9e3779b97f4a7c15u + salt;
}

static int is_filled(const uint64_t *memory, size_t size, uint64_t salt) {
  for (size_t i = 0; i < size / 8; i++)
    if (memory[i] != i * 0x9e3779b97f4a7c15u + salt) return 0;
  return 1;
}

static int is_zero(const uint64_t *memory, size_t size) {
  for (size_t i = 0; i < size / 8; i++)
    if (memory[i] != 0) return 0;
  return 1;
}

int main(void) {
  int zero = 1, kept = 1;
  uint64_t *holds[4];
  for (int round = 0; round < 4; round++) {
    // Pieces in between stay mapped, so that free memory is no single block.
    uint64_t *memory = map(SIZE);
    holds[round] = map(KEPT);
    if (!memory || !holds[round]) return 1;
    zero &= is_zero(memory, SIZE);
    fill(memory, SIZE, round);
    fill(holds[round], KEPT, 100 + round);
    munmap(memory, SIZE / 2);
    struct timespec pause = {.tv_nsec = round % 2 ? 500000000 : 30000000};
    nanosleep(&pause, NULL);
    // What was not unmapped is there still.
    for (size_t i = SIZE / 2 / 8; i < SIZE / 8; i++) kept &= memory[i] == i * 0x9e3779b97f4a7c15u + round;
    munmap((char *)memory + SIZE / 2, SIZE / 2);
    nanosleep(&pause, NULL);
  }
  for (int round = 0; round < 4; round++) kept &= is_filled(holds[round], KEPT, 100 + round);
  printf("fresh memory is %s, kept memory is %s\n", zero ? "zero" : "NOT ZERO", kept ? "kept" : "NOT KEPT");
  return 0;
}
