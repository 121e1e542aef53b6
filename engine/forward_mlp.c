/* The feed-forward branch: one net, or a router that chooses experts, beside which a shared net may
 * run for every token. */
#include "engine/forward_parts.h"

static feed_rows activate(forward *f, int32_t layer, const arch_mlp *y, int32_t width) {
    feed_rows out = forward_feed(f, f->feeds[layer].act, f->act, width, FEED_ACT);
    op_act op = {.kind = y->act,
                 .gated = y->gated,
                 .n_rows = f->n_tokens,
                 .width = width,
                 .in = f->up,
                 .in_stride = y->gated ? 2 * (int64_t)width : width,
                 .out = f->act,
                 .out_stride = out.stride,
                 .out_dt = out.dt,
                 .out_scale = (float *)out.scale};
    f->b->v->act(f->b, &op);
    return out;
}

static void route(forward *f, int32_t layer, const arch_mlp *y, feed_rows in) {
    forward_linear(f, layer, W_ROUTER, in, f->n_tokens, f->scores, false);
    op_route op = {.n_tokens = f->n_tokens,
                   .n_experts = y->n_experts,
                   .top_k = y->top_k,
                   .logits = f->scores,
                   .logits_stride = y->n_experts,
                   .score = y->score,
                   .select_bias = weights_vec(f->w, layer, W_ROUTER_SELECT),
                   .group = y->group_score,
                   .n_groups = y->n_groups,
                   .top_groups = y->top_groups,
                   .renorm = y->renorm,
                   .scale = y->route_scale,
                   .ids = f->experts,
                   .weights = f->expert_w};
    f->b->v->route(f->b, &op);
}

/* The shared net's part, weighted by its own gate where there is one. */
static void shared(forward *f, int32_t layer, const arch_mlp *y, feed_rows in, float *out,
                   bool accumulate) {
    forward_linear(f, layer, W_SHARED_UP, in, f->n_tokens, f->up, false);
    feed_rows act = activate(f, layer, y, y->shared_ffn);
    if (y->shared_gate) {
        forward_linear(f, layer, W_SHARED_GATE, in, f->n_tokens, f->gate, false);
        op_scale op = {.n_rows = f->n_tokens,
                       .width = y->shared_ffn,
                       .x = f->act,
                       .x_stride = y->shared_ffn,
                       .scale = 1,
                       .row = f->gate,
                       .row_stride = 1,
                       .row_sigmoid = true};
        f->b->v->scale(f->b, &op);
    }
    forward_linear(f, layer, W_SHARED_DOWN, act, f->n_tokens, out, accumulate);
}

static void experts(forward *f, int32_t layer, const arch_mlp *y, feed_rows in, float *out,
                    bool accumulate) {
    const weight *gate = weights_at(f->w, layer, W_EXPERT_GATE);
    op_experts op = {.n_tokens = f->n_tokens,
                     .n_experts = y->n_experts,
                     .top_k = y->top_k,
                     .width = f->a->hidden,
                     .ffn = y->ffn,
                     .x = in.p,
                     .x_stride = in.stride,
                     .x_dt = in.dt,
                     .x_scale = in.scale,
                     .out = out,
                     .out_stride = f->a->hidden,
                     .accumulate = accumulate,
                     .ids = f->experts,
                     .weights = f->expert_w,
                     .act = y->act,
                     .gated = y->gated,
                     .gate = gate ? gate->m : NULL,
                     .up = weights_at(f->w, layer, W_EXPERT_UP)->m,
                     .down = weights_at(f->w, layer, W_EXPERT_DOWN)->m,
                     .up_bias = weights_vecs(f->w, layer, W_EXPERT_UP_BIAS),
                     .down_bias = weights_vecs(f->w, layer, W_EXPERT_DOWN_BIAS)};
    route(f, layer, y, in);
    f->b->v->experts(f->b, &op);
    if (y->shared_ffn) shared(f, layer, y, in, out, true);
}

void forward_mlp(forward *f, int32_t layer, feed_rows in, float *out, bool accumulate) {
    const arch_mlp *y = &f->a->layers[layer].mlp;
    if (y->kind == MLP_MOE) {
        experts(f, layer, y, in, out, accumulate);
        return;
    }
    forward_linear(f, layer, W_UP, in, f->n_tokens, f->up, false);
    feed_rows act = activate(f, layer, y, y->ffn);
    forward_linear(f, layer, W_DOWN, act, f->n_tokens, out, accumulate);
}
