// Pages of a pool that fail: the disk cannot read one, its memory is damaged, the file became
// shorter. The kernel says so with SIGBUS at the instruction that touches one.
//
// Invariants
// 1. Only a thread that is inside the library (cvp_media_enter) is helped: the program's own loads
//    and stores get the signal that they would get anywhere.
// 2. What the library reads from a stand-in is never taken for data: each list of failed pages is
//    looked at before anything that was read is stored or called durable.
// 3. The handler allocates nothing, takes no lock and makes raw system calls only.
#define _GNU_SOURCE
#include "CVolipPersistence.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

// Two for each of the 64 pools that one process may have open, and two while one grows.
#define MEDIA_MAX 130
#define PAGE_MASK ((uintptr_t)CVP_PAGE_BYTES - 1)

struct cvp_media {
  _Atomic(uintptr_t) base;  // 0: the slot is free
  size_t byte_count;
  enum cvp_media_kind kind;
  _Atomic size_t noting;  // threads between counting a page and saying which it is
  _Atomic size_t failed_count;
  _Atomic size_t hopeless_count;  // private pages without an image
  _Atomic size_t failed[CVP_FAILED_PAGES_MAX];  // bytes from base
};

static struct cvp_media slots[MEDIA_MAX];
static struct sigaction program_action;
static pthread_mutex_t slots_lock = PTHREAD_MUTEX_INITIALIZER;  // leaf: held over no call out
// Not allocated at its first use: that may be in the handler.
static __thread int entered __attribute__((tls_model("initial-exec")));

static long raw_call(long number, long a, long b, long c, long d, long e, long f) {
  long result;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}

static struct cvp_media *media_of(uintptr_t address) {
  for (size_t i = 0; i < MEDIA_MAX; i++) {
    uintptr_t base = atomic_load(&slots[i].base);
    if (base != 0 && address - base < slots[i].byte_count)
      return &slots[i];
  }
  return NULL;
}

static bool is_known(struct cvp_media *media, size_t offset) {
  size_t known = atomic_load(&media->failed_count);
  for (size_t i = 0; i < known && i < CVP_FAILED_PAGES_MAX; i++)
    if (atomic_load(&media->failed[i]) == offset)
      return true;
  return false;
}

static bool drop(uintptr_t page) {
  const int drop_locked = 24;  // for programs that locked their memory, Linux 5.18
  return raw_call(SYS_madvise, (long)page, CVP_PAGE_BYTES, MADV_DONTNEED, 0, 0, 0) == 0 ||
         raw_call(SYS_madvise, (long)page, CVP_PAGE_BYTES, drop_locked, 0, 0, 0) == 0;
}

// Zeros stand in for a page of the file until it is repaired or unmapped. A page of the program's
// own memory is dropped instead: what it held is gone, and others may be reading it, who see its
// image then. Where that cannot be read either, zeros stand in until the library has returned.
static bool stand_in(struct cvp_media *media, uintptr_t page) {
  size_t offset = page - atomic_load(&media->base);
  bool is_private = media->kind == CVP_MEDIA_PRIVATE;
  // Of a page that is not remembered nobody would know that it was dropped before.
  bool has_room = atomic_load(&media->failed_count) < CVP_FAILED_PAGES_MAX;
  bool is_dropped = is_private && has_room && !is_known(media, offset) && drop(page);
  if (!is_dropped) {
    long flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    long protection = PROT_READ | PROT_WRITE;
    long mapped =
        raw_call(SYS_mmap, (long)page, CVP_PAGE_BYTES, protection, flags, -1, 0);
    if (mapped != (long)page)
      return false;
    if (is_private)
      atomic_fetch_add(&media->hopeless_count, 1);
  }
  atomic_fetch_add(&media->noting, 1);
  size_t slot = atomic_fetch_add(&media->failed_count, 1);
  if (slot < CVP_FAILED_PAGES_MAX)
    atomic_store(&media->failed[slot], offset);
  atomic_fetch_sub(&media->noting, 1);
  return true;
}

static void hand_on(int number, siginfo_t *information, void *context) {
  struct sigaction action = program_action;
  // The kernel does not ignore a fault either. The instruction faults again and ends the process.
  if (action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN) {
    struct {
      void *handler;
      unsigned long flags;
      void *restorer;
      uint64_t mask;
    } standard = {0};
    raw_call(SYS_rt_sigaction, number, (long)&standard, 0, 8, 0, 0);
    if (information->si_code <= 0)
      raw_call(SYS_tgkill, raw_call(SYS_getpid, 0, 0, 0, 0, 0, 0),
               raw_call(SYS_gettid, 0, 0, 0, 0, 0, 0), number, 0, 0, 0);
  } else if (action.sa_flags & SA_SIGINFO) {
    action.sa_sigaction(number, information, context);
  } else {
    action.sa_handler(number);
  }
}

static void on_bus_error(int number, siginfo_t *information, void *context) {
  uintptr_t address = (uintptr_t)information->si_addr;
  struct cvp_media *media = entered > 0 && information->si_code > 0 ? media_of(address) : NULL;
  if (!media || !stand_in(media, address & ~PAGE_MASK))
    hand_on(number, information, context);
}

static int install(void) {
  struct sigaction present;
  if (sigaction(SIGBUS, NULL, &present) != 0)
    return -errno;
  if ((present.sa_flags & SA_SIGINFO) && present.sa_sigaction == on_bus_error)
    return 0;
  program_action = present;
  struct sigaction ours;
  memset(&ours, 0, sizeof ours);
  ours.sa_sigaction = on_bus_error;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigemptyset(&ours.sa_mask);
  return sigaction(SIGBUS, &ours, NULL) == 0 ? 0 : -errno;
}

struct cvp_media *cvp_media_watch(enum cvp_media_kind kind, void *base, size_t byte_count) {
  struct cvp_media *media = NULL;
  pthread_mutex_lock(&slots_lock);
  for (size_t i = 0; !media && i < MEDIA_MAX; i++)
    if (atomic_load(&slots[i].base) == 0)
      media = &slots[i];
  if (media && install() != 0)
    media = NULL;
  if (media) {
    media->kind = kind;
    media->byte_count = byte_count;
    atomic_store(&media->failed_count, 0);
    atomic_store(&media->hopeless_count, 0);
    atomic_store(&media->base, (uintptr_t)base);  // last: from here the handler sees the slot
  }
  pthread_mutex_unlock(&slots_lock);
  return media;
}

void cvp_media_forget(struct cvp_media *media) {
  atomic_store(&media->base, 0);
}

void cvp_media_enter(void) {
  entered++;
}

void cvp_media_leave(void) {
  entered--;
}

size_t cvp_media_failed_count(const struct cvp_media *media) {
  return atomic_load_explicit(&media->failed_count, memory_order_relaxed);
}

bool cvp_media_is_settled(const struct cvp_media *media) {
  return atomic_load(&media->noting) == 0;
}

size_t cvp_media_failed(const struct cvp_media *media, size_t index) {
  return atomic_load(&media->failed[index]);
}

bool cvp_media_is_hopeless(const struct cvp_media *media) {
  return atomic_load(&media->hopeless_count) != 0;
}

void cvp_media_clear(struct cvp_media *media) {
  atomic_store(&media->failed_count, 0);
}

void cvp_media_clear_counted(struct cvp_media *media, size_t counted) {
  atomic_compare_exchange_strong(&media->failed_count, &counted, 0);
}

int cvp_media_map_again(void *page, int descriptor, uint64_t offset) {
  // On persistent memory as libpmem maps it, with the file system's own data durable at once.
  const int with_sync[] = {MAP_SHARED_VALIDATE | MAP_SYNC, MAP_SHARED};
  for (size_t i = 0; i < 2; i++) {
    void *mapped = mmap(page, CVP_PAGE_BYTES, PROT_READ | PROT_WRITE, with_sync[i] | MAP_FIXED,
                        descriptor, (off_t)offset);
    if (mapped == page)
      return madvise(page, CVP_PAGE_BYTES, MADV_DONTFORK) == 0 ? 0 : -errno;
  }
  return -errno;
}

int cvp_media_probe(const void *pages, size_t byte_count) {
  const int populate_read = 22;  // Linux 5.14; others answer EINVAL
  if (madvise((void *)pages, byte_count, populate_read) == 0)
    return 0;
  return errno == EFAULT || errno == EHWPOISON ? -errno : 0;
}
