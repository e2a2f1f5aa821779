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

struct beginning_c11 {
  int (*function)(void *);
  void *argument;
};

static int begin_c11(void *pointer) {
  struct beginning_c11 beginning = *(struct beginning_c11 *)pointer;
  free(pointer);
  wrap_self.is_counted = true;
  pthread_setspecific(end_key, (void *)1);
  return beginning.function(beginning.argument);
}

EXPORTED int thrd_create(thrd_t *thread, thrd_start_t function, void *argument) {
  if (wrap_self.inside != 0)
    return REAL(thrd_create)(thread, function, argument);
  struct beginning_c11 *beginning = malloc(sizeof *beginning);
  if (beginning == NULL)
    return thrd_nomem;
  *beginning = (struct beginning_c11){function, argument};
  gate_thread_begins();
  atomic_fetch_add(&thread_count, 1);
  int result = REAL(thrd_create)(thread, begin_c11, beginning);
  if (result != thrd_success) {
    atomic_fetch_sub(&thread_count, 1);
    gate_thread_never_began();
    free(beginning);
  }
  return result;
}

EXPORTED int thrd_join(thrd_t thread, int *result) {
  return WAIT(0, REAL(thrd_join)(thread, result));
}

EXPORTED int thrd_sleep(const struct timespec *time, struct timespec *rest) {
  return WAIT(0, REAL(thrd_sleep)(time, rest));
}

EXPORTED int pthread_join(pthread_t thread, void **result) {
  return WAIT(0, REAL(pthread_join)(thread, result));
}

EXPORTED int pthread_timedjoin_np(pthread_t thread, void **result, const struct timespec *limit) {
  return WAIT(0, REAL(pthread_timedjoin_np)(thread, result, limit));
}

// Threads that the C library begins by itself are not counted: an epoch would cut what they do.
EXPORTED int timer_create(clockid_t clock, struct sigevent *restrict event,
                          timer_t *restrict timer) {
  if (wrap_self.inside != 0 || event == NULL || event->sigev_notify != SIGEV_THREAD)
    return REAL(timer_create)(clock, event, timer);
  wrap_say("a timer with a thread of its own (SIGEV_THREAD) is refused");
  return errno = ENOTSUP, -1;
}

EXPORTED int mq_notify(mqd_t queue, const struct sigevent *event) {
  if (wrap_self.inside != 0 || event == NULL || event->sigev_notify != SIGEV_THREAD)
    return REAL(mq_notify)(queue, event);
  wrap_say("mq_notify with a thread of its own (SIGEV_THREAD) is refused");
  return errno = ENOTSUP, -1;
}

// Their calls would pass wrapped files and held output by.
static int refuse_aio(void) {
  wrap_say("asynchronous input and output (aio) is refused");
  return errno = ENOSYS, -1;
}
EXPORTED int aio_read(struct aiocb *request) { return (void)request, refuse_aio(); }
EXPORTED int aio_write(struct aiocb *request) { return (void)request, refuse_aio(); }
EXPORTED int lio_listio(int mode, struct aiocb *const *requests, int count,
                        struct sigevent *event) {
  return (void)mode, (void)requests, (void)count, (void)event, refuse_aio();
}
int aio_read64(struct aiocb64 *request) ALIAS(aio_read);
int aio_write64(struct aiocb64 *request) ALIAS(aio_write);
int lio_listio64(int mode, struct aiocb64 *const *requests, int count, struct sigevent *event)
    ALIAS(lio_listio);

void threads_start(void) {
  wrap_self.is_counted = true;
  if (pthread_key_create(&end_key, thread_ends) != 0)
    wrap_stop("no thread-specific key is left");
  pthread_setspecific(end_key, (void *)1);
}

void threads_forget(void) { atomic_store(&thread_count, 1); }
