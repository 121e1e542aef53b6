/* The arithmetic of choosing a token, the same to the bit on the host and in kernels: edits of
 * logits, weights, and sums of weights.
 *
 * A weight is exp((x - max) / temperature) as f32. Weights are added as whole numbers of 2^-41, so
 * that a sum is the same in every order and with any number of threads: what is drawn depends on
 * the row alone, without a fixed order of additions. A weight above 0 counts at least one unit;
 * 2^22 weights of at most 1 fit in 64 bits. */
#ifndef KERNELS_SAMPLE_NUM_H
#define KERNELS_SAMPLE_NUM_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/ops.h"

#ifdef __CUDACC__
#define SAMPLE_FN static __host__ __device__ __forceinline__
#else
#define SAMPLE_FN static inline __attribute__((always_inline))
#endif

SAMPLE_FN uint32_t sample_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

/* Numbers in the order of their logits; 0 and -0 are equals. */
SAMPLE_FN uint32_t sample_order(float x) {
    uint32_t u = sample_bits(x == 0 ? 0.0f : x);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* The logit of an edit's id after it: bias, repetition, frequency and presence penalty, ban. */
SAMPLE_FN float sample_edited(float x, const sample_edit *e, const sample_row *p) {
    x += e->bias;
    if (e->flags & SAMPLE_SEEN) x = x < 0 ? x * p->repetition_penalty : x / p->repetition_penalty;
    if (e->count > 0) x = x - p->frequency_penalty * (float)e->count - p->presence_penalty;
    return e->flags & SAMPLE_BAN ? -INFINITY : x;
}

/* e^y for y <= 0, 0 below e^-87; relative error under 3e-7. e^y = 2^n * e^r with n = round(y/ln 2)
 * by the 1.5*2^23 trick, e^r by a polynomial on |r| <= ln2/2. Products and sums are rounded apart:
 * compile without contraction. */
SAMPLE_FN float sample_exp(float y) {
    const float magic = 12582912.0f; /* 1.5 * 2^23 */
    float clamped = y > -87.0f ? y : -87.0f;
    float n = (clamped * 1.44269504f + magic) - magic;
    float r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.3888889e-3f;
    p = p * r + 8.3333333e-3f;
    p = p * r + 4.1666668e-2f;
    p = p * r + 1.6666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    int32_t bits;
    memcpy(&bits, &p, 4);
    bits += (int32_t)n * (1 << 23);
    memcpy(&p, &bits, 4);
    return y > -87.0f ? p : 0.0f;
}

SAMPLE_FN float sample_weight(float x, float max, float inv_temperature) {
    return sample_exp((x - max) * inv_temperature);
}

/* A weight in units of 2^-41. */
SAMPLE_FN uint64_t sample_units(float weight) {
    uint64_t n = (uint64_t)(weight * 0x1p41f);
    return n > 0 ? n : weight > 0;
}

/* Least sum of the nucleus that holds the part top_p of `total`. */
SAMPLE_FN uint64_t sample_mass(float top_p, uint64_t total) {
    uint64_t need = (uint64_t)ceil((double)top_p * (double)total);
    return need < 1 ? 1 : need > total ? total : need;
}

/* Where a draw stands in [0, total): u * total rounded down, u = the 53 high bits of key. The token
 * is the first, by ascending ids, whose running sum is above. */
SAMPLE_FN uint64_t sample_at(uint64_t key, uint64_t total) {
    return (uint64_t)((unsigned __int128)(key >> 11 << 11) * total >> 64);
}

#endif
