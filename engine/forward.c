/* READ THIS FIRST.
 *
 * A decoder-only transformer over a batch of sequences, as in the papers:
 *
 *     x = embed(ids)                                   [T,C]
 *     for each layer:
 *         q,k,v = W_qkv norm(x) (+ b)                  one product for all three
 *         q,k = rope(qk_norm(q,k));  cache <- k,v
 *         x += W_o attention(q, cache) (+ b)
 *         x += W_down (act(W_gate norm(x)) * (W_up norm(x)))
 *     logits = W_head norm(x[rows])                    only the rows that are asked for
 *
 * The T tokens of a step are the rows, whatever sequences they belong to: a whole prompt, a chunk
 * of one, or one new token each. Only attention looks across rows, through the pages of its own
 * sequence, so a row's result depends on its own sequence alone, bit for bit (ops.h).
 *
 * arch.c decided what each layer is; this file holds no family names. Nothing is allocated here
 * after forward_alloc. */
#include "engine/forward.h"

#include "engine/base/check.h"
#include "engine/base/mem.h"

/* The pieces of a layer */

static void norm(forward *f, int32_t layer, weight_slot slot, const float *x, int32_t n_rows,
                 float *out) {
    int32_t c = f->a->hidden;
    op_norm op = {.kind = f->a->norm,
                  .n_rows = n_rows,
                  .n_groups = 1,
                  .width = c,
                  .x = (float *)x,
                  .x_stride = c,
                  .weight = weights_at(f->w, layer, slot)->vec,
                  .eps = f->a->eps,
                  .out = out,
                  .out_stride = c};
    f->b->v->norm(f->b, &op);
}

/* out = a W^T (+ bias), or added to what out holds. */
static void linear(forward *f, int32_t layer, weight_slot slot, const float *a, int32_t n_rows,
                   float *out, bool accumulate) {
    const weight *w = weights_at(f->w, layer, slot);
    bool has_bias = layer >= 0; /* a matrix' bias is the slot after it */
    op_gemm op = {.m = n_rows,
                  .a = a,
                  .a_stride = w->m.k,
                  .w = &w->m,
                  .bias = has_bias ? weights_at(f->w, layer, slot + 1)->vec : NULL,
                  .out = out,
                  .out_stride = w->m.n,
                  .accumulate = accumulate};
    f->b->v->gemm(f->b, &op);
}

/* RMS over each head of q, then of k, in place. */
static void qk_norm(forward *f, int32_t layer, int64_t stride) {
    const arch *a = f->a;
    op_norm op = {.kind = NORM_RMS,
                  .n_rows = f->n_tokens,
                  .n_groups = a->n_heads,
                  .width = a->head_dim,
                  .x = f->qkv,
                  .x_stride = stride,
                  .weight = weights_at(f->w, layer, W_Q_NORM)->vec,
                  .eps = a->eps,
                  .out = f->qkv,
                  .out_stride = stride};
    f->b->v->norm(f->b, &op);
    op.n_groups = a->n_kv_heads;
    op.x = op.out = f->qkv + (size_t)a->n_heads * (size_t)a->head_dim;
    op.weight = weights_at(f->w, layer, W_K_NORM)->vec;
    f->b->v->norm(f->b, &op);
}

static void rope_and_cache(forward *f, int32_t layer, int64_t stride) {
    const arch *a = f->a;
    const arch_layer *y = &a->layers[layer];
    op_rope_kv op = {.n_tokens = f->n_tokens,
                     .n_heads = a->n_heads,
                     .n_kv_heads = a->n_kv_heads,
                     .head_dim = a->head_dim,
                     .qkv = f->qkv,
                     .qkv_stride = stride,
                     .pos = f->pos,
                     .kv_slot = f->kv_slot,
                     .k_pages = kvcache_keys(f->kv, layer),
                     .v_pages = kvcache_values(f->kv, layer),
                     .kv_dt = f->kv->dt,
                     .page_tokens = f->kv->page_tokens};
    if (y->rope >= 0) {
        const rope_table *t = &f->ropes[y->rope];
        bool own = f->own_rope && t->step_cos;
        op.style = a->ropes[y->rope].style;
        op.rope_dim = a->ropes[y->rope].dim;
        op.cos = own ? t->step_cos : t->cos;
        op.sin = own ? t->step_sin : t->sin;
        if (own) op.pos = f->iota;
    }
    f->b->v->rope_kv(f->b, &op);
}

static void attention(forward *f, int32_t layer, int64_t stride) {
    const arch *a = f->a;
    const arch_layer *y = &a->layers[layer];
    op_attention op = {.n_seqs = f->n_seqs,
                       .n_heads = a->n_heads,
                       .n_kv_heads = a->n_kv_heads,
                       .head_dim = a->head_dim,
                       .seqs = f->seqs,
                       .q = f->qkv,
                       .q_stride = stride,
                       .out = f->att,
                       .out_stride = (int64_t)a->n_heads * a->head_dim,
                       .scale = y->scale,
                       .window = y->window,
                       .k_pages = kvcache_keys(f->kv, layer),
                       .v_pages = kvcache_values(f->kv, layer),
                       .kv_dt = f->kv->dt,
                       .page_tokens = f->kv->page_tokens};
    f->b->v->attention(f->b, &op);
}

static void activate(forward *f, int32_t layer) {
    const arch_layer *y = &f->a->layers[layer];
    int32_t width = f->a->ffn;
    op_act op = {.kind = y->act,
                 .gated = y->gated,
                 .n_rows = f->n_tokens,
                 .width = width,
                 .in = f->up,
                 .in_stride = y->gated ? 2 * (int64_t)width : width,
                 .out = f->act,
                 .out_stride = width};
    f->b->v->act(f->b, &op);
}

static void run_layer(forward *f, int32_t l) {
    int64_t qkv_stride = (int64_t)(f->a->n_heads + 2 * f->a->n_kv_heads) * f->a->head_dim;
    int32_t n = f->n_tokens;

    norm(f, l, W_ATTN_NORM, f->x, n, f->h);
    linear(f, l, W_QKV, f->h, n, f->qkv, false);
    if (f->a->layers[l].qk_norm) qk_norm(f, l, qkv_stride);
    rope_and_cache(f, l, qkv_stride);
    attention(f, l, qkv_stride);
    linear(f, l, W_O, f->att, n, f->x, true);

    norm(f, l, W_MLP_NORM, f->x, n, f->h);
    linear(f, l, W_UP, f->h, n, f->up, false);
    activate(f, l);
    linear(f, l, W_DOWN, f->act, n, f->x, true);
}

static void embed(forward *f) {
    op_embed op = {.ids = f->ids,
                   .n_tokens = f->n_tokens,
                   .width = f->a->hidden,
                   .rows = f->a->vocab,
                   .table = f->w->embed,
                   .table_dt = f->w->embed_dt,
                   .scale = 1,
                   .out = f->x};
    f->b->v->embed(f->b, &op);
}

/* The step's rows */

static void lay_out_seq(forward *f, const batch_seq *s, attn_seq *ret) {
    int32_t page_tokens = f->kv->page_tokens;
    CHECK(s->n_tokens >= 1);
    CHECK(s->pos >= 0);
    CHECK(s->pos + s->n_tokens <= f->max_model_len);
    CHECK(f->n_tokens + s->n_tokens <= f->max_tokens);
    *ret = (attn_seq){f->n_tokens, s->n_tokens, s->pos, s->pages};
    for (int32_t i = 0; i < s->n_tokens; i++) {
        int32_t p = s->pos + i, t = f->n_tokens++, page = s->pages[p / page_tokens];
        CHECK(page >= 0 && page < f->kv->n_pages);
        CHECK(s->ids[p] >= 0 && s->ids[p] < f->a->vocab);
        f->ids[t] = s->ids[p];
        f->pos[t] = p;
        f->kv_slot[t] = (int64_t)page * page_tokens + p % page_tokens;
    }
}

static void lay_out(forward *f, const batch_plan *plan) {
    CHECK(plan->n_seqs <= f->max_seqs);
    f->n_tokens = 0;
    f->n_seqs = plan->n_seqs;
    for (int32_t i = 0; i < plan->n_seqs; i++) lay_out_seq(f, &plan->seqs[i], &f->seqs[i]);
}

/* Rows of the static table up to position `last`. */
static void fill_table(const rope_spec *r, rope_table *t, int32_t last) {
    int32_t half = r->dim / 2;
    for (; t->n_filled <= last; t->n_filled++)
        rope_row(r, t->inv_freq, t->n_filled, t->cos + (size_t)t->n_filled * half,
                 t->sin + (size_t)t->n_filled * half);
}

/* The step's own table: each row's cos and sin with the base of its sequence. */
static void fill_step_table(forward *f, const batch_plan *plan, const rope_spec *r, rope_table *t) {
    int32_t row = 0;
    for (int32_t i = 0; i < plan->n_seqs; i++) {
        const batch_seq *s = &plan->seqs[i];
        rope_inv_freq(r, s->max_len, t->inv_freq);
        for (int32_t k = 0; k < s->n_tokens; k++, row++)
            rope_row(r, t->inv_freq, s->pos + k, t->step_cos + (size_t)row * (r->dim / 2),
                     t->step_sin + (size_t)row * (r->dim / 2));
    }
    rope_inv_freq(r, 0, t->inv_freq); /* back to that of the static table */
}

static void prepare_ropes(forward *f, const batch_plan *plan) {
    int32_t last = 0;
    f->own_rope = false;
    for (int32_t i = 0; i < plan->n_seqs; i++) {
        const batch_seq *s = &plan->seqs[i];
        last = MAX(last, s->pos + s->n_tokens - 1);
        for (int32_t k = 0; k < f->a->n_ropes; k++)
            f->own_rope |= rope_depends_on_len(&f->a->ropes[k], s->max_len);
    }
    for (int32_t k = 0; k < f->a->n_ropes; k++) {
        if (f->own_rope && f->ropes[k].step_cos)
            fill_step_table(f, plan, &f->a->ropes[k], &f->ropes[k]);
        else
            fill_table(&f->a->ropes[k], &f->ropes[k], last);
    }
}

/* The main functions */

void forward_run(forward *f, const batch_plan *plan) {
    kvcache_copy(f->kv, plan->copies, plan->n_copies);
    lay_out(f, plan);
    if (f->n_tokens == 0) return;
    prepare_ropes(f, plan);
    embed(f);
    for (int32_t l = 0; l < f->a->n_layers; l++) run_layer(f, l);
}

void forward_logits(forward *f, const int32_t *rows, int32_t n) {
    int32_t c = f->a->hidden, v = f->a->vocab;
    CHECK(n <= f->n_rows);
    for (int32_t i = 0; i < n; i++)
        memcpy(f->rows + (size_t)i * c, f->x + (size_t)rows[i] * c, (size_t)c * sizeof(float));
    norm(f, -1, W_FINAL_NORM, f->rows, n, f->rows);
    linear(f, -1, W_HEAD, f->rows, n, f->logits, false);
    op_logsumexp op = {.n_rows = n,
                       .width = v,
                       .x = f->logits,
                       .x_stride = v,
                       .ret_max = f->row_max,
                       .ret_lse = f->row_lse,
                       .ret_argmax = f->row_argmax};
    f->b->v->logsumexp(f->b, &op);
}

/* Memory: one block, cut by one function that also counts it. */

typedef struct cutter {
    char *base; /* NULL: only count */
    size_t at;
} cutter;

static void *cut(cutter *c, size_t n, size_t size) {
    void *p = c->base ? c->base + c->at : NULL;
    c->at += ALIGN_UP(n * size, (size_t)64);
    return p;
}

static void cut_fixed(forward *f, cutter *c) {
    const arch *a = f->a;
    size_t t = (size_t)f->max_tokens, f32 = sizeof(float), width = (size_t)a->hidden;
    size_t heads = (size_t)a->n_heads, kv_heads = (size_t)a->n_kv_heads, d = (size_t)a->head_dim;
    size_t r = (size_t)f->n_rows, ffn = (size_t)a->ffn;
    f->ids = cut(c, t, sizeof *f->ids);
    f->pos = cut(c, t, sizeof *f->pos);
    f->iota = cut(c, t, sizeof *f->iota);
    f->kv_slot = cut(c, t, sizeof *f->kv_slot);
    f->seqs = cut(c, (size_t)f->max_seqs, sizeof *f->seqs);
    f->x = cut(c, t * width, f32);
    f->h = cut(c, t * width, f32);
    f->qkv = cut(c, t * (heads + 2 * kv_heads) * d, f32);
    f->att = cut(c, t * heads * d, f32);
    f->up = cut(c, t * 2 * ffn, f32);
    f->act = cut(c, t * ffn, f32);
    f->rows = cut(c, r * width, f32);
    f->logits = cut(c, r * (size_t)a->vocab, f32);
    f->row_max = cut(c, r, f32);
    f->row_lse = cut(c, r, f32);
    f->row_argmax = cut(c, r, sizeof *f->row_argmax);
}

static void cut_ropes(forward *f, cutter *c) {
    size_t t = (size_t)f->max_tokens, f32 = sizeof(float);
    for (int32_t k = 0; k < f->a->n_ropes; k++) {
        rope_table *y = &f->ropes[k];
        size_t half = (size_t)f->a->ropes[k].dim / 2, len = (size_t)f->max_model_len;
        y->inv_freq = cut(c, half, f32);
        y->cos = cut(c, len * half, f32);
        y->sin = cut(c, len * half, f32);
        if (f->a->ropes[k].scaling != SCALE_DYNAMIC) continue;
        y->step_cos = cut(c, t * half, f32);
        y->step_sin = cut(c, t * half, f32);
    }
}

static int32_t rows_at_once(int32_t max_seqs) {
    return MIN(max_seqs, FORWARD_ROWS_MAX);
}

void forward_bytes(const arch *a, int32_t max_tokens, int32_t max_seqs, size_t *ret_fixed,
                   size_t *ret_per_len) {
    forward f = {
        .a = a, .max_tokens = max_tokens, .max_seqs = max_seqs, .n_rows = rows_at_once(max_seqs)};
    cutter c = {0};
    cut_fixed(&f, &c);
    *ret_per_len = 0;
    for (int32_t k = 0; k < a->n_ropes; k++) {
        size_t half = (size_t)a->ropes[k].dim / 2 * sizeof(float);
        bool own = a->ropes[k].scaling == SCALE_DYNAMIC;
        *ret_per_len += 2 * half;
        c.at += half + 5 * 64 + (own ? 2 * half * (size_t)max_tokens : 0);
    }
    *ret_fixed = c.at;
}

status forward_alloc(forward *f, error *err) {
    cutter c = {0};
    f->n_rows = rows_at_once(f->max_seqs);
    f->ropes = mem_calloc((size_t)f->a->n_ropes + 1, sizeof *f->ropes);
    cut_fixed(f, &c);
    cut_ropes(f, &c);
    f->bytes = c.at;
    TRY(f->b->v->mem_alloc(f->b, f->bytes, &f->block, err));
    c = (cutter){.base = f->block};
    cut_fixed(f, &c);
    cut_ropes(f, &c);
    for (int32_t i = 0; i < f->max_tokens; i++) f->iota[i] = i;
    for (int32_t k = 0; k < f->a->n_ropes; k++)
        rope_inv_freq(&f->a->ropes[k], 0, f->ropes[k].inv_freq);
    return OK;
}

void forward_done(forward *f) {
    if (f->block) f->b->v->mem_free(f->b, f->block, f->bytes);
    mem_free(f->ropes);
    *f = (forward){0};
}
