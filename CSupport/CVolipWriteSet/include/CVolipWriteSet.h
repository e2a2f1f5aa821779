// CVolipWriteSet: the kernel's two ways to tell which pages were written, without a virtual
// machine. Mechanism, no policy.
//
// Owns: PAGEMAP_SCAN and asynchronous userfaultfd write-protection (system headers are older than
// the kernels that have them), and the SIGSEGV handler that gives a protected page back.
#ifndef CVOLIPWRITESET_H
#define CVOLIPWRITESET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Page-map scan (Linux 6.7 and later)

struct cvw_page_region {
  uint64_t start;
  uint64_t end;
  uint64_t categories;
};

/// Opens a userfaultfd with asynchronous write-protection of present and of unpopulated pages, and
/// registers [address, address + byte_count) with it. Returns the descriptor or a negative errno;
/// -EOPNOTSUPP where the kernel has no such feature.
int cvw_async_protection_register(void *address, size_t byte_count);

/// Takes write permission away from [start, end) until the next write, on the process's page map.
/// Returns 0 or a negative errno.
int cvw_scan_protect(int pagemap, uint64_t start, uint64_t end);

/// Writes up to `capacity` regions of pages of [start, end) that were written since they were last
/// protected, and with `protect` protects those again in the same walk. Returns their number or a
/// negative errno; *walked is where the scan stopped, `end` if all of it was seen.
long cvw_scan_written(int pagemap, uint64_t start, uint64_t end, bool protect,
                      struct cvw_page_region *regions, size_t capacity, uint64_t *walked);

/// Page faults that this process has taken so far: when the number has not changed, none of its
/// threads wrote to a protected page. (Major ones too: the first write to a protected page that was
/// swapped out is one.)
uint64_t cvw_page_faults(void);

/// A file of `byte_count` zero bytes without a name, to measure trackers on. Returns its
/// descriptor or a negative errno.
int cvw_scratch_file(size_t byte_count);

// Write protection and SIGSEGV

/// What a page's byte in `page_states` says.
enum cvw_page_state {
  CVW_PROTECTED = 0,
  CVW_WRITABLE = 1,
};

/// One watched address range. The program's threads write the fields that the handler reads only
/// through the functions below.
///
/// Who may touch what: the handler, on any thread, at any time, changes page_states, written_pages
/// and written_count, with atomic operations; the thread that closes a section resets them while no
/// section is open.
struct cvw_trap_region;

/// Watches [base, base + page_count * 4096), which must be mapped readable and not writable.
/// Returns null where 64 ranges are watched already or memory is short.
struct cvw_trap_region *cvw_trap_region_create(void *base, size_t page_count);

/// Stops watching. No thread may be writing to the range.
void cvw_trap_region_destroy(struct cvw_trap_region *region);

/// Pages from `page_limit` on are nobody's yet: a write to one of them is a stray write even in a
/// section.
void cvw_trap_region_limit(struct cvw_trap_region *region, size_t page_limit);

/// True between pstart and pend: a write to a protected page is granted and remembered. False: it
/// is a stray write; the handler says so on standard error and hands the signal on.
void cvw_trap_region_open(struct cvw_trap_region *region, bool open);

/// True: pages below the limit never come to the handler by protection (another tracker watches
/// them), so whatever comes is stray.
void cvw_trap_region_guard_only(struct cvw_trap_region *region, bool guard_only);

/// The indexes of the pages that were made writable since they were last protected, in the order
/// of their first writes. *count is their number.
uint32_t *cvw_trap_region_written(struct cvw_trap_region *region, size_t *count);

/// Replaces the list of writable pages after some of them were protected again.
void cvw_trap_region_keep(struct cvw_trap_region *region, const uint32_t *pages, size_t count);

/// Marks one page protected; its protection is changed by the caller.
void cvw_trap_region_forget(struct cvw_trap_region *region, uint32_t page);

/// Makes a page writable and remembers it, as a write to it would. Returns 0 or a negative errno.
int cvw_trap_region_grant(struct cvw_trap_region *region, uint32_t page);

/// Puts the handler (back) in front of whatever SIGSEGV handler the program has; that one gets
/// every signal that is not ours. Returns 0 or a negative errno. Cheap when nothing changed.
int cvw_trap_handler_install(void);

// Sections and threads

/// The section state of the calling thread: how deep it is nested and in which pool's handle. The
/// owner is null exactly while the depth is 0, and so is the list of announced writes. Lane and
/// group are null but in a section that has one; the hint is the lane that the thread had last.
struct cvw_thread_section {
  void *owner;
  uint64_t depth;
  void *lane;
  void *group;
  void *announced;
  uint32_t lane_hint;
  int32_t thread;  // as the kernel names it, after cvw_thread_section_enroll
};
/// One load of the thread's base register: asked for by every allocation.
extern _Thread_local struct cvw_thread_section cvw_this_thread
    __attribute__((tls_model("initial-exec")));
static inline struct cvw_thread_section *cvw_thread_section(void) {
  return &cvw_this_thread;
}

/// Calls `abandon(owner)` on a thread that ends, by return, exit or cancellation, inside a section.
/// A forked child starts without a section. Given once for each process; returns 0 or an errno.
int cvw_thread_section_on_exit(void (*abandon)(void *owner));

/// Puts cancellation of the calling thread off: msync and fallocate are cancellation points, and a
/// thread that ended in the middle of a commit would leave a record that was never applied. Returns
/// what cvw_cancellation_restore wants.
int cvw_cancellation_defer(void);
void cvw_cancellation_restore(int previous);

/// Must be called by a thread before its first section.
void cvw_thread_section_enroll(void);

/// In a laboratory's build the process kills itself in its `number`-th grant; 0: never. Nothing in
/// any other build.
void cvw_trap_kill_at(int64_t number);

#endif
