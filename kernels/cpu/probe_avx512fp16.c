/* Limits of the avx512fp16 level: those of avx512, and multiply-adds of f16. */
#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/probe_body.inc"

static float probe_f16_loop(int64_t rounds) {
    __m512h acc[CHAINS], x = _mm512_set1_ph(0.5f);
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) acc[i] = _mm512_set1_ph((_Float16)i);
    for (int64_t r = 0; r < rounds; r++)
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) acc[i] = _mm512_fmadd_ph(acc[i], x, x);
    __m512h sum = acc[0];
#pragma GCC unroll 12
    for (int i = 1; i < CHAINS; i++) sum = _mm512_add_ph(sum, acc[i]);
    return (float)_mm512_reduce_add_ph(sum);
}

const probe_level probe_avx512fp16 = {avx512_probe_read_loop, avx512_probe_f32_loop, CHAINS *VW * 2,
                                      probe_f16_loop, CHAINS *VW * 4};
