/* A tensor of the base named "m.weight" belongs to module m. Packs need no case of their own: the
 * arch lists every part of a packed tensor with the view of rows that it takes, and the rows of B
 * are taken by the same view. */
#include "engine/adapter_base.h"

#include <stdio.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"

/* The bias of a matrix is no place of its own: it changes with its matrix. */
static bool is_matrix_bias(weight_slot s) {
    return s > 0 && slot_infos[s].kind == SLOT_VECTOR && slot_infos[s - 1].kind == SLOT_MATRIX;
}

/* Modules are named as the classes of the model library nest; a checkpoint may leave out the outer
 * name ("h.0." for "transformer.h.0."), an adapter of the model without its head too. */
static int32_t find_module(const adapter_pair *p, str name) {
    static const char *const outer[] = {"", "model.", "transformer."};
    char text[512];
    for (size_t i = 0; i < 2 * ARRAY_LEN(outer); i++) {
        str o = str_z(outer[i / 2]);
        if (i % 2 == 0)
            snprintf(text, sizeof text, "%s" STR_FMT, o.p, STR_ARG(name));
        else if (o.n && str_starts(name, o))
            snprintf(text, sizeof text, STR_FMT, STR_ARG(str_cut(name, o.n, name.n)));
        else
            continue;
        const adapter_module *m = adapter_source_find(&p->source, text);
        if (m) return (int32_t)(m - p->source.modules);
    }
    return -1;
}

static str module_name(const arch_tensor *t, const char *suffix) {
    str s = str_z(t->name), end = str_z(suffix);
    if (str_ends(s, end)) s.n -= end.n;
    return s;
}

static status fail_shape(const adapter_pair *p, const arch_tensor *t, const adapter_delta *d,
                         error *err) {
    bool grown = (t->slot == W_EMBED || t->slot == W_HEAD) && d->rows > t->src_rows;
    return error_set(
        err, ERR_FORMAT,
        "%s: module %s is of a weight [%d, %d], the base's tensor \"%s\" is [%lld, %d]%s",
        p->source.files.files[0], d->name, d->rows, d->cols, t->name, (long long)t->src_rows,
        t->cols, grown ? "; a larger vocabulary needs --merge-lora" : "");
}

static status check_fit(adapter_pair *p, const arch_tensor *t, adapter_delta *d, error *err) {
    if (t->transpose && d->weight && d->rows == t->cols) adapter_delta_turn(d);
    bool rows_fit = d->rows == 0 || d->rows == t->src_rows;
    bool cols_fit = d->cols == 0 ? !d->weight || t->cols == 0 : d->cols == t->cols;
    bool kind_fits = d->is_embedding == (slot_infos[t->slot].kind == SLOT_TABLE) || !d->rank;
    if (rows_fit && cols_fit && kind_fits) return OK;
    return fail_shape(p, t, d, err);
}

static status need_plain(const adapter_pair *p, const arch_tensor *t, const adapter_delta *d,
                         error *err) {
    bool whole = d->weight && !d->rank && !d->c && !d->d;
    if (t->n_stack || t->transpose_view || (t->xform != XFORM_NONE && !whole))
        return error_set(err, ERR_UNSUPPORTED,
                         "%s: module %s: the base's tensor \"%s\" is not kept as it is stored, an "
                         "adapter of it is not supported",
                         p->source.files.files[0], d->name, t->name);
    return OK;
}

static bool changes_weight(const adapter_module *m) {
    return m->t[ROLE_A] || m->t[ROLE_EMBED_A] || m->t[ROLE_IA3] || m->t[ROLE_WEIGHT];
}

/* The tied head is its own module: what changes the embedding alone does not change it. */
static int32_t module_of(const adapter_pair *p, const arch_tensor *t) {
    const arch *a = p->w->a;
    if (t->slot != W_HEAD || !a->tied) return find_module(p, module_name(t, ".weight"));
    return a->head_name
               ? find_module(p, module_name(&(arch_tensor){.name = a->head_name}, ".weight"))
               : -1;
}

bool adapter_slot_is_product(weight_slot slot) {
    static const weight_slot products[] = {
        W_PROJ_IN, W_QKV,    W_Q_A,       W_Q_B,         W_KV_A,        W_O,    W_UP,
        W_DOWN,    W_ROUTER, W_SHARED_UP, W_SHARED_DOWN, W_SHARED_GATE, W_HEAD, W_PROJ_OUT};
    for (size_t i = 0; i < ARRAY_LEN(products); i++)
        if (slot == products[i]) return true;
    return false;
}

/* Factors of rows would have to reach a bias that is kept with others of its kind. */
static status place_item_bias(const adapter_pair *p, const arch_tensor *t, const adapter_delta *d,
                              error *err) {
    weight_slot next = (weight_slot)(t->slot == W_EXPERT_GATE ? W_EXPERT_UP_BIAS : t->slot + 1);
    if (!d->bias && !d->b_bias && !weights_at(p->w, t->layer, next)) return OK;
    return error_set(
        err, ERR_UNSUPPORTED,
        "%s: module %s changes the bias of \"%s\", one of several of its kind: that is "
        "not supported",
        p->source.files.files[0], d->name, t->name);
}

static status place_tensor(adapter_pair *p, int32_t i, uint8_t *placed, error *err) {
    const arch_tensor *t = &p->w->a->tensors[i];
    bool is_bias = str_ends(str_z(t->name), STR(".bias")) && t->cols == 0;
    if (is_matrix_bias(t->slot)) return OK;
    int32_t m = is_bias ? find_module(p, module_name(t, ".bias")) : module_of(p, t);
    if (m < 0) return OK;
    const adapter_module *mod = &p->source.modules[m];
    adapter_delta *d = &p->deltas[m];
    if (is_bias) { /* of a norm */
        if (d->bias && d->rows != t->rows) return fail_shape(p, t, d, err);
        if (d->bias) p->of_tensor[i] = m, placed[m] |= 2;
        return OK;
    }
    if (changes_weight(mod)) {
        TRY(check_fit(p, t, d, err));
        TRY(need_plain(p, t, d, err));
        p->of_tensor[i] = m;
        placed[m] |= 1;
    }
    if (slot_infos[t->slot].kind != SLOT_MATRIX) return OK;
    if (d->bias || d->b_bias || d->c_scales_bias) {
        if (!adapter_slot_is_product(t->slot)) return place_item_bias(p, t, d, err);
        if (d->rows != t->src_rows) return fail_shape(p, t, d, err);
        p->bias_of[i] = m;
        placed[m] |= 2;
    }
    return OK;
}

static status check_placed(const adapter_pair *p, const uint8_t *placed, error *err) {
    for (int32_t m = 0; m < p->source.n_modules; m++) {
        const adapter_module *mod = &p->source.modules[m];
        const st_tensor *lost = NULL;
        for (int r = 0; r < ROLE_COUNT && !lost; r++) {
            int bit = r == ROLE_BIAS || r == ROLE_B_BIAS ? 2 : 1;
            if (mod->t[r] && !(placed[m] & bit)) lost = mod->t[r];
        }
        if (!lost) continue;
        return error_set(err, ERR_FORMAT,
                         "%s: tensor \"%s\" belongs to no module of the base (family %s)",
                         p->source.files.files[lost->file], lost->name, p->w->a->family);
    }
    return OK;
}

/* Modules that the config's list names and the base has, but the file has not. Experts are left
 * out: the library that trained the adapter may hold them in one tensor, which is no module. */
static status check_complete(const adapter_pair *p, error *err) {
    for (int32_t i = 0; i < p->w->a->n_tensors; i++) {
        const arch_tensor *t = &p->w->a->tensors[i];
        if (slot_infos[t->slot].kind != SLOT_MATRIX || p->of_tensor[i] >= 0 || t->slot == W_HEAD ||
            !adapter_slot_is_product(t->slot))
            continue;
        char module[512];
        snprintf(module, sizeof module, STR_FMT, STR_ARG(module_name(t, ".weight")));
        if (!adapter_config_targets(&p->source.config, module, t->layer)) continue;
        return error_set(err, ERR_FORMAT,
                         "%s: target_modules names %s, but %s has no tensors of it",
                         p->source.config.path, module, p->source.files.files[0]);
    }
    return OK;
}

static void chain_slots(adapter_pair *p) {
    const arch *a = p->w->a;
    size_t n = (size_t)(a->n_layers + 1) * W_SLOT_COUNT;
    p->first = mem_alloc(n * sizeof *p->first);
    p->next = mem_alloc((size_t)(a->n_tensors + 1) * sizeof *p->next);
    for (size_t i = 0; i < n; i++) p->first[i] = -1;
    for (int32_t i = a->n_tensors - 1; i >= 0; i--) {
        const arch_tensor *t = &a->tensors[i];
        int32_t row = t->layer < 0 ? a->n_layers : t->layer;
        int32_t *f = &p->first[(size_t)row * W_SLOT_COUNT + t->slot];
        p->next[i] = *f;
        *f = i;
    }
}

static status place_all(adapter_pair *p, error *err) {
    const arch *a = p->w->a;
    uint8_t *placed = mem_calloc((size_t)p->source.n_modules + 1, 1);
    status st = OK;
    for (int32_t i = 0; i < a->n_tensors && st == OK; i++) {
        p->of_tensor[i] = p->bias_of[i] = -1;
        st = place_tensor(p, i, placed, err);
    }
    if (st == OK) st = check_placed(p, placed, err);
    if (st == OK) st = check_complete(p, err);
    mem_free(placed);
    return st;
}

status adapter_pair_open(const char *dir, const weights *w, checkpoint *base, adapter_pair *ret,
                         error *err) {
    adapter_pair p = {.w = w, .base = base};
    TRY(adapter_source_open(dir, &p.source, err));
    status st = OK;
    p.deltas = mem_calloc((size_t)p.source.n_modules + 1, sizeof *p.deltas);
    p.of_tensor = mem_calloc((size_t)w->a->n_tensors + 1, sizeof *p.of_tensor);
    p.bias_of = mem_calloc((size_t)w->a->n_tensors + 1, sizeof *p.bias_of);
    if (p.source.config.tie && w->a->tied)
        st = error_set(err, ERR_UNSUPPORTED,
                       "%s: ensure_weight_tying: true is not supported with a base whose head is "
                       "its embedding",
                       p.source.config.path);
    for (int32_t m = 0; m < p.source.n_modules && st == OK; m++)
        st = adapter_delta_read(&p.source, &p.source.modules[m], &p.deltas[m], err);
    chain_slots(&p);
    if (st == OK && p.source.config.kind <= ADAPTER_IA3) st = place_all(&p, err);
    if (st == OK)
        *ret = p;
    else
        adapter_pair_done(&p);
    return st;
}

void adapter_pair_done(adapter_pair *p) {
    for (int32_t m = 0; p->deltas && m < p->source.n_modules; m++)
        adapter_delta_done(&p->deltas[m]);
    mem_free(p->deltas);
    mem_free(p->of_tensor);
    mem_free(p->bias_of);
    mem_free(p->first);
    mem_free(p->next);
    adapter_source_done(&p->source);
    *p = (adapter_pair){0};
}

/* The base's rows */

status adapter_base_rows(const adapter_pair *p, int32_t i, int32_t row0, int32_t n, float *ret,
                         error *err) {
    const arch_tensor *t = &p->w->a->tensors[i];
    TRY(tensor_rows_stored(p->w, p->base, i, row0, n, ret, err));
    tensor_rows_change(t->xform, n, MAX(t->cols, 1), ret);
    return OK;
}

void adapter_replaced_row(const adapter_pair *p, int32_t i, int32_t r, const float *base,
                          float *ret) {
    const arch_tensor *t = &p->w->a->tensors[i];
    int32_t cols = MAX(t->cols, 1), m = p->of_tensor[i];
    const float *whole = m < 0 ? NULL : p->deltas[m].weight;
    if (m >= 0 && !t->cols && str_ends(str_z(t->name), STR(".bias"))) whole = p->deltas[m].bias;
    if (!whole) {
        memcpy(ret, base, (size_t)cols * sizeof *ret);
        return;
    }
    memcpy(ret, whole + (size_t)row_view_at(t->view, r) * (size_t)cols, (size_t)cols * sizeof *ret);
    tensor_rows_change(t->xform, 1, cols, ret);
}

status adapter_norm_rows(adapter_pair *p, int32_t i, error *err) {
    const arch_tensor *t = &p->w->a->tensors[i];
    adapter_delta *d = &p->deltas[p->of_tensor[i]];
    if (!d->magnitude) return OK;
    float *row = mem_alloc((size_t)t->cols * sizeof *row);
    status st = OK;
    for (int32_t r = 0; r < t->rows && st == OK; r++) {
        st = tensor_rows_stored(p->w, p->base, i, r, 1, row, err);
        if (st == OK) adapter_delta_norm(d, row_view_at(t->view, r), 1, t->cols, row);
    }
    mem_free(row);
    return st;
}

status adapter_merged_rows(adapter_pair *p, int32_t i, int32_t row0, int32_t n, float *ret,
                           error *err) {
    const arch_tensor *t = &p->w->a->tensors[i];
    int32_t m = p->of_tensor[i], cols = MAX(t->cols, 1);
    TRY(tensor_rows_stored(p->w, p->base, i, row0, n, ret, err));
    for (int32_t r = 0; m >= 0 && r < n; r++) {
        adapter_delta *d = &p->deltas[m];
        int64_t row = row_view_at(t->view, row0 + r);
        float *to = ret + (size_t)r * (size_t)cols;
        if (t->cols) {
            adapter_delta_norm(d, row, 1, cols, to);
            adapter_delta_merge(d, row, 1, cols, to);
        } else {
            *to = (str_ends(str_z(t->name), STR(".bias")) ? d->bias : d->weight)[row];
        }
    }
    tensor_rows_change(t->xform, n, cols, ret);
    return OK;
}

bool adapter_merge_bias(const adapter_pair *p, int32_t layer, weight_slot slot, bool has,
                        float *io) {
    bool changed = false;
    for (int32_t i = adapter_first(p, layer, slot); i >= 0; i = p->next[i]) {
        const arch_tensor *t = &p->w->a->tensors[i];
        if (p->bias_of[i] < 0) continue;
        const adapter_delta *d = &p->deltas[p->bias_of[i]];
        if (!d->bias && !d->b_bias && !has) continue;
        for (int32_t r = 0; r < t->rows; r++)
            (void)adapter_delta_merge_bias(d, row_view_at(t->view, r), 1, &io[t->row0 + r]);
        changed = true;
    }
    return changed;
}
