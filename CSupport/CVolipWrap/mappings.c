// Mappings of wrapped files: the pool's own memory, at the pool's own addresses, which are the same
// in every process. So a file has one mapping, however often it is mapped, and what munmap gives
// back stays readable until the last of them has gone.
#define _GNU_SOURCE
#include "internal.h"

#include <stdarg.h>
#include <string.h>

#define RANGES_MAX 64

// What the program believes to be mapped, in bytes of the file. Under `ranges_lock`.
static struct range {
  struct wrap_file *file;
  uint64_t start, end;
} ranges[RANGES_MAX];
static pthread_mutex_t ranges_lock = PTHREAD_MUTEX_INITIALIZER;

static uint64_t whole_pages(uint64_t bytes) {
  return (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

static void lock_ranges(void) {
  wrap_enter();
  REAL(pthread_mutex_lock)(&ranges_lock);
}

static void unlock_ranges(void) {
  REAL(pthread_mutex_unlock)(&ranges_lock);
  wrap_leave();
}

static bool add_range(struct wrap_file *file, uint64_t start, uint64_t end) {
  for (int i = 0; i < RANGES_MAX; i++)
    if (ranges[i].file == NULL) {
      ranges[i] = (struct range){file, start, end};
      atomic_fetch_add(&file->mappings, 1);
      return true;
    }
  return false;
}

static bool add_mapping(struct wrap_file *file, uint64_t start, uint64_t end) {
  lock_ranges();
  bool is_added = add_range(file, start, end);
  unlock_ranges();
  return is_added;
}

// Takes a part of one mapping away; returns how many mappings have gone.
static int cut(struct range *range, uint64_t start, uint64_t end) {
  struct range before = *range;
  if (start <= before.start && end >= before.end) {
    *range = (struct range){.file = NULL};
    return 1;
  }
  if (start > before.start) {
    range->end = start;
    if (end < before.end)
      add_range(before.file, end, before.end);
  } else {
    range->start = end;
  }
  return 0;
}

// Of one of several mappings of the same bytes, the first.
static void remove_mapping(struct wrap_file *file, uint64_t start, uint64_t end) {
  int gone = 0;
  lock_ranges();
  for (int i = 0; i < RANGES_MAX; i++)
    if (ranges[i].file == file && ranges[i].start < end && ranges[i].end > start) {
      gone = cut(&ranges[i], start, end);
      break;
    }
  unlock_ranges();
  while (gone-- > 0)
    file_release_mapping(file);
}

// One that begins there ends elsewhere.
static bool resize_mapping(const struct wrap_file *file, uint64_t start, uint64_t end) {
  bool is_found = false;
  lock_ranges();
  for (int i = 0; i < RANGES_MAX && !is_found; i++)
    if (ranges[i].file == file && ranges[i].start == start) {
      ranges[i].end = end;
      is_found = true;
    }
  unlock_ranges();
  return is_found;
}

void mappings_forget(void) {
  memset(ranges, 0, sizeof ranges);
  pthread_mutex_init(&ranges_lock, NULL);
}

static void *fail(int error) {
  errno = error;
  return MAP_FAILED;
}

// A copy of the bytes as they are now.
static void *map_privately(const struct wrap_file *file, void *address, size_t bytes,
                           int protection, int flags, uint64_t offset) {
  char *copy = REAL(mmap)(address, bytes, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
  if (copy == MAP_FAILED)
    return copy;
  uint64_t length = *file->pool.length;
  uint64_t there = offset < length ? length - offset : 0;
  memcpy(copy, file->pool.base + offset, there < bytes ? there : bytes);
  if (mprotect(copy, bytes, protection) != 0) {
    REAL(munmap)(copy, bytes);
    return MAP_FAILED;
  }
  return copy;
}

EXPORTED void *mmap(void *address, size_t bytes, int protection, int flags, int descriptor,
                    off_t offset) {
  if (wrap_self.inside != 0 || (flags & MAP_ANONYMOUS) || descriptor < 0)
    return REAL(mmap)(address, bytes, protection, flags, descriptor, offset);
  bool is_private = (flags & MAP_TYPE) == MAP_PRIVATE;
  struct wrap_file *file = is_private ? file_of(descriptor) : file_to_map(descriptor);
  if (file == NULL)
    return REAL(mmap)(address, bytes, protection, flags, descriptor, offset);
  if (!atomic_load(&file->is_open))
    return fail(ENODEV);  // its pool could not be made: said already
  if (bytes == 0 || offset < 0 || offset % (off_t)PAGE_BYTES != 0)
    return fail(EINVAL);
  if (is_private)
    return map_privately(file, address, bytes, protection, flags, (uint64_t)offset);
  uint64_t end = (uint64_t)offset + whole_pages(bytes);
  if (end > file->pool.capacity)
    return fail(ENOMEM);
  char *place = file->pool.base + offset;
  if ((flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) != 0 && address != place) {
    wrap_say("%s: it can be mapped at %p alone, not at %p", file->path, (void *)place, address);
    return fail(EINVAL);
  }
  int error = file_watch(file, end);
  if (error != 0)
    return fail(error);
  return add_mapping(file, (uint64_t)offset, end) ? place : fail(ENOMEM);
}
void *mmap64(void *address, size_t bytes, int protection, int flags, int descriptor, off_t offset)
    ALIAS(mmap);

EXPORTED int munmap(void *address, size_t bytes) {
  struct wrap_file *file = file_at(address);
  if (file == NULL)
    return REAL(munmap)(address, bytes);
  uint64_t start = (uint64_t)((char *)address - file->pool.base);
  if (start % PAGE_BYTES != 0 || bytes == 0)
    return errno = EINVAL, -1;
  remove_mapping(file, start, start + whole_pages(bytes));
  return 0;
}

EXPORTED void *mremap(void *address, size_t bytes, size_t new_bytes, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  void *target = va_arg(arguments, void *);
  va_end(arguments);
  struct wrap_file *file = file_at(address);
  if (file == NULL)
    return REAL(mremap)(address, bytes, new_bytes, flags, target);
  uint64_t start = (uint64_t)((char *)address - file->pool.base);
  uint64_t end = start + whole_pages(new_bytes);
  if ((flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) != 0 || start % PAGE_BYTES != 0 ||
      new_bytes == 0)
    return fail(EINVAL);
  if (end > file->pool.capacity)
    return fail(ENOMEM);
  int error = file_watch(file, end);
  if (error != 0)
    return fail(error);
  return resize_mapping(file, start, end) ? address : fail(EFAULT);
}

// Under epochs a program says by msync that it wants an epoch, and waits for it.
int file_sync(struct wrap_file *file) {
  if (signals_in_handler())
    return errno = EBUSY, -1;
  if (file->commit == COMMIT_BY_CALL) {
    file_commit(file);
    return 0;
  }
  if (gate_commit_last())
    return 0;
  errno = EBUSY;
  return -1;
}

EXPORTED int msync(void *address, size_t bytes, int flags) {
  struct wrap_file *file = file_at(address);
  if (file == NULL)
    return REAL(msync)(address, bytes, flags);
  return (flags & MS_SYNC) != 0 ? file_sync(file) : 0;
}

EXPORTED int fsync(int descriptor) {
  struct wrap_file *file = file_of(descriptor);
  return file != NULL ? file_sync(file) : REAL(fsync)(descriptor);
}

EXPORTED int fdatasync(int descriptor) {
  struct wrap_file *file = file_of(descriptor);
  return file != NULL ? file_sync(file) : REAL(fdatasync)(descriptor);
}

EXPORTED int sync_file_range(int descriptor, off_t offset, off_t bytes, unsigned flags) {
  return file_of(descriptor) != NULL ? 0
                                     : REAL(sync_file_range)(descriptor, offset, bytes, flags);
}

// Advice that would take written bytes away: on a shared mapping of a file it does not.
EXPORTED int madvise(void *address, size_t bytes, int advice) {
  struct wrap_file *file = file_at(address);
  if (file == NULL)
    return REAL(madvise)(address, bytes, advice);
  switch (advice) {
  case MADV_REMOVE:
    memset(address, 0, bytes);
    return 0;
  case MADV_NORMAL:
  case MADV_RANDOM:
  case MADV_SEQUENTIAL:
  case MADV_WILLNEED:
    return REAL(madvise)(address, bytes, advice);
  default:
    return 0;
  }
}
