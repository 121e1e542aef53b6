/* Sixteen f32 lanes by AVX-512 (F, BW, DQ, VL). The vocabulary of the *.inc templates; the same
 * names over AVX2 are in simd_avx2.h. Include from one .c compiled for these instructions. */
#ifndef KERNELS_CPU_SIMD_AVX512_H
#define KERNELS_CPU_SIMD_AVX512_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>

#define VW       16 /* lanes */
#define VNAME(x) avx512_##x

typedef __m512 vf;
typedef __mmask16 vmask;
typedef __m128i v8; /* VW bytes, in the low lanes */

#define SIMD_FN static inline __attribute__((always_inline, unused))

/* The cache line at p: into the first level, into the second. */
#define SIMD_PREFETCH(p)     _mm_prefetch((const char *)(p), _MM_HINT_T0)
#define SIMD_PREFETCH_FAR(p) _mm_prefetch((const char *)(p), _MM_HINT_T1)

SIMD_FN vf vf_zero(void) {
    return _mm512_setzero_ps();
}
SIMD_FN vf vf_set1(float x) {
    return _mm512_set1_ps(x);
}
SIMD_FN vf vf_load(const float *p) {
    return _mm512_loadu_ps(p);
}
SIMD_FN void vf_store(float *p, vf v) {
    _mm512_storeu_ps(p, v);
}
/* The first n lanes, 0 <= n <= VW; the others are read as 0 and not written. */
SIMD_FN vmask vm_first(int n) {
    return (vmask)((1u << n) - 1);
}
SIMD_FN vf vf_load_n(const float *p, int n) {
    if (__builtin_constant_p(n) && n == VW) return vf_load(p);
    return _mm512_maskz_loadu_ps(vm_first(n), p);
}
SIMD_FN void vf_store_n(float *p, int n, vf v) {
    _mm512_mask_storeu_ps(p, vm_first(n), v);
}
SIMD_FN vf vf_add(vf a, vf b) {
    return _mm512_add_ps(a, b);
}
SIMD_FN vf vf_sub(vf a, vf b) {
    return _mm512_sub_ps(a, b);
}
SIMD_FN vf vf_mul(vf a, vf b) {
    return _mm512_mul_ps(a, b);
}
SIMD_FN vf vf_div(vf a, vf b) {
    return _mm512_div_ps(a, b);
}
SIMD_FN vf vf_fma(vf a, vf b, vf c) {
    return _mm512_fmadd_ps(a, b, c);
} /* a*b + c */
SIMD_FN vf vf_fnma(vf a, vf b, vf c) {
    return _mm512_fnmadd_ps(a, b, c);
} /* c - a*b */
/* b where a lane is NaN in either. */
SIMD_FN vf vf_max(vf a, vf b) {
    return _mm512_max_ps(a, b);
}
SIMD_FN vf vf_min(vf a, vf b) {
    return _mm512_min_ps(a, b);
}
SIMD_FN vf vf_abs(vf a) {
    return _mm512_abs_ps(a);
}
SIMD_FN vf vf_round(vf a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* v * 2^n for integral n in [-126, 129]. */
SIMD_FN vf vf_scale2(vf v, vf n) {
    return _mm512_scalef_ps(v, n);
}
/* The same where v * 2^n is a normal number. */
SIMD_FN vf vf_scale2_normal(vf v, vf n) {
    return _mm512_scalef_ps(v, n);
}
SIMD_FN vmask vf_lt(vf a, vf b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
SIMD_FN vmask vf_ge(vf a, vf b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
}
SIMD_FN vmask vf_nan(vf a) {
    return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
}
SIMD_FN bool vm_any(vmask m) {
    return m != 0;
}
SIMD_FN vf vf_blend(vmask m, vf no, vf yes) {
    return _mm512_mask_blend_ps(m, no, yes);
}
/* Lanes i0, i0+1, ... as numbers. */
SIMD_FN vf vf_iota(float i0) {
    return _mm512_add_ps(_mm512_set1_ps(i0),
                         _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}
/* Reductions in one fixed order: halves, quarters, ... */
SIMD_FN float vf_sum(vf v) {
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
/* to[0..4) = the sums of a, b, c and d, each in the same fixed order. */
SIMD_FN void vf_sum4(vf a, vf b, vf c, vf d, float *to) {
    vf ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    vf cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    vf all = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xEE));
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}
SIMD_FN float vf_hmax(vf v) {
    return _mm512_reduce_max_ps(v);
}
/* to[0..4) = the maxima of a, b, c and d; none holds a NaN. */
SIMD_FN void vf_hmax4(vf a, vf b, vf c, vf d, float *to) {
    vf ab = _mm512_max_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    vf cd = _mm512_max_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    vf all = _mm512_max_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xEE));
    __m256 half = _mm256_max_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    _mm_storeu_ps(to, _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}

SIMD_FN vf vf_load_bf16(const uint16_t *p) {
    __m512i u = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
}
SIMD_FN vf vf_load_f16(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
/* VW pairs of bf16: the even and the odd elements. */
SIMD_FN vf vf_load_even(const void *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16));
}
SIMD_FN vf vf_load_odd(const void *p) {
    __m512i high = _mm512_set1_epi32((int)0xFFFF0000u);
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), high));
}
/* The first n lanes of them; the others are zero and not read. */
SIMD_FN vf vf_load_even_n(const void *p, int n) {
    if (__builtin_constant_p(n) && n == VW) return vf_load_even(p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_maskz_loadu_epi32(vm_first(n), p), 16));
}
SIMD_FN vf vf_load_odd_n(const void *p, int n) {
    if (__builtin_constant_p(n) && n == VW) return vf_load_odd(p);
    __m512i high = _mm512_set1_epi32((int)0xFFFF0000u);
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_maskz_loadu_epi32(vm_first(n), p), high));
}
/* VW (the first n; the others are 0 and not read) codes of eight bits: signed integers, and E4M3
 * without its NaNs, times 2^-8. Both are exact: an E4M3 moved into a binary16 is one whose exponent
 * counts 8 less. */
SIMD_FN vf vf_from_i8(v8 b) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(b));
}
SIMD_FN vf vf_from_f8(v8 b) {
    __m256i w = _mm256_slli_epi16(_mm256_cvtepi8_epi16(b), 7);
    return _mm512_cvtph_ps(_mm256_and_si256(w, _mm256_set1_epi16((short)0xBF80)));
}
/* Code j of each of the first n lanes' four; the others are 0 and not read. */
SIMD_FN vf vf_from_four_i8(const void *p, int n, int j) {
    __m512i x = __builtin_constant_p(n) && n == VW ? _mm512_loadu_si512(p)
                                                   : _mm512_maskz_loadu_epi32(vm_first(n), p);
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(x, (unsigned)(24 - 8 * j)), 24));
}
SIMD_FN v8 v8_load_n(const void *p, int n) {
    if (__builtin_constant_p(n) && n == VW) return _mm_loadu_si128((const __m128i *)p);
    return _mm_maskz_loadu_epi8(vm_first(n), p);
}
/* With few registers: forget what was loaded, so that it is loaded again instead of spilled. */
#define SIMD_RELOAD() ((void)0)

/* Round to bf16, kept as f32. NaN keeps a quiet NaN. */
SIMD_FN __m512i vf_bf16_bits(vf v) {
    __m512i u = _mm512_castps_si512(v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    __m512i nan = _mm512_or_si512(u, _mm512_set1_epi32(0x400000));
    return _mm512_srli_epi32(_mm512_mask_blend_epi32(vf_nan(v), r, nan), 16);
}
/* VW elements rounded to nearest even. */
SIMD_FN void vf_store_bf16(uint16_t *p, vf v) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(vf_bf16_bits(v)));
}

#endif
