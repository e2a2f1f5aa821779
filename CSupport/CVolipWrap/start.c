// Before main, and at the end: exit, other programs in this one's place, children.
#define _GNU_SOURCE
#include "internal.h"
#include "CVolipEnter.h"

#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>

extern char **environ;
static pid_t own_process;

// The machine's own calls on the way into the guest are not the program's: its signal handlers
// least of all.
bool cvolipenter_begin(void) {
  bool enters = getenv("VOLIP_NO_VM") == NULL;
  if (enters)
    wrap_enter();
  return enters;
}

void cvolipenter_end(void) { wrap_leave(); }

bool wrap_is_ours(void) { return own_process == (pid_t)REAL(syscall)(SYS_getpid); }

// After fork, whoever called it: also the C library itself, in daemon and forkpty.
static void begin_child(void) {
  own_process = (pid_t)REAL(syscall)(SYS_getpid);
  descriptors_are_shared();
  gate_forget();
  statistics_forget();
  threads_forget();
  files_forget();
  mappings_forget();
  output_forget();
  wrap_self.state = RUNNING;
  wrap_self.is_counted = true;
}

__attribute__((constructor)) static void start(void) {
  real_prepare();
  own_process = getpid();
  threads_start();
  files_start();
  output_start();
  signals_start();
  pthread_atfork(NULL, descriptors_are_shared, begin_child);
}

// What is left of the last epoch. Other threads may still run, and be in the middle of something:
// then it is lost, as after a crash.
static void end(void) {
  if (wrap_self.inside != 0 || !wrap_is_ours())
    return;
  if (atomic_load(&gate_is_used) && wrap_is_busy(0))
    wrap_say("the last epoch was not committed: the program ended with a lock or in a handler");
  else if (!gate_commit_last())
    wrap_say("the last epoch was not committed: threads were running when the program ended");
  if (!signals_in_handler())
    files_close_all();
  output_finish();
}

__attribute__((destructor)) static void at_exit(void) { end(); }

EXPORTED void _exit(int status) {
  end();
  REAL(_exit)(status);
  __builtin_unreachable();
}

EXPORTED void _Exit(int status) { _exit(status); }

EXPORTED void quick_exit(int status) {
  end();
  REAL(quick_exit)(status);
  __builtin_unreachable();
}

// A program in this one's place

EXPORTED int execve(const char *path, char *const arguments[], char *const environment[]) {
  end();
  return REAL(execve)(path, arguments, environment);
}

EXPORTED int execv(const char *path, char *const arguments[]) {
  end();
  return REAL(execv)(path, arguments);
}

EXPORTED int execvp(const char *file, char *const arguments[]) {
  end();
  return REAL(execvp)(file, arguments);
}

EXPORTED int execvpe(const char *file, char *const arguments[], char *const environment[]) {
  end();
  return REAL(execvpe)(file, arguments, environment);
}

EXPORTED int fexecve(int descriptor, char *const arguments[], char *const environment[]) {
  end();
  return REAL(fexecve)(descriptor, arguments, environment);
}

#define ARGUMENTS_MAX 4096

// The arguments of execl and its kin, up to the null pointer.
static bool collect(const char *first, va_list *list, char **arguments) {
  int count = 0;
  for (const char *next = first;; next = va_arg(*list, const char *)) {
    if (count == ARGUMENTS_MAX)
      return errno = E2BIG, false;
    arguments[count++] = (char *)next;
    if (next == NULL)
      return true;
  }
}

EXPORTED int execl(const char *path, const char *first, ...) {
  char *arguments[ARGUMENTS_MAX];
  va_list list;
  va_start(list, first);
  bool is_whole = collect(first, &list, arguments);
  va_end(list);
  return is_whole ? execve(path, arguments, environ) : -1;
}

EXPORTED int execlp(const char *file, const char *first, ...) {
  char *arguments[ARGUMENTS_MAX];
  va_list list;
  va_start(list, first);
  bool is_whole = collect(first, &list, arguments);
  va_end(list);
  return is_whole ? execvp(file, arguments) : -1;
}

EXPORTED int execle(const char *path, const char *first, ...) {
  char *arguments[ARGUMENTS_MAX];
  va_list list;
  va_start(list, first);
  bool is_whole = collect(first, &list, arguments);
  char **environment = va_arg(list, char **);
  va_end(list);
  return is_whole ? execve(path, arguments, environment) : -1;
}

// Children. One that shared memory with its parent (vfork) would change what this library knows of
// the parent; POSIX lets it have its own.

EXPORTED pid_t vfork(void) { return fork(); }

// Like fork, but for the functions that are to be called in the child.
EXPORTED pid_t _Fork(void) {
  pid_t child = REAL(_Fork)();
  if (child == 0)
    begin_child();
  else
    descriptors_are_shared();
  return child;
}

EXPORTED int posix_spawn(pid_t *restrict child, const char *restrict path,
                         const posix_spawn_file_actions_t *restrict actions,
                         const posix_spawnattr_t *restrict attributes,
                         char *const arguments[restrict], char *const environment[restrict]) {
  descriptors_are_shared();
  return REAL(posix_spawn)(child, path, actions, attributes, arguments, environment);
}

EXPORTED int posix_spawnp(pid_t *restrict child, const char *restrict file,
                          const posix_spawn_file_actions_t *restrict actions,
                          const posix_spawnattr_t *restrict attributes,
                          char *const arguments[restrict], char *const environment[restrict]) {
  descriptors_are_shared();
  return REAL(posix_spawnp)(child, file, actions, attributes, arguments, environment);
}

// Descriptors of this library's that it opens by number, and the program's that it closes so.
EXPORTED long syscall(long number, ...) {
  va_list list;
  va_start(list, number);
  long arguments[6];
  for (int i = 0; i < 6; i++)
    arguments[i] = va_arg(list, long);
  va_end(list);
  if (number == SYS_close && wrap_self.inside == 0)
    return close((int)arguments[0]);
  if (number == SYS_close_range && wrap_self.inside == 0)
    return close_range((unsigned)arguments[0], (unsigned)arguments[1], (int)arguments[2]);
  long result = REAL(syscall)(number, arguments[0], arguments[1], arguments[2], arguments[3],
                              arguments[4], arguments[5]);
  bool is_descriptor = number == SYS_userfaultfd || number == SYS_memfd_create;
  return is_descriptor && wrap_self.inside != 0 ? descriptor_keep((int)result) : result;
}
