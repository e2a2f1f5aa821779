// Files of the program that are pools: which descriptors mean them, and their life.
//
//             open, matches               first shared mapping, or there is a pool
//   (nothing) -------------> candidate ---------------------------------------------> open
//                                                                                      |
//             a plain file again: `volip extract`     last descriptor and mapping gone |
//   (nothing) <------------------------------------------------------------------------+
//
// While it is open its bytes are the pool's working copy. The plain file keeps its old bytes, and
// has the length, so that fstat and lseek need no help. Offsets and locks are the kernel's.
//
// `files_lock` guards everything but the table of descriptors, whose entries are words.
#define _GNU_SOURCE
#include "internal.h"

#include <fnmatch.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#define DESCRIPTORS (1 << 20)
#define OURS 0xff
#define PATTERNS_MAX 32

struct wrap_file wrap_files[WRAP_FILES_MAX];
static _Atomic uint8_t file_numbers[DESCRIPTORS];  // index plus 1, or OURS
static _Atomic uint8_t kinds[DESCRIPTORS];
static _Atomic int inside_max = -1;       // the largest end of a pipe or socket pair
static uint64_t open_files[DESCRIPTORS];  // by device and inode, where the kind is known
static pthread_mutex_t files_lock = PTHREAD_MUTEX_INITIALIZER;

static struct pattern {
  char text[4096];
  char pool[4096];  // empty: the file's name and .pool
  enum wrap_commit commit;
} patterns[PATTERNS_MAX];
static int pattern_count;

void wrap_say(const char *format, ...) {
  char text[5000] = "volip: ";
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(text + 7, sizeof text - 9, format, arguments);
  va_end(arguments);
  length = length < (int)sizeof text - 9 ? length + 7 : (int)sizeof text - 2;
  text[length++] = '\n';
  (void)!REAL(write)(STDERR_FILENO, text, (size_t)length);
}

void wrap_stop(const char *format, ...) {
  char text[4500];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  wrap_say("%s; the program is stopped", text);
  REAL(sigaction)(SIGABRT, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
  abort();
}

// Descriptors

static bool is_number(int descriptor) { return descriptor >= 0 && descriptor < DESCRIPTORS; }

static struct wrap_file *noted(int descriptor) {
  uint8_t number = is_number(descriptor) ? file_numbers[descriptor] : 0;
  return number != 0 && number != OURS ? &wrap_files[number - 1] : NULL;
}

struct wrap_file *file_of(int descriptor) {
  struct wrap_file *file = noted(descriptor);
  return file != NULL && wrap_self.inside == 0 && atomic_load(&file->is_open) ? file : NULL;
}

bool descriptor_is_ours(int descriptor) {
  return is_number(descriptor) && file_numbers[descriptor] == OURS && wrap_self.inside == 0;
}

// A duplicate where programs have none; -1 if there is no place.
static int duplicate(int descriptor) {
  struct rlimit limit = {1024, 1024};
  getrlimit(RLIMIT_NOFILE, &limit);
  int lowest = limit.rlim_cur < 8192 ? (int)(limit.rlim_cur / 4 * 3) : 4096;
  int other = REAL(fcntl)(descriptor, F_DUPFD_CLOEXEC, lowest);
  descriptor_claim(other);
  return other;
}

int descriptor_keep(int descriptor) {
  int moved = descriptor >= 0 ? duplicate(descriptor) : -1;
  if (moved < 0)
    return descriptor;
  REAL(close)(descriptor);
  return moved;
}

void descriptor_give_up(int descriptor) {
  if (is_number(descriptor))
    file_numbers[descriptor] = 0;
}

static enum wrap_kind kind_of(mode_t mode) {
  switch (mode & S_IFMT) {
  case S_IFSOCK:
    return KIND_SOCKET;
  case S_IFIFO:
  case S_IFCHR:
    return KIND_OUTSIDE;
  case S_IFREG:
  case S_IFDIR:
  case S_IFBLK:
    return KIND_PLAIN;
  default:  // events, timers
    return KIND_INSIDE;
  }
}

enum wrap_kind descriptor_kind(int descriptor) {
  if (!is_number(descriptor))
    return KIND_OUTSIDE;
  struct stat status;
  if (kinds[descriptor] == KIND_UNKNOWN && fstat(descriptor, &status) == 0) {
    open_files[descriptor] = status.st_ino + status.st_dev * 0x9e3779b97f4a7c15;
    kinds[descriptor] = kind_of(status.st_mode);
  }
  return (enum wrap_kind)kinds[descriptor];
}

uint64_t descriptor_file(int descriptor) {
  descriptor_kind(descriptor);
  return is_number(descriptor) ? open_files[descriptor] : 0;
}

void descriptor_claim(int descriptor) {
  if (is_number(descriptor))
    file_numbers[descriptor] = OURS;
}

void descriptor_is_inside(int descriptor) {
  if (!is_number(descriptor))
    return;
  kinds[descriptor] = KIND_INSIDE;
  int most = atomic_load(&inside_max);
  while (most < descriptor && !atomic_compare_exchange_weak(&inside_max, &most, descriptor))
    ;
}

void descriptors_are_shared(void) {
  int most = atomic_load(&inside_max);
  for (int descriptor = 0; descriptor <= most; descriptor++)
    if (kinds[descriptor] == KIND_INSIDE)
      kinds[descriptor] = KIND_UNKNOWN;
}

// Patterns

static struct pattern *pattern_of(const char *path) {
  const char *name = strrchr(path, '/');
  for (int i = 0; i < pattern_count; i++) {
    bool has_folder = strchr(patterns[i].text, '/') != NULL;
    if (fnmatch(patterns[i].text, has_folder || name == NULL ? path : name + 1, 0) == 0)
      return &patterns[i];
  }
  return NULL;
}

static void pool_path(const struct pattern *pattern, const char *path, char *to, size_t bytes) {
  if (pattern->pool[0] != 0)
    snprintf(to, bytes, "%s", pattern->pool);
  else
    snprintf(to, bytes, "%s.pool", path);
}

bool files_are_wanted(void) { return pattern_count > 0; }

bool files_pool_path(const char *path, char *pool) {
  const struct pattern *pattern = pattern_of(path);
  if (pattern != NULL)
    pool_path(pattern, path, pool, 4096);
  return pattern != NULL;
}

static void read_patterns(const char *variable, enum wrap_commit commit) {
  const char *text = getenv(variable);
  while (text != NULL && *text != 0) {
    size_t length = strcspn(text, "\n");
    if (pattern_count == PATTERNS_MAX || length >= sizeof patterns[0].text)
      wrap_stop("more than %d patterns, or a longer one than 4,095 bytes", PATTERNS_MAX);
    struct pattern *pattern = &patterns[pattern_count++];
    pattern->commit = commit;
    memcpy(pattern->text, text, length);
    char *equals = strchr(pattern->text, '=');
    if (equals != NULL) {
      *equals = 0;
      strcpy(pattern->pool, equals + 1);
    }
    text += length + (text[length] == '\n');
  }
}

// Life

// A duplicate of the program's own where that may write: who opens a file anew and closes one of
// its descriptors takes the process's locks on it away.
static int open_carrier(int descriptor) {
  if ((REAL(fcntl)(descriptor, F_GETFL) & O_ACCMODE) == O_RDWR)
    return duplicate(descriptor);
  char own[64];
  snprintf(own, sizeof own, "/proc/self/fd/%d", descriptor);
  int opened = REAL(open)(own, O_RDWR | O_CLOEXEC);
  return descriptor_keep(opened >= 0 ? opened : REAL(open)(own, O_RDONLY | O_CLOEXEC));
}

static void open_pool(struct wrap_file *file, int descriptor, uint64_t length, bool is_new,
                      const char *pool, int *error) {
  file->carrier = open_carrier(descriptor);
  *error = file->carrier < 0 ? errno
                             : volip_wrapped_open(pool, file->carrier, length, is_new, &file->pool);
  if (*error != 0) {
    if (file->carrier >= 0)
      REAL(close)(file->carrier);
    return;
  }
  // What the pool says counts: a crash may have come between the two.
  if (*file->pool.length != length && ftruncate(file->carrier, (off_t)*file->pool.length) != 0)
    wrap_say("%s: its length is not that of its pool", file->path);
  statistics_share();
  atomic_store(&file->is_open, true);
  if (file->commit == COMMIT_BY_EPOCH)
    gate_use();
}

static void close_pool(struct wrap_file *file) {
  file_commit(file);
  atomic_store(&file->is_open, false);
  volip_wrapped_close(file->pool.handle);
  if (is_number(file->carrier))
    file_numbers[file->carrier] = 0;
  REAL(close)(file->carrier);
  file->path[0] = 0;
}

static void release_if_unused(struct wrap_file *file) {
  if (file->path[0] == 0 || atomic_load(&file->descriptors) > 0 ||
      atomic_load(&file->mappings) > 0)
    return;
  if (atomic_load(&file->is_open))
    close_pool(file);
  file->path[0] = 0;
}

static struct wrap_file *find_or_make(const char *path, const struct stat *status,
                                      const struct pattern *pattern) {
  struct wrap_file *unused = NULL;
  for (int i = 0; i < WRAP_FILES_MAX; i++) {
    struct wrap_file *file = &wrap_files[i];
    if (file->path[0] != 0 && file->device == status->st_dev && file->inode == status->st_ino)
      return file;
    if (file->path[0] == 0 && unused == NULL)
      unused = file;
  }
  if (unused == NULL)
    wrap_stop("more than %d wrapped files are open", WRAP_FILES_MAX);
  snprintf(unused->path, sizeof unused->path, "%s", path);
  unused->device = status->st_dev;
  unused->inode = status->st_ino;
  unused->commit = pattern->commit;
  return unused;
}

static bool path_of(int descriptor, char *path, size_t bytes) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t length = readlink(link, path, bytes - 1);
  if (length <= 0)
    return false;
  path[length] = 0;
  return path[0] == '/';
}

static int note_open_locked(int descriptor, const char *path, const struct pattern *pattern,
                            int flags) {
  struct stat status;
  if (fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode))
    return 0;
  char pool[4200];
  pool_path(pattern, path, pool, sizeof pool);
  struct wrap_file *file = find_or_make(path, &status, pattern);
  int error = 0;
  if (!atomic_load(&file->is_open) && access(pool, F_OK) == 0)
    open_pool(file, descriptor, (uint64_t)status.st_size, false, pool, &error);
  if (error != 0) {
    release_if_unused(file);
    return error;
  }
  atomic_fetch_add(&file->descriptors, 1);
  file_numbers[descriptor] = (uint8_t)(file - wrap_files + 1);
  if ((flags & O_TRUNC) && atomic_load(&file->is_open))
    error = file_set_length(file, 0);
  return error;
}

// After an open that succeeded. On an error the descriptor is closed.
static int note_open(int descriptor, int flags) {
  char path[4096];
  if (wrap_self.inside != 0)
    return descriptor_keep(descriptor);
  if (is_number(descriptor))
    kinds[descriptor] = KIND_UNKNOWN;
  if (descriptor < 0 || pattern_count == 0 || !is_number(descriptor) || !wrap_is_ours() ||
      (flags & O_PATH))
    return descriptor;
  int saved = errno;
  wrap_enter();
  const struct pattern *pattern = NULL;
  int error = 0;
  if (path_of(descriptor, path, sizeof path) && (pattern = pattern_of(path)) != NULL) {
    REAL(pthread_mutex_lock)(&files_lock);
    error = note_open_locked(descriptor, path, pattern, flags);
    REAL(pthread_mutex_unlock)(&files_lock);
  }
  if (error != 0)
    REAL(close)(descriptor);
  wrap_leave();
  errno = error != 0 ? error : saved;
  return error != 0 ? -1 : descriptor;
}

// A descriptor that the program did not open itself: inherited, received, or of mkstemp.
// Returns false if it cannot be wrapped, but should.
static bool note_late(int descriptor) {
  char path[4096];
  const struct pattern *pattern;
  if (!is_number(descriptor) || pattern_count == 0 || !wrap_is_ours())
    return true;
  int error = 0;
  wrap_enter();
  if (path_of(descriptor, path, sizeof path) && (pattern = pattern_of(path)) != NULL) {
    REAL(pthread_mutex_lock)(&files_lock);
    error = note_open_locked(descriptor, path, pattern, 0);
    REAL(pthread_mutex_unlock)(&files_lock);
  }
  wrap_leave();
  return error == 0;
}

struct wrap_file *file_to_map(int descriptor) {
  static struct wrap_file refused;  // never open
  if (noted(descriptor) == NULL && !descriptor_is_ours(descriptor) && !note_late(descriptor))
    return &refused;
  struct wrap_file *file = noted(descriptor);
  if (file == NULL || atomic_load(&file->is_open))
    return file;
  wrap_enter();
  REAL(pthread_mutex_lock)(&files_lock);
  int error = 0;
  struct stat status;
  if (!atomic_load(&file->is_open) && fstat(descriptor, &status) == 0) {
    char pool[4200];
    pool_path(pattern_of(file->path), file->path, pool, sizeof pool);
    open_pool(file, descriptor, (uint64_t)status.st_size, access(pool, F_OK) != 0, pool, &error);
  }
  REAL(pthread_mutex_unlock)(&files_lock);
  wrap_leave();
  return file;
}

void file_release_mapping(struct wrap_file *file) {
  wrap_enter();
  REAL(pthread_mutex_lock)(&files_lock);
  atomic_fetch_sub(&file->mappings, 1);
  release_if_unused(file);
  REAL(pthread_mutex_unlock)(&files_lock);
  wrap_leave();
}

struct wrap_file *file_at(const void *address) {
  if (wrap_self.inside != 0)
    return NULL;
  for (int i = 0; i < WRAP_FILES_MAX; i++) {
    struct wrap_file *file = &wrap_files[i];
    if (atomic_load(&file->is_open) &&
        (uint64_t)((const char *)address - file->pool.base) < file->pool.capacity)
      return file;
  }
  return NULL;
}

// Returns lines that changed.
static uint64_t commit_pool(struct wrap_file *file) {
  uint64_t pages = 0, lines = 0;
  wrap_enter();
  if (volip_wrapped_commit(file->pool.handle, &pages, &lines) != 0)
    wrap_stop("%s: what was written could not be committed", file->path);
  wrap_leave();
  statistics_note_pages(pages, lines);
  return lines;
}

void file_commit(struct wrap_file *file) {
  uint64_t start = wrap_now();
  uint64_t lines = commit_pool(file);
  statistics_note_commit(wrap_now() - start, lines == 0);
}

void files_commit(void) {
  uint64_t start = wrap_now(), lines = 0;
  for (int i = 0; i < WRAP_FILES_MAX; i++)
    if (atomic_load(&wrap_files[i].is_open) && wrap_files[i].commit == COMMIT_BY_EPOCH)
      lines += commit_pool(&wrap_files[i]);
  statistics_note_commit(wrap_now() - start, lines == 0);
}

int file_watch(struct wrap_file *file, uint64_t end) {
  wrap_enter();
  int error = volip_wrapped_watch(file->pool.handle, end);
  wrap_leave();
  return error;
}

int file_zero(struct wrap_file *file, uint64_t start, uint64_t end) {
  wrap_enter();
  int error = start < end ? volip_wrapped_zero(file->pool.handle, start, end) : 0;
  wrap_leave();
  return error;
}

int file_set_length(struct wrap_file *file, uint64_t length) {
  if (length > file->pool.capacity) {
    wrap_say("%s: its pool has room for %lu bytes, not for %lu", file->path, file->pool.capacity,
             length);
    return EFBIG;
  }
  int error = file_watch(file, length);
  if (error != 0)
    return error;
  if (REAL(ftruncate)(file->carrier, (off_t)length) != 0)
    return errno;
  error = file_zero(file, length, *file->pool.length);
  *file->pool.length = length;
  return error;
}

void files_close_all(void) {
  wrap_enter();
  REAL(pthread_mutex_lock)(&files_lock);
  for (int i = 0; i < WRAP_FILES_MAX; i++)
    if (atomic_load(&wrap_files[i].is_open) && wrap_files[i].commit == COMMIT_BY_CALL)
      file_commit(&wrap_files[i]);
  REAL(pthread_mutex_unlock)(&files_lock);
  wrap_leave();
}

// A child has no pools: their memory is not in it.
void files_forget(void) {
  for (int i = 0; i < WRAP_FILES_MAX; i++)
    wrap_files[i] = (struct wrap_file){.path = ""};
  for (int i = 0; i < DESCRIPTORS; i++)
    if (file_numbers[i] != 0 && file_numbers[i] != OURS)
      file_numbers[i] = 0;
  pthread_mutex_init(&files_lock, NULL);
}

void files_start(void) {
  read_patterns("VOLIP_PMAP", COMMIT_BY_EPOCH);
  read_patterns("VOLIP_ATOMIC_MSYNC", COMMIT_BY_CALL);
}

void descriptor_forget(int descriptor) {
  if (!is_number(descriptor))
    return;
  kinds[descriptor] = KIND_UNKNOWN;
  struct wrap_file *file = noted(descriptor);
  if (file == NULL || wrap_self.inside != 0)
    return;
  wrap_enter();
  REAL(pthread_mutex_lock)(&files_lock);
  file_numbers[descriptor] = 0;
  atomic_fetch_sub(&file->descriptors, 1);
  release_if_unused(file);
  REAL(pthread_mutex_unlock)(&files_lock);
  wrap_leave();
}

static int note_duplicate(int from, int to) {
  if (to < 0 || to == from || !is_number(to) || wrap_self.inside != 0)
    return to;
  descriptor_forget(to);
  open_files[to] = is_number(from) ? open_files[from] : 0;
  kinds[to] = is_number(from) ? kinds[from] : KIND_UNKNOWN;
  if (kinds[to] == KIND_INSIDE)
    descriptor_is_inside(to);
  struct wrap_file *file = noted(from);
  if (file != NULL) {
    atomic_fetch_add(&file->descriptors, 1);
    file_numbers[to] = file_numbers[from];
  }
  return to;
}

// The program's calls

static mode_t mode_of(int flags, va_list *arguments) {
  bool has_mode = (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE;
  return has_mode ? va_arg(*arguments, mode_t) : 0;
}

EXPORTED int open(const char *path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  mode_t mode = mode_of(flags, &arguments);
  va_end(arguments);
  return note_open(REAL(open)(path, flags, mode), flags);
}

EXPORTED int openat(int folder, const char *path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  mode_t mode = mode_of(flags, &arguments);
  va_end(arguments);
  return note_open(REAL(openat)(folder, path, flags, mode), flags);
}

EXPORTED int creat(const char *path, mode_t mode) {
  return open(path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

EXPORTED int __open_2(const char *path, int flags) { return open(path, flags); }
EXPORTED int __openat_2(int folder, const char *path, int flags) {
  return openat(folder, path, flags);
}
int open64(const char *path, int flags, ...) ALIAS(open);
int openat64(int folder, const char *path, int flags, ...) ALIAS(openat);
int creat64(const char *path, mode_t mode) ALIAS(creat);
int __open64_2(const char *path, int flags) ALIAS(__open_2);
int __openat64_2(int folder, const char *path, int flags) ALIAS(__openat_2);

// A stream's own calls are the C library's, which this library does not see.
EXPORTED FILE *fopen(const char *restrict path, const char *restrict mode) {
  FILE *stream = REAL(fopen)(path, mode);
  char name[4096];
  if (stream == NULL || pattern_count == 0 || wrap_self.inside != 0 ||
      !path_of(fileno(stream), name, sizeof name) || pattern_of(name) == NULL)
    return stream;
  wrap_say("%s: a wrapped file cannot be a stream (fopen)", name);
  fclose(stream);
  errno = ENOTSUP;
  return NULL;
}
FILE *fopen64(const char *restrict path, const char *restrict mode) ALIAS(fopen);

EXPORTED FILE *fdopen(int descriptor, const char *mode) {
  if (wrap_self.inside != 0 || noted(descriptor) == NULL)
    return REAL(fdopen)(descriptor, mode);
  wrap_say("%s: a wrapped file cannot be a stream (fdopen)", noted(descriptor)->path);
  errno = ENOTSUP;
  return NULL;
}

// It closes what it cannot have, as it does when the opening fails.
EXPORTED FILE *freopen(const char *restrict path, const char *restrict mode,
                       FILE *restrict stream) {
  FILE *result = REAL(freopen)(path, mode, stream);
  char name[4096];
  if (result == NULL || pattern_count == 0 || wrap_self.inside != 0 ||
      !path_of(fileno(result), name, sizeof name) || pattern_of(name) == NULL)
    return result;
  wrap_say("%s: a wrapped file cannot be a stream (freopen)", name);
  fclose(result);
  errno = ENOTSUP;
  return NULL;
}
FILE *freopen64(const char *restrict path, const char *restrict mode, FILE *restrict stream)
    ALIAS(freopen);

// The C library closes its descriptor unseen.
EXPORTED int fclose(FILE *stream) {
  int descriptor = stream != NULL ? fileno(stream) : -1;
  if (descriptor >= 0 && wrap_self.inside == 0) {
    fflush(stream);
    bool is_free = output_before_close(descriptor);
    descriptor_forget(descriptor);
    if (!is_free)
      return 0;  // the stream's own memory stays
  }
  return REAL(fclose)(stream);
}

EXPORTED int dup(int descriptor) {
  if (descriptor_is_ours(descriptor))
    return errno = EBADF, -1;
  return note_duplicate(descriptor, REAL(dup)(descriptor));
}

EXPORTED int dup2(int from, int to) {
  if (descriptor_is_ours(from) || descriptor_is_ours(to))
    return errno = EBADF, -1;
  if (from != to && !output_before_close(to))
    return errno = EMFILE, -1;
  return note_duplicate(from, REAL(dup2)(from, to));
}

EXPORTED int dup3(int from, int to, int flags) {
  if (descriptor_is_ours(from) || descriptor_is_ours(to))
    return errno = EBADF, -1;
  if (from != to && !output_before_close(to))
    return errno = EMFILE, -1;
  return note_duplicate(from, REAL(dup3)(from, to, flags));
}

EXPORTED int fcntl(int descriptor, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  void *argument = va_arg(arguments, void *);
  va_end(arguments);
  if (descriptor_is_ours(descriptor))
    return errno = EBADF, -1;
  int result = REAL(fcntl)(descriptor, command, argument);
  if (command == F_DUPFD || command == F_DUPFD_CLOEXEC)
    note_duplicate(descriptor, result);
  return result;
}
int fcntl64(int descriptor, int command, ...) ALIAS(fcntl);

EXPORTED int close(int descriptor) {
  if (descriptor_is_ours(descriptor))
    return errno = EBADF, -1;
  if (wrap_self.inside != 0) {
    if (is_number(descriptor))
      file_numbers[descriptor] = 0;
    return REAL(close)(descriptor);
  }
  bool is_free = output_before_close(descriptor);
  descriptor_forget(descriptor);
  return is_free ? REAL(close)(descriptor) : 0;
}

EXPORTED int close_range(unsigned first, unsigned last, int flags) {
  int result = 0;
  if (last >= DESCRIPTORS)
    last = DESCRIPTORS - 1;
  for (unsigned start = first, number = first; number <= last + 1 && result == 0; number++) {
    bool closes = number <= last && (flags & CLOSE_RANGE_CLOEXEC) == 0;
    bool is_ours = number <= last && (file_numbers[number] == OURS ||
                                      (closes && !output_before_close((int)number)));
    if (number <= last && !is_ours) {
      if (closes)
        descriptor_forget((int)number);
      continue;
    }
    if (number > start)
      result = REAL(close_range)(start, number - 1, flags);
    start = number + 1;
  }
  return result;
}

EXPORTED void closefrom(int first) { close_range(first > 0 ? (unsigned)first : 0, ~0u, 0); }

EXPORTED int truncate(const char *path, off_t length) {
  if (pattern_count == 0 || wrap_self.inside != 0)
    return REAL(truncate)(path, length);
  int descriptor = open(path, O_WRONLY | O_CLOEXEC);
  if (descriptor < 0)
    return -1;
  int result = ftruncate(descriptor, length);
  int saved = errno;
  close(descriptor);
  errno = saved;
  return result;
}
int truncate64(const char *path, off_t length) ALIAS(truncate);

EXPORTED int socketpair(int domain, int type, int protocol, int ends[2]) {
  int result = REAL(socketpair)(domain, type, protocol, ends);
  for (int i = 0; i < 2 && result == 0; i++)
    descriptor_is_inside(ends[i]);
  return result;
}

EXPORTED int pipe2(int ends[2], int flags) {
  int result = REAL(pipe2)(ends, flags);
  for (int i = 0; i < 2 && result == 0; i++)
    descriptor_is_inside(ends[i]);
  return result;
}

EXPORTED int pipe(int ends[2]) { return pipe2(ends, 0); }
