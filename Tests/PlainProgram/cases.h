// A plain program: each case does something with signals, memory or processes and prints what it
// saw. It knows nothing of guest mode; a test compares its words and its end natively and there.
#ifndef CASES_H
#define CASES_H

#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct plain_case {
  const char *name;
  void (*run)(void);
};

extern const struct plain_case signal_cases[], fault_cases[], memory_cases[], process_cases[],
    terminal_cases[];

/// Prints at once and without the heap: handlers and children do so, too.
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

typedef void handler_type(int, siginfo_t *, void *);

static inline void handle_with(int number, handler_type *handler, int flags) {
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = flags | SA_SIGINFO};
  sigaction(number, &action, NULL);
}

static inline void mask_one(int how, int number) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, number);
  sigprocmask(how, &set, NULL);
}

/// Waits for a child and says how it ended.
static inline void say_end(const char *name, pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR)
    ;
  say("%s: exit %d, signal %d\n", name, WIFEXITED(status) ? WEXITSTATUS(status) : -1,
      WIFSIGNALED(status) ? WTERMSIG(status) : 0);
}

/// New memory of `bytes`, for reading and writing.
static inline char *memory(size_t bytes) {
  void *result =
      mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return result == MAP_FAILED ? NULL : result;
}

#endif
