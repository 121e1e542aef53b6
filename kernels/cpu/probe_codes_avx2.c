/* Limit of products of codes at the avx2 level: codes widened to 16 bits, two products of pairs. */
#include <immintrin.h>

typedef __m256i vi;
#define PROBE_CODES probe_codes_avx2
#define CHAINS      10
#define WIDTH       8
#define vi_set1(x)  _mm256_set1_epi32(x)

/* Products of what the compiler cannot know to be the same again. */
static inline vi two_pairs(vi acc, vi w, vi a) {
    for (int i = 0; i < 2; i++) {
        __asm__ volatile("" : "+x"(a));
        acc = _mm256_add_epi32(acc, _mm256_madd_epi16(w, a));
    }
    return acc;
}
#define PROBE_DOT two_pairs
#include "kernels/cpu/probe_codes.inc"
