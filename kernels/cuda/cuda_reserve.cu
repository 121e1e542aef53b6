/* The memory that ops take beside their arguments, counted before a model is loaded and taken when
 * it is: scratch, which one op at a time uses, so that the largest need decides; plans of
 * attention; descriptions of experts. Each op's own file says what it needs (cuda_NAME_need), by
 * the functions that the op itself calls, so that the two cannot drift apart.
 *
 * States of attention cut along the keys are the one need with a choice: how finely a call may be
 * cut. They get attn_states_bytes and no more, whatever the model. */
#include <string.h>

#include "kernels/cuda/cuda_backend.h"

extern "C" {
#include "engine/base/mem.h"
}

#define WHOLE ((size_t)65536) /* scratch comes in such steps */

/* Matrices of a layer and of neighbouring layers are mostly the same: each is asked for once. */
static bool same_product(const wmat *a, const wmat *b) {
    return a->n == b->n && a->k == b->k && a->dt == b->dt && memcmp(&a->q, &b->q, sizeof a->q) == 0;
}

static size_t products_need(const cuda_backend *c, const op_bounds *o) {
    size_t most = 0;
    for (int32_t i = 0; i < o->n_mats; i++) {
        if (i > 0 && same_product(&o->mats[i], &o->mats[i - 1])) continue;
        /* a plan changes with the rows, so that fewer may need more */
        for (int32_t m = o->n_tokens; m > 0; m /= 2)
            most = MAX(most, cuda_gemm_need(c, &o->mats[i], m));
    }
    return most;
}

static size_t scratch_need(const cuda_backend *c, const op_bounds *o) {
    size_t most = products_need(c, o);
    most = MAX(most, cuda_experts_need(c, o));
    most = MAX(most, cuda_lora_need(o));
    most = MAX(most, cuda_attention_need(c, o));
    most = MAX(most, cuda_logsumexp_need(o->n_rows, o->vocab));
    most = MAX(most, cuda_sample_need(o->n_rows, o->vocab, o->n_edits));
    return ALIGN_UP(most, WHOLE);
}

size_t cuda_scratch_bytes(backend *b, const op_bounds *o) {
    const cuda_backend *c = cuda_of(b);
    return scratch_need(c, o) + cuda_attention_plans_need(c, o) + cuda_experts_tables_need(o);
}

status cuda_reserve(backend *b, const op_bounds *o, error *err) {
    cuda_backend *c = cuda_of(b);
    TRY(cuda_scratch_reserve(c, scratch_need(c, o), err));
    TRY(cuda_attention_reserve(c, o, err));
    return cuda_experts_reserve(c, o, err);
}
