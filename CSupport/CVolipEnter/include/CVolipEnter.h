// CVolipEnter: takes a process into guest mode before its main function, in the libraries that
// `volip run` preloads into programs. There is nothing to call.
//
// What it reads from the environment:
//   VOLIP_NATIVE_CHILDREN   programs that this one executes stay on the host
//   VOLIP_PHYS_BITS, VOLIP_KVM_DEVICE, VOLIP_TRACE   as VirtualMachine.enter() does
#ifndef CVOLIPENTER_H
#define CVOLIPENTER_H

#include <stdbool.h>

/// What the library around it has to do: before, false if the process is to stay on the host; and
/// in the guest.
bool cvolipenter_begin(void) __attribute__((visibility("hidden")));
void cvolipenter_end(void) __attribute__((visibility("hidden")));

/// Exit status of a program that could not be taken into guest mode: "host unsupported".
#define CVOLIPENTER_EXIT_UNSUPPORTED 5

#endif
