/* bf16 matrix product by dot products of pairs (bfdot): `a` is rounded to bf16 while packed, sums
 * stay in f32. The instruction reads subnormals as zero and rounds the sum of the two products to
 * odd before it is added. */
#include <string.h>

#include "engine/base/mem.h"
#include "kernels/cpu/levels.h"
#include "kernels/cpu/simd_neon.h"
#include "kernels/cpu/finish.inc"

#define GEMM_MR 12
/* clang-format off */
#define GEMM_MICROS(M)                                                                             \
    M(1, 2) M(1, 4) M(1, 8) M(2, 2) M(2, 4) M(2, 8) M(3, 2) M(3, 4) M(4, 2) M(4, 4) M(5, 2)        \
    M(5, 4) M(6, 2) M(7, 2) M(8, 2) M(9, 2) M(10, 2) M(11, 2) M(12, 2)
/* clang-format on */

/* Whole pairs: an odd n is padded with zero. */
static void pack_row(const float *src, int32_t n, uint32_t *dst) {
    int32_t i = 0;
    for (; i + VW <= n; i += VW) vf_store_bf16((uint16_t *)dst + i, vf_load(src + i));
    if (i == n) return;
    uint16_t last[VW];
    vf_store_bf16(last, vf_load_n(src + i, n - i));
    memcpy(dst + i / 2, last, (size_t)CEIL_DIV(n - i, 2) * sizeof *dst);
}

SIMD_FN vf pair_dot(vf acc, uint32_t a, uint32x4_t w) {
    return vbfdotq_f32(acc, vreinterpretq_bf16_u32(vdupq_n_u32(a)), vreinterpretq_bf16_u32(w));
}

#define GEMM_NAME(x)  neonbf16_gemm_##x
#define GEMM_ROW      neonbf16_gemm_bf16
#define GEMM_ROW_NAME "neonbf16_gemm_bf16"
#define gemm_a_t      uint32_t
#define GEMM_STEP_K   2
#define GEMM_A_STEP   1
#define GEMM_DT_BYTES 2
#define GEMM_STEP(acc, mr, nv, a, b, s)                                                            \
    {                                                                                              \
        int32_t s_ = (s);                                                                          \
        uint32x4_t w_[NV_MAX];                                                                     \
        _Pragma("GCC unroll 8") for (int v_ = 0; v_ < nv; v_++) w_[v_] =                           \
            vld1q_u32((const uint32_t *)(b[v_] + (int64_t)s_ * STEP_BYTES));                       \
        _Pragma("GCC unroll 16") for (int r_ = 0; r_ < mr; r_++)                                   \
            _Pragma("GCC unroll 8") for (int v_ = 0; v_ < nv; v_++) acc[r_][v_] =                  \
                pair_dot(acc[r_][v_], a[r_ * A_BLOCK + s_], w_[v_]);                               \
    }
#define GEMM_PACK(src, n, dst) pack_row(src, n, dst)
#include "kernels/cpu/gemm_body.inc"
