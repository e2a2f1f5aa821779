// CVolipPreload: the library that `volip run` preloads into programs. It takes a process into guest
// mode before its main function. There is nothing to call.
//
// What it reads from the environment:
//   VOLIP_NATIVE_CHILDREN   programs that this one executes stay on the host
//   VOLIP_PHYS_BITS, VOLIP_KVM_DEVICE, VOLIP_TRACE   as VirtualMachine.enter() does
#ifndef CVOLIPPRELOAD_H
#define CVOLIPPRELOAD_H

/// Exit status of a program that could not be taken into guest mode: "host unsupported".
#define CVOLIPPRELOAD_EXIT_UNSUPPORTED 5

#endif
