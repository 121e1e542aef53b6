/* Matrix products of the avx512 level: f32 multiply-adds, 12 rows x 2 vectors of accumulators. */
#include <string.h>

#include "engine/base/mem.h"
#include "kernels/cpu/levels.h"
#include "kernels/cpu/maker.h"
#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/mac.inc"

#define GEMM_LEVEL        "avx512"
#define GEMM_LEVEL_SPREAD cpu_is_amd()
#define GEMM_MR           12
/* clang-format off */
#define GEMM_MICROS(M)                                                                             \
    M(1, 2) M(1, 4) M(1, 8) M(2, 2) M(2, 4) M(2, 8) M(3, 2) M(3, 4) M(4, 2) M(4, 4) M(5, 2)        \
    M(5, 4) M(6, 2) M(6, 4) M(7, 2) M(8, 2) M(9, 2) M(10, 2) M(11, 2) M(12, 2)
/* clang-format on */
#include "kernels/cpu/gemm_f32.inc"
