// Statistics: epochs and what they cost, for `volip stat PID` and SIGUSR2.
//
// They stand in a memory file of this process's own, which others find among its descriptors by
// its name and read as words (Sources/VolipWrap/ProcessStatistics+Unsafe.swift). Nothing here
// depends on them.
#define _GNU_SOURCE
#include "internal.h"

#include <string.h>

#define BUCKETS 24  // of commit times: powers of two microseconds
#define MAGIC 0x50415257494c4f56ul  // "VOLIWRAP"
#define VERSION 1

struct words {
  uint64_t magic, version;
  _Atomic uint64_t epochs, empty, skipped, pages, lines, microseconds, exits;
  _Atomic uint64_t buckets[BUCKETS];
};

static struct words unshared;  // before a pool is open
static struct words *_Atomic words = &unshared;
static int descriptor = -1;

// With `files_lock`: once in a process.
void statistics_share(void) {
  if (descriptor >= 0)
    return;
  descriptor = descriptor_keep(memfd_create("volip-statistics", MFD_CLOEXEC));
  if (descriptor < 0 || REAL(ftruncate)(descriptor, PAGE_BYTES) != 0)
    return;
  void *place = REAL(mmap)(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (place == MAP_FAILED)
    return;
  *(struct words *)place = (struct words){.magic = MAGIC, .version = VERSION};
  atomic_store(&words, place);
}

// In a child: what is shared is its parent's.
void statistics_forget(void) {
  atomic_store(&words, &unshared);
  if (descriptor < 0)
    return;
  descriptor_give_up(descriptor);
  REAL(close)(descriptor);
  descriptor = -1;
}

void statistics_note_pages(uint64_t pages, uint64_t lines) {
  struct words *now = atomic_load(&words);
  atomic_fetch_add(&now->pages, pages);
  atomic_fetch_add(&now->lines, lines);
}

void statistics_note_commit(uint64_t microseconds, bool is_empty) {
  struct words *now = atomic_load(&words);
  int bucket = 0;
  while (bucket < BUCKETS - 1 && microseconds >> bucket > 1)
    bucket++;
  atomic_fetch_add(&now->epochs, 1);
  atomic_fetch_add(&now->empty, is_empty);
  atomic_fetch_add(&now->microseconds, microseconds);
  atomic_fetch_add(&now->buckets[bucket], 1);
  atomic_store(&now->exits, volip_wrapped_exits());
}

void statistics_note_skip(void) { atomic_fetch_add(&atomic_load(&words)->skipped, 1); }

void statistics_print(int target) {
  const struct words *now = atomic_load(&words);
  char text[2048];
  int length = snprintf(text, sizeof text,
                        "volip[%d] epochs %lu, empty %lu, skipped %lu, pages %lu, lines %lu, "
                        "exits %lu, commit_us_mean %lu\n",
                        getpid(), now->epochs, now->empty, now->skipped, now->pages, now->lines,
                        now->exits, now->epochs != 0 ? now->microseconds / now->epochs : 0ul);
  for (int i = 0; i < BUCKETS && length < (int)sizeof text - 64; i++)
    if (now->buckets[i] != 0)
      length += snprintf(text + length, sizeof text - (size_t)length,
                         "volip[%d] epochs below %lu us: %lu\n", getpid(), 2ul << i,
                         now->buckets[i]);
  (void)!REAL(write)(target, text, (size_t)length);
}
