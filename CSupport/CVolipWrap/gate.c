// The gate: when an epoch may be committed, and who waits for whom.
//
// `state` counts the threads that are not at a safe point (a system call in which they wait,
// holding no lock), and says whether the gate is closed:
//
//     begin_wait   count - 1; if an epoch is due the gate is closed first (rule 10)
//     end_wait     gate open: count + 1, and on. Closed: stops here until it opens
//     count 0 and closed   the thread that made it so commits the epoch, and opens the gate
//
// So an epoch needs no thread of its own and no signal. What waiting threads cannot do is done by a
// clock thread: an epoch that becomes due while all of them wait, and giving up on a thread that
// computes on: then the gate opens again, the epoch is skipped and counted, and the next is due
// later and later.
//
// Invariants
// 1. While COMMITTING is set the count is 0 and stays 0: no code of the program runs.
// 2. Only who set COMMITTING clears it.
#define _GNU_SOURCE
#include "internal.h"

#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>

#define CLOSED 0x80000000u
#define COMMITTING 0x40000000u
#define COUNT(state) ((state) & 0x3fffffffu)

// Microseconds.
#define SKIP_TIME 10000      // a closed gate waits for a thread that computes
#define SKIP_PAUSE_MAX 1000000
#define CLOCK_TIME 1000      // output that the kernel does not take is tried again
#define LAST_TIME 1000000    // the last epoch waits for a safe point

#define SILENCE_TIME 5000000 // without an epoch, before a line says so
#define SILENCE_PAUSE 60000000

_Atomic bool gate_is_used;
static _Atomic uint32_t state = 1;  // the first thread runs
static _Atomic uint32_t turn;       // raised when the gate opens: a futex
static _Atomic uint32_t stopped;    // threads at the closed gate
static _Atomic uint64_t closed_at;
static _Atomic uint64_t due_at;     // microseconds
static _Atomic uint64_t calls_left; // with `calls` set
static _Atomic bool has_run;        // somebody ran since the last epoch
static _Atomic bool is_hurried;
static _Atomic uint32_t is_awake;   // the clock: a futex
static _Atomic uint32_t calls;      // of the clock, which may sleep until an epoch is due: a futex
static _Atomic uint64_t epochs;
static _Atomic uint64_t skips_in_a_row;
static _Atomic uint64_t complain_from;  // when a line is due that says that no epoch is
static _Atomic bool is_started;     // the clock
static pthread_t clock_thread;

static struct {
  uint64_t period;  // microseconds; 0: at each wait
  uint64_t calls;
} every = {1000, 0};

static long futex(_Atomic uint32_t *word, int operation, uint32_t value, uint64_t microseconds) {
  struct timespec limit = {(time_t)(microseconds / 1000000),
                           (long)(microseconds % 1000000) * 1000};
  int saved = errno;
  long result = REAL(syscall)(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value,
                              microseconds != 0 ? &limit : NULL, NULL, 0);
  long error = result < 0 ? -errno : result;
  errno = saved;
  return error;
}

static void read_option(void) {
  const char *text = getenv("VOLIP_COMMIT_EVERY");
  if (text == NULL)
    return;
  unsigned long long number = strtoull(text, NULL, 10);
  every.calls = strstr(text, "calls") != NULL ? number : 0;
  every.period = every.calls != 0 ? 0 : number;
}

static bool is_due(void) {
  if (atomic_load_explicit(&is_hurried, memory_order_relaxed))
    return true;
  if (every.calls != 0) {
    if (atomic_fetch_sub(&calls_left, 1) > 1)
      return false;
    atomic_store(&calls_left, every.calls);
    return true;
  }
  return every.period == 0 || wrap_now() >= atomic_load(&due_at);
}

// What is left when the last thread has begun to wait, and nobody will count any more.
static uint64_t clock_period(void) { return every.period != 0 ? every.period : 1000; }

// No epoch for long: nobody else would say so.
static void complain(uint64_t now) {
  uint64_t from = atomic_load(&complain_from);
  if (from == 0 || now < from || !atomic_compare_exchange_strong(&complain_from, &from,
                                                                 now + SILENCE_PAUSE))
    return;
  wrap_say("no epoch is committed: for seconds some thread has computed, or waited with a lock or "
           "in a call that is no safe point%s",
           output_is_held ? "; held output waits" : "");
}

static void wake_stopped(void) {
  atomic_fetch_add(&turn, 1);
  if (atomic_load(&stopped) > 0)
    futex(&turn, FUTEX_WAKE, INT_MAX, 0);
}

// By who has committed.
static void open_gate(void) {
  atomic_fetch_and(&state, ~(CLOSED | COMMITTING));
  wake_stopped();
}

// By who gives up; false if somebody commits meanwhile: then it is open soon.
static bool open_uncommitted(void) {
  uint32_t before = atomic_load(&state);
  do {
    if (before & COMMITTING)
      return false;
  } while (!atomic_compare_exchange_weak(&state, &before, before & ~CLOSED));
  wake_stopped();
  return true;
}

static void wake_clock(void) {
  if (!atomic_exchange(&is_awake, 1))
    futex(&is_awake, FUTEX_WAKE, 1, 0);
}

// The clock is to try again what the kernel did not take.
static void call_clock(void) {
  atomic_fetch_add(&calls, 1);
  futex(&calls, FUTEX_WAKE, 1, 0);
  wake_clock();
}

// With the gate closed and nobody running. Its pages are in the log when the gate opens.
static void commit(void) {
  uint64_t mark = output_mark();
  atomic_store(&is_hurried, false);
  atomic_store(&has_run, false);
  atomic_store(&skips_in_a_row, 0);
  files_commit();
  atomic_fetch_add(&epochs, 1);
  atomic_store(&due_at, wrap_now() + clock_period());
  atomic_store(&complain_from, 0);
  open_gate();
  output_release(mark);
  if (output_waits())
    call_clock();
}

static bool try_commit(void) {
  uint32_t expected = CLOSED;
  if (!atomic_compare_exchange_strong(&state, &expected, CLOSED | COMMITTING))
    return false;
  commit();
  return true;
}

static void close_gate(void) {
  if (!(atomic_fetch_or(&state, CLOSED) & CLOSED))
    atomic_store(&closed_at, wrap_now());
}

// A thread computes on. The next epoch is due later and later, so that the others get on.
static void skip(void) {
  uint32_t before = atomic_load(&state);
  do {
    if (!(before & CLOSED) || (before & COMMITTING) || COUNT(before) == 0)
      return;
  } while (!atomic_compare_exchange_weak(&state, &before, before & ~CLOSED));
  statistics_note_skip();
  uint64_t row = atomic_fetch_add(&skips_in_a_row, 1);
  if (row == 0)
    atomic_store(&complain_from, wrap_now() + SILENCE_TIME);
  complain(wrap_now());
  uint64_t pause = SKIP_TIME << (row < 7 ? row : 7);
  if (pause > SKIP_PAUSE_MAX)
    pause = SKIP_PAUSE_MAX;
  atomic_store(&due_at, wrap_now() + (pause > every.period ? pause : every.period));
  wake_stopped();
}

// Whoever waits at the gate gives up for all after the bound.
static void wait_for_turn(void) {
  atomic_fetch_add(&stopped, 1);
  uint32_t now = atomic_load(&turn);
  uint32_t seen = atomic_load(&state);
  if (seen == CLOSED) {  // all others wait, and nobody has taken the epoch
    atomic_fetch_sub(&stopped, 1);
    try_commit();
    return;
  }
  if (seen & CLOSED) {
    long result = futex(&turn, FUTEX_WAIT, now, SKIP_TIME);
    if (result == -ETIMEDOUT && wrap_now() - atomic_load(&closed_at) >= SKIP_TIME)
      skip();
  }
  atomic_fetch_sub(&stopped, 1);
}

static void leave_count(void) {
  if (!atomic_load_explicit(&gate_is_used, memory_order_relaxed)) {
    atomic_fetch_sub(&state, 1);
    return;
  }
  bool due = is_due();
  if (due && atomic_load(&has_run))
    close_gate();
  uint32_t before = atomic_fetch_sub(&state, 1);
  if (before == (CLOSED | 1))
    try_commit();
  else if (!atomic_load_explicit(&is_awake, memory_order_relaxed) && atomic_load(&has_run))
    wake_clock();
}

static void enter_count(void) {
  uint32_t before = atomic_load(&state);
  for (;;) {
    if (before & CLOSED) {
      wait_for_turn();
      before = atomic_load(&state);
    } else if (atomic_compare_exchange_weak(&state, &before, before + 1)) {
      break;
    }
  }
  if (!atomic_load_explicit(&has_run, memory_order_relaxed))
    atomic_store(&has_run, true);
}

bool gate_begin_wait(int released) {
  struct wrap_thread *self = &wrap_self;
  if (self->inside != 0 || !self->is_counted || self->state == WAITING || wrap_is_busy(released))
    return false;
  int saved = errno;
  wrap_enter();
  self->state = WAITING;
  leave_count();
  wrap_leave();
  errno = saved;
  return true;
}

void gate_end_wait(void) {
  struct wrap_thread *self = &wrap_self;
  if (self->state != WAITING || self->inside != 0)
    return;
  int saved = errno;
  wrap_enter();
  enter_count();
  self->state = RUNNING;
  wrap_leave();
  errno = saved;
}

bool gate_try_end_wait(void) {
  struct wrap_thread *self = &wrap_self;
  uint32_t before = atomic_load(&state);
  while (!(before & CLOSED))
    if (atomic_compare_exchange_weak(&state, &before, before + 1)) {
      if (!atomic_load_explicit(&has_run, memory_order_relaxed))
        atomic_store(&has_run, true);
      self->state = RUNNING;
      return true;
    }
  return self->state != WAITING;
}

void gate_thread_never_began(void) { atomic_fetch_sub(&state, 1); }

void gate_thread_begins(void) { atomic_fetch_add(&state, 1); }

void gate_thread_ends(void) {
  if (wrap_self.state == RUNNING) {
    wrap_enter();
    leave_count();
    wrap_leave();
  }
}

void gate_forget(void) {
  atomic_store(&state, 1);
  atomic_store(&gate_is_used, false);
  atomic_store(&is_started, false);
  atomic_store(&is_awake, 0);
  atomic_store(&is_hurried, false);
  atomic_store(&stopped, 0);
}

void gate_hurry(void) { atomic_store(&is_hurried, true); }

bool gate_commit_last(void) {
  if (!atomic_load(&gate_is_used) || wrap_self.inside != 0)
    return true;
  wrap_enter();
  bool was_running = wrap_self.is_counted && wrap_self.state == RUNNING;
  uint64_t limit = wrap_now() + LAST_TIME;
  uint64_t before = atomic_load(&epochs);
  bool is_done = false, is_over = false;
  if (was_running)
    atomic_fetch_sub(&state, 1);
  while (!is_done && !is_over) {
    close_gate();
    // While this thread ran no epoch began; so one that is over has what it wrote, whosever it is.
    is_done = try_commit() || (was_running && atomic_load(&epochs) != before);
    if (!is_done)
      REAL(usleep)(100);
    is_over = !is_done && wrap_now() >= limit && open_uncommitted();
  }
  if (was_running)
    enter_count();
  wrap_leave();
  return is_done;
}

// The clock: sleeps until an epoch is due that nobody else has committed.
static void *run_clock(void *unused) {
  (void)unused;
  wrap_self.inside = 1;
  for (;;) {
    // Whoever runs on for long wakes nobody: it looks itself now and then.
    while (!atomic_load(&is_awake))
      if (futex(&is_awake, FUTEX_WAIT, 0, LAST_TIME) == -ETIMEDOUT && atomic_load(&has_run))
        atomic_store(&is_awake, 1);
    uint32_t call = atomic_load(&calls);
    output_drain();
    uint64_t now = wrap_now();
    uint64_t due = atomic_load(&due_at);
    bool waits = output_waits();
    if (due > now || (waits && !atomic_load(&has_run))) {
      bool is_short = waits && (due <= now || due - now > CLOCK_TIME);
      futex(&calls, FUTEX_WAIT, call, is_short ? CLOCK_TIME : due - now);
      continue;
    }
    if (!atomic_load(&has_run)) {
      atomic_store(&is_awake, 0);
      if (atomic_load(&has_run) || output_waits())
        atomic_store(&is_awake, 1);
      continue;
    }
    close_gate();
    if (!try_commit()) {
      uint32_t last = atomic_load(&turn);
      if (atomic_load(&state) & CLOSED)
        futex(&turn, FUTEX_WAIT, last, SKIP_TIME);
      if (wrap_now() - atomic_load(&closed_at) >= SKIP_TIME)
        skip();
    }
  }
  return NULL;
}

void gate_use(void) {
  if (atomic_exchange(&is_started, true))
    return;
  read_option();
  atomic_store(&calls_left, every.calls);
  atomic_store(&due_at, wrap_now() + clock_period());
  atomic_store(&has_run, true);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  if (REAL(pthread_create)(&clock_thread, NULL, run_clock, NULL) != 0)
    wrap_stop("no thread for the clock of epochs");
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  atomic_store(&gate_is_used, true);
}
