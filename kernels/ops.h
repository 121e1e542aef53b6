/* The operations of a forward pass: one argument struct each. kernels/ref defines what they mean;
 * every other row must agree with it within the tolerance written in ops.def.
 *
 * Letters: T tokens (rows of this step), C hidden, H query heads, G key/value heads, D head width,
 * F ffn, V vocabulary, N out features, K in features, P pages, S tokens per page, B sequences,
 * E experts, L latent width and R rope width of latent attention.
 * Shapes go from outer to inner. Activations are f32 and row-major; a row stride is given in
 * elements where rows may be part of a wider buffer. Pointers are borrowed for the call; those to
 * data point into memory of the backend (backend.h), those marked "host" into ordinary memory.
 *
 * Rows that feed a product may be stored as that product would round them (backend.h: feed_dt),
 * which takes fewer bytes and changes no bit of what the product gives. `void *` with a type beside
 * it (0: f32) are such rows:
 *   F32, F16, BF16  the f32 result, rounded to nearest even
 *   I8, F8_E4M3     codes with a scale for each row: s = max|x| / 127 or / 448, code = round(x / s)
 *                   to the nearest even, the value is code * s: for I8 that of quant_round_acts. A
 *                   row of zeros has the scale 0; one with an infinity or a NaN the scale NaN, and
 *                   the codes 0. Rows begin at 16 bytes, strides are multiples of 16, and the bytes
 *                   behind the last column are 0 up to the next multiple of 16.
 *
 * Determinism: the result of a row depends on that row's own data only, bit for bit: never on the
 * number of other rows in the call, on threads, or on where a chunk of a prompt begins. */
#ifndef KERNELS_OPS_H
#define KERNELS_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/quant.h"

/* A weight matrix [N,K] in the backend's own packed layout. Made by backend wmat_init/wmat_pack, or
 * by quant_init/quant_pack for quantised storage. */
typedef struct wmat {
    int32_t n, k;
    dtype dt;       /* storage type: f32, f16, bf16 or a quantised one */
    int32_t layout; /* the backend's business */
    void *data;
    size_t bytes;
    quant_spec q; /* of codes */
} wmat;

/* out[t,:] = scale * table[ids[t],:] (+ out[t,:] before, if accumulate). Ids are valid:
 * 0 <= id < rows. */
typedef struct op_embed {
    const int32_t *ids; /* [T] */
    int32_t n_tokens, width, rows;
    const void *table;  /* [rows,width] row-major, f32 / f16 / bf16 or GGUF blocks */
    const wmat *packed; /* not NULL: the rows of this matrix of floats, the table is not read; where
                         * backend_vtbl.embed_packed says so */
    dtype table_dt;
    float scale;
    float *out; /* [T,width] */
    bool accumulate;
} op_embed;

typedef enum norm_kind { NORM_RMS, NORM_LAYER } norm_kind;

/* For each row: if add, x += add (written back); out = norm(x) * weight (+ bias).
 * RMS: x / sqrt(mean(x^2) + eps). LAYER: (x - mean) / sqrt(var + eps). Sums in f32 or better.
 * A row may hold several groups (heads) normalised apart: QK norm. They share one weight, or group
 * g has its own at weight + g*weight_stride (and bias + g*weight_stride). */
typedef struct op_norm {
    norm_kind kind;
    int32_t n_rows, n_groups, width; /* n_groups 1 for a plain norm; width of one group */
    float *x;                        /* row r, group g at x + r*x_stride + g*width */
    int64_t x_stride;
    const float *add; /* as x, or NULL; n_groups must be 1 */
    int64_t add_stride;
    const float *weight; /* [width] or [groups,width], or NULL for none */
    const float *bias;   /* as weight, or NULL */
    float eps;
    void *out; /* may be x where it is f32 */
    int64_t out_stride;
    int64_t weight_stride; /* between the weights of neighbouring groups; 0: one for all */
    dtype out_dt;          /* codes: n_groups is 1 */
    float *out_scale;      /* [rows] of codes, else not read */
} op_norm;

/* out[m,n] = sum_k a[m,k] * w[n,k] (+ bias[n]) (+ out[m,n] before, if accumulate).
 * bf16 weights: a row may round `a` to bf16 first (f32 accumulation); f32 weights: all in f32.
 * f16 weights: a GPU rounds `a` to f16, beyond 65504 to infinity; on the CPU it may be any f32.
 * Quantised weights: their values by quant.h, of `a` rounded as w->q.act says; not again where `a`
 * is codes, but by products of codes, for which only int8 rows stay as they are. */
typedef struct op_gemm {
    int32_t m;
    const void *a; /* [M,K] of a_dt */
    int64_t a_stride;
    const wmat *w;
    const float *bias; /* [N] or NULL */
    float *out;        /* [M,N] */
    int64_t out_stride;
    bool accumulate;
    dtype a_dt;           /* f32, f16, bf16, i8, f8_e4m3 */
    const float *a_scale; /* [M] of codes */
} op_gemm;

/* What one adapter adds to one product: B (s * (A x)). A [R,K] holds the A of all parts, one below
 * the other; part p adds b (s * (A x))[col0 ..] to columns [row0, row0+b.n) of the output. Parts
 * share no column of the output. Matrices are f32, f16 or bf16. */
typedef struct lora_part {
    int32_t row0, col0;
    wmat b; /* [rows,r] */
} lora_part;

typedef struct lora_slot {
    wmat a;          /* [R,K] */
    const float *s;  /* [R] */
    int32_t n_parts; /* 0: nothing is added */
    const lora_part *parts;
} lora_slot;

/* out[t,:] += B (s * (A x[t,:])), each row by its own adapter. All descriptions lie in memory of
 * the backend: what is launched depends on the sizes below alone, not on who has which adapter.
 * Rows may come in any order; neighbours with one adapter share the reading of its matrices. */
typedef struct op_lora {
    int32_t n_rows, n, k;
    int32_t rank;  /* no R of the slot is larger */
    int32_t slot;  /* which product: adapters have a list of them */
    const void *x; /* [T,K] of x_dt; may not overlap out */
    int64_t x_stride;
    float *out; /* [T,N] */
    int64_t out_stride;
    int32_t n_adapters;            /* entries of table */
    const lora_slot *const *table; /* [n_adapters], entry 0 is not read; table[i][slot] */
    const int32_t *of_row;         /* < n_adapters; 0: none */
    const int32_t *pick;           /* NULL: row t has of_row[t]; else [T]: of_row[pick[t]] */
    dtype x_dt;                    /* f32, f16, bf16 */
} op_lora;

/* Pairs of a head's first rope_dim elements that are rotated together, pair j by the angle whose
 * cosine and sine are entry j of the token's table row.
 * HALF: (j, j+rope_dim/2). PAIR: (2j, 2j+1). HALVES: the elements are two halves and each is
 * rotated as by HALF on its own, pairs (j, j+rope_dim/4); the first rope_dim/4 entries of the table
 * row are of the first half, the others of the second (two positions per token: ChatGLM-6B). */
typedef enum rope_style { ROPE_NONE, ROPE_HALF, ROPE_PAIR, ROPE_HALVES } rope_style;

/* Rotate q and k of the packed projection in place (first rope_dim of each head, a multiple of 4
 * for HALVES), then write k and v to their pages. kv_slot[t] = page * S + offset of the token.
 * k_pages and v_pages hold P pages of G*S*D elements of kv_dt each, and G*S scales where kv_dt is
 * of eight bits (kv8.h has what is stored and kv_page_bytes); the order inside a page is the
 * backend's business: only rope_kv, attention and copy_pages touch pages. D is even and at most
 * ATTN_MAX_WIDTH. */
#define ATTN_MAX_WIDTH 512
typedef struct op_rope_kv {
    int32_t n_tokens, n_heads, n_kv_heads, head_dim, rope_dim;
    rope_style style;
    float *qkv; /* [T,(H+2G)*D]: q heads, then k heads, then v heads */
    int64_t qkv_stride;
    const int32_t *pos;     /* [T] */
    const int64_t *kv_slot; /* [T] */
    const float *cos, *sin; /* [max_pos, rope_dim/2] f32, attention factor already in */
    void *k_pages, *v_pages;
    dtype kv_dt;         /* f32, bf16, int8 or f8_e4m3 */
    int32_t page_tokens; /* a multiple of 16 */
} op_rope_kv;

/* One sequence's rows in an attention call: queries at positions pos0 .. pos0+n_rows-1. */
typedef struct attn_seq {
    int32_t row0, n_rows; /* rows of q and out */
    int32_t pos0;
    int32_t prefix; /* rows at positions < prefix see all of it, in both directions; its keys are
                     * all written. 0: causal throughout; an encoder: its length */
    int64_t page0;  /* entry of page_table that holds the page id of position 0; the entries behind
                     * it are of positions up to pos0+n_rows-1 and of the whole prefix; those wholly
                     * below every row's window are not read */
} attn_seq;

/* The sequences of a call, in both places that read them. On a backend whose memory is the host's
 * the two are the same array. */
typedef struct attn_seqs {
    int32_t n;
    const attn_seq *host;      /* [B] host memory: what a backend divides its work by */
    const attn_seq *dev;       /* [B] the same, in backend memory */
    const int32_t *page_table; /* backend memory */
    /* Where the launches may depend on n alone: the division that graphs.plan made (graphs.h), in
     * backend memory, and what it is made for. NULL: a backend divides by `host`. */
    const void *plan;
    const struct graph_room *room;
} attn_seqs;

/* Attention over pages, keys already written for all positions that a row sees: j <= i, or
 * j < prefix for a row i < prefix; and |i-j| < window if window > 0.
 * score(i,j) = scale * q_i . k_j, softcapped (c*tanh(s/c)) if softcap > 0, plus -slope_h*|i-j| if
 * alibi; out = softmax(score) . v. A sink is one more logit of the softmax that has no value: it
 * joins the denominator only. Query head h reads kv head h / (H/G). */
typedef struct op_attention {
    attn_seqs seqs;
    int32_t n_heads, n_kv_heads, head_dim;
    const float *q; /* row t at q + t*q_stride, [H,D] */
    int64_t q_stride;
    void *out; /* [T,H*D] of out_dt, may not overlap q */
    int64_t out_stride;
    float scale, softcap;
    int32_t window;
    const float *alibi_slopes; /* [H] or NULL */
    const void *k_pages, *v_pages;
    dtype kv_dt;
    int32_t page_tokens; /* a multiple of 16 */
    const float *sinks;  /* [H] or NULL */
    dtype out_dt;        /* f32, f16, bf16 */
} op_attention;

/* Attention with a compressed cache (MLA in its absorbed form): one row of L+R elements per token
 * is the key of every head, and its first L elements are the value. DeepSeek-V2, section 2.1. */
#define LATENT_MAX_WIDTH 1024 /* L+R at most */

/* For each token: rotate the rope part of every query head in place, rotate the last R elements of
 * its kv row in place, and write the kv row (the normed latent, then the rotated key part) to its
 * place in pages of P * S * (L+R) elements of kv_dt, and P * S * 2 scales (of the latent part, of
 * the rope part) where it is of eight bits; their order is the backend's business. */
typedef struct op_latent_kv {
    int32_t n_tokens, n_heads;
    int32_t latent, rope_dim; /* L, R; R even, may be 0 */
    rope_style style;         /* HALF, PAIR or NONE */
    float *q; /* head h's rope part: q + t*q_stride + h*q_head_stride + q_off, [R] */
    int64_t q_stride, q_head_stride, q_off;
    float *kv; /* [T,L+R] */
    int64_t kv_stride;
    const int32_t *pos;     /* [T] */
    const int64_t *kv_slot; /* [T], as in op_rope_kv */
    const float *cos, *sin; /* [max_pos,R/2] */
    void *pages;
    dtype kv_dt;         /* f32, bf16, int8 or f8_e4m3 */
    int32_t page_tokens; /* a multiple of 16 */
} op_latent_kv;

/* score(i,j) = scale * q_i . row_j over L+R elements, for the same keys as in op_attention without
 * a window; out = softmax(score) . first L elements of row_j. */
typedef struct op_latent_attention {
    attn_seqs seqs;
    int32_t n_heads, latent, rope_dim; /* rope_dim even */
    const float *q;                    /* row t at q + t*q_stride, [H,L+R] */
    int64_t q_stride;
    void *out; /* row t at out + t*out_stride, [H,L] of out_dt; may not overlap q */
    int64_t out_stride;
    float scale;
    const void *pages;
    dtype kv_dt;
    int32_t page_tokens; /* a multiple of 16 */
    dtype out_dt;        /* f32, f16, bf16 */
} op_latent_attention;

/* SILU x*sigmoid(x), GELU by erf and by its tanh formula, QUICK_GELU x*sigmoid(1.702x), RELU2
 * max(x,0)^2. SWIGLU_OAI is gated only: with g = min(gate,7), u = clamp(up,-7,7) it is
 * (u+1) * g*sigmoid(1.702g). */
typedef enum act_kind {
    ACT_SILU,
    ACT_GELU,
    ACT_GELU_TANH,
    ACT_RELU,
    ACT_QUICK_GELU,
    ACT_RELU2,
    ACT_TANH,
    ACT_SIGMOID,
    ACT_SWIGLU_OAI,
    ACT_COUNT
} act_kind;

/* gated: in is [T,2F], out[t,f] = act(in[t,f]) * in[t,F+f]. Not gated: in is [T,F], out = act(in).
 * out may be in where it is f32, with the same stride. */
typedef struct op_act {
    act_kind kind;
    bool gated;
    int32_t n_rows, width; /* width = F */
    const float *in;
    int64_t in_stride;
    void *out;
    int64_t out_stride;
    dtype out_dt;
    float *out_scale; /* [rows] of codes, else not read */
} op_act;

/* x = x_scale*x + y_scale*y, rows of width; 1 and 1 for a plain sum. Both products are rounded.
 * With x_scale 0 it is a copy: x may hold anything before. */
typedef struct op_add {
    int32_t n_rows, width;
    float *x;
    int64_t x_stride;
    const float *y;
    int64_t y_stride;
    float x_scale, y_scale;
} op_add;

/* x[r,c] *= scale * row[r*row_stride] * col[c]; a factor whose pointer is NULL is 1. With
 * row_sigmoid the row's factor is sigmoid(row[r*row_stride]). */
typedef struct op_scale {
    int32_t n_rows, width;
    float *x;
    int64_t x_stride;
    float scale;
    const float *row; /* [rows] or NULL; outside x */
    int64_t row_stride;
    bool row_sigmoid;
    const float *col; /* [width] or NULL */
} op_scale;

/* CLAMP: x to [-limit, limit], a NaN stays. TANH: limit * tanh(x/limit). In place; limit > 0. */
typedef enum limit_kind { LIMIT_CLAMP, LIMIT_TANH } limit_kind;
typedef struct op_limit {
    limit_kind kind;
    int32_t n_rows, width;
    float *x;
    int64_t x_stride;
    float limit;
} op_limit;

/* Choose top_k of E experts for each token.
 *   score    SOFTMAX: softmax over all logits. SIGMOID: of each. SOFTMAX_TOPK: the logits choose,
 *            and the weights are the softmax over the chosen ones.
 *   choice   by score + select_bias (the bias joins the choice only). With groups, E is n_groups
 *            runs of neighbours; only the top_groups groups with the highest group score (the
 *            highest choice value in it, or the sum of its two highest) can be chosen from.
 *   weights  scores of the chosen, divided by (their sum + 1e-20) if renorm, times scale.
 * Chosen in descending order of the choice value; among equals the lower index is first, for groups
 * too. A NaN counts as the highest value, so that it is chosen and shows in the weights. */
#define ROUTE_MAX_EXPERTS 1024
typedef enum score_kind { SCORE_SOFTMAX, SCORE_SIGMOID, SCORE_SOFTMAX_TOPK } score_kind;
typedef enum group_kind { GROUP_NONE, GROUP_MAX, GROUP_TOP2_SUM } group_kind;
typedef struct op_route {
    int32_t n_tokens, n_experts, top_k; /* top_k <= E, or <= the experts of top_groups groups */
    const float *logits;                /* [T,E] */
    int64_t logits_stride;
    score_kind score;
    const float *select_bias; /* [E] or NULL */
    group_kind group;
    int32_t n_groups, top_groups; /* not read with GROUP_NONE; n_groups divides E */
    bool renorm;
    float scale;
    int32_t *ids;   /* [T,top_k] */
    float *weights; /* [T,top_k] */
} op_route;

/* out[t] = (out[t] +) sum over j < top_k of weights[t,j] * mlp_e(x[t]), e = ids[t,j], added in the
 * order of j; mlp_e(x) = down_e . act(up_e . x + up_bias_e) + down_bias_e. The weights of an expert
 * that no token chose are not read. A backend groups the rows by expert. */
typedef struct op_experts {
    int32_t n_tokens, n_experts, top_k;
    int32_t width, ffn; /* C, F */
    const void *x;      /* [T,C] of x_dt; may not overlap out */
    int64_t x_stride;
    float *out; /* [T,C] */
    int64_t out_stride;
    bool accumulate;      /* add to what out holds */
    const int32_t *ids;   /* [T,top_k], 0 <= id < E, those of a token differ */
    const float *weights; /* [T,top_k] */
    act_kind act;
    bool gated;
    /* Host arrays, which stay as they are while the backend lives: it may keep copies. */
    const wmat *up;                /* [E]: gated [2F,C], gate above up; else [F,C] */
    const wmat *gate;              /* NULL, or [E] of [F,C] where gate and up are stored
                                    * apart: then up is [F,C] too; gated only */
    const wmat *down;              /* [E]: [C,F] */
    const float *const *up_bias;   /* [E] of [2F] or [F], or NULL */
    const float *const *down_bias; /* [E] of [C], or NULL */
    dtype x_dt;                    /* f32, f16, bf16, i8, f8_e4m3 */
    const float *x_scale;          /* [T] of codes */
} op_experts;

/* Copy whole KV pages: page dst[i] becomes a copy of page src[i], in every buffer of the list. */
typedef struct op_copy_pages {
    int32_t n_copies;
    const int32_t *src, *dst; /* host */
    int32_t n_buffers;
    void *const *buffers; /* host array; each [P,page_bytes] */
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

/* Choosing tokens (optional, backend.h). Each row of a call stands alone: either its next token is
 * chosen, or a given one is described. engine/sampler.c defines the choice; this op makes the same
 * one from the same logits, but for sums that differ in their last bits (sample_num.h).
 *
 *   edits         logits of the listed ids: sample_edited. Then ids that are not in the mask are
 *                 out, as are all logits of -inf.
 *   temperature   0: the lowest id of the largest. Else weight = exp((x - max) / temperature)
 *   top_k         ids whose logit is at least the k-th largest (its equals stay)
 *   top_p         of those the fewest, by descending weight and then ascending id, whose weights
 *                 reach top_p of the sum
 *   min_p         of those the ids with weight >= min_p (the best weighs 1)
 *   draw          the first of them, by ascending id, where the running sum of weights passes
 *                 u * sum; u = the 53 high bits of key */
enum { SAMPLE_SEEN = 1, SAMPLE_BAN = 2 };

/* One id whose logit changes. */
typedef struct sample_edit {
    int32_t id;
    float bias;     /* added first */
    int32_t count;  /* times in the output: frequency and presence penalty where > 0 */
    uint32_t flags; /* SEEN: repetition penalty; BAN: -inf in the end */
} sample_edit;

#define SAMPLE_TOP_MAX 20 /* LIMIT_TOP_LOGPROBS */

typedef struct sample_row {
    int32_t row;        /* of logits; the rows of a call differ */
    int32_t given;      /* >= 0: describe this token and choose nothing */
    int32_t n_logprobs; /* -1: none; 0: the token's; k: and the k best, k <= SAMPLE_TOP_MAX */
    int32_t n_edits;    /* edits[edit0 ..], ids that differ */
    int64_t edit0;
    float temperature;
    int32_t top_k;      /* 0: off */
    float top_p, min_p; /* 1, 0: off */
    float repetition_penalty, frequency_penalty, presence_penalty;
    uint64_t key;         /* rng_bits(seed, n_known, choice) */
    const uint32_t *mask; /* NULL, or [ceil(V/32)]: bit id%32 of word id/32 allows an id */
} sample_row;

typedef enum sample_status {
    SAMPLE_OK,
    SAMPLE_NOT_FINITE, /* lse is not finite */
    SAMPLE_NOTHING     /* no id may be chosen: the largest logit is not finite after the edits */
} sample_status;

/* Logprobs are of the logits before any edit, rank 1 is the best. Of equals in `top` the lower id
 * is first. Where status is not OK only token (-1) is set. */
typedef struct sample_result {
    int32_t status; /* sample_status */
    int32_t token;
    float logprob;
    int32_t rank, n_top; /* 0 where not asked for */
    struct {
        int32_t id;
        float logprob;
    } top[SAMPLE_TOP_MAX];
} sample_result;

typedef struct op_sample {
    int32_t n_rows, width; /* width = V <= 2^22 */
    float *logits;         /* [R,V]: written to and given back as they were */
    int64_t logits_stride;
    const float *lse;       /* [R] of op_logsumexp, by row of logits, as argmax */
    const int32_t *argmax;  /* [R] */
    const sample_row *host; /* [n_rows] host memory: what a backend chooses its kernels by */
    const sample_row *rows; /* [n_rows] the same, in backend memory */
    const sample_edit *edits;
    int64_t n_edits;    /* of all rows */
    sample_result *out; /* [n_rows] */
} op_sample;

/* ids[t] = from[src[t]].token where src[t] >= 0, 0 where that is no id of the vocabulary (its row
 * failed); other ids stay. So a token goes from one step into the next without the host. */
typedef struct op_chain {
    int32_t n_tokens, vocab;
    const int32_t *src; /* [T] */
    const sample_result *from;
    int32_t *ids; /* [T] */
} op_chain;

#endif
