// The companion: a host thread that makes system calls for vCPUs, so that they need no exit.
//
// The call stub of a vCPU (entry.S) writes its call into the vCPU's `struct request` and looks at
// the state for a bounded time:
//
//     idle --stub--> requested --companion--> served ------> done or declined --stub--> idle
//                        |                       |
//                        | run loop,             | run loop, which then sleeps
//                        v withdraws             v
//                      idle                   awaited -----> done or declined
//
// A stub that has waited long enough leaves by an exit; the run loop withdraws the request and
// makes the call itself, as it does when the companion declines: because the call depends on the
// thread, would wait, or failed in a way that sends a signal to the thread that makes it (`way` in
// calls.c). A call in which the companion is stuck all the same is interrupted by a kick and
// declined.
//
// Who runs when. The companion takes requests only while `companion.open` is set, and sleeps after
// a short time without any. Run loops wake it when calls come thick and fast, and leave it alone
// for a while when requests had to be withdrawn: then it has no processor of its own, and exits
// cost less. A thread that loses its processor again and again changes places with the companion
// (`look_around`). Every word that two threads write is atomic; nobody holds a lock while waiting
// for the other side but `companion.starting`, under which it is started and stopped.
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#ifndef CLONE_VM
#define CLONE_VM 0x100
#define CLONE_FS 0x200
#define CLONE_FILES 0x400
#define CLONE_SIGHAND 0x800
#define CLONE_THREAD 0x10000
#define CLONE_SYSVSEM 0x40000
#define CLONE_SETTLS 0x80000
#define CLONE_PARENT_SETTID 0x100000
#define CLONE_CHILD_CLEARTID 0x200000
#endif

/// Calls by SYSCALL that the companion may make until one leaves, to be seen by rewrite.c.
#define CALL_BUDGET (cvm_machine.call_cpl == 3 ? 64u : INT32_MAX)
#define STACK_BYTES (256ul << 10)
/// Thread-local storage of this library in a thread that has none: zeroes, where it looks for it.
#define LOCAL_BYTES (64ul << 10)

// Times in microseconds.
#define FREQUENT_TIME 50     // in the guest between two calls, for which it is woken
#define STUCK_TIME 2000      // in a call that somebody waits for, before it is kicked
#define FIRST_BAN 1000       // when it does not pay; doubled each time
#define LONGEST_BAN 1000000
#define YIELD_TIME 6         // without a request, before others may have its processor
// Waiting for something that may come soon is worth what going without costs: an exit. It is
// measured, and believed within these bounds.
#define SHORTEST_WAIT 10
#define LONGEST_WAIT 150
#define LOOK_TIME 2500       // between two looks at who shares a processor with whom
#define LONGEST_LOOK 20000  // when changing places does not help
#define OFTEN_TIME 500       // between two times that a thread loses its processor
#define SLICE 100000         // of a processor, in nanoseconds
// Served requests less what withdrawn ones cost, in served ones.
#define CREDIT_MAX 1000
#define WITHDRAWN_COST 3

static struct {
  _Atomic uint32_t open;         // read by stubs: requests are taken
  _Atomic uint32_t calls;        // raised to wake it
  _Atomic int tid;               // 0: there is none; cleared by the kernel at its end
  volatile int kicked;           // to leave its call and decline it
  _Atomic int stopping;
  _Atomic bool is_retired;       // for good
  _Atomic uint64_t banned_until;
  _Atomic uint32_t ban;          // microseconds, of the next one
  _Atomic uint64_t served, declined, withdrawn, woken;  // how often
  _Atomic int credit;            // below 0 it does not pay
  _Atomic uint64_t exit_ticks;   // cost of a call that leaves, at best
  cvm_lock starting;
  char *stack;
} companion;

static uint64_t ticks_per_microsecond, ticks_per_spin;

static uint64_t now(void) {
  uint32_t low, high;
  __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
  return low | (uint64_t)high << 32;
}

static long futex(_Atomic uint32_t *word, int operation, uint32_t value,
                  const struct timespec *limit) {
  return RAW(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, limit);
}

static uint64_t wait_ticks(void) {
  uint64_t ticks = atomic_load(&companion.exit_ticks);
  uint64_t least = SHORTEST_WAIT * ticks_per_microsecond;
  uint64_t most = LONGEST_WAIT * ticks_per_microsecond;
  return ticks < least ? least : ticks > most ? most : ticks;
}

void companion_begin(void) {
  char *stack = companion.stack;
  memset(&companion, 0, sizeof companion);
  companion.stack = stack;
  ticks_per_microsecond = 0;  // calibrate anew
}

// Its own side

static void finish(struct request *request, enum request_state state) {
  if (atomic_exchange(&request->state, state) == REQUEST_AWAITED)
    futex(&request->state, FUTEX_WAKE, 1, 0);
}

static bool serve(struct vcpu *vcpu) {
  struct request *request = vcpu->request;
  uint32_t requested = REQUEST_MADE;
  if (atomic_load_explicit(&request->state, memory_order_relaxed) != REQUEST_MADE ||
      !atomic_compare_exchange_strong(&request->state, &requested, REQUEST_SERVED))
    return false;
  companion.kicked = 0;
  bool is_made = call_for_another(vcpu, request, &companion.kicked);
  finish(request, is_made ? REQUEST_DONE : REQUEST_DECLINED);
  if (is_made && atomic_load(&companion.credit) < CREDIT_MAX)
    atomic_fetch_add(&companion.credit, 1);
  else if (is_made)
    atomic_store(&companion.ban, FIRST_BAN);
  _Atomic uint64_t *count = is_made ? &companion.served : &companion.declined;
  atomic_store_explicit(count, *count + 1, memory_order_relaxed);  // nobody else adds to them
  return true;
}

static bool serve_all(void) {
  bool any = false;
  for (struct vcpu *vcpu = __atomic_load_n(&cvm_machine.first, __ATOMIC_ACQUIRE); vcpu != NULL;
       vcpu = vcpu->next)
    any |= serve(vcpu);
  return any;
}

static void serve_until_idle(uint64_t wait) {
  // Whoever woke it has yet to come back into the guest.
  uint64_t limit = now() + 3 * wait;
  uint64_t yield = now() + YIELD_TIME * ticks_per_microsecond;
  for (uint64_t time; (time = now()) < limit && !atomic_load(&companion.stopping);) {
    if (serve_all()) {
      time = now();
      limit = time + wait;
      yield = time + YIELD_TIME * ticks_per_microsecond;
    } else if (time > yield) {
      RAW(SYS_sched_yield);
      limit += now() - time;  // others had the processor, and may have requests for it from now on
    } else {
      __asm__ volatile("pause");
    }
  }
}

// A short slice: it is not far from running whenever others let it, and they are not when it
// yields.
static void ask_for_short_slices(void) {
  const struct {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
  } wanted = {.size = 48, .nice = (int32_t)(20 - RAW(SYS_getpriority, 0, 0)), .runtime = SLICE};
  RAW(SYS_sched_setattr, 0, &wanted, 0);  // older kernels refuse
}

__attribute__((noreturn)) static void run_companion(void) {
  ask_for_short_slices();
  while (!atomic_load(&companion.stopping)) {
    uint32_t calls = atomic_load(&companion.calls);
    atomic_store(&companion.open, 1);
    serve_until_idle(5 * wait_ticks());
    atomic_store(&companion.open, 0);
    serve_all();  // what was requested meanwhile
    if (!atomic_load(&companion.stopping))
      futex(&companion.calls, FUTEX_WAIT, calls, 0);
  }
  serve_all();
  for (;;)
    RAW(SYS_exit, 0);
}

bool companion_kicked(void) {
  if (RAW(SYS_gettid) != atomic_load(&companion.tid))
    return false;
  companion.kicked = 1;
  return true;
}

// The other side

#define PROCESSOR_WORDS 16  // for 1,024 of them

struct processors {
  uint64_t all[PROCESSOR_WORDS], others[PROCESSOR_WORDS];  // the program's; but this thread's
};

static struct processors processors_now(void) {
  struct processors processors = {.all = {0}};
  uint32_t own = 0;
  RAW(SYS_sched_getaffinity, 0, sizeof processors.all, processors.all);
  RAW(SYS_getcpu, &own, 0, 0);
  memcpy(processors.others, processors.all, sizeof processors.all);
  if (own < 64 * PROCESSOR_WORDS)
    processors.others[own / 64] &= ~(1ul << own % 64);
  return processors;
}

static bool place(const uint64_t *processors) {
  int tid = atomic_load(&companion.tid);
  if (tid == 0)  // that would be this thread
    return true;
  return RAW(SYS_sched_setaffinity, tid, PROCESSOR_WORDS * sizeof *processors, processors) == 0;
}

// To any processor of the program's but the one that this thread runs on: a scheduler that finds
// all of them busy leaves both on one, where each waits for the other.
static bool place_elsewhere(void) { return place(processors_now().others); }

static void change_places(void) {
  struct processors processors = processors_now();
  if (RAW(SYS_sched_setaffinity, 0, sizeof processors.others, processors.others) != 0)
    return;  // one processor
  place_elsewhere();
  RAW(SYS_sched_setaffinity, 0, sizeof processors.all, processors.all);
}

// Where all processors are busy, whoever a call wakes runs where it ran last. On the companion's
// processor that costs a switch. On the vCPU's it throws the guest out, which costs more than an
// exit, for each wake-up, while the companion has a processor to itself.
static void look_around(struct vcpu *vcpu, uint64_t time) {
  uint64_t elapsed = (time - vcpu->last_look) / ticks_per_microsecond;
  if (elapsed < vcpu->look_time)
    return;
  struct rusage usage = {.ru_nivcsw = 0};
  RAW(SYS_getrusage, RUSAGE_THREAD, &usage);
  uint64_t lost = (uint64_t)(usage.ru_nivcsw - vcpu->processor_lost);
  bool is_often = lost * OFTEN_TIME > elapsed && atomic_load(&companion.open);
  vcpu->last_look = time;
  vcpu->processor_lost = usage.ru_nivcsw;
  vcpu->look_time = !is_often ? LOOK_TIME
                    : vcpu->look_time < LONGEST_LOOK ? 2 * vcpu->look_time : LONGEST_LOOK;
  if (is_often)
    change_places();
}

// With all signals blocked, as they shall be in it: clone hands the mask on.
static void start(void) {
  if (companion.stack == NULL) {
    long stack = RAW(SYS_mmap, 0, STACK_BYTES + LOCAL_BYTES, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack < 0)
      return;
    companion.stack = (char *)stack;
  }
  uint64_t mask = signals_block_all();
  const uint64_t kick_only = ~(1ul << (KICK_SIGNAL - 1));
  RAW(SYS_rt_sigprocmask, SIG_SETMASK, &kick_only, 0, sizeof kick_only);
  atomic_store(&companion.stopping, 0);
  char *top = companion.stack + STACK_BYTES;
  uint64_t *local = (uint64_t *)(top + LOCAL_BYTES - PAGE_BYTES);
  local[0] = (uint64_t)local;
  // FUTEX_WAKE at the end goes to `tid`, as CLONE_CHILD_CLEARTID does.
  cvm_raw_companion(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
                        CLONE_SYSVSEM | CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID,
                    top, &companion.tid, local, run_companion);
  signals_set_mask(mask);
}

static void wake(void) {
  if (atomic_load(&companion.is_retired))
    return;
  atomic_fetch_add(&companion.woken, 1);
  lock(&companion.starting);
  if (atomic_load(&companion.tid) == 0 && !atomic_load(&companion.is_retired))
    start();
  unlock(&companion.starting);
  if (!place_elsewhere() && cvm_machine.options.calls == CVM_CALLS_AUTO)
    atomic_store(&companion.is_retired, true);  // one processor
  atomic_fetch_add(&companion.calls, 1);
  futex(&companion.calls, FUTEX_WAKE, 1, 0);
}

/// How many looks of a stub at its request's state take so long.
static uint32_t spins_for(uint64_t ticks) { return (uint32_t)(ticks / ticks_per_spin) + 1; }

static bool may_be_requested(long number) {
  return number >= 0 && number < CALL_NUMBERS && call_may_be_requested[number];
}

void companion_call_left(struct vcpu *vcpu, long number) {
  if (cvm_machine.options.calls == CVM_CALLS_EXIT || !may_be_requested(number))
    return;
  uint64_t time = now();
  uint64_t gap = time - vcpu->last_call;
  if (gap < atomic_load(&companion.exit_ticks)) {  // the way into the guest and out, no more
    atomic_store(&companion.exit_ticks, gap);
    vcpu->request->spins = spins_for(wait_ticks());
  }
  look_around(vcpu, time);
  uint64_t beyond = gap - atomic_load(&companion.exit_ticks);
  bool is_frequent = (int64_t)beyond < (int64_t)(FREQUENT_TIME * ticks_per_microsecond);
  vcpu->frequent_calls = is_frequent ? vcpu->frequent_calls + 1 : 0;
  // It has to earn trust, once.
  const int few = atomic_load(&companion.credit) > CREDIT_MAX / 2 ? 0 : 4;
  if (vcpu->frequent_calls >= few && !atomic_load(&companion.open) &&
      time >= atomic_load(&companion.banned_until))
    wake();
}

// Nobody served in time: there may be no processor to spare.
static void judge_withdrawn(void) {
  if (cvm_machine.options.calls == CVM_CALLS_COMPANION ||
      atomic_fetch_sub(&companion.credit, WITHDRAWN_COST) >= WITHDRAWN_COST)
    return;
  uint32_t microseconds = atomic_load(&companion.ban);
  atomic_store(&companion.credit, 0);
  atomic_store(&companion.banned_until, now() + microseconds * ticks_per_microsecond);
  if (microseconds < LONGEST_BAN)
    atomic_store(&companion.ban, 2 * microseconds);
  atomic_store(&companion.open, 0);
}

static void await(struct request *request) {
  uint32_t served = REQUEST_SERVED;
  const uint64_t patience = now() + SHORTEST_WAIT * ticks_per_microsecond;
  while (now() < patience)
    if (atomic_load(&request->state) >= REQUEST_DONE)
      return;
  if (!atomic_compare_exchange_strong(&request->state, &served, REQUEST_AWAITED))
    return;
  const struct timespec limit = {.tv_nsec = STUCK_TIME * 1000};
  while (atomic_load(&request->state) == REQUEST_AWAITED) {
    long result = futex(&request->state, FUTEX_WAIT, REQUEST_AWAITED, &limit);
    if (result == -ETIMEDOUT || result == -EINTR)
      RAW(SYS_tgkill, RAW(SYS_getpid), atomic_load(&companion.tid), KICK_SIGNAL);
  }
}

enum request_state companion_settle(struct vcpu *vcpu) {
  struct request *request = vcpu->request;
  uint32_t requested = REQUEST_MADE;
  if (atomic_compare_exchange_strong(&request->state, &requested, REQUEST_IDLE)) {
    atomic_fetch_add(&companion.withdrawn, 1);
    judge_withdrawn();
    place_elsewhere();
    return REQUEST_IDLE;
  }
  if (requested == REQUEST_SERVED)
    await(request);
  return atomic_exchange(&request->state, REQUEST_IDLE);
}

static void ask_to_stop(void) {
  atomic_store(&companion.stopping, 1);
  atomic_store(&companion.open, 0);
  atomic_fetch_add(&companion.calls, 1);
  futex(&companion.calls, FUTEX_WAKE, 1, 0);
}

void companion_call_returns(struct vcpu *vcpu) {
  vcpu->last_call = now();
  vcpu->request->budget = CALL_BUDGET;
}

void companion_part(bool for_good) {
  if (for_good || atomic_load(&cvm_machine.thread_count) > 1)
    atomic_store(&companion.is_retired, true);
  lock(&companion.starting);
  ask_to_stop();
  for (int tid; (tid = atomic_load(&companion.tid)) != 0;) {
    // The kernel's wake-up at a thread's end is not a private one.
    const struct timespec limit = {.tv_nsec = STUCK_TIME * 1000};
    if (RAW(SYS_futex, &companion.tid, FUTEX_WAIT, tid, &limit) == -ETIMEDOUT)
      RAW(SYS_tgkill, RAW(SYS_getpid), tid, KICK_SIGNAL);
  }
  unlock(&companion.starting);
}

void companion_avoid(struct vcpu *vcpu, bool avoids) {
  static _Atomic uint32_t never;
  vcpu->request->open = (uint64_t)(avoids ? &never : &companion.open);
}

void companion_report(void) {
  const struct {
    const char *name;
    uint64_t count;
  } counts[] = {{"exits ", cvm_all_exits()},
                {", calls without exit ", companion.served},
                {", declined ", companion.declined},
                {", withdrawn ", companion.withdrawn},
                {", companion woken ", companion.woken}};
  struct line line = {.length = 0};
  line_text(&line, "volip[");
  line_number(&line, RAW(SYS_getpid));
  line_text(&line, "] ");
  for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
    line_text(&line, counts[i].name);
    line_number(&line, (long)counts[i].count);
  }
  line_write(&line);
}

uint64_t companion_served(void) { return atomic_load(&companion.served); }

static void calibrate(const struct vcpu *vcpu) {
  long kilohertz = vcpu_ioctl(vcpu, KVM_GET_TSC_KHZ, 0);
  ticks_per_microsecond = kilohertz > 0 ? (uint64_t)kilohertz / 1000 : 2000;
  const uint32_t sample = 200;
  uint64_t start = now();
  for (uint32_t i = 0; i < sample; i++)
    __asm__ volatile("pause");
  ticks_per_spin = (now() - start) / sample + 1;
  atomic_store(&companion.exit_ticks, LONGEST_WAIT * ticks_per_microsecond);
  atomic_store(&companion.ban, FIRST_BAN);
}

void companion_prepare(struct vcpu *vcpu) {
  if (ticks_per_microsecond == 0)
    calibrate(vcpu);
  struct request *request = vcpu->request;
  request->open = (uint64_t)&companion.open;
  request->may = (uint64_t)call_may_be_requested;
  request->leave = cvm_machine.call_leave;
  request->direct = (uint64_t)vcpu->call_stub + (uint64_t)(cvm_call_stub_direct - cvm_call_stub);
  request->spins = spins_for(wait_ticks());
  request->budget = CALL_BUDGET;
  atomic_store(&request->state, REQUEST_IDLE);
  vcpu->last_call = 0;
  vcpu->frequent_calls = 0;
  vcpu->last_look = 0;
  vcpu->look_time = LOOK_TIME;
  vcpu->processor_lost = 0;
}
