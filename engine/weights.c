/* Places are laid out in the order of use: layer by layer, in the order of the slots, so that a
 * forward pass walks through memory once. Matrices keep the checkpoint's type unless another is
 * asked for; vectors are f32 always: they are small, and norms are computed in f32.
 *
 * Order of planning: bind each arch tensor to the checkpoint, count the items of every slot, then
 * cut every matrix into parts: neighbours of one storage share one, so that a pass runs as few
 * products as it can. */
#include "engine/weights.h"

#include <fnmatch.h>
#include <stdio.h>

#include "engine/base/mem.h"
#include "engine/quant_module.h"

#define PLACE_ALIGN 256

/* Binding */

/* A vector may be stored in any shape, a matrix without leading dimensions of 1. */
static bool dims_fit(const arch_tensor *t, const st_tensor *s) {
    int64_t want[3], all = 1, found = 1;
    int32_t n = arch_tensor_dims(t, want), skip = 0;
    while (t->cols && skip < n - 1 && n - skip > s->n_dims && want[skip] == 1) skip++;
    bool same = n - skip == s->n_dims;
    for (int32_t i = 0; i < n; i++) all *= want[i];
    for (int32_t i = 0; i < s->n_dims; i++) found *= s->dims[i];
    for (int32_t i = skip; i < n && same; i++) same = want[i] == s->dims[i - skip];
    return t->cols ? same : all == found;
}

/* Floats, or whole GGUF blocks in every row. */
static bool type_fits(const arch_tensor *t, const st_tensor *s) {
    if (s->dt == DT_COUNT) return false;
    bool blocks = dtype_kind_of(s->dt) == DTYPE_GGUF && t->cols;
    return blocks ? s->dims[s->n_dims - 1] % dtype_block(s->dt) == 0 : dtype_is_float(s->dt);
}

static status check_shape(const checkpoint *c, const arch_tensor *t, const st_tensor *s,
                          error *err) {
    if (dims_fit(t, s) && type_fits(t, s)) return OK;
    char found[128];
    int64_t dims[3];
    int32_t n = arch_tensor_dims(t, dims);
    strbuf want = {0};
    for (int32_t i = 0; i < n; i++) strbuf_addf(&want, "%s%lld", i ? ", " : "", (long long)dims[i]);
    st_tensor_describe(s, found, sizeof found);
    status st =
        error_set(err, ERR_FORMAT, "%s: tensor \"%s\": expected [%s] of F32, F16 or BF16, found %s",
                  c->files[s->file], t->name, want.p, found);
    strbuf_done(&want);
    return st;
}

/* *ret_is: the tensor is a quantised module. */
static status bind_module(weights *w, checkpoint *c, const arch_tensor *t, weight_bind *ret,
                          uint8_t *used, bool *ret_is, error *err) {
    bool floats = slot_infos[t->slot].kind == SLOT_TABLE;
    const st_tensor *st = NULL;
    *ret = (weight_bind){0};
    *ret_is = false;
    if (!t->cols || !quant_module_serves(c, t->name)) return OK;
    TRY(quant_module_bind(c, t, floats, used, &ret->src, &st, err));
    int64_t n = t->src_rows * (t->transpose_view ? t->rows : t->cols) * MAX(t->n_stack, 1);
    if (used[st - c->tensors] == 1) w->n_params += n;
    used[st - c->tensors] = 2; /* counted */
    ret->st = st;
    ret->dt = ret->to = ret->src->dt;
    ret->row_bytes = row_source_bytes(ret->src);
    quant_spec *spec = &ret->src->spec;
    if (w->how.math == DT_F32 && act_round_is_fp8(spec->act)) spec->act = ACT_ROUND_NONE;
    if (spec->act == ACT_ROUND_NONE) spec->act_scale = 0; /* does not keep parts apart */
    ret->spec = *spec;
    if (!dtype_is_quant(ret->dt)) ret->to = DT_COUNT;
    *ret_is = true;
    return OK;
}

static status bind_stored(weights *w, checkpoint *c, const arch_tensor *t, weight_bind *ret,
                          uint8_t *used, error *err) {
    bool is_module;
    TRY(bind_module(w, c, t, ret, used, &is_module, err));
    if (is_module) return OK;
    const st_tensor *s = checkpoint_find(c, t->name);
    const char *instead = s ? NULL : quant_module_instead(c, t->name);
    if (instead)
        return error_set(err, ERR_FORMAT, "%s: tensor \"%s\" is missing; \"%s\" is there, but %s",
                         c->files[0], t->name, instead,
                         c->quant ? "the quantization_config is of another method"
                                  : "no quantization_config says how it is stored");
    if (!s)
        return error_set(err, ERR_FORMAT, "%s: tensor \"%s\" is missing (family %s)", c->files[0],
                         t->name, w->a->family);
    TRY(check_shape(c, t, s, err));
    *ret = (weight_bind){.st = s, .dt = s->dt, .to = dtype_is_quant(s->dt) ? s->dt : DT_COUNT};
    ret->row_bytes = dtype_row_bytes(s->dt, MAX(t->cols, 1));
    if (!used[s - c->tensors])
        for (int64_t n = 1, i = 0; i <= s->n_dims; i++) {
            if (i == s->n_dims) w->n_params += n;
            if (i < s->n_dims) n *= s->dims[i];
        }
    used[s - c->tensors] = 1;
    bool unpack = dtype_is_quant(s->dt) && t->xform != XFORM_NONE;
    if (!t->transpose && !t->transpose_view && !unpack) return OK;
    TRY(row_source_floats(c, s, t, &ret->src, err));
    ret->dt = ret->src->dt;
    ret->to = DT_COUNT;
    ret->row_bytes = row_source_bytes(ret->src);
    return OK;
}

static status bind_tensor(weights *w, checkpoint *c, const arch_tensor *t, weight_bind *ret,
                          uint8_t *used, error *err) {
    TRY(bind_stored(w, c, t, ret, used, err));
    if (w->quantize == QUANTIZE_NONE || slot_infos[t->slot].kind != SLOT_MATRIX || !t->cols)
        return OK;
    if (ret->to != DT_COUNT)
        return error_set(err, ERR_INVALID,
                         "quantize: %s: tensor \"%s\" is quantised already (%s): only checkpoints "
                         "of f32, f16 or bf16 can be quantised",
                         c->files[ret->st->file], t->name, dtype_name(ret->to));
    quantize_choose(w->quantize, t->slot, &ret->to, &ret->spec);
    return OK;
}

static bool is_ignored(const arch *a, const char *name) {
    for (int32_t i = 0; i < a->n_ignore; i++)
        if (fnmatch(a->ignore[i], name, 0) == 0) return true;
    return false;
}

static status check_unused(const arch *a, checkpoint *c, const uint8_t *used, error *err) {
    for (int32_t i = 0; i < c->n_tensors; i++) {
        const st_tensor *s = &c->tensors[i];
        if (used[i] || is_ignored(a, s->name) || quant_module_spare(c, s)) continue;
        char shape[128];
        st_tensor_describe(s, shape, sizeof shape);
        return error_set(err, ERR_FORMAT,
                         "%s: tensor \"%s\" %s has no place in a model of family %s",
                         c->files[s->file], s->name, shape, a->family);
    }
    return OK;
}

static status bind_all(weights *w, checkpoint *c, error *err) {
    uint8_t *used = mem_calloc((size_t)c->n_tensors + 1, 1);
    status st = OK;
    w->bind = mem_calloc((size_t)w->a->n_tensors + 1, sizeof *w->bind);
    for (int32_t i = 0; i < w->a->n_tensors && st == OK; i++)
        st = bind_tensor(w, c, &w->a->tensors[i], &w->bind[i], used, err);
    if (st == OK) st = check_unused(w->a, c, used, err);
    mem_free(used);
    return st;
}

/* Items and parts */

static size_t slot_index(const weights *w, const arch_tensor *t) {
    int32_t row = t->layer < 0 ? w->a->n_layers : t->layer;
    return (size_t)row * W_SLOT_COUNT + t->slot;
}

static weight *weight_of(const weights *w, const arch_tensor *t) {
    return &w->list[w->first[slot_index(w, t)] + t->item];
}

/* The list of items, in the order of the slots: what is of no layer and comes before the layers,
 * the layers, the rest. */
static void list_items(weights *w) {
    const arch *a = w->a;
    size_t n = (size_t)(a->n_layers + 1) * W_SLOT_COUNT;
    int32_t *count = mem_calloc(n, sizeof *count);
    w->first = mem_alloc(n * sizeof *w->first);
    for (size_t i = 0; i < n; i++) w->first[i] = -1;
    for (int32_t i = 0; i < a->n_tensors; i++) {
        int32_t *c = &count[slot_index(w, &a->tensors[i])];
        *c = MAX(*c, a->tensors[i].item + 1);
    }
    size_t globals = (size_t)a->n_layers * W_SLOT_COUNT;
    for (int pass = 0; pass < 3; pass++) {
        size_t from = pass == 1 ? 0 : globals + (pass == 2 ? W_ATTN_NORM : 0);
        size_t to = pass == 1 ? globals : pass == 0 ? globals + W_ATTN_NORM : n;
        for (size_t i = from; i < to; i++) {
            if (!count[i]) continue;
            w->first[i] = w->n_list;
            w->n_list += count[i];
        }
    }
    w->list = mem_calloc((size_t)w->n_list + 1, sizeof *w->list);
    mem_free(count);
}

/* The storage type of floats that share a part: what was asked for, else the widest found. */
static dtype storage_type(dtype have, dtype found, dtype want) {
    if (want != DT_COUNT) return want;
    if (have == DT_COUNT || have == found) return found;
    return DT_F32;
}

/* A source may widen what is stored as a narrower float. */
static dtype stored_as(const weight_bind *b) {
    return b->src && dtype_is_float(b->st->dt) ? b->st->dt : b->dt;
}

static bool same_spec(const quant_spec *a, const quant_spec *b) {
    return a->group == b->group && a->scale_dt == b->scale_dt && a->has_zeros == b->has_zeros &&
           a->zero == b->zero && a->scale_mul == b->scale_mul && a->act == b->act &&
           a->act_zero == b->act_zero && a->act_scale == b->act_scale;
}

/* May the rows of both be in one matrix? */
static bool same_part(const weight_bind *a, const weight_bind *b) {
    if (a->to != b->to) return false;
    if (a->to == DT_COUNT || dtype_kind_of(a->to) == DTYPE_GGUF) return true;
    bool own = (a->src && (a->src->order || a->src->table)) ||
               (b->src && (b->src->order || b->src->table));
    return !own && same_spec(&a->spec, &b->spec);
}

/* Rows of the parts of one item. Tensors of an item follow each other in the arch's list, by rows;
 * `last` is the one before, NULL for the first. */
static void size_item(weight *p, const arch_tensor *t, const weight_bind *last, weight_bind *b,
                      dtype want, bool is_matrix) {
    bool joins = last && same_part(last, b);
    if (is_matrix && !joins) p->n_parts++;
    if (!is_matrix || !joins) p->dt = DT_COUNT;
    b->part = MAX(p->n_parts - 1, 0);
    b->part_row0 = t->row0; /* of the item; cut_parts subtracts what is above */
    p->rows = MAX(p->rows, t->row0 + t->rows);
    p->cols = t->cols;
    p->dt = b->to != DT_COUNT ? b->to : storage_type(p->dt, stored_as(b), want);
}

static bool cuts_groups(const weights *w, const arch_tensor *t) {
    int32_t group = w->b->v->pack_rows;
    return t->cols && (t->row0 % group || (t->view.run < t->rows && t->view.run % group));
}

static void size_items(weights *w, dtype want) {
    const arch *a = w->a;
    const weight_bind **last = mem_calloc((size_t)w->n_list + 1, sizeof(weight_bind *));
    for (int32_t i = 0; i < w->n_list; i++) w->list[i].dt = DT_COUNT;
    for (int32_t i = 0; i < a->n_tensors; i++) {
        const arch_tensor *t = &a->tensors[i];
        weight *p = weight_of(w, t);
        bool is_matrix = t->cols && slot_infos[t->slot].kind == SLOT_MATRIX;
        size_item(p, t, last[p - w->list], &w->bind[i], want, is_matrix);
        last[p - w->list] = &w->bind[i];
        p->shares_groups |= cuts_groups(w, t);
    }
    mem_free(last);
    /* A bias covers all rows of its matrix, be it stored for some of them only. */
    for (int32_t i = 0; i < a->n_tensors; i++) {
        arch_tensor t = a->tensors[i];
        const weight *p = weight_of(w, &t);
        if (!p->n_parts || t.slot + 1 >= W_SLOT_COUNT) continue;
        t.slot = (weight_slot)(t.slot + 1);
        int32_t first = w->first[slot_index(w, &t)];
        if (first < 0 || slot_infos[t.slot].kind != SLOT_VECTOR) continue;
        weight *bias = &w->list[first + t.item];
        bias->rows = MAX(bias->rows, p->rows);
    }
}

static void choose_acts(const weights *w, wmat *m) {
    const backend_vtbl *v = w->b->v;
    if (!w->how.codes || !v->native_act || !dtype_is_quant(m->dt) || m->q.act) return;
    act_rounding a = v->native_act(w->b, m->dt, &m->q, m->k);
    m->q.act = a.act;
    m->q.act_group = a.act_group;
}

/* Every tensor's part: its rows and type. */
static void cut_parts(weights *w, dtype want) {
    const arch *a = w->a;
    int32_t at = 0;
    for (int32_t i = 0; i < w->n_list; i++) w->n_mats += w->list[i].n_parts;
    w->mats = mem_calloc((size_t)w->n_mats + 1, sizeof *w->mats);
    for (int32_t i = 0; i < w->n_list; i++) {
        w->list[i].m = &w->mats[at];
        at += w->list[i].n_parts;
    }
    for (int32_t i = 0; i < w->n_mats; i++) w->mats[i].dt = DT_COUNT;
    for (int32_t i = 0; i < a->n_tensors; i++) {
        const arch_tensor *t = &a->tensors[i];
        weight *p = weight_of(w, t);
        weight_bind *b = &w->bind[i];
        if (!p->n_parts) continue;
        wmat *m = &p->m[b->part];
        for (int32_t k = 0; k < b->part; k++) b->part_row0 -= p->m[k].n;
        m->n = MAX(m->n, b->part_row0 + t->rows);
        m->k = t->cols;
        m->dt = b->to != DT_COUNT ? b->to : storage_type(m->dt, stored_as(b), want);
        m->q = b->spec;
        if (dtype_is_quant(m->dt)) m->q.math = w->how.math;
    }
    for (int32_t i = 0; i < w->n_mats; i++) choose_acts(w, &w->mats[i]);
    for (int32_t i = 0; i < w->n_list; i++)
        if (w->list[i].n_parts) w->list[i].dt = w->list[i].m->dt;
}

static size_t part_bytes(const weights *w, const wmat *m) {
    return dtype_is_quant(m->dt) ? w->b->v->quant_bytes(w->b, m->n, m->k, m->dt, &m->q)
                                 : w->b->v->wmat_bytes(w->b, m->n, m->k, m->dt);
}

static void place_item(weights *w, weight *p) {
    p->off = w->bytes;
    p->bytes = 0;
    if (p->packed) return;
    if (p->n_parts == 0 && p->cols)
        p->bytes = (size_t)p->rows * dtype_row_bytes(p->dt, p->cols);
    else if (p->n_parts == 0)
        p->bytes = (size_t)p->rows * sizeof(float);
    for (int32_t k = 0; k < p->n_parts; k++)
        p->bytes += ALIGN_UP(part_bytes(w, &p->m[k]), (size_t)PLACE_ALIGN);
    w->bytes += ALIGN_UP(p->bytes, (size_t)PLACE_ALIGN);
}

static dtype layer_type(const weights *w) {
    static const weight_slot slots[] = {W_QKV, W_KV_A, W_UP};
    for (size_t i = 0; i < ARRAY_LEN(slots); i++)
        if (weights_at(w, 0, slots[i])) return weights_at(w, 0, slots[i])->dt;
    return DT_F32;
}

/* The only tensor of a slot of no layer, whose rows are those of the file; NULL: it is not so. */
static const weight_bind *whole_tensor(const weights *w, weight_slot slot) {
    const weight_bind *found = NULL;
    for (int32_t i = 0; i < w->a->n_tensors; i++) {
        const arch_tensor *t = &w->a->tensors[i];
        if (t->slot != slot) continue;
        bool whole = t->view.start == 0 && t->view.run >= t->rows && t->xform == XFORM_NONE;
        if (found || !whole || w->bind[i].src) return NULL;
        found = &w->bind[i];
    }
    return found;
}

/* A tied head is the embedding: one place for both, where lookups can read it. */
static void share_table(weights *w) {
    weight *table = weights_at(w, -1, W_EMBED), *head = weights_at(w, -1, W_HEAD);
    if (!w->b->v->embed_packed || !table || !head || head->n_parts != 1) return;
    const weight_bind *a = whole_tensor(w, W_EMBED), *b = whole_tensor(w, W_HEAD);
    const wmat *m = head->m;
    if (!a || !b || a->st != b->st || !dtype_is_float(m->dt)) return;
    if (table->dt == m->dt && table->rows == m->n && table->cols == m->k) table->packed = m;
}

status weights_plan(const arch *a, checkpoint *c, backend *b, const weights_options *o,
                    weights *ret, error *err) {
    weights w = {.a = a, .b = b, .how = o->how, .quantize = o->quantize};
    status st = bind_all(&w, c, err);
    if (st == OK) {
        list_items(&w);
        size_items(&w, o->want);
        cut_parts(&w, o->want);
        if (!o->own_table) share_table(&w);
        for (int32_t i = 0; i < w.n_list; i++) place_item(&w, &w.list[i]);
        w.dt = layer_type(&w);
        if (o->quantize) w.errors = mem_calloc((size_t)a->n_tensors + 1, sizeof *w.errors);
        *ret = w;
    } else
        weights_done(&w);
    return st;
}

static void describe_item(weights *w, weight *p) {
    char *at = (char *)w->block + p->off;
    if (p->packed) return;
    if (p->n_parts == 0 && p->cols)
        p->table = at;
    else if (p->n_parts == 0)
        p->vec = (float *)at;
    for (int32_t k = 0; k < p->n_parts; k++) {
        wmat *m = &p->m[k];
        quant_spec spec = m->q;
        if (dtype_is_quant(m->dt))
            w->b->v->quant_init(w->b, m, m->n, m->k, m->dt, &spec, at);
        else
            w->b->v->wmat_init(w->b, m, m->n, m->k, m->dt, at);
        at += ALIGN_UP(part_bytes(w, m), (size_t)PLACE_ALIGN);
    }
}

status weights_alloc(weights *w, error *err) {
    TRY(w->b->v->mem_alloc(w->b, w->bytes, &w->block, err));
    w->vecs = mem_calloc((size_t)w->n_list + 1, sizeof *w->vecs);
    for (int32_t i = 0; i < w->n_list; i++) {
        describe_item(w, &w->list[i]);
        w->vecs[i] = w->list[i].vec;
    }
    return OK;
}

void weights_done(weights *w) {
    if (w->block) w->b->v->mem_free(w->b, w->block, w->bytes);
    for (int32_t i = 0; w->bind && i < w->a->n_tensors; i++) row_source_free(w->bind[i].src);
    mem_free(w->bind);
    mem_free(w->errors);
    mem_free(w->vecs);
    mem_free(w->mats);
    mem_free(w->first);
    mem_free(w->list);
    *w = (weights){0};
}
