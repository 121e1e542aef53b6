/* Projections and norms of the base, with what adapters change in some of the rows. */
#include "engine/adapter_step.h"
#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/forward_parts.h"

/* Low-rank parts beside a product are of the 16-bit type that it rounds rows to (adapter.c), so
 * rows of that type are theirs too; codes are not, and other kinds of adapters compute in f32. */
static bool feeds_adapters(const forward *f, dtype dt) {
    if (forward_adapts(f)) return false;
    return !f->ad || !f->ad->has_low || dtype_bytes(dt) == 2;
}

feed_rows forward_feed(const forward *f, dtype dt, const void *to, int32_t width, int i) {
    if (!feeds_adapters(f, dt)) dt = DT_F32;
    bool is_codes = dtype_bytes(dt) == 1;
    return (feed_rows){to, is_codes ? ALIGN_UP(width, 16) : width, dt,
                       is_codes ? f->feed_scale + (size_t)i * (size_t)f->max_tokens : NULL};
}

void forward_linear_item(forward *f, int32_t layer, weight_slot slot, int32_t item, feed_rows a,
                         float *out, int64_t out_stride) {
    const weight *w = weights_at(f->w, layer, slot) + item;
    const weight *bias = weights_at(f->w, layer, (weight_slot)(slot + 1));
    forward_product(f, w->m, w->n_parts, bias ? bias[item].vec : NULL, a, f->n_tokens, out,
                    out_stride, false);
}

void forward_linear(forward *f, int32_t layer, weight_slot slot, feed_rows a, int32_t n_rows,
                    float *out, bool accumulate) {
    const weight *w = weights_at(f->w, layer, slot);
    CHECK(a.stride == w->cols || !f->ad || !(f->ad->n_runs || f->ad->has_low));
    if (forward_adapts(f))
        adapter_linear(f, layer, slot, a.p, n_rows, out, accumulate);
    else
        forward_product(f, w->m, w->n_parts, weights_vec(f->w, layer, (weight_slot)(slot + 1)), a,
                        n_rows, out, w->rows, accumulate);
    adapter_low(f, layer, slot, a.p, a.dt, n_rows, out);
}

static void norm_rows(forward *f, const float *gain, const float *bias, float *x, const float *add,
                      int32_t n_rows, int32_t width, float eps, feed_rows out) {
    op_norm op = {.kind = f->a->norm,
                  .n_rows = n_rows,
                  .n_groups = 1,
                  .width = width,
                  .x = x,
                  .x_stride = width,
                  .add = add,
                  .add_stride = width,
                  .weight = gain,
                  .bias = bias,
                  .eps = eps,
                  .out = (void *)out.p,
                  .out_stride = out.stride,
                  .out_dt = out.dt,
                  .out_scale = (float *)out.scale};
    f->b->v->norm(f->b, &op);
}

void forward_norm(forward *f, int32_t layer, weight_slot slot, float *x, const float *add,
                  int32_t n_rows, int32_t width, float eps, feed_rows out) {
    weight_slot bias = (weight_slot)(slot + 1);
    if (!forward_adapts(f)) {
        norm_rows(f, weights_vec(f->w, layer, slot), weights_vec(f->w, layer, bias), x, add, n_rows,
                  width, eps, out);
        return;
    }
    CHECK(out.dt == DT_F32);
    for (int32_t k = 0; k < f->ad->n_runs; k++) {
        const adapter_run *r = &f->ad->runs[k];
        size_t at = (size_t)r->row0 * (size_t)width;
        norm_rows(f, adapter_vec(f, r->ad, layer, slot), adapter_vec(f, r->ad, layer, bias), x + at,
                  add ? add + at : NULL, r->n, width, eps,
                  f32_rows((const float *)out.p + at, width));
    }
}
