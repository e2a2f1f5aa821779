// The VM itself: capabilities, memory slots, guest-physical windows, the page table's upper levels.
//
// Invariants
// 1. A chunk has a window (a GiB of guest-physical addresses) if and only if it has a memory slot
//    and a page-directory in the page table; all three are made under `slots` and never taken back.
// 2. Table pages lie in one arena, whose chunk has its window before anything else.
// 3. Below a page directory everything is a 2 MiB entry until somebody edits it; host mappings
//    enforce the rest.
#define _GNU_SOURCE
#include "internal.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

// Virtual addresses set aside for the upper levels: a page for each chunk and one for each 512 GiB,
// if ever all of the address space were used.
#define TABLE_ARENA_BYTES ((CHUNK_COUNT + 512) * PAGE_BYTES)
// KVM keeps three pages here on older processors; below are devices that this machine has not.
#define RESERVED_WINDOW 3
#define TASK_STATE_ADDRESS 0xfffbd000ul
// Where a window's number equals its chunk's, physical addresses must have a bit more than virtual
// ones: the chunk of the reserved window goes beyond.
#define IDENTITY_PHYS_BITS 48
#define TILE_STATE (3ul << 17)

// Programs get the lowest free descriptors and count on it: ours begin here, or at three quarters
// of a lower limit.
#define OWN_DESCRIPTORS 4096

struct machine cvm_machine;

static char *table_page(void) {
  struct machine *m = &cvm_machine;
  if (m->table_next == m->table_end)
    machine_stop("volip: the page table's memory is used up", m->table_count);
  char *page = m->table_next;
  m->table_next += PAGE_BYTES;
  m->table_count++;
  return page;
}

static uint64_t physical(uint64_t address) {
  uint64_t window = cvm_machine.window_of_chunk[address >> CHUNK_SHIFT] - 1ul;
  return window << CHUNK_SHIFT | (address & (CHUNK_BYTES - 1));
}

uint64_t cvm_physical(uint64_t address) { return physical(address); }

uint64_t *cvm_table_at(uint64_t guest_physical) {
  uint64_t arena = (uint64_t)cvm_machine.top[0] & ~(CHUNK_BYTES - 1);
  return (uint64_t *)(arena + (guest_physical - physical(arena)));
}

// The tables of one chunk: an entry in both top-level tables, one in the level below, and a page
// directory of 2 MiB entries.
static void map_chunk(uint64_t chunk) {
  struct machine *m = &cvm_machine;
  const uint64_t table_bits = CVM_PRESENT | CVM_WRITABLE | CVM_USER | CVM_ACCESSED;
  uint64_t *entry = &m->top[0][chunk >> 9];
  if (!(*entry & CVM_PRESENT)) {
    uint64_t below = physical((uint64_t)table_page()) | table_bits;
    m->top[0][chunk >> 9] = below;
    m->top[1][chunk >> 9] = below;
  }
  uint64_t *upper = cvm_table_at(*entry & ADDRESS_MASK);
  uint64_t *directory = (uint64_t *)table_page();
  uint64_t base = physical(chunk << CHUNK_SHIFT);
  for (uint64_t i = 0; i < 512; i++)
    directory[i] = (base + (i << LARGE_SHIFT)) | table_bits | CVM_DIRTY | CVM_LARGE;
  // Last: from here the processor sees the directory.
  __atomic_store_n(&upper[chunk & 511], physical((uint64_t)directory) | table_bits,
                   __ATOMIC_RELEASE);
}

static uint64_t choose_window(uint64_t chunk, uint64_t count) {
  struct machine *m = &cvm_machine;
  if (m->identity)
    return chunk == RESERVED_WINDOW ? CHUNK_COUNT : chunk;
  uint64_t window = m->window_next;
  if (window + count > 1ul << (m->phys_bits - CHUNK_SHIFT))
    return 0;
  m->window_next += count;
  return window;
}

int machine_set_slot(const struct slot *slot, uint32_t flags) {
  struct kvm_userspace_memory_region region = {
      .slot = (uint32_t)(slot - cvm_machine.slot_table),
      .flags = flags,
      .guest_phys_addr = slot->window << CHUNK_SHIFT,
      .memory_size = slot->page_count << PAGE_SHIFT,
      .userspace_addr = slot->first_page << PAGE_SHIFT,
  };
  return (int)-RAW(SYS_ioctl, cvm_machine.vm, KVM_SET_USER_MEMORY_REGION, &region);
}

// One memory slot for chunks [chunk, chunk + count), none of which has one.
static int add_slot(uint64_t chunk, uint64_t count) {
  struct machine *m = &cvm_machine;
  uint64_t window = choose_window(chunk, count);
  if (window == 0 && chunk != 0)
    return ENOSPC;
  uint64_t address = chunk << CHUNK_SHIFT;
  uint64_t bytes = count << CHUNK_SHIFT;
  if (address + bytes > USER_END)
    bytes = USER_END - address;
  struct slot *slot = &m->slot_table[m->slot_count];
  *slot = (struct slot){address >> PAGE_SHIFT, bytes >> PAGE_SHIFT, window, 0};
  int error = machine_set_slot(slot, 0);
  if (error != 0)
    return error;
  // Last: the dirty log looks for slots without the lock.
  __atomic_store_n(&m->slot_count, m->slot_count + 1, __ATOMIC_RELEASE);
  for (uint64_t i = 0; i < count; i++)
    m->window_of_chunk[chunk + i] = (uint32_t)(window + i + 1);
  return 0;
}

int64_t machine_map(uint64_t address, uint64_t byte_count) {
  struct machine *m = &cvm_machine;
  if (byte_count == 0 || address >= USER_END || byte_count > USER_END - address)
    return -EINVAL;
  uint64_t first = address >> CHUNK_SHIFT;
  uint64_t last = (address + byte_count - 1) >> CHUNK_SHIFT;
  int error = 0;
  lock(&m->slots);
  for (uint64_t chunk = first; chunk <= last && error == 0;) {
    uint64_t count = 0;
    while (chunk + count <= last && m->window_of_chunk[chunk + count] == 0 &&
           (count == 0 || !m->identity || chunk + count != RESERVED_WINDOW))
      count++;
    if (count > 0)
      error = add_slot(chunk, count);
    for (uint64_t i = 0; i < count && error == 0; i++)
      map_chunk(chunk + i);
    chunk += count > 0 ? count : 1;
  }
  unlock(&m->slots);
  return error != 0 ? -error : (int64_t)physical(address);
}

static uint64_t *directory_entry(uint64_t address) {
  uint64_t *upper = cvm_table_at(cvm_machine.top[0][address >> 39] & ADDRESS_MASK);
  uint64_t *directory = cvm_table_at(upper[address >> CHUNK_SHIFT & 511] & ADDRESS_MASK);
  return &directory[address >> LARGE_SHIFT & 511];
}

uint64_t *cvm_split_table(uint64_t address) {
  if (!machine_has(address))
    return NULL;
  uint64_t entry = *directory_entry(address);
  uint64_t arena = physical((uint64_t)cvm_machine.top[0]);
  bool is_ours = (entry & CVM_LARGE) == 0 && (entry & ADDRESS_MASK) - arena < TABLE_ARENA_BYTES;
  return is_ours ? cvm_table_at(entry & ADDRESS_MASK) : NULL;
}

uint64_t *machine_entry(uint64_t address) {
  uint64_t *table = cvm_split_table(address);
  return table != NULL ? &table[address >> PAGE_SHIFT & 511] : NULL;
}

static void split(uint64_t *entry) {
  const uint64_t bits = CVM_PRESENT | CVM_WRITABLE | CVM_USER | CVM_ACCESSED;
  uint64_t *table = (uint64_t *)table_page();
  uint64_t base = *entry & ADDRESS_MASK & ~((1ul << LARGE_SHIFT) - 1);
  for (uint64_t i = 0; i < 512; i++)
    table[i] = (base + (i << PAGE_SHIFT)) | bits | CVM_DIRTY;
  *entry = physical((uint64_t)table) | bits;
}

int machine_split(uint64_t address, uint64_t byte_count) {
  int64_t mapped = machine_map(address, byte_count);
  if (mapped < 0)
    return (int)-mapped;
  lock(&cvm_machine.slots);
  for (uint64_t large = address >> LARGE_SHIFT;
       large <= (address + byte_count - 1) >> LARGE_SHIFT; large++) {
    uint64_t *entry = directory_entry(large << LARGE_SHIFT);
    if (*entry & CVM_LARGE)
      split(entry);
  }
  unlock(&cvm_machine.slots);
  return 0;
}

int machine_alias(uint64_t address, uint64_t target) {
  int error = machine_split(address, PAGE_BYTES);
  int64_t to = machine_map(target, PAGE_BYTES);
  if (error != 0 || to < 0)
    return error != 0 ? error : (int)-to;
  uint64_t *entry = machine_entry(address);
  *entry = (uint64_t)to | (*entry & ~ADDRESS_MASK);
  return 0;
}

bool machine_has(uint64_t address) {
  return address < USER_END && cvm_machine.window_of_chunk[address >> CHUNK_SHIFT] != 0;
}

int64_t cvm_map(uint64_t address, uint64_t byte_count) {
  return RAW(OWN_CALL_MAP, address, byte_count);
}

uint64_t cvm_root(void) { return physical((uint64_t)cvm_machine.top[0]); }

static void *reserve(size_t bytes) {
  void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? NULL : memory;
}

static int fail(struct cvm_failure *failure, enum cvm_stage stage, int error,
                const char *operation) {
  *failure = (struct cvm_failure){stage, error, operation};
  return -1;
}

int machine_own(int descriptor) {
  if (descriptor < 0)
    return descriptor;
  uint64_t limits[2] = {0, 0};
  RAW(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, limits);
  uint64_t lowest = limits[0] < OWN_DESCRIPTORS ? limits[0] / 4 * 3 : OWN_DESCRIPTORS;
  long moved = RAW(SYS_fcntl, descriptor, F_DUPFD_CLOEXEC, lowest);
  if (moved < 0)
    return descriptor;
  RAW(SYS_close, descriptor);
  return (int)moved;
}

bool machine_owns(uint32_t descriptor) {
  const struct machine *m = &cvm_machine;
  bool is_own = descriptor == (uint32_t)m->kvm || descriptor == (uint32_t)m->vm;
  for (const struct vcpu *vcpu = m->first; vcpu != NULL && !is_own; vcpu = vcpu->next)
    is_own = descriptor == (uint32_t)vcpu->fd;
  return is_own;
}

static int open_device(struct cvm_failure *failure) {
  struct machine *m = &cvm_machine;
  const char *device = m->options.device != NULL ? m->options.device : "/dev/kvm";
  m->kvm = machine_own(open(device, O_RDWR | O_CLOEXEC));
  if (m->kvm < 0)
    return fail(failure, CVM_OPEN, errno, "open /dev/kvm");
  if (ioctl(m->kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
    return fail(failure, CVM_CAPABILITY, 0, "KVM_GET_API_VERSION");
  int sync_registers = ioctl(m->kvm, KVM_CHECK_EXTENSION, KVM_CAP_SYNC_REGS);
  if ((sync_registers & KVM_SYNC_X86_REGS) == 0)
    return fail(failure, CVM_CAPABILITY, 0, "KVM_CAP_SYNC_REGS");
  if (ioctl(m->kvm, KVM_CHECK_EXTENSION, KVM_CAP_IMMEDIATE_EXIT) <= 0)
    return fail(failure, CVM_CAPABILITY, 0, "KVM_CAP_IMMEDIATE_EXIT");
  m->vm = machine_own(ioctl(m->kvm, KVM_CREATE_VM, 0));
  if (m->vm < 0)
    return fail(failure, CVM_CREATE, errno, "KVM_CREATE_VM");
  int run_bytes = ioctl(m->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
  if (run_bytes <= 0)
    return fail(failure, CVM_CREATE, errno, "KVM_GET_VCPU_MMAP_SIZE");
  m->run_bytes = (size_t)run_bytes;
  ioctl(m->vm, KVM_SET_TSS_ADDR, TASK_STATE_ADDRESS);  // not every processor needs it
  return 0;
}

// Of the components of `xcr0` as XSAVE lays them out, behind x87, SSE and the header.
static uint32_t xstate_bytes(uint64_t xcr0) {
  uint32_t end = 512 + 64;
  for (uint32_t i = 2; i < 63; i++) {
    uint32_t size, offset, c, d;
    __cpuid_count(0xd, i, size, offset, c, d);
    if ((xcr0 >> i & 1) && offset + size > end)
      end = offset + size;
  }
  return end;
}

// Physical address bits, from the processor as KVM shows it.
static int read_features(struct cvm_failure *failure) {
  struct machine *m = &cvm_machine;
  const int capacity = 256;
  m->features = calloc(1, sizeof *m->features + capacity * sizeof(struct kvm_cpuid_entry2));
  if (m->features == NULL)
    return fail(failure, CVM_CREATE, ENOMEM, "KVM_GET_SUPPORTED_CPUID");
  m->features->nent = capacity;
  if (ioctl(m->kvm, KVM_GET_SUPPORTED_CPUID, m->features) != 0)
    return fail(failure, CVM_CREATE, errno, "KVM_GET_SUPPORTED_CPUID");
  m->phys_bits = 36;
  for (uint32_t i = 0; i < m->features->nent; i++) {
    const struct kvm_cpuid_entry2 *entry = &m->features->entries[i];
    if (entry->function == 0x80000008)
      m->phys_bits = entry->eax & 0xff;
    if (entry->function == 0xd && entry->index == 0)
      m->xcr0_listed = entry->eax | (uint64_t)entry->edx << 32;
  }
  if (m->options.phys_bits_max >= 32 && m->options.phys_bits_max < m->phys_bits)
    m->phys_bits = m->options.phys_bits_max;
  m->identity = m->phys_bits >= IDENTITY_PHYS_BITS;
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  // Tiles have their bits set before a process has leave to use them; a guest may not then.
  m->xcr0 = (low | (uint64_t)high << 32) & ~TILE_STATE;
  m->xstate_bytes = xstate_bytes(m->xcr0);
  return 0;
}

// The arena has a chunk of its own, so that its pages' guest-physical addresses are one sum away.
static int make_tables(struct cvm_failure *failure) {
  struct machine *m = &cvm_machine;
  m->window_of_chunk = reserve(CHUNK_COUNT * sizeof(uint32_t));
  m->slot_table = reserve(CHUNK_COUNT * sizeof(struct slot));
  char *room = reserve(2 * CHUNK_BYTES);
  if (room == NULL || m->window_of_chunk == NULL || m->slot_table == NULL)
    return fail(failure, CVM_CREATE, ENOMEM, "mmap");
  char *arena = (char *)(((uint64_t)room + CHUNK_BYTES - 1) & ~(CHUNK_BYTES - 1));
  if (arena > room)
    munmap(room, (size_t)(arena - room));
  char *end = arena + TABLE_ARENA_BYTES;
  munmap(end, (size_t)(room + 2 * CHUNK_BYTES - end));
  madvise(arena, TABLE_ARENA_BYTES, MADV_NOHUGEPAGE);
  madvise(arena, TABLE_ARENA_BYTES, MADV_DONTFORK);
  madvise(arena, TABLE_ARENA_BYTES, MADV_DONTDUMP);
  m->table_next = arena;
  m->table_end = end;
  m->top[0] = (uint64_t *)table_page();
  m->top[1] = (uint64_t *)table_page();
  m->idt = (uint64_t *)table_page();
  m->window_next = RESERVED_WINDOW + 1;
  int error = add_slot((uint64_t)arena >> CHUNK_SHIFT, 1);
  if (error != 0)
    return fail(failure, CVM_CREATE, error, "KVM_SET_USER_MEMORY_REGION");
  map_chunk((uint64_t)arena >> CHUNK_SHIFT);
  return 0;
}

// Slots are 20 times cheaper before the first vCPU: what the process has mapped now gets them now.
// Kernel mappings above the user addresses are none of ours.
static int map_process(struct cvm_failure *failure) {
  FILE *maps = fopen("/proc/self/maps", "re");
  if (maps == NULL)
    return fail(failure, CVM_CREATE, errno, "open /proc/self/maps");
  char line[512];
  int64_t result = 0;
  while (result >= 0 && fgets(line, sizeof line, maps)) {
    unsigned long start, end;
    if (sscanf(line, "%lx-%lx", &start, &end) != 2 || start >= USER_END)
      continue;
    // A sparse giant gets its chunks as they are touched.
    if (end - start > 4 * CHUNK_BYTES)
      continue;
    result = machine_map(start, (end < USER_END ? end : USER_END) - start);
  }
  fclose(maps);
  return result >= 0 ? 0 : fail(failure, CVM_ADDRESSES, (int)-result, "memory slots");
}

int machine_prepare(const struct cvm_options *options, struct cvm_failure *failure) {
  struct machine *m = &cvm_machine;
  *m = (struct machine){.kvm = -1, .vm = -1, .options = *options};
  if (open_device(failure) != 0 || read_features(failure) != 0 || make_tables(failure) != 0 ||
      map_process(failure) != 0)
    return -1;
  return 0;
}

// After a failure on the way into the guest, so that the process is as it was. What vCPUs own
// stays: they only exist when nearly everything has worked.
void machine_discard(void) {
  struct machine *m = &cvm_machine;
  if (m->top[0] != NULL)
    munmap(m->top[0], TABLE_ARENA_BYTES);
  if (m->window_of_chunk != NULL)
    munmap(m->window_of_chunk, CHUNK_COUNT * sizeof(uint32_t));
  if (m->slot_table != NULL)
    munmap(m->slot_table, CHUNK_COUNT * sizeof(struct slot));
  free(m->features);
  if (m->vm >= 0)
    close(m->vm);
  if (m->kvm >= 0)
    close(m->kvm);
  *m = (struct machine){.kvm = -1, .vm = -1};
}

void machine_forget(void) {
  vcpus_forget();
  RAW(SYS_close, cvm_machine.vm);
  RAW(SYS_close, cvm_machine.kvm);
  cvm_machine = (struct machine){.kvm = -1, .vm = -1};
  regions_forget();
}

struct cvm_facts cvm_facts(void) {
  const struct machine *m = &cvm_machine;
  return (struct cvm_facts){
      .phys_bits = m->phys_bits,
      .identity = m->identity,
      .call_cpl = m->call_cpl,
      .slots = m->slot_count,
      .logged_slots = log_slot_count(),
      .table_pages = m->table_count,
      .vcpus = atomic_load(&m->vcpu_count),
      .companion_calls = companion_served(),
  };
}
