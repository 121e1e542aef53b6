/* Products of codes of the avx2 level, which has no dpbusd. vpmaddubsw would saturate: two products
 * of an unsigned by a signed byte do not fit 16 bits. So codes are widened to 16 bits, exactly, and
 * multiplied by vpmaddwd: even bytes of the weights' fours apart from odd ones, which costs a mask
 * and a shift for all rows of a tile; activations are packed in 16 bits, in that order. Taking the
 * sign to the other side of vpmaddubsw would be as many instructions. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/codes.h"
#include "kernels/cpu/levels.h"
#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/ints_ymm.inc"

typedef int16_t codes_a_t;

/* Fours of a row as 0, 2, 1, 3. */
SIMD_FN void codes_put_acts(const int8_t *codes, int32_t cols, int32_t mr, int32_t r,
                            codes_a_t *to) {
    to += 4 * r;
    for (int32_t k = 0; k < cols; k += 4, to += 4 * mr)
        for (int i = 0; i < 4; i++) to[i / 2 + i % 2 * 2] = codes[k + i];
}

SIMD_FN vi vi_of_two(const codes_a_t *a) {
    int32_t two;
    memcpy(&two, a, sizeof two);
    return vi_set1(two);
}

#define CODES_STEP_INT8(acc, mr, nv, a, w)                                                         \
    {                                                                                              \
        vi even_[CODES_COLS / VW], odd_[CODES_COLS / VW];                                          \
        _Pragma("GCC unroll 4") for (int v_ = 0; v_ < (nv); v_++) {                                \
            vi codes_ = vi_load((w) + v_ * 4 * VW);                                                \
            even_[v_] = _mm256_and_si256(codes_, _mm256_set1_epi16(0xFF));                         \
            odd_[v_] = _mm256_srli_epi16(codes_, 8);                                               \
        }                                                                                          \
        _Pragma("GCC unroll 16") for (int r_ = 0; r_ < (mr); r_++) {                               \
            vi first_ = vi_of_two((a) + 4 * r_), second_ = vi_of_two((a) + 4 * r_ + 2);            \
            _Pragma("GCC unroll 4") for (int v_ = 0; v_ < (nv); v_++) {                            \
                (acc)[r_][v_] =                                                                    \
                    _mm256_add_epi32((acc)[r_][v_], _mm256_madd_epi16(even_[v_], first_));         \
                (acc)[r_][v_] =                                                                    \
                    _mm256_add_epi32((acc)[r_][v_], _mm256_madd_epi16(odd_[v_], second_));         \
            }                                                                                      \
        }                                                                                          \
    }

#define CODES_NAME(x)   avx2_codes_int8_##x
#define CODES_ROW       avx2_codes_int8
#define CODES_ROW_NAME  "avx2_codes_int8"
#define CODES_MR        4
#define CODES_MICROS(M) M(1, 2) M(2, 2) M(3, 2) M(4, 2)
#include "kernels/cpu/codes_int8_row.inc"
