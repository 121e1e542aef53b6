/* READ THIS FIRST.
 *
 * A transformer over a batch of sequences, as in the papers:
 *
 *     x = embed(ids)                                   [T,C]
 *     for each layer:
 *         q,k,v = W_qkv norm(x) (+ b)                  one product for all three
 *         q,k = rope(qk_norm(q,k));  cache <- k,v
 *         x += W_o attention(q, cache) (+ b)
 *         x += W_down (act(W_gate norm(x)) * (W_up norm(x)))
 *     logits = W_head norm(x[rows])                    only the rows that are asked for
 *
 * That is the plain form; the families differ in where the norms stand and how a branch joins the
 * stream (arch_branch), in the attention (forward_attn.c) and in the feed-forward net
 * (forward_mlp.c). arch.c decided all of it; these files hold no family names.
 *
 * The T tokens of a step are the rows, whatever sequences they belong to: a whole prompt, a chunk
 * of one, or one new token each. Only attention looks across rows, through the pages of its own
 * sequence, so a row's result depends on its own sequence alone, bit for bit (ops.h).
 *
 * Nothing is allocated here after forward_alloc (forward_mem.c). */
#include "engine/forward.h"

#include <string.h>

#include "engine/base/check.h"
#include "engine/forward_parts.h"
#include "engine/kvswap.h"

static void norm(forward *f, int32_t layer, weight_slot slot, float *x, float *out) {
    forward_norm(f, layer, slot, x, NULL, f->n_tokens, f->a->hidden, f->a->eps,
                 f32_rows(out, f->a->hidden));
}

/* norm(f->x), stored as its products round it; y joins x on the way, where it waits. */
static feed_rows norm_feed(forward *f, int32_t layer, weight_slot slot, dtype dt, void *to, int i) {
    feed_rows out = forward_feed(f, dt, to, f->a->hidden, i);
    forward_norm(f, layer, slot, f->x, f->y_waits ? f->y : NULL, f->n_tokens, f->a->hidden,
                 f->a->eps, out);
    f->y_waits = false;
    return out;
}

/* x = x_scale * x + y_scale * y; y_stride 0 repeats one row. */
static void add(forward *f, float *x, float x_scale, const float *y, int64_t y_stride,
                float y_scale) {
    op_add op = {.n_rows = f->n_tokens,
                 .width = f->a->hidden,
                 .x = x,
                 .x_stride = f->a->hidden,
                 .y = y,
                 .y_stride = y_stride,
                 .x_scale = x_scale,
                 .y_scale = y_scale};
    f->b->v->add(f->b, &op);
}

/* Layers */

typedef void branch_fn(forward *f, int32_t layer, feed_rows in, float *out, bool accumulate);

/* Before x is read by anything but a norm. */
static void settle(forward *f) {
    if (f->y_waits) add(f, f->x, 1, f->y, f->a->hidden, 1);
    f->y_waits = false;
}

/* The branch into y, then x = alpha * base + scale * y. A plain sum is left to the norm that reads
 * x next, which has it in its hands anyway. */
static void join(forward *f, const arch_branch *r, int32_t l, weight_slot out_norm) {
    if (r->out_norm) norm(f, l, out_norm, f->y, f->y);
    if (r->from_norm) {
        float *normed = f->h; /* f32, as layer_feeds_of has it */
        add(f, normed, r->alpha, f->y, f->a->hidden, r->scale);
        f->h = f->x;
        f->x = normed;
    } else if (r->alpha == 1 && r->scale == 1) {
        f->y_waits = true;
    } else
        add(f, f->x, r->alpha, f->y, f->a->hidden, r->scale);
}

static void run_branch(forward *f, int32_t l, const arch_branch *r, branch_fn *fn,
                       weight_slot in_norm, weight_slot out_norm, dtype in_dt, bool may_alias) {
    feed_rows in = f32_rows(f->x, f->a->hidden);
    if (r->in_norm)
        in = norm_feed(f, l, in_norm, in_dt, f->h, FEED_H);
    else
        settle(f);
    bool direct = !r->out_norm && !r->from_norm && r->alpha == 1 && r->scale == 1 &&
                  (r->in_norm || may_alias);
    if (direct) {
        fn(f, l, in, f->x, true);
    } else {
        fn(f, l, in, f->y, false);
        join(f, r, l, out_norm);
    }
    if (r->post_norm) {
        settle(f);
        norm(f, l, in_norm, f->x, f->x);
    }
}

/* Both branches read the same x; with scales they are collected in y. */
static void run_parallel(forward *f, int32_t l) {
    const arch_layer *y = &f->a->layers[l];
    const arch_branch *r = &y->attn_branch;
    const layer_feeds *t = &f->feeds[l];
    feed_rows in = norm_feed(f, l, W_ATTN_NORM, t->attn_in, f->h, FEED_H), second = in;
    if (!y->shared_norm) second = norm_feed(f, l, W_MLP_NORM, t->mlp_in, f->h2, FEED_H2);
    bool direct = r->alpha == 1 && r->scale == 1;
    float *out = direct ? f->x : f->y;
    forward_attn(f, l, in, out, direct);
    if (y->mlp.kind != MLP_NONE) forward_mlp(f, l, second, out, true);
    if (!direct) add(f, f->x, r->alpha, f->y, f->a->hidden, r->scale);
}

static void run_layer(forward *f, int32_t l) {
    const arch_layer *y = &f->a->layers[l];
    if (y->parallel) {
        run_parallel(f, l);
        return;
    }
    const layer_feeds *t = &f->feeds[l];
    run_branch(f, l, &y->attn_branch, forward_attn, W_ATTN_NORM, W_ATTN_OUT_NORM, t->attn_in, true);
    if (y->mlp.kind != MLP_NONE)
        run_branch(f, l, &y->mlp_branch, forward_mlp, W_MLP_NORM, W_MLP_OUT_NORM, t->mlp_in,
                   y->mlp.kind == MLP_DENSE);
}

/* Both ends */

static void look_up(forward *f, weight_slot slot, const int32_t *rows, float scale, bool accumulate,
                    float *out) {
    const weight *t = weights_at(f->w, -1, slot);
    op_embed op = {.ids = rows,
                   .n_tokens = f->n_tokens,
                   .width = t->cols,
                   .rows = t->rows,
                   .table = t->table,
                   .packed = t->packed,
                   .table_dt = t->dt,
                   .scale = scale,
                   .accumulate = accumulate,
                   .out = out};
    f->b->v->embed(f->b, &op);
}

/* Ids that the host does not know yet: they are results of the step before. */
static void take_ids(forward *f) {
    op_chain op = {f->n_tokens, f->a->vocab, f->dev.src, f->chain_results, f->dev.ids};
    if (f->n_chained) f->b->v->chain(f->b, &op);
}

static void embed(forward *f) {
    const arch *a = f->a;
    float *x = a->proj_in ? f->narrow : f->x;
    look_up(f, W_EMBED, f->dev.ids, a->embed_scale, false, x);
    if (forward_adapts(f)) adapter_embed(f, a->embed_scale, x);
    if (a->proj_in)
        forward_linear(f, -1, W_PROJ_IN, f32_rows(f->narrow, a->embed_width), f->n_tokens, f->x,
                       false);
    if (a->pos_embed) look_up(f, W_POS_EMBED, f->dev.pos_rows, 1, true, f->x);
    if (a->type_embed) add(f, f->x, 1, weights_vec(f->w, -1, W_TYPE_EMBED), 0, 1);
    if (a->embed_norm) norm(f, -1, W_EMBED_NORM, f->x, f->x);
}

/* Joins from the norm exchange x and h. An odd number of them must not leave the stream elsewhere
 * than where it began: a recorded step finds it there, whatever ran since. */
static void run_layers(forward *f) {
    float *x = f->x;
    embed(f);
    for (int32_t l = 0; l < f->a->n_layers; l++) run_layer(f, l);
    settle(f);
    if (f->x == x) return;
    f->h = f->x;
    f->x = x;
    add(f, x, 0, f->h, f->a->hidden, 1);
}

static void scale_rows(forward *f, float *x, int32_t n, int32_t width, float by) {
    op_scale op = {.n_rows = n, .width = width, .x = x, .x_stride = width, .scale = by};
    if (by != 1) f->b->v->scale(f->b, &op);
}

/* f->rows [n,C]: the final norm of n rows of x; pick lists them, in the backend's memory. */
static void final_rows(forward *f, const int32_t *pick, int32_t n) {
    op_embed gather = {.ids = pick,
                       .n_tokens = n,
                       .width = f->a->hidden,
                       .rows = f->n_tokens,
                       .table = f->x,
                       .table_dt = DT_F32,
                       .scale = 1,
                       .out = f->rows};
    CHECK(n <= f->n_rows);
    if (f->ad) f->ad->pick = pick;
    f->b->v->embed(f->b, &gather);
    if (f->a->final_norm)
        forward_norm(f, -1, W_FINAL_NORM, f->rows, NULL, n, f->a->hidden, f->a->eps,
                     f32_rows(f->rows, f->a->hidden));
}

void forward_final(forward *f, const int32_t *rows, int32_t n) {
    f->b->v->upload(f->b, f->pick, rows, (size_t)n * sizeof *rows);
    if (f->ad) adapter_step_pick(f->ad, rows, n);
    final_rows(f, f->pick, n);
}

/* Bring n elements of the backend's memory to the host, unless they are there. */
static void fetch(forward *f, void *host, const void *dev, size_t n, size_t size) {
    if (host != dev) f->b->v->download(f->b, host, dev, n * size);
}

void forward_fetch_rows(forward *f, int32_t n) {
    fetch(f, f->got.rows, f->rows, (size_t)n * (size_t)f->a->hidden, sizeof(float));
}

void forward_fetch_row(forward *f, int32_t i) {
    size_t at = (size_t)i * (size_t)f->a->vocab;
    fetch(f, f->got.logits + at, f->logits + at, (size_t)f->a->vocab, sizeof(float));
    fetch(f, f->got.lse + i, f->row_lse + i, 1, sizeof(float));
    fetch(f, f->got.argmax + i, f->row_argmax + i, 1, sizeof(int32_t));
}

void forward_fetch_logits(forward *f, int32_t n) {
    fetch(f, f->got.logits, f->logits, (size_t)n * (size_t)f->a->vocab, sizeof(float));
    fetch(f, f->got.lse, f->row_lse, (size_t)n, sizeof(float));
    fetch(f, f->got.argmax, f->row_argmax, (size_t)n, sizeof(int32_t));
}

/* Logits and their statistics of f->rows. */
static void head_rows(forward *f, int32_t n) {
    const arch *a = f->a;
    feed_rows in = f32_rows(f->rows, a->hidden);
    int32_t v = a->vocab;
    scale_rows(f, f->rows, n, a->hidden, a->pre_head_scale);
    if (a->proj_out) {
        forward_linear(f, -1, W_PROJ_OUT, in, n, f->rows2, false);
        in = f32_rows(f->rows2, a->embed_width);
    }
    forward_linear(f, -1, W_HEAD, in, n, f->logits, false);
    scale_rows(f, f->logits, n, v, a->logit_scale);
    op_limit cap = {.kind = LIMIT_TANH,
                    .n_rows = n,
                    .width = v,
                    .x = f->logits,
                    .x_stride = v,
                    .limit = a->logit_softcap};
    if (a->logit_softcap > 0) f->b->v->limit(f->b, &cap);
    op_logsumexp op = {.n_rows = n,
                       .width = v,
                       .x = f->logits,
                       .x_stride = v,
                       .ret_max = f->row_max,
                       .ret_lse = f->row_lse,
                       .ret_argmax = f->row_argmax};
    f->b->v->logsumexp(f->b, &op);
}

void forward_head(forward *f, const int32_t *rows, int32_t n) {
    CHECK(f->a->has_head);
    if (f->has_logits && n == f->n_picked &&
        memcmp(rows, f->in.pick, (size_t)n * sizeof *rows) == 0)
        return;
    f->has_logits = false;
    forward_final(f, rows, n);
    head_rows(f, n);
}

/* A step with a bucket: its head too, where logits of all rows fit. */
static void run_bucket(forward *f) {
    run_layers(f);
    if (!f->has_logits) return;
    final_rows(f, f->dev.pick, f->bucket);
    head_rows(f, f->bucket);
}

void forward_run(forward *f, const batch_plan *plan) {
    kvswap_run(f->kv, plan->moves, plan->n_moves);
    kvcache_copy(f->kv, plan->copies, plan->n_copies);
    forward_lay_out(f, plan);
    f->has_logits = f->bucket && f->a->has_head && f->bucket <= f->n_rows;
    take_ids(f);
    if (f->bucket)
        forward_graph_step(f, run_bucket);
    else if (f->n_tokens)
        run_layers(f);
}
