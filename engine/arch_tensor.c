/* References to tensors and where they go.
 *
 * A pack is one tensor that holds several projections: its rows are seen as an array of the given
 * dimensions, and a part is an interval of one axis. In rows of the tensor that is a run of
 * (hi - lo) * inner rows repeated every dims[axis] * inner rows: a row_view. The same view serves
 * the pack's bias, and adapters and quantised columns later. */
#include <stdio.h>

#include "engine/arch_build.h"
#include "engine/base/mem.h"

#define PACK_DIMS_MAX 6

const slot_info slot_infos[W_SLOT_COUNT] = {
#define SLOT(slot, text, of_layer, kind) [slot] = {text, of_layer, kind},
#include "engine/slots.def"
#undef SLOT
};

/* One reference resolved: a fresh name, and its rows. */
typedef struct source {
    char *name;
    const json_t *pack; /* NULL: a tensor of its own */
    int64_t src_rows;   /* with a pack */
    row_view view;
    bool stacked, transpose;
    bool own_item; /* the pack's tensor is the item's own: its name has {e} */
} source;

void arch_push_tensor(arch_builder *b, arch_tensor t) {
    arch *a = b->a;
    if (a->n_tensors == b->n_cap) {
        b->n_cap = MAX(64, 2 * b->n_cap);
        a->tensors = mem_realloc(a->tensors, (size_t)b->n_cap * sizeof *a->tensors);
    }
    a->tensors[a->n_tensors++] = t;
}

static status pack_number(arch_builder *b, const json_t *node, const char *path, int64_t *ret,
                          error *err) {
    value v;
    TRY(arch_node_value(&b->e, node, path, (value){0}, &v, err));
    if (v.kind != VAL_NUM || v.num != (double)(int64_t)v.num || v.num < 0 || v.num > 1e9)
        return error_set(err, ERR_FORMAT, "%s: %s must be a whole number >= 0", b->e.f->file, path);
    *ret = (int64_t)v.num;
    return OK;
}

static status read_part(arch_builder *b, const json_t *pack, const json_t *part, const char *path,
                        source *s, error *err) {
    const json_t *rows = js_get(pack, "rows");
    size_t n = json_array_size(rows);
    int64_t dims[PACK_DIMS_MAX], axis = 0, lo = 0, hi = 0, inner = 1, all = 1;
    if (n < 1 || n > PACK_DIMS_MAX || json_array_size(part) != 2)
        return error_set(err, ERR_FORMAT, "%s: %s: rows must have 1 to %d entries, a part two",
                         b->e.f->file, path, PACK_DIMS_MAX);
    TRY(pack_number(b, js_get(pack, "axis"), path, &axis, err));
    TRY(pack_number(b, json_array_get(part, 0), path, &lo, err));
    TRY(pack_number(b, json_array_get(part, 1), path, &hi, err));
    for (size_t k = 0; k < n; k++) {
        TRY(pack_number(b, json_array_get(rows, k), path, &dims[k], err));
        if (dims[k] < 1 || dims[k] > INT32_MAX || all > INT32_MAX / dims[k])
            return error_set(err, ERR_FORMAT, "%s: %s: rows are out of range", b->e.f->file, path);
        all *= dims[k];
        if ((int64_t)k > axis) inner *= dims[k];
    }
    if (axis >= (int64_t)n || lo >= hi || hi > dims[axis])
        return error_set(err, ERR_FORMAT, "%s: %s: part [%lld, %lld) is not in its axis",
                         b->e.f->file, path, (long long)lo, (long long)hi);
    s->src_rows = all;
    s->view = (row_view){lo * inner, (hi - lo) * inner, dims[axis] * inner};
    return OK;
}

/* "@pack.part" */
static status read_pack(arch_builder *b, str ref, const char *path, source *s, error *err) {
    char where[128];
    size_t dot = 1;
    while (dot < ref.n && ref.p[dot] != '.') dot++;
    s->pack = json_object_getn(js_get(b->e.f->root, "packs"), ref.p + 1, dot - 1);
    const json_t *part =
        dot < ref.n ? json_object_getn(js_get(s->pack, "parts"), ref.p + dot + 1, ref.n - dot - 1)
                    : NULL;
    if (!s->pack || !part)
        return error_set(err, ERR_FORMAT, "%s: %s: no such pack and part: " STR_FMT, b->e.f->file,
                         path, STR_ARG(ref));
    snprintf(where, sizeof where, "%s: packs: " STR_FMT, path, STR_ARG(ref));
    TRY(read_part(b, s->pack, part, where, s, err));
    TRY(arch_flag(b, js_get(s->pack, "stack"), where, false, &s->stacked, err));
    TRY(arch_flag(b, js_get(s->pack, "transpose"), where, false, &s->transpose, err));
    str pattern = js_get_str(s->pack, "tensor");
    s->own_item = s->stacked || str_find(pattern, STR("{e}"), 0) >= 0;
    return arch_tensor_name(&b->e, js_get(s->pack, "tensor"), where, &s->name, err);
}

/* s->name stays NULL when the reference is absent. */
static status read_source(arch_builder *b, const json_t *ref, const char *path, source *s,
                          error *err) {
    *s = (source){0};
    TRY(arch_tensor_name(&b->e, ref, path, &s->name, err));
    if (s->name && s->name[0] == '@') {
        char *packed = s->name;
        s->name = NULL;
        status st = read_pack(b, str_z(packed), path, s, err);
        mem_free(packed);
        TRY(st);
    }
    if (s->name && !s->transpose) s->transpose = arch_is_transposed(&b->e, s->name);
    return OK;
}

/* Rows [r0, r0+n) of a view, which lie in one run. */
static row_view sub_view(row_view v, int64_t r0, int64_t n) {
    return (row_view){v.start + r0 / v.run * v.stride + r0 % v.run, n, n};
}

static int64_t view_rows(const source *s) {
    return s->src_rows / s->view.stride * s->view.run;
}

/* The part must have the rows that its place asks for. */
static status check_rows(arch_builder *b, const source *s, const arch_place *at, const char *path,
                         error *err) {
    int64_t want = at->transpose_items && !s->stacked ? at->cols : at->rows;
    if (at->n_items > 0 && !s->own_item) want *= at->n_items;
    if (view_rows(s) == want) return OK;
    return error_set(err, ERR_FORMAT, "%s: %s: the pack's part has %lld rows, expected %lld",
                     b->e.f->file, path, (long long)view_rows(s), (long long)want);
}

static arch_tensor place_tensor(arch_builder *b, const source *s, const arch_place *at) {
    arch_tensor t = {.name = mem_strdup(s->name),
                     .slot = at->slot,
                     .layer = b->e.layer,
                     .item = at->item,
                     .row0 = at->row0,
                     .rows = at->rows,
                     .cols = at->cols,
                     .src_rows = at->rows,
                     .view = {0, at->rows, at->rows},
                     .transpose = s->transpose && at->cols > 0,
                     .xform = at->xform};
    if (s->pack) {
        t.src_rows = s->src_rows;
        t.view = s->view;
    }
    if (s->stacked) {
        t.n_stack = at->n_items;
        t.stack = at->item;
    } else if (s->pack && at->n_items > 0 && !s->own_item) {
        int64_t n = at->transpose_items ? at->cols : at->rows;
        t.view = sub_view(s->view, at->item * n, n);
        t.transpose_view = at->transpose_items;
    }
    return t;
}

status arch_check_items(arch_builder *b, int32_t n, const char *what, error *err) {
    if ((int64_t)n * b->a->n_layers <= ARCH_ITEMS_MAX) return OK;
    return error_set(err, ERR_FORMAT, "%s: %d %s in %d layers are over %d in all", b->e.config_path,
                     n, what, b->a->n_layers, ARCH_ITEMS_MAX);
}

status arch_add_tensor(arch_builder *b, const json_t *ref, const char *path, arch_place at,
                       bool *ret_has, error *err) {
    source s;
    status st = read_source(b, ref, path, &s, err);
    if (ret_has) *ret_has = st == OK && s.name;
    if (st == OK && !s.name && !ret_has)
        st = error_set(err, ERR_FORMAT, "%s: %s is missing", b->e.f->file, path);
    if (st == OK && s.pack) st = check_rows(b, &s, &at, path, err);
    if (st == OK && s.name) arch_push_tensor(b, place_tensor(b, &s, &at));
    mem_free(s.name);
    return st;
}

/* "x.weight" -> "x.bias", "x.gamma" -> "x.beta"; a pack may name its own. */
static status bias_name(arch_builder *b, const json_t *ref, const char *weight, char **ret,
                        error *err) {
    str r = js_str(ref);
    if (r.n && r.p[0] == '@') {
        size_t dot = 1;
        while (dot < r.n && r.p[dot] != '.') dot++;
        const json_t *pack = json_object_getn(js_get(b->e.f->root, "packs"), r.p + 1, dot - 1);
        TRY(arch_tensor_name(&b->e, js_get(pack, "bias"), "packs.*.bias", ret, err));
        if (*ret) return OK;
    }
    str s = str_z(weight);
    bool greek = str_ends(s, STR(".gamma"));
    if (greek) s.n -= strlen(".gamma");
    if (str_ends(s, STR(".weight"))) s.n -= strlen(".weight");
    strbuf out = {0};
    strbuf_addf(&out, STR_FMT "%s", STR_ARG(s), greek ? ".beta" : ".bias");
    *ret = strbuf_take(&out);
    return OK;
}

status arch_add_bias(arch_builder *b, const json_t *rule, const char *part, const char *path,
                     const json_t *ref, error *err) {
    if (json_is_object(rule)) rule = js_get(rule, part);
    arch_tensor t = b->a->tensors[b->a->n_tensors - 1];
    value v = value_bool(false);
    char *name;
    TRY(bias_name(b, ref, t.name, &name, err));
    status st = OK;
    if (str_eqz(js_str(rule), "auto"))
        v = value_bool(b->e.names.has(b->e.names.ctx, name));
    else
        st = arch_node_value(&b->e, rule, path, v, &v, err);
    if (st != OK || !value_true(v)) {
        mem_free(name);
        return st;
    }
    t.name = name;
    t.slot = (weight_slot)(t.slot + 1);
    t.cols = 0;
    t.transpose = t.transpose_view = false;
    t.xform = XFORM_NONE;
    arch_push_tensor(b, t);
    return OK;
}

status arch_add_norm(arch_builder *b, const json_t *ref, const char *path, weight_slot slot,
                     int32_t width, bool *ret_has, error *err) {
    static const char *const kinds[] = {"rms", "rms_plus1", "layer", "layer_nobias",
                                        "layer_noparam"};
    int kind;
    TRY(arch_choice(b, arch_node(&b->e, "norm.kind"), "norm.kind", "rms", kinds, ARRAY_LEN(kinds),
                    &kind, err));
    if (kind == 4) {
        *ret_has = true;
        if (!ref || json_is_false(ref)) *ret_has = false;
        return OK;
    }
    arch_place at = {.slot = slot, .rows = width, .xform = kind == 1 ? XFORM_PLUS_ONE : XFORM_NONE};
    TRY(arch_add_tensor(b, ref, path, at, ret_has, err));
    if (!*ret_has || kind != 2) return OK;
    return arch_add_bias(b, json_true(), NULL, path, ref, err);
}

int32_t arch_tensor_dims(const arch_tensor *t, int64_t ret[3]) {
    int32_t n = 0;
    if (t->n_stack) ret[n++] = t->n_stack;
    if (t->transpose) ret[n++] = t->cols;
    ret[n++] = t->src_rows;
    if (t->cols && !t->transpose) ret[n++] = t->transpose_view ? t->rows : t->cols;
    return n;
}

bool arch_assumed_tensor(void *ctx, const char *name) {
    (void)ctx;
    return !str_ends(str_z(name), STR(".bias"));
}

int64_t arch_n_params(const arch *a) {
    int64_t n = 0;
    for (int32_t i = 0; i < a->n_tensors; i++) {
        const arch_tensor *t = &a->tensors[i];
        if (t->slot == W_HEAD && a->tied) continue;
        n += t->slot == W_TYPE_EMBED ? t->src_rows : (int64_t)t->rows * MAX(t->cols, 1);
    }
    return n;
}
