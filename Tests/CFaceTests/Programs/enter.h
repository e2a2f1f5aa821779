// Put before any program, it makes a virtual machine of it before its main.
#include <stdio.h>
#include <stdlib.h>
#include <volip.h>

__attribute__((constructor)) static void enter_before_main(void) {
  if (volip_enter() == VOLIP_OK)
    return;
  fprintf(stderr, "%s\n", volip_error_text());
  exit(5);
}
