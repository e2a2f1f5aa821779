// What makes CVolipEnter a library of its own: nothing to do before and after.
#include <CVolipEnter.h>

bool cvolipenter_begin(void) { return true; }
void cvolipenter_end(void) {}

// Words for the linker, where swift build collects them: it names the Swift runtime for every
// library, and this one goes into foreign programs without it.
__asm__(".pushsection .swift1_autolink_entries, \"e\", @progbits\n"
        ".asciz \"-Wl,--as-needed\"\n"
        ".popsection");
