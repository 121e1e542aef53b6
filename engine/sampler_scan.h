/* Passes over a whole row of logits: the part of sampling that costs. Results are the same on
 * every CPU: one source, compiled for several vector widths, summed in 16 fixed lanes. */
#ifndef ENGINE_SAMPLER_SCAN_H
#define ENGINE_SAMPLER_SCAN_H

#include <stdint.h>

/* Largest value (n >= 1); NaN anywhere gives NaN or is skipped: rows are checked before. */
float scan_max(const float *x, int32_t n);
/* Indices with x[i] >= least, ascending, into ret[n]; how many. */
int32_t scan_at_least(const float *x, int32_t n, float least, int32_t *ret);
/* The same; those values close up at the beginning of x, the rest of it is undefined. */
int32_t scan_take(float *x, int32_t n, float least, int32_t *ret);
/* Lowest index with x[i] == value, n if there is none. */
int32_t scan_first_equal(const float *x, int32_t n, float value);
/* How many x[i] > value. */
int32_t scan_count_above(const float *x, int32_t n, float value);
/* ret[i] = exp((x[i] - max) * inv_t), 0 below e^-87; the sum. Relative error under 3e-7. */
double scan_exp(const float *x, int32_t n, float max, float inv_t, float *ret);
/* Sum of a block of at most SCAN_BLOCK, as scan_exp adds it: its total is the sum of these. */
#define SCAN_BLOCK 4096
double scan_sum(const float *x, int32_t n);
/* The k-th largest value, 1 <= k <= n; scratch [n]. */
float scan_kth(const float *x, int32_t n, int32_t k, float *scratch);
/* scan_at_least of the k-th largest, in fewer passes. ret[n] */
int32_t scan_top(const float *x, int32_t n, int32_t k, float *scratch, int32_t *ret);

#endif
