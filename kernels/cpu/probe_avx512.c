/* Limits of the avx512 level. */
#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/probe_body.inc"

const probe_level probe_avx512 = {avx512_probe_read_loop, avx512_probe_f32_loop, CHAINS *VW * 2,
                                  NULL, 0};
