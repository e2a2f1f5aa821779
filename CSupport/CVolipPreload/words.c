// Nothing but the words that make CVolipEnter a library of its own.

// Words for the linker, where swift build collects them: it names the Swift runtime for every
// library, and this one goes into foreign programs without it.
__asm__(".pushsection .swift1_autolink_entries, \"e\", @progbits\n"
        ".asciz \"-Wl,--as-needed\"\n"
        ".popsection");
