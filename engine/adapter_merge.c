/* The merged path: once the base is loaded, the rows that an adapter changes are made again with
 * the adapter in them and packed over the old ones. So the loader needs to know nothing of it. */
#include <math.h>

#include "engine/adapter.h"
#include "engine/adapter_base.h"
#include "engine/base/mem.h"

#define BLOCK_ROWS 64

static status refuse(const adapter_pair *p, int32_t tensor, const char *why, error *err) {
    return error_set(err, ERR_UNSUPPORTED, "%s: cannot be merged into \"%s\": %s",
                     p->source.files.files[0], p->w->a->tensors[tensor].name, why);
}

/* n values of a table from element `at`; x is overwritten where the table is of 16 bits. */
static void put_table(backend *b, weight *to, size_t at, float *x, size_t n) {
    size_t size = dtype_bytes(to->dt);
    for (size_t i = 0; to->dt != DT_F32 && i < n; i++) {
        uint16_t h = to->dt == DT_BF16 ? f32_to_bf16(x[i]) : f32_to_f16(x[i]);
        memcpy((char *)x + i * size, &h, size);
    }
    b->v->upload(b, (char *)to->table + at * size, x, n * size);
}

/* Rows that --quantize makes codes of; the tensor's errors are those of the merged rows then. */
static status put_quantised(const weights *w, int32_t tensor, int32_t r, int32_t n,
                            const float *rows, error *err) {
    const arch_tensor *t = &w->a->tensors[tensor];
    const weight_bind *b = &w->bind[tensor];
    wmat *m = &(weights_at(w, t->layer, t->slot) + t->item)->m[b->part];
    char *codes = mem_alloc((size_t)n * quant_row_bytes(m->dt, &m->q, m->k));
    quantize_error *e = &w->errors[tensor];
    if (r == 0) *e = (quantize_error){0};
    quantize_rows(m->dt, &m->q, m->k, rows, n, codes, e);
    bool fine = isfinite(e->err2);
    if (fine) w->b->v->quant_pack(w->b, m, b->part_row0 + r, n, codes);
    mem_free(codes);
    if (fine) return OK;
    return error_set(err, ERR_FORMAT,
                     "quantize: \"%s\" with the adapter in it holds a number that is infinite, too "
                     "large or not a number",
                     t->name);
}

static status merge_tensor(adapter_pair *p, int32_t i, error *err) {
    const arch_tensor *t = &p->w->a->tensors[i];
    const weight_bind *b = &p->w->bind[i];
    weight *to = weights_at(p->w, t->layer, t->slot) + t->item;
    backend *be = p->w->b;
    int32_t cols = MAX(t->cols, 1);
    dtype dt = to->n_parts ? to->m[b->part].dt : to->vec ? DT_F32 : to->dt;
    bool quantise = to->n_parts && b->to != DT_COUNT && dtype_is_float(b->dt);
    if (!dtype_is_float(dt) && !quantise)
        return refuse(p, i, "it is quantised (an adapter beside the base can be used)", err);
    float *rows = mem_alloc(BLOCK_ROWS * (size_t)cols * sizeof *rows);
    status st = OK;
    for (int32_t r = 0; r < t->rows && st == OK; r += BLOCK_ROWS) {
        int32_t n = MIN(BLOCK_ROWS, t->rows - r), at = b->part_row0 + r;
        st = adapter_merged_rows(p, i, r, n, rows, err);
        if (st != OK) break;
        if (to->vec)
            be->v->upload(be, to->vec + at, rows, (size_t)n * sizeof *rows);
        else if (quantise)
            st = put_quantised(p->w, i, r, n, rows, err);
        else if (to->table)
            put_table(be, to, (size_t)at * (size_t)cols, rows, (size_t)n * (size_t)cols);
        else
            be->v->wmat_pack(be, &to->m[b->part], at, n, rows, DT_F32, cols);
    }
    mem_free(rows);
    return st;
}

static status merge_bias(adapter_pair *p, int32_t layer, weight_slot slot, error *err) {
    const weight *w = weights_at(p->w, layer, slot);
    weight *to = weights_at(p->w, layer, (weight_slot)(slot + 1));
    float *bias = mem_calloc((size_t)w->rows, sizeof *bias);
    backend *be = p->w->b;
    size_t bytes = (size_t)w->rows * sizeof *bias;
    status st = OK;
    if (to) be->v->download(be, bias, to->vec, bytes);
    if (adapter_merge_bias(p, layer, slot, to != NULL, bias)) {
        if (to)
            be->v->upload(be, to->vec, bias, bytes);
        else
            st = refuse(p, adapter_first(p, layer, slot),
                        "the base has no bias there (an adapter beside the base can be used)", err);
    }
    mem_free(bias);
    return st;
}

static status merge_all(adapter_pair *p, error *err) {
    const arch *a = p->w->a;
    for (int32_t i = 0; i < a->n_tensors; i++)
        if (p->of_tensor[i] >= 0) TRY(merge_tensor(p, i, err));
    for (int32_t l = -1; l < a->n_layers; l++)
        for (int s = 0; s < W_SLOT_COUNT; s++) {
            bool any = false;
            for (int32_t i = adapter_first(p, l, (weight_slot)s); i >= 0; i = p->next[i])
                any |= p->bias_of[i] >= 0;
            if (any) TRY(merge_bias(p, l, (weight_slot)s, err));
        }
    return OK;
}

status adapter_merge(const char *dir, weights *w, checkpoint *base, error *err) {
    adapter_pair p;
    TRY(adapter_pair_open(dir, w, base, &p, err));
    status st = p.source.config.kind <= ADAPTER_IA3
                    ? merge_all(&p, err)
                    : error_set(err, ERR_UNSUPPORTED,
                                "%s: an adapter of kind %s is no change of the weights: it cannot "
                                "be merged",
                                dir, adapter_kind_name(p.source.config.kind));
    adapter_pair_done(&p);
    return st;
}
