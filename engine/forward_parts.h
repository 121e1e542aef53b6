/* The pieces that forward.c, forward_attn.c, forward_mlp.c and forward_rows.c share. */
#ifndef ENGINE_FORWARD_PARTS_H
#define ENGINE_FORWARD_PARTS_H

#include "engine/adapter_step.h"
#include "engine/forward.h"

/* out = a W^T (+ bias), or added to what out holds, for n rows; W is a stack of parts. */
void forward_product(forward *f, const wmat *m, int32_t n_parts, const float *bias, const float *a,
                     int64_t a_stride, int32_t n, float *out, int64_t out_stride, bool accumulate);
/* Does this step have rows whose adapters do more than add low-rank parts? */
static inline bool forward_adapts(const forward *f) {
    return f->ad && f->ad->n_runs > 0;
}

/* The product with item 0 of the slot, adapters included. Rows of a are a_stride
 * apart, of out out_stride. */
void forward_linear(forward *f, int32_t layer, weight_slot slot, const float *a, int32_t n_rows,
                    float *out, bool accumulate);
void forward_linear_item(forward *f, int32_t layer, weight_slot slot, int32_t item, const float *a,
                         int64_t a_stride, float *out, int64_t out_stride);
/* out = norm(x) of rows of `width` by the weights of the slot; out may be x. */
void forward_norm(forward *f, int32_t layer, weight_slot slot, const float *x, int32_t n_rows,
                  int32_t width, float eps, float *out);

/* One branch: out (+)= f(in). */
void forward_attn(forward *f, int32_t layer, const float *in, float *out, bool accumulate);
void forward_mlp(forward *f, int32_t layer, const float *in, float *out, bool accumulate);

/* Cut in and dev for a step of so many tokens and sequences, and f->bucket; send what was laid out
 * there. */
void forward_cut_step(forward *f, int32_t n_tokens, int32_t n_seqs);
void forward_send_step(forward *f);
/* Send rows [row0, row1) of the table of positions. */
void forward_send_table(forward *f, rope_table *t, int32_t half, int32_t row0, int32_t row1);

/* The step's rows: ids, positions, places in the cache, rotary rows. */
void forward_lay_out(forward *f, const batch_plan *plan);

#endif
