/* The globals that a dict of tensors needs, and no more. Names and argument lists are those of
 * torch/_utils.py. */
#include "engine/pth_object.h"

#include <string.h>

#include "engine/base/mem.h"

static const pth_type types[] = {
    {"FloatStorage", "float32", "F32", DT_F32, 4},
    {"HalfStorage", "float16", "F16", DT_F16, 2},
    {"BFloat16Storage", "bfloat16", "BF16", DT_BF16, 2},
    {"DoubleStorage", "float64", "F64", DT_COUNT, 8},
    {"ByteStorage", "uint8", "U8", DT_U8, 1},
    {"CharStorage", "int8", "I8", DT_I8, 1},
    {"ShortStorage", "int16", "I16", DT_COUNT, 2},
    {"IntStorage", "int32", "I32", DT_I32, 4},
    {"LongStorage", "int64", "I64", DT_I64, 8},
    {"BoolStorage", "bool", "BOOL", DT_COUNT, 1},
    {"UntypedStorage", "", "U8", DT_U8, 1},
    {"", "float8_e4m3fn", "F8_E4M3", DT_F8_E4M3, 1},
    {"", "float8_e5m2", "F8_E5M2", DT_F8_E5M2, 1},
    {"", "uint16", "U16", DT_COUNT, 2},
    {"", "uint32", "U32", DT_COUNT, 4},
    {"", "uint64", "U64", DT_COUNT, 8},
};

enum {
    CALL_ORDERED_DICT,
    CALL_TENSOR,    /* storage, first, size, stride, ... */
    CALL_TENSOR_V3, /* storage, first, size, stride, requires_grad, hooks, dtype, ... */
    CALL_PARAMETER, /* the tensor, ... */
    CALL_SIZE,      /* a tuple */
    CALL_DEVICE,
    FIRST_STORAGE = 32, /* and the index of its type */
    FIRST_DTYPE = 64,
};

static const struct {
    const char *module, *name;
    int call;
} functions[] = {
    {"collections", "OrderedDict", CALL_ORDERED_DICT},
    {"torch._utils", "_rebuild_tensor", CALL_TENSOR},
    {"torch._utils", "_rebuild_tensor_v2", CALL_TENSOR},
    {"torch._utils", "_rebuild_tensor_v3", CALL_TENSOR_V3},
    {"torch._utils", "_rebuild_parameter", CALL_PARAMETER},
    {"torch._utils", "_rebuild_parameter_with_state", CALL_PARAMETER},
    {"torch", "Size", CALL_SIZE},
    {"torch", "device", CALL_DEVICE},
};

static int find_global(str module, str name) {
    for (size_t i = 0; i < ARRAY_LEN(functions); i++)
        if (str_eqz(module, functions[i].module) && str_eqz(name, functions[i].name))
            return functions[i].call;
    if (!name.n || (!str_eqz(module, "torch") && !str_eqz(module, "torch.storage"))) return -1;
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        if (str_eqz(name, types[i].storage)) return FIRST_STORAGE + (int)i;
        if (str_eqz(name, types[i].dtype_name)) return FIRST_DTYPE + (int)i;
    }
    return -1;
}

static status bad(const pickle *k, const char *what, error *err) {
    return error_set(err, ERR_FORMAT, "%s: pickle: %s", k->path, what);
}

static status full(const pickle *k, error *err) {
    return error_set(err, ERR_TOO_LARGE, "%s: pickle: it holds too many values", k->path);
}

static const pickle_value *arg(const pickle_value *tuple, uint32_t i, pickle_kind kind) {
    if (tuple->kind != PICKLE_TUPLE || i >= tuple->n) return NULL;
    return tuple->items[i]->kind == kind ? tuple->items[i] : NULL;
}

static const pth_type *type_of(const pickle_value *global, int first) {
    int64_t i = global ? global->i - first : -1;
    return i >= 0 && i < (int64_t)ARRAY_LEN(types) ? &types[i] : NULL;
}

/* ("storage", class, key, location, numel[, view]): the same key is the same storage. */
static status make_storage(pickle *k, const pickle_value *id, pickle_value **ret, error *err) {
    pth_objects *o = k->rules->ctx;
    const pickle_value *tag = arg(id, 0, PICKLE_TEXT), *key = arg(id, 2, PICKLE_TEXT);
    const pickle_value *numel = arg(id, 4, PICKLE_INT);
    const pth_type *type = type_of(arg(id, 1, PICKLE_GLOBAL), FIRST_STORAGE);
    if (!tag || !str_eqz(tag->text, "storage") || !type || !key || !numel || numel->i < 0)
        return bad(k, "a persistent id that is no storage", err);
    if (id->n > 5 && !arg(id, 5, PICKLE_NONE))
        return error_set(err, ERR_UNSUPPORTED, "%s: pickle: views of storages are not supported",
                         k->path);
    pickle_value *v = pickle_new(k, PICKLE_OBJECT);
    uint64_t at;
    if (!v) return full(k, err);
    if (map_get(&o->by_key, key->text, &at)) {
        const pth_storage *s = v->object = o->storages.p[at];
        if (s->type != type || s->numel != numel->i)
            return bad(k, "one storage with two types or lengths", err);
    } else {
        pth_storage *s = v->object = arena_alloc(k->mem, sizeof *s);
        if (!s) return full(k, err);
        *s = (pth_storage){.key = key->text, .type = type, .numel = numel->i};
        map_put(&o->by_key, s->key, o->storages.n);
        vec_push(&o->storages, s);
    }
    v->n = 1; /* a storage; tensors have 0 */
    *ret = v;
    return OK;
}

static bool read_numbers(const pickle_value *tuple, int64_t *ret, int32_t *ret_n) {
    if (!tuple || tuple->n > LIMIT_TENSOR_DIMS) return false;
    for (uint32_t i = 0; i < tuple->n; i++) {
        const pickle_value *x = arg(tuple, i, PICKLE_INT);
        if (!x || x->i < 0) return false;
        ret[i] = x->i;
    }
    *ret_n = (int32_t)tuple->n;
    return true;
}

static status make_tensor(pickle *k, bool v3, const pickle_value *args, pickle_value **ret,
                          error *err) {
    const pickle_value *storage = arg(args, 0, PICKLE_OBJECT), *first = arg(args, 1, PICKLE_INT);
    pickle_value *v = pickle_new(k, PICKLE_OBJECT);
    pth_tensor *t = arena_alloc(k->mem, sizeof *t);
    int32_t n_strides = 0;
    if (!v || !t) return full(k, err);
    if (!storage || storage->n != 1 || !first || first->i < 0 ||
        !read_numbers(arg(args, 2, PICKLE_TUPLE), t->dims, &t->n_dims) ||
        !read_numbers(arg(args, 3, PICKLE_TUPLE), t->strides, &n_strides) || n_strides != t->n_dims)
        return bad(k, "a tensor whose storage, shape or strides are none", err);
    t->storage = storage->object;
    t->type = v3 ? type_of(arg(args, 6, PICKLE_GLOBAL), FIRST_DTYPE) : t->storage->type;
    t->first = first->i;
    if (!t->type) return bad(k, "a tensor whose type is none", err);
    v->object = t;
    *ret = v;
    return OK;
}

/* Empty, or of a list of pairs (Python 2). */
static status make_dict(pickle *k, const pickle_value *args, pickle_value **ret, error *err) {
    pickle_value *v = pickle_new(k, PICKLE_DICT);
    const pickle_value *list = args->n ? args->items[0] : NULL;
    if (!v) return full(k, err);
    *ret = v;
    if (!list) return OK;
    if (list->kind != PICKLE_LIST) return bad(k, "an OrderedDict of what is no list", err);
    v->items = arena_array(k->mem, (size_t)list->n * 2 + 1, sizeof *v->items);
    if (!v->items) return full(k, err);
    for (uint32_t i = 0; i < list->n; i++) {
        const pickle_value *pair = list->items[i];
        if ((pair->kind != PICKLE_LIST && pair->kind != PICKLE_TUPLE) || pair->n != 2)
            return bad(k, "an OrderedDict of what are no pairs", err);
        v->items[v->n++] = pair->items[0];
        v->items[v->n++] = pair->items[1];
    }
    v->cap = v->n;
    return OK;
}

static status call(pickle *k, int g, const pickle_value *args, pickle_value **ret, error *err) {
    switch (g) {
    case CALL_ORDERED_DICT: return make_dict(k, args, ret, err);
    case CALL_TENSOR: return make_tensor(k, false, args, ret, err);
    case CALL_TENSOR_V3: return make_tensor(k, true, args, ret, err);
    case CALL_PARAMETER:
    case CALL_SIZE:
        if (args->n < 1) return bad(k, "a call without arguments", err);
        *ret = args->items[0];
        return OK;
    case CALL_DEVICE: *ret = pickle_new(k, PICKLE_NONE); return *ret ? OK : full(k, err);
    default: return bad(k, "a call of a type", err);
    }
}

pickle_rules pth_rules(pth_objects *o) {
    return (pickle_rules){find_global, call, make_storage, o};
}

void pth_objects_done(pth_objects *o) {
    vec_done(&o->storages);
    map_done(&o->by_key);
}

const pth_tensor *pth_tensor_of(const pickle_value *v) {
    return v->kind == PICKLE_OBJECT && v->n == 0 ? v->object : NULL;
}
