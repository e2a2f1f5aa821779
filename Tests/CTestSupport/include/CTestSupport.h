// CTestSupport: what tests do to memory and Swift cannot say.
#ifndef CTESTSUPPORT_H
#define CTESTSUPPORT_H

/// Makes a mapped page answer with SIGBUS, as memory that failed does, until it is mapped again or
/// dropped; what it held in this mapping is gone. Returns 0 or a negative errno: -EOPNOTSUPP where
/// the kernel has no UFFDIO_POISON (before 6.6), -EBUSY where a tracker watches the page with
/// userfaultfd.
int cts_poison(void *page);

#endif
