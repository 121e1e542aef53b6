/* One pass over the header with a cursor that never passes the end: a read that would is an error
 * with the name of what was being read. Counts are compared with the bytes left before anything of
 * their size is allocated or looped over, so a damaged count costs nothing.
 *
 * Values stay where they are in the mapping (unaligned: read by memcpy). Arrays of strings are
 * walked once to check them; later walks need no checks. */
#include "engine/base/gguf.h"

#include <stdlib.h>
#include <string.h>

#include "conf/limits.h"
#include "engine/base/mem.h"

#define ALIGNMENT_MAX ((uint64_t)1 << 20)

/* Names of the file in error texts: for %.*s. */
#define NAME(s) (int)MIN((s).n, (size_t)80), (s).p ? (s).p : ""

static const gguf_type types[] = {
    {0, "F32", 1, 4},         {1, "F16", 1, 2},         {2, "Q4_0", 32, 18},
    {3, "Q4_1", 32, 20},      {4, "Q4_2", 32, 0},       {5, "Q4_3", 32, 0},
    {6, "Q5_0", 32, 22},      {7, "Q5_1", 32, 24},      {8, "Q8_0", 32, 34},
    {9, "Q8_1", 32, 36},      {10, "Q2_K", 256, 84},    {11, "Q3_K", 256, 110},
    {12, "Q4_K", 256, 144},   {13, "Q5_K", 256, 176},   {14, "Q6_K", 256, 210},
    {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 0, 0},    {17, "IQ2_XS", 0, 0},
    {18, "IQ3_XXS", 0, 0},    {19, "IQ1_S", 0, 0},      {20, "IQ4_NL", 32, 18},
    {21, "IQ3_S", 0, 0},      {22, "IQ2_S", 0, 0},      {23, "IQ4_XS", 256, 136},
    {24, "I8", 1, 1},         {25, "I16", 1, 2},        {26, "I32", 1, 4},
    {27, "I64", 1, 8},        {28, "F64", 1, 8},        {29, "IQ1_M", 0, 0},
    {30, "BF16", 1, 2},       {31, "Q4_0_4_4", 0, 0},   {32, "Q4_0_4_8", 0, 0},
    {33, "Q4_0_8_8", 0, 0},   {34, "TQ1_0", 256, 54},   {35, "TQ2_0", 256, 66},
    {36, "IQ4_NL_4_4", 0, 0}, {37, "IQ4_NL_4_8", 0, 0}, {38, "IQ4_NL_8_8", 0, 0},
    {39, "MXFP4", 32, 17},    {40, "NVFP4", 64, 36},
};

const gguf_type *gguf_type_of(uint32_t id) {
    for (size_t i = 0; i < ARRAY_LEN(types); i++)
        if (types[i].id == id) return &types[i];
    return NULL;
}

static const uint8_t kind_bytes[GGUF_KINDS] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

/* [p, end): what is left of the file. */
typedef struct cursor {
    const uint8_t *p, *end, *start;
    const char *path;
    error *err;
} cursor;

static size_t left(const cursor *c) {
    return (size_t)(c->end - c->p);
}

static uint64_t load_le(const uint8_t *p, int bytes) {
    uint64_t x = 0;
    for (int i = bytes - 1; i >= 0; i--) x = x << 8 | p[i];
    return x;
}

static status truncated(cursor *c, const char *what, str name) {
    return error_set(c->err, ERR_FORMAT,
                     "%s: truncated: %s \"%.*s\" passes the end of the file (%zu bytes)", c->path,
                     what, NAME(name) ? name.p : "", (size_t)(c->end - c->start));
}

static status get_int(cursor *c, int bytes, uint64_t *ret, const char *what, str name) {
    if (left(c) < (size_t)bytes) return truncated(c, what, name);
    *ret = load_le(c->p, bytes);
    c->p += bytes;
    return OK;
}

static status get_str(cursor *c, str *ret, const char *what, str name) {
    uint64_t n = 0;
    TRY(get_int(c, 8, &n, what, name));
    if (n > left(c)) return truncated(c, what, name);
    *ret = str_n((const char *)c->p, (size_t)n);
    c->p += n;
    return OK;
}

/* The bytes of v, which begin at the cursor. */
static status skip_value(cursor *c, gguf_value *v) {
    v->p = c->p;
    if (v->kind != GGUF_STRING) {
        if (v->n > left(c) / kind_bytes[v->kind]) return truncated(c, "the value of key", v->key);
        c->p += v->n * kind_bytes[v->kind];
        return OK;
    }
    if (v->n > left(c) / 8) return truncated(c, "the value of key", v->key);
    for (uint64_t i = 0; i < v->n; i++) {
        str s;
        TRY(get_str(c, &s, "the value of key", v->key));
    }
    return OK;
}

static status read_value(cursor *c, gguf_value *v) {
    uint64_t kind = 0;
    v->n = 1;
    TRY(get_str(c, &v->key, "the key after", v->key));
    TRY(get_int(c, 4, &kind, "the value of key", v->key));
    if (kind == GGUF_ARRAY) {
        v->is_array = true;
        TRY(get_int(c, 4, &kind, "the value of key", v->key));
        TRY(get_int(c, 8, &v->n, "the value of key", v->key));
    }
    if (kind >= GGUF_KINDS || kind == GGUF_ARRAY)
        return error_set(c->err, ERR_FORMAT, "%s: key \"%.*s\": %s of type %llu", c->path,
                         NAME(v->key), v->is_array ? "an array whose elements are" : "a value",
                         (unsigned long long)kind);
    v->kind = (gguf_kind)kind;
    return skip_value(c, v);
}

/* Converters have written a number twice ("general.file_type"): no harm where both say the same. */
static bool same_number(const gguf_value *u, const gguf_value *v) {
    return !v->is_array && !u->is_array && v->kind != GGUF_STRING && v->kind == u->kind &&
           memcmp(v->p, u->p, kind_bytes[v->kind]) == 0;
}

static status read_values(cursor *c, gguf *g, uint64_t n) {
    str before = {0};
    if (n > left(c) / 13 || n > LIMIT_GGUF_KEYS) /* a length, a type, one byte */
        return error_set(c->err, ERR_FORMAT, "%s: %llu keys do not fit a file of %zu bytes",
                         c->path, (unsigned long long)n, (size_t)(c->end - c->start));
    g->values = mem_calloc((size_t)n + 1, sizeof *g->values);
    for (uint64_t i = 0; i < n; i++) {
        gguf_value *v = &g->values[i];
        v->key = before;
        TRY(read_value(c, v));
        before = v->key;
        g->n_values++;
        uint64_t first;
        if (!map_get(&g->by_key, v->key, &first))
            map_put(&g->by_key, v->key, i);
        else if (!same_number(&g->values[first], v))
            return error_set(c->err, ERR_FORMAT, "%s: key \"%.*s\" is there twice", c->path,
                             NAME(v->key));
    }
    return OK;
}

static status tensor_error(const cursor *c, const gguf_tensor *t, const char *what) {
    return error_set(c->err, ERR_FORMAT, "%s: tensor \"%.*s\": %s", c->path, NAME(t->name), what);
}

/* Bytes of the tensor: whole blocks along ne[0]. */
static status size_tensor(const cursor *c, gguf_tensor *t) {
    const gguf_type *type = gguf_type_of(t->type);
    size_t n = 1;
    if (!type)
        return error_set(c->err, ERR_UNSUPPORTED, "%s: tensor \"%.*s\": unknown type %u", c->path,
                         NAME(t->name), t->type);
    if (!type->bytes)
        return error_set(c->err, ERR_UNSUPPORTED, "%s: tensor \"%.*s\": type %s is not supported",
                         c->path, NAME(t->name), type->name);
    if (t->ne[0] % type->block)
        return error_set(c->err, ERR_FORMAT,
                         "%s: tensor \"%.*s\": rows of %lld elements are no whole blocks of %s "
                         "(%u elements)",
                         c->path, NAME(t->name), (long long)t->ne[0], type->name, type->block);
    for (int32_t i = 0; i < GGUF_DIMS; i++)
        if (!mul_ok(n, (size_t)(i ? t->ne[i] : t->ne[0] / type->block), &n))
            return tensor_error(c, t, "its dimensions overflow");
    if (!mul_ok(n, type->bytes, &n)) return tensor_error(c, t, "its dimensions overflow");
    t->bytes = n;
    return OK;
}

static status read_tensor(cursor *c, gguf *g, gguf_tensor *t) {
    static const char what[] = "the entry of tensor";
    uint64_t n_dims = 0, x = 0;
    TRY(get_str(c, &t->name, "the tensor's name after", t->name));
    TRY(get_int(c, 4, &n_dims, what, t->name));
    if (n_dims > GGUF_DIMS) return tensor_error(c, t, "more than 4 dimensions");
    t->n_dims = (int32_t)n_dims;
    for (int32_t i = 0; i < GGUF_DIMS; i++) {
        x = 1;
        if (i < t->n_dims) TRY(get_int(c, 8, &x, what, t->name));
        if (x > INT64_MAX) return tensor_error(c, t, "a negative dimension");
        t->ne[i] = (int64_t)x;
    }
    TRY(get_int(c, 4, &x, what, t->name));
    t->type = (uint32_t)x;
    TRY(get_int(c, 8, &t->off, what, t->name));
    if (t->off % g->alignment)
        return error_set(
            c->err, ERR_FORMAT, "%s: tensor \"%.*s\": offset %llu is not aligned to %llu", c->path,
            NAME(t->name), (unsigned long long)t->off, (unsigned long long)g->alignment);
    return size_tensor(c, t);
}

static status read_tensors(cursor *c, gguf *g, uint64_t n) {
    str before = {0};
    if (n > left(c) / 24 || n > LIMIT_TENSORS) /* a length, dimensions, type, offset */
        return error_set(c->err, ERR_FORMAT, "%s: %llu tensors do not fit a file of %zu bytes",
                         c->path, (unsigned long long)n, (size_t)(c->end - c->start));
    g->tensors = mem_calloc((size_t)n + 1, sizeof *g->tensors);
    for (uint64_t i = 0; i < n; i++) {
        gguf_tensor *t = &g->tensors[i];
        t->name = before;
        TRY(read_tensor(c, g, t));
        before = t->name;
        g->n_tensors++;
        if (!map_put(&g->by_name, t->name, i)) return tensor_error(c, t, "is there twice");
    }
    return OK;
}

static int by_offset(const void *a, const void *b) {
    const gguf_tensor *x = *(gguf_tensor *const *)a, *y = *(gguf_tensor *const *)b;
    if (x->off != y->off) return x->off < y->off ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* Offsets become those in the file; tensors must lie inside it and apart. Gaps are padding. */
static status place_tensors(cursor *c, gguf *g) {
    size_t at = ALIGN_UP((size_t)(c->p - c->start), (size_t)g->alignment);
    size_t end = (size_t)(c->end - c->start), data = end > at ? end - at : 0;
    gguf_tensor **order = mem_calloc(g->n_tensors + 1, sizeof *order);
    status st = OK;
    for (size_t i = 0; i < g->n_tensors && st == OK; i++) {
        gguf_tensor *t = order[i] = &g->tensors[i];
        if (t->off > data || t->bytes > data - t->off)
            st = error_set(c->err, ERR_FORMAT,
                           "%s: truncated: tensor \"%.*s\" takes %llu bytes at %llu of the data, "
                           "which has %zu",
                           c->path, NAME(t->name), (unsigned long long)t->bytes,
                           (unsigned long long)t->off, data);
        t->off += at;
    }
    if (st == OK) qsort(order, g->n_tensors, sizeof *order, by_offset);
    for (size_t i = 1; i < g->n_tensors && st == OK; i++)
        if (order[i]->off < order[i - 1]->off + order[i - 1]->bytes)
            st = error_set(c->err, ERR_FORMAT, "%s: tensor \"%.*s\" overlaps tensor \"%.*s\"",
                           c->path, NAME(order[i]->name), NAME(order[i - 1]->name));
    mem_free(order);
    return st;
}

static status read_alignment(cursor *c, gguf *g) {
    const gguf_value *v = gguf_find(g, "general.alignment");
    int64_t x = 32;
    if (v && (v->is_array || !gguf_i64(v, 0, &x) || x < 1 || x > (int64_t)ALIGNMENT_MAX ||
              (x & (x - 1))))
        return error_set(c->err, ERR_FORMAT,
                         "%s: key \"general.alignment\" is no power of two up to %llu", c->path,
                         (unsigned long long)ALIGNMENT_MAX);
    g->alignment = (uint64_t)x;
    return OK;
}

static status read_head(cursor *c, gguf *g) {
    uint64_t version = 0, n_tensors = 0, n_values = 0;
    TRY(file_check_pointer(c->path, c->p, left(c), c->err));
    if (left(c) >= 4 && memcmp(c->p, "GGUF", 4) != 0)
        return error_set(c->err, ERR_FORMAT,
                         "%s: not a GGUF file (it begins with %02x %02x %02x %02x)", c->path,
                         c->p[0], c->p[1], c->p[2], c->p[3]);
    if (left(c) < 4) return truncated(c, "the header", STR("GGUF"));
    c->p += 4;
    TRY(get_int(c, 4, &version, "the header", STR("version")));
    if (version != 2 && version != 3)
        return error_set(c->err, ERR_UNSUPPORTED,
                         "%s: GGUF version %llu%s is not supported (2 and 3 are)", c->path,
                         (unsigned long long)(version & 0xFFFF ? version : version >> 24),
                         version & 0xFFFF ? "" : ", big endian,");
    g->version = (uint32_t)version;
    TRY(get_int(c, 8, &n_tensors, "the header", STR("tensor count")));
    TRY(get_int(c, 8, &n_values, "the header", STR("key count")));
    TRY(read_values(c, g, n_values));
    TRY(read_alignment(c, g));
    TRY(read_tensors(c, g, n_tensors));
    return place_tensors(c, g);
}

status gguf_parse(const uint8_t *p, size_t n, const char *path, gguf *ret, error *err) {
    static const uint8_t none[1];
    if (!n) p = none;
    cursor c = {.p = p, .end = p + n, .start = p, .path = path, .err = err};
    gguf g = {.bytes = p};
    status st = read_head(&c, &g);
    if (st == OK)
        *ret = g;
    else
        gguf_close(&g);
    return st;
}

status gguf_open(const char *path, gguf *ret, error *err) {
    file_map m = {0};
    TRY(file_map_open(path, &m, err));
    status st = gguf_parse(m.p, m.n, path, ret, err);
    if (st == OK)
        ret->map = m;
    else
        file_map_close(&m);
    return st;
}

void gguf_close(gguf *g) {
    mem_free(g->values);
    mem_free(g->tensors);
    map_done(&g->by_key);
    map_done(&g->by_name);
    file_map_close(&g->map);
    *g = (gguf){0};
}

const gguf_value *gguf_find(const gguf *g, const char *key) {
    uint64_t at;
    return map_get(&g->by_key, str_z(key), &at) ? &g->values[at] : NULL;
}

const gguf_tensor *gguf_find_tensor(const gguf *g, const char *name) {
    uint64_t at;
    return map_get(&g->by_name, str_z(name), &at) ? &g->tensors[at] : NULL;
}

bool gguf_i64(const gguf_value *v, uint64_t i, int64_t *ret) {
    if (i >= v->n) return false;
    uint64_t x = load_le(v->p + i * kind_bytes[v->kind], kind_bytes[v->kind]);
    switch (v->kind) {
    case GGUF_U8:
    case GGUF_U16:
    case GGUF_U32:
    case GGUF_I64: *ret = (int64_t)x; return true;
    case GGUF_I8: *ret = (int8_t)x; return true;
    case GGUF_I16: *ret = (int16_t)x; return true;
    case GGUF_I32: *ret = (int32_t)x; return true;
    case GGUF_BOOL: *ret = x != 0; return true;
    case GGUF_U64: *ret = (int64_t)x; return x <= INT64_MAX;
    default: return false;
    }
}

bool gguf_f64(const gguf_value *v, uint64_t i, double *ret) {
    int64_t x;
    float f;
    if (i >= v->n) return false;
    if (v->kind == GGUF_F32) {
        memcpy(&f, v->p + 4 * i, 4);
        *ret = (double)f;
    } else if (v->kind == GGUF_F64) {
        memcpy(ret, v->p + 8 * i, 8);
    } else if (gguf_i64(v, i, &x)) {
        *ret = (double)x;
    } else
        return false;
    return true;
}

int64_t gguf_get_int(const gguf *g, const char *key, int64_t fallback) {
    const gguf_value *v = gguf_find(g, key);
    int64_t x;
    return v && !v->is_array && gguf_i64(v, 0, &x) ? x : fallback;
}

bool gguf_get_bool(const gguf *g, const char *key, bool fallback) {
    const gguf_value *v = gguf_find(g, key);
    return v && !v->is_array && v->kind == GGUF_BOOL ? v->p[0] != 0 : fallback;
}

str gguf_get_str(const gguf *g, const char *key) {
    const gguf_value *v = gguf_find(g, key);
    str s = {0};
    gguf_strings it = gguf_strings_of(v && !v->is_array ? v : NULL);
    return gguf_next(&it, &s) ? s : (str){0};
}

gguf_strings gguf_strings_of(const gguf_value *v) {
    return v && v->kind == GGUF_STRING ? (gguf_strings){v->p, v->n} : (gguf_strings){0};
}

bool gguf_next(gguf_strings *it, str *ret) {
    if (!it->left) return false;
    uint64_t n = load_le(it->p, 8);
    *ret = str_n((const char *)it->p + 8, (size_t)n);
    it->p += 8 + n;
    it->left--;
    return true;
}
