// wrap-program: an ordinary program in C that maps files, and knows of no pools.
#ifndef WRAP_CASES_H
#define WRAP_CASES_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct wrap_case {
  const char *name;
  void (*run)(int fd, char *map);
};
extern const struct wrap_case file_cases[];
int run_file_case(const struct wrap_case *it, const char *path);

// Returns when an epoch has ended that began after the call; at once in a program that is not
// wrapped.
void wait_for_epoch(void);

struct wrap_verb {
  const char *name;
  int (*run)(const char *path, char **rest);
};
extern const struct wrap_verb verbs[], hostile_verbs[];

#endif
