// pages FILE COUNT SECONDS: writes a line in each of COUNT pages of a mapped file of 16 MiB, spread
// over all of it and other ones each time, and waits; again and again.
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define BYTES (16ul << 20)
#define PAGE_BYTES 4096

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int main(int count, char **arguments) {
  if (count != 4)
    return 64;
  int file = open(arguments[1], O_RDWR | O_CREAT, 0600);
  if (file < 0 || ftruncate(file, BYTES) != 0)
    return 1;
  char *map = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (map == MAP_FAILED)
    return 1;
  uint64_t pages = BYTES / PAGE_BYTES, place = 0, written = strtoul(arguments[2], NULL, 10);
  uint64_t step = pages / written, round = 0;
  for (double end = now() + atof(arguments[3]); now() < end; round++) {
    for (uint64_t i = 0; i < written; i++, place += step)
      map[(place + round) % pages * PAGE_BYTES + round % 64 * 64]++;
    usleep(1);
  }
  return 0;
}
