/* Products of codes with narrow weights of the avx512vnni level: 7 rows x 2 vectors, in integers
 * and in f32. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/levels.h"
#include "kernels/cpu/narrow.h"
#include "kernels/cpu/simd_avx512.h"

typedef __m512i vi;

SIMD_FN vi vi_zero(void) {
    return _mm512_setzero_si512();
}
SIMD_FN vi vi_set1(int32_t x) {
    return _mm512_set1_epi32(x);
}
SIMD_FN vi vi_load(const void *p) {
    return _mm512_loadu_si512(p);
}
SIMD_FN void vi_store(void *p, vi v) {
    _mm512_storeu_si512(p, v);
}
SIMD_FN vi vi_and(vi a, vi b) {
    return _mm512_and_si512(a, b);
}
SIMD_FN vi vi_or(vi a, vi b) {
    return _mm512_or_si512(a, b);
}
SIMD_FN vi vi_left(vi v, int n) {
    return _mm512_slli_epi32(v, (unsigned)n);
}
SIMD_FN vi vi_right(vi v, int n) {
    return _mm512_srli_epi32(v, (unsigned)n);
}
SIMD_FN vf vi_to_f32(vi v) {
    return _mm512_cvtepi32_ps(v);
}
SIMD_FN vi vi_from_f32(vf v) {
    return _mm512_cvtps_epi32(v);
}
SIMD_FN void vi_store_i8(int8_t *p, vi v) {
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(v));
}
SIMD_FN vi vi_table(const uint8_t *p) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)p));
}
SIMD_FN vi vi_look_up(vi table, vi v) {
    return _mm512_shuffle_epi8(table, v);
}
SIMD_FN vf vf_load_u8(const void *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
SIMD_FN vf vf_load_i8(const void *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

/* In assembly: with the builtin gcc 12 copies and spills sums in every step. */
SIMD_FN vi vi_dot(vi acc, vi w, vi a) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(a));
    return acc;
}
#define VI_DOT           vi_dot
#define NARROW_MAX_CODE  255
#define NARROW_MR        7
#define NARROW_MICROS(M) M(1, 2) M(2, 2) M(3, 2) M(4, 2) M(5, 2) M(6, 2) M(7, 2)
#define NARROW_FEW       4
#define NARROW_DIRECT(M) M(1, 2) M(2, 2) M(3, 2) M(4, 2)
#define NARROW_ROW       avx512vnni_codes_narrow
#define NARROW_ROW_NAME  "avx512vnni_codes_narrow"
#include "kernels/cpu/narrow_body.inc"
