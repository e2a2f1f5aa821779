#define _GNU_SOURCE
#include "CTestSupport.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE_BYTES 4096u

// From the kernel's include/uapi/linux/userfaultfd.h of Linux 6.6.
struct uffd_api {
  uint64_t api;
  uint64_t features;
  uint64_t ioctls;
};
struct uffd_range {
  uint64_t start;
  uint64_t byte_count;
};
struct uffd_register {
  struct uffd_range range;
  uint64_t mode;
  uint64_t ioctls;
};
struct uffd_poison {
  struct uffd_range range;
  uint64_t mode;
  int64_t updated;
};
#define UFFD_API_VERSION 0xAAu
#define UFFD_API_REQUEST _IOWR(0xAA, 0x3F, struct uffd_api)
#define UFFD_REGISTER_REQUEST _IOWR(0xAA, 0x00, struct uffd_register)
#define UFFD_POISON_REQUEST _IOWR(0xAA, 0x08, struct uffd_poison)
#define UFFD_FEATURE_POISON_FLAG (1u << 14)
#define UFFD_MODE_MISSING 1u

int cts_poison(void *page) {
  int descriptor = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1);
  if (descriptor < 0)
    return errno == ENOSYS ? -EOPNOTSUPP : -errno;
  struct uffd_api api = {.api = UFFD_API_VERSION, .features = UFFD_FEATURE_POISON_FLAG};
  struct uffd_range range = {.start = (uint64_t)page, .byte_count = PAGE_BYTES};
  struct uffd_register watch = {.range = range, .mode = UFFD_MODE_MISSING};
  struct uffd_poison poison = {.range = range};
  int result = 0;
  if (ioctl(descriptor, UFFD_API_REQUEST, &api) != 0)
    result = -EOPNOTSUPP;
  else if (ioctl(descriptor, UFFD_REGISTER_REQUEST, &watch) != 0)
    result = -errno;
  else if (madvise(page, PAGE_BYTES, MADV_DONTNEED) != 0)
    result = -errno;
  else if (ioctl(descriptor, UFFD_POISON_REQUEST, &poison) != 0)
    result = -errno;
  close(descriptor);  // the mark stays
  return result;
}
