/* The attention branch: grouped-query attention over the packed projection, or latent attention
 * (MLA) in its absorbed form: with q_h = W_uk_h^T q_nope_h the scores are products with the cached
 * latent rows themselves, and W_uv_h lifts the averaged latent to the head's output. */
#include "engine/forward_parts.h"

/* A norm over the heads of q, or of k, in place; or over all of it at once. */
static void norm_heads(forward *f, int32_t layer, const arch_attn *y, weight_slot slot, float *x,
                       int32_t heads, int64_t stride) {
    const arch *a = f->a;
    bool full = y->qk_norm == QK_FULL;
    op_norm op = {.kind = y->qk_norm_kind,
                  .n_rows = f->n_tokens,
                  .n_groups = full ? 1 : heads,
                  .width = full ? heads * a->head_dim : a->head_dim,
                  .x = x,
                  .x_stride = stride,
                  .weight = weights_vec(f->w, layer, slot),
                  .bias = weights_vec(f->w, layer, (weight_slot)(slot + 1)),
                  .weight_stride = y->qk_norm == QK_HEAD_WEIGHTS ? a->head_dim : 0,
                  .eps = a->eps,
                  .out = x,
                  .out_stride = stride};
    f->b->v->norm(f->b, &op);
}

/* What happens to q, k and v between the projection and the rotation. */
static void shape_qkv(forward *f, int32_t layer, const arch_attn *y, int32_t width) {
    const arch *a = f->a;
    int32_t q = a->n_heads * a->head_dim;
    op_limit clip = {.kind = LIMIT_CLAMP,
                     .n_rows = f->n_tokens,
                     .width = width,
                     .x = f->qkv,
                     .x_stride = width,
                     .limit = y->clip};
    op_scale logn = {.n_rows = f->n_tokens,
                     .width = q,
                     .x = f->qkv,
                     .x_stride = width,
                     .scale = 1,
                     .row = f->dev.logn,
                     .row_stride = 1};
    if (y->qk_norm != QK_NONE) {
        norm_heads(f, layer, y, W_Q_NORM, f->qkv, a->n_heads, width);
        norm_heads(f, layer, y, W_K_NORM, f->qkv + q, a->n_kv_heads, width);
    }
    if (y->clip > 0) f->b->v->limit(f->b, &clip);
    if (y->logn_base) f->b->v->scale(f->b, &logn);
}

static void rope_and_cache(forward *f, int32_t layer, const arch_attn *y, int32_t width) {
    const arch *a = f->a;
    op_rope_kv op = {.n_tokens = f->n_tokens,
                     .n_heads = a->n_heads,
                     .n_kv_heads = a->n_kv_heads,
                     .head_dim = a->head_dim,
                     .qkv = f->qkv,
                     .qkv_stride = width,
                     .pos = f->dev.pos,
                     .kv_slot = f->dev.kv_slot,
                     .k_pages = kvcache_keys(f->kv, layer),
                     .v_pages = kvcache_values(f->kv, layer),
                     .kv_dt = f->kv->dt,
                     .page_tokens = f->kv->page_tokens};
    if (y->rope >= 0) {
        const rope_table *t = &f->ropes[y->rope];
        op.style = a->ropes[y->rope].style;
        op.rope_dim = a->ropes[y->rope].dim;
        op.cos = t->own ? t->step_cos : t->cos;
        op.sin = t->own ? t->step_sin : t->sin;
        if (t->own) op.pos = f->iota;
    }
    f->b->v->rope_kv(f->b, &op);
}

static attn_seqs sequences(const forward *f) {
    attn_seqs s = {f->n_seqs, f->in.seqs, f->dev.seqs, f->dev.page_table, NULL, NULL};
    if (f->bucket) {
        s.plan = f->dev.plan;
        s.room = &f->graphs->room;
    }
    return s;
}

static feed_rows attend(forward *f, int32_t layer, const arch_attn *y, int32_t width) {
    const arch *a = f->a;
    feed_rows out = forward_feed(f, f->feeds[layer].att, f->att, a->n_heads * a->head_dim, 0);
    op_attention op = {.seqs = sequences(f),
                       .n_heads = a->n_heads,
                       .n_kv_heads = a->n_kv_heads,
                       .head_dim = a->head_dim,
                       .q = f->qkv,
                       .q_stride = width,
                       .out = f->att,
                       .out_stride = out.stride,
                       .out_dt = out.dt,
                       .scale = y->scale,
                       .softcap = y->softcap,
                       .window = y->window,
                       .alibi_slopes = f->alibi,
                       .sinks = weights_vec(f->w, layer, W_SINKS),
                       .k_pages = kvcache_keys(f->kv, layer),
                       .v_pages = kvcache_values(f->kv, layer),
                       .kv_dt = f->kv->dt,
                       .page_tokens = f->kv->page_tokens};
    f->b->v->attention(f->b, &op);
    return out;
}

static feed_rows grouped(forward *f, int32_t layer, feed_rows in) {
    const arch *a = f->a;
    const arch_attn *y = &a->layers[layer].attn;
    int32_t width = (a->n_heads + 2 * a->n_kv_heads) * a->head_dim;
    forward_linear(f, layer, W_QKV, in, f->n_tokens, f->qkv, false);
    shape_qkv(f, layer, y, width);
    if (forward_adapts(f)) adapter_prefix(f, layer, width);
    rope_and_cache(f, layer, y, width);
    return attend(f, layer, y, width);
}

/* q: [T,H,nope+rope] in f->qkv. */
static void latent_q(forward *f, int32_t layer, feed_rows in) {
    const arch *a = f->a;
    if (a->q_rank) {
        forward_linear(f, layer, W_Q_A, in, f->n_tokens, f->q_low, false);
        if (weights_at(f->w, layer, W_Q_A_NORM))
            forward_norm(f, layer, W_Q_A_NORM, f->q_low, NULL, f->n_tokens, a->q_rank,
                         a->latent_eps, f32_rows(f->q_low, a->q_rank));
        in = f32_rows(f->q_low, a->q_rank);
    }
    forward_linear(f, layer, W_Q_B, in, f->n_tokens, f->qkv, false);
}

/* The latent half of each row is normed; the rope half follows it. */
static void latent_kv(forward *f, int32_t layer, feed_rows in) {
    const arch *a = f->a;
    int32_t width = a->latent + a->rope_width;
    forward_linear(f, layer, W_KV_A, in, f->n_tokens, f->kv_row, false);
    op_norm op = {.kind = f->a->norm,
                  .n_rows = f->n_tokens,
                  .n_groups = 1,
                  .width = a->latent,
                  .x = f->kv_row,
                  .x_stride = width,
                  .weight = weights_vec(f->w, layer, W_KV_A_NORM),
                  .bias = weights_vec(f->w, layer, W_KV_A_NORM_BIAS),
                  .eps = a->latent_eps,
                  .out = f->kv_row,
                  .out_stride = width};
    f->b->v->norm(f->b, &op);
}

static void latent_rope(forward *f, int32_t layer) {
    const arch *a = f->a;
    int32_t r = a->layers[layer].attn.rope, head = a->nope_width + a->rope_width;
    const rope_table *t = &f->ropes[r];
    op_latent_kv op = {.n_tokens = f->n_tokens,
                       .n_heads = a->n_heads,
                       .latent = a->latent,
                       .rope_dim = a->rope_width,
                       .style = a->ropes[r].style,
                       .q = f->qkv,
                       .q_stride = (int64_t)a->n_heads * head,
                       .q_head_stride = head,
                       .q_off = a->nope_width,
                       .kv = f->kv_row,
                       .kv_stride = a->latent + a->rope_width,
                       .pos = t->own ? f->iota : f->dev.pos,
                       .kv_slot = f->dev.kv_slot,
                       .cos = t->own ? t->step_cos : t->cos,
                       .sin = t->own ? t->step_sin : t->sin,
                       .pages = kvcache_keys(f->kv, layer),
                       .kv_dt = f->kv->dt,
                       .page_tokens = f->kv->page_tokens};
    f->b->v->latent_kv(f->b, &op);
}

/* q_lat: the absorbed q_nope of each head, then its rope part as it is. */
static void absorb(forward *f, int32_t layer) {
    const arch *a = f->a;
    int32_t head = a->nope_width + a->rope_width, width = a->latent + a->rope_width;
    int64_t q_stride = (int64_t)a->n_heads * head, lat_stride = (int64_t)a->n_heads * width;
    for (int32_t h = 0; h < a->n_heads; h++) {
        const float *q = f->qkv + (int64_t)h * head;
        float *out = f->q_lat + (int64_t)h * width;
        forward_linear_item(f, layer, W_K_UP, h, f32_rows(q, q_stride), out, lat_stride);
        op_add copy = {.n_rows = f->n_tokens,
                       .width = a->rope_width,
                       .x = out + a->latent,
                       .x_stride = lat_stride,
                       .y = q + a->nope_width,
                       .y_stride = q_stride,
                       .x_scale = 0,
                       .y_scale = 1};
        f->b->v->add(f->b, &copy);
    }
}

static feed_rows latent(forward *f, int32_t layer, feed_rows in) {
    const arch *a = f->a;
    int32_t width = a->latent + a->rope_width;
    feed_rows lat = forward_feed(f, f->feeds[layer].att, f->att_lat, a->n_heads * a->latent, 0);
    latent_q(f, layer, in);
    latent_kv(f, layer, in);
    latent_rope(f, layer);
    absorb(f, layer);
    op_latent_attention op = {.seqs = sequences(f),
                              .n_heads = a->n_heads,
                              .latent = a->latent,
                              .rope_dim = a->rope_width,
                              .q = f->q_lat,
                              .q_stride = (int64_t)a->n_heads * width,
                              .out = f->att_lat,
                              .out_stride = lat.stride,
                              .out_dt = lat.dt,
                              .scale = a->layers[layer].attn.scale,
                              .pages = kvcache_keys(f->kv, layer),
                              .kv_dt = f->kv->dt,
                              .page_tokens = f->kv->page_tokens};
    f->b->v->latent_attention(f->b, &op);
    int64_t out_stride = (int64_t)a->n_heads * a->v_width;
    float *out = f->att;
    for (int32_t h = 0; h < a->n_heads; h++, out += a->v_width) {
        forward_linear_item(f, layer, W_V_UP, h, lat, out, out_stride);
        lat.p = (const char *)lat.p + (size_t)a->latent * dtype_bytes(lat.dt);
    }
    return f32_rows(f->att, out_stride);
}

void forward_attn(forward *f, int32_t layer, feed_rows in, float *out, bool accumulate) {
    feed_rows att = f->a->attn == ATTN_MLA ? latent(f, layer, in) : grouped(f, layer, in);
    forward_linear(f, layer, W_O, att, f->n_tokens, out, accumulate);
}
