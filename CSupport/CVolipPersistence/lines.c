// The three variants of each function stand side by side so that a reader can see that they are
// the same function. The seal's step for word w of lane i, line n:
//
//   key       = LANE_KEY[i] + n * LINE_STEP
//   lane[i]  += low32(w ^ key) * high32(w ^ key)
//   lane[i^1] += w
//
// The product makes the step non-linear, the neighbour's sum keeps a word visible even where the
// product is zero (the accumulate step of XXH3, with keys that also change by line). Lanes are
// brought together by multiplications with odd numbers, which lose nothing.
#include "CVolipPersistence.h"

#include <immintrin.h>
#include <string.h>

#define LINE_STEP 0x9E3779B97F4A7C15ull

static const uint64_t LANE_KEY[8] __attribute__((aligned(64))) = {
    0x9FB21C651E98DF25ull, 0xD6E8FEB86659FD93ull, 0xA0761D6478BD642Full, 0xE7037ED1A0B428DBull,
    0x8EBC6AF09C88C6E3ull, 0x589965CC75374CC3ull, 0x1D8E4E27C47D124Full, 0xEB44ACCAB455D165ull,
};

enum cvp_variant cvp_variant_widest(void) {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl"))
    return CVP_AVX512;
  if (__builtin_cpu_supports("avx2"))
    return CVP_AVX2;
  return CVP_SCALAR;
}

// Set once, before main; every thread only reads it.
static enum cvp_variant chosen_variant = CVP_SCALAR;

__attribute__((constructor)) static void choose_variant(void) {
  chosen_variant = cvp_variant_widest();
}

// Difference

static inline void prefetch_line(struct cvp_page_pair next, unsigned line) {
  __builtin_prefetch((const char *)next.page + line * 64, 0, 3);
  __builtin_prefetch((const char *)next.image + line * 64, 0, 3);
}

static uint64_t difference_scalar(struct cvp_page_pair pair, struct cvp_page_pair next) {
  const uint64_t *page = pair.page;
  const uint64_t *image = pair.image;
  uint64_t mask = 0;
  for (unsigned line = 0; line < 64; line++) {
    prefetch_line(next, line);
    uint64_t any = 0;
    for (unsigned word = 0; word < 8; word++)
      any |= page[line * 8 + word] ^ image[line * 8 + word];
    mask |= (uint64_t)(any != 0) << line;
  }
  return mask;
}

__attribute__((target("avx2"))) static uint64_t difference_avx2(struct cvp_page_pair pair,
                                                                struct cvp_page_pair next) {
  uint64_t mask = 0;
  for (unsigned line = 0; line < 64; line++) {
    prefetch_line(next, line);
    const __m256i *p = (const __m256i *)((const char *)pair.page + line * 64);
    const __m256i *q = (const __m256i *)((const char *)pair.image + line * 64);
    __m256i low = _mm256_xor_si256(_mm256_load_si256(p), _mm256_load_si256(q));
    __m256i high = _mm256_xor_si256(_mm256_load_si256(p + 1), _mm256_load_si256(q + 1));
    __m256i any = _mm256_or_si256(low, high);
    mask |= (uint64_t)!_mm256_testz_si256(any, any) << line;
  }
  return mask;
}

__attribute__((target("avx512f,avx512bw,avx512vl"))) static uint64_t
difference_avx512(struct cvp_page_pair pair, struct cvp_page_pair next) {
  uint64_t mask = 0;
  for (unsigned line = 0; line < 64; line++) {
    prefetch_line(next, line);
    __m512i p = _mm512_load_si512((const char *)pair.page + line * 64);
    __m512i q = _mm512_load_si512((const char *)pair.image + line * 64);
    mask |= (uint64_t)(_mm512_cmpneq_epi64_mask(p, q) != 0) << line;
  }
  return mask;
}

uint64_t cvp_page_difference_variant(enum cvp_variant variant, struct cvp_page_pair pair,
                                     struct cvp_page_pair next) {
  switch (variant) {
  case CVP_AVX512:
    return difference_avx512(pair, next);
  case CVP_AVX2:
    return difference_avx2(pair, next);
  default:
    return difference_scalar(pair, next);
  }
}

uint64_t cvp_page_difference(struct cvp_page_pair pair, struct cvp_page_pair next) {
  return cvp_page_difference_variant(chosen_variant, pair, next);
}

// Seal

void cvp_seal_begin(struct cvp_seal *seal, uint64_t seed) {
  for (unsigned i = 0; i < 8; i++)
    seal->lanes[i] = cvp_mix(seed + LANE_KEY[i]);
  seal->line_count = 0;
}

static inline void seal_word(struct cvp_seal *seal, unsigned lane, uint64_t word, uint64_t step) {
  uint64_t keyed = word ^ (LANE_KEY[lane] + step);
  seal->lanes[lane] += (keyed & 0xFFFFFFFFu) * (keyed >> 32);
  seal->lanes[lane ^ 1] += word;
}

// `target` may be null: the lines are sealed and not stored.
static void lines_scalar(struct cvp_seal *seal, uint64_t *target, const uint64_t *lines,
                         size_t line_count) {
  for (size_t line = 0; line < line_count; line++) {
    uint64_t step = seal->line_count++ * LINE_STEP;
    for (unsigned lane = 0; lane < 8; lane++) {
      uint64_t word = ((const volatile uint64_t *)lines)[line * 8 + lane];
      if (target)
        _mm_stream_si64((long long *)&target[line * 8 + lane], (long long)word);
      seal_word(seal, lane, word, step);
    }
  }
}

__attribute__((target("avx2"))) static inline __m256i step_avx2(__m256i lanes, __m256i words,
                                                                __m256i key) {
  __m256i keyed = _mm256_xor_si256(words, key);
  __m256i product = _mm256_mul_epu32(keyed, _mm256_srli_epi64(keyed, 32));
  __m256i neighbour = _mm256_shuffle_epi32(words, 0x4E);
  return _mm256_add_epi64(lanes, _mm256_add_epi64(product, neighbour));
}

__attribute__((target("avx2"))) static void lines_avx2(struct cvp_seal *seal, uint8_t *target,
                                                       const uint8_t *lines, size_t line_count) {
  __m256i low = _mm256_loadu_si256((const __m256i *)&seal->lanes[0]);
  __m256i high = _mm256_loadu_si256((const __m256i *)&seal->lanes[4]);
  const __m256i step = _mm256_set1_epi64x((long long)LINE_STEP);
  const __m256i start = _mm256_set1_epi64x((long long)(seal->line_count * LINE_STEP));
  __m256i key_low = _mm256_add_epi64(_mm256_load_si256((const __m256i *)&LANE_KEY[0]), start);
  __m256i key_high = _mm256_add_epi64(_mm256_load_si256((const __m256i *)&LANE_KEY[4]), start);
  for (size_t line = 0; line < line_count; line++) {
    __m256i a = _mm256_load_si256((const __m256i *)(lines + line * 64));
    __m256i b = _mm256_load_si256((const __m256i *)(lines + line * 64 + 32));
    if (target) {
      _mm256_stream_si256((__m256i *)(target + line * 64), a);
      _mm256_stream_si256((__m256i *)(target + line * 64 + 32), b);
    }
    low = step_avx2(low, a, key_low);
    high = step_avx2(high, b, key_high);
    key_low = _mm256_add_epi64(key_low, step);
    key_high = _mm256_add_epi64(key_high, step);
  }
  _mm256_storeu_si256((__m256i *)&seal->lanes[0], low);
  _mm256_storeu_si256((__m256i *)&seal->lanes[4], high);
  seal->line_count += line_count;
}

__attribute__((target("avx512f,avx512bw,avx512vl"))) static void
lines_avx512(struct cvp_seal *seal, uint8_t *target, const uint8_t *lines, size_t line_count) {
  __m512i lanes = _mm512_loadu_si512(seal->lanes);
  const __m512i step = _mm512_set1_epi64((long long)LINE_STEP);
  __m512i key = _mm512_add_epi64(_mm512_load_si512(LANE_KEY),
                                 _mm512_set1_epi64((long long)(seal->line_count * LINE_STEP)));
  for (size_t line = 0; line < line_count; line++) {
    __m512i words = _mm512_load_si512(lines + line * 64);
    if (target)
      _mm512_stream_si512((__m512i *)(target + line * 64), words);
    __m512i keyed = _mm512_xor_si512(words, key);
    __m512i product = _mm512_mul_epu32(keyed, _mm512_srli_epi64(keyed, 32));
    __m512i neighbour = _mm512_shuffle_epi32(words, (_MM_PERM_ENUM)0x4E);
    lanes = _mm512_add_epi64(lanes, _mm512_add_epi64(product, neighbour));
    key = _mm512_add_epi64(key, step);
  }
  _mm512_storeu_si512(seal->lanes, lanes);
  seal->line_count += line_count;
}

static void lines_variant(enum cvp_variant variant, struct cvp_seal *seal, void *target,
                          const void *lines, size_t line_count) {
  switch (variant) {
  case CVP_AVX512:
    lines_avx512(seal, target, lines, line_count);
    break;
  case CVP_AVX2:
    lines_avx2(seal, target, lines, line_count);
    break;
  default:
    lines_scalar(seal, target, lines, line_count);
  }
}

void cvp_seal_lines_variant(enum cvp_variant variant, struct cvp_seal *seal, const void *lines,
                            size_t line_count) {
  lines_variant(variant, seal, NULL, lines, line_count);
}

void cvp_seal_lines(struct cvp_seal *seal, const void *lines, size_t line_count) {
  lines_variant(chosen_variant, seal, NULL, lines, line_count);
}

void cvp_seal_line_without_word(struct cvp_seal *seal, const void *line, unsigned word) {
  uint64_t words[8] __attribute__((aligned(64)));
  memcpy(words, line, sizeof words);
  words[word & 7] = 0;
  cvp_seal_lines(seal, words, 1);
}

void cvp_seal_and_store_lines_variant(enum cvp_variant variant, struct cvp_seal *seal, void *target,
                                      const void *lines, size_t line_count) {
  lines_variant(variant, seal, target, lines, line_count);
}

void cvp_seal_and_store_lines(struct cvp_seal *seal, void *target, const void *lines,
                              size_t line_count) {
  lines_variant(chosen_variant, seal, target, lines, line_count);
}

void cvp_seal_begin_part(struct cvp_seal *part, uint64_t first_line) {
  *part = (struct cvp_seal){.line_count = first_line};
}

void cvp_seal_add_part(struct cvp_seal *seal, const struct cvp_seal *part) {
  for (unsigned lane = 0; lane < 8; lane++)
    seal->lanes[lane] += part->lanes[lane];
  seal->line_count = part->line_count;
}

uint64_t cvp_seal_value(const struct cvp_seal *seal) {
  uint64_t value = seal->line_count * LINE_STEP;
  for (unsigned lane = 0; lane < 8; lane++) {
    uint64_t spread = (seal->lanes[lane] ^ (seal->lanes[lane] >> 32)) * (LANE_KEY[lane] | 1);
    value += (spread << (lane * 7 + 1)) | (spread >> (63 - lane * 7));
  }
  return cvp_mix(value);
}

// Copy

__attribute__((target("avx512f"))) static void copy_avx512(uint8_t *target, const uint8_t *lines,
                                                           size_t line_count) {
  for (size_t line = 0; line < line_count; line++)
    _mm512_store_si512(target + line * 64, _mm512_load_si512(lines + line * 64));
}

void cvp_copy_lines(void *target, const void *lines, size_t line_count) {
  if (chosen_variant == CVP_AVX512)
    copy_avx512(target, lines, line_count);
  else
    memcpy(target, lines, line_count * CVP_LINE_BYTES);
}

// No copy: memcpy of a kilobyte to itself returns without a store (glibc 2.34 and later).
void cvp_store_lines_again(void *lines, size_t line_count) {
  volatile uint64_t *words = lines;
  for (size_t line = 0; line < line_count; line++)
    words[line * 8] = words[line * 8];
}
