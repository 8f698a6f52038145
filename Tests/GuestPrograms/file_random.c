// flavours: glibc-static
// Random changes to one file against a model in memory: writes, appends, reads, truncation, holes, zeroed and allocated ranges, copies within
// the file, data and holes, stores and loads through mappings (behind the end too), msync, fsync, closing and opening again. Arguments: a directory (else a RAM file system), a seed, how many.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LARGEST = 300000, PAGE = 4096 };
static unsigned char model[LARGEST], buffer[LARGEST];
static long size;
static unsigned long long state = 1;

static unsigned long random_below(unsigned long limit) {
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return (state >> 11) % limit;
}

static int operation, step;
static void fail(const char *what, long at) {
  printf("step %d, operation %d: %s at %ld, errno %d (%s)\n", step, operation, what, at, errno, strerror(errno));
  exit(1);
}

// Places near the edges of pages are the interesting ones.
static long place(long limit) {
  long at = (long)random_below((unsigned long)limit + 1);
  if (random_below(3) == 0) at = at / PAGE * PAGE + (long)random_below(3) - 1;
  return at < 0 ? 0 : at > limit ? limit : at;
}

static void fill(long at, long count) {
  for (long i = 0; i < count; i++) buffer[i] = (unsigned char)(random_below(255) + 1);
  memcpy(model + at, buffer, (size_t)count);
}

static void grow(long end) {
  if (end > size) size = end;
}

static void compare(const unsigned char *got, long at, long count) {
  for (long i = 0; i < count; i++)
    if (got[i] != model[at + i]) fail("another byte", at + i);
}

int main(int count, char **arguments) {
  char name[4096] = "/tmp/random-XXXXXX";
  mkdir("/tmp", 0777);
  if (count > 1) snprintf(name, sizeof name, "%s", arguments[1]);
  else if (!mkdtemp(name)) return perror("directory"), 1;
  state = count > 2 ? strtoull(arguments[2], NULL, 10) * 0x9e3779b97f4a7c15 + 1 : 12345;
  int steps = count > 3 ? atoi(arguments[3]) : 3000;
  strcat(name, "/random");
  int f = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
  if (f < 0) return perror(name), 1;
  for (step = 0; step < steps; step++) {
    operation = (int)random_below(19);
    long at = place(size), length = (long)random_below(random_below(4) ? 3000 : 60000) + 1;
    switch (operation) {
    case 0: case 1: case 2: {  // write, perhaps behind the end
      if (random_below(8) == 0) at += (long)random_below(20000);
      if (at + length > LARGEST) break;
      if (at > size) memset(model + size, 0, (size_t)(at - size));
      fill(at, length);
      long n = pwrite(f, buffer, (size_t)length, at);
      if (n != length) fail("short write", n);
      grow(at + length);
      break;
    }
    case 3: {  // append
      if (size + length > LARGEST) break;
      fill(size, length);
      int g = open(name, O_WRONLY | O_APPEND);
      if (write(g, buffer, (size_t)length) != length) fail("append", size);
      close(g);
      grow(size + length);
      break;
    }
    case 4: case 5: {  // read
      long wanted = size - at < length ? size - at : length;
      if (pread(f, buffer, (size_t)length, at) != wanted) fail("short read", at);
      compare(buffer, at, wanted);
      break;
    }
    case 6: {  // truncate
      long end = random_below(3) ? at : (long)random_below(LARGEST);
      if (end > size) memset(model + size, 0, (size_t)(end - size));
      if (ftruncate(f, end)) fail("truncate", end);
      size = end;
      break;
    }
    case 7: case 8: case 9: {  // store or load through a mapping
      long start = at / PAGE * PAGE;
      if (start + length > size) length = size - start;
      if (length <= 0) break;
      unsigned char *m = mmap(NULL, (size_t)length, PROT_READ | PROT_WRITE, MAP_SHARED, f, start);
      if (m == MAP_FAILED) fail("mmap", start);
      compare(m, start, length);
      if (operation != 9) {
        long from = place(length - 1);
        fill(start + from, length - from);
        memcpy(m + from, buffer, (size_t)(length - from));
        // What is stored behind the end, in its page, is never the file's.
        if (start + length == size) for (long i = length; i % PAGE; i++) m[i] = 0xee;
      }
      if (random_below(3) == 0 && msync(m, (size_t)length, MS_SYNC)) fail("msync", start);
      munmap(m, (size_t)length);
      break;
    }
    case 10:  // the size
    {
      struct stat s;
      if (fstat(f, &s) || s.st_size != size) fail("size", (long)s.st_size);
      break;
    }
    case 11:
      if (fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, length)) {
        if (errno != EOPNOTSUPP) fail("punch", at);
        break;
      }
      if (at + length > size) length = size - at;
      if (length > 0) memset(model + at, 0, (size_t)length);
      break;
    case 12:
      if (fsync(f)) fail("fsync", 0);
      break;
    case 14:
      if (at + length > LARGEST) break;
      if (fallocate(f, FALLOC_FL_ZERO_RANGE, at, length)) {
        if (errno != EOPNOTSUPP) fail("zero", at);
        break;
      }
      memset(model + at, 0, (size_t)length);
      grow(at + length);
      break;
    case 15:
      if (at + length > LARGEST) break;
      if (fallocate(f, random_below(2) ? FALLOC_FL_KEEP_SIZE : 0, at, length)) fail("allocate", at);
      {
        struct stat s;
        fstat(f, &s);
        if (s.st_size != size && s.st_size != at + length) fail("allocated size", (long)s.st_size);
        if (s.st_size > size) memset(model + size, 0, (size_t)(s.st_size - size)), size = s.st_size;
      }
      break;
    case 16: {  // copy within the file
      long to = place(size);
      if (at + length > size) length = size - at;
      if (length <= 0 || to + length > LARGEST || (to < at + length && at < to + length)) break;
      off_t source = at, target = to;
      ssize_t n = copy_file_range(f, &source, f, &target, (size_t)length, 0);
      if (n < 0 && (errno == EXDEV || errno == EOPNOTSUPP)) break;
      if (n != length) fail("copy", n);
      memmove(model + to, model + at, (size_t)length);
      grow(to + length);
      break;
    }
    case 17: {  // where there is said to be a hole, there are zeros
      off_t hole = lseek(f, at, SEEK_HOLE), data = hole < 0 ? -1 : lseek(f, hole, SEEK_DATA);
      if (at < size && (hole < at || hole > size)) fail("hole", (long)hole);
      if (hole < 0) break;
      for (long i = (long)hole; i < (data < 0 ? size : (long)data); i++) if (model[i]) fail("hole with data", i);
      break;
    }
    case 18:
      if (ftruncate(f, size)) fail("truncate to the same", size);
      break;
    case 13:
      if (close(f)) fail("close", 0);
      f = open(name, O_RDWR);
      if (f < 0) fail("open", 0);
      break;
    }
  }
  if (pread(f, buffer, LARGEST, 0) != size) fail("size at the end", size);
  compare(buffer, 0, size);
  unsigned long sum = 5381;
  for (long i = 0; i < size; i++) sum = sum * 33 + model[i];
  printf("%d steps, %ld bytes, sum %lx\n", steps, size, sum);
  return 0;
}
