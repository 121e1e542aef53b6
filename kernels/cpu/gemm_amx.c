/* bf16 matrix product of the amx level: tdpbf16ps, 16 rows x 32 columns of the result by 32 columns
 * of K a step, on the panels of all levels, whose pairs of K are tiles as they lie. `a` is rounded
 * to bf16 while packed. A tile product sums even and odd columns of its K apart, in f32, then adds
 * both to the result: the tiles of K lie at absolute positions, so the chain is one.
 *
 * Two sums by one load of activations and two of weights: 48 lines read in the 32 cycles of two
 * products. Four sums (32 x 32) would read less and leave no tile for the rest of K.
 *
 * Checked with AMX_EMULATED only. */
#include <string.h>

#include "engine/base/mem.h"
#include "kernels/cpu/amx.h"
#include "kernels/cpu/levels.h"
#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/finish.inc"

#define SUM0  0
#define SUM1  1
#define ACT   2
#define W0    3
#define W1    4
#define ACT_R 5 /* of the pairs behind the last whole tile */
#define W0_R  6
#define W1_R  7

#define TILE_STEPS AMX_ROWS /* pairs of K of a tile of weights */

static void pack_row(const float *src, int32_t n, uint32_t *dst) {
    for (int32_t i = 0; i < n; i += 16) { /* whole pairs: an odd n is padded with zero */
        int32_t rest = MIN(16, n - i);
        __m256bh v = _mm512_cvtneps_pbh(vf_load_n(src + i, rest));
        _mm256_mask_storeu_epi32(dst + i / 2, (__mmask8)((1u << CEIL_DIV(rest, 2)) - 1),
                                 (__m256i)v);
    }
}

static amx_shape shape_of(int32_t mr, int32_t rest) {
    amx_shape s = {.palette = 1};
    for (int t = SUM0; t <= W1; t++) s.row_bytes[t] = AMX_ROW_BYTES;
    s.rows[SUM0] = s.rows[SUM1] = s.rows[ACT] = (uint8_t)mr;
    s.rows[W0] = s.rows[W1] = AMX_ROWS;
    if (rest == 0) return s;
    s.row_bytes[ACT_R] = (uint16_t)(4 * rest);
    s.row_bytes[W0_R] = s.row_bytes[W1_R] = AMX_ROW_BYTES;
    s.rows[ACT_R] = (uint8_t)mr;
    s.rows[W0_R] = s.rows[W1_R] = (uint8_t)rest;
    return s;
}

#define GEMM_MR 16
/* clang-format off */
#define GEMM_MICROS(M)                                                                             \
    M(1, 2) M(2, 2) M(3, 2) M(4, 2) M(5, 2) M(6, 2) M(7, 2) M(8, 2) M(9, 2) M(10, 2) M(11, 2)      \
    M(12, 2) M(13, 2) M(14, 2) M(15, 2) M(16, 2)
/* clang-format on */

/* A K block: c [mr][PANEL_COLS] (+)= a [mr][A_BLOCK] of `steps` pairs by a panel of them. */
#define GEMM_MICRO(mr, nv, u)                                                                      \
    {                                                                                              \
        enum { A_STRIDE = A_BLOCK * sizeof(uint32_t), C_STRIDE = PANEL_COLS * sizeof(float) };     \
        const char *b_ = (u)->b, *pf_ = (u)->pf;                                                   \
        int32_t s_ = 0, rest_ = (u)->steps % TILE_STEPS;                                           \
        amx_shape shape_ = shape_of(mr, rest_);                                                    \
        amx_begin(&shape_);                                                                        \
        if ((u)->first) {                                                                          \
            amx_zero(SUM0);                                                                        \
            amx_zero(SUM1);                                                                        \
        } else {                                                                                   \
            amx_load(SUM0, (u)->c, C_STRIDE);                                                      \
            amx_load(SUM1, (u)->c + VW, C_STRIDE);                                                 \
        }                                                                                          \
        for (; s_ + TILE_STEPS <= (u)->steps; s_ += TILE_STEPS, b_ += TILE_STEPS * STEP_BYTES) {   \
            for (int32_t l_ = 0; (u)->stream && l_ < TILE_STEPS * STEP_BYTES; l_ += 64)            \
                SIMD_PREFETCH_FAR(b_ + l_ + PF_FAR);                                               \
            for (int32_t l_ = 0; l_ < 4 * (u)->pf_lines; l_++, pf_ += 64) SIMD_PREFETCH_FAR(pf_);  \
            amx_dot_pair(amx_dot_bf16, ACT, W0, W1, (u)->a + s_, A_STRIDE, b_);                    \
        }                                                                                          \
        if (rest_) amx_dot_pair(amx_dot_bf16, ACT_R, W0_R, W1_R, (u)->a + s_, A_STRIDE, b_);       \
        amx_store(SUM0, (u)->c, C_STRIDE);                                                         \
        amx_store(SUM1, (u)->c + VW, C_STRIDE);                                                    \
        amx_end();                                                                                 \
    }

#define GEMM_NAME(x)           amx_gemm_##x
#define GEMM_ROW               amx_gemm_bf16
#define GEMM_ROW_NAME          "amx_gemm_bf16"
#define gemm_a_t               uint32_t
#define GEMM_STEP_K            2
#define GEMM_A_STEP            1
#define GEMM_DT_BYTES          2
#define GEMM_PACK(src, n, dst) pack_row(src, n, dst)
#include "kernels/cpu/gemm_body.inc"
