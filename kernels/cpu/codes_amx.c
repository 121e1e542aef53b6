/* Products of codes of the amx level: the sums of a chunk are made by tiles, 16 rows x 32 columns
 * of the result at a time, and are stored; what follows is as at the avx512vnni level, on the same
 * panels, which are tiles of weights as they lie. Sums are whole numbers, so results are that
 * level's to the bit. The instruction takes at least 16 cycles for one row as for 16, in which it
 * meets as many bytes of weights as memory delivers in more: few rows need no other row.
 *
 * Checked with AMX_EMULATED only. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/amx.h"
#include "kernels/cpu/codes.h"
#include "kernels/cpu/levels.h"
#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/ints_zmm.inc"

typedef int8_t codes_a_t;

/* A row's codes into row r of [mr][cols]. */
SIMD_FN void codes_put_acts(const int8_t *codes, int32_t cols, int32_t mr, int32_t r,
                            codes_a_t *to) {
    memcpy(to + (int64_t)r * cols, codes, (size_t)cols);
}

/* Tiles: sums, activations and weights of 64 columns of K, and of 32. The assembler wants digits.
 */
#define SUM0  0
#define SUM1  1
#define ACT64 2
#define W64_0 3
#define W64_1 4
#define ACT32 5
#define W32_0 6
#define W32_1 7

static amx_shape shape_of(int32_t mr) {
    amx_shape s = {.palette = 1};
    for (int t = 0; t < AMX_TILES; t++) s.row_bytes[t] = AMX_ROW_BYTES;
    s.row_bytes[ACT32] = AMX_ROW_BYTES / 2;
    s.rows[SUM0] = s.rows[SUM1] = s.rows[ACT64] = s.rows[ACT32] = (uint8_t)mr;
    s.rows[W64_0] = s.rows[W64_1] = AMX_ROWS;
    s.rows[W32_0] = s.rows[W32_1] = AMX_ROWS / 2;
    return s;
}

#define STEP4(k) ((int64_t)(k) / 4 * CODES_STEP_BYTES) /* bytes of k columns of K of a panel */

/* sums [mr][CODES_COLS] = products of cols columns of K. */
static void tile_sums(const codes_a_t *a, const char *w, int32_t cols, int32_t *sums) {
    amx_zero(SUM0);
    amx_zero(SUM1);
    int32_t k = 0;
    for (; k + 64 <= cols; k += 64) {
        const char *at = w + STEP4(k);
        for (int32_t i = 0; i < STEP4(64); i += 64) SIMD_PREFETCH_FAR(at + 8192 + i);
        amx_dot_pair(amx_dot, ACT64, W64_0, W64_1, a + k, cols, at);
    }
    if (k < cols) /* chunks are whole multiples of 32 */
        amx_dot_pair(amx_dot, ACT32, W32_0, W32_1, a + k, cols, w + STEP4(k));
    amx_store(SUM0, sums, CODES_COLS * sizeof *sums);
    amx_store(SUM1, sums + CODES_COLS / 2, CODES_COLS * sizeof *sums);
}

#define CODES_MR 16
#define CODES_BEGIN(mr)                                                                            \
    amx_shape shape_ = shape_of(mr);                                                               \
    amx_begin(&shape_);
#define CODES_END() amx_end();
#define CODES_SUMS  tile_sums

#define CODES_NAME(x)  amx_codes_int8_##x
#define CODES_ROW      amx_codes_int8
#define CODES_ROW_NAME "amx_codes_int8"
/* clang-format off */
#define CODES_MICROS(M)                                                                            \
    M(1, 2) M(2, 2) M(3, 2) M(4, 2) M(5, 2) M(6, 2) M(7, 2) M(8, 2) M(9, 2) M(10, 2) M(11, 2)      \
    M(12, 2) M(13, 2) M(14, 2) M(15, 2) M(16, 2)
/* clang-format on */
#include "kernels/cpu/codes_int8_row.inc"
