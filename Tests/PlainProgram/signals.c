// Signals that somebody sends, and calls that they interrupt.
#include "cases.h"

#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

static volatile int count;

static void add_one(int number, siginfo_t *information, void *context) {
  (void)number, (void)information, (void)context;
  count++;
}

static int is_blocked(int number) {
  sigset_t set;
  sigprocmask(SIG_BLOCK, NULL, &set);
  return sigismember(&set, number);
}

static void inner(int number, siginfo_t *information, void *context) {
  (void)information, (void)context;
  say("inner %d: USR1 blocked %d, USR2 blocked %d\n", number, is_blocked(SIGUSR1),
      is_blocked(SIGUSR2));
}

static void outer(int number, siginfo_t *information, void *context) {
  (void)information, (void)context;
  say("outer %d begins\n", number);
  raise(SIGUSR2);
  raise(SIGUSR1);  // waits until this handler has returned
  if (count++ > 0)
    signal(SIGUSR1, SIG_IGN);
  say("outer %d ends\n", number);
}

static void nested(void) {
  handle_with(SIGUSR1, outer, 0);
  handle_with(SIGUSR2, inner, 0);
  raise(SIGUSR1);
  say("after: USR1 blocked %d\n", is_blocked(SIGUSR1));
}

static void say_information(int number, siginfo_t *information, void *context) {
  ucontext_t *saved = context;
  say("signal %d code %d value %d own %d mask %d\n", number, information->si_code,
      information->si_code == SI_QUEUE || information->si_code == SI_TIMER
          ? information->si_value.sival_int
          : 0,
      information->si_code <= 0 && information->si_code != SI_TIMER
          ? information->si_pid == getpid()
          : -1,
      sigismember(&saved->uc_sigmask, SIGUSR2));
  count++;
}

static void say_child(int number, siginfo_t *information, void *context) {
  (void)context;
  say("child: %d code %d status %d\n", number, information->si_code, information->si_status);
  count++;
}

static void information(void) {
  handle_with(SIGUSR1, say_information, 0);
  handle_with(SIGRTMIN, say_information, 0);
  raise(SIGUSR1);
  kill(getpid(), SIGUSR1);
  sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 42});
  mask_one(SIG_BLOCK, SIGRTMIN);
  mask_one(SIG_BLOCK, SIGUSR2);
  for (int i = 1; i <= 3; i++)  // queued, and delivered in order
    sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = i});
  mask_one(SIG_UNBLOCK, SIGRTMIN);
  timer_t timer;
  struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
  event.sigev_value.sival_int = 7;
  timer_create(CLOCK_MONOTONIC, &event, &timer);
  const struct itimerspec soon = {.it_value = {.tv_nsec = 1000000}};
  count = 0;
  timer_settime(timer, 0, &soon, NULL);
  while (count == 0)
    ;
  timer_delete(timer);
}

static void children(void) {
  handle_with(SIGCHLD, say_child, 0);
  for (int kind = 0; kind < 2; kind++) {
    count = 0;
    pid_t child = fork();
    if (child == 0 && kind == 0)
      _exit(3);
    if (child == 0)
      raise(SIGKILL);
    while (count == 0)
      usleep(100);
    say_end("child", child);
  }
}

// Alternate stacks

static char *stack;
#define STACK_BYTES 65536

static void say_stack(const char *when) {
  stack_t now;
  sigaltstack(NULL, &now);
  char here;
  say("%s: flags %d size %zu, on it %d\n", when, now.ss_flags, now.ss_size,
      &here >= stack && &here < stack + STACK_BYTES);
}

static void on_inner_stack(int number, siginfo_t *information, void *context) {
  (void)number, (void)information, (void)context;
  say_stack("inner");
}

static void on_stack(int number, siginfo_t *information, void *context) {
  (void)number, (void)information;
  ucontext_t *saved = context;
  say_stack("handler");
  say("in the frame: %d %zu\n", saved->uc_stack.ss_flags, saved->uc_stack.ss_size);
  const stack_t none = {.ss_flags = SS_DISABLE};
  int result = sigaltstack(&none, NULL);
  say("changing it: %d\n", result == 0 ? 0 : errno);
  raise(SIGUSR2);
}

static void on_alternate_stack(int flags) {
  stack = memory(STACK_BYTES);
  const stack_t wanted = {.ss_sp = stack, .ss_size = STACK_BYTES, .ss_flags = flags};
  say("set: %d\n", sigaltstack(&wanted, NULL));
  handle_with(SIGUSR1, on_stack, SA_ONSTACK);
  handle_with(SIGUSR2, on_inner_stack, SA_ONSTACK);
  say_stack("before");
  raise(SIGUSR1);
  say_stack("after");
  raise(SIGUSR2);
}

static void alternate_stack(void) { on_alternate_stack(0); }
static void auto_disarm(void) { on_alternate_stack((int)(1u << 31)); }  // SS_AUTODISARM

static void small_stack(void) {
  const stack_t wanted = {.ss_sp = memory(4096), .ss_size = 1024};
  say("result %d\n", sigaltstack(&wanted, NULL) == 0 ? 0 : errno);
}

static uintptr_t frame;  // of the interrupted function

static void say_distance(int number, siginfo_t *information, void *context) {
  (void)number, (void)information, (void)context;
  char here;
  say("on the same stack %d\n", frame - (uintptr_t)&here < 1 << 16);
}

// A handler that wants an alternate stack where there is none.
static void no_alternate_stack(void) {
  const stack_t none = {.ss_flags = SS_DISABLE};
  sigaltstack(&none, NULL);
  handle_with(SIGUSR1, on_inner_stack, SA_ONSTACK);
  raise(SIGUSR1);
  char here;
  frame = (uintptr_t)&here;
  handle_with(SIGUSR2, say_distance, SA_ONSTACK);
  raise(SIGUSR2);
}

// Calls that a signal interrupts. After three of them a thread lets the call end, if it was begun
// again. It wakes the futex as often as it takes and leaves its word alone: a call that begins
// again after the word was changed would not wait.

static void every(long microseconds) {
  const struct timeval time = {.tv_usec = microseconds};
  const struct itimerval interval = {time, time};
  setitimer(ITIMER_REAL, &interval, NULL);
}

static int ends[2];
static uint32_t word;
static volatile sig_atomic_t has_ended;

static void *end_later(void *child) {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, NULL);
  while (count < 3)
    usleep(1000);
  (void)!write(ends[1], "x", 1);
  kill(*(pid_t *)child, SIGKILL);
  while (!has_ended && syscall(SYS_futex, &word, FUTEX_WAKE, 1, NULL, NULL, 0) == 0)
    usleep(1000);
  return NULL;
}

static long call_read(void) {
  char byte;
  return read(ends[0], &byte, 1);
}
static long call_receive(void) {
  char byte;
  return recv(ends[0], &byte, 1, 0);
}
static long call_receive_for_a_time(void) {
  const struct timeval time = {.tv_sec = 60};
  setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
  return call_receive();
}
static long call_poll(void) {
  struct pollfd one = {.fd = ends[0], .events = POLLIN};
  return poll(&one, 1, 60000);
}
static long call_select(void) {
  fd_set set;
  FD_ZERO(&set);
  FD_SET(ends[0], &set);
  return select(ends[0] + 1, &set, NULL, NULL, NULL);
}
static long call_epoll(void) {
  int set = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN};
  epoll_ctl(set, EPOLL_CTL_ADD, ends[0], &event);
  return epoll_wait(set, &event, 1, 60000);
}
static long call_nanosleep(void) {
  const struct timespec time = {.tv_sec = 60};
  struct timespec rest = {0};
  long result = nanosleep(&time, &rest);
  int error = errno;
  say("rest %d\n", rest.tv_sec >= 50 && rest.tv_sec < 60);
  errno = error;
  return result;
}
static long call_futex(void) { return syscall(SYS_futex, &word, FUTEX_WAIT, 0, NULL, NULL, 0); }
static long call_futex_for_a_time(void) {
  const struct timespec time = {.tv_sec = 60};
  return syscall(SYS_futex, &word, FUTEX_WAIT, 0, &time, NULL, 0);
}
static long call_wait(void) { return waitpid(-1, NULL, 0) > 0 ? 1 : -1; }
static long call_pause(void) { return pause(); }

static const struct interrupted {
  const char *name;
  long (*call)(void);
} interrupted_calls[] = {
    {"read", call_read}, {"recv", call_receive}, {"recv with a timeout", call_receive_for_a_time},
    {"poll", call_poll}, {"select", call_select}, {"epoll_wait", call_epoll},
    {"nanosleep", call_nanosleep}, {"futex", call_futex},
    {"futex with a timeout", call_futex_for_a_time}, {"wait", call_wait}, {"pause", call_pause},
};

static void interrupt_calls(int flags) {
  handle_with(SIGALRM, add_one, flags);
  for (size_t i = 0; i < sizeof interrupted_calls / sizeof interrupted_calls[0]; i++) {
    socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
    has_ended = 0, count = 0;
    pid_t child = fork();
    if (child == 0)
      for (;;)
        pause();
    pthread_t thread;
    pthread_create(&thread, NULL, end_later, &child);
    const struct itimerval interval = {{.tv_usec = 200000}, {.tv_usec = 20000}};
    setitimer(ITIMER_REAL, &interval, NULL);
    long result = interrupted_calls[i].call();
    int error = result < 0 ? errno : 0;
    has_ended = 1;
    say("%s: %ld %s\n", interrupted_calls[i].name, result, error ? strerror(error) : "");
    pthread_join(thread, NULL);
    every(0);
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
      ;
    close(ends[0]), close(ends[1]);
  }
}

static void restart(void) { interrupt_calls(SA_RESTART); }
static void no_restart(void) { interrupt_calls(0); }

// Flags

static void raise_again(int number, siginfo_t *information, void *context) {
  (void)information, (void)context;
  say("enter %d, blocked %d\n", ++count, is_blocked(number));
  if (count < 3)
    raise(number);
  say("leave\n");
}

static void no_defer(void) {
  handle_with(SIGUSR1, raise_again, (int)SA_NODEFER);
  raise(SIGUSR1);
  count = 1;
  handle_with(SIGUSR1, raise_again, 0);
  raise(SIGUSR1);
}

static void reset_hand(void) {
  handle_with(SIGUSR1, add_one, (int)SA_RESETHAND);
  raise(SIGUSR1);
  struct sigaction now;
  sigaction(SIGUSR1, NULL, &now);
  say("called %d, default again %d\n", count, now.sa_handler == SIG_DFL);
  raise(SIGUSR1);
}

static void masks(void) {
  struct sigaction action = {.sa_sigaction = inner, .sa_flags = SA_SIGINFO};
  sigaddset(&action.sa_mask, SIGUSR1);
  sigaction(SIGUSR2, &action, NULL);
  raise(SIGUSR2);
  mask_one(SIG_BLOCK, SIGUSR2);
  raise(SIGUSR2);
  sigset_t set;
  sigpending(&set);
  say("pending %d %d\n", sigismember(&set, SIGUSR2), sigismember(&set, SIGUSR1));
  sigemptyset(&set);
  sigsuspend(&set);
  say("suspended, blocked %d\n", is_blocked(SIGUSR2));
  raise(SIGUSR2);
  struct pollfd none;
  say("ppoll %d\n", ppoll(&none, 0, NULL, &set));
  siginfo_t information;
  raise(SIGUSR2);
  sigaddset(&set, SIGUSR2);
  say("waited %d code %d\n", sigwaitinfo(&set, &information), information.si_code);
  const struct timespec now = {0};
  say("nothing %d\n", sigtimedwait(&set, NULL, &now));
  int descriptor = signalfd(-1, &set, 0);
  raise(SIGUSR2);
  struct signalfd_siginfo read_one;
  long bytes = read(descriptor, &read_one, sizeof read_one);
  say("signalfd %ld %u\n", bytes, read_one.ssi_signo);
}

// Registers and vectors that a handler must not disturb.
static void change_vectors(int number, siginfo_t *information, void *context) {
  (void)number, (void)information, (void)context;
  __asm__ volatile("xorps %%xmm0, %%xmm0; xorps %%xmm7, %%xmm7; xorps %%xmm15, %%xmm15" ::
                       : "xmm0", "xmm7", "xmm15");
  count++;
}

static void vectors(void) {
  handle_with(SIGALRM, change_vectors, SA_RESTART);
  every(1000);
  uint64_t wrong = 0;
  while (count < 50) {
    uint64_t low, high;
    __asm__ volatile("movq %2, %%xmm7; movq %2, %%xmm15; mov $20000, %%ecx; 1: dec %%ecx; jnz 1b;"
                     "movq %%xmm7, %0; movq %%xmm15, %1"
                     : "=r"(low), "=r"(high)
                     : "r"(0x1234567890abcdeful)
                     : "rcx", "xmm7", "xmm15");
    wrong += low != 0x1234567890abcdeful || high != low;
  }
  say("wrong %lu\n", wrong);
}

// Stop and continue

static void wait_for_byte(void) {
  char byte;
  while (read(ends[0], &byte, 1) < 0 && errno == EINTR)
    ;
}

static void stop_and_continue(void) {
  (void)!pipe(ends);
  pid_t child = fork();
  if (child == 0) {
    handle_with(SIGCONT, add_one, 0);
    raise(SIGSTOP);
    wait_for_byte();
    say("handler %d\n", count);
    raise(SIGTSTP);
    wait_for_byte();
    _exit(4);
  }
  for (int i = 0; i < 2; i++) {
    int status;
    waitpid(child, &status, WUNTRACED);
    say("stopped %d by %d\n", WIFSTOPPED(status), WSTOPSIG(status));
    kill(child, SIGCONT);
    waitpid(child, &status, WCONTINUED);
    say("continued %d\n", WIFCONTINUED(status) != 0);
    (void)!write(ends[1], "x", 1);
  }
  say_end("child", child);
}

// A timer that fires as fast as it may must leave the program some time.
static void storm(void) {
  handle_with(SIGALRM, add_one, SA_RESTART);
  every(100);
  volatile uint64_t sum = 0;
  for (uint64_t i = 0; i < 20000000; i++)
    sum += i;
  every(0);
  say("sum %lu, signals %d\n", (uint64_t)sum, count > 0);
}

// The same for a program that makes one call after the other.
static void storm_of_calls(void) {
  handle_with(SIGALRM, add_one, SA_RESTART);
  every(100);
  int wrong = 0;
  (void)!pipe(ends);
  for (int i = 0; i < 100 || count == 0; i++) {
    char byte = (char)i;
    wrong += write(ends[1], &byte, 1) != 1 || read(ends[0], &byte, 1) != 1 || byte != (char)i;
  }
  every(0);
  say("wrong %d, signals %d\n", wrong, count > 0);
}

// Whatever arrives meanwhile, the mask that a call says is the one that was set.
static void mask_under_fire(void) {
  handle_with(SIGALRM, add_one, SA_RESTART);
  every(700);
  int wrong = 0;
  for (int i = 0; i < 3000; i++) {
    sigset_t set, before;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_SETMASK, &set, &before);
    wrong += sigismember(&before, SIGUSR1) || sigismember(&before, SIGTERM);
    sigemptyset(&set);
    sigprocmask(SIG_SETMASK, &set, &before);
    wrong += !sigismember(&before, SIGUSR1) || sigismember(&before, SIGTERM);
  }
  every(0);
  say("wrong %d, signals %d\n", wrong, count > 0);
}

static void *storm_thread(void *target) {
  for (int i = 0; i < 3000; i++)
    pthread_kill(*(pthread_t *)target, SIGUSR1);
  word = 1;
  return NULL;
}

static void storm_from_a_thread(void) {
  handle_with(SIGUSR1, add_one, SA_RESTART);
  pthread_t self = pthread_self(), thread;
  pthread_create(&thread, NULL, storm_thread, &self);
  while (!*(volatile uint32_t *)&word)
    ;
  pthread_join(thread, NULL);
  say("came %d\n", count > 0);
}

const struct plain_case signal_cases[] = {
    {"nested-handlers", nested}, {"signal-information", information},
    {"signals-of-children", children}, {"alternate-stack", alternate_stack},
    {"auto-disarm", auto_disarm}, {"small-alternate-stack", small_stack},
    {"no-alternate-stack", no_alternate_stack}, {"restart", restart}, {"no-restart", no_restart},
    {"no-defer", no_defer}, {"reset-hand", reset_hand}, {"masks", masks},
    {"mask-under-fire", mask_under_fire}, {"vectors", vectors},
    {"stop-and-continue", stop_and_continue}, {"storm", storm},
    {"storm-of-calls", storm_of_calls}, {"storm-from-a-thread", storm_from_a_thread},
    {NULL, NULL},
};
