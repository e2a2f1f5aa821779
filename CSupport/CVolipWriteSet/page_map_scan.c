#define _GNU_SOURCE
#include "CVolipWriteSet.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

// From the kernel's include/uapi/linux/fs.h and userfaultfd.h of Linux 6.7.
struct scan_argument {
  uint64_t size;
  uint64_t flags;
  uint64_t start;
  uint64_t end;
  uint64_t walk_end;
  uint64_t vec;
  uint64_t vec_len;
  uint64_t max_pages;
  uint64_t category_inverted;
  uint64_t category_mask;
  uint64_t category_anyof_mask;
  uint64_t return_mask;
};
#define PAGEMAP_SCAN_REQUEST _IOWR('f', 16, struct scan_argument)
#define SCAN_WRITE_PROTECT_MATCHING (1u << 0)
#define SCAN_CHECK_ASYNC_PROTECTION (1u << 1)
#define PAGE_WAS_WRITTEN (1u << 1)

struct uffd_api {
  uint64_t api;
  uint64_t features;
  uint64_t ioctls;
};
struct uffd_register {
  uint64_t start;
  uint64_t byte_count;
  uint64_t mode;
  uint64_t ioctls;
};
#define UFFD_API_VERSION 0xAAu
#define UFFD_API_REQUEST _IOWR(0xAA, 0x3F, struct uffd_api)
#define UFFD_REGISTER_REQUEST _IOWR(0xAA, 0x00, struct uffd_register)
#define UFFD_USER_MODE_ONLY_FLAG 1
#define UFFD_FEATURE_WRITE_PROTECT_FLAG (1u << 0)
#define UFFD_FEATURE_UNPOPULATED_FLAG (1u << 13)
#define UFFD_FEATURE_ASYNC_FLAG (1u << 15)
#define UFFD_MODE_WRITE_PROTECT 2u

int cvw_async_protection_register(void *address, size_t byte_count) {
  int descriptor = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY_FLAG);
  if (descriptor < 0)
    return errno == ENOSYS ? -EOPNOTSUPP : -errno;
  struct uffd_api api = {.api = UFFD_API_VERSION,
                         .features = UFFD_FEATURE_WRITE_PROTECT_FLAG |
                                     UFFD_FEATURE_UNPOPULATED_FLAG | UFFD_FEATURE_ASYNC_FLAG};
  if (ioctl(descriptor, UFFD_API_REQUEST, &api) != 0) {
    close(descriptor);
    return -EOPNOTSUPP;
  }
  struct uffd_register range = {.start = (uint64_t)address,
                                .byte_count = byte_count,
                                .mode = UFFD_MODE_WRITE_PROTECT};
  if (ioctl(descriptor, UFFD_REGISTER_REQUEST, &range) != 0) {
    int error = errno;
    close(descriptor);
    return error == EINVAL ? -EOPNOTSUPP : -error;
  }
  return descriptor;
}

static long scan(int pagemap, struct scan_argument *argument) {
  for (;;) {
    long found = ioctl(pagemap, PAGEMAP_SCAN_REQUEST, argument);
    if (found >= 0)
      return found;
    if (errno == ENOTTY)
      return -EOPNOTSUPP;
    if (errno != EINTR)
      return -errno;
  }
}

// A scan that reports no regions is never stopped early.
int cvw_scan_protect(int pagemap, uint64_t start, uint64_t end) {
  struct scan_argument argument = {
      .size = sizeof argument,
      .flags = SCAN_WRITE_PROTECT_MATCHING | SCAN_CHECK_ASYNC_PROTECTION,
      .start = start,
      .end = end,
      .category_mask = PAGE_WAS_WRITTEN,
      .return_mask = PAGE_WAS_WRITTEN,
  };
  long found = scan(pagemap, &argument);
  return found < 0 ? (int)found : 0;
}

// The kernel's own `walk_end` is not to be used: where it reports more than 512 regions it goes on
// by itself to the end and leaves the address of its first stop there (seen in Linux 6.18). A scan
// that filled `regions` goes on behind the last one; any other saw the whole range.
long cvw_scan_written(int pagemap, uint64_t start, uint64_t end, bool protect,
                      struct cvw_page_region *regions, size_t capacity, uint64_t *walked) {
  struct scan_argument argument = {
      .size = sizeof argument,
      .flags = SCAN_CHECK_ASYNC_PROTECTION | (protect ? SCAN_WRITE_PROTECT_MATCHING : 0),
      .start = start,
      .end = end,
      .vec = (uint64_t)regions,
      .vec_len = capacity,
      .category_mask = PAGE_WAS_WRITTEN,
      .return_mask = PAGE_WAS_WRITTEN,
  };
  long found = scan(pagemap, &argument);
  *walked = found > 0 && (size_t)found == capacity ? regions[found - 1].end : end;
  return found;
}

uint64_t cvw_page_faults(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (uint64_t)usage.ru_minflt + (uint64_t)usage.ru_majflt;
}

int cvw_scratch_file(size_t byte_count) {
  int descriptor = memfd_create("volip-scratch", MFD_CLOEXEC);
  if (descriptor < 0)
    return -errno;
  if (ftruncate(descriptor, (off_t)byte_count) != 0) {
    int error = errno;
    close(descriptor);
    return -error;
  }
  return descriptor;
}
