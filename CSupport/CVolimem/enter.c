// The way in, in order: everything that may fail first, on the host, with the C library.
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

static bool fail(struct cvm_failure *failure, enum cvm_stage stage, int error,
                 const char *operation) {
  *failure = (struct cvm_failure){stage, error, operation};
  machine_discard();
  return false;
}

// Registers that the switch saves stand at the end of the vCPU's own stack.
static struct kvm_regs *room_for_registers(const struct vcpu *vcpu) {
  return (struct kvm_regs *)(vcpu->host_stack + HOST_STACK_BYTES - 1024);
}

bool cvm_enter(const struct cvm_options *options, struct cvm_failure *failure) {
  *failure = (struct cvm_failure){CVM_DONE, 0, ""};
  if (RAW(OWN_CALL_EXIT) == 0) {  // somebody answered who is not the kernel
    *failure = (struct cvm_failure){CVM_ENTERED, 0, "it is in guest mode already"};
    return false;
  }
  if (machine_prepare(options, failure) != 0) {
    machine_discard();
    return false;
  }
  void *target = mmap(NULL, PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (target == MAP_FAILED || machine_map((uint64_t)target, PAGE_BYTES) < 0)
    return fail(failure, CVM_CREATE, ENOMEM, "mmap");
  cvm_machine.call_target = (uint64_t)target;
  cvm_machine.call_leave = (uint64_t)target;
  calls_prepare();
  companion_begin();
  int error;
  struct vcpu *vcpu = vcpu_take(&error);
  if (vcpu == NULL)
    return fail(failure, CVM_CREATE, error, "KVM_CREATE_VCPU");
  atomic_store(&vcpu->tid, (int)RAW(SYS_gettid));
  atomic_store(&cvm_machine.thread_count, 1);
  bool shares_time_stamps = false;
  error = run_probe(vcpu, &shares_time_stamps);
  if (error != 0)
    return fail(failure, CVM_PROBE, error, "the first instructions in the guest");
  rewrite_prepare();
  error = vdso_prepare(!shares_time_stamps);
  if (error != 0)
    return fail(failure, CVM_CREATE, error, "a copy of the vDSO");
  error = signals_prepare(vcpu);
  if (error != 0)
    return fail(failure, CVM_CREATE, error, "sigaction");
  process_prepare();
  if (cvm_switch(vcpu, room_for_registers(vcpu)))
    return true;
  return fail(failure, CVM_CREATE, EIO, "the vCPU's registers");
}

bool cvm_is_guest(void) { return cvm_this_vcpu != NULL; }

uint64_t cvm_exits(void) {
  return cvm_this_vcpu != NULL ? atomic_load(&cvm_this_vcpu->exits) : 0;
}

uint64_t cvm_all_exits(void) {
  uint64_t exits = 0;
  for (const struct vcpu *vcpu = cvm_machine.first; vcpu != NULL; vcpu = vcpu->next)
    exits += atomic_load(&vcpu->exits);
  return exits;
}

void cvm_exit_once(void) { RAW(OWN_CALL_EXIT); }
