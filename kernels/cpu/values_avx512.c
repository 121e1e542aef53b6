/* Products of quantised weights by their values of the avx512 level: a table is one register. */
#include <string.h>

#include "kernels/cpu/levels.h"
#include "kernels/cpu/narrow.h"
#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/ints_zmm.inc"

typedef vf values_table;

SIMD_FN values_table values_table_of(const float *p) {
    return vf_load(p);
}
SIMD_FN vf vf_pick(const values_table *t, vi at) {
    return _mm512_permutexvar_ps(at, *t);
}
SIMD_FN vf vf_pick_two(const values_table *t, vi at) {
    return vf_pick(t, at); /* the table repeats its first four */
}
/* An E4M3 in the upper byte of a binary16, its exponent one bit further down, counts 8 less. */
SIMD_FN vf vf_of_e4m3(__m256i upper) {
    __m256i half = _mm256_srai_epi16(upper, 1);
    return _mm512_cvtph_ps(_mm256_and_si256(half, _mm256_set1_epi16((short)0xBF80)));
}
SIMD_FN void vf_e4m3(const void *p, vf *even, vf *odd) {
    __m256i pairs = _mm256_loadu_si256(p);
    *even = vf_of_e4m3(_mm256_slli_epi16(pairs, 8));
    *odd = vf_of_e4m3(pairs);
}
SIMD_FN void vf_e5m2(const void *p, vf *even, vf *odd) {
    __m256i pairs = _mm256_loadu_si256(p);
    *even = _mm512_cvtph_ps(_mm256_slli_epi16(pairs, 8));
    *odd = _mm512_cvtph_ps(_mm256_and_si256(pairs, _mm256_set1_epi16((short)0xFF00)));
}

#define VALUES_FEW 4
#define VALUES_MICROS(M, ...)                                                                      \
    M(0, 2, __VA_ARGS__)                                                                           \
    M(1, 4, __VA_ARGS__) M(2, 4, __VA_ARGS__) M(3, 4, __VA_ARGS__) M(4, 4, __VA_ARGS__)
#define VALUES_ROW      avx512_values
#define VALUES_ROW_NAME "avx512_values"
#include "kernels/cpu/values_body.inc"
