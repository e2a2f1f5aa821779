// File calls on wrapped files: they see and change the working copy, as the program's loads and
// stores do, and are in the same epoch (rule 18). Offsets are the kernel's own, of the plain file.
//
// The same functions on other descriptors: waits of read, and output that is held.
#define _GNU_SOURCE
#include "internal.h"

#include <stdarg.h>
#include <string.h>

static pthread_mutex_t access_lock = PTHREAD_MUTEX_INITIALIZER;  // offsets, appending, length

// A handler that comes meanwhile runs after it: it might make such calls, too.
static void lock_access(void) {
  wrap_enter();
  REAL(pthread_mutex_lock)(&access_lock);
}

static void unlock_access(void) {
  int saved = errno;
  REAL(pthread_mutex_unlock)(&access_lock);
  wrap_leave();
  errno = saved;
}

static uint64_t total(const struct iovec *parts, int count) {
  uint64_t bytes = 0;
  for (int i = 0; i < count; i++)
    bytes += parts[i].iov_len;
  return bytes;
}

static ssize_t read_at(const struct wrap_file *file, const struct iovec *parts, int count,
                       uint64_t offset) {
  uint64_t length = *file->pool.length, done = 0;
  for (int i = 0; i < count && offset + done < length; i++) {
    uint64_t there = length - offset - done;
    uint64_t bytes = parts[i].iov_len < there ? parts[i].iov_len : there;
    memcpy(parts[i].iov_base, file->pool.base + offset + done, bytes);
    done += bytes;
  }
  return (ssize_t)done;
}

static ssize_t write_at(struct wrap_file *file, const struct iovec *parts, int count,
                        uint64_t offset) {
  uint64_t bytes = total(parts, count);
  if (bytes == 0)
    return 0;
  if (offset + bytes > *file->pool.length) {
    int error = file_set_length(file, offset + bytes);
    if (error != 0)
      return errno = error, -1;
  }
  uint64_t done = 0;
  for (int i = 0; i < count; i++) {
    memcpy(file->pool.base + offset + done, parts[i].iov_base, parts[i].iov_len);
    done += parts[i].iov_len;
  }
  return (ssize_t)done;
}

static bool may(int descriptor, bool writes) {
  int mode = REAL(fcntl)(descriptor, F_GETFL) & O_ACCMODE;
  bool is_allowed = mode == O_RDWR || mode == (writes ? O_WRONLY : O_RDONLY);
  if (!is_allowed)
    errno = EBADF;
  return is_allowed;
}

// At `offset`, or at the descriptor's own place if it is negative.
static ssize_t access_file(struct wrap_file *file, int descriptor, const struct iovec *parts,
                           int count, off_t offset, bool writes) {
  if (!may(descriptor, writes))
    return -1;
  bool is_sequential = offset < 0;
  lock_access();
  if (writes && (REAL(fcntl)(descriptor, F_GETFL) & O_APPEND))
    offset = (off_t)*file->pool.length;
  else if (is_sequential)
    offset = REAL(lseek)(descriptor, 0, SEEK_CUR);
  ssize_t done = -1;
  if (offset >= 0)  // else lseek has said why
    done = writes ? write_at(file, parts, count, (uint64_t)offset)
                  : read_at(file, parts, count, (uint64_t)offset);
  if (is_sequential && done > 0)
    REAL(lseek)(descriptor, offset + done, SEEK_SET);
  unlock_access();
  // Not under the lock: others may want it, who are waited for.
  bool is_synchronous = done > 0 && writes && (REAL(fcntl)(descriptor, F_GETFL) & O_DSYNC) != 0;
  return is_synchronous && file_sync(file) != 0 ? -1 : done;
}

#define ONE(buffer, bytes) (&(const struct iovec){(void *)(buffer), bytes})

static ssize_t at_negative(void) { return errno = EINVAL, -1; }

// Reading

// Pipes between the program's own threads, too.
static bool may_wait(int descriptor) {
  return wrap_self.inside == 0 && descriptor_kind(descriptor) != KIND_PLAIN &&
         wrap_might_wait(descriptor);
}

static bool is_socket(int descriptor) {
  return wrap_self.inside == 0 && descriptor_kind(descriptor) == KIND_SOCKET;
}

EXPORTED ssize_t read(int descriptor, void *buffer, size_t bytes) {
  struct wrap_file *file = file_of(descriptor);
  if (file != NULL)
    return access_file(file, descriptor, ONE(buffer, bytes), 1, -1, false);
  if (is_socket(descriptor) && bytes > 0)  // it need not ask first
    return recv(descriptor, buffer, bytes, 0);
  if (!may_wait(descriptor))
    return REAL(read)(descriptor, buffer, bytes);
  return WAIT(0, REAL(read)(descriptor, buffer, bytes));
}

EXPORTED ssize_t __read_chk(int descriptor, void *buffer, size_t bytes, size_t room) {
  if (bytes > room)
    abort();
  return read(descriptor, buffer, bytes);
}

EXPORTED ssize_t readv(int descriptor, const struct iovec *parts, int count) {
  struct wrap_file *file = file_of(descriptor);
  if (file != NULL)
    return access_file(file, descriptor, parts, count, -1, false);
  if (is_socket(descriptor)) {
    struct msghdr message = {.msg_iov = (struct iovec *)parts, .msg_iovlen = (size_t)count};
    return recvmsg(descriptor, &message, 0);
  }
  if (!may_wait(descriptor))
    return REAL(readv)(descriptor, parts, count);
  return WAIT(0, REAL(readv)(descriptor, parts, count));
}

EXPORTED ssize_t pread(int descriptor, void *buffer, size_t bytes, off_t offset) {
  struct wrap_file *file = file_of(descriptor);
  if (file == NULL)
    return REAL(pread)(descriptor, buffer, bytes, offset);
  if (offset < 0)
    return at_negative();
  return access_file(file, descriptor, ONE(buffer, bytes), 1, offset, false);
}
ssize_t pread64(int descriptor, void *buffer, size_t bytes, off_t offset) ALIAS(pread);

EXPORTED ssize_t __pread_chk(int descriptor, void *buffer, size_t bytes, off_t offset,
                             size_t room) {
  if (bytes > room)
    abort();
  return pread(descriptor, buffer, bytes, offset);
}
ssize_t __pread64_chk(int descriptor, void *buffer, size_t bytes, off_t offset, size_t room)
    ALIAS(__pread_chk);

EXPORTED ssize_t preadv(int descriptor, const struct iovec *parts, int count, off_t offset) {
  struct wrap_file *file = file_of(descriptor);
  if (file == NULL)
    return REAL(preadv)(descriptor, parts, count, offset);
  return offset < 0 ? at_negative() : access_file(file, descriptor, parts, count, offset, false);
}
ssize_t preadv64(int descriptor, const struct iovec *parts, int count, off_t offset)
    ALIAS(preadv);

EXPORTED ssize_t preadv2(int descriptor, const struct iovec *parts, int count, off_t offset,
                         int flags) {
  struct wrap_file *file = file_of(descriptor);
  return file != NULL ? access_file(file, descriptor, parts, count, offset, false)
                      : REAL(preadv2)(descriptor, parts, count, offset, flags);
}
ssize_t preadv64v2(int descriptor, const struct iovec *parts, int count, off_t offset, int flags)
    ALIAS(preadv2);

// Writing

EXPORTED ssize_t write(int descriptor, const void *buffer, size_t bytes) {
  struct wrap_file *file = file_of(descriptor);
  if (file != NULL)
    return access_file(file, descriptor, ONE(buffer, bytes), 1, -1, true);
  if (output_holds(descriptor))
    return output_hold(descriptor, ONE(buffer, bytes), 1);
  return REAL(write)(descriptor, buffer, bytes);
}

EXPORTED ssize_t writev(int descriptor, const struct iovec *parts, int count) {
  struct wrap_file *file = file_of(descriptor);
  if (file != NULL)
    return access_file(file, descriptor, parts, count, -1, true);
  if (output_holds(descriptor))
    return output_hold(descriptor, parts, count);
  return REAL(writev)(descriptor, parts, count);
}

EXPORTED ssize_t pwrite(int descriptor, const void *buffer, size_t bytes, off_t offset) {
  struct wrap_file *file = file_of(descriptor);
  if (file == NULL)
    return REAL(pwrite)(descriptor, buffer, bytes, offset);
  if (offset < 0)
    return at_negative();
  return access_file(file, descriptor, ONE(buffer, bytes), 1, offset, true);
}
ssize_t pwrite64(int descriptor, const void *buffer, size_t bytes, off_t offset) ALIAS(pwrite);

EXPORTED ssize_t pwritev(int descriptor, const struct iovec *parts, int count, off_t offset) {
  struct wrap_file *file = file_of(descriptor);
  if (file == NULL)
    return REAL(pwritev)(descriptor, parts, count, offset);
  return offset < 0 ? at_negative() : access_file(file, descriptor, parts, count, offset, true);
}
ssize_t pwritev64(int descriptor, const struct iovec *parts, int count, off_t offset)
    ALIAS(pwritev);

EXPORTED ssize_t pwritev2(int descriptor, const struct iovec *parts, int count, off_t offset,
                          int flags) {
  struct wrap_file *file = file_of(descriptor);
  if (file == NULL)
    return REAL(pwritev2)(descriptor, parts, count, offset, flags);
  ssize_t done = access_file(file, descriptor, parts, count, offset, true);
  return done > 0 && (flags & (RWF_DSYNC | RWF_SYNC)) && file_sync(file) != 0 ? -1 : done;
}
ssize_t pwritev64v2(int descriptor, const struct iovec *parts, int count, off_t offset, int flags)
    ALIAS(pwritev2);

// From one descriptor to another

static ssize_t copy_out_of(struct wrap_file *file, int from, off_t *from_offset, int to,
                           off_t *to_offset, size_t bytes) {
  uint64_t start = (uint64_t)(from_offset != NULL ? *from_offset : lseek(from, 0, SEEK_CUR));
  uint64_t length = *file->pool.length;
  if (start >= length || bytes == 0)
    return 0;
  if (bytes > length - start)
    bytes = length - start;
  const char *place = file->pool.base + start;
  ssize_t done =
      to_offset != NULL ? pwrite(to, place, bytes, *to_offset) : write(to, place, bytes);
  if (done > 0 && to_offset != NULL)
    *to_offset += done;
  if (done > 0 && from_offset != NULL)
    *from_offset += done;
  else if (done > 0)
    lseek(from, done, SEEK_CUR);
  return done;
}

// From a plain file into a wrapped one, a piece at a time as the kernel may do.
static ssize_t copy_into(int from, off_t *from_offset, int to, off_t *to_offset, size_t bytes) {
  char piece[65536];
  if (bytes > sizeof piece)
    bytes = sizeof piece;
  ssize_t count = from_offset != NULL ? pread(from, piece, bytes, *from_offset)
                                      : read(from, piece, bytes);
  if (count <= 0)
    return count;
  ssize_t done = to_offset != NULL ? pwrite(to, piece, (size_t)count, *to_offset)
                                   : write(to, piece, (size_t)count);
  ssize_t rest = count - (done > 0 ? done : 0);
  if (from_offset == NULL && rest > 0) {  // it was read, and is not there
    int saved = errno;
    lseek(from, -rest, SEEK_CUR);
    errno = saved;
  }
  if (done > 0 && from_offset != NULL)
    *from_offset += done;
  if (done > 0 && to_offset != NULL)
    *to_offset += done;
  return done;
}

EXPORTED ssize_t sendfile(int to, int from, off_t *offset, size_t bytes) {
  struct wrap_file *file = file_of(from);
  if (file != NULL)
    return copy_out_of(file, from, offset, to, NULL, bytes);
  if (file_of(to) != NULL || output_holds(to))
    return copy_into(from, offset, to, NULL, bytes);
  return REAL(sendfile)(to, from, offset, bytes);
}
ssize_t sendfile64(int to, int from, off_t *offset, size_t bytes) ALIAS(sendfile);

EXPORTED ssize_t copy_file_range(int from, off_t *from_offset, int to, off_t *to_offset,
                                 size_t bytes, unsigned flags) {
  struct wrap_file *file = file_of(from);
  if (file != NULL)
    return copy_out_of(file, from, from_offset, to, to_offset, bytes);
  if (file_of(to) != NULL)
    return copy_into(from, from_offset, to, to_offset, bytes);
  return REAL(copy_file_range)(from, from_offset, to, to_offset, bytes, flags);
}

// As by a file system that has no splice.
EXPORTED ssize_t splice(int from, off_t *from_offset, int to, off_t *to_offset, size_t bytes,
                        unsigned flags) {
  if (file_of(from) != NULL || file_of(to) != NULL || output_holds(to))
    return errno = EINVAL, -1;
  return REAL(splice)(from, from_offset, to, to_offset, bytes, flags);
}

EXPORTED ssize_t tee(int from, int to, size_t bytes, unsigned flags) {
  return output_holds(to) ? (errno = EINVAL, -1) : REAL(tee)(from, to, bytes, flags);
}

EXPORTED ssize_t vmsplice(int to, const struct iovec *parts, size_t count, unsigned flags) {
  return output_holds(to) ? (errno = EINVAL, -1) : REAL(vmsplice)(to, parts, count, flags);
}

// Length

EXPORTED int ftruncate(int descriptor, off_t length) {
  struct wrap_file *file = file_of(descriptor);
  if (file == NULL)
    return REAL(ftruncate)(descriptor, length);
  if (length < 0 || !may(descriptor, true))
    return errno = EINVAL, -1;
  lock_access();
  int error = file_set_length(file, (uint64_t)length);
  unlock_access();
  return error == 0 ? 0 : (errno = error, -1);
}
int ftruncate64(int descriptor, off_t length) ALIAS(ftruncate);

static int allocate(struct wrap_file *file, int mode, uint64_t offset, uint64_t bytes) {
  uint64_t end = offset + bytes, length = *file->pool.length;
  bool zeroes = (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0;
  if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
    return EOPNOTSUPP;
  int error = zeroes ? file_zero(file, offset, end < length ? end : length) : 0;
  if (error != 0)
    return error;
  return end > length && !(mode & FALLOC_FL_KEEP_SIZE) ? file_set_length(file, end) : 0;
}

EXPORTED int fallocate(int descriptor, int mode, off_t offset, off_t bytes) {
  struct wrap_file *file = file_of(descriptor);
  if (file == NULL)
    return REAL(fallocate)(descriptor, mode, offset, bytes);
  if (offset < 0 || bytes <= 0 || !may(descriptor, true))
    return errno = EINVAL, -1;
  lock_access();
  int error = allocate(file, mode, (uint64_t)offset, (uint64_t)bytes);
  unlock_access();
  return error == 0 ? 0 : (errno = error, -1);
}
int fallocate64(int descriptor, int mode, off_t offset, off_t bytes) ALIAS(fallocate);

// The C library's own makes blocks by writing where the file system cannot allocate.
EXPORTED int posix_fallocate(int descriptor, off_t offset, off_t bytes) {
  int saved = errno;
  int result = fallocate(descriptor, 0, offset, bytes) == 0 ? 0 : errno;
  errno = saved;
  return result;
}
int posix_fallocate64(int descriptor, off_t offset, off_t bytes) ALIAS(posix_fallocate);

EXPORTED off_t lseek(int descriptor, off_t offset, int whence) {
  struct wrap_file *file = file_of(descriptor);
  if (file == NULL || (whence != SEEK_DATA && whence != SEEK_HOLE))
    return REAL(lseek)(descriptor, offset, whence);
  uint64_t length = *file->pool.length;  // all of it counts as data
  if (offset < 0 || (uint64_t)offset >= length)
    return errno = ENXIO, -1;
  return REAL(lseek)(descriptor, whence == SEEK_HOLE ? (off_t)length : offset, SEEK_SET);
}
off_t lseek64(int descriptor, off_t offset, int whence) ALIAS(lseek);
