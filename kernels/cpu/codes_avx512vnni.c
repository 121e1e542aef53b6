/* Products of codes of the avx512vnni level: 12 rows x 2 vectors of sums. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/codes.h"
#include "kernels/cpu/levels.h"
#include "kernels/cpu/simd_avx512.h"

typedef __m512i vi;

#define VI_KEEP(v) __asm__("" : "+v"(v))

SIMD_FN vi vi_set1(int32_t x) {
    return _mm512_set1_epi32(x);
}
SIMD_FN vi vi_load(const void *p) {
    return _mm512_loadu_si512(p);
}
SIMD_FN void vi_store(void *p, vi v) {
    _mm512_storeu_si512(p, v);
}
SIMD_FN vi vi_add(vi a, vi b) {
    return _mm512_add_epi32(a, b);
}
SIMD_FN vi vi_round(vf v) {
    return _mm512_cvtps_epi32(v);
}
SIMD_FN void vi_store_i8(int8_t *p, vi v) {
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(v));
}
SIMD_FN vf vi_to_f32(vi v) {
    return _mm512_cvtepi32_ps(v);
}
SIMD_FN vi vi_load_i16(const int16_t *p) {
    return _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)p));
}
#define VI_DOT(acc, w, a) _mm512_dpbusd_epi32(acc, w, a)
#include "kernels/cpu/codes_vnni.inc"

#define CODES_NAME(x)  avx512vnni_codes_int8_##x
#define CODES_ROW      avx512vnni_codes_int8
#define CODES_ROW_NAME "avx512vnni_codes_int8"
#define CODES_MR       12
#define CODES_MICROS(M)                                                                            \
    M(1, 2)                                                                                        \
    M(2, 2) M(3, 2) M(4, 2) M(5, 2) M(6, 2) M(7, 2) M(8, 2) M(9, 2) M(10, 2) M(11, 2) M(12, 2)
#include "kernels/cpu/codes_int8_row.inc"
