// CVolipEnter: takes a process into guest mode before its main function, in the libraries that
// `volip run` preloads into programs. There is nothing to call.
//
// What it reads from the environment:
//   VOLIP_NATIVE_CHILDREN   programs that this one executes stay on the host
//   VOLIP_PHYS_BITS, VOLIP_KVM_DEVICE, VOLIP_TRACE   as VirtualMachine.enter() does
#ifndef CVOLIPENTER_H
#define CVOLIPENTER_H

#include <stdbool.h>

/// For a library with more in it than this: what is to be done before, false if the process is to
/// stay on the host; and what is to be done in the guest.
bool cvolipenter_begin(void) __attribute__((weak, visibility("hidden")));
void cvolipenter_end(void) __attribute__((weak, visibility("hidden")));

/// Exit status of a program that could not be taken into guest mode: "host unsupported".
#define CVOLIPENTER_EXIT_UNSUPPORTED 5

#endif
