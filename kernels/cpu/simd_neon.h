/* Four f32 lanes by NEON (Armv8.0 and later): the vocabulary of simd_avx512.h. */
#ifndef KERNELS_CPU_SIMD_NEON_H
#define KERNELS_CPU_SIMD_NEON_H

#include <arm_neon.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define VW       4
#define VNAME(x) neon_##x

typedef float32x4_t vf;
typedef uint32x4_t vmask;
typedef int8x8_t v8;

#define SIMD_FN static inline __attribute__((always_inline, unused))

#define SIMD_PREFETCH(p)     __builtin_prefetch(p, 0, 3)
#define SIMD_PREFETCH_FAR(p) __builtin_prefetch(p, 0, 2)
#define SIMD_RELOAD()        ((void)0)

SIMD_FN vf vf_zero(void) {
    return vdupq_n_f32(0);
}
SIMD_FN vf vf_set1(float x) {
    return vdupq_n_f32(x);
}
SIMD_FN vf vf_load(const float *p) {
    return vld1q_f32(p);
}
SIMD_FN void vf_store(float *p, vf v) {
    vst1q_f32(p, v);
}
SIMD_FN vmask vm_first(int n) {
    static const int32_t lanes[4] = {0, 1, 2, 3};
    return vcltq_s32(vld1q_s32(lanes), vdupq_n_s32(n));
}
SIMD_FN vf vf_load_n(const float *p, int n) {
    if (n == VW) return vf_load(p);
    float x[VW] = {0};
    memcpy(x, p, (size_t)n * sizeof *x);
    return vf_load(x);
}
SIMD_FN void vf_store_n(float *p, int n, vf v) {
    if (n == VW) {
        vf_store(p, v);
        return;
    }
    float x[VW];
    vf_store(x, v);
    memcpy(p, x, (size_t)n * sizeof *x);
}
SIMD_FN vf vf_add(vf a, vf b) {
    return vaddq_f32(a, b);
}
SIMD_FN vf vf_sub(vf a, vf b) {
    return vsubq_f32(a, b);
}
SIMD_FN vf vf_mul(vf a, vf b) {
    return vmulq_f32(a, b);
}
SIMD_FN vf vf_div(vf a, vf b) {
    return vdivq_f32(a, b);
}
SIMD_FN vf vf_fma(vf a, vf b, vf c) {
    return vfmaq_f32(c, a, b);
}
SIMD_FN vf vf_fnma(vf a, vf b, vf c) {
    return vfmsq_f32(c, a, b);
}
SIMD_FN vf vf_blend(vmask m, vf no, vf yes) {
    return vbslq_f32(m, yes, no);
}
/* By comparison: fmax would give NaN where a lane is NaN in either, here it is b. */
SIMD_FN vf vf_max(vf a, vf b) {
    return vf_blend(vcgtq_f32(a, b), b, a);
}
SIMD_FN vf vf_min(vf a, vf b) {
    return vf_blend(vcltq_f32(a, b), b, a);
}
SIMD_FN vf vf_abs(vf a) {
    return vabsq_f32(a);
}
SIMD_FN vf vf_round(vf a) {
    return vrndnq_f32(a);
}
/* In two steps, so that the exponent of neither factor leaves the normal range. */
SIMD_FN vf vf_scale2(vf v, vf n) {
    int32x4_t i = vcvtq_s32_f32(n), half = vshrq_n_s32(i, 1), bias = vdupq_n_s32(127);
    int32x4_t rest = vsubq_s32(i, half);
    vf a = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, bias), 23));
    vf b = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(rest, bias), 23));
    return vmulq_f32(vmulq_f32(v, a), b);
}
SIMD_FN vf vf_scale2_normal(vf v, vf n) {
    int32x4_t i = vshlq_n_s32(vcvtq_s32_f32(n), 23);
    return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(v), i));
}
SIMD_FN vmask vf_lt(vf a, vf b) {
    return vcltq_f32(a, b);
}
SIMD_FN vmask vf_ge(vf a, vf b) {
    return vcgeq_f32(a, b);
}
SIMD_FN vmask vf_nan(vf a) {
    return vmvnq_u32(vceqq_f32(a, a));
}
SIMD_FN bool vm_any(vmask m) {
    return vmaxvq_u32(m) != 0;
}
SIMD_FN vf vf_iota(float i0) {
    static const float lanes[VW] = {0, 1, 2, 3};
    return vaddq_f32(vdupq_n_f32(i0), vld1q_f32(lanes));
}
SIMD_FN float vf_sum(vf v) {
    return vaddvq_f32(v); /* (0 + 1) + (2 + 3) */
}
/* to[0..4) = the sums of a, b, c and d, each in the same fixed order. */
SIMD_FN void vf_sum4(vf a, vf b, vf c, vf d, float *to) {
    vst1q_f32(to, vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d)));
}
SIMD_FN float vf_hmax(vf v) {
    return vmaxvq_f32(v);
}
SIMD_FN void vf_hmax4(vf a, vf b, vf c, vf d, float *to) {
    vst1q_f32(to, vpmaxq_f32(vpmaxq_f32(a, b), vpmaxq_f32(c, d)));
}

SIMD_FN vf vf_load_bf16(const uint16_t *p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}
SIMD_FN vf vf_load_f16(const uint16_t *p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
/* VW pairs of bf16: the even and the odd elements. */
SIMD_FN vf vf_even(uint32x4_t pairs) {
    return vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16));
}
SIMD_FN vf vf_odd(uint32x4_t pairs) {
    return vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xFFFF0000u)));
}
SIMD_FN uint32x4_t v32_load_n(const void *p, int n) {
    uint32_t x[VW] = {0};
    memcpy(x, p, (size_t)n * sizeof *x);
    return vld1q_u32(x);
}
SIMD_FN vf vf_load_even(const void *p) {
    return vf_even(vreinterpretq_u32_u8(vld1q_u8(p)));
}
SIMD_FN vf vf_load_odd(const void *p) {
    return vf_odd(vreinterpretq_u32_u8(vld1q_u8(p)));
}
SIMD_FN vf vf_load_even_n(const void *p, int n) {
    return n == VW ? vf_load_even(p) : vf_even(v32_load_n(p, n));
}
SIMD_FN vf vf_load_odd_n(const void *p, int n) {
    return n == VW ? vf_load_odd(p) : vf_odd(v32_load_n(p, n));
}
/* Codes of eight bits in the first VW lanes of b: as in simd_avx512.h. */
SIMD_FN vf vf_from_i8(v8 b) {
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(b))));
}
SIMD_FN vf vf_from_f8(v8 b) {
    int16x4_t w = vshl_n_s16(vget_low_s16(vmovl_s8(b)), 7);
    return vcvt_f32_f16(vreinterpret_f16_s16(vand_s16(w, vdup_n_s16((int16_t)0xBF80))));
}
SIMD_FN vf vf_from_four_i8(const void *p, int n, int j) {
    int32x4_t x = vreinterpretq_s32_u32(v32_load_n(p, n));
    return vcvtq_f32_s32(vshrq_n_s32(vshlq_s32(x, vdupq_n_s32(24 - 8 * j)), 24));
}
SIMD_FN v8 v8_load_n(const void *p, int n) {
    uint32_t u = 0;
    memcpy(&u, p, (size_t)n);
    return vcreate_s8(u);
}

/* VW elements rounded to nearest even; a NaN stays a quiet NaN. */
SIMD_FN uint16x4_t vf_bf16_bits(vf v) {
    uint32x4_t u = vreinterpretq_u32_f32(v);
    uint32x4_t odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
    uint32x4_t r = vaddq_u32(u, vaddq_u32(odd, vdupq_n_u32(0x7FFF)));
    return vshrn_n_u32(vbslq_u32(vf_nan(v), vorrq_u32(u, vdupq_n_u32(0x400000)), r), 16);
}
SIMD_FN void vf_store_bf16(uint16_t *p, vf v) {
    vst1_u16(p, vf_bf16_bits(v));
}

#endif
