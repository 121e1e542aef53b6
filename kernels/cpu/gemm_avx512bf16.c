/* bf16 matrix product by dot products of pairs (vdpbf16ps): `a` is rounded to bf16 while packed,
 * sums stay in f32. Twice the multiply-adds of f32 per instruction.
 * The instruction reads subnormals as zero and rounds each of its two additions to nearest. */
#include <string.h>

#include "engine/base/mem.h"
#include "kernels/cpu/levels.h"
#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/finish.inc"

#define GEMM_MR 12
/* clang-format off */
#define GEMM_MICROS(M)                                                                             \
    M(1, 2) M(2, 2) M(3, 2) M(4, 2) M(5, 2) M(6, 2) M(7, 2) M(8, 2) M(9, 2) M(10, 2) M(11, 2)      \
    M(12, 2)
/* clang-format on */

static void pack_row(const float *src, int32_t n, uint32_t *dst) {
    int32_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m512bh v = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(src + i + 16), _mm512_loadu_ps(src + i));
        _mm512_storeu_si512(dst + i / 2, (__m512i)v);
    }
    for (; i < n; i += 16) { /* whole pairs: an odd n is padded with zero */
        int32_t rest = MIN(16, n - i);
        __m256bh v = _mm512_cvtneps_pbh(vf_load_n(src + i, rest));
        _mm256_mask_storeu_epi32(dst + i / 2, (__mmask8)((1u << CEIL_DIV(rest, 2)) - 1),
                                 (__m256i)v);
    }
}

/* Cores whose best level is this one are of one maker (Zen 4 and 5), and have 1 MB of L2. Blocks
 * longer than 192 make a product of 8 rows 4 % faster. */
#define GEMM_SPREAD     true
#define GEMM_A_BLOCK    512
#define GEMM_L2_A_BYTES (512 * 1024)

#define GEMM_NAME(x)  avx512bf16_gemm_##x
#define GEMM_ROW      avx512bf16_gemm_bf16
#define GEMM_ROW_NAME "avx512bf16_gemm_bf16"
#define gemm_a_t      uint32_t
#define GEMM_STEP_K   2
#define GEMM_A_STEP   1
#define GEMM_DT_BYTES 2
#define GEMM_STEP(acc, mr, nv, a, b, s)                                                            \
    {                                                                                              \
        int32_t s_ = (s);                                                                          \
        __m512i w_[NV_MAX];                                                                        \
        _Pragma("GCC unroll 8") for (int v_ = 0; v_ < nv; v_++) w_[v_] =                           \
            _mm512_loadu_si512(b[v_] + (int64_t)s_ * STEP_BYTES);                                  \
        _Pragma("GCC unroll 16") for (int r_ = 0; r_ < mr; r_++) {                                 \
            __m512i a_ = _mm512_set1_epi32((int)a[r_ * A_BLOCK + s_]);                             \
            _Pragma("GCC unroll 8") for (int v_ = 0; v_ < nv; v_++) acc[r_][v_] =                  \
                _mm512_dpbf16_ps(acc[r_][v_], (__m512bh)a_, (__m512bh)w_[v_]);                     \
        }                                                                                          \
    }
#define GEMM_PACK(src, n, dst) pack_row(src, n, dst)
#include "kernels/cpu/gemm_body.inc"
