/* From a row of logits to a token, as sample_params (batch.h) says, in that order. */
#ifndef ENGINE_SAMPLER_H
#define ENGINE_SAMPLER_H

#include <stddef.h>

#include "engine/batch.h"

typedef struct sampler sampler;

/* Scratch for a vocabulary; sampler_bytes() of it, allocated here and never again. */
sampler *sampler_new(int32_t vocab);
void sampler_free(sampler *s); /* takes NULL */
size_t sampler_bytes(int32_t vocab);

/* One row with its statistics (op_logsumexp). x is written to and given back as it was. */
typedef struct logits_row {
    float *x; /* [vocab] */
    float lse;
    int32_t argmax; /* lowest index of the largest */
} logits_row;

/* Choose the token after q->ids[0 .. n_known). The draw depends on the row, the parameters and
 * (seed, choice, n_known) only. ERR_INTERNAL: the logits are not finite; ERR_INVALID: no token
 * may be chosen. Cost: one pass over the row when greedy, two or three when drawing. */
NODISCARD status sampler_choose(sampler *s, const batch_seq *q, const logits_row *row,
                                sample_out *ret);

/* The distribution that a draw would be made from (temperature > 0): ids and probabilities
 * [vocab], those above 0 in the order of the ids; how many. For tests and tools. */
NODISCARD status sampler_distribution(sampler *s, const batch_seq *q, const logits_row *row,
                                      int32_t *ret_ids, double *ret_probs, int32_t *ret_n);

/* Fill ret for a token that is given: logprob, rank and the n best, of the raw logits. */
NODISCARD status sampler_describe(sampler *s, const logits_row *row, int32_t token,
                                  int32_t n_logprobs, sample_out *ret);

#endif
