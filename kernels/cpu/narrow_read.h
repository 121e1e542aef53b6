/* A span of a stored row, read for packing (narrow.c). */
#ifndef KERNELS_CPU_NARROW_READ_H
#define KERNELS_CPU_NARROW_READ_H

#include "kernels/cpu/narrow.h"

typedef struct narrow_span {
    uint8_t codes[NARROW_SPAN]; /* zeros behind the last */
    float scales[NARROW_SUBS];  /* of F16, BF16, F32 */
    uint8_t six[NARROW_SUBS];   /* of SIX_U and SIX_S, and d and dmin as f16 */
    uint16_t d, dmin;
    uint8_t offsets[NARROW_SUBS]; /* zeros, or SIX_MIN */
    uint16_t adds[NARROW_SUBS];   /* ADD_F16 */
} narrow_span;

/* Columns [k0, k0+n) of K, n at most a span, in the order of the panels; ret: zeros. A code that is
 * a NaN makes one of its scale. */
void narrow_read(const narrow_panel *p, const wmat *w, const uint8_t *row, int32_t k0, int32_t n,
                 narrow_span *ret);

#endif
