// The functions behind ours, by their names. Those of condition variables have an older namesake.
#define _GNU_SOURCE
#include "real.h"

struct real real_functions;

static void *look_up(const char *name) {
  void *newer = dlvsym(RTLD_NEXT, name, "GLIBC_2.3.2");
  return newer != NULL ? newer : dlsym(RTLD_NEXT, name);
}

void real_prepare(void) {
#define X(name) real_functions.name = (__typeof__(name) *)look_up(#name);
  REAL_FUNCTIONS(X)
#undef X
}
