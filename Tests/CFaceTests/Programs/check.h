// A check that names itself when it fails, and goes on.
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <volip.h>

static int failures;

#define CHECK(condition)                                                          \
  do {                                                                            \
    if (!(condition)) {                                                           \
      failures++;                                                                 \
      printf("%s:%d: %s (%s)\n", __FILE__, __LINE__, #condition, volip_error_text()); \
    }                                                                             \
  } while (0)

/// The condition is false, with that error.
#define FAILS(code, condition) CHECK(!(condition) && volip_last_error() == (code))

#endif
