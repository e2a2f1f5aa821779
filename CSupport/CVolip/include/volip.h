// volip.h: persistent memory for C and C++. Link with libvolip (pkg-config volip).
//
//   volip_pool *pool = volip_pmap("list.pool", 64 << 20, NULL);
//   volip_pstart(pool);
//   struct node **head = volip_root(pool, "head", sizeof *head, NULL);
//   struct node *node = volip_allocate(sizeof *node);
//   *node = (struct node){.value = 42, .next = *head};
//   *head = node;                          // ordinary stores
//   if (volip_pend() != VOLIP_OK)          // durable here
//     fprintf(stderr, "%s\n", volip_error_text());
//
// A pool is a file that is mapped as memory, at the same address in every process. Between pstart
// and pend any code writes to it with ordinary stores, and after a crash at any instant all of a
// section's writes are there or none. Plain pointers into a pool stay valid for ever.
//
// Errors. What fails returns a volip_code, or NULL where it returns a pointer; then
// volip_last_error() is the code and volip_error_text() a sentence with what to do. Both belong to
// the calling thread, and stay until its next failure: a success changes neither.
//
// Threads. A thread has at most one section open, of one pool; sections of a pool are exclusive, so
// pstart waits for another thread's to end. Whatever changes a pool wants a section of the calling
// thread. Reading wants none, and sees the uncommitted writes of one: use locks of your own, taken
// before pstart and released after pend. A thread that ends inside its section aborts it. A child
// made by fork does not have the pool: touching it is SIGSEGV.
//
// Not for a pool: pointers to memory outside it, C++ objects with virtual functions, locks (they
// come back as they were in the crash). A longjmp out of a section leaves it open.
//
// Strings are UTF-8 and end with a zero byte; those that are passed in are copied.
#ifndef VOLIP_H
#define VOLIP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/// The version of this header; a library of the same first number (or of the same first two, while
/// the first is 0) has all that is in it.
#define VOLIP_VERSION "0.1.0"

// Errors

/// What can go wrong. The numbers stay what they are.
typedef enum volip_code {
  VOLIP_OK = 0,

  // The file
  VOLIP_NOT_A_POOL = 1,
  VOLIP_TRUNCATED = 2,
  VOLIP_FOREIGN_VERSION = 3,
  VOLIP_UNKNOWN_FEATURES = 4,
  VOLIP_DAMAGED_SUPERBLOCK = 5,
  VOLIP_DAMAGED_LOG = 6,
  VOLIP_UNREADABLE = 7,
  VOLIP_MEMORY_FAILED = 8,  // under a page of the section, which was rolled back
  VOLIP_DAMAGED_HEAP = 9,
  VOLIP_IN_USE = 10,  // by another handle or process
  VOLIP_NOT_FOUND = 11,
  VOLIP_ALREADY_EXISTS = 12,
  VOLIP_NO_PERMISSION = 13,
  VOLIP_INVALID_ARGUMENT = 14,
  VOLIP_SYSTEM = 15,  // a system call failed; the text has its errno

  // Space
  VOLIP_ADDRESS_TAKEN = 16,
  VOLIP_ADDRESS_SPACE_EXHAUSTED = 17,
  VOLIP_POOL_FULL = 18,
  VOLIP_SECTION_TOO_LARGE = 19,  // for the log; the section was rolled back
  VOLIP_DISK_FULL = 20,          // the section was rolled back

  // Sections
  VOLIP_NO_SECTION = 21,
  VOLIP_WRITE_OUTSIDE_SECTION = 22,  // found by pstart; the bytes were put back
  VOLIP_UNANNOUNCED_WRITE = 23,
  VOLIP_NESTED_SECTION = 24,   // only the outermost section can do this, or only no section
  VOLIP_SECTION_ABORTED = 25,  // an inner section was aborted: all of it was rolled back
  VOLIP_FORKED_CHILD = 26,
  VOLIP_CLOSED = 27,
  VOLIP_POISONED = 28,         // by an earlier failure: close and open the pool again
  VOLIP_OUTCOME_UNKNOWN = 29,  // the section is there after the next open, or it is not
  VOLIP_TRACKER_UNAVAILABLE = 30,

  // Heap and roots
  VOLIP_NOT_ALLOCATED = 31,
  VOLIP_ROOT_LAYOUT_MISMATCH = 32,
  VOLIP_INVALID_ROOT_NAME = 33,
  VOLIP_NO_ROOT = 34,

  // Guest mode
  VOLIP_NO_GUEST = 35,   // this host cannot do it
  VOLIP_TOO_LATE = 36,   // other threads or open pools exist, or the process is in the guest

  // Sections beside others
  VOLIP_PAGE_TRACKED_WRITE = 37,  // in a section of announced writes beside others
  VOLIP_LANE_FULL = 38,           // do the section again: the next one gets room
  VOLIP_SECTIONS_DEADLOCKED = 39,  // a lock is taken before pstart here and in a section there
} volip_code;

/// The code of the calling thread's last failure; VOLIP_OK before the first.
volip_code volip_last_error(void);

/// What happened in that failure and what to do about it, one sentence or two. Never NULL. Valid
/// until the thread's next failure.
const char *volip_error_text(void);

// Pools

/// A pool that is open in this process. Any thread may use it.
typedef struct volip_pool volip_pool;

/// How a pool is made and opened. Zero in a field means: by itself. A NULL where options are wanted
/// is all zero.
typedef struct volip_options {
  /// How writes are found: "page-map-scan", "write-protect", in guest mode "adaptive",
  /// "dirty-bits", "detect-on-write", "dirty-log". NULL takes the best that works.
  const char *tracker;
  /// First size of the log in bytes, for a pool that is made: 1/32 of the file, at most 32 MiB.
  uint64_t log_bytes;
  /// What the log may grow to in bytes: the largest section. 1/8 of the file, at most 1 GiB.
  uint64_t log_bytes_max;
  /// Must be zero: later versions give them a meaning.
  uint64_t reserved[5];
} volip_options;

/// Opens the pool at `path`, or makes one of `byte_count` bytes where there is none.
/// Errors: as volip_open and volip_create.
volip_pool *volip_pmap(const char *path, uint64_t byte_count, const volip_options *options);

/// Opens a pool, and recovers it after a crash: every section that was durable is there.
/// Errors: VOLIP_NOT_FOUND, VOLIP_IN_USE, all others of the file, VOLIP_ADDRESS_TAKEN. A pool that
/// cannot be opened stays as it was.
volip_pool *volip_open(const char *path, const volip_options *options);

/// Makes a pool file of `byte_count` bytes, 1 MiB to 8 TiB, and opens it. The file is sparse: it
/// takes blocks of the disk as memory is used.
/// Errors: VOLIP_ALREADY_EXISTS, VOLIP_INVALID_ARGUMENT, VOLIP_DISK_FULL; nothing is left behind.
volip_pool *volip_create(const char *path, uint64_t byte_count, const volip_options *options);

/// Closes a pool: makes it durable in its place and unmaps it. The handle and all pointers into the
/// pool are invalid afterwards, whatever is returned but VOLIP_NESTED_SECTION. No other thread may
/// be using the pool. A pool that is never closed loses nothing: the next open recovers it.
/// Errors: VOLIP_NESTED_SECTION inside a section of the calling thread: nothing has happened.
/// VOLIP_SYSTEM and others of the disk: it is closed, and the next open makes up for it.
volip_code volip_close(volip_pool *pool);

/// First byte of a pool's memory, the same in every process.
void *volip_base(volip_pool *pool);

/// Which tracker finds the pool's writes: a name as in volip_options. The string is static.
const char *volip_tracker(volip_pool *pool);

/// Makes the pool file `byte_count` bytes large; addresses stay. At most 15 times in its life. No
/// other thread may be allocating.
/// Errors: VOLIP_INVALID_ARGUMENT where it would not grow, VOLIP_ADDRESS_TAKEN, VOLIP_DISK_FULL,
/// VOLIP_NESTED_SECTION.
volip_code volip_grow(volip_pool *pool, uint64_t byte_count);

/// Walks all metadata of the heap and the roots, while nobody writes to the pool. Counts allocated
/// blocks and their usable bytes, where the pointers are not NULL: a leak is a block too many.
/// Errors: VOLIP_DAMAGED_HEAP; the text says where.
volip_code volip_check(volip_pool *pool, uint64_t *block_count, uint64_t *byte_count);

// Sections

/// Opens a section on the calling thread; waits while another thread has one. Sections nest flat:
/// one inside another is part of the outermost, and durable with it.
/// Errors: VOLIP_WRITE_OUTSIDE_SECTION, VOLIP_INVALID_ARGUMENT inside a section of another pool,
/// VOLIP_FORKED_CHILD, VOLIP_POISONED. No section is open then.
volip_code volip_pstart(volip_pool *pool);

/// Ends the thread's section: its writes are durable when this returns VOLIP_OK. Whatever it
/// returns, the section is over, but for VOLIP_NO_SECTION, VOLIP_FORKED_CHILD.
/// Errors, all rolled back: VOLIP_SECTION_TOO_LARGE, VOLIP_DISK_FULL, VOLIP_MEMORY_FAILED,
/// VOLIP_SECTION_ABORTED. VOLIP_OUTCOME_UNKNOWN: only the next open can tell.
volip_code volip_pend(void);

/// Ends the thread's section and takes its writes back, allocations and roots too. What is outside
/// the pool stays as it is: variables that point to what is gone as well. An inner section's abort
/// is made good by the outermost pend, which returns VOLIP_SECTION_ABORTED.
/// Errors: VOLIP_NO_SECTION.
volip_code volip_pabort(void);

/// Makes the section's writes durable and goes on in a new one. After an error no section is open.
/// Errors: as volip_pend; VOLIP_NESTED_SECTION in an inner section, which stays open.
volip_code volip_pcommit(void);

/// The pool whose section the calling thread has open, or NULL.
volip_pool *volip_section_pool(void);

/// Announces that a system call (read, recv) will write to pool memory, in the thread's section.
/// Needed with the tracker "write-protect", where the call would fail with EFAULT; does no harm
/// with others.
/// Errors: VOLIP_NO_SECTION, VOLIP_INVALID_ARGUMENT.
volip_code volip_will_write(const void *address, size_t byte_count);

// Memory, in the pool whose section the calling thread has open

/// Uninitialized memory, aligned to 16 bytes. Zero bytes get an address of their own.
/// Errors: VOLIP_POOL_FULL, VOLIP_NO_SECTION, VOLIP_DAMAGED_HEAP; VOLIP_INVALID_ARGUMENT for more
/// than the whole pool.
void *volip_allocate(size_t byte_count);

/// The same, aligned to a power of two up to 4,096.
/// Errors: VOLIP_INVALID_ARGUMENT for any other alignment.
void *volip_allocate_aligned(size_t byte_count, size_t alignment);

/// Gives a block back. NULL is none, and no error.
/// Errors: VOLIP_NOT_ALLOCATED for anything but the start of an allocated block, VOLIP_NO_SECTION.
volip_code volip_free(void *address);

/// A block of `byte_count` bytes, aligned to 16, that begins with the old block's bytes; the old
/// one is given back, if it is another. NULL for the old one is a new block.
/// Errors: VOLIP_POOL_FULL, VOLIP_NOT_ALLOCATED, VOLIP_NO_SECTION; the old block is as it was.
void *volip_reallocate(void *address, size_t byte_count);

/// Bytes that may be used at a block's address, at least those asked for; 0 is an error.
/// Errors: VOLIP_NOT_ALLOCATED, VOLIP_NO_SECTION.
size_t volip_usable_bytes(const void *address);

// Roots: blocks with names, from which a program finds everything else

/// Bytes of a root's name at most, without the zero byte.
#define VOLIP_ROOT_NAME_BYTES_MAX 63

/// The root `name` of `byte_count` bytes, made of zero bytes, aligned to 64, where there is none:
/// for that the thread wants a section of this pool. Its address is the same for ever.
///
/// `type` names the type of what is there and its version, such as "list 2": another name, or
/// another size, than the root was made with is an error. NULL compares the size alone.
/// Errors: VOLIP_ROOT_LAYOUT_MISMATCH, VOLIP_INVALID_ROOT_NAME, VOLIP_NO_SECTION, VOLIP_POOL_FULL.
void *volip_root(volip_pool *pool, const char *name, size_t byte_count, const char *type);

/// The same, but NULL and VOLIP_NO_ROOT where there is none. Wants no section.
void *volip_find_root(volip_pool *pool, const char *name, size_t byte_count, const char *type);

/// Takes a root's name away and frees its block; what that points to is the caller's.
/// Errors: VOLIP_NO_ROOT, VOLIP_NO_SECTION.
volip_code volip_remove_root(volip_pool *pool, const char *name);

/// Calls `each` for every root, in no order, with its name (valid during the call), its address and
/// bytes, and `context`.
volip_code volip_for_each_root(volip_pool *pool,
                               void (*each)(const char *name, void *address, size_t byte_count,
                                            void *context),
                               void *context);

// Guest mode

/// Makes this process a virtual machine on /dev/kvm: every thread a virtual processor, the page
/// table that says what was written its own. To be called by the first thread, before others exist
/// and before pools are opened; the best tracker is another one then. There is no way back.
/// Errors: VOLIP_NO_GUEST, VOLIP_TOO_LATE; the process goes on as it was.
volip_code volip_enter(void);

/// 1 where the calling thread runs in a guest that volip_enter made, else 0.
int volip_is_guest(void);

#ifdef __cplusplus
}
#endif

#endif
