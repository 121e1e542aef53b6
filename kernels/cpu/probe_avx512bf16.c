/* Limits of the avx512bf16 level: those of avx512, and dot products of bf16 pairs. */
#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/probe_body.inc"

static float probe_bf16_loop(int64_t rounds) {
    vf acc[24];
    __m512bh x = (__m512bh)_mm512_set1_epi32(0x3F003F00);
#pragma GCC unroll 24
    for (int i = 0; i < 24; i++) acc[i] = vf_set1((float)i);
    for (int64_t r = 0; r < rounds; r++)
#pragma GCC unroll 24
        for (int i = 0; i < 24; i++) acc[i] = _mm512_dpbf16_ps(acc[i], x, x);
    vf sum = acc[0];
#pragma GCC unroll 24
    for (int i = 1; i < 24; i++) sum = vf_add(sum, acc[i]);
    return vf_sum(sum);
}

const probe_level probe_avx512bf16 = {avx512_probe_read_loop, avx512_probe_f32_loop, CHAINS *VW * 2,
                                      probe_bf16_loop, 24 * VW * 4};
