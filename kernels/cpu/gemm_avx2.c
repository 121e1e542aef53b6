/* Matrix products of the avx2 level: 16 registers hold 6 rows x 2 vectors of accumulators, so a
 * panel of 4 vectors is walked in two slices. */
#include <string.h>

#include "engine/base/mem.h"
#include "kernels/cpu/levels.h"
#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/mac.inc"

#define GEMM_LEVEL "avx2"
#define GEMM_MR    6
#define GEMM_MICROS(M)                                                                             \
    M(1, 2) M(1, 4) M(1, 8) M(2, 2) M(2, 4) M(3, 2) M(3, 4) M(4, 2) M(5, 2) M(6, 2)
#include "kernels/cpu/gemm_f32.inc"
