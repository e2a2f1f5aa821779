// Names of wrapped files: a file that is deleted, or replaced by another one, takes its pool along,
// so that the next file of that name does not begin with its bytes.
//
// A wrapped file cannot be renamed: EXDEV, as between file systems, after which programs copy.
#define _GNU_SOURCE
#include "internal.h"

#include <limits.h>
#include <string.h>

// The path of a name from the root on; the name itself need not exist.
static bool absolute(int folder, const char *name, char *path) {
  char parent[PATH_MAX], link[64];
  const char *base = strrchr(name, '/');
  base = base != NULL ? base + 1 : name;
  if ((size_t)(base - name) >= sizeof parent)
    return false;
  memcpy(parent, name, (size_t)(base - name));
  parent[base - name] = 0;
  int opened = REAL(openat)(folder, parent[0] != 0 ? parent : ".", O_PATH | O_CLOEXEC);
  if (opened < 0)
    return false;
  snprintf(link, sizeof link, "/proc/self/fd/%d", opened);
  ssize_t length = readlink(link, path, PATH_MAX - 1);
  REAL(close)(opened);
  if (length <= 0 || (size_t)length + strlen(base) + 2 > PATH_MAX)
    return false;
  path[length] = 0;
  if (length > 1)
    strcat(path, "/");
  strcat(path, base);
  return true;
}

// The pool of a name, if it has one.
static bool pool_of(int folder, const char *name, char *pool) {
  char path[PATH_MAX];
  if (wrap_self.inside != 0 || !files_are_wanted() || !wrap_is_ours())
    return false;
  int saved = errno;
  wrap_enter();
  bool has_one = absolute(folder, name, path) && files_pool_path(path, pool) &&
                 access(pool, F_OK) == 0;
  wrap_leave();
  errno = saved;
  return has_one;
}

// The file first: a crash between the two leaves a pool without a file.
static int delete_file(int folder, const char *name, int flags) {
  char pool[PATH_MAX];
  bool has_pool = (flags & AT_REMOVEDIR) == 0 && pool_of(folder, name, pool);
  int result = REAL(unlinkat)(folder, name, flags);
  if (result == 0 && has_pool)
    REAL(unlinkat)(AT_FDCWD, pool, 0);
  return result;
}

EXPORTED int unlink(const char *name) { return delete_file(AT_FDCWD, name, 0); }

EXPORTED int unlinkat(int folder, const char *name, int flags) {
  return delete_file(folder, name, flags);
}

EXPORTED int remove(const char *name) {
  struct stat status;
  bool is_folder = lstat(name, &status) == 0 && S_ISDIR(status.st_mode);
  return delete_file(AT_FDCWD, name, is_folder ? AT_REMOVEDIR : 0);
}

EXPORTED int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
  char pool[PATH_MAX];
  if (pool_of(from, old, pool))
    return errno = EXDEV, -1;
  bool has_pool = pool_of(to, new, pool);
  int result = REAL(renameat2)(from, old, to, new, flags);
  if (result == 0 && has_pool)
    REAL(unlinkat)(AT_FDCWD, pool, 0);
  return result;
}

EXPORTED int renameat(int from, const char *old, int to, const char *new) {
  return renameat2(from, old, to, new, 0);
}

EXPORTED int rename(const char *old, const char *new) {
  return renameat2(AT_FDCWD, old, AT_FDCWD, new, 0);
}
