/* Products of codes of the neondot level. sdot takes signed codes only, so 128 is taken from the
 * weights' codes as they are loaded, and given back to the sums by where they start.
 *
 * A step of 12 rows x 2 vectors is 24 sdot, 2 to take 128, 5 loads. The activations of the last
 * rows of a tile are read with what follows them: at least as many bytes of codes_act. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/codes.h"
#include "kernels/cpu/levels.h"
#include "kernels/cpu/simd_neon.h"
#include "kernels/cpu/ints_neon.inc"
#include "kernels/cpu/dot_neon.inc"

typedef int8_t codes_a_t;
#define codes_put_acts dot_put_acts

#define CODES_BIAS 128
_Static_assert(sizeof(codes_act) >= 12, "read behind one row");

SIMD_FN vi vi_load_signed(const void *p) {
    return vreinterpretq_s32_u8(veorq_u8(vld1q_u8(p), vdupq_n_u8(128)));
}

/* All weights first: with 24 sums no more registers are left than for four rows. */
#define CODES_STEP_INT8(acc, mr, nv, a, w)                                                         \
    {                                                                                              \
        vi codes_[CODES_COLS / VW];                                                                \
        _Pragma("GCC unroll 4") for (int v_ = 0; v_ < (nv); v_++) codes_[v_] =                     \
            vi_load_signed((w) + v_ * 4 * VW);                                                     \
        _Pragma("GCC unroll 16") for (int r_ = 0; r_ < (mr); r_++) {                               \
            vi acts_ = vi_load((a) + r_ / 4 * 16);                                                 \
            _Pragma("GCC unroll 4") for (int v_ = 0; v_ < (nv); v_++)(acc)[r_][v_] =               \
                vi_dot_lane((acc)[r_][v_], codes_[v_], acts_, r_ % 4);                             \
        }                                                                                          \
    }

#define CODES_NAME(x)  neondot_codes_int8_##x
#define CODES_ROW      neondot_codes_int8
#define CODES_ROW_NAME "neondot_codes_int8"
#define CODES_MR       12
/* clang-format off */
#define CODES_MICROS(M)                                                                            \
    M(1, 4) M(2, 4) M(3, 4) M(4, 4) M(5, 4) M(6, 4) M(7, 2) M(8, 2) M(9, 2) M(10, 2) M(11, 2)      \
    M(12, 2)
/* clang-format on */
#include "kernels/cpu/codes_int8_row.inc"
