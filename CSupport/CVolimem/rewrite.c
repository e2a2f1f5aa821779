// System-call instructions become jumps, where SYSCALL itself is what costs most.
//
// Under shadow paging every SYSCALL of the guest goes through KVM. An instruction that is executed
// often is therefore replaced: in a private copy of its page, which only the guest's page table
// shows. Outside the guest (children, visits, debuggers) the program is as it was.
//
//     mov $number, %eax                 jmp trampoline
//     syscall                    ->     syscall
//
//     syscall                           jmp gap            (two bytes for two)
//     ...                               ...
//     ret                               ret
//     gap: no-operations behind ret     gap: jmp trampoline
//
//     trampoline: what syscall does: the way back into rcx, and to the vCPU's call stub,
//                 which gs finds
//
// So nobody who stands at or behind a replaced instruction is lost, nothing is pushed, and what is
// replaced was executed as a system call a moment ago: no guess about what is code. A new copy of
// the page replaces it by one store to its table entry, which the vCPU makes in the guest: KVM does
// not see stores from the host. Another vCPU that has not flushed runs the instruction as it was.
//
// `rewriting` guards everything here; trampolines are never freed.
#define _GNU_SOURCE
#include "internal.h"

#include <link.h>
#include <string.h>
#include <sys/mman.h>

#define ARENA_BYTES (512ul << 10)
#define PAGE_COUNT 64
#define SITE_COUNT 256
#define PROBE_COUNT 16
#define TRAMPOLINE_BYTES 64
// Behind the system call of a trampoline, with the number's move and without.
#define CALL_END 26
#define MOVED_CALL_END 31
#define HOT_COUNT 8           // exits of a site before it is replaced
#define SHORT_JUMP_MAX 127
#define LONG_JUMP_BYTES 5
#define OBJECT_BYTES_MAX (64ul << 20)

struct site {
  uint64_t address;  // of the SYSCALL instruction
  uint32_t exits;
  bool is_tried;
};

// A page that the guest sees changed.
struct changed_page {
  uint64_t address;
  uint64_t original;  // its entry
  const char *copy;
};

struct trampoline {
  uint64_t site;        // of the replaced instruction: where a call that has not begun begins
  uint64_t gap;         // of the jump between, or 0
  const uint8_t *code;
};

static struct {
  cvm_lock lock;
  char *next, *end;            // of the arena
  char *arena;
  uint64_t *is_on;             // the arena's first word, which trampolines read; NULL: never on
  struct site sites[SITE_COUNT];
  struct changed_page pages[PAGE_COUNT];
  _Atomic uint32_t page_count;
  struct trampoline trampolines[SITE_COUNT];
  uint32_t trampoline_count;
} rewriting;

// Finding room for a jump

// Length of a no-operation that compilers fill with, or 0.
static int filler_length(const uint8_t *code) {
  int prefixes = 0;
  while (code[prefixes] == 0x66 && prefixes < 8)
    prefixes++;
  const uint8_t *rest = code + prefixes;
  if (rest[0] == 0x90)
    return prefixes + 1;
  if (rest[0] == 0x2e)
    rest++, prefixes++;
  if (rest[0] != 0x0f || rest[1] != 0x1f)
    return 0;
  switch (rest[2]) {
  case 0x00: return prefixes + 3;
  case 0x40: return prefixes + 4;
  case 0x44: return prefixes + 5;
  case 0x80: return prefixes + 7;
  case 0x84: return prefixes + 8;
  default: return 0;
  }
}

// Bytes of an operand that begins with a ModR/M byte.
static int operand_length(const uint8_t *code) {
  int mode = code[0] >> 6, memory = code[0] & 7, length = 1;
  if (mode == 3)
    return length;
  if (memory == 4) {
    if (mode == 0 && (code[1] & 7) == 5)
      return length + 1 + 4;
    length++;
  }
  if (mode == 1)
    return length + 1;
  return mode == 2 || memory == 5 ? length + 4 : length;
}

// Length of one of the instructions that stand behind system calls, or 0.
static int instruction_length(const uint8_t *code) {
  int prefixes = 0;
  if (code[prefixes] == 0x64)
    prefixes++;
  if ((code[prefixes] & 0xf0) == 0x40)
    prefixes++;
  const uint8_t *at = code + prefixes;
  if (at[0] >= 0x50 && at[0] <= 0x5f)  // push, pop
    return prefixes + 1;
  if (at[0] >= 0x70 && at[0] <= 0x7f)
    return prefixes + 2;
  switch (at[0]) {
  case 0x3d:  // cmp $imm32, %rax
  case 0xe8:
  case 0xe9:
    return prefixes + 5;
  case 0xeb:
    return prefixes + 2;
  case 0x01: case 0x09: case 0x21: case 0x29: case 0x31: case 0x39:
  case 0x85: case 0x89: case 0x8b: case 0x8d:
    return prefixes + 1 + operand_length(at + 1);
  case 0x83:
    return prefixes + 1 + operand_length(at + 1) + 1;
  case 0xc7:
    return prefixes + 1 + operand_length(at + 1) + 4;
  case 0xf7:  // neg and not; test has an immediate
    return (at[1] & 0x30) == 0 ? 0 : prefixes + 1 + operand_length(at + 1);
  case 0x0f:
    return at[1] >= 0x80 && at[1] <= 0x8f ? prefixes + 6 : 0;
  default:
    return 0;
  }
}

static bool leaves(const uint8_t *code) {
  return code[0] == 0xc3 || code[0] == 0xeb || code[0] == 0xe9;
}

// The first place for a long jump that nobody runs into: filler behind a return or a jump. 0 if
// there is none before an instruction that is not known, or none in reach or on this page.
// `original` is the same code as it was: what is behind a replaced instruction can be reached.
static int find_gap(const uint8_t *syscall, const uint8_t *original, int room) {
  int at = 2;
  bool is_unreachable = false;
  while (at + 16 < room && at - 2 <= SHORT_JUMP_MAX) {
    if (original[at] == 0x0f && original[at + 1] == 0x05)
      return 0;
    int filler = 0;
    for (int length; filler < LONG_JUMP_BYTES && (length = filler_length(syscall + at + filler));)
      filler += length;
    if (is_unreachable && filler >= LONG_JUMP_BYTES)
      return at;
    int length = filler > 0 ? filler : syscall[at] == 0xc3 ? 1 : instruction_length(syscall + at);
    if (length == 0)
      return 0;
    is_unreachable = leaves(syscall + at);
    at += length;
  }
  return 0;
}

// Writing

static bool reaches(uint64_t from, uint64_t to) {
  int64_t distance = (int64_t)(to - from);
  return distance < 1l << 30 && distance > -(1l << 30);
}

static uint8_t *put_distance(uint8_t *code, uint64_t at, uint64_t target) {
  int32_t distance = (int32_t)(target - (at + sizeof distance));
  memcpy(code, &distance, sizeof distance);
  return code + sizeof distance;
}

static uint8_t *put_bytes(uint8_t *code, const void *bytes, size_t count) {
  memcpy(code, bytes, count);
  return code + count;
}

// `number` is what rax has to be, or negative if it is there already.
static void write_trampoline(uint8_t *code, int64_t number, uint64_t back) {
  uint8_t *at = code;
  if (number >= 0) {
    int32_t value = (int32_t)number;
    *at++ = 0xb8;  // mov $number, %eax
    at = put_bytes(at, &value, sizeof value);
  }
  at = put_bytes(at, "\x48\x8b\x0d", 3);  // mov is_on(%rip), %rcx
  at = put_distance(at, (uint64_t)at, (uint64_t)rewriting.is_on);
  at = put_bytes(at, "\xe3\x0f", 2);      // jrcxz to the system call
  at = put_bytes(at, "\x48\x8d\x0d", 3);  // lea back(%rip), %rcx
  at = put_distance(at, (uint64_t)at, back);
  at = put_bytes(at, "\x65\xff\x24\x25", 4);  // jmp *%gs:direct
  const uint32_t direct = offsetof(struct request, direct);
  at = put_bytes(at, &direct, sizeof direct);
  at = put_bytes(at, "\x0f\x05\xe9", 3);  // syscall, jmp back
  put_distance(at, (uint64_t)at, back);
}

static void *take(size_t bytes) {
  if ((size_t)(rewriting.end - rewriting.next) < bytes)
    return NULL;
  char *it = rewriting.next;
  rewriting.next += bytes;
  return it;
}

static struct changed_page *find_page(uint64_t address) {
  for (uint32_t i = 0; i < rewriting.page_count; i++)
    if (rewriting.pages[i].address == address)
      return &rewriting.pages[i];
  return NULL;
}

static struct changed_page *page_at(uint64_t address) {
  struct changed_page *page = find_page(address);
  uint64_t *entry = machine_entry(address);
  if (page != NULL || entry == NULL || rewriting.page_count == PAGE_COUNT)
    return page;
  page = &rewriting.pages[rewriting.page_count];
  *page = (struct changed_page){address, *entry, (const char *)address};
  atomic_fetch_add(&rewriting.page_count, 1);
  return page;
}

// Copies are made from both ends of the arena's rest: trampolines from its start, pages at its end.
static char *take_page(void) {
  if ((size_t)(rewriting.end - rewriting.next) < 2 * PAGE_BYTES)
    return NULL;
  rewriting.end -= PAGE_BYTES;
  return rewriting.end;
}

static void show(struct vcpu *vcpu, const struct changed_page *page, uint64_t value) {
  uint64_t *entry = machine_entry(page->address);
  if (entry != NULL)
    run_store(vcpu, entry, value);
}

// Whether the bytes of a mov before a system call may be the end of another instruction: of one
// with a prefix, or of a store of the number to the stack.
static bool has_longer_form(const uint8_t *syscall) {
  return (syscall[-6] & 0xf0) == 0x40 || syscall[-6] == 0x66 ||
         (syscall[-7] == 0xc7 && (syscall[-6] & 0xc0) == 0x40) ||
         (syscall[-8] == 0xc7 && (syscall[-7] & 0xc7) == 0x44);
}

static void replace(struct vcpu *vcpu, uint64_t syscall, int64_t number) {
  uint64_t address = syscall & ~(PAGE_BYTES - 1);
  struct changed_page *page = page_at(address);
  if (page == NULL || !reaches(syscall, (uint64_t)rewriting.arena) ||
      rewriting.trampoline_count == SITE_COUNT)
    return;
  uint64_t offset = syscall - address;
  const uint8_t *code = (const uint8_t *)page->copy + offset;
  // The same number and no prefix before it: an instruction.
  const int move_bytes = 5;
  int32_t moved = -1;
  if (offset > 8 && code[-5] == 0xb8 && !has_longer_form(code))
    memcpy(&moved, code - 4, sizeof moved);
  bool is_moved = moved >= 0 && moved == number;
  int gap = is_moved ? 0 : find_gap(code, (const uint8_t *)syscall, (int)(PAGE_BYTES - offset));
  if (!is_moved && gap == 0)
    return;
  uint8_t *trampoline = take(TRAMPOLINE_BYTES);
  char *copy = take_page();
  if (trampoline == NULL || copy == NULL)
    return;
  write_trampoline(trampoline, is_moved ? number : -1, syscall + 2);
  memcpy(copy, page->copy, PAGE_BYTES);
  uint64_t start = is_moved ? syscall - move_bytes : syscall;
  uint64_t jump = is_moved ? start : syscall + (uint64_t)gap;
  uint8_t *changed = (uint8_t *)copy + (jump - address);
  *changed = 0xe9;
  put_distance(changed + 1, jump + 1, (uint64_t)trampoline);
  if (!is_moved)
    put_bytes((uint8_t *)copy + offset, (uint8_t[]){0xeb, (uint8_t)(gap - 2)}, 2);
  rewriting.trampolines[rewriting.trampoline_count++] =
      (struct trampoline){start, is_moved ? 0 : jump, trampoline};
  page->copy = copy;
  // A store to program code goes to the host, which has it read-only.
  const uint64_t flags = page->original & ~ADDRESS_MASK & ~(uint64_t)CVM_WRITABLE;
  show(vcpu, page, cvm_physical((uint64_t)copy) | flags);
  cvm_raise_flush_generation();
}

// What others ask for

// The site's place in a hash table from which nothing is ever removed; NULL if it is full there.
static struct site *find_site(uint64_t syscall) {
  for (uint32_t i = 0; i < PROBE_COUNT; i++) {
    struct site *site = &rewriting.sites[((syscall ^ syscall >> 8) + i) % SITE_COUNT];
    if (site->address == 0)
      site->address = syscall;
    if (site->address == syscall)
      return site;
  }
  return NULL;
}

void rewrite_call_left(struct vcpu *vcpu, uint64_t back, long number) {
  if (!rewrite_uses_gs() || atomic_exchange(&rewriting.lock, 1) != 0)
    return;  // another time
  struct site *site = find_site(back - 2);
  if (site != NULL && !site->is_tried && ++site->exits >= HOT_COUNT) {
    site->is_tried = true;
    replace(vcpu, site->address, number);
  }
  unlock(&rewriting.lock);
}

// Whether a call for so many bytes at an address reaches the page.
static bool is_reached(const struct changed_page *page, const uint64_t *arguments) {
  return page->address + PAGE_BYTES > arguments[0] &&
         page->address - arguments[0] < arguments[1] + PAGE_BYTES;
}

bool rewrite_covers(long number, const uint64_t *arguments) {
  if (atomic_load(&rewriting.page_count) == 0)
    return false;
  bool changes = number == SYS_munmap || number == SYS_mprotect || number == SYS_mremap ||
                 number == SYS_pkey_mprotect ||
                 (number == SYS_mmap && (arguments[3] & MAP_FIXED) != 0);
  for (uint32_t i = 0; changes && i < atomic_load(&rewriting.page_count); i++)
    if (is_reached(&rewriting.pages[i], arguments))
      return true;
  return false;
}

// A page that the program is about to change or take away is shown as it is again.
void rewrite_forget(struct vcpu *vcpu, const uint64_t *arguments) {
  lock(&rewriting.lock);
  for (uint32_t i = 0; i < rewriting.page_count; i++) {
    struct changed_page *page = &rewriting.pages[i];
    if (!is_reached(page, arguments))
      continue;
    show(vcpu, page, page->original);
    *page = rewriting.pages[rewriting.page_count - 1];
    atomic_fetch_sub(&rewriting.page_count, 1);
    i--;
  }
  unlock(&rewriting.lock);
  cvm_raise_flush_generation();
  vcpus_flush_others(vcpu);
}

uint64_t rewrite_site(uint64_t rip) {
  for (uint32_t i = 0; i < rewriting.trampoline_count; i++) {
    const struct trampoline *it = &rewriting.trampolines[i];
    uint64_t offset = rip - (uint64_t)it->code;
    bool is_moved = it->gap == 0;
    if (offset == (is_moved ? MOVED_CALL_END : CALL_END))  // the call is over
      return it->site + (is_moved ? 7 : 2);
    if (offset < TRAMPOLINE_BYTES || (it->gap != 0 && rip == it->gap))
      return it->site;
  }
  return 0;
}

bool rewrite_uses_gs(void) {
  return rewriting.is_on != NULL && __atomic_load_n(rewriting.is_on, __ATOMIC_ACQUIRE) != 0;
}

void rewrite_give_back_gs(void) {
  if (rewriting.is_on != NULL)
    __atomic_store_n(rewriting.is_on, 0, __ATOMIC_RELEASE);
}

// Before anything has run in the guest, KVM sees what the tables become.
static int split_object(struct dl_phdr_info *object, size_t size, void *more) {
  (void)size, (void)more;
  for (int i = 0; i < object->dlpi_phnum; i++) {
    const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
    uint64_t address = object->dlpi_addr + segment->p_vaddr;
    if (segment->p_type == PT_LOAD && (segment->p_flags & (PF_X | PF_W)) == PF_X &&
        segment->p_memsz < OBJECT_BYTES_MAX && reaches(address, (uint64_t)rewriting.arena))
      machine_split(address, segment->p_memsz);
  }
  return 0;
}

void rewrite_prepare(void) {
  memset(&rewriting, 0, sizeof rewriting);
  if (cvm_machine.call_cpl != 3)
    return;  // a processor's own SYSCALL costs nothing
  void *arena = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (arena == MAP_FAILED || machine_map((uint64_t)arena, ARENA_BYTES) < 0)
    return;
  rewriting.arena = arena;
  rewriting.is_on = arena;
  rewriting.next = rewriting.arena + TRAMPOLINE_BYTES;
  rewriting.end = rewriting.arena + ARENA_BYTES;
  dl_iterate_phdr(split_object, NULL);
  *rewriting.is_on = 1;
}
