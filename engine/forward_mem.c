/* The memory of a forward pass: one block, cut by one function that also counts it. */
#include "engine/base/mem.h"
#include "engine/forward_parts.h"

typedef struct cutter {
    char *base; /* NULL: only count */
    size_t at;
} cutter;

static void *cut(cutter *c, size_t n, size_t size) {
    void *p = c->base ? c->base + c->at : NULL;
    c->at += ALIGN_UP(n * size, (size_t)64);
    return p;
}

/* The widest of what the layers need. */
typedef struct widths {
    size_t up, act, experts, top_k;
    bool branch, second, gate, logn; /* some layer uses y, h2, gate, logn */
} widths;

static bool joins_apart(const arch_branch *r) {
    return r->out_norm || r->from_norm || r->alpha != 1 || r->scale != 1;
}

static widths measure(const arch *a) {
    widths w = {0};
    for (int32_t l = 0; l < a->n_layers; l++) {
        const arch_layer *y = &a->layers[l];
        const arch_mlp *m = &y->mlp;
        size_t net = (size_t)(m->kind == MLP_MOE ? m->shared_ffn : m->ffn);
        w.act = MAX(w.act, net);
        w.up = MAX(w.up, m->gated ? 2 * net : net);
        w.experts = MAX(w.experts, (size_t)m->n_experts);
        w.top_k = MAX(w.top_k, (size_t)m->top_k);
        w.gate |= m->shared_gate;
        w.logn |= y->attn.logn_base > 0;
        w.second |= y->parallel && !y->shared_norm;
        w.branch |= joins_apart(&y->attn_branch) || joins_apart(&y->mlp_branch) ||
                    (m->kind == MLP_MOE && !y->mlp_branch.in_norm && !y->parallel);
    }
    return w;
}

static void cut_step(forward *f, cutter *c) {
    size_t t = (size_t)f->max_tokens;
    f->ids = cut(c, t, sizeof *f->ids);
    f->pos = cut(c, t, sizeof *f->pos);
    f->pos2 = cut(c, t, sizeof *f->pos2);
    f->pos_rows = cut(c, t, sizeof *f->pos_rows);
    f->iota = cut(c, t, sizeof *f->iota);
    f->kv_slot = cut(c, t, sizeof *f->kv_slot);
    f->seqs = cut(c, (size_t)f->max_seqs, sizeof *f->seqs);
}

static void cut_attn(forward *f, cutter *c) {
    const arch *a = f->a;
    size_t t = (size_t)f->max_tokens, f32 = sizeof(float), heads = (size_t)a->n_heads;
    if (a->attn == ATTN_GQA) {
        size_t d = (size_t)a->head_dim;
        f->qkv = cut(c, t * (heads + 2 * (size_t)a->n_kv_heads) * d, f32);
        f->att = cut(c, t * heads * d, f32);
        return;
    }
    size_t latent = (size_t)a->latent, rope = (size_t)a->rope_width;
    f->qkv = cut(c, t * heads * ((size_t)a->nope_width + rope), f32);
    f->att = cut(c, t * heads * (size_t)a->v_width, f32);
    f->q_low = cut(c, t * (size_t)a->q_rank, f32);
    f->kv_row = cut(c, t * (latent + rope), f32);
    f->q_lat = cut(c, t * heads * (latent + rope), f32);
    f->att_lat = cut(c, t * heads * latent, f32);
}

static void cut_fixed(forward *f, cutter *c) {
    const arch *a = f->a;
    widths w = measure(a);
    size_t t = (size_t)f->max_tokens, f32 = sizeof(float), width = (size_t)a->hidden;
    size_t r = (size_t)f->n_rows, vocab = a->has_head ? (size_t)a->vocab : 0;
    cut_step(f, c);
    f->x = cut(c, t * width, f32);
    f->h = cut(c, t * width, f32);
    f->h2 = cut(c, w.second ? t * width : 0, f32);
    f->y = cut(c, w.branch ? t * width : 0, f32);
    f->narrow = cut(c, a->proj_in ? t * (size_t)a->embed_width : 0, f32);
    cut_attn(f, c);
    f->up = cut(c, t * w.up, f32);
    f->act = cut(c, t * w.act, f32);
    f->scores = cut(c, t * w.experts, f32);
    f->experts = cut(c, t * w.top_k, sizeof *f->experts);
    f->expert_w = cut(c, t * w.top_k, f32);
    f->gate = cut(c, w.gate ? t : 0, f32);
    f->logn = cut(c, w.logn ? t : 0, f32);
    f->rows = cut(c, r * width, f32);
    f->rows2 = cut(c, a->proj_out ? r * (size_t)a->embed_width : 0, f32);
    f->logits = cut(c, r * vocab, f32);
    f->row_max = cut(c, r, f32);
    f->row_lse = cut(c, r, f32);
    f->row_argmax = cut(c, r, sizeof *f->row_argmax);
}

static void cut_ropes(forward *f, cutter *c) {
    size_t t = (size_t)f->max_tokens, f32 = sizeof(float);
    for (int32_t k = 0; k < f->a->n_ropes; k++) {
        const rope_spec *r = &f->a->ropes[k];
        rope_table *y = &f->ropes[k];
        size_t half = (size_t)r->dim / 2, len = (size_t)(f->max_model_len + f->a->pos_offset);
        y->inv_freq = cut(c, half, f32);
        y->cos = cut(c, len * half, f32);
        y->sin = cut(c, len * half, f32);
        if (!rope_by_step(r)) continue;
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
        bool own = rope_by_step(&a->ropes[k]);
        *ret_per_len += 2 * half;
        c.at += half + 5 * 64 + (own ? 2 * half * (size_t)max_tokens : 0);
        c.at += 2 * half * (size_t)a->pos_offset;
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
