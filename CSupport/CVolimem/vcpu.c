// vCPUs: one for each thread while it lives, then kept for the next thread.
//
// State of a vCPU's `taken`: 0 free -> 1 taken (vcpu_take, under `vcpus`) -> 0 (the thread's very
// last store, when it has left its stacks for ever).
//
// Flushes (rule 14). A vCPU whose `generation` is older than the machine's may hold translations
// that allow more than the page table does. It flushes itself at a section's start, without an
// exit; before it comes back into the guest; or because another thread wants to open a section:
//
//     this vCPU                              the other thread
//     in_guest = 1                           generation raised (entries changed before)
//     generation old? flush                  in_guest and generation old? kick, wait for
//     run                                    in_guest == 0 or generation new
//
// Both sides are sequentially consistent: one of the two sees the other. The kick's handler sets
// immediate_exit, so a kick between the look and the run is not lost.
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_SYSCALL_MASK 0xc0000084
// Flags that SYSCALL clears: those that Linux clears.
#define SYSCALL_MASK 0x47700

// CR0: protected mode, monitor coprocessor, extension type, numeric errors, write protect,
// alignment mask, paging. As Linux has it.
#define CR0_BITS 0x80050033ul
// CR4: physical address extension, SSE and its exceptions, FSGSBASE, XSAVE.
#define CR4_BITS (0x20ul | 0x200ul | 0x400ul | 0x10000ul | 0x40000ul)
// EFER: SYSCALL, long mode enabled and active, no-execute.
#define EFER_BITS (0x1ul | 0x100ul | 0x400ul | 0x800ul)

#define GATE_INTERRUPT 0x8eul
#define BREAKPOINT 3
#define PAGE_FAULT 14

_Thread_local struct vcpu *cvm_this_vcpu;

long vcpu_ioctl(const struct vcpu *vcpu, unsigned long request, void *argument) {
  return RAW(SYS_ioctl, vcpu->fd, request, argument);
}

static void set_gate(int vector, const char *target, int privilege) {
  uint64_t address = (uint64_t)target;
  uint64_t kind = (GATE_INTERRUPT | (uint64_t)privilege << 5) << 8 | 1;  // interrupt stack 1
  uint64_t *gate = &cvm_machine.idt[2 * vector];
  gate[1] = address >> 32;
  gate[0] = (address & 0xffff) | (uint64_t)KERNEL_CODE << 16 | kind << 32 |
            (address >> 16 & 0xffff) << 48;
}

// Shared by all vCPUs.
static void fill_gates(void) {
  for (int vector = 0; vector < 256; vector++)
    set_gate(vector, cvm_exception_stubs + 16 * vector, 0);
  set_gate(BREAKPOINT, cvm_flush_stub, 3);
  set_gate(PAGE_FAULT, cvm_page_fault_stub, 0);
}

static void fill_tables(struct vcpu *vcpu) {
  vcpu->gdt[KERNEL_CODE >> 3] = 0x00af9b000000fffful;
  vcpu->gdt[KERNEL_DATA >> 3] = 0x00cf93000000fffful;
  vcpu->gdt[USER_DATA >> 3] = 0x00cff3000000fffful;
  vcpu->gdt[USER_CODE >> 3] = 0x00affb000000fffful;
  uint64_t task = (uint64_t)&vcpu->task;
  uint64_t limit = sizeof vcpu->task - 1;
  vcpu->gdt[TASK_SELECTOR >> 3] =
      limit | (task & 0xffffff) << 16 | 0x8bul << 40 | (task >> 24 & 0xff) << 56;
  vcpu->gdt[(TASK_SELECTOR >> 3) + 1] = task >> 32;
  uint64_t stack_end = (uint64_t)vcpu->exception_stack + EXCEPTION_STACK_BYTES;
  vcpu->task.rsp[0] = stack_end;
  vcpu->task.ist[0] = stack_end;
  vcpu->task.io_map = sizeof vcpu->task;
}

static struct kvm_segment segment(uint16_t selector, bool is_code) {
  return (struct kvm_segment){
      .limit = ~0u, .selector = selector, .type = is_code ? 11 : 3, .present = 1,
      .dpl = selector & 3, .db = !is_code, .s = 1, .l = is_code, .g = 1};
}

static int set_segments(struct vcpu *vcpu, uint64_t fs_base, uint64_t gs_base) {
  struct kvm_sregs s;
  long result = vcpu_ioctl(vcpu, KVM_GET_SREGS, &s);
  if (result != 0)
    return (int)-result;
  s.cs = segment(USER_CODE, true);
  s.ss = s.ds = s.es = s.fs = s.gs = segment(USER_DATA, false);
  s.fs.base = fs_base;
  vcpu->program_gs = gs_base;
  s.gs.base = rewrite_uses_gs() ? (uint64_t)vcpu->request : gs_base;
  s.tr = (struct kvm_segment){.base = (uint64_t)&vcpu->task, .limit = sizeof vcpu->task - 1,
                              .selector = TASK_SELECTOR, .type = 11, .present = 1};
  s.gdt.base = (uint64_t)vcpu->gdt;
  s.gdt.limit = sizeof vcpu->gdt - 1;
  s.idt.base = (uint64_t)cvm_machine.idt;
  s.idt.limit = PAGE_BYTES - 1;
  s.cr0 = CR0_BITS;
  s.cr3 = (uint64_t)machine_map((uint64_t)cvm_machine.top[0], PAGE_BYTES);
  s.cr4 = CR4_BITS;
  s.efer = EFER_BITS;
  return (int)-vcpu_ioctl(vcpu, KVM_SET_SREGS, &s);
}

static int set_call_target(struct vcpu *vcpu) {
  const struct kvm_msr_entry entries[] = {
      {.index = MSR_STAR,
       .data = (uint64_t)(USER_CODE - 16) << 48 | (uint64_t)KERNEL_CODE << 32},
      {.index = MSR_LSTAR, .data = (uint64_t)vcpu->call_stub},
      {.index = MSR_SYSCALL_MASK, .data = SYSCALL_MASK},
  };
  const int count = sizeof entries / sizeof entries[0];
  _Alignas(8) char room[sizeof(struct kvm_msrs) + sizeof entries] = {0};
  struct kvm_msrs *msrs = (struct kvm_msrs *)room;
  msrs->nmsrs = count;
  memcpy(msrs->entries, entries, sizeof entries);
  return vcpu_ioctl(vcpu, KVM_SET_MSRS, msrs) == count ? 0 : EIO;
}

// The program's clock: the vDSO computes time from the time stamp counter, which must be the
// host's.
static void share_time_stamps(struct vcpu *vcpu) {
  uint64_t offset = 0;
  struct kvm_device_attr attribute = {
      .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uint64_t)&offset};
  vcpu_ioctl(vcpu, KVM_SET_DEVICE_ATTR, &attribute);  // vdso.c looks whether it worked
}

static long map_pages(size_t bytes) {
  return RAW(SYS_mmap, 0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static bool is_error(long result) { return result < 0 && result > -(long)PAGE_BYTES; }

// Extended state as the host has it. Hardware takes only what KVM's CPUID lists; KVM under shadow
// paging may list none and take all.
static long enable_extended_state(struct vcpu *vcpu) {
  struct machine *m = &cvm_machine;
  struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs[0] = {.xcr = 0, .value = m->xcr0}};
  long result = vcpu_ioctl(vcpu, KVM_SET_XCRS, &xcrs);
  if (result == -EINVAL && m->xcr0_listed != 0) {
    m->xcr0 &= m->xcr0_listed;
    xcrs.xcrs[0].value = m->xcr0;
    result = vcpu_ioctl(vcpu, KVM_SET_XCRS, &xcrs);
  }
  return result;
}

static int make_call_stub(struct vcpu *vcpu) {
  long pages = map_pages(2 * PAGE_BYTES);
  if (is_error(pages))
    return (int)-pages;
  vcpu->call_stub = (char *)pages;
  vcpu->request = (struct request *)(vcpu->call_stub + PAGE_BYTES);
  memcpy(vcpu->call_stub, cvm_call_stub, (size_t)(cvm_call_stub_end - cvm_call_stub));
  RAW(SYS_mprotect, pages, PAGE_BYTES, PROT_READ | PROT_EXEC);
  int64_t mapped = machine_map((uint64_t)pages, 2 * PAGE_BYTES);
  return mapped < 0 ? (int)-mapped : 0;
}

static int fill(struct vcpu *vcpu, int index) {
  struct machine *m = &cvm_machine;
  vcpu->index = index;
  vcpu->fd = machine_own((int)RAW(SYS_ioctl, m->vm, KVM_CREATE_VCPU, index));
  if (vcpu->fd < 0)
    return -vcpu->fd;
  long run = RAW(SYS_mmap, 0, m->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
  long stack = map_pages(HOST_STACK_BYTES);
  long exceptions = map_pages(EXCEPTION_STACK_BYTES);
  vcpu->run = is_error(run) ? NULL : (struct kvm_run *)run;
  vcpu->host_stack = is_error(stack) ? NULL : (char *)stack;
  vcpu->exception_stack = is_error(exceptions) ? NULL : (char *)exceptions;
  if (vcpu->run == NULL || vcpu->host_stack == NULL || vcpu->exception_stack == NULL)
    return ENOMEM;
  // A child must not keep the machine alive.
  RAW(SYS_madvise, run, m->run_bytes, MADV_DONTFORK);
  RAW(SYS_madvise, exceptions, EXCEPTION_STACK_BYTES, MADV_DONTFORK);
  int error = make_call_stub(vcpu);
  if (error != 0)
    return error;
  int64_t mapped = machine_map((uint64_t)exceptions, EXCEPTION_STACK_BYTES);
  if (mapped >= 0)
    mapped = machine_map((uint64_t)vcpu, sizeof *vcpu);
  if (mapped < 0)
    return (int)-mapped;
  fill_tables(vcpu);
  long result = vcpu_ioctl(vcpu, KVM_SET_CPUID2, m->features);
  if (result != 0)
    return (int)-result;
  result = enable_extended_state(vcpu);
  if (result != 0)
    return (int)-result;
  share_time_stamps(vcpu);
  return set_call_target(vcpu);
}

static void discard(struct vcpu *vcpu) {
  if (vcpu->run != NULL)
    RAW(SYS_munmap, vcpu->run, cvm_machine.run_bytes);
  if (vcpu->host_stack != NULL)
    RAW(SYS_munmap, vcpu->host_stack, HOST_STACK_BYTES);
  if (vcpu->exception_stack != NULL)
    RAW(SYS_munmap, vcpu->exception_stack, EXCEPTION_STACK_BYTES);
  if (vcpu->call_stub != NULL)
    RAW(SYS_munmap, vcpu->call_stub, 2 * PAGE_BYTES);
  if (vcpu->fd > 0)
    RAW(SYS_close, vcpu->fd);
  RAW(SYS_munmap, vcpu, sizeof *vcpu);
}

// Under `vcpus`: an index is used up only by a vCPU that comes to be.
static struct vcpu *create(int *error) {
  struct machine *m = &cvm_machine;
  long pages = map_pages(sizeof(struct vcpu));
  if (is_error(pages)) {
    *error = (int)-pages;
    return NULL;
  }
  struct vcpu *vcpu = (struct vcpu *)pages;
  vcpu->taken = 1;
  if (m->first == NULL)
    fill_gates();
  *error = fill(vcpu, (int)atomic_load(&m->vcpu_count));
  if (*error != 0) {
    discard(vcpu);
    return NULL;
  }
  atomic_fetch_add(&m->vcpu_count, 1);
  vcpu->next = m->first;
  // Last: cvm_flush_others reads the list without the lock.
  __atomic_store_n(&m->first, vcpu, __ATOMIC_RELEASE);
  return vcpu;
}

struct vcpu *vcpu_take(int *error) {
  struct machine *m = &cvm_machine;
  *error = 0;
  lock(&m->vcpus);
  struct vcpu *vcpu = m->first;
  while (vcpu != NULL && atomic_load(&vcpu->taken) != 0)
    vcpu = vcpu->next;
  if (vcpu != NULL)
    atomic_store(&vcpu->taken, 1);
  else
    vcpu = create(error);
  unlock(&m->vcpus);
  return vcpu;
}

int vcpu_start(struct vcpu *vcpu, const struct kvm_regs *registers, uint64_t fs_base,
               uint64_t gs_base) {
  int error = set_segments(vcpu, fs_base, gs_base);
  if (error != 0)
    return error;
  struct kvm_run *run = vcpu->run;
  run->s.regs.regs = *registers;
  run->kvm_valid_regs = KVM_SYNC_X86_REGS;
  run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
  run->immediate_exit = 0;
  vcpu->pending = 0;
  vcpu->delivery_timer = 0;
  vcpu->visit = NULL;
  companion_prepare(vcpu);
  vcpu->own_place = NULL;
  atomic_store(&vcpu->generation, 0);
  return 0;
}

struct vcpu *vcpu_of_thread(void) {
  int tid = (int)RAW(SYS_gettid);
  struct vcpu *vcpu = __atomic_load_n(&cvm_machine.first, __ATOMIC_ACQUIRE);
  while (vcpu != NULL && atomic_load(&vcpu->tid) != tid)
    vcpu = vcpu->next;
  return vcpu;
}

// Other threads keep this library's value when one has taken GS for the program.
uint64_t vcpu_program_gs(const struct vcpu *vcpu, const struct kvm_sregs *s) {
  return s->gs.base == (uint64_t)vcpu->request ? vcpu->program_gs : s->gs.base;
}

// A program may change them in the guest, unseen.
void vcpu_share_bases(struct vcpu *vcpu) {
  enum { SET_GS = 0x1001, SET_FS };
  struct kvm_sregs s;
  long result = vcpu_ioctl(vcpu, KVM_GET_SREGS, &s);
  if (result == 0 && s.fs.base != vcpu->host_bases[0])
    result = RAW(SYS_arch_prctl, SET_FS, s.fs.base);
  uint64_t gs_base = vcpu_program_gs(vcpu, &s);
  if (result == 0 && gs_base != vcpu->host_bases[1])
    result = RAW(SYS_arch_prctl, SET_GS, gs_base);
  if (result != 0)
    machine_stop("volip: the segment bases could not be set, error ", (uint64_t)-result);
  vcpu->host_bases[0] = s.fs.base;
  vcpu->host_bases[1] = gs_base;
}

void vcpus_forget(void) {
  for (struct vcpu *vcpu = cvm_machine.first; vcpu != NULL; vcpu = vcpu->next)
    RAW(SYS_close, vcpu->fd);
}

int vcpu_copy_extended_state(struct vcpu *to, struct vcpu *from) {
  struct kvm_xsave state;
  long result = vcpu_ioctl(from, KVM_GET_XSAVE, &state);
  if (result == 0)
    result = vcpu_ioctl(to, KVM_SET_XSAVE, &state);
  return (int)-result;
}

bool vcpu_is_between_instructions(const struct vcpu *vcpu) {
  // Under shadow paging KVM keeps some events to itself. A fault that is delivered late, at another
  // instruction, happens again at its own; a breakpoint would be lost.
  const struct kvm_regs *registers = &vcpu->run->s.regs.regs;
  if (registers->rip == (uint64_t)cvm_flush_asked && registers->rax == CVM_FLUSH_MAGIC)
    return false;
  struct kvm_vcpu_events events;
  long result = vcpu_ioctl(vcpu, KVM_GET_VCPU_EVENTS, &events);
  if (result != 0)
    machine_stop("volip: KVM_GET_VCPU_EVENTS, error ", (uint64_t)-result);
  return !events.exception.injected && !events.exception.pending;
}

void vcpu_set_user_mode(struct vcpu *vcpu) {
  struct kvm_sregs s;
  long result = vcpu_ioctl(vcpu, KVM_GET_SREGS, &s);
  s.cs = segment(USER_CODE, true);
  s.ss = segment(USER_DATA, false);
  if (result == 0)
    result = vcpu_ioctl(vcpu, KVM_SET_SREGS, &s);
  if (result != 0)
    machine_stop("volip: a vCPU's level could not be set, error ", (uint64_t)-result);
}

// Changes CR3 to the other of the two equal top-level tables: every cached translation goes.
void vcpu_flush_if_stale(struct vcpu *vcpu) {
  uint64_t generation = atomic_load(&cvm_machine.generation);
  if (atomic_load(&vcpu->generation) == generation)
    return;
  struct kvm_sregs s;
  long result = vcpu_ioctl(vcpu, KVM_GET_SREGS, &s);
  s.cr3 ^= PAGE_BYTES;  // the two are neighbours at the start of the arena
  if (result == 0)
    result = vcpu_ioctl(vcpu, KVM_SET_SREGS, &s);
  if (result != 0)
    machine_stop("volip: a vCPU could not be flushed, error ", (uint64_t)-result);
  atomic_store(&vcpu->generation, generation);
}

void cvm_raise_flush_generation(void) { atomic_fetch_add(&cvm_machine.generation, 1); }

void cvm_flush_self(void) {
  struct vcpu *vcpu = cvm_this_vcpu;
  if (vcpu == NULL)
    return;
  uint64_t generation = atomic_load(&cvm_machine.generation);
  if (atomic_load(&vcpu->generation) == generation)
    return;
  cvm_flush_translations();
  atomic_store(&vcpu->generation, generation);
}

static bool is_stale_in_guest(const struct vcpu *vcpu, uint64_t generation) {
  return atomic_load(&vcpu->in_guest) && atomic_load(&vcpu->generation) < generation;
}

static bool is_still_in_guest(const struct vcpu *vcpu, uint64_t leaves) {
  return atomic_load(&vcpu->in_guest) && atomic_load(&vcpu->entered) < leaves;
}

void cvm_flush_others(void) {
  struct machine *m = &cvm_machine;
  struct vcpu *self = cvm_this_vcpu;
  uint64_t generation = atomic_load(&m->generation);
  // vCPUs are only ever added, at the front, so the list can be read without the lock.
  for (struct vcpu *vcpu = m->first; vcpu != NULL; vcpu = vcpu->next)
    if (vcpu != self && is_stale_in_guest(vcpu, generation)) {
      RAW(OWN_CALL_FLUSH_OTHERS);
      return;
    }
}

// Kicks every other vCPU to which a test applies, and waits until it applies to none.
static void kick_others(struct vcpu *self, bool (*is_wanted)(const struct vcpu *, uint64_t),
                        uint64_t number) {
  long process = RAW(SYS_getpid);
  for (struct vcpu *vcpu = cvm_machine.first; vcpu != NULL; vcpu = vcpu->next) {
    lock(&cvm_machine.kicks);
    if (vcpu != self && is_wanted(vcpu, number))
      RAW(SYS_tgkill, process, atomic_load(&vcpu->tid), KICK_SIGNAL);
    unlock(&cvm_machine.kicks);
  }
  for (struct vcpu *vcpu = cvm_machine.first; vcpu != NULL; vcpu = vcpu->next)
    while (vcpu != self && is_wanted(vcpu, number))
      RAW(SYS_sched_yield);
}

void vcpus_flush_others(struct vcpu *self) {
  kick_others(self, is_stale_in_guest, atomic_load(&cvm_machine.generation));
}

void vcpus_leave(struct vcpu *self) {
  kick_others(self, is_still_in_guest, atomic_fetch_add(&cvm_machine.leaves, 1) + 1);
}
