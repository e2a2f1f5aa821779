#define _GNU_SOURCE
#include "internal.h"

bool output_is_held;
void output_start(void) {}
void output_before_close(int descriptor) { (void)descriptor; }
ssize_t output_hold(int descriptor, const struct iovec *parts, int count) {
  return REAL(writev)(descriptor, parts, count);
}
void output_release(uint64_t mark) { (void)mark; }
uint64_t output_mark(void) { return 0; }
void output_drain(void) {}
