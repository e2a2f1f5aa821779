// CVolimem: this process as a virtual machine on /dev/kvm. Mechanism, no policy.
//
// Every host thread is a vCPU at guest CPL3; virtual addresses stay what they were; the guest page
// table is ordinary memory of the process. System calls are made by the companion, another thread
// on the host, or leave the guest and are made by their own.
//
//   machine.c    VM, memory slots, guest-physical windows, the page table's upper levels
//   vcpu.c       vCPUs: creation, reuse, descriptor tables, flushes
//   run.c        the run loop: calls, exceptions, refusals
//   process.c    threads, children, ends
//   calls.c      the table of system calls: what they write, and who may make them
//   companion.c  a host thread that makes calls, so that they need no exit
//   visit.c      one instruction on the host: faults arrive as they would without us
//   signals.c    the program's handlers, in the guest
//   regions.c    what the page-fault handler knows of pools
//   enter.c      the way in
//   vdso.c       the vDSO's functions that a guest cannot run
//   entry.S      everything that C cannot say
//
// Words: a chunk is 1 GiB of virtual addresses, the unit in which they get guest-physical ones; a
// table page is a page of the guest page table; a region is the address range of one pool.
#ifndef CVOLIMEM_H
#define CVOLIMEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Each image has its own: a program under `volip run` may have another copy of this library.
#pragma GCC visibility push(hidden)

// Entering

/// How system calls are made for the guest.
enum cvm_calls {
  CVM_CALLS_AUTO,       // by the companion where that is right and a processor is to spare
  CVM_CALLS_EXIT,       // each leaves the guest and is made by its own thread
  CVM_CALLS_COMPANION,  // by the companion wherever that is right
};

/// What to do and what went wrong.
struct cvm_options {
  const char *device;    // NULL: /dev/kvm
  enum cvm_calls calls;
  int phys_bits_max;     // physical address bits to use at most; 0: what the host has
  bool trace_calls;      // one line for each forwarded system call on standard error
  bool trace_faults;
  bool trace_exits;
  bool trace_counts;     // one line at the process's end
  uint64_t tracked_base;  // where pools may be: calls with pointers in here are looked at
  uint64_t tracked_bytes;
};

enum cvm_stage {
  CVM_DONE = 0,
  CVM_ENTERED,       // this process is in guest mode already, perhaps by another copy of this
  CVM_OPEN,          // /dev/kvm could not be opened
  CVM_CREATE,        // the VM, its memory or its vCPU could not be created
  CVM_CAPABILITY,    // the kernel's KVM lacks something that is needed
  CVM_ADDRESSES,     // more address space in use than guest-physical addresses for it
  CVM_PROBE,         // code in the guest does not behave as it should
};

struct cvm_failure {
  enum cvm_stage stage;
  int error_number;
  const char *operation;  // static text
};

/// Continues the calling thread, which must be the only one, in guest mode. Returns true there, and
/// false on the host with *failure filled in; then nothing has changed.
bool cvm_enter(const struct cvm_options *options, struct cvm_failure *failure);

/// Whether the calling thread runs in guest mode.
bool cvm_is_guest(void);

// Facts

struct cvm_facts {
  int phys_bits;
  bool identity;             // guest-physical addresses equal virtual ones
  int call_cpl;              // privilege level at which system calls arrive
  uint64_t slots;            // memory slots
  uint64_t logged_slots;     // of which KVM logs what the guest writes
  uint64_t table_pages;      // pages of the page table, pools' tables not counted
  uint64_t vcpus;            // vCPUs created so far
  uint64_t companion_calls;  // system calls that the companion has made
};
struct cvm_facts cvm_facts(void);

/// Exits that the calling thread's vCPU has made.
uint64_t cvm_exits(void);
/// The same of all threads, those that have ended, too.
uint64_t cvm_all_exits(void);

/// Leaves the guest and comes back, for measurements. A system call that no kernel has.
void cvm_exit_once(void);

/// Makes this machine leave for the hypervisor below it, if there is one (CPUID): for measurements.
static inline void cvm_machine_exit(void) {
  uint32_t a = 0, b, c = 0, d;
  __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
}

// Page table

/// Gives [address, address + byte_count) guest-physical addresses and table pages down to 2 MiB
/// entries. Returns the guest-physical address of `address`, contiguous up to the end of its chunk,
/// or a negative errno.
int64_t cvm_map(uint64_t address, uint64_t byte_count);

/// Guest-physical address of a mapped address, whatever the page table says by now.
uint64_t cvm_physical(uint64_t address);

/// Guest-physical address of the top-level table, and how to turn that of any table above the 2 MiB
/// entries into a pointer.
uint64_t cvm_root(void);
uint64_t *cvm_table_at(uint64_t guest_physical);

/// The table of 4 KiB entries that this library has made for the 2 MiB at an address (program code
/// of which the guest sees a changed copy), or NULL.
uint64_t *cvm_split_table(uint64_t address);

/// Atomic changes of one entry. The processor sets bits A and D in the same word at any time.
static inline void cvm_entry_or(uint64_t *entry, uint64_t bits) {
  __atomic_fetch_or(entry, bits, __ATOMIC_SEQ_CST);
}
static inline uint64_t cvm_entry_and(uint64_t *entry, uint64_t bits) {
  return __atomic_fetch_and(entry, bits, __ATOMIC_SEQ_CST);
}

// Flushes. Taking rights away from an entry becomes true for a vCPU when that vCPU has flushed.

/// To be called after entries lost rights: vCPUs that have not flushed since are stale.
void cvm_raise_flush_generation(void);

/// Flushes this thread's vCPU if it is stale. No exit.
void cvm_flush_self(void);

/// Makes every other stale vCPU that is inside the guest flush, and waits for it. Those outside
/// flush before they come back. One exit, or none if there is no such vCPU.
void cvm_flush_others(void);

// Regions: where pools are, for the page-fault handler and for calls that write to pool memory

enum cvm_entry_bits {
  CVM_PRESENT = 1,
  CVM_WRITABLE = 2,
  CVM_USER = 4,
  CVM_ACCESSED = 0x20,
  CVM_DIRTY = 0x40,
  CVM_LARGE = 0x80,
  /// Software bit: the fault handler gives write permission and appends the page to the list.
  CVM_GRANTABLE = 0x200,
  /// Software bit: the page is in the list.
  CVM_LISTED = 0x400,
};

/// One pool's addresses. The page-fault handler and the run loop read it at any time, so it is
/// filled in before `page_count` is raised, and its memory outlives it.
struct cvm_region {
  uint64_t first_page;  // virtual address >> 12
  uint64_t page_count;  // 0: nobody looks at the rest
  uint64_t *entries;    // one table entry a page, contiguous
  uint32_t *list;       // ring of granted pages, each plus 1; 0: not written yet
  uint64_t listed;      // pages ever appended; the handler adds to it
  uint64_t list_mask;   // ring size - 1; a power of two, twice the number of pages or more
  uint64_t *marks;      // or NULL: where calls mark the pages that they write, a bit for each
  uint64_t first_mark;  // the bit of the first page
};

/// A region for `page_count` pages from `address`, or NULL if there are too many. `entries` and
/// `list` stay readable for ever; before destroying a region, clear its entries.
struct cvm_region *cvm_region_create(uint64_t address, uint64_t page_count, uint64_t *entries,
                                     uint32_t *list, uint64_t list_capacity);
void cvm_region_destroy(struct cvm_region *region);

/// Has calls mark pages in words of a tracker's own, which stay readable for ever, and not in the
/// entries. Before any page is watched.
void cvm_region_mark_in(struct cvm_region *region, uint64_t *marks, uint64_t first_mark);

/// In a laboratory's build the process ends in the middle of its `number`-th page fault that grants
/// a page in the guest; 0: never. Nothing in any other build.
void cvm_stop_in_fault(int64_t number);

/// Gives write permission and appends the page to the list, as the fault handler does. A page may
/// stand in the list twice.
void cvm_region_grant(struct cvm_region *region, uint32_t page);
static inline uint64_t cvm_region_listed(const struct cvm_region *region) {
  return __atomic_load_n(&region->listed, __ATOMIC_ACQUIRE);
}
/// The page at position `index` of the list. Waits for the handler that is about to write it.
uint32_t cvm_region_take(struct cvm_region *region, uint64_t index);

// KVM's dirty log: a bit for each page of the memory slots that hold a pool. The first write of the
// guest after a bit was cleared sets it; what the host writes is not in it.

/// The pages that bits stand for, from bit 0 of the first word on: those of whole slots.
struct cvm_log {
  uint64_t first_page;  // virtual address >> 12
  uint64_t page_count;
};

/// Has KVM log the slots of [address, address + byte_count), which are mapped. The bits may be set
/// at first. Returns 0 or a negative errno: EOPNOTSUPP for a KVM that clears only all bits at once.
int cvm_log_start(struct cvm_log *log, uint64_t address, uint64_t byte_count);
/// Ends what one start began. ENOSYS outside the guest, as all of these: in a forked child.
int cvm_log_stop(struct cvm_log *log);
/// Copies the bits to `bits`, at least those of the first `page_count` pages, and no more than
/// there are. Finds what any thread wrote before. Returns 0 or a negative errno.
int cvm_log_read(struct cvm_log *log, uint64_t page_count, uint64_t *bits);
/// Clears the bits that are set in words [first, end) of `mask`, whose other words are 0; from here
/// on the next write of such a page is seen. Returns 0 or a negative errno.
int cvm_log_clear(struct cvm_log *log, uint64_t first, uint64_t end, const uint64_t *mask);

// System calls

#define CVM_OUTPUTS_MAX 5

/// Name of a call in the table, or NULL, and how many of its outputs may lie in pool memory.
const char *cvm_call_name(int number);
int cvm_call_output_count(int number);
/// Who makes a call: the name of its way (calls.c), or NULL.
const char *cvm_call_way(int number);

#pragma GCC visibility pop

#endif
