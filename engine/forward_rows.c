/* The rows of a step: which token stands where, what it rotates by, and the rotary rows. */
#include <math.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/forward_parts.h"

/* ChatGLM-6B: the first position stops at the token before the last of the prompt, the second
 * counts from there. */
static void set_positions(forward *f, const batch_seq *s, const adapter *ad, int32_t t, int32_t p) {
    const arch *a = f->a;
    int32_t n_prompt = s->n_prompt;
    bool prefix = ad && ad->soft && ad->kind != ADAPTER_PROMPT;
    if (prefix && p < ad->info.n_virtual) { /* its key is stored: rotated by nothing */
        f->in.pos[t] = f->pos2[t] = 0;
        f->in.pos_rows[t] = a->pos_embed_offset;
        return;
    }
    if (prefix && (ad->kind == ADAPTER_PREFIX_GLM || a->positions == POS_GLM2D)) {
        n_prompt -= ad->info.n_virtual; /* tokens count from 0 behind the prefix */
        p -= ad->info.n_virtual;
    }
    f->in.pos[t] = p + a->pos_offset;
    f->pos2[t] = 0;
    f->in.pos_rows[t] = f->in.pos[t] + a->pos_embed_offset;
    if (a->positions != POS_GLM2D) return;
    int32_t stop = MAX(n_prompt - 2, 0);
    f->in.pos[t] = MIN(p, stop);
    f->pos2[t] = MAX(p - stop, 0);
}

static int32_t prefix_of(const forward *f, const batch_seq *s) {
    return f->a->mask == MASK_BIDIR ? s->n_prompt : f->a->mask == MASK_PREFIX ? s->n_prompt - 1 : 0;
}

/* The sequence's pages, as far as its rows look. */
static int64_t lay_out_pages(forward *f, const batch_seq *s) {
    int32_t n = CEIL_DIV(s->pos + s->n_tokens, f->kv->page_tokens), first = f->n_pages;
    memcpy(f->in.page_table + first, s->pages, (size_t)n * sizeof *s->pages);
    f->n_pages += n;
    return first;
}

static void lay_out_seq(forward *f, const batch_seq *s, attn_seq *ret) {
    int32_t page_tokens = f->kv->page_tokens, vocab = f->a->vocab;
    const adapter *ad = f->ad ? adapter_of_seq(f->ad, s) : NULL;
    int32_t n_virtual = ad ? ad->info.n_virtual : 0;
    CHECK(f->ad || s->adapter == 0);
    CHECK(s->n_tokens >= 1);
    CHECK(s->pos >= 0);
    CHECK(s->pos + s->n_tokens <= f->max_model_len);
    *ret = (attn_seq){f->n_tokens, s->n_tokens, s->pos, prefix_of(f, s), lay_out_pages(f, s)};
    CHECK(s->pos >= ret->prefix || s->pos + s->n_tokens >= ret->prefix);
    CHECK(!s->chained || (s->n_tokens == 1 && s->pos + 1 == s->n_known && s->pos >= s->n_prompt));
    bool is_chained = s->chained && f->chain_of;
    f->n_chained += is_chained;
    for (int32_t i = 0; i < s->n_tokens; i++) {
        int32_t p = s->pos + i, t = f->n_tokens++, page = s->pages[p / page_tokens];
        CHECK(page >= 0 && page < f->kv->n_pages);
        bool is_virtual = p < n_virtual;
        CHECK(is_virtual ? s->ids[p] == vocab + p
                         : is_chained || (s->ids[p] >= 0 && s->ids[p] < vocab));
        f->in.ids[t] = is_virtual || is_chained ? 0 : s->ids[p];
        f->in.src[t] = is_chained ? f->chain_of[s->chain] : -1;
        if (f->ad) adapter_step_row(f, t, ad, is_virtual ? p : -1);
        set_positions(f, s, ad, t, p);
        f->in.kv_slot[t] = (int64_t)page * page_tokens + p % page_tokens;
    }
}

/* q's factor past the length of training; families have one base and beta for all layers. */
static void fill_logn(forward *f) {
    const arch_attn *y = NULL;
    for (int32_t l = 0; l < f->a->n_layers && !y; l++)
        if (f->a->layers[l].attn.logn_base) y = &f->a->layers[l].attn;
    for (int32_t t = 0; y && t < f->n_tokens; t++) {
        int32_t p = f->in.pos[t], base = y->logn_base;
        double past = p + 1 > base ? log(p + 1.0) / log(base) : 1;
        f->in.logn[t] = (float)(y->logn_beta != 0 ? 1 + y->logn_beta * log(1 + p / base) : past);
    }
}

/* Rows of the static table up to position `last`. */
static void fill_table(forward *f, const rope_spec *r, rope_table *t, int32_t last) {
    int32_t half = r->dim / 2, first = t->n_filled;
    for (; t->n_filled <= last; t->n_filled++)
        rope_row(r, t->inv_freq, t->n_filled, 0, t->host_cos + (size_t)t->n_filled * half,
                 t->host_sin + (size_t)t->n_filled * half);
    if (first < t->n_filled) forward_send_table(f, t, half, first, t->n_filled);
}

/* The step's own table: each row's cos and sin with the frequencies of its sequence. */
static void fill_step_table(forward *f, const batch_plan *plan, const rope_spec *r, rope_table *t) {
    int32_t half = r->dim / 2;
    memset(t->host_step_cos, 0, (size_t)f->n_tokens * (size_t)half * sizeof(float)); /* padding */
    memset(t->host_step_sin, 0, (size_t)f->n_tokens * (size_t)half * sizeof(float));
    for (int32_t i = 0; i < plan->n_seqs; i++) {
        const batch_seq *s = &plan->seqs[i];
        int32_t row = f->in.seqs[i].row0;
        rope_inv_freq(r, rope_len(r, s->n_prompt, s->max_len), t->inv_freq);
        for (int32_t k = 0; k < s->n_tokens; k++, row++)
            rope_row(r, t->inv_freq, f->in.pos[row], f->pos2[row],
                     t->host_step_cos + (size_t)row * half, t->host_step_sin + (size_t)row * half);
    }
    rope_inv_freq(r, 0, t->inv_freq); /* back to those of the static table */
}

/* Which ropes need rows of the step's own. With a bucket all that can have them do where one does:
 * so there are two kinds of such steps, not one for each choice of ropes. */
static void choose_tables(forward *f, const batch_plan *plan) {
    bool any = false;
    for (int32_t k = 0; k < f->a->n_ropes; k++) {
        const rope_spec *r = &f->a->ropes[k];
        rope_table *t = &f->ropes[k];
        t->own = r->style == ROPE_HALVES;
        for (int32_t i = 0; i < plan->n_seqs && rope_by_step(r); i++)
            t->own |= rope_len(r, plan->seqs[i].n_prompt, plan->seqs[i].max_len) != 0;
        any |= t->own;
    }
    for (int32_t k = 0; k < f->a->n_ropes && any && f->bucket; k++)
        f->ropes[k].own = rope_by_step(&f->a->ropes[k]);
}

static void prepare_ropes(forward *f, const batch_plan *plan) {
    int32_t last = 0;
    for (int32_t t = 0; t < f->n_tokens; t++) last = MAX(last, f->in.pos[t]);
    choose_tables(f, plan);
    for (int32_t k = 0; k < f->a->n_ropes; k++) {
        const rope_spec *r = &f->a->ropes[k];
        rope_table *t = &f->ropes[k];
        if (t->own)
            fill_step_table(f, plan, r, t);
        else
            fill_table(f, r, t, last);
    }
}

/* Rows up to the bucket (forward_graph.h). */
static void pad(forward *f, int32_t n_seqs) {
    int64_t page0 = f->n_pages;
    if (n_seqs < f->bucket) f->in.page_table[f->n_pages++] = f->pad_page;
    for (int32_t i = n_seqs; i < f->bucket; i++) {
        int32_t t = f->n_tokens++;
        f->in.ids[t] = 0;
        f->in.src[t] = -1;
        if (f->ad) adapter_step_row(f, t, NULL, -1);
        f->in.pos[t] = f->a->pos_offset;
        f->in.pos_rows[t] = f->in.pos[t] + f->a->pos_embed_offset;
        f->pos2[t] = 0;
        f->in.kv_slot[t] = (int64_t)f->pad_page * f->kv->page_tokens;
        f->in.seqs[i] = (attn_seq){.row0 = t, .n_rows = 1, .page0 = page0};
    }
    f->n_seqs = f->bucket;
}

/* The rows that logits are wanted of; the others are some row, for nothing. */
static void pick_rows(forward *f, const batch_plan *plan) {
    f->n_picked = 0;
    for (int32_t i = 0; i < plan->n_seqs; i++)
        if (plan->seqs[i].sample) f->in.pick[f->n_picked++] = f->in.seqs[i].row0;
    for (int32_t i = f->n_picked; i < f->bucket; i++) f->in.pick[i] = 0;
}

static void prepare_bucket(forward *f, const batch_plan *plan) {
    forward_graphs *g = f->graphs;
    pad(f, plan->n_seqs);
    pick_rows(f, plan);
    g->room = forward_graph_room(f->a, f->bucket, f->max_model_len);
    g->form = f->b->v->graphs->plan(f->b, &g->room, f->in.seqs, f->in.plan);
}

void forward_lay_out(forward *f, const batch_plan *plan) {
    int32_t n_tokens = 0;
    for (int32_t i = 0; i < plan->n_seqs; i++) n_tokens += plan->seqs[i].n_tokens;
    CHECK(plan->n_seqs <= f->max_seqs);
    CHECK(n_tokens <= f->max_tokens);
    bool plain = !f->ad || adapter_step_is_plain(f->ad, plan);
    f->bucket = f->graphs && plain ? forward_bucket_of(plan, f->max_seqs) : 0;
    forward_cut_step(f, MAX(n_tokens, f->bucket), MAX(plan->n_seqs, f->bucket));
    f->n_tokens = f->n_chained = 0;
    f->n_pages = 0;
    f->n_picked = 0;
    f->n_seqs = plan->n_seqs;
    const int32_t *order = f->ad ? adapter_step_begin(f, plan) : NULL;
    for (int32_t k = 0; k < plan->n_seqs; k++) {
        int32_t i = order ? order[k] : k;
        lay_out_seq(f, &plan->seqs[i], &f->in.seqs[i]);
    }
    if (f->bucket) prepare_bucket(f, plan);
    if (f->ad) adapter_step_runs(f->ad, f->n_tokens);
    fill_logn(f);
    prepare_ropes(f, plan);
    forward_send_step(f);
}
