/* The operations of a forward pass: one argument struct each. kernels/ref defines what they mean;
 * every other row must agree with it within the tolerance written in ops.def.
 *
 * Letters: T tokens (rows of this step), C hidden, H query heads, G key/value heads, D head width,
 * F ffn, V vocabulary, N out features, K in features, P pages, S tokens per page, B sequences.
 * Shapes go from outer to inner. Activations are f32 and row-major; a row stride is given in
 * elements where rows may be part of a wider buffer. Pointers are borrowed for the call.
 *
 * Determinism: the result of a row depends on that row's own data only, bit for bit: never on the
 * number of other rows in the call, on threads, or on where a chunk of a prompt begins. */
#ifndef KERNELS_OPS_H
#define KERNELS_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/dtype.h"

/* A weight matrix [N,K] in the backend's own packed layout. Made by backend wmat_init/wmat_pack. */
typedef struct wmat {
    int32_t n, k;
    dtype dt;       /* storage type: f32, f16, bf16 */
    int32_t layout; /* the backend's business */
    void *data;
    size_t bytes;
} wmat;

/* out[t,:] = scale * table[ids[t],:]. Ids are valid: 0 <= id < rows. */
typedef struct op_embed {
    const int32_t *ids; /* [T] */
    int32_t n_tokens, width, rows;
    const void *table; /* [rows,width] row-major, f32 / f16 / bf16 */
    dtype table_dt;
    float scale;
    float *out; /* [T,width] */
} op_embed;

typedef enum norm_kind { NORM_RMS, NORM_LAYER } norm_kind;

/* For each row: if add, x += add (written back); out = norm(x) * weight (+ bias).
 * RMS: x / sqrt(mean(x^2) + eps). LAYER: (x - mean) / sqrt(var + eps). Sums in f32 or better.
 * A row may hold several groups (heads) normalised apart with one weight: QK norm. */
typedef struct op_norm {
    norm_kind kind;
    int32_t n_rows, n_groups, width; /* n_groups 1 for a plain norm; width of one group */
    float *x;                        /* row r, group g at x + r*x_stride + g*width */
    int64_t x_stride;
    const float *add; /* as x, or NULL; n_groups must be 1 */
    int64_t add_stride;
    const float *weight; /* [width], or NULL for none */
    const float *bias;   /* [width], or NULL */
    float eps;
    float *out; /* may be x */
    int64_t out_stride;
} op_norm;

/* out[m,n] = sum_k a[m,k] * w[n,k] (+ bias[n]) (+ out[m,n] before, if accumulate).
 * bf16 weights: a row may round `a` to bf16 first (f32 accumulation); f32 weights: all in f32. */
typedef struct op_gemm {
    int32_t m;
    const float *a; /* [M,K] */
    int64_t a_stride;
    const wmat *w;
    const float *bias; /* [N] or NULL */
    float *out;        /* [M,N] */
    int64_t out_stride;
    bool accumulate;
} op_gemm;

typedef enum rope_style { ROPE_NONE, ROPE_HALF, ROPE_PAIR } rope_style;

/* Rotate q and k of the packed projection in place (first rope_dim of each head), then write k and
 * v to their pages. HALF pairs (j, j+rope_dim/2), PAIR pairs (2j, 2j+1).
 * kv_slot[t] = page * S + offset of the token. k_pages and v_pages hold P pages of G*S*D elements
 * of kv_dt each; the order inside a page is the backend's business: only rope_kv, attention and
 * copy_pages touch pages. D is even and at most 256. */
typedef struct op_rope_kv {
    int32_t n_tokens, n_heads, n_kv_heads, head_dim, rope_dim;
    rope_style style;
    float *qkv; /* [T,(H+2G)*D]: q heads, then k heads, then v heads */
    int64_t qkv_stride;
    const int32_t *pos;     /* [T] */
    const int64_t *kv_slot; /* [T] */
    const float *cos, *sin; /* [max_pos, rope_dim/2] f32, attention factor already in */
    void *k_pages, *v_pages;
    dtype kv_dt;         /* f32 or bf16 */
    int32_t page_tokens; /* a multiple of 16 */
} op_rope_kv;

/* One sequence's rows in an attention call: queries at positions pos0 .. pos0+n_rows-1. */
typedef struct attn_seq {
    int32_t row0, n_rows; /* rows of q and out */
    int32_t pos0;
    const int32_t *pages; /* page ids for positions 0 .. pos0+n_rows-1; entries wholly below every
                           * row's window are not read */
} attn_seq;

/* Causal attention over pages, keys already written for all positions up to the query's own.
 * score(i,j) = scale * q_i . k_j, softcapped (c*tanh(s/c)) if softcap > 0, plus -slope_h*(i-j) if
 * alibi, for i-window < j <= i (window 0: no lower bound); out = softmax(score) . v.
 * Query head h reads kv head h / (H/G). */
typedef struct op_attention {
    int32_t n_seqs, n_heads, n_kv_heads, head_dim;
    const attn_seq *seqs;
    const float *q; /* row t at q + t*q_stride, [H,D] */
    int64_t q_stride;
    float *out; /* [T,H*D], may not overlap q */
    int64_t out_stride;
    float scale, softcap;
    int32_t window;
    const float *alibi_slopes; /* [H] or NULL */
    const void *k_pages, *v_pages;
    dtype kv_dt;
    int32_t page_tokens; /* a multiple of 16 */
} op_attention;

typedef enum act_kind { ACT_SILU, ACT_GELU, ACT_GELU_TANH, ACT_RELU, ACT_COUNT } act_kind;

/* gated: in is [T,2F], out[t,f] = act(in[t,f]) * in[t,F+f]. Not gated: in is [T,F], out = act(in).
 */
typedef struct op_act {
    act_kind kind;
    bool gated;
    int32_t n_rows, width; /* width = F */
    const float *in;
    int64_t in_stride;
    float *out;
    int64_t out_stride;
} op_act;

/* x += y, rows of width. */
typedef struct op_add {
    int32_t n_rows, width;
    float *x;
    int64_t x_stride;
    const float *y;
    int64_t y_stride;
} op_add;

/* Copy whole KV pages: page dst[i] becomes a copy of page src[i], in every buffer of the list. */
typedef struct op_copy_pages {
    int32_t n_copies;
    const int32_t *src, *dst;
    int32_t n_buffers;
    void *const *buffers; /* each [P,page_bytes] */
    size_t page_bytes;
} op_copy_pages;

/* Statistics of logits rows for sampling and logprobs: per row the maximum and
 * log(sum(exp(x))), summed in a fixed order. A row with a NaN has a NaN maximum. */
typedef struct op_logsumexp {
    int32_t n_rows, width;
    const float *x;
    int64_t x_stride;
    float *ret_max;      /* [rows] */
    float *ret_lse;      /* [rows]: natural log of the sum of exp(x) */
    int32_t *ret_argmax; /* [rows]: lowest index among equals */
} op_logsumexp;

#endif
