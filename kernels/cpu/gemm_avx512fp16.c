/* Matrix products of 16-bit weights by f16 multiply-adds, which do twice the work of f32 ones.
 *
 * f16 has the precision for it (11 bits, bf16 weights have 8) but neither the range nor the length
 * of sums. So rows of `a` and of the weights are scaled by powers of two (WMAT_HALVES): products
 * are below 2^10, and after GEMM_RUN of them, below 2^15, a register is added to sums in f32. Each
 * scale is that of a whole row, so a row's bits do not depend on others; what underflows is 2^-30
 * of the row's largest.
 *
 * Error against exact sums of random products: 8.4e-4 of the result at runs of 32 (6.3e-4 at 16,
 * 1.2e-3 at 64), half of what rounding `a` to bf16 costs (1.7e-3, level avx512bf16). Measured rate
 * at 16 / 32 / 64: 320 / 382 / 418 of 445 GFLOP/s without any fold. */
#include <string.h>

#include "engine/base/mem.h"
#include "kernels/cpu/levels.h"
#include "kernels/cpu/simd_avx512.h"

#define GEMM_MR 12
/* clang-format off */
#define GEMM_MICROS(M)                                                                             \
    M(1, 2) M(1, 4) M(1, 8) M(2, 2) M(2, 4) M(2, 8) M(3, 2) M(3, 4) M(4, 2) M(4, 4) M(5, 2)        \
    M(5, 4) M(6, 2) M(6, 4) M(7, 2) M(8, 2) M(9, 2) M(10, 2) M(11, 2) M(12, 2)
/* clang-format on */

static float bits_float(int32_t biased_exponent) {
    uint32_t u = (uint32_t)biased_exponent << 23;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* The largest of the row comes into [2^5, 2^6). Rows with an infinity or NaN keep it. */
static float row_scale(const float *src, int32_t k, float *ret_inverse) {
    __m512i top = _mm512_setzero_si512(), magnitude = _mm512_set1_epi32(0x7FFFFFFF);
    for (int32_t i = 0; i < k; i += VW) {
        __m512i x = _mm512_castps_si512(vf_load_n(src + i, MIN(VW, k - i)));
        top = _mm512_max_epu32(top, _mm512_and_si512(x, magnitude));
    }
    int32_t e = MAX((int32_t)(_mm512_reduce_max_epu32(top) >> 23), 6);
    *ret_inverse = bits_float(e - 5);
    return bits_float(259 - e);
}

/* Whole pairs: an odd n is padded with zero. */
static void pack_row(const float *src, int32_t n, uint32_t *dst, float scale) {
    vf s = vf_set1(scale);
    for (int32_t i = 0; i < n; i += VW) {
        int32_t rest = MIN(VW, n - i);
        __m256i h = _mm512_cvtps_ph(vf_mul(vf_load_n(src + i, rest), s), _MM_FROUND_TO_NEAREST_INT);
        _mm256_mask_storeu_epi32(dst + i / 2, (__mmask8)((1u << CEIL_DIV(rest, 2)) - 1), h);
    }
}

SIMD_FN void fold(float *c, __m512h acc, bool first) {
    __m512i bits = _mm512_castph_si512(acc);
    vf low = _mm512_cvtph_ps(_mm512_castsi512_si256(bits));
    vf high = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(bits, 1));
    vf_store(c, first ? low : vf_add(vf_load(c), low));
    vf_store(c + VW, first ? high : vf_add(vf_load(c + VW), high));
}

/* Sums of the even and of the odd elements of K stand side by side. */
SIMD_FN vf total(const float *c, vf w_inverse) {
    __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    vf low = vf_load(c), high = vf_load(c + VW);
    vf sum =
        vf_add(_mm512_permutex2var_ps(low, even, high), _mm512_permutex2var_ps(low, odd, high));
    return vf_mul(sum, w_inverse);
}

#define STEP(acc, mr, nv, a, b, s)                                                                 \
    {                                                                                              \
        int32_t s_ = (s);                                                                          \
        __m512h w_[NV_MAX];                                                                        \
        _Pragma("GCC unroll 8") for (int v_ = 0; v_ < nv; v_++) w_[v_] =                           \
            _mm512_castsi512_ph(_mm512_loadu_si512(b[v_] + (int64_t)s_ * STEP_BYTES));             \
        _Pragma("GCC unroll 16") for (int r_ = 0; r_ < mr; r_++) {                                 \
            __m512h a_ = _mm512_castsi512_ph(_mm512_set1_epi32((int)a[r_ * A_BLOCK + s_]));        \
            _Pragma("GCC unroll 8") for (int v_ = 0; v_ < nv; v_++) acc[r_][v_] =                  \
                _mm512_fmadd_ph(a_, w_[v_], acc[r_][v_]);                                          \
        }                                                                                          \
    }

#define GEMM_NAME(x)                  avx512fp16_gemm_##x
#define GEMM_ROW                      avx512fp16_gemm_bf16
#define GEMM_ROW_NAME                 "avx512fp16_gemm_bf16"
#define GEMM_LAYOUT                   WMAT_HALVES
#define GEMM_PACK_W                   avx512fp16_pack
#define gemm_a_t                      uint32_t
#define GEMM_STEP_K                   2
#define GEMM_A_STEP                   1
#define GEMM_DT_BYTES                 2
#define GEMM_STEP                     STEP
#define GEMM_PACK(src, n, dst, scale) pack_row(src, n, dst, scale)
#define GEMM_RUN                      32
#define gemm_acc_t                    __m512h
#define GEMM_ACC_ZERO                 _mm512_setzero_ph()
#define GEMM_FOLD(c, acc, first)      fold(c, acc, first)
#define GEMM_ROW_SCALE(src, k, inv)   row_scale(src, k, inv)
#define GEMM_TOTAL(c, w_inv)          total(c, w_inv)
#include "kernels/cpu/gemm_body.inc"

/* Whatever the weights came as, they are packed alike. */
const gemm_row avx512fp16_gemm_f16 = {
    .name = "avx512fp16_gemm_f16",
    .layout = WMAT_HALVES,
    .pack = avx512fp16_pack,
    .pack_rows = PANEL_COLS,
    .tile_rows = GEMM_MR,
    .a_bytes = avx512fp16_gemm_a_bytes,
    .pack_a = avx512fp16_gemm_pack_a,
    .scratch_bytes = avx512fp16_gemm_scratch_bytes,
    .run = avx512fp16_gemm_run,
};
