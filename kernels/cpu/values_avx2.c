/* Products of quantised weights by their values of the avx2 level: a table is two registers, and
 * the fourth bit says which. */
#include <string.h>

#include "kernels/cpu/levels.h"
#include "kernels/cpu/narrow.h"
#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/ints_ymm.inc"

typedef struct values_table {
    vf low, high;
} values_table;

SIMD_FN values_table values_table_of(const float *p) {
    return (values_table){vf_load(p), vf_load(p + 8)};
}
SIMD_FN vf vf_pick(const values_table *t, vi at) {
    vf low = _mm256_permutevar8x32_ps(t->low, at), high = _mm256_permutevar8x32_ps(t->high, at);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(at, 28)));
}
SIMD_FN vf vf_pick_two(const values_table *t, vi at) {
    return _mm256_permutevar8x32_ps(t->low, at); /* the table repeats its first four */
}
/* An E4M3 in the upper byte of a binary16, its exponent one bit further down, counts 8 less. */
SIMD_FN vf vf_of_e4m3(__m128i upper) {
    __m128i half = _mm_srai_epi16(upper, 1);
    return _mm256_cvtph_ps(_mm_and_si128(half, _mm_set1_epi16((short)0xBF80)));
}
SIMD_FN void vf_e4m3(const void *p, vf *even, vf *odd) {
    __m128i pairs = _mm_loadu_si128(p);
    *even = vf_of_e4m3(_mm_slli_epi16(pairs, 8));
    *odd = vf_of_e4m3(pairs);
}
SIMD_FN void vf_e5m2(const void *p, vf *even, vf *odd) {
    __m128i pairs = _mm_loadu_si128(p);
    *even = _mm256_cvtph_ps(_mm_slli_epi16(pairs, 8));
    *odd = _mm256_cvtph_ps(_mm_and_si128(pairs, _mm_set1_epi16((short)0xFF00)));
}

#define VALUES_FEW 4
#define VALUES_MICROS(M, ...)                                                                      \
    M(0, 4, __VA_ARGS__)                                                                           \
    M(1, 4, __VA_ARGS__) M(2, 2, __VA_ARGS__) M(3, 2, __VA_ARGS__) M(4, 2, __VA_ARGS__)
#define VALUES_ROW      avx2_values
#define VALUES_ROW_NAME "avx2_values"
#include "kernels/cpu/values_body.inc"
