/* Products of codes with narrow weights of the neondot level: 6 rows x 2 vectors of integer sums
 * and as many of f32.
 *
 * sdot takes signed bytes, which codes of up to six bits are. Values of a table may be above 127:
 * 128 is taken from them, and given back to the sums by where they start. The activations of 16
 * columns of K are as many whole vectors as there are rows. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/levels.h"
#include "kernels/cpu/narrow.h"
#include "kernels/cpu/simd_neon.h"
#include "kernels/cpu/ints_neon.inc"
#include "kernels/cpu/dot_neon.inc"

#define NARROW_TABLE_BIAS 128
#define NARROW_TABLE_OF(p)                                                                         \
    vreinterpretq_s32_u8(veorq_u8(vld1q_u8(p), vdupq_n_u8(NARROW_TABLE_BIAS)))

/* acc[r][v] += products of quad j of a unit, whose activations begin at a. */
#define NARROW_DOTS(acc, mr, nv, w, a, j)                                                          \
    _Pragma("GCC unroll 16") for (int r_ = 0; r_ < (mr); r_++) {                                   \
        vi acts_ = vi_load((a) + ((j) * (mr) + r_) / 4 * 16);                                      \
        _Pragma("GCC unroll 4") for (int v_ = 0; v_ < (nv); v_++)(acc)[r_][v_] =                   \
            vi_dot_lane((acc)[r_][v_], (w)[v_], acts_, ((j) * (mr) + r_) % 4);                     \
    }

#define NARROW_MAX_CODE     254 /* of tables; whole bytes, up to 255, are codes_int8's */
#define NARROW_MR           6
#define NARROW_MICROS(M, k) M(1, 4, k) M(2, 4, k) M(3, 2, k) M(4, 2, k) M(5, 2, k) M(6, 2, k)
#define NARROW_FEW          4
#define NARROW_DIRECT(M, k) M(1, 4, k) M(2, 2, k) M(3, 2, k) M(4, 2, k)
#define NARROW_ROW          neondot_codes_narrow
#define NARROW_ROW_NAME     "neondot_codes_narrow"
#include "kernels/cpu/narrow_body.inc"
