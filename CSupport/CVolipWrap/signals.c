// Signals: the program's handlers are code of the program, and run where the gate knows of it.
//
// A handler that interrupts a wait makes the thread run: it passes the gate first, and waits again
// afterwards. One that interrupts running code has no safe points: that code may be in the middle
// of a change, or of malloc. One that comes while the thread is inside this library is sent again
// when it leaves.
#define _GNU_SOURCE
#include "internal.h"

#include <string.h>
#include <sys/syscall.h>

static struct sigaction handlers[65];

static bool is_fault(int number, const siginfo_t *information) {
  return information->si_code > 0 && (number == SIGSEGV || number == SIGBUS || number == SIGILL ||
                                      number == SIGFPE || number == SIGTRAP);
}

static void call_handler(int number, siginfo_t *information, void *context) {
  struct sigaction handler = handlers[number];
  if (handler.sa_flags & SA_RESETHAND)
    REAL(sigaction)(number, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
  if (handler.sa_flags & SA_SIGINFO)
    handler.sa_sigaction(number, information, context);
  else if (handler.sa_handler != SIG_DFL && handler.sa_handler != SIG_IGN)
    handler.sa_handler(number);
}

// Who has left a handler by siglongjmp is above its frame.
bool signals_in_handler(void) {
  struct wrap_thread *self = &wrap_self;
  if (self->handler_frame != NULL && (const char *)__builtin_frame_address(0) > self->handler_frame)
    self->handler_frame = NULL;
  return self->handler_frame != NULL;
}

bool wrap_is_busy(int released) { return wrap_self.locks > released || signals_in_handler(); }

static void on_signal(int number, siginfo_t *information, void *context) {
  struct wrap_thread *self = &wrap_self;
  if (self->inside != 0 && !is_fault(number, information)) {
    const int room = sizeof self->late_information / sizeof self->late_information[0];
    if (self->late_count < room)
      self->late_information[self->late_count++] = *information;
    self->late |= 1ul << (number - 1);
    return;
  }
  int saved = errno;
  bool was_waiting = self->state == WAITING && self->inside == 0;
  if (was_waiting)
    gate_end_wait();
  bool is_first = !was_waiting && !signals_in_handler();
  if (is_first)
    self->handler_frame = __builtin_frame_address(0);
  errno = saved;
  call_handler(number, information, context);
  saved = errno;
  if (is_first)
    self->handler_frame = NULL;
  if (was_waiting && self->state == RUNNING)
    gate_begin_wait(self->locks);
  errno = saved;
}

void signals_send_late(void) {
  struct wrap_thread *self = &wrap_self;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int count = self->late_count;
  siginfo_t information[4];
  memcpy(information, self->late_information, sizeof information);
  uint64_t rest = self->late;
  self->late = 0;
  self->late_count = 0;
  int saved = errno;
  for (int i = 0; i < count; i++) {
    REAL(syscall)(SYS_rt_tgsigqueueinfo, getpid(), gettid(), information[i].si_signo,
                  &information[i]);
    rest &= ~(1ul << (information[i].si_signo - 1));
  }
  for (int number = 1; number <= 64; number++)
    if (rest >> (number - 1) & 1)
      REAL(syscall)(SYS_tgkill, getpid(), gettid(), number);
  errno = saved;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

EXPORTED int sigaction(int number, const struct sigaction *restrict action,
                       struct sigaction *restrict before) {
  if (wrap_self.inside != 0 || number < 1 || number > 64)
    return REAL(sigaction)(number, action, before);
  struct sigaction ours, old;
  struct sigaction handler_before = handlers[number];
  bool has_handler = action != NULL && ((action->sa_flags & SA_SIGINFO) != 0 ||
                                        (action->sa_handler != SIG_DFL &&
                                         action->sa_handler != SIG_IGN));
  if (action != NULL) {
    ours = *action;
    if (has_handler) {
      handlers[number] = *action;
      ours.sa_sigaction = on_signal;
      ours.sa_flags |= SA_SIGINFO;
      ours.sa_flags &= ~(int)SA_RESETHAND;  // when it runs, not when it comes
    }
  }
  int result = REAL(sigaction)(number, action != NULL ? &ours : NULL, &old);
  if (result != 0)
    return result;
  if (before != NULL)
    *before = (old.sa_flags & SA_SIGINFO) != 0 && old.sa_sigaction == on_signal ? handler_before
                                                                                 : old;
  return 0;
}

EXPORTED sighandler_t signal(int number, sighandler_t handler) {
  struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART}, before;
  sigemptyset(&action.sa_mask);
  sigaddset(&action.sa_mask, number);
  return sigaction(number, &action, &before) == 0 ? before.sa_handler : SIG_ERR;
}

static void print_statistics(int number, siginfo_t *information, void *context) {
  (void)number, (void)information, (void)context;
  int saved = errno;
  statistics_print(STDERR_FILENO);
  errno = saved;
}

// Until the program wants the signal for itself.
void signals_start(void) {
  const struct sigaction action = {.sa_sigaction = print_statistics,
                                   .sa_flags = SA_SIGINFO | SA_RESTART};
  REAL(sigaction)(SIGUSR2, &action, NULL);
}
