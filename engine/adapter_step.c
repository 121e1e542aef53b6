/* y = c * (W (d * x) + B s A x) + b', run by run, where the op is not enough. A run that only adds
 * low-rank parts shares the base's product with its neighbours; one that scales rows or brings
 * weights of its own needs a product of its own, without the bias, which is added after scaling.
 *
 * A row's result depends on its own adapter and input alone: every product and scaling below works
 * row by row (ops.h), and how runs are cut changes no bit.
 *
 * Nothing here touches an adapter that no sequence of the step has: another thread may be unloading
 * it. So the ranks that launches depend on are collected from steps, not from loads. */
#include "engine/adapter_step.h"

#include <string.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/forward_parts.h"

/* Memory of the backend: one block, cut by one function that also counts it. */

static void *cut(char *base, size_t *at, size_t n, size_t size) {
    void *p = base ? base + *at : NULL;
    *at += ALIGN_UP(n * size, (size_t)64);
    return p;
}

static size_t cut_all(adapter_step *s, char *base, const weights *w, int32_t max_tokens) {
    size_t at = 0, t = (size_t)max_tokens, widest = 0;
    for (int32_t i = 0; i < w->n_list; i++)
        if (w->list[i].n_parts) widest = MAX(widest, (size_t)w->list[i].cols);
    s->low = cut(base, &at, t * (size_t)s->row_max, sizeof *s->low);
    s->in = cut(base, &at, t * widest, sizeof *s->in);
    s->out = cut(base, &at, t * (size_t)w->a->hidden, sizeof *s->out);
    return at;
}

static int32_t row_max_of(const weights *w, int32_t rank_max) {
    return adapter_modules_max(w->a) * rank_max;
}

int32_t adapter_step_rank(const weights *w, int32_t rank_max) {
    return row_max_of(w, rank_max);
}

size_t adapter_step_bytes(const weights *w, int32_t max_tokens, int32_t rank_max) {
    adapter_step s = {.row_max = row_max_of(w, rank_max)};
    return cut_all(&s, NULL, w, max_tokens);
}

status adapter_step_new(const weights *w, const adapter_table *table, int32_t max_tokens,
                        int32_t max_seqs, int32_t rank_max, int32_t n_adapters, adapter_step **ret,
                        error *err) {
    CHECK(n_adapters <= LIMIT_ADAPTERS);
    adapter_step s = {.table = table, .n_ids = n_adapters + 1, .row_max = row_max_of(w, rank_max)};
    size_t t = (size_t)max_tokens;
    s.bytes = cut_all(&s, NULL, w, max_tokens);
    TRY(w->b->v->mem_alloc(w->b, s.bytes, &s.block, err));
    cut_all(&s, s.block, w, max_tokens);
    s.runs = mem_calloc(t + 1, sizeof *s.runs);
    s.of_row = mem_calloc(t, sizeof *s.of_row);
    s.virtual_of = mem_calloc(t, sizeof *s.virtual_of);
    s.order = mem_calloc((size_t)max_seqs, sizeof *s.order);
    s.ranks = mem_calloc((size_t)(w->a->n_layers + 1) * W_SLOT_COUNT, sizeof *s.ranks);
    s.seen = mem_calloc((size_t)s.n_ids, sizeof *s.seen);
    *ret = mem_alloc(sizeof s);
    **ret = s;
    return OK;
}

void adapter_step_free(adapter_step *s, backend *b) {
    if (!s) return;
    b->v->mem_free(b, s->block, s->bytes);
    mem_free(s->runs);
    mem_free(s->of_row);
    mem_free(s->virtual_of);
    mem_free(s->order);
    mem_free(s->ranks);
    mem_free(s->seen);
    mem_free(s);
}

/* Rows */

const adapter *adapter_of_seq(const adapter_step *s, const batch_seq *q) {
    if (q->adapter == 0) return NULL;
    CHECK(q->adapter > 0 && q->adapter < s->n_ids);
    const adapter *ad = atomic_load_explicit(&s->table->at[q->adapter], memory_order_acquire);
    CHECK(ad);
    return ad;
}

/* Counting sort by id: stable, so that the plan's order stays within an adapter. */
static void sort_seqs(adapter_step *s, const batch_plan *plan) {
    int32_t at[LIMIT_ADAPTERS + 2] = {0};
    for (int32_t i = 0; i < plan->n_seqs; i++) at[plan->seqs[i].adapter + 1]++;
    for (int32_t k = 1; k <= LIMIT_ADAPTERS; k++) at[k] += at[k - 1];
    for (int32_t i = 0; i < plan->n_seqs; i++) s->order[at[plan->seqs[i].adapter]++] = i;
}

/* An adapter that no step had before. */
static void see(adapter_step *s, const adapter *ad) {
    uint32_t before = s->n_changes;
    if (s->seen[ad->info.id] == ad->generation) return;
    s->seen[ad->info.id] = ad->generation;
    for (int32_t i = 0; i < ad->n_slots; i++) {
        const adapter_slot *y = &ad->slots[i];
        if (!y->used || !adapter_slot_is_plain(y) || y->a.n <= s->ranks[i]) continue;
        CHECK(y->a.n <= s->row_max);
        s->ranks[i] = y->a.n;
        s->n_changes = before + 1;
    }
}

const int32_t *adapter_step_begin(forward *f, const batch_plan *plan) {
    adapter_step *s = f->ad;
    sort_seqs(s, plan);
    s->has_low = false;
    s->pick = NULL;
    memset(f->in.adapters, 0, (size_t)s->n_ids * sizeof *f->in.adapters);
    for (int32_t i = 0; i < plan->n_seqs; i++) {
        const adapter *ad = adapter_of_seq(s, &plan->seqs[i]);
        if (!ad || !ad->low) continue;
        see(s, ad);
        f->in.adapters[ad->info.id] = ad->low;
        s->has_low = true;
    }
    return s->order;
}

bool adapter_step_is_plain(const adapter_step *s, const batch_plan *plan) {
    for (int32_t i = 0; i < plan->n_seqs; i++) {
        const adapter *ad = adapter_of_seq(s, &plan->seqs[i]);
        if (ad && !ad->is_plain) return false;
    }
    return true;
}

void adapter_step_row(forward *f, int32_t row, const adapter *ad, int32_t virtual_of) {
    f->in.adapter[row] = ad && ad->low ? ad->info.id : 0;
    f->ad->of_row[row] = ad;
    f->ad->virtual_of[row] = virtual_of;
}

static void add_row(adapter_step *s, int32_t row, const adapter *ad) {
    adapter_run *last = s->n_runs ? &s->runs[s->n_runs - 1] : NULL;
    if (last && last->ad == ad)
        last->n++;
    else
        s->runs[s->n_runs++] = (adapter_run){row, 1, ad};
}

/* No runs where the op is enough for all. */
static void drop_plain(adapter_step *s) {
    for (int32_t k = 0; k < s->n_runs; k++)
        if (s->runs[k].ad && !s->runs[k].ad->is_plain) return;
    s->n_runs = 0;
}

void adapter_step_runs(adapter_step *s, int32_t n_rows) {
    s->n_runs = 0;
    for (int32_t t = 0; t < n_rows; t++) add_row(s, t, s->of_row[t]);
    drop_plain(s);
}

void adapter_step_pick(adapter_step *s, const int32_t *rows, int32_t n) {
    s->n_runs = 0;
    for (int32_t i = 0; i < n; i++) add_row(s, i, s->of_row[rows[i]]);
    drop_plain(s);
}

/* Products */

static const adapter_slot *slot_of(const adapter *ad, int32_t layer, weight_slot slot) {
    return ad ? adapter_slot_at(ad, layer, slot) : NULL;
}

/* Does the slot need a product of its own? */
static bool is_special(const adapter_slot *s) {
    return s && (s->own.data || s->c || s->d || s->bias);
}

void adapter_low(forward *f, int32_t layer, weight_slot slot, const void *a, dtype a_dt,
                 int32_t n_rows, float *out) {
    const adapter_step *s = f->ad;
    const weight *w = weights_at(f->w, layer, slot);
    int32_t i = (layer < 0 ? f->a->n_layers : layer) * W_SLOT_COUNT + (int32_t)slot;
    if (!s || !s->has_low || s->ranks[i] == 0) return;
    op_lora op = {.n_rows = n_rows,
                  .n = w->rows,
                  .k = w->cols,
                  .rank = s->ranks[i],
                  .slot = i,
                  .x = a,
                  .x_dt = a_dt,
                  .x_stride = w->cols,
                  .out = out,
                  .out_stride = w->rows,
                  .n_adapters = s->n_ids,
                  .table = f->dev.adapters,
                  .of_row = f->dev.adapter,
                  .pick = s->pick};
    f->b->v->lora(f->b, &op);
}

static void scale_cols(forward *f, float *x, int64_t stride, int32_t n, int32_t width,
                       const float *col) {
    op_scale op = {.n_rows = n, .width = width, .x = x, .x_stride = stride, .scale = 1, .col = col};
    f->b->v->scale(f->b, &op);
}

/* out += B (s * (A a)) for n rows. */
static void add_parts(forward *f, const adapter_slot *s, const float *a, int32_t n, float *out,
                      int64_t out_stride) {
    float *low = f->ad->low;
    if (s->n_parts == 0) return;
    op_gemm down = {
        .m = n, .a = a, .a_stride = s->a.k, .w = &s->a, .out = low, .out_stride = s->a.n};
    CHECK(s->a.n <= f->ad->row_max);
    f->b->v->gemm(f->b, &down);
    scale_cols(f, low, s->a.n, n, s->a.n, s->s);
    for (int32_t k = 0; k < s->n_parts; k++) {
        const lora_part *p = &s->parts[k];
        op_gemm up = {.m = n,
                      .a = low + p->col0,
                      .a_stride = s->a.n,
                      .w = &p->b,
                      .out = out + p->row0,
                      .out_stride = out_stride,
                      .accumulate = true};
        f->b->v->gemm(f->b, &up);
    }
}

static void copy_rows(forward *f, float *x, int64_t x_stride, const float *y, int64_t y_stride,
                      int32_t n, int32_t width) {
    op_add op = {.n_rows = n,
                 .width = width,
                 .x = x,
                 .x_stride = x_stride,
                 .y = y,
                 .y_stride = y_stride,
                 .y_scale = 1};
    f->b->v->add(f->b, &op);
}

static void add_rows(forward *f, float *x, const float *y, int64_t y_stride, int32_t n,
                     int32_t width) {
    op_add op = {.n_rows = n,
                 .width = width,
                 .x = x,
                 .x_stride = width,
                 .y = y,
                 .y_stride = y_stride,
                 .x_scale = 1,
                 .y_scale = 1};
    f->b->v->add(f->b, &op);
}

/* The whole of one run, by the formula above. */
static void own_product(forward *f, int32_t layer, weight_slot slot, const adapter_slot *s,
                        const float *a, int32_t n, float *out, bool accumulate) {
    const weight *w = weights_at(f->w, layer, slot);
    const float *bias = s->bias ? s->bias : weights_vec(f->w, layer, (weight_slot)(slot + 1));
    float *y = accumulate ? f->ad->out : out;
    const float *in = a;
    CHECK(!accumulate || w->rows <= f->a->hidden);
    if (s->d) {
        copy_rows(f, f->ad->in, w->cols, a, w->cols, n, w->cols);
        scale_cols(f, f->ad->in, w->cols, n, w->cols, s->d);
        in = f->ad->in;
    }
    if (s->own.data)
        forward_product(f, &s->own, 1, NULL, f32_rows(in, w->cols), n, y, w->rows, false);
    else
        forward_product(f, w->m, w->n_parts, NULL, f32_rows(in, w->cols), n, y, w->rows, false);
    add_parts(f, s, a, n, y, w->rows);
    if (s->c) scale_cols(f, y, w->rows, n, w->rows, s->c);
    if (bias) add_rows(f, y, bias, 0, n, w->rows);
    if (accumulate) add_rows(f, out, y, w->rows, n, w->rows);
}

void adapter_linear(forward *f, int32_t layer, weight_slot slot, const float *a, int32_t n_rows,
                    float *out, bool accumulate) {
    const adapter_step *st = f->ad;
    const weight *w = weights_at(f->w, layer, slot);
    const float *bias = weights_vec(f->w, layer, (weight_slot)(slot + 1));
    int32_t span = 0; /* first row of the base's next product */
    for (int32_t k = 0; k <= st->n_runs; k++) {
        const adapter_run *r = &st->runs[k];
        const adapter_slot *s = k < st->n_runs ? slot_of(r->ad, layer, slot) : NULL;
        int32_t row = k < st->n_runs ? r->row0 : n_rows;
        if (k < st->n_runs && !is_special(s)) continue;
        if (row > span)
            forward_product(f, w->m, w->n_parts, bias,
                            f32_rows(a + (size_t)span * (size_t)w->cols, w->cols), row - span,
                            out + (size_t)span * (size_t)w->rows, w->rows, accumulate);
        if (k == st->n_runs) break;
        own_product(f, layer, slot, s, a + (size_t)row * (size_t)w->cols, r->n,
                    out + (size_t)row * (size_t)w->rows, accumulate);
        span = row + r->n;
    }
}

const float *adapter_vec(const forward *f, const adapter *ad, int32_t layer, weight_slot slot) {
    const adapter_slot *s = slot_of(ad, layer, slot);
    return s && s->vec ? s->vec : weights_vec(f->w, layer, slot);
}

/* Embeddings */

static void look_up(forward *f, const adapter_run *r, const float *table, int32_t width,
                    float scale, float *out) {
    op_embed op = {.ids = f->dev.ids + r->row0,
                   .n_tokens = r->n,
                   .width = width,
                   .rows = f->a->vocab,
                   .table = table,
                   .table_dt = DT_F32,
                   .scale = scale,
                   .out = out};
    f->b->v->embed(f->b, &op);
}

static void embed_low(forward *f, const adapter_run *r, const adapter_slot *s, float scale,
                      float *x) {
    const lora_part *p = &s->parts[0];
    look_up(f, r, s->low, p->b.k, scale, f->ad->low);
    scale_cols(f, f->ad->low, p->b.k, r->n, p->b.k, s->s);
    op_gemm up = {.m = r->n,
                  .a = f->ad->low,
                  .a_stride = p->b.k,
                  .w = &p->b,
                  .out = x,
                  .out_stride = p->b.n,
                  .accumulate = true};
    f->b->v->gemm(f->b, &up);
}

/* Neighbouring rows from t on, below `end`, that are neighbouring virtual tokens. */
static int32_t virtual_run(const adapter_step *s, int32_t t, int32_t end) {
    int32_t n = 1;
    while (t + n < end && s->virtual_of[t + n] == s->virtual_of[t] + n) n++;
    return n;
}

/* Virtual tokens: a soft prompt's own rows; those of a prefix count for nothing, whatever they
 * hold. */
static void embed_virtual(forward *f, const adapter_run *r, int32_t width, float *x) {
    int32_t end = r->row0 + r->n;
    if (r->ad->kind != ADAPTER_PROMPT) return;
    for (int32_t t = r->row0, n; t < end; t += n) {
        int32_t v = f->ad->virtual_of[t];
        n = v < 0 ? 1 : virtual_run(f->ad, t, end);
        if (v >= 0)
            copy_rows(f, x + (size_t)(t - r->row0) * (size_t)width, width,
                      r->ad->soft + (size_t)v * (size_t)width, width, n, width);
    }
}

void adapter_embed(forward *f, float scale, float *x) {
    size_t width = (size_t)f->a->embed_width;
    for (int32_t k = 0; k < f->ad->n_runs; k++) {
        const adapter_run *r = &f->ad->runs[k];
        const adapter_slot *s = slot_of(r->ad, -1, W_EMBED);
        float *rows = x + (size_t)r->row0 * width;
        if (s && s->table) look_up(f, r, s->table, (int32_t)width, scale, rows);
        if (s && s->low) embed_low(f, r, s, scale, rows);
        if (r->ad && r->ad->soft) embed_virtual(f, r, (int32_t)width, rows);
    }
}

void adapter_prefix(forward *f, int32_t layer, int32_t width) {
    int32_t kv = f->a->n_kv_heads * f->a->head_dim, q = f->a->n_heads * f->a->head_dim;
    int64_t token = (int64_t)f->a->n_layers * 2 * kv;
    for (int32_t k = 0; k < f->ad->n_runs; k++) {
        const adapter_run *r = &f->ad->runs[k];
        int32_t end = r->row0 + r->n;
        if (!r->ad || !r->ad->soft || r->ad->kind == ADAPTER_PROMPT) continue;
        for (int32_t t = r->row0, n; t < end; t += n) {
            int32_t v = f->ad->virtual_of[t];
            n = v < 0 ? 1 : virtual_run(f->ad, t, end);
            if (v >= 0) /* keys, then values, as in the packed projection */
                copy_rows(f, f->qkv + (int64_t)t * width + q, width,
                          r->ad->soft + v * token + (int64_t)layer * 2 * kv, token, n, 2 * kv);
        }
    }
}
