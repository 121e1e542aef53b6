/* The pieces that forward.c, forward_attn.c, forward_mlp.c and forward_rows.c share. */
#ifndef ENGINE_FORWARD_PARTS_H
#define ENGINE_FORWARD_PARTS_H

#include "engine/adapter_step.h"
#include "engine/forward.h"

/* Rows that products read (forward_feed.h). */
typedef struct feed_rows {
    const void *p;
    int64_t stride; /* elements */
    dtype dt;
    const float *scale; /* of codes */
} feed_rows;
static inline feed_rows f32_rows(const float *p, int64_t stride) {
    return (feed_rows){p, stride, DT_F32, NULL};
}

/* out = a W^T (+ bias), or added to what out holds, for n rows; W is a stack of parts. */
void forward_product(forward *f, const wmat *m, int32_t n_parts, const float *bias, feed_rows a,
                     int32_t n, float *out, int64_t out_stride, bool accumulate);
/* Does this step have rows whose adapters do more than add low-rank parts? */
static inline bool forward_adapts(const forward *f) {
    return f->ad && f->ad->n_runs > 0;
}

/* Where a layer's feed of the type dt is stored in this step: f32 where adapters read the rows
 * otherwise than the base's products. Codes have their scales in list `i` of feed_scale. */
enum { FEED_H, FEED_H2, FEED_ACT, FEED_SCALES };
feed_rows forward_feed(const forward *f, dtype dt, const void *to, int32_t width, int i);

/* The product with item 0 of the slot, adapters included; rows of a are dense where there are
 * adapters. forward_linear_item: rows of out are out_stride apart. */
void forward_linear(forward *f, int32_t layer, weight_slot slot, feed_rows a, int32_t n_rows,
                    float *out, bool accumulate);
void forward_linear_item(forward *f, int32_t layer, weight_slot slot, int32_t item, feed_rows a,
                         float *out, int64_t out_stride);
/* out = norm(x) of rows of `width` by the weights of the slot; f32 out may be x. add: NULL, or rows
 * that x becomes the sum with first. */
void forward_norm(forward *f, int32_t layer, weight_slot slot, float *x, const float *add,
                  int32_t n_rows, int32_t width, float eps, feed_rows out);

/* One branch: out (+)= f(in). */
void forward_attn(forward *f, int32_t layer, feed_rows in, float *out, bool accumulate);
void forward_mlp(forward *f, int32_t layer, feed_rows in, float *out, bool accumulate);

/* Cut in and dev for a step of so many tokens and sequences, and f->bucket; send what was laid out
 * there. */
void forward_cut_step(forward *f, int32_t n_tokens, int32_t n_seqs);
void forward_send_step(forward *f);
/* Send rows [row0, row1) of the table of positions. */
void forward_send_table(forward *f, rope_table *t, int32_t half, int32_t row0, int32_t row1);

/* The step's rows: ids, positions, places in the cache, rotary rows. */
void forward_lay_out(forward *f, const batch_plan *plan);

#endif
