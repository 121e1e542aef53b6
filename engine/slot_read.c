/* Each arch tensor knows its rows of the slot and its rows of the file; a request is cut into rows
 * of one tensor each, which is slow and simple: a conversion reads everything once. */
#include "engine/slot_read.h"

#include <math.h>
#include <string.h>

#include "engine/base/mem.h"

static int32_t item_of(const weights *w, int32_t layer, weight_slot slot, int32_t item) {
    const weight *p = weights_at(w, layer, slot);
    return p ? (int32_t)(p - w->list) + item : -1;
}

status slot_reader_open(const weights *w, checkpoint *c, slot_reader *ret, error *err) {
    const arch *a = w->a;
    slot_reader r = {.w = w, .c = c};
    r.head = mem_alloc(((size_t)w->n_list + 1) * sizeof *r.head);
    r.next = mem_alloc(((size_t)a->n_tensors + 1) * sizeof *r.next);
    for (int32_t i = 0; i < w->n_list; i++) r.head[i] = -1;
    for (int32_t i = a->n_tensors - 1; i >= 0; i--) {
        int32_t at = item_of(w, a->tensors[i].layer, a->tensors[i].slot, a->tensors[i].item);
        r.next[i] = r.head[at];
        r.head[at] = i;
    }
    *ret = r;
    const char *bytes;
    for (int32_t f = 0; f < c->n_files; f++) {
        status st = checkpoint_map(c, f, &bytes, err);
        if (st == OK) continue;
        slot_reader_done(ret);
        return st;
    }
    return OK;
}

void slot_reader_done(slot_reader *r) {
    mem_free(r->head);
    mem_free(r->next);
    *r = (slot_reader){0};
}

bool slot_reader_has(const slot_reader *r, int32_t layer, weight_slot slot, int32_t item) {
    int32_t at = item_of(r->w, layer, slot, item);
    return at >= 0 && at < r->w->n_list && r->head[at] >= 0 &&
           r->w->a->tensors[r->head[at]].slot == slot && r->w->a->tensors[r->head[at]].item == item;
}

/* Row r of a tensor's part as it is stored. */
static void stored_row(const slot_reader *r, const arch_tensor *t, const weight_bind *b,
                       int32_t row, char *out) {
    if (b->src) {
        b->src->read(b->src, row, 1, out);
        return;
    }
    int64_t from = (int64_t)t->stack * t->src_rows + t->view.start +
                   row / t->view.run * t->view.stride + row % t->view.run;
    memcpy(out, r->c->maps[b->st->file].p + b->st->off + (uint64_t)from * b->row_bytes,
           b->row_bytes);
}

static void to_f32(const weight_bind *b, int32_t cols, const char *side, const char *row,
                   float *out) {
    static const quant_spec none;
    if (dtype_is_quant(b->dt))
        quant_row_f32(b->dt, b->src ? &b->src->spec : &none, cols, side, row, 0, cols, out);
    else
        for (int32_t k = 0; k < cols; k++) out[k] = row_float(row, b->dt, (size_t)k);
}

static void change(tensor_xform xform, int32_t cols, float *x) {
    double sum = 0;
    for (int32_t k = 0; k < cols; k++) sum += (double)x[k] * x[k];
    float norm = (float)MAX(sqrt(sum), 1e-12);
    for (int32_t k = 0; k < cols; k++)
        x[k] = xform == XFORM_PLUS_ONE ? x[k] + 1 : xform == XFORM_L2_ROWS ? x[k] / norm : x[k];
}

static void read_part(const slot_reader *r, int32_t tensor, int32_t row0, int32_t n, float *out) {
    const arch_tensor *t = &r->w->a->tensors[tensor];
    const weight_bind *b = &r->w->bind[tensor];
    int32_t cols = MAX(t->cols, 1);
    char *row = mem_alloc(b->row_bytes), *side = NULL;
    if (b->src && dtype_kind_of(b->dt) == DTYPE_CODES) {
        side = mem_calloc(1, quant_side_bytes(b->dt, &b->src->spec, cols) + 1);
        quant_pack_side(b->dt, &b->src->spec, cols, b->src->order, b->src->table, side);
    }
    for (int32_t i = 0; i < n; i++) {
        float *to = out + (size_t)i * (size_t)cols;
        stored_row(r, t, b, row0 + i, row);
        to_f32(b, cols, side, row, to);
        if (t->xform != XFORM_NONE) change(t->xform, cols, to);
    }
    mem_free(side);
    mem_free(row);
}

status slot_read(const slot_reader *r, int32_t layer, weight_slot slot, int32_t item, int32_t row0,
                 int32_t n, float *out, error *err) {
    if (!slot_reader_has(r, layer, slot, item))
        return error_set(err, ERR_NOT_FOUND, "layer %d has no %s %d", layer, slot_infos[slot].name,
                         item);
    int32_t first = r->head[item_of(r->w, layer, slot, item)];
    size_t cols = (size_t)MAX(r->w->a->tensors[first].cols, 1);
    memset(out, 0, (size_t)n * cols * sizeof *out);
    for (int32_t i = first; i >= 0; i = r->next[i]) {
        const arch_tensor *t = &r->w->a->tensors[i];
        int32_t from = MAX(row0, t->row0), to = MIN(row0 + n, t->row0 + t->rows);
        if (from < to)
            read_part(r, i, from - t->row0, to - from, out + (size_t)(from - row0) * cols);
    }
    return OK;
}
