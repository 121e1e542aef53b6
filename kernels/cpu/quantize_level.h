/* The search of quantize.h over several rows at once: what a vector level brings. */
#ifndef KERNELS_CPU_QUANTIZE_LEVEL_H
#define KERNELS_CPU_QUANTIZE_LEVEL_H

#include "kernels/quantize.h"
#include "kernels/select.h"

#define QUANTIZE_LANES_MAX 16

/* A group of `lanes` rows, column by column. */
typedef struct quantize_group {
    _Alignas(64) float x[QUANTIZE_GROUP_MAX * QUANTIZE_LANES_MAX];    /* [n,lanes] in */
    _Alignas(64) float code[QUANTIZE_GROUP_MAX * QUANTIZE_LANES_MAX]; /* [n,lanes] out: as stored */
    float scale[QUANTIZE_LANES_MAX], zero[QUANTIZE_LANES_MAX];        /* out: zero as stored */
    float err2[QUANTIZE_LANES_MAX], sum2[QUANTIZE_LANES_MAX];         /* out */
} quantize_group;

typedef struct quantize_search {
    int32_t n;          /* columns */
    float top;          /* the largest code: 15 or 255 */
    float zero;         /* of all groups; has_zeros: not read */
    bool has_zeros;     /* each group chooses its own */
    dtype scale_dt;     /* f16 or f32 */
    const float *tries; /* [n_tries] factors */
    int n_tries;
} quantize_search;

typedef struct quantize_level {
    int lanes;
    void (*run)(const quantize_search *s, quantize_group *g);
} quantize_level;

extern const quantize_level plain_quantize;                 /* quantize.c: everywhere */
extern const quantize_level avx2_quantize, avx512_quantize; /* kernels/cpu, on x86 */
extern const quantize_level neon_quantize;                  /* on aarch64 */

/* That of an instruction-set level, the nearest one below it that has one. */
const quantize_level *quantize_level_of(cpu_isa isa);

#endif
