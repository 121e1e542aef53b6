/* One module of an adapter as numbers, all f32, and what they do to the base's weight:
 *
 *     W' = c * ((V or W) * d + (B * s) A)       y = W' x + b'
 *
 * with c over rows (DoRA: m / ||W + BsA||, IA3: outputs), d over columns (IA3: inputs), s over the
 * rank, V a whole new weight. What is NULL is not there (c, d, s: ones). An embedding table is a
 * weight of V rows: B is then A of the file turned over, and A is B. */
#ifndef ENGINE_ADAPTER_DELTA_H
#define ENGINE_ADAPTER_DELTA_H

#include "engine/adapter_source.h"

typedef struct adapter_delta {
    const char *name;         /* of the module, borrowed from the source */
    int32_t rank, rows, cols; /* rows or cols 0: no tensor says */
    bool is_embedding;        /* the low-rank part came as lora_embedding_A and _B */
    float *a;                 /* [rank,cols] */
    float *b;                 /* [rows,rank] */
    float *s;                 /* [rank] */
    float *b_bias;            /* [rows]: B's own bias, to be added s-scaled */
    double scale;             /* of b_bias */
    float *magnitude;         /* [rows] m of DoRA; c is made by adapter_delta_norm */
    float *c;                 /* [rows] */
    float *d;                 /* [cols] */
    bool c_scales_bias;       /* IA3: y = c * (W x + b) */
    float *weight;            /* V [rows,cols] as stored */
    float *bias;              /* b' [rows] */
} adapter_delta;

/* Reads the tensors; shapes must agree with one another. */
NODISCARD status adapter_delta_read(const adapter_source *s, const adapter_module *m,
                                    adapter_delta *ret, error *err);
void adapter_delta_done(adapter_delta *d);

/* Rows [row0, row0+n) of the base's weight, w[n,cols], as they are with the adapter: merged. With
 * DoRA, c of these rows must be there: adapter_delta_norm first. Any thread. */
void adapter_delta_merge(const adapter_delta *d, int64_t row0, int64_t n, int64_t cols, float *w);
/* The same for the bias (b may hold the base's, or zeros where it has none). True: it has one now.
 */
bool adapter_delta_merge_bias(const adapter_delta *d, int64_t row0, int64_t n, float *b);
/* DoRA: fill c for rows [row0, row0+n) from those rows of the base. Nothing for other kinds. */
void adapter_delta_norm(adapter_delta *d, int64_t row0, int64_t n, int64_t cols, const float *w);
/* A base that stores this weight as [in,out] (GPT-2): V likewise, so turn it to [out,in]. */
void adapter_delta_turn(adapter_delta *d);

#endif
