/* Rotary position tables: frequencies of every scaling kind, and tables of cos and sin.
 * Kinds: none (Su et al. 2021), linear, dynamic NTK, llama3, yarn (Peng et al. 2023), as the
 * transformers library computes them, in f32 where it does. */
#ifndef ENGINE_ROPE_H
#define ENGINE_ROPE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "kernels/ops.h"

typedef enum rope_scaling {
    SCALE_NONE,
    SCALE_LINEAR,
    SCALE_DYNAMIC,
    SCALE_LLAMA3,
    SCALE_YARN,
} rope_scaling;

typedef struct rope_spec {
    rope_style style;
    int32_t dim; /* rotated width of a head, even */
    double theta;
    rope_scaling scaling;
    double factor;
    int32_t ctx;      /* max_position_embeddings: dynamic scaling starts past it */
    int32_t ctx_orig; /* llama3, yarn: positions of the original training */
    double low_freq_factor, high_freq_factor; /* llama3 */
    double beta_fast, beta_slow;              /* yarn */
    bool truncate;                            /* yarn: whole bounds of the ramp */
    double attention_factor;                  /* yarn: scale of cos and sin, decided */
} rope_spec;

bool rope_spec_equal(const rope_spec *a, const rope_spec *b);

/* Frequencies [dim/2]. max_len is the length that dynamic scaling is fixed for; others ignore it.
 */
void rope_inv_freq(const rope_spec *r, int32_t max_len, float *ret);
/* One row of the tables: cos and sin [dim/2] of position pos. */
void rope_row(const rope_spec *r, const float *inv_freq, int32_t pos, float *ret_cos,
              float *ret_sin);

/* Dynamic scaling changes its base with the length. pagoda fixes the base of a sequence at
 * admission, from the most tokens it may have (prompt + max_tokens): keys in the cache stay valid,
 * and a result does not depend on when it is computed. Up to ctx the base is the plain one. */
static inline bool rope_depends_on_len(const rope_spec *r, int32_t max_len) {
    return r->scaling == SCALE_DYNAMIC && max_len > r->ctx;
}

#endif
