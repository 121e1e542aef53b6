/* Each arch tensor knows its rows of the slot and its rows of the file; a request is cut into rows
 * of one tensor each. */
#include "engine/slot_read.h"

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

static status read_part(const slot_reader *r, int32_t i, int32_t row0, int32_t n, float *out,
                        error *err) {
    const arch_tensor *t = &r->w->a->tensors[i];
    if (r->merge && r->merge->of_tensor[i] >= 0)
        return adapter_merged_rows(r->merge, i, row0, n, out, err);
    TRY(tensor_rows_stored(r->w, r->c, i, row0, n, out, err));
    tensor_rows_change(t->xform, n, MAX(t->cols, 1), out);
    return OK;
}

static status read_rows(const slot_reader *r, int32_t first, int32_t row0, int32_t n, float *out,
                        error *err) {
    size_t cols = (size_t)MAX(r->w->a->tensors[first].cols, 1);
    memset(out, 0, (size_t)n * cols * sizeof *out);
    for (int32_t i = first; i >= 0; i = r->next[i]) {
        const arch_tensor *t = &r->w->a->tensors[i];
        int32_t from = MAX(row0, t->row0), to = MIN(row0 + n, t->row0 + t->rows);
        if (from >= to) continue;
        TRY(read_part(r, i, from - t->row0, to - from, out + (size_t)(from - row0) * cols, err));
    }
    return OK;
}

static bool is_bias(weight_slot s) {
    return s > 0 && slot_infos[s].kind == SLOT_VECTOR && slot_infos[s - 1].kind == SLOT_MATRIX;
}

/* An adapter changes a bias with its matrix, as a whole. */
static status read_merged_bias(const slot_reader *r, int32_t layer, weight_slot slot, int32_t first,
                               int32_t row0, int32_t n, float *out, error *err) {
    const weight *w = weights_at(r->w, layer, slot);
    float *all = mem_alloc((size_t)w->rows * sizeof *all);
    status st = read_rows(r, first, 0, w->rows, all, err);
    if (st == OK) {
        (void)adapter_merge_bias(r->merge, layer, (weight_slot)(slot - 1), true, all);
        memcpy(out, all + row0, (size_t)n * sizeof *out);
    }
    mem_free(all);
    return st;
}

status slot_read(const slot_reader *r, int32_t layer, weight_slot slot, int32_t item, int32_t row0,
                 int32_t n, float *out, error *err) {
    if (!slot_reader_has(r, layer, slot, item))
        return error_set(err, ERR_NOT_FOUND, "layer %d has no %s %d", layer, slot_infos[slot].name,
                         item);
    int32_t first = r->head[item_of(r->w, layer, slot, item)];
    if (r->merge && is_bias(slot) && item == 0)
        return read_merged_bias(r, layer, slot, first, row0, n, out, err);
    return read_rows(r, first, row0, n, out, err);
}
