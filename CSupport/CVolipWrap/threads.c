// Threads: each is counted by the gate from before its first instruction to after its last one.
#define _GNU_SOURCE
#include "internal.h"

#include <limits.h>
#include <string.h>

_Thread_local struct wrap_thread wrap_self __attribute__((tls_model("initial-exec")));
static pthread_key_t end_key;
static _Atomic int thread_count = 1;

void wrap_enter(void) {
  if (wrap_self.inside++ == 0)
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &wrap_self.cancel_state);
  atomic_signal_fence(memory_order_seq_cst);
}

void wrap_leave(void) {
  atomic_signal_fence(memory_order_seq_cst);
  if (wrap_self.inside == 1)
    pthread_setcancelstate(wrap_self.cancel_state, NULL);
  if (--wrap_self.inside == 0 && wrap_self.late != 0)
    signals_send_late();
}

// Destructors of other keys may still run code of the program: those come first, as far as rounds
// of destructors are left.
static void thread_ends(void *value) {
  uintptr_t round = (uintptr_t)value;
  if (round < PTHREAD_DESTRUCTOR_ITERATIONS) {
    pthread_setspecific(end_key, (void *)(round + 1));
    return;
  }
  bool is_last = atomic_fetch_sub(&thread_count, 1) == 1;
  if (is_last && wrap_is_ours()) {
    // The clock would keep a process alive whose last thread has ended.
    exit(0);
  }
  gate_thread_ends();
  wrap_self.is_counted = false;
}

struct beginning {
  void *(*function)(void *);
  void *argument;
};

static void *begin(void *pointer) {
  struct beginning beginning = *(struct beginning *)pointer;
  free(pointer);
  wrap_self.is_counted = true;
  pthread_setspecific(end_key, (void *)1);
  return beginning.function(beginning.argument);
}

EXPORTED int pthread_create(pthread_t *restrict thread, const pthread_attr_t *restrict attributes,
                            void *(*function)(void *), void *restrict argument) {
  if (wrap_self.inside != 0)
    return REAL(pthread_create)(thread, attributes, function, argument);
  struct beginning *beginning = malloc(sizeof *beginning);
  if (beginning == NULL)
    return EAGAIN;
  *beginning = (struct beginning){function, argument};
  gate_thread_begins();
  atomic_fetch_add(&thread_count, 1);
  int result = REAL(pthread_create)(thread, attributes, begin, beginning);
  if (result != 0) {
    atomic_fetch_sub(&thread_count, 1);
    gate_thread_never_began();
    free(beginning);
  }
  return result;
}

EXPORTED int pthread_join(pthread_t thread, void **result) {
  return WAIT(0, REAL(pthread_join)(thread, result));
}

EXPORTED int pthread_timedjoin_np(pthread_t thread, void **result, const struct timespec *limit) {
  return WAIT(0, REAL(pthread_timedjoin_np)(thread, result, limit));
}

void threads_start(void) {
  wrap_self.is_counted = true;
  if (pthread_key_create(&end_key, thread_ends) != 0)
    wrap_stop("no thread-specific key is left");
  pthread_setspecific(end_key, (void *)1);
}

void threads_forget(void) { atomic_store(&thread_count, 1); }
