/* Binding: what the modules say is laid out slot by slot. The A of all modules of a slot are
 * stacked, so that one product serves q, k and v; each module's B is cut by the rows that the base
 * takes of it.
 *
 * Products are stored as the file stores them (bf16 stays bf16), in f32 beside a base in f32; on a
 * device in the 16-bit type that the base's product rounds its rows to. */
#include "engine/adapter.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>

#include "engine/adapter_base.h"
#include "engine/base/check.h"
#include "engine/base/mem.h"

#define CHUNK_BYTES ((size_t)1 << 20)

struct adapter_chunk {
    struct adapter_chunk *next;
    void *p;
    size_t bytes, used;
};

typedef struct binder {
    adapter_pair pair;
    adapter *ad;
    const adapter_limits *limits;
    const weights *w;
} binder;

/* Memory of the backend, never given back before the adapter. */
static status take(adapter *ad, size_t n, size_t size, void *ret, error *err) {
    size_t bytes;
    struct adapter_chunk *c = ad->chunks;
    if (!mul_ok(MAX(n, 1), size, &bytes))
        return error_set(err, ERR_NOMEM, "the adapter is too large");
    bytes = ALIGN_UP(bytes, (size_t)64);
    if (!c || c->bytes - c->used < bytes) {
        c = mem_calloc(1, sizeof *c);
        c->bytes = MAX(bytes, CHUNK_BYTES);
        status st = ad->b->v->mem_alloc(ad->b, c->bytes, &c->p, err);
        if (st != OK) {
            mem_free(c);
            return st;
        }
        c->next = ad->chunks;
        ad->chunks = c;
        ad->bytes += c->bytes;
    }
    *(void **)ret = (char *)c->p + c->used;
    c->used += bytes;
    return OK;
}

/* A copy in memory of the backend; *ret: a pointer. */
static status put_bytes(adapter *ad, const void *src, size_t bytes, void *ret, error *err) {
    void *p;
    TRY(take(ad, bytes, 1, &p, err));
    ad->b->v->upload(ad->b, p, src, bytes);
    *(void **)ret = p;
    return OK;
}

/* n floats in memory of the backend. */
static status put(adapter *ad, const float *src, size_t n, float **ret, error *err) {
    return put_bytes(ad, src, n * sizeof *src, ret, err);
}

/* A packed matrix of f32 rows src[n,k]. */
static status pack(adapter *ad, const float *src, int32_t n, int32_t k, dtype dt, wmat *ret,
                   error *err) {
    void *data;
    TRY(take(ad, 1, ad->b->v->wmat_bytes(ad->b, n, k, dt), &data, err));
    ad->b->v->wmat_init(ad->b, ret, n, k, dt, data);
    ad->b->v->wmat_pack(ad->b, ret, 0, n, src, DT_F32, k);
    return OK;
}

static adapter_slot *slot_of(binder *b, const arch_tensor *t) {
    int32_t row = t->layer < 0 ? b->w->a->n_layers : t->layer;
    adapter_slot *s = &b->ad->slots[(size_t)row * W_SLOT_COUNT + t->slot];
    s->used = true;
    return s;
}

static const char *file_of(const binder *b) {
    return b->pair.source.files.files[0];
}

/* What the product beside which a part stands makes of its rows, on a device that rounds them:
 * parts of that type read the same rows. bf16 where it makes codes of them; else DT_COUNT. */
static dtype type_of_rows(const binder *b, const arch_tensor *t) {
    backend *be = b->w->b;
    const weight *w = weights_at(b->w, t->layer, t->slot);
    if (!be->v->feed_dt) return DT_COUNT;
    dtype dt = w && w->n_parts ? be->v->feed_dt(be, &w->m[0]) : b->w->dt;
    if (dtype_bytes(dt) == 1) return DT_BF16;
    return dt == DT_BF16 || dt == DT_F16 ? dt : DT_COUNT;
}

/* The type of a module's low-rank part beside the slot that begins with t. */
static dtype storage_of(const binder *b, const arch_tensor *t, int32_t module) {
    const adapter_module *m = &b->pair.source.modules[module];
    const st_tensor *a = m->t[ROLE_A] ? m->t[ROLE_A] : m->t[ROLE_EMBED_A];
    dtype rows = type_of_rows(b, t);
    if (rows != DT_COUNT) return rows;
    return a && b->w->dt != DT_F32 && dtype_is_float(a->dt) ? a->dt : DT_F32;
}

/* What forward_linear and forward_norm do not reach keeps the base's weights whatever the adapter
 * says, so such adapters can only be merged. */
static status check_reach(const binder *b, const arch_tensor *t, const adapter_delta *d,
                          error *err) {
    if (adapter_slot_is_product(t->slot) || t->slot == W_EMBED) return OK;
    static const weight_slot norms[] = {W_EMBED_NORM, W_ATTN_NORM,    W_ATTN_OUT_NORM,
                                        W_MLP_NORM,   W_MLP_OUT_NORM, W_FINAL_NORM};
    for (size_t i = 0; i < ARRAY_LEN(norms); i++)
        if (t->slot == norms[i] || t->slot == norms[i] + 1) return OK;
    return error_set(err, ERR_UNSUPPORTED,
                     "%s: module %s changes \"%s\", which an adapter beside the base cannot; "
                     "--merge-lora can",
                     file_of(b), d->name, t->name);
}

/* Modules of one slot, each once, in the order of the tensors. */
static int32_t modules_of_slot(const binder *b, const arch_tensor *first, int32_t *ret,
                               int32_t max) {
    int32_t n = 0;
    for (int32_t i = adapter_first(&b->pair, first->layer, first->slot); i >= 0;
         i = b->pair.next[i]) {
        int32_t m = b->pair.of_tensor[i];
        if (m < 0 || b->pair.deltas[m].rank == 0) continue;
        bool known = false;
        for (int32_t k = 0; k < n; k++) known |= ret[k] == m;
        if (known) continue;
        CHECK(n < max);
        ret[n++] = m;
    }
    return n;
}

enum { MODULES_MAX = 64 };

/* The stacked A and the scales of a slot. */
static status bind_down(binder *b, adapter_slot *s, const arch_tensor *t, const int32_t *modules,
                        int32_t n, error *err) {
    int32_t rank = 0, cols = t->cols;
    dtype dt = DT_COUNT;
    for (int32_t i = 0; i < n; i++) {
        dtype own = storage_of(b, t, modules[i]);
        rank += b->pair.deltas[modules[i]].rank;
        dt = dt == DT_COUNT || dt == own ? own : DT_F32;
    }
    float *a = mem_alloc((size_t)rank * (size_t)cols * sizeof *a);
    float *scales = mem_alloc((size_t)rank * sizeof *scales);
    for (int32_t i = 0, at = 0; i < n; i++) {
        const adapter_delta *d = &b->pair.deltas[modules[i]];
        memcpy(a + (size_t)at * (size_t)cols, d->a, (size_t)d->rank * (size_t)cols * sizeof *a);
        memcpy(scales + at, d->s, (size_t)d->rank * sizeof *scales);
        at += d->rank;
    }
    status st = put(b->ad, scales, (size_t)rank, &s->s, err);
    if (st == OK) st = pack(b->ad, a, rank, cols, dt, &s->a, err);
    b->ad->row_max = MAX(b->ad->row_max, rank);
    mem_free(scales);
    mem_free(a);
    return st;
}

static status bind_up(binder *b, adapter_slot *s, const arch_tensor *t, int32_t module,
                      int32_t col0, error *err) {
    const adapter_delta *d = &b->pair.deltas[module];
    size_t rank = (size_t)d->rank;
    float *rows = mem_alloc((size_t)t->rows * rank * sizeof *rows);
    for (int32_t r = 0; r < t->rows; r++)
        memcpy(rows + (size_t)r * rank, d->b + (size_t)row_view_at(t->view, r) * rank,
               rank * sizeof *rows);
    lora_part *p = &s->parts[s->n_parts++];
    *p = (lora_part){.row0 = t->row0, .col0 = col0};
    status st = pack(b->ad, rows, t->rows, d->rank, storage_of(b, t, module), &p->b, err);
    mem_free(rows);
    return st;
}

/* The low-rank parts of the slot whose first tensor is `first`. */
static status bind_low_rank(binder *b, adapter_slot *s, const arch_tensor *first, error *err) {
    const arch *a = b->w->a;
    int32_t modules[MODULES_MAX], n = modules_of_slot(b, first, modules, MODULES_MAX), n_parts = 0;
    if (n == 0) return OK;
    int32_t head = adapter_first(&b->pair, first->layer, first->slot);
    for (int32_t i = head; i >= 0; i = b->pair.next[i]) n_parts++;
    s->parts = mem_calloc((size_t)n_parts, sizeof *s->parts);
    TRY(bind_down(b, s, first, modules, n, err));
    for (int32_t i = head; i >= 0; i = b->pair.next[i]) {
        const arch_tensor *t = &a->tensors[i];
        int32_t m = b->pair.of_tensor[i], col0 = 0;
        if (m < 0 || b->pair.deltas[m].rank == 0) continue;
        for (int32_t k = 0; modules[k] != m; k++) col0 += b->pair.deltas[modules[k]].rank;
        TRY(bind_up(b, s, t, m, col0, err));
    }
    return OK;
}

/* Row factors (*c: ones where a module has none) and column factors d of one tensor. */
static status bind_factors(binder *b, adapter_slot *s, int32_t i, float **c, error *err) {
    const arch_tensor *t = &b->w->a->tensors[i];
    const adapter_delta *d = &b->pair.deltas[b->pair.of_tensor[i]];
    const weight *w = weights_at(b->w, t->layer, t->slot);
    TRY(adapter_norm_rows(&b->pair, i, err));
    if (d->c) {
        if (!*c) {
            *c = mem_alloc((size_t)w->rows * sizeof **c);
            for (int32_t r = 0; r < w->rows; r++) (*c)[r] = 1;
        }
        for (int32_t r = 0; r < t->rows; r++) (*c)[t->row0 + r] = d->c[row_view_at(t->view, r)];
    }
    if (!d->d) return OK;
    if (t->rows != w->rows)
        return error_set(err, ERR_UNSUPPORTED,
                         "%s: module %s scales its inputs, which it shares with other modules of "
                         "the base; --merge-lora can do that",
                         file_of(b), d->name);
    return put(b->ad, d->d, (size_t)t->cols, &s->d, err);
}

/* The factors of all tensors of the slot whose first is i. */
static status bind_slot_factors(binder *b, adapter_slot *s, int32_t i, error *err) {
    const arch_tensor *first = &b->w->a->tensors[i];
    float *c = NULL;
    status st = OK;
    for (int32_t k = i; k >= 0 && st == OK; k = b->pair.next[k])
        if (b->pair.of_tensor[k] >= 0) st = bind_factors(b, s, k, &c, err);
    const weight *w = weights_at(b->w, first->layer, first->slot);
    if (st == OK && c) st = put(b->ad, c, (size_t)w->rows, &s->c, err);
    mem_free(c);
    return st;
}

/* The bias that takes the place of the base's. */
static status bind_bias(binder *b, adapter_slot *s, const arch_tensor *first, error *err) {
    const weight *w = weights_at(b->w, first->layer, first->slot);
    const float *base = weights_vec(b->w, first->layer, (weight_slot)(first->slot + 1));
    size_t n = (size_t)w->rows;
    float *v = mem_calloc(n, sizeof *v);
    status st = OK;
    if (base) b->ad->b->v->download(b->ad->b, v, base, n * sizeof *v);
    if (adapter_merge_bias(&b->pair, first->layer, first->slot, base != NULL, v))
        st = put(b->ad, v, n, &s->bias, err);
    mem_free(v);
    return st;
}

/* All rows of a slot with the whole new weights in them (not the low-rank parts); *ret stays NULL
 * when they are the base's own: adapters of embeddings often bring a copy. */
static status replaced_rows(binder *b, const arch_tensor *first, float **ret, error *err) {
    const arch *a = b->w->a;
    const weight *w = weights_at(b->w, first->layer, first->slot);
    size_t cols = (size_t)MAX(first->cols, 1), n = (size_t)w->rows * cols;
    bool any = false, differs = false;
    int32_t head = adapter_first(&b->pair, first->layer, first->slot);
    for (int32_t i = head; i >= 0; i = b->pair.next[i]) {
        int32_t m = b->pair.of_tensor[i];
        any |= m >= 0 && (b->pair.deltas[m].weight || (!first->cols && b->pair.deltas[m].bias));
    }
    if (!any) return OK;
    float *rows = mem_calloc(n, sizeof *rows), *own = mem_alloc(cols * sizeof *own);
    status st = OK;
    for (int32_t i = head; i >= 0 && st == OK; i = b->pair.next[i]) {
        const arch_tensor *t = &a->tensors[i];
        for (int32_t r = 0; r < t->rows && st == OK; r++) {
            float *to = rows + (size_t)(t->row0 + r) * cols;
            st = adapter_base_rows(&b->pair, i, r, 1, to, err);
            if (st != OK) break;
            adapter_replaced_row(&b->pair, i, r, to, own);
            differs |= memcmp(to, own, cols * sizeof *to) != 0;
            memcpy(to, own, cols * sizeof *to);
        }
    }
    mem_free(own);
    if (st == OK && differs)
        *ret = rows;
    else
        mem_free(rows);
    return st;
}

static status bind_replaced(binder *b, adapter_slot *s, const arch_tensor *first, error *err) {
    float *rows = NULL, **place = NULL;
    const weight *w = weights_at(b->w, first->layer, first->slot);
    TRY(replaced_rows(b, first, &rows, err));
    if (!rows) return OK;
    slot_kind kind = slot_infos[first->slot].kind;
    size_t n = (size_t)w->rows * (size_t)MAX(first->cols, 1);
    status st;
    if (kind == SLOT_MATRIX) {
        dtype dt = dtype_is_float(w->dt) ? w->dt : DT_F32;
        st = pack(b->ad, rows, w->rows, first->cols, dt, &s->own, err);
    } else {
        place = kind == SLOT_TABLE ? &s->table : &s->vec;
        st = put(b->ad, rows, n, place, err);
    }
    mem_free(rows);
    return st;
}

/* Embedding: the table of the low-rank part and what lifts its rows. */
static status bind_table(binder *b, adapter_slot *s, int32_t i, error *err) {
    const arch_tensor *t = &b->w->a->tensors[i];
    const adapter_delta *d = &b->pair.deltas[b->pair.of_tensor[i]];
    size_t rank = (size_t)d->rank, cols = (size_t)t->cols, n = (size_t)t->rows * rank;
    if (rank == 0) return OK;
    TRY(put(b->ad, d->b, n, &s->low, err));
    TRY(put(b->ad, d->s, rank, &s->s, err));
    s->parts = mem_calloc(1, sizeof *s->parts);
    s->parts[s->n_parts++] = (lora_part){0};
    float *up = mem_alloc(cols * rank * sizeof *up);
    for (size_t c = 0; c < cols; c++)
        for (size_t k = 0; k < rank; k++) up[c * rank + k] = d->a[k * cols + c];
    status st = pack(b->ad, up, t->cols, d->rank, storage_of(b, t, b->pair.of_tensor[i]),
                     &s->parts[0].b, err);
    b->ad->row_max = MAX(b->ad->row_max, d->rank);
    mem_free(up);
    return st;
}

/* Everything of the slot whose first tensor is i. */
static status bind_slot(binder *b, int32_t i, error *err) {
    const arch *a = b->w->a;
    const arch_tensor *first = &a->tensors[i];
    bool changes = false, bias = false;
    for (int32_t k = i; k >= 0; k = b->pair.next[k]) {
        const arch_tensor *t = &a->tensors[k];
        changes |= b->pair.of_tensor[k] >= 0;
        bias |= b->pair.bias_of[k] >= 0;
        if (b->pair.of_tensor[k] >= 0)
            TRY(check_reach(b, t, &b->pair.deltas[b->pair.of_tensor[k]], err));
    }
    if (!changes && !bias) return OK;
    adapter_slot *s = slot_of(b, first);
    if (changes) TRY(bind_replaced(b, s, first, err));
    if (slot_infos[first->slot].kind == SLOT_TABLE) return bind_table(b, s, i, err);
    if (slot_infos[first->slot].kind != SLOT_MATRIX) return OK;
    TRY(bind_low_rank(b, s, first, err));
    TRY(bind_slot_factors(b, s, i, err));
    return bias ? bind_bias(b, s, first, err) : OK;
}

static status check_ranks(binder *b, error *err) {
    for (int32_t m = 0; m < b->pair.source.n_modules; m++) {
        const adapter_delta *d = &b->pair.deltas[m];
        if (d->rank > b->limits->rank_max)
            return error_set(err, ERR_INVALID, "%s: module %s has rank %d, --max-lora-rank is %d",
                             file_of(b), d->name, d->rank, b->limits->rank_max);
        b->ad->info.rank = MAX(b->ad->info.rank, d->rank);
    }
    return OK;
}

/* Plain slots as the op reads them. */
static status bind_plain(adapter *ad, error *err) {
    lora_slot *all = mem_calloc((size_t)ad->n_slots, sizeof *all);
    bool any = false;
    status st = OK;
    ad->is_plain = true;
    for (int32_t i = 0; i < ad->n_slots && st == OK; i++) {
        const adapter_slot *s = &ad->slots[i];
        if (!s->used) continue;
        if (!adapter_slot_is_plain(s)) {
            ad->is_plain = false;
            continue;
        }
        any = true;
        all[i] = (lora_slot){.a = s->a, .s = s->s, .n_parts = s->n_parts};
        st = put_bytes(ad, s->parts, (size_t)s->n_parts * sizeof *s->parts, &all[i].parts, err);
    }
    if (st == OK && any) st = put_bytes(ad, all, (size_t)ad->n_slots * sizeof *all, &ad->low, err);
    mem_free(all);
    return st;
}

static status bind_modules(binder *b, error *err) {
    TRY(check_ranks(b, err));
    for (int32_t i = 0; i < b->ad->n_slots; i++)
        if (b->pair.first[i] >= 0) TRY(bind_slot(b, b->pair.first[i], err));
    return bind_plain(b->ad, err);
}

/* Soft prompts */

/* y[n,out] = x[n,in] W^T + v, W [out,in]. */
static float *affine(const float *x, const float *w, const float *v, size_t n, size_t in,
                     size_t out) {
    float *y = mem_alloc(n * out * sizeof *y);
    for (size_t r = 0; r < n; r++)
        for (size_t o = 0; o < out; o++) {
            double sum = v[o];
            for (size_t k = 0; k < in; k++) sum += (double)x[r * in + k] * (double)w[o * in + k];
            y[r * out + o] = (float)sum;
        }
    return y;
}

static status read_tensor(const adapter_source *s, const st_tensor *t, int64_t n, float **ret,
                          error *err) {
    if (st_tensor_elements(t) != n || (uint64_t)n > t->bytes) {
        char shape[128];
        st_tensor_describe(t, shape, sizeof shape);
        return error_set(err, ERR_FORMAT, "%s: tensor \"%s\": expected %lld elements, found %s",
                         s->files.files[0], t->name, (long long)n, shape);
    }
    float *p = mem_alloc((size_t)n * sizeof *p);
    status st = adapter_source_read(s, t, p, err);
    if (st == OK)
        *ret = p;
    else
        mem_free(p);
    return st;
}

/* The projection of a GLM prefix: embedding -> Linear -> tanh -> Linear. Takes and replaces *x. */
static status project(const adapter_source *s, int32_t n, int64_t width, float **x, error *err) {
    const st_tensor *const *t = s->project;
    int64_t in = s->soft->dims[1], mid = st_tensor_elements(t[1]);
    float *p[4] = {0}, *h = NULL;
    int64_t want[4] = {mid * in, mid, width * mid, width};
    status st = OK;
    for (int k = 0; k < 4 && st == OK; k++) st = read_tensor(s, t[k], want[k], &p[k], err);
    if (st == OK) {
        h = affine(*x, p[0], p[1], (size_t)n, (size_t)in, (size_t)mid);
        for (size_t i = 0; i < (size_t)n * (size_t)mid; i++) h[i] = tanhf(h[i]);
        mem_free(*x);
        *x = affine(h, p[2], p[3], (size_t)n, (size_t)mid, (size_t)width);
    }
    mem_free(h);
    for (int k = 0; k < 4; k++) mem_free(p[k]);
    return st;
}

/* The rotation by position 0 multiplies by the attention factor of the scaling: undone here, since
 * stored keys are used as they are. */
static void undo_factor(const arch *a, int32_t n, float *kv) {
    size_t width = (size_t)a->n_kv_heads * (size_t)a->head_dim;
    for (int32_t l = 0; l < a->n_layers; l++) {
        int32_t k = a->layers[l].attn.rope;
        if (k < 0 || a->ropes[k].attention_factor == 1) continue;
        for (int32_t t = 0; t < n; t++) {
            float *key = kv + ((size_t)t * (size_t)a->n_layers + (size_t)l) * 2 * width;
            for (size_t i = 0; i < width; i++)
                if ((int32_t)(i % (size_t)a->head_dim) < a->ropes[k].dim)
                    key[i] = (float)((double)key[i] / a->ropes[k].attention_factor);
        }
    }
}

static status bind_soft(binder *b, error *err) {
    const arch *a = b->w->a;
    const adapter_source *s = &b->pair.source;
    adapter *ad = b->ad;
    bool prefix = ad->kind != ADAPTER_PROMPT;
    int32_t n = s->config.n_virtual;
    int64_t width = prefix ? 2LL * a->n_layers * a->n_kv_heads * a->head_dim : a->embed_width;
    if (prefix && a->attn != ATTN_GQA)
        return error_set(err, ERR_UNSUPPORTED,
                         "%s: a prefix of keys and values does not fit the "
                         "latent attention of family %s",
                         file_of(b), a->family);
    float *x = NULL;
    bool folded = !s->project[0];
    TRY(read_tensor(s, s->soft, n * (folded ? width : s->soft->dims[1]), &x, err));
    status st = folded ? OK : project(s, n, width, &x, err);
    if (st == OK && prefix) undo_factor(a, n, x);
    if (st == OK) st = put(ad, x, (size_t)(n * width), &ad->soft, err);
    mem_free(x);
    ad->info.n_virtual = n;
    return st;
}

static uint64_t next_generation(void) {
    static _Atomic uint64_t n;
    return atomic_fetch_add(&n, 1) + 1;
}

status adapter_open(const char *dir, const weights *w, checkpoint *base,
                    const adapter_limits *limits, adapter **ret, error *err) {
    binder b = {.limits = limits, .w = w};
    TRY(adapter_pair_open(dir, w, base, &b.pair, err));
    adapter *ad = b.ad = mem_calloc(1, sizeof *ad);
    ad->b = w->b;
    ad->kind = b.pair.source.config.kind;
    ad->generation = next_generation();
    snprintf(ad->info.kind, sizeof ad->info.kind, "%s", adapter_kind_name(ad->kind));
    ad->n_slots = (w->a->n_layers + 1) * W_SLOT_COUNT;
    ad->slots = mem_calloc((size_t)ad->n_slots, sizeof *ad->slots);
    status st = ad->kind <= ADAPTER_IA3 ? bind_modules(&b, err) : bind_soft(&b, err);
    adapter_pair_done(&b.pair);
    if (st == OK)
        *ret = ad;
    else
        adapter_free(ad);
    return st;
}

void adapter_free(adapter *a) {
    if (!a) return;
    for (struct adapter_chunk *c = a->chunks, *next; c; c = next) {
        next = c->next;
        a->b->v->mem_free(a->b, c->p, c->bytes);
        mem_free(c);
    }
    for (int32_t i = 0; i < a->n_slots; i++) mem_free(a->slots[i].parts);
    mem_free(a->slots);
    mem_free(a);
}

int32_t adapter_modules_max(const arch *a) {
    int32_t most = 1;
    for (int32_t i = 0; i < a->n_tensors; i++) {
        int32_t n = 1;
        const arch_tensor *t = &a->tensors[i];
        if (slot_infos[t->slot].kind != SLOT_MATRIX || t->item) continue;
        for (int32_t k = i + 1; k < a->n_tensors && k < i + MODULES_MAX; k++)
            n += a->tensors[k].layer == t->layer && a->tensors[k].slot == t->slot &&
                 a->tensors[k].item == 0;
        most = MAX(most, n);
    }
    return most;
}
