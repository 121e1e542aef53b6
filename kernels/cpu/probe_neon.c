/* Limits of the neon level. */
#include "kernels/cpu/simd_neon.h"
#include "kernels/cpu/probe_body.inc"

const probe_level probe_neon = {neon_probe_read_loop, neon_probe_f32_loop, CHAINS *VW * 2, NULL, 0};
