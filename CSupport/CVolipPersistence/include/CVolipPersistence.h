// CVolipPersistence: what the commit does to bytes and Swift cannot say. Mechanism, no policy.
//
// Owns: the comparison of a page with its image by 64-byte lines, the 64-bit seal over lines, and
// the store of lines that loads each of them once (rule 4) and goes round the cache.
//
// Invariants
// 1. Every variant of a function (scalar, AVX2, AVX-512) returns the same value for the same bytes.
// 2. A line that is stored is loaded once: what the seal covers is what was stored.
// 3. Nothing here flushes or fences; that is VolipPersistence's.
#ifndef CVOLIPPERSISTENCE_H
#define CVOLIPPERSISTENCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CVP_LINE_BYTES 64u
#define CVP_PAGE_BYTES 4096u

/// The instruction sets that a variant may use, from the widest this processor has downwards.
enum cvp_variant {
  CVP_SCALAR = 0,
  CVP_AVX2 = 1,
  CVP_AVX512 = 2,
};

/// The widest variant that this processor and its operating system can run.
enum cvp_variant cvp_variant_widest(void);

/// A page and its image, 4,096 bytes each, aligned to 64.
struct cvp_page_pair {
  const void *page;
  const void *image;
};

/// A mask of the 64-byte lines in which a page differs from its image: bit i for line i. The lines
/// of `next` are asked for meanwhile, one for each that is compared, so that the comparison of many
/// pages goes at the speed of memory.
uint64_t cvp_page_difference(struct cvp_page_pair pair, struct cvp_page_pair next);
uint64_t cvp_page_difference_variant(enum cvp_variant variant, struct cvp_page_pair pair,
                                     struct cvp_page_pair next);

/// The running state of a seal: eight lanes, one for each 8-byte word of a line.
struct cvp_seal {
  uint64_t lanes[8];
  uint64_t line_count;
};

/// Starts a seal. Two seals with different seeds share nothing.
void cvp_seal_begin(struct cvp_seal *seal, uint64_t seed);

/// Adds `line_count` lines of 64 bytes. `lines` is aligned to 64 bytes.
void cvp_seal_lines(struct cvp_seal *seal, const void *lines, size_t line_count);
void cvp_seal_lines_variant(enum cvp_variant variant, struct cvp_seal *seal, const void *lines,
                            size_t line_count);

/// Adds one line with one of its words, 0 to 7, taken as zero.
void cvp_seal_line_without_word(struct cvp_seal *seal, const void *line, unsigned word);

/// Adds lines as cvp_seal_lines does and stores the very bytes it added to `target` with
/// non-temporal stores. Both are aligned to 64 bytes and do not overlap.
void cvp_seal_and_store_lines(struct cvp_seal *seal, void *target, const void *lines,
                              size_t line_count);
void cvp_seal_and_store_lines_variant(enum cvp_variant variant, struct cvp_seal *seal, void *target,
                                      const void *lines, size_t line_count);

/// A seal is a sum over its lines: those from `first_line` on may be added to a part of their own,
/// by another thread, and the part to the seal. Parts are added in the order of their lines and
/// leave none out.
void cvp_seal_begin_part(struct cvp_seal *part, uint64_t first_line);
void cvp_seal_add_part(struct cvp_seal *seal, const struct cvp_seal *part);

/// The 64-bit seal of all lines added so far. A change of the lines, of their order, of their
/// number or of the seed goes unseen with probability 2^-64.
uint64_t cvp_seal_value(const struct cvp_seal *seal);

/// Copies lines with ordinary stores (rule 5). Both are aligned to 64 bytes.
void cvp_copy_lines(void *target, const void *lines, size_t line_count);

/// Stores lines over themselves, so that their pages are dirty whatever they were.
void cvp_store_lines_again(void *lines, size_t line_count);

/// Between the two no thread forks through the C library, and this one is not cancelled.
void cvp_forks_wait(void);
void cvp_forks_go_on(void);

/// fallocate, which Swift's view of the C library lacks: blocks for [offset, offset + byte_count)
/// of a file, whose bytes do not change. Returns 0 or a negative errno.
int cvp_allocate_blocks(int descriptor, uint64_t offset, uint64_t byte_count);

/// Writes zeroes to whole pages of a file, each by a call of its own: what is written in larger
/// pieces is cached in larger ones, and a store to one of those is flushed as all of it. Writes
/// nothing where the process may not write so far into a file. Returns 0 or a negative errno.
int cvp_write_zeros(int descriptor, uint64_t offset, uint64_t byte_count);

/// Copies bytes from one file to another. Returns 0 or a negative errno, -EIO where the source
/// ends.
int cvp_copy_bytes(int from, uint64_t from_offset, int to, uint64_t to_offset, size_t byte_count);

/// Gives the blocks of a range of a file back: it reads as zeros. Returns 0 or a negative errno.
int cvp_punch_hole(int descriptor, uint64_t offset, uint64_t byte_count);

/// 1 for a file on tmpfs, 0 for any other.
int cvp_is_on_tmpfs(int descriptor);

/// Opens a new file without a name in a directory, for reading and writing. Returns its descriptor
/// or a negative errno; -EOPNOTSUPP where the file system has no such files.
int cvp_unnamed_file(const char *directory, unsigned permissions);

/// Gives a file without a name one that must not exist. Returns 0 or a negative errno.
int cvp_name_file(int descriptor, const char *path);

/// Failed pages that a mapping remembers; of more only the number is known.
#define CVP_FAILED_PAGES_MAX 16u

/// What becomes of a page that fails with SIGBUS while a thread is inside the library.
enum cvp_media_kind {
  /// A mapping of the file itself: zeros stand in for the page.
  CVP_MEDIA_FILE = 0,
  /// The program's private memory over a file: the page is dropped and is the file's again.
  CVP_MEDIA_PRIVATE = 1,
};

struct cvp_media;

/// Watches a mapping. NULL when too many are watched or SIGBUS has no handler of ours.
struct cvp_media *cvp_media_watch(enum cvp_media_kind kind, void *base, size_t byte_count);
void cvp_media_forget(struct cvp_media *media);

/// Between the two this thread is inside the library. They nest.
void cvp_media_enter(void);
void cvp_media_leave(void);

/// Pages that failed since the last clear, and where the first CVP_FAILED_PAGES_MAX of them begin,
/// in bytes from the mapping's base.
size_t cvp_media_failed_count(const struct cvp_media *media);
/// Not while a thread has counted a page and not yet said which it is: asked behind the count, it
/// speaks for all that were counted.
bool cvp_media_is_settled(const struct cvp_media *media);
size_t cvp_media_failed(const struct cvp_media *media, size_t index);
void cvp_media_clear(struct cvp_media *media);
/// Nothing where there are not `counted` of them any more.
void cvp_media_clear_counted(struct cvp_media *media, size_t counted);

/// Whether a private page could not be read when it was the file's again: zeros stand in for some.
bool cvp_media_is_hopeless(const struct cvp_media *media);

/// Maps a page of a file in place of its stand-in. Returns 0 or a negative errno.
int cvp_media_map_again(void *page, int descriptor, uint64_t offset);

/// Whether pages can be read: 0, or the negative errno in whose stead a load would get SIGBUS.
/// Where the kernel cannot tell (before 5.14) it is 0.
int cvp_media_probe(const void *pages, size_t byte_count);

/// A bijection of 64-bit words that spreads every bit over all others (Stafford's variant 13 of
/// the murmur3 finalizer, as in splitmix64).
static inline uint64_t cvp_mix(uint64_t word) {
  word ^= word >> 30;
  word *= 0xBF58476D1CE4E5B9ull;
  word ^= word >> 27;
  word *= 0x94D049BB133111EBull;
  return word ^ (word >> 31);
}

/// Asks for the line of an address that is about to be written.
static inline void cvp_prefetch(const void *address) {
  __builtin_prefetch(address, 1, 3);
}

/// Time-stamp counter, for costs that are compared with each other and never reported as time.
static inline uint64_t cvp_ticks(void) {
  return __builtin_ia32_rdtsc();
}

#endif
