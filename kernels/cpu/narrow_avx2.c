/* Products of codes with narrow weights of the avx2 level, which has no dpbusd: pairs of products
 * in 16 bits by vpmaddubsw, which is exact for codes up to 127 (two of 127 * 127 fit), then pairs
 * of those. Wider codes are left to the expanding path. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/levels.h"
#include "kernels/cpu/narrow.h"
#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/ints_ymm.inc"

SIMD_FN vi vi_dot(vi acc, vi w, vi a) {
    vi pairs = _mm256_maddubs_epi16(w, a);
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

#define VI_DOT              vi_dot
#define NARROW_MAX_CODE     127
#define NARROW_MR           4
#define NARROW_MICROS(M, k) M(1, 4, k) M(2, 2, k) M(3, 2, k) M(4, 2, k)
#define NARROW_FEW          4
#define NARROW_DIRECT(M, k) M(1, 4, k) M(2, 2, k) M(3, 2, k) M(4, 2, k)
#define NARROW_ROW          avx2_codes_narrow
#define NARROW_ROW_NAME     "avx2_codes_narrow"
#include "kernels/cpu/narrow_body.inc"
