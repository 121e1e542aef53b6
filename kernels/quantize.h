/* Rows of floats made codes (quant.h): for each group the scale, and the zero where the spec stores
 * one, that give the least squared error among a fixed list of tries, codes rounded to nearest.
 *
 * Takes int4 and int8 without an order, groups of at most QUANTIZE_GROUP_MAX columns and scales of
 * f16 or f32 with scale_mul 1; without stored zeros `zero` is half the codes (8 or 128).
 *
 * A try t is a factor f; the search of a group x[0..n):
 *   symmetric   s = f * (the x of the largest magnitude, the positive one of equals) / -zero
 *   with zeros  s = f * (max(x, 0) - min(x, 0)) / 15 (255),
 *               z = round(7.5 (127.5) - (max + min) / 2 / s), clamped to the codes
 *   q = clamp(round(x / s), -z, 15 - z),  a = sum x q,  b = sum q q,  gain = a a / b
 * and the try of the largest gain (the first of equals) gives the scale a / b, which is rounded to
 * its type before the codes are. All in f32 in that order, so the same bits on every machine. */
#ifndef KERNELS_QUANTIZE_H
#define KERNELS_QUANTIZE_H

#include "kernels/quant.h"

#define QUANTIZE_GROUP_MAX 256

/* Sums over values that were quantised; not finite where a value or a scale is not. */
typedef struct quantize_error {
    double err2; /* of squared differences */
    double sum2; /* of squares */
} quantize_error;

/* n_rows rows of k values, one after another, to consecutive stored rows; their sums are added to
 * *ret. Any thread. */
void quantize_rows(dtype dt, const quant_spec *q, int32_t k, const float *src, int32_t n_rows,
                   void *dst, quantize_error *ret);

#endif
