// The dirty log: KVM's own note of the pages that the guest wrote.
//
// Invariants
// 1. A slot is logged while it has users; they are counted under `slots`.
// 2. Reading clears nothing and clearing takes the bits of a mask: who uses the same slot for other
//    pages is not disturbed.
// 3. A page whose bit is clear cannot be written by the guest without setting it. KVM sees to that
//    by itself, its flushes included; no entry of the guest's page table is changed for it.
// 4. A processor that logs by itself (page-modification logging) hands its log to KVM when it
//    leaves the guest. KVM asks the others to leave and does not wait for them, so a read makes
//    them leave before.
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>

#define WORD_PAGES 64ul

enum log_operation { LOG_START, LOG_STOP, LOG_READ, LOG_CLEAR };

static struct slot *slot_of(uint64_t page) {
  struct machine *m = &cvm_machine;
  uint32_t count = __atomic_load_n(&m->slot_count, __ATOMIC_ACQUIRE);
  for (struct slot *slot = m->slot_table; slot < m->slot_table + count; slot++)
    if (page - slot->first_page < slot->page_count)
      return slot;
  return NULL;
}

static uint64_t end_of(const struct slot *slot) { return slot->first_page + slot->page_count; }

static uint32_t number_of(const struct slot *slot) {
  return (uint32_t)(slot - cvm_machine.slot_table);
}

// Bits are cleared apart from reading. KVM may set all of them at first: then it has nothing to
// protect, not even the memory of others in the slot, before a bit is cleared.
static int enable(void) {
  struct machine *m = &cvm_machine;
  const long wanted = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
  long offered = RAW(SYS_ioctl, m->kvm, KVM_CHECK_EXTENSION, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
  if (offered < 0 || !(offered & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE))
    return -EOPNOTSUPP;
  struct kvm_enable_cap capability = {
      .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args[0] = (uint64_t)(offered & wanted)};
  return RAW(SYS_ioctl, m->vm, KVM_ENABLE_CAP, &capability) == 0 ? 0 : -EOPNOTSUPP;
}

static void give_back(uint64_t page, uint64_t end) {
  while (page < end) {
    struct slot *slot = slot_of(page);
    if (slot->log_users > 0 && --slot->log_users == 0)
      machine_set_slot(slot, 0);
    page = end_of(slot);
  }
}

static int take(uint64_t first, uint64_t end) {
  for (uint64_t page = first; page < end;) {
    struct slot *slot = slot_of(page);
    int error = slot->log_users > 0 ? 0 : machine_set_slot(slot, KVM_MEM_LOG_DIRTY_PAGES);
    if (error != 0) {
      give_back(first, page);
      return -error;
    }
    slot->log_users++;
    page = end_of(slot);
  }
  return 0;
}

static int start(struct cvm_log *log, uint64_t address, uint64_t byte_count) {
  uint64_t last = (address + byte_count - 1) >> PAGE_SHIFT;
  if (!machine_has(address) || !machine_has(last << PAGE_SHIFT))
    return -EINVAL;
  lock(&cvm_machine.slots);
  uint64_t first = slot_of(address >> PAGE_SHIFT)->first_page;
  uint64_t end = end_of(slot_of(last));
  int result = enable();
  if (result == 0)
    result = take(first, end);
  unlock(&cvm_machine.slots);
  *log = (struct cvm_log){first, end - first};
  return result;
}

static void stop(const struct cvm_log *log) {
  lock(&cvm_machine.slots);
  give_back(log->first_page, log->first_page + log->page_count);
  unlock(&cvm_machine.slots);
}

static long read_bits(const struct cvm_log *log, uint64_t page_count, uint64_t *bits) {
  long result = 0;
  for (uint64_t page = 0; page < page_count && result == 0;) {
    const struct slot *slot = slot_of(log->first_page + page);
    struct kvm_dirty_log request = {
        .slot = number_of(slot), .dirty_bitmap = bits + page / WORD_PAGES};
    result = RAW(SYS_ioctl, cvm_machine.vm, KVM_GET_DIRTY_LOG, &request);
    page += slot->page_count;
  }
  return result;
}

// All words of a slot at once: KVM ends each request with a flush, and passes over an empty word
// faster than any request begins.
static long clear_in_slot(const struct slot *slot, uint64_t first, uint64_t end,
                          const uint64_t *mask) {
  while (first < end && *mask == 0)
    first++, mask++;
  while (first < end && mask[end - first - 1] == 0)
    end--;
  if (first == end)
    return 0;
  uint64_t count = (end - first) * WORD_PAGES;
  uint64_t rest = slot->page_count - first * WORD_PAGES;
  struct kvm_clear_dirty_log request = {
      .slot = number_of(slot),
      .num_pages = (uint32_t)(count < rest ? count : rest),
      .first_page = first * WORD_PAGES,
      .dirty_bitmap = (void *)mask,
  };
  return RAW(SYS_ioctl, cvm_machine.vm, KVM_CLEAR_DIRTY_LOG, &request);
}

static long clear_bits(const struct cvm_log *log, uint64_t first, uint64_t end,
                       const uint64_t *mask) {
  long result = 0;
  while (first < end && result == 0) {
    const struct slot *slot = slot_of(log->first_page + first * WORD_PAGES);
    uint64_t start = (slot->first_page - log->first_page) / WORD_PAGES;
    uint64_t slot_end = start + (slot->page_count + WORD_PAGES - 1) / WORD_PAGES;
    uint64_t stop = end < slot_end ? end : slot_end;
    result = clear_in_slot(slot, first - start, stop - start, mask + first);
    first = stop;
  }
  return result;
}

uint64_t log_slot_count(void) {
  uint64_t count = 0;
  for (uint32_t i = 0; i < cvm_machine.slot_count; i++)
    count += cvm_machine.slot_table[i].log_users > 0;
  return count;
}

long log_call(struct vcpu *vcpu, const struct kvm_regs *registers) {
  struct cvm_log *log = (struct cvm_log *)registers->rsi;
  switch ((enum log_operation)registers->rdi) {
  case LOG_START:
    return start(log, registers->rdx, registers->r10);
  case LOG_STOP:
    stop(log);
    return 0;
  case LOG_READ:
    vcpus_leave(vcpu);
    return read_bits(log, registers->rdx, (uint64_t *)registers->r10);
  case LOG_CLEAR:
    return clear_bits(log, registers->rdx, registers->r10, (const uint64_t *)registers->r8);
  }
  return -EINVAL;
}

int cvm_log_start(struct cvm_log *log, uint64_t address, uint64_t byte_count) {
  return (int)RAW(OWN_CALL_LOG, LOG_START, log, address, byte_count);
}

int cvm_log_stop(struct cvm_log *log) { return (int)RAW(OWN_CALL_LOG, LOG_STOP, log); }

int cvm_log_read(struct cvm_log *log, uint64_t page_count, uint64_t *bits) {
  return (int)RAW(OWN_CALL_LOG, LOG_READ, log, page_count, bits);
}

int cvm_log_clear(struct cvm_log *log, uint64_t first, uint64_t end, const uint64_t *mask) {
  return (int)RAW(OWN_CALL_LOG, LOG_CLEAR, log, first, end, mask);
}
