/* The memory of a forward pass: a block of the backend's and, where that is not the host's, one of
 * the host's, cut by functions that also count them. */
#include "engine/base/check.h"
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
    size_t up, experts, top_k;
    size_t h, h2, att, act;       /* bytes of a row */
    bool branch, gate, has_codes; /* some layer uses y, gate, scales of codes */
} widths;

static bool joins_apart(const arch_branch *r) {
    return r->out_norm || r->from_norm || r->alpha != 1 || r->scale != 1;
}

/* A feed's row; with adapters it may be f32 in a step (forward_feed). */
static void widen_row(const forward *f, widths *w, size_t *row, dtype dt, size_t n) {
    *row = MAX(*row, feed_row_bytes(f->n_adapters ? DT_F32 : dt, n));
    w->has_codes |= dtype_bytes(dt) == 1;
}

static widths measure(const forward *f) {
    const arch *a = f->a;
    widths w = {0};
    size_t c = (size_t)a->hidden, heads = (size_t)a->n_heads;
    size_t att = heads * (size_t)(a->attn == ATTN_GQA ? a->head_dim : a->latent);
    for (int32_t l = 0; l < a->n_layers; l++) {
        const arch_layer *y = &a->layers[l];
        const arch_mlp *m = &y->mlp;
        size_t net = (size_t)(m->kind == MLP_MOE ? m->shared_ffn : m->ffn);
        const layer_feeds *t = &f->feeds[l];
        bool second = y->parallel && !y->shared_norm;
        widen_row(f, &w, &w.h, t->attn_in, c);
        widen_row(f, &w, second ? &w.h2 : &w.h, t->mlp_in, c);
        widen_row(f, &w, &w.att, t->att, att);
        widen_row(f, &w, &w.act, t->act, net);
        w.up = MAX(w.up, m->gated ? 2 * net : net);
        w.experts = MAX(w.experts, (size_t)m->n_experts);
        w.top_k = MAX(w.top_k, (size_t)m->top_k);
        w.gate |= m->shared_gate;
        w.branch |= joins_apart(&y->attn_branch) || joins_apart(&y->mlp_branch) ||
                    (m->kind == MLP_MOE && !y->mlp_branch.in_norm && !y->parallel);
    }
    return w;
}

static int32_t pages_of(int32_t len) {
    return CEIL_DIV(len, KV_PAGE_TOKENS);
}

/* Bytes of the division of attention for b sequences, each with one row. */
static size_t plan_bytes(const forward *f, int32_t b) {
    graph_room room = forward_graph_room(f->a, b, 0);
    return f->b->v->graphs->plan_bytes(f->b, &room);
}

/* The rows of a step of t tokens and b sequences, in one of the two memories. The page table is
 * last: what of it is not used is not sent. Places depend on t, b and whether there is a bucket. */
static void cut_step(forward *f, step_rows *r, bool host, int32_t t, int32_t b, bool fixed,
                     cutter *c) {
    size_t n = (size_t)t;
    r->ids = cut(c, n, sizeof *r->ids);
    r->src = cut(c, n, sizeof *r->src);
    r->pos = cut(c, n, sizeof *r->pos);
    r->pos_rows = cut(c, n, sizeof *r->pos_rows);
    r->kv_slot = cut(c, n, sizeof *r->kv_slot);
    r->logn = cut(c, n, sizeof *r->logn);
    r->adapter = cut(c, f->n_adapters ? n : 0, sizeof *r->adapter);
    r->adapters = cut(c, f->n_adapters ? (size_t)f->n_adapters + 1 : 0, sizeof *r->adapters);
    r->seqs = cut(c, (size_t)b, sizeof *r->seqs);
    r->pick = cut(c, fixed ? (size_t)b : 0, sizeof *r->pick);
    r->plan = cut(c, fixed ? plan_bytes(f, b) : 0, 1);
    for (int32_t k = 0; k < f->a->n_ropes; k++) {
        const rope_spec *spec = &f->a->ropes[k];
        rope_table *y = &f->ropes[k];
        size_t half = (size_t)spec->dim / 2;
        if (!rope_by_step(spec)) continue;
        *(host ? &y->host_step_cos : &y->step_cos) = cut(c, n * half, sizeof(float));
        *(host ? &y->host_step_sin : &y->step_sin) = cut(c, n * half, sizeof(float));
    }
    r->page_table = cut(c, 0, sizeof *r->page_table);
}

static void cut_step_max(forward *f, cutter *c, void **ret_block) {
    step_rows all;
    size_t pages = (size_t)f->max_seqs * (size_t)pages_of(f->max_model_len);
    cutter count = {0};
    cut_step(f, &all, false, f->max_tokens, f->max_seqs, f->pad_page >= 0, &count);
    *ret_block = cut(c, count.at + pages * sizeof(int32_t), 1);
}

void forward_cut_step(forward *f, int32_t n_tokens, int32_t n_seqs) {
    f->step_turn = (f->step_turn + 1) % f->depth;
    f->step_host = f->step_hosts[f->step_turn];
    cutter host = {.base = f->step_host}, dev = {.base = f->step_dev};
    cut_step(f, &f->in, true, n_tokens, n_seqs, f->bucket != 0, &host);
    cut_step(f, &f->dev, false, n_tokens, n_seqs, f->bucket != 0, &dev);
}

static void cut_attn(forward *f, const widths *w, cutter *c) {
    const arch *a = f->a;
    size_t t = (size_t)f->max_tokens, f32 = sizeof(float), heads = (size_t)a->n_heads;
    if (a->attn == ATTN_GQA) {
        size_t d = (size_t)a->head_dim;
        f->qkv = cut(c, t * (heads + 2 * (size_t)a->n_kv_heads) * d, f32);
        f->att = cut(c, t, w->att);
        return;
    }
    size_t latent = (size_t)a->latent, rope = (size_t)a->rope_width;
    f->qkv = cut(c, t * heads * ((size_t)a->nope_width + rope), f32);
    f->att = cut(c, t * heads * (size_t)a->v_width, f32);
    f->q_low = cut(c, t * (size_t)a->q_rank, f32);
    f->kv_row = cut(c, t * (latent + rope), f32);
    f->q_lat = cut(c, t * heads * (latent + rope), f32);
    f->att_lat = cut(c, t, w->att);
}

static void cut_fixed(forward *f, cutter *c) {
    const arch *a = f->a;
    widths w = measure(f);
    size_t t = (size_t)f->max_tokens, f32 = sizeof(float), width = (size_t)a->hidden;
    size_t r = (size_t)f->n_rows, vocab = a->has_head ? (size_t)a->vocab : 0;
    cut_step_max(f, c, &f->step_dev);
    f->iota = cut(c, t, sizeof *f->iota);
    f->alibi = a->alibi ? cut(c, (size_t)a->n_heads, f32) : NULL;
    f->x = cut(c, t * width, f32);
    f->h = cut(c, t, w.h);
    f->h2 = cut(c, t, w.h2);
    f->y = cut(c, w.branch ? t * width : 0, f32);
    f->narrow = cut(c, a->proj_in ? t * (size_t)a->embed_width : 0, f32);
    cut_attn(f, &w, c);
    f->up = cut(c, t * w.up, f32);
    f->act = cut(c, t, w.act);
    f->feed_scale = cut(c, w.has_codes ? FEED_SCALES * t : 0, f32);
    f->scores = cut(c, t * w.experts, f32);
    f->experts = cut(c, t * w.top_k, sizeof *f->experts);
    f->expert_w = cut(c, t * w.top_k, f32);
    f->gate = cut(c, w.gate ? t : 0, f32);
    f->pick = cut(c, r, sizeof *f->pick);
    f->rows = cut(c, r * width, f32);
    f->rows2 = cut(c, a->proj_out ? r * (size_t)a->embed_width : 0, f32);
    f->logits = cut(c, r * vocab, f32);
    f->row_max = cut(c, r, f32);
    f->row_lse = cut(c, r, f32);
    f->row_argmax = cut(c, r, sizeof *f->row_argmax);
}

static void cut_ropes(forward *f, cutter *c) {
    for (int32_t k = 0; k < f->a->n_ropes; k++) {
        rope_table *y = &f->ropes[k];
        size_t half = (size_t)f->a->ropes[k].dim / 2,
               n = (size_t)(f->max_model_len + f->a->pos_offset) * half;
        y->cos = cut(c, n, sizeof(float));
        y->sin = cut(c, n, sizeof(float));
    }
}

/* What the host alone uses. */
static void cut_host(forward *f, cutter *c) {
    f->pos2 = cut(c, (size_t)f->max_tokens, sizeof *f->pos2);
    for (int32_t k = 0; k < f->a->n_ropes; k++)
        f->ropes[k].inv_freq = cut(c, (size_t)f->a->ropes[k].dim / 2, sizeof(float));
}

/* The host's copies of what it sends and fetches. */
static void cut_copies(forward *f, cutter *c) {
    const arch *a = f->a;
    size_t r = (size_t)f->n_rows, f32 = sizeof(float);
    for (int32_t i = 0; i < f->depth; i++) cut_step_max(f, c, &f->step_hosts[i]);
    f->got.rows = cut(c, r * (size_t)a->hidden, f32);
    f->got.logits = cut(c, a->has_head ? r * (size_t)a->vocab : 0, f32);
    f->got.lse = cut(c, r, f32);
    f->got.argmax = cut(c, r, sizeof(int32_t));
    for (int32_t k = 0; k < a->n_ropes; k++) {
        rope_table *y = &f->ropes[k];
        size_t n = (size_t)(f->max_model_len + a->pos_offset) * (size_t)a->ropes[k].dim / 2;
        y->host_cos = cut(c, n, f32);
        y->host_sin = cut(c, n, f32);
    }
}

static void share_copies(forward *f) {
    for (int32_t i = 0; i < f->depth; i++) f->step_hosts[i] = f->step_dev;
    f->got = (step_results){f->rows, f->logits, f->row_lse, f->row_argmax};
    for (int32_t k = 0; k < f->a->n_ropes; k++) {
        f->ropes[k].host_cos = f->ropes[k].cos;
        f->ropes[k].host_sin = f->ropes[k].sin;
    }
}

static void cut_all(forward *f, bool host_memory, cutter *dev, cutter *host) {
    cut_fixed(f, dev);
    cut_ropes(f, dev);
    cut_host(f, host_memory ? dev : host);
    if (host_memory)
        share_copies(f);
    else
        cut_copies(f, host);
}

int32_t forward_rows_at_once(bool host_memory, int32_t vocab, int32_t max_picks) {
    size_t fit = FORWARD_LOGITS_BYTES / ((size_t)MAX(vocab, 1) * sizeof(float));
    size_t most = host_memory ? 64 : MIN(MAX(fit, (size_t)64), (size_t)FORWARD_ROWS_MAX);
    return MIN(max_picks, (int32_t)most);
}

static layer_feeds *feeds_new(const weights *w) {
    layer_feeds *feeds = mem_calloc((size_t)w->a->n_layers + 1, sizeof *feeds);
    for (int32_t l = 0; l < w->a->n_layers; l++) feeds[l] = layer_feeds_of(w->a, w, l);
    return feeds;
}

forward_need forward_bytes(const weights *w, bool record, int32_t max_tokens, int32_t max_seqs,
                           int32_t max_picks, int32_t n_adapters) {
    const arch *a = w->a;
    backend *b = w->b;
    forward f = {.a = a,
                 .b = b,
                 .n_adapters = n_adapters,
                 .pad_page = record ? 0 : -1,
                 .max_tokens = max_tokens,
                 .max_seqs = max_seqs,
                 .max_picks = max_picks,
                 .n_rows = forward_rows_at_once(b->host_memory, a->vocab, max_picks)};
    cutter dev = {0}, host = {0};
    size_t tables = 0, table = CEIL_DIV((size_t)max_seqs * sizeof(int32_t), KV_PAGE_TOKENS);
    f.ropes = mem_calloc((size_t)a->n_ropes + 1, sizeof *f.ropes);
    f.feeds = feeds_new(w);
    cut_all(&f, b->host_memory, &dev, &host);
    mem_free(f.ropes);
    mem_free(f.feeds);
    for (int32_t k = 0; k < a->n_ropes; k++) tables += (size_t)a->ropes[k].dim * sizeof(float);
    /* Alignment of what is empty at length 0, and a last page that is not full. */
    size_t slack = ((size_t)a->n_ropes * 2 + 2) * 64 + (size_t)max_seqs * sizeof(int32_t);
    return (forward_need){.fixed = dev.at + slack, .per_len = tables + table};
}

static void send(forward *f, void *dev, const void *host, size_t bytes) {
    if (dev != host) f->b->v->upload(f->b, dev, host, bytes);
}

static void fill_constants(forward *f) {
    int32_t *iota = mem_alloc((size_t)f->max_tokens * sizeof *iota);
    for (int32_t i = 0; i < f->max_tokens; i++) iota[i] = i;
    f->b->v->upload(f->b, f->iota, iota, (size_t)f->max_tokens * sizeof *iota);
    mem_free(iota);
    if (f->alibi)
        f->b->v->upload(f->b, f->alibi, f->a->alibi, (size_t)f->a->n_heads * sizeof *f->alibi);
    for (int32_t k = 0; k < f->a->n_ropes; k++)
        rope_inv_freq(&f->a->ropes[k], 0, f->ropes[k].inv_freq);
}

void forward_send_step(forward *f) {
    const char *end = (const char *)(f->in.page_table + f->n_pages);
    send(f, f->step_dev, f->step_host, (size_t)(end - (const char *)f->step_host));
}

void forward_send_table(forward *f, rope_table *t, int32_t half, int32_t row0, int32_t row1) {
    size_t at = (size_t)row0 * (size_t)half, bytes = (size_t)(row1 - row0) * (size_t)half * 4;
    send(f, t->cos + at, t->host_cos + at, bytes);
    send(f, t->sin + at, t->host_sin + at, bytes);
}

status forward_alloc(forward *f, error *err) {
    cutter dev = {0}, host = {0};
    bool own = !f->b->host_memory;
    CHECK(f->depth >= 1 && f->depth <= FORWARD_STEPS_MAX);
    f->n_rows = forward_rows_at_once(!own, f->a->vocab, f->max_picks);
    f->ropes = mem_calloc((size_t)f->a->n_ropes + 1, sizeof *f->ropes);
    f->feeds = feeds_new(f->w);
    cut_all(f, !own, &dev, &host);
    if (f->pad_page >= 0) f->graphs = forward_graphs_new(f->max_seqs);
    f->bytes = dev.at;
    f->host_bytes = host.at;
    TRY(f->b->v->mem_alloc(f->b, f->bytes, &f->block, err));
    if (own) TRY(f->b->v->host_alloc(f->b, f->host_bytes, &f->host_block, err));
    dev = (cutter){.base = f->block};
    host = (cutter){.base = f->host_block};
    cut_all(f, !own, &dev, &host);
    fill_constants(f);
    return OK;
}

void forward_done(forward *f) {
    if (f->block) f->b->v->mem_free(f->b, f->block, f->bytes);
    if (f->host_block) f->b->v->host_free(f->b, f->host_block, f->host_bytes);
    mem_free(f->ropes);
    mem_free(f->feeds);
    forward_graphs_free(f->graphs);
    *f = (forward){0};
}
