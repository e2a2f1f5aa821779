// The SIGSEGV handler that gives write permission back, and its list of written pages.
//
// Invariants
// 1. The handler allocates nothing, takes no lock and calls no library function: raw system calls
//    only. It may run on any thread, on two at once, and for the same page.
// 2. A page is in the list once for each time that its state went from protected to writable.
// 3. The list is complete once cvw_trap_region_open(false) has returned: it waits for the handlers
//    that saw the section open, so that none of them grants a page after the list was taken.
// 4. A signal that is not about a watched, writable-on-demand page reaches the program's own
//    handler with its mask and flags, or the default action.
#define _GNU_SOURCE
#include "CVolipWriteSet.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define PAGE_SHIFT 12
#define PAGE_BYTES ((size_t)1 << PAGE_SHIFT)
// More pools than one process opens at once; the handler looks through all of them.
#define REGIONS_MAX 64
// Each lone writable page takes two mappings of the 65,530 that a process usually has. From this
// many writable pages on, runs of pages are granted, so that at most half of them are taken.
#define LONE_PAGES_MAX 16000
#define GRANT_RUN_PAGES 64

struct cvw_trap_region {
  _Atomic(uintptr_t) base;  // 0: the slot is free
  size_t page_count;
  _Atomic size_t page_limit;
  _Atomic bool open;
  _Atomic bool guard_only;
  _Atomic size_t handlers;  // running between their look at `open` and the grant
  _Atomic uint8_t *page_states;  // one byte a page, cvw_page_state
  uint32_t *written_pages;       // room for every page
  _Atomic size_t written_count;
};

static struct cvw_trap_region regions[REGIONS_MAX];
static struct sigaction program_action;
// Where the kernel's own call of a handler returns to.
static void *kernel_return;
static pthread_mutex_t install_lock = PTHREAD_MUTEX_INITIALIZER;  // leaf: held over no call out

static long raw_call(long number, long a, long b, long c, long d) {
  long result;
  register long r10 __asm__("r10") = d;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
                   : "rcx", "r11", "memory");
  return result;
}

static void *reserve(size_t byte_count) {
  void *memory = mmap(NULL, byte_count, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? NULL : memory;
}

struct cvw_trap_region *cvw_trap_region_create(void *base, size_t page_count) {
  uint8_t *states = reserve(page_count);
  uint32_t *pages = reserve(page_count * sizeof(uint32_t));
  struct cvw_trap_region *region = NULL;
  pthread_mutex_lock(&install_lock);
  for (size_t i = 0; states && pages && !region && i < REGIONS_MAX; i++)
    if (atomic_load(&regions[i].base) == 0)
      region = &regions[i];
  if (region) {
    region->page_count = page_count;
    region->page_states = (_Atomic uint8_t *)states;
    region->written_pages = pages;
    atomic_store(&region->written_count, 0);
    atomic_store(&region->page_limit, 0);
    atomic_store(&region->open, false);
    atomic_store(&region->guard_only, false);
    atomic_store(&region->base, (uintptr_t)base);  // last: from here the handler sees the slot
  } else {
    if (states)
      munmap(states, page_count);
    if (pages)
      munmap(pages, page_count * sizeof(uint32_t));
  }
  pthread_mutex_unlock(&install_lock);
  return region;
}

void cvw_trap_region_destroy(struct cvw_trap_region *region) {
  pthread_mutex_lock(&install_lock);
  munmap((void *)region->page_states, region->page_count);
  munmap(region->written_pages, region->page_count * sizeof(uint32_t));
  atomic_store(&region->base, 0);
  pthread_mutex_unlock(&install_lock);
}

void cvw_trap_region_limit(struct cvw_trap_region *region, size_t page_limit) {
  atomic_store(&region->page_limit, page_limit);
}

// Sequentially consistent on both sides: either the handler sees the section closed, or this
// thread sees the handler.
void cvw_trap_region_open(struct cvw_trap_region *region, bool open) {
  atomic_store(&region->open, open);
  while (!open && atomic_load(&region->handlers) != 0)
    raw_call(SYS_sched_yield, 0, 0, 0, 0);
}

void cvw_trap_region_guard_only(struct cvw_trap_region *region, bool guard_only) {
  atomic_store(&region->guard_only, guard_only);
}

uint32_t *cvw_trap_region_written(struct cvw_trap_region *region, size_t *count) {
  *count = atomic_load(&region->written_count);
  return region->written_pages;
}

void cvw_trap_region_keep(struct cvw_trap_region *region, const uint32_t *pages, size_t count) {
  memmove(region->written_pages, pages, count * sizeof(uint32_t));
  atomic_store(&region->written_count, count);
}

void cvw_trap_region_forget(struct cvw_trap_region *region, uint32_t page) {
  atomic_store(&region->page_states[page], CVW_PROTECTED);
}

#ifdef VOLIP_LAB
// Grants until the laboratory's kill, in the middle of one; 0 or less: never.
static _Atomic int64_t grants_left;

static void pass_grant(void) {
  if (atomic_load(&grants_left) > 0 && atomic_fetch_sub(&grants_left, 1) == 1)
    raw_call(SYS_kill, raw_call(SYS_getpid, 0, 0, 0, 0), SIGKILL, 0, 0);
}
#else
static void pass_grant(void) {
}
#endif

void cvw_trap_kill_at(int64_t number) {
#ifdef VOLIP_LAB
  atomic_store(&grants_left, number);
#else
  (void)number;
#endif
}

static void remember(struct cvw_trap_region *region, size_t page) {
  uint8_t expected = CVW_PROTECTED;
  if (!atomic_compare_exchange_strong(&region->page_states[page], &expected, CVW_WRITABLE))
    return;
  size_t slot = atomic_fetch_add(&region->written_count, 1);
  region->written_pages[slot] = (uint32_t)page;
}

// Remembers first, then grants: a second thread that faults on the page meanwhile comes here too
// and grants again, which changes nothing. Each lone writable page splits a mapping in three; where
// the kernel has no mapping left to give, a wider and wider run of pages becomes writable at once,
// all of them counted as written.
int cvw_trap_region_grant(struct cvw_trap_region *region, uint32_t page) {
  uintptr_t base = atomic_load(&region->base);
  size_t limit = atomic_load(&region->page_limit);
  bool is_crowded = atomic_load(&region->written_count) >= LONE_PAGES_MAX;
  for (size_t span = is_crowded ? GRANT_RUN_PAGES : 1;; span *= 2) {
    size_t first = page & ~(span - 1);
    size_t last = first + span < limit ? first + span : limit;
    for (size_t each = first; each < last; each++)
      remember(region, each);
    pass_grant();
    long result = raw_call(SYS_mprotect, (long)(base + first * PAGE_BYTES),
                           (long)((last - first) * PAGE_BYTES), PROT_READ | PROT_WRITE, 0);
    if (result == 0)
      return 0;
    if (result != -ENOMEM || (first == 0 && last == limit))
      return (int)result;
  }
}

// Text from inside the handler

static size_t append_text(char *line, size_t length, const char *text) {
  while (*text)
    line[length++] = *text++;
  return length;
}

static size_t append_hex(char *line, size_t length, uintptr_t value) {
  length = append_text(line, length, "0x");
  int shift = 60;
  while (shift > 0 && (value >> shift) == 0)
    shift -= 4;
  for (; shift >= 0; shift -= 4)
    line[length++] = "0123456789abcdef"[value >> shift & 15];
  return length;
}

static void report_stray(const struct cvw_trap_region *region, uintptr_t address, bool beyond) {
  char line[256];
  size_t length = append_text(line, 0, "volip: write to pool memory at ");
  length = append_hex(line, length, address);
  length = append_text(line, length, ", pool offset ");
  length = append_hex(line, length, address - atomic_load(&region->base));
  length = append_text(line, length,
                       beyond ? ", beyond the memory that was allocated\n"
                              : ", outside a section (put it between pstart and pend)\n");
  raw_call(SYS_write, 2, (long)line, (long)length, 0);
}

// Handler

static struct cvw_trap_region *region_of(uintptr_t address) {
  for (size_t i = 0; i < REGIONS_MAX; i++) {
    uintptr_t base = atomic_load(&regions[i].base);
    if (base != 0 && address >= base && address - base < regions[i].page_count * PAGE_BYTES)
      return &regions[i];
  }
  return NULL;
}

struct kernel_action {
  void *handler;
  unsigned long flags;
  void *restorer;
  uint64_t mask;
};

// With the default action back in place the same instruction faults again and ends the process as
// it would without us. A signal that somebody sent has no such instruction: it is sent again.
static void end_by_default(int number, const siginfo_t *information) {
  struct kernel_action standard = {0};
  raw_call(SYS_rt_sigaction, number, (long)&standard, 0, 8);
  if (information->si_code <= 0)
    raw_call(SYS_tgkill, raw_call(SYS_getpid, 0, 0, 0, 0), raw_call(SYS_gettid, 0, 0, 0, 0),
             number, 0);
}

static void hand_on(int number, siginfo_t *information, void *context) {
  struct sigaction action = program_action;
  // The kernel does not ignore a fault either.
  if (action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN) {
    end_by_default(number, information);
    return;
  }
  sigset_t mask = action.sa_mask;
  if (!(action.sa_flags & SA_NODEFER))
    sigaddset(&mask, number);
  raw_call(SYS_rt_sigprocmask, SIG_BLOCK, (long)&mask, 0, 8);
  if (action.sa_flags & SA_SIGINFO)
    action.sa_sigaction(number, information, context);
  else
    action.sa_handler(number);
}

__attribute__((noinline)) static void on_fault(int number, siginfo_t *information, void *context) {
  const greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
  bool is_write = (registers[REG_ERR] & 2) != 0;
  uintptr_t address = (uintptr_t)information->si_addr;
  struct cvw_trap_region *region =
      information->si_code == SEGV_ACCERR && is_write ? region_of(address) : NULL;
  if (region) {
    size_t page = (address - atomic_load(&region->base)) >> PAGE_SHIFT;
    bool beyond = page >= atomic_load(&region->page_limit);
    atomic_fetch_add(&region->handlers, 1);
    bool grantable =
        !beyond && !atomic_load(&region->guard_only) && atomic_load(&region->open);
    bool granted = grantable && cvw_trap_region_grant(region, (uint32_t)page) == 0;
    atomic_fetch_sub(&region->handlers, 1);
    if (granted)
      return;
    report_stray(region, address, beyond);
  }
  // Called not by the kernel but by the program's handler, which found ours when it was installed
  // and hands on what is not its own: to hand it back would go round for ever.
  if (__builtin_return_address(0) != kernel_return)
    end_by_default(number, information);
  else
    hand_on(number, information, context);
}

int cvw_trap_handler_install(void) {
  struct sigaction present;
  if (sigaction(SIGSEGV, NULL, &present) != 0)
    return -errno;
  if ((present.sa_flags & SA_SIGINFO) && present.sa_sigaction == on_fault)
    return 0;
  pthread_mutex_lock(&install_lock);
  int result = 0;
  if (sigaction(SIGSEGV, NULL, &present) == 0 &&
      !((present.sa_flags & SA_SIGINFO) && present.sa_sigaction == on_fault)) {
    program_action = present;
    struct sigaction ours;
    memset(&ours, 0, sizeof ours);
    ours.sa_sigaction = on_fault;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigemptyset(&ours.sa_mask);
    result = sigaction(SIGSEGV, &ours, NULL) == 0 ? 0 : -errno;
    struct kernel_action installed = {0};
    raw_call(SYS_rt_sigaction, SIGSEGV, 0, (long)&installed, 8);
    kernel_return = installed.restorer;
  }
  pthread_mutex_unlock(&install_lock);
  return result;
}
