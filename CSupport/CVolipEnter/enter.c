// Before main: into guest mode, or an end with one sentence. Never silently on the host.
//
// Runs on the program's first thread, when the C library and the libraries below this one are
// initialised and the program's own code has not run yet.
#define _GNU_SOURCE
#include "CVolimem.h"
#include "CVolipEnter.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

static bool is_traced(const char *kind) {
  const char *kinds = getenv("VOLIP_TRACE");
  return kinds != NULL && strstr(kinds, kind) != NULL;
}

static enum cvm_calls calls_wanted(void) {
  const char *way = getenv("VOLIP_SYSCALLS");
  if (way != NULL && strcmp(way, "exit") == 0)
    return CVM_CALLS_EXIT;
  return way != NULL && strcmp(way, "companion") == 0 ? CVM_CALLS_COMPANION : CVM_CALLS_AUTO;
}

static int thread_count(void) {
  DIR *tasks = opendir("/proc/self/task");
  if (tasks == NULL)
    return 1;
  int count = 0;
  for (const struct dirent *task; (task = readdir(tasks)) != NULL;)
    count += task->d_name[0] != '.';
  closedir(tasks);
  return count;
}

static bool is_traced_by_another(void) {
  FILE *status = fopen("/proc/self/status", "re");
  char line[256];
  int tracer = 0;
  while (status != NULL && fgets(line, sizeof line, status) != NULL)
    if (sscanf(line, "TracerPid: %d", &tracer) == 1)
      break;
  if (status != NULL)
    fclose(status);
  return tracer != 0;
}

static void refuse(const char *sentence, int error_number) {
  const char *reason = error_number != 0 ? strerror(error_number) : "";
  dprintf(STDERR_FILENO, "volip: %s cannot run in guest mode: %s%s%s. `volip doctor` says more.\n",
          program_invocation_short_name, sentence, error_number != 0 ? ": " : "", reason);
  _exit(CVOLIPENTER_EXIT_UNSUPPORTED);
}

// Takes this library out of a list of preloaded ones, in place: main's own envp stays valid.
static void forget_preload(char *list, const char *own) {
  char *to = list;
  for (char *from = list; *from != 0;) {
    size_t length = strcspn(from, ": ");
    size_t with_separator = length + (from[length] != 0);
    if (length != strlen(own) || memcmp(from, own, length) != 0) {
      memmove(to, from, with_separator);
      to += with_separator;
    }
    from += with_separator;
  }
  if (to > list && (to[-1] == ':' || to[-1] == ' '))
    to--;
  *to = 0;
}

// Programs that this one executes find nothing of us in their environment.
static void keep_children_native(void) {
  char *list = getenv("LD_PRELOAD");
  Dl_info own;
  if (list != NULL && dladdr((void *)keep_children_native, &own) != 0) {
    forget_preload(list, own.dli_fname);
    if (*list == 0)
      unsetenv("LD_PRELOAD");
  }
  char **to = environ;
  for (char **from = environ; *from != NULL; from++)
    if (strncmp(*from, "VOLIP_", 6) != 0)
      *to++ = *from;
  *to = NULL;
}

__attribute__((constructor)) static void enter(void) {
  if (!cvolipenter_begin())
    return;
  if (is_traced_by_another())
    refuse("a debugger or tracer would see the host's side of it only (volip run --native-children "
           "leaves what a debugger starts on the host, --trace traces the program)", 0);
  // A library of the program has started threads already: all of a process is in the guest or
  // nothing.
  if (thread_count() > 1)
    refuse("it has other threads before its main function", 0);
  const char *bits = getenv("VOLIP_PHYS_BITS");
  const struct cvm_options options = {
      .device = getenv("VOLIP_KVM_DEVICE"),
      .calls = calls_wanted(),
      .phys_bits_max = bits != NULL ? atoi(bits) : 0,
      .trace_calls = is_traced("syscalls"),
      .trace_faults = is_traced("faults"),
      .trace_exits = is_traced("exits"),
      .trace_counts = is_traced("counts"),
  };
  struct cvm_failure failure;
  if (!cvm_enter(&options, &failure))
    refuse(failure.operation, failure.error_number);
  if (getenv("VOLIP_NATIVE_CHILDREN") != NULL)
    keep_children_native();
  cvolipenter_end();
}
