/* Limits of the avx2 level. */
#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/probe_body.inc"

const probe_level probe_avx2 = {avx2_probe_read_loop, avx2_probe_f32_loop, CHAINS *VW * 2, NULL, 0};
