/* Projections and norms of the base, with what adapters change in some of the rows. */
#include "engine/adapter_step.h"
#include "engine/forward_parts.h"

void forward_linear_item(forward *f, int32_t layer, weight_slot slot, int32_t item, const float *a,
                         int64_t a_stride, float *out, int64_t out_stride) {
    const weight *w = weights_at(f->w, layer, slot) + item;
    const weight *bias = weights_at(f->w, layer, (weight_slot)(slot + 1));
    forward_product(f, w->m, w->n_parts, bias ? bias[item].vec : NULL, a, a_stride, f->n_tokens,
                    out, out_stride, false);
}

void forward_linear(forward *f, int32_t layer, weight_slot slot, const float *a, int32_t n_rows,
                    float *out, bool accumulate) {
    const weight *w = weights_at(f->w, layer, slot);
    if (forward_adapts(f))
        adapter_linear(f, layer, slot, a, n_rows, out, accumulate);
    else
        forward_product(f, w->m, w->n_parts, weights_vec(f->w, layer, (weight_slot)(slot + 1)), a,
                        w->cols, n_rows, out, w->rows, accumulate);
    adapter_low(f, layer, slot, a, n_rows, out);
}

static void norm_rows(forward *f, const float *gain, const float *bias, const float *x,
                      int32_t n_rows, int32_t width, float eps, float *out) {
    op_norm op = {.kind = f->a->norm,
                  .n_rows = n_rows,
                  .n_groups = 1,
                  .width = width,
                  .x = (float *)x,
                  .x_stride = width,
                  .weight = gain,
                  .bias = bias,
                  .eps = eps,
                  .out = out,
                  .out_stride = width};
    f->b->v->norm(f->b, &op);
}

void forward_norm(forward *f, int32_t layer, weight_slot slot, const float *x, int32_t n_rows,
                  int32_t width, float eps, float *out) {
    weight_slot bias = (weight_slot)(slot + 1);
    if (!forward_adapts(f)) {
        norm_rows(f, weights_vec(f->w, layer, slot), weights_vec(f->w, layer, bias), x, n_rows,
                  width, eps, out);
        return;
    }
    for (int32_t k = 0; k < f->ad->n_runs; k++) {
        const adapter_run *r = &f->ad->runs[k];
        size_t at = (size_t)r->row0 * (size_t)width;
        norm_rows(f, adapter_vec(f, r->ad, layer, slot), adapter_vec(f, r->ad, layer, bias), x + at,
                  r->n, width, eps, out + at);
    }
}
