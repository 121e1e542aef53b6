/* Eight f32 lanes by AVX2, FMA and F16C: the vocabulary of simd_avx512.h. */
#ifndef KERNELS_CPU_SIMD_AVX2_H
#define KERNELS_CPU_SIMD_AVX2_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>

#define VW       8
#define VNAME(x) avx2_##x

typedef __m256 vf;
typedef __m256 vmask;
typedef __m128i v8;

#define SIMD_FN static inline __attribute__((always_inline, unused))

#define SIMD_PREFETCH(p)     _mm_prefetch((const char *)(p), _MM_HINT_T0)
#define SIMD_PREFETCH_FAR(p) _mm_prefetch((const char *)(p), _MM_HINT_T1)

SIMD_FN vf vf_zero(void) {
    return _mm256_setzero_ps();
}
SIMD_FN vf vf_set1(float x) {
    return _mm256_set1_ps(x);
}
SIMD_FN vf vf_load(const float *p) {
    return _mm256_loadu_ps(p);
}
SIMD_FN void vf_store(float *p, vf v) {
    _mm256_storeu_ps(p, v);
}
SIMD_FN __m256i vm_first_i(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
SIMD_FN vmask vm_first(int n) {
    return _mm256_castsi256_ps(vm_first_i(n));
}
SIMD_FN vf vf_load_n(const float *p, int n) {
    if (__builtin_constant_p(n) && n == VW) return vf_load(p);
    return _mm256_maskload_ps(p, vm_first_i(n));
}
SIMD_FN void vf_store_n(float *p, int n, vf v) {
    _mm256_maskstore_ps(p, vm_first_i(n), v);
}
SIMD_FN vf vf_add(vf a, vf b) {
    return _mm256_add_ps(a, b);
}
SIMD_FN vf vf_sub(vf a, vf b) {
    return _mm256_sub_ps(a, b);
}
SIMD_FN vf vf_mul(vf a, vf b) {
    return _mm256_mul_ps(a, b);
}
SIMD_FN vf vf_div(vf a, vf b) {
    return _mm256_div_ps(a, b);
}
SIMD_FN vf vf_fma(vf a, vf b, vf c) {
    return _mm256_fmadd_ps(a, b, c);
}
SIMD_FN vf vf_fnma(vf a, vf b, vf c) {
    return _mm256_fnmadd_ps(a, b, c);
}
SIMD_FN vf vf_max(vf a, vf b) {
    return _mm256_max_ps(a, b);
}
SIMD_FN vf vf_min(vf a, vf b) {
    return _mm256_min_ps(a, b);
}
SIMD_FN vf vf_abs(vf a) {
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
SIMD_FN vf vf_round(vf a) {
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* In two steps, so that the exponent of neither factor leaves the normal range. */
SIMD_FN vf vf_scale2(vf v, vf n) {
    __m256i i = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(i, 1);
    __m256i bias = _mm256_set1_epi32(127), rest = _mm256_sub_epi32(i, half);
    vf a = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    vf b = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
    return _mm256_mul_ps(_mm256_mul_ps(v, a), b);
}
SIMD_FN vf vf_scale2_normal(vf v, vf n) {
    __m256i i = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), i));
}
SIMD_FN vmask vf_lt(vf a, vf b) {
    return _mm256_cmp_ps(a, b, _CMP_LT_OQ);
}
SIMD_FN vmask vf_ge(vf a, vf b) {
    return _mm256_cmp_ps(a, b, _CMP_GE_OQ);
}
SIMD_FN vmask vf_nan(vf a) {
    return _mm256_cmp_ps(a, a, _CMP_UNORD_Q);
}
SIMD_FN bool vm_any(vmask m) {
    return _mm256_movemask_ps(m) != 0;
}
SIMD_FN vf vf_blend(vmask m, vf no, vf yes) {
    return _mm256_blendv_ps(no, yes, m);
}
SIMD_FN vf vf_iota(float i0) {
    return _mm256_add_ps(_mm256_set1_ps(i0), _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7));
}
SIMD_FN float vf_sum(vf v) {
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
/* to[0..4) = the sums of a, b, c and d, each in the same fixed order. */
SIMD_FN void vf_sum4(vf a, vf b, vf c, vf d, float *to) {
    vf ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    vf cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    vf all = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xEE));
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}
SIMD_FN float vf_hmax(vf v) {
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}
SIMD_FN void vf_hmax4(vf a, vf b, vf c, vf d, float *to) {
    vf ab = _mm256_max_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    vf cd = _mm256_max_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    vf all = _mm256_max_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xEE));
    _mm_storeu_ps(to, _mm_max_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}

SIMD_FN vf vf_load_bf16(const uint16_t *p) {
    __m256i u = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(u, 16));
}
SIMD_FN vf vf_load_f16(const uint16_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
SIMD_FN vf vf_load_even(const void *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256((const __m256i *)p), 16));
}
SIMD_FN vf vf_load_odd(const void *p) {
    __m256i high = _mm256_set1_epi32((int)0xFFFF0000u);
    return _mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256((const __m256i *)p), high));
}
SIMD_FN vf vf_load_even_n(const void *p, int n) {
    if (__builtin_constant_p(n) && n == VW) return vf_load_even(p);
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_maskload_epi32((const int *)p, vm_first_i(n)), 16));
}
SIMD_FN vf vf_load_odd_n(const void *p, int n) {
    if (__builtin_constant_p(n) && n == VW) return vf_load_odd(p);
    __m256i high = _mm256_set1_epi32((int)0xFFFF0000u);
    return _mm256_castsi256_ps(
        _mm256_and_si256(_mm256_maskload_epi32((const int *)p, vm_first_i(n)), high));
}
SIMD_FN vf vf_from_i8(v8 b) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(b));
}
SIMD_FN vf vf_from_f8(v8 b) {
    __m128i w = _mm_slli_epi16(_mm_cvtepi8_epi16(b), 7);
    return _mm256_cvtph_ps(_mm_and_si128(w, _mm_set1_epi16((short)0xBF80)));
}
SIMD_FN vf vf_from_four_i8(const void *p, int n, int j) {
    __m256i x = __builtin_constant_p(n) && n == VW
                    ? _mm256_loadu_si256((const __m256i *)p)
                    : _mm256_maskload_epi32((const int *)p, vm_first_i(n));
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(x, 24 - 8 * j), 24));
}
SIMD_FN v8 v8_load_n(const void *p, int n) {
    if (__builtin_constant_p(n) && n == VW) return _mm_loadl_epi64((const __m128i *)p);
    int64_t u = 0;
    __builtin_memcpy(&u, p, (size_t)n);
    return _mm_cvtsi64_si128(u);
}
#define SIMD_RELOAD() __asm__ volatile("" ::: "memory")

SIMD_FN __m256i vf_bf16_bits(vf v) {
    __m256i u = _mm256_castps_si256(v);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i r = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    __m256i nan = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    vf bits = vf_blend(vf_nan(v), _mm256_castsi256_ps(r), _mm256_castsi256_ps(nan));
    return _mm256_srli_epi32(_mm256_castps_si256(bits), 16);
}
SIMD_FN void vf_store_bf16(uint16_t *p, vf v) {
    __m256i u = vf_bf16_bits(v);
    __m256i h = _mm256_permute4x64_epi64(_mm256_packus_epi32(u, u), 0x08);
    _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(h));
}

#endif
