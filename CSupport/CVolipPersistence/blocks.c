#define _GNU_SOURCE
#include "CVolipPersistence.h"

#include <errno.h>
#include <fcntl.h>

int cvp_allocate_blocks(int descriptor, uint64_t offset, uint64_t byte_count) {
  int result;
  do
    result = fallocate(descriptor, 0, (off_t)offset, (off_t)byte_count);
  while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : -errno;
}
