/* Places are laid out in the order of use: layer by layer, in the order of the slots, so that a
 * forward pass walks through memory once. Matrices keep the checkpoint's type unless another is
 * asked for; vectors are f32 always: they are small, and norms are computed in f32. */
#include "engine/weights.h"

#include <fnmatch.h>
#include <stdio.h>

#include "engine/base/mem.h"

#define PLACE_ALIGN 256

static bool is_float(dtype d) {
    return d == DT_F32 || d == DT_F16 || d == DT_BF16;
}

static status check_shape(const checkpoint *c, const arch_tensor *t, const st_tensor *s,
                          error *err) {
    int64_t rows = t->rows, cols = t->cols;
    bool fits = cols ? s->n_dims == 2 && s->dims[0] == rows && s->dims[1] == cols
                     : s->n_dims == 1 && s->dims[0] == rows;
    if (fits && is_float(s->dt)) return OK;
    char found[128], want[64];
    st_tensor_describe(s, found, sizeof found);
    snprintf(want, sizeof want, cols ? "[%lld, %lld]" : "[%lld]", (long long)rows, (long long)cols);
    return error_set(err, ERR_FORMAT,
                     "%s: tensor \"%s\": expected %s of F32, F16 or BF16, found %s",
                     c->files[s->file], t->name, want, found);
}

static status bind_all(const arch *a, const checkpoint *c, uint8_t *used, int64_t *ret_params,
                       error *err) {
    for (int32_t i = 0; i < a->n_tensors; i++) {
        const arch_tensor *t = &a->tensors[i];
        const st_tensor *s = checkpoint_find(c, t->name);
        if (!s)
            return error_set(err, ERR_FORMAT, "%s: tensor \"%s\" is missing (family %s)",
                             c->files[0], t->name, a->family);
        TRY(check_shape(c, t, s, err));
        if (!used[s - c->tensors]) *ret_params += (int64_t)t->rows * MAX(t->cols, 1);
        used[s - c->tensors] = 1;
    }
    return OK;
}

static bool is_ignored(const arch *a, const char *name) {
    for (int32_t i = 0; i < a->n_ignore; i++)
        if (fnmatch(a->ignore[i], name, 0) == 0) return true;
    return false;
}

static status check_unused(const arch *a, const checkpoint *c, const uint8_t *used, error *err) {
    for (int32_t i = 0; i < c->n_tensors; i++) {
        const st_tensor *s = &c->tensors[i];
        if (used[i] || is_ignored(a, s->name)) continue;
        char shape[128];
        st_tensor_describe(s, shape, sizeof shape);
        return error_set(err, ERR_FORMAT,
                         "%s: tensor \"%s\" %s has no place in a model of family %s",
                         c->files[s->file], s->name, shape, a->family);
    }
    return OK;
}

/* The storage type of a slot made of these tensors: what was asked for, else the widest found. */
static dtype storage_type(dtype have, dtype found, dtype want) {
    if (want != DT_COUNT) return want;
    if (have == DT_COUNT || have == found) return found;
    return DT_F32;
}

static void choose_types(weights *w, const checkpoint *c, dtype want) {
    const arch *a = w->a;
    for (int32_t i = 0; i < (a->n_layers + 1) * W_SLOT_COUNT; i++) w->slots[i].m.dt = DT_COUNT;
    for (int32_t i = 0; i < a->n_tensors; i++) {
        const arch_tensor *t = &a->tensors[i];
        weight *p = weights_at(w, t->layer, t->slot);
        p->m.dt = storage_type(p->m.dt, checkpoint_find(c, t->name)->dt, want);
        if (t->cols && t->row0 % w->b->v->pack_rows) p->shares_groups = true;
    }
    w->dt = weights_at(w, 0, W_QKV)->m.dt;
    w->embed_dt = weights_at(w, -1, W_EMBED)->m.dt;
}

static bool is_global(weight_slot s) {
    return s == W_EMBED || s == W_HEAD || s == W_FINAL_NORM;
}

static void place_slot(weights *w, int32_t layer, weight_slot slot) {
    int32_t rows, cols;
    weight *p = weights_at(w, layer, slot);
    if (is_global(slot) != (layer < 0)) return;
    arch_slot_shape(w->a, layer, slot, &rows, &cols);
    if (rows == 0) return;
    if (slot == W_EMBED)
        p->bytes = (size_t)rows * (size_t)cols * dtype_bytes(p->m.dt);
    else if (cols)
        p->bytes = w->b->v->wmat_bytes(w->b, rows, cols, p->m.dt);
    else
        p->bytes = (size_t)rows * sizeof(float);
    p->m.n = rows;
    p->m.k = cols;
    p->off = w->bytes;
    w->bytes += ALIGN_UP(p->bytes, (size_t)PLACE_ALIGN);
}

status weights_plan(const arch *a, const checkpoint *c, backend *b, dtype want, weights *ret,
                    error *err) {
    uint8_t *used = mem_calloc((size_t)c->n_tensors + 1, 1);
    weights w = {.a = a, .b = b};
    status st = bind_all(a, c, used, &w.n_params, err);
    if (st == OK) st = check_unused(a, c, used, err);
    mem_free(used);
    if (st != OK) return st;
    w.slots = mem_calloc((size_t)(a->n_layers + 1) * W_SLOT_COUNT, sizeof *w.slots);
    choose_types(&w, c, want);
    place_slot(&w, -1, W_EMBED);
    for (int32_t l = 0; l < a->n_layers; l++)
        for (int s = 0; s < W_SLOT_COUNT; s++) place_slot(&w, l, (weight_slot)s);
    place_slot(&w, -1, W_FINAL_NORM);
    place_slot(&w, -1, W_HEAD);
    *ret = w;
    return OK;
}

status weights_alloc(weights *w, error *err) {
    TRY(w->b->v->mem_alloc(w->b, w->bytes, &w->block, err));
    for (int32_t i = 0; i < (w->a->n_layers + 1) * W_SLOT_COUNT; i++) {
        weight *p = &w->slots[i];
        char *at = (char *)w->block + p->off;
        if (p->bytes == 0) continue;
        if (i % W_SLOT_COUNT == W_EMBED)
            w->embed = at;
        else if (p->m.k)
            w->b->v->wmat_init(w->b, &p->m, p->m.n, p->m.k, p->m.dt, at);
        else
            p->vec = (float *)at;
    }
    return OK;
}

void weights_done(weights *w) {
    if (w->block) w->b->v->mem_free(w->b, w->block, w->bytes);
    mem_free(w->slots);
    *w = (weights){0};
}
