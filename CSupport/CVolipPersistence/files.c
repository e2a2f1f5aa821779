#define _GNU_SOURCE
#include "CVolipPersistence.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/vfs.h>
#include <unistd.h>

// Read and written at once where the kernel does not copy itself.
#define COPY_BYTES (64u << 10)  // on the stack

static pthread_mutex_t forks = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t forks_once = PTHREAD_ONCE_INIT;
static int cancel_state;  // of the thread that has the mutex

static void lock_forks(void) {
  pthread_mutex_lock(&forks);
}

static void unlock_forks(void) {
  pthread_mutex_unlock(&forks);
}

static void watch_forks(void) {
  pthread_atfork(lock_forks, unlock_forks, unlock_forks);
}

void cvp_forks_wait(void) {
  int previous = PTHREAD_CANCEL_ENABLE;
  pthread_once(&forks_once, watch_forks);
  pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &previous);
  lock_forks();
  cancel_state = previous;
}

void cvp_forks_go_on(void) {
  int previous = cancel_state;
  unlock_forks();
  pthread_setcancelstate(previous, NULL);
}

int cvp_allocate_blocks(int descriptor, uint64_t offset, uint64_t byte_count) {
  int result;
  do
    result = fallocate(descriptor, 0, (off_t)offset, (off_t)byte_count);
  while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : -errno;
}

int cvp_write_zeros(int descriptor, uint64_t offset, uint64_t byte_count) {
  static const char page[CVP_PAGE_BYTES];
  const uint64_t end = offset + byte_count;
  struct rlimit limit;
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < end)
    return 0;  // SIGXFSZ
  while (offset < end) {
    ssize_t written = pwrite(descriptor, page, sizeof page, (off_t)offset);
    if (written == (ssize_t)sizeof page)
      offset += sizeof page;
    else if (written >= 0 || errno != EINTR)
      return written < 0 ? -errno : -ENOSPC;
  }
  return 0;
}

int cvp_is_on_tmpfs(int descriptor) {
  struct statfs status;
  return fstatfs(descriptor, &status) == 0 && status.f_type == TMPFS_MAGIC;
}

int cvp_unnamed_file(const char *directory, unsigned permissions) {
  int descriptor = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, permissions);
  if (descriptor >= 0)
    return descriptor;
  // EISDIR: a kernel or file system that takes it as an attempt to write to a directory.
  return errno == EISDIR ? -EOPNOTSUPP : -errno;
}

int cvp_name_file(int descriptor, const char *path) {
  char link[32];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  return linkat(AT_FDCWD, link, AT_FDCWD, path, AT_SYMLINK_FOLLOW) == 0 ? 0 : -errno;
}

// The kernel's own copy where it has one for this pair of files, else through a buffer.
static ssize_t copy_some(int from, uint64_t from_offset, int to, uint64_t to_offset, size_t count) {
  off_t source = (off_t)from_offset;
  off_t target = (off_t)to_offset;
  ssize_t copied = copy_file_range(from, &source, to, &target, count, 0);
  if (copied >= 0 || (errno != EXDEV && errno != EINVAL && errno != EOPNOTSUPP && errno != ENOSYS))
    return copied;
  char buffer[COPY_BYTES];
  copied = pread(from, buffer, count < COPY_BYTES ? count : COPY_BYTES, source);
  return copied <= 0 ? copied : pwrite(to, buffer, (size_t)copied, target);
}

int cvp_copy_bytes(int from, uint64_t from_offset, int to, uint64_t to_offset, size_t byte_count) {
  while (byte_count > 0) {
    ssize_t copied = copy_some(from, from_offset, to, to_offset, byte_count);
    if (copied < 0 && errno == EINTR)
      continue;
    if (copied <= 0)
      return copied < 0 ? -errno : -EIO;
    from_offset += (size_t)copied;
    to_offset += (size_t)copied;
    byte_count -= (size_t)copied;
  }
  return 0;
}

int cvp_punch_hole(int descriptor, uint64_t offset, uint64_t byte_count) {
  int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  int result;
  do
    result = fallocate(descriptor, mode, (off_t)offset, (off_t)byte_count);
  while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : -errno;
}
