/* Rotary position tables: frequencies of every scaling kind, and tables of cos and sin.
 * Kinds: none (Su et al. 2021), linear, dynamic NTK, llama3, yarn (Peng et al. 2023), longrope, as
 * the transformers library computes them, in f32 where it does, and Qwen's own. */
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
    SCALE_LONGROPE, /* one list of factors up to ctx_orig, another past it */
    SCALE_QWEN_NTK, /* Qwen 1: the base grows with the prompt, in steps */
} rope_scaling;

typedef struct rope_spec {
    rope_style style;
    int32_t dim; /* rotated width of a head, even */
    double theta;
    rope_scaling scaling;
    double factor;
    int32_t ctx;      /* max_position_embeddings: dynamic scaling starts past it */
    int32_t ctx_orig; /* llama3, yarn, longrope: positions of the original training */
    double low_freq_factor, high_freq_factor; /* llama3 */
    double beta_fast, beta_slow;              /* yarn */
    bool truncate;                            /* yarn: whole bounds of the ramp */
    double attention_factor;                  /* scale of cos and sin, decided; 1: none */
    bool fp16_freq;                           /* frequencies rounded to f16 (ChatGLM-6B) */
    /* Each frequency is divided by its factor: [dim/2], owned, NULL for none. */
    float *factors, *long_factors;
    bool weight_factors; /* factors come from the checkpoint's tensors (GGUF) */
} rope_spec;

bool rope_spec_equal(const rope_spec *a, const rope_spec *b);
void rope_spec_done(rope_spec *r);

/* Some scalings depend on the length of a sequence. pagoda fixes the frequencies of a sequence at
 * admission: dynamic NTK and longrope from the most tokens it may have (prompt + max_tokens),
 * Qwen's NTK from the prompt. So keys in the cache stay valid, and a result does not depend on when
 * it is computed. The length that matters, 0 while the plain frequencies serve. */
int32_t rope_len(const rope_spec *r, int32_t n_prompt, int32_t max_len);
/* Sequences whose numbers differ have different keys. */
uint64_t rope_class(const rope_spec *r, int32_t n_prompt, int32_t max_len);
/* Can rope_len be other than 0, or do positions have two parts? Then rows are made for each step.
 */
bool rope_by_step(const rope_spec *r);

/* Frequencies [dim/2]; len is what rope_len gives. */
void rope_inv_freq(const rope_spec *r, int32_t len, float *ret);
/* One row of the tables: cos and sin [dim/2] of position pos. With ROPE_HALVES the first half of
 * the row belongs to pos, the second to pos2; otherwise pos2 is not used. */
void rope_row(const rope_spec *r, const float *inv_freq, int32_t pos, int32_t pos2, float *ret_cos,
              float *ret_sin);

#endif
