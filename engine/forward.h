/* The forward pass: READ forward.c FIRST. One call computes the hidden states of every token of a
 * step through all layers, writing keys and values to the cache; another turns chosen rows into
 * logits. */
#ifndef ENGINE_FORWARD_H
#define ENGINE_FORWARD_H

#include "engine/kvcache.h"
#include "engine/sampler.h"
#include "engine/weights.h"

#define FORWARD_ROWS_MAX 64 /* most rows of logits at a time */

/* Static rotary table of one rope_spec, filled as far as positions have been used. */
typedef struct rope_table {
    float *cos, *sin; /* [max_model_len, dim/2] */
    float *inv_freq;  /* [dim/2] */
    int32_t n_filled;
    float *step_cos, *step_sin; /* [T, dim/2] for steps with length-dependent rope, else NULL */
} rope_table;

typedef struct forward {
    const arch *a;
    const weights *w;
    backend *b;
    kvcache *kv;
    int32_t max_tokens, max_seqs, max_model_len;
    int32_t n_rows; /* R: rows of logits at a time */

    /* of the step */
    int32_t n_tokens, n_seqs;
    int32_t *ids, *pos; /* [T] */
    int32_t *iota;      /* [T] 0, 1, 2, ...: positions in a step's own rope table */
    int64_t *kv_slot;   /* [T] */
    attn_seq *seqs;     /* [B] */
    bool own_rope;      /* some sequence has length-dependent rope */

    /* activations, f32 */
    float *x;                 /* [T,C] residual stream */
    float *h;                 /* [T,C] normed */
    float *qkv;               /* [T,(H+2G)*D] */
    float *att;               /* [T,H*D] */
    float *up;                /* [T,2F] */
    float *act;               /* [T,F] */
    float *rows;              /* [R,C] */
    float *logits;            /* [R,V] */
    float *row_max, *row_lse; /* [R] */
    int32_t *row_argmax;      /* [R] */
    rope_table *ropes;        /* [n_ropes] */
    void *block;
    size_t bytes;
} forward;

/* Bytes of activations: *ret_fixed + *ret_per_len * max_model_len. */
void forward_bytes(const arch *a, int32_t max_tokens, int32_t max_seqs, size_t *ret_fixed,
                   size_t *ret_per_len);
/* Allocate; a, w, b, kv and the maxima are set by the caller. */
NODISCARD status forward_alloc(forward *f, error *err);
void forward_done(forward *f);

/* Compute the plan's tokens: f->x holds the last layer's output, row by row in the plan's order. */
void forward_run(forward *f, const batch_plan *plan);
/* Final norm and head for n <= n_rows rows of x: f->logits [n,V] and their statistics. */
void forward_logits(forward *f, const int32_t *rows, int32_t n);
static inline logits_row forward_row(const forward *f, int32_t i) {
    return (logits_row){f->logits + (size_t)i * (size_t)f->a->vocab, f->row_lse[i],
                        f->row_argmax[i]};
}

#endif
