/* Limits of the neonbf16 level: those of neon, and dot products of bf16 pairs. */
#include "kernels/cpu/simd_neon.h"
#include "kernels/cpu/probe_body.inc"

static float probe_bf16_loop(int64_t rounds) {
    vf acc[24];
    bfloat16x8_t x = vreinterpretq_bf16_u32(vdupq_n_u32(0x3F013F01));
#pragma GCC unroll 24
    for (int i = 0; i < 24; i++) acc[i] = vf_set1((float)i);
    for (int64_t r = 0; r < rounds; r++)
#pragma GCC unroll 24
        for (int i = 0; i < 24; i++) acc[i] = vbfdotq_f32(acc[i], x, x);
    vf sum = acc[0];
#pragma GCC unroll 24
    for (int i = 1; i < 24; i++) sum = vf_add(sum, acc[i]);
    return vf_sum(sum);
}

const probe_level probe_neonbf16 = {neon_probe_read_loop, neon_probe_f32_loop, CHAINS *VW * 2,
                                    probe_bf16_loop, 24 * VW * 4};
