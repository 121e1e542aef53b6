/* Products of codes of the neoni8mm level, by usmmla, on the panels of all levels.
 *
 * A step of 12 rows x 2 vectors is 24 usmmla, 4 zips of weights, 10 loads, for eight columns of K:
 * the products of 48 sdot. For one row a half of each product is for nothing, and it still takes
 * as many bytes of weights as a dot product. The activations of an odd last row are read with what
 * follows them: at least as many bytes of codes_act. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/codes.h"
#include "kernels/cpu/levels.h"
#include "kernels/cpu/simd_neon.h"
#include "kernels/cpu/ints_neon.inc"
#include "kernels/cpu/mmla_neon.inc"

typedef int8_t codes_a_t;
#define codes_put_acts mmla_put_acts
_Static_assert(sizeof(codes_act) >= 8, "read behind an odd row");

#define CODES_START(acc, mr, nv, acts)                                                             \
    _Pragma("GCC unroll 16") for (int r_ = 0; r_ < (mr); r_ += 2) {                                \
        vi start_ = vi_pair((acts)[r_].start, r_ + 1 < (mr) ? (acts)[r_ + 1].start : 0);           \
        _Pragma("GCC unroll 4") for (int v_ = 0; v_ < (nv); v_++)(acc)[r_][v_] =                   \
            (acc)[r_ + 1][v_] = start_;                                                            \
    }
#define CODES_ROWS(acc, mr, nv)                                                                    \
    _Pragma("GCC unroll 16") for (int r_ = 0; r_ < (mr); r_ += 2)                                  \
        _Pragma("GCC unroll 4") for (int v_ = 0; v_ < (nv); v_++)                                  \
            vi_rows(&(acc)[r_][v_], &(acc)[r_ + 1][v_]);

/* All weights first: with 24 sums no more registers are left than for one pair of rows. */
#define CODES_STEP_INT8(acc, mr, nv, a, w)                                                         \
    {                                                                                              \
        vi low_[CODES_COLS / VW], high_[CODES_COLS / VW];                                          \
        _Pragma("GCC unroll 4") for (int v_ = 0; v_ < (nv); v_++) {                                \
            vi first_ = vi_load((w) + v_ * 4 * VW);                                                \
            vi second_ = vi_load((w) + CODES_STEP_BYTES + v_ * 4 * VW);                            \
            low_[v_] = vi_low_pair(first_, second_), high_[v_] = vi_high_pair(first_, second_);    \
        }                                                                                          \
        _Pragma("GCC unroll 8") for (int r_ = 0; r_ < (mr); r_ += 2) {                             \
            vi acts_ = vi_load((a) + 8 * r_);                                                      \
            _Pragma("GCC unroll 4") for (int v_ = 0; v_ < (nv); v_++) {                            \
                (acc)[r_][v_] = vi_mmla((acc)[r_][v_], low_[v_], acts_);                           \
                (acc)[r_ + 1][v_] = vi_mmla((acc)[r_ + 1][v_], high_[v_], acts_);                  \
            }                                                                                      \
        }                                                                                          \
    }

#define CODES_NAME(x)  neoni8mm_codes_int8_##x
#define CODES_ROW      neoni8mm_codes_int8
#define CODES_ROW_NAME "neoni8mm_codes_int8"
#define CODES_MR       12
/* clang-format off */
#define CODES_MICROS(M)                                                                            \
    M(1, 4) M(2, 4) M(3, 4) M(4, 4) M(5, 2) M(6, 2) M(7, 2) M(8, 2) M(9, 2) M(10, 2) M(11, 2)      \
    M(12, 2)
/* clang-format on */
#define CODES_STEPS 2
#include "kernels/cpu/codes_int8_row.inc"
