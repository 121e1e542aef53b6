/* Rows that feed products, stored in other types than f32 (ops.h): what their values are. Plain C
 * that defines them; devices must give the same bits. */
#ifndef KERNELS_FEED_H
#define KERNELS_FEED_H

#include "kernels/dtype.h"

/* The types of such rows; codes have a scale for each row. */
static inline bool feed_is_codes(dtype dt) {
    return dt == DT_I8 || dt == DT_F8_E4M3;
}
static inline bool feed_is_type(dtype dt) {
    return dtype_is_float(dt) || feed_is_codes(dt);
}
#define FEED_CODES_PAD 16 /* codes of a row: a multiple, the last ones 0 */

/* Row x [n] as elements of dt at `to`; codes: the scale to *ret_scale, and zeros to the next
 * multiple of FEED_CODES_PAD. */
void feed_store(dtype dt, const float *x, int32_t n, void *to, float *ret_scale);
/* The values of a row; scale is of codes. */
void feed_load(dtype dt, const void *row, float scale, int32_t n, float *ret);

#endif
