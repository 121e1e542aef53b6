/* Rows are read in runs of at most CHUNK that lie together in the module, so that formats that are
 * packed along the inputs (a word of GPTQ holds eight inputs of one output) use a fetched cache
 * line for several outputs. Everything that could be wrong is found while binding: reading cannot
 * fail. */
#include "engine/quant_module.h"

#include <stdio.h>

#include "engine/base/mem.h"
#include "engine/quant_formats.h"

#define CHUNK 16

/* Tensors */

const st_tensor *module_find(const checkpoint *c, const char *module, const char *suffix) {
    strbuf name = {0};
    strbuf_addf(&name, "%s%s", module, suffix);
    const st_tensor *st = checkpoint_find(c, name.p);
    strbuf_done(&name);
    return st;
}

bool module_has(const checkpoint *c, const char *module, const char *suffix) {
    return module_find(c, module, suffix) != NULL;
}

status module_error(const module_binder *b, const char *suffix, const char *fmt, ...) {
    char text[300];
    const st_tensor *st = module_find(b->c, b->module, suffix);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return error_set(b->err, ERR_FORMAT, "%s: tensor \"%s%s\": %s", b->c->files[st ? st->file : 0],
                     b->module, suffix, text);
}

static status wrong_tensor(const module_binder *b, const char *suffix, uint64_t types,
                           int32_t n_dims, const int64_t *dims, const st_tensor *st) {
    strbuf want = {0};
    char found[128];
    strbuf_addc(&want, '[');
    for (int32_t i = 0; i < n_dims; i++)
        strbuf_addf(&want, dims[i] < 0 ? "%s*" : "%s%lld", i ? ", " : "", (long long)dims[i]);
    strbuf_addz(&want, "] of");
    for (int d = 0; d < DT_COUNT; d++)
        if (types & TYPE_MASK(d)) strbuf_addf(&want, " %s", dtype_name((dtype)d));
    st_tensor_describe(st, found, sizeof found);
    status s = module_error(b, suffix, "expected %s, found %s", want.p, found);
    strbuf_done(&want);
    return s;
}

static status map_tensor(module_binder *b, const st_tensor *st, module_tensor *ret) {
    const char *file;
    TRY(checkpoint_map(b->c, st->file, &file, b->err));
    *ret = (module_tensor){st, file + st->off};
    if (b->used && !b->used[st - b->c->tensors]) b->used[st - b->c->tensors] = 1;
    return OK;
}

static status missing(module_binder *b, const char *suffix, bool optional, module_tensor *ret) {
    *ret = (module_tensor){0};
    if (optional) return OK;
    return module_error(b, suffix, "is missing; the module is stored as %s (%s)",
                        quant_method_name(b->q->method), b->q->path);
}

status module_take(module_binder *b, const char *suffix, uint64_t types, int32_t n_dims,
                   const int64_t *dims, bool optional, module_tensor *ret) {
    const st_tensor *st = module_find(b->c, b->module, suffix);
    if (!st) return missing(b, suffix, optional, ret);
    bool fits = st->n_dims == n_dims && st->dt != DT_COUNT && (types & TYPE_MASK(st->dt));
    for (int32_t i = 0; i < n_dims && fits; i++) fits = dims[i] < 0 || dims[i] == st->dims[i];
    if (!fits) return wrong_tensor(b, suffix, types, n_dims, dims, st);
    return map_tensor(b, st, ret);
}

status module_take_scalar(module_binder *b, const char *suffix, uint64_t types, bool optional,
                          module_tensor *ret) {
    static const int64_t one[1] = {1};
    const st_tensor *st = module_find(b->c, b->module, suffix);
    if (!st) return missing(b, suffix, optional, ret);
    bool fits =
        st->dt != DT_COUNT && (types & TYPE_MASK(st->dt)) && st->bytes == dtype_bytes(st->dt);
    if (!fits) return wrong_tensor(b, suffix, types, 1, one, st);
    return map_tensor(b, st, ret);
}

/* Scales and order */

status module_set_scales(module_binder *b, quant_module *m, const char *suffix,
                         const module_tensor *t, int32_t group, int32_t rows) {
    const st_tensor *st = t->st;
    int64_t lines = (m->n + rows - 1) / rows, found_rows = 1, cols = 1;
    if (st->n_dims > 2) return module_error(b, suffix, "has %d dimensions, expected 2", st->n_dims);
    if (st->n_dims >= 1) found_rows = st->dims[0];
    if (st->n_dims == 2) cols = st->dims[1];
    bool single = found_rows == 1 && cols == 1;
    int64_t want = group > 0 ? (m->k + (int64_t)group - 1) / group : group < 0 ? 1 : cols;
    if (want < 1 || (!single && (found_rows != lines || cols != want)))
        return module_error(b, suffix,
                            "expected [%lld, %lld] scales for [%d, %d] weights, found "
                            "[%lld, %lld]",
                            (long long)lines, (long long)want, m->n, m->k, (long long)found_rows,
                            (long long)cols);
    if (single) group = -1, cols = 1;
    if (group == 0 && m->k % cols != 0)
        return module_error(b, suffix, "%lld scales do not divide %d columns", (long long)cols,
                            m->k);
    m->spec.group = group > 0 ? group : (int32_t)(m->k / cols);
    m->spec.scale_dt = st->dt == DT_U8 ? DT_F8_E8M0 : st->dt;
    m->scales = t->p;
    m->scale_div = rows;
    m->scale_row = single ? 0 : cols;
    m->scale_step = 1;
    return OK;
}

/* Has every group of the order exactly as many columns as the spec says? */
static bool is_whole(const quant_module *m, const int32_t *order) {
    int32_t *columns = mem_alloc((size_t)m->k * sizeof *columns);
    bool whole = quant_sort_columns(&m->spec, m->k, order, columns);
    mem_free(columns);
    return whole;
}

status module_set_order(module_binder *b, quant_module *m, const char *suffix,
                        const module_tensor *t) {
    int32_t n_groups = quant_groups(&m->spec, m->k);
    bool in_sequence = true;
    if (!t->st) return OK;
    int32_t *order = mem_alloc((size_t)m->k * sizeof *order);
    memcpy(order, t->p, (size_t)m->k * sizeof *order);
    for (int32_t i = 0; i < m->k; i++) {
        if (order[i] < 0 || order[i] >= n_groups) {
            status st = module_error(b, suffix, "column %d is of group %d, there are %d", i,
                                     order[i], n_groups);
            mem_free(order);
            return st;
        }
        in_sequence &= order[i] == i / m->spec.group;
    }
    if (in_sequence) {
        mem_free(order);
        return OK;
    }
    m->order = order;
    m->spec.has_order = true;
    m->spec.whole_order = is_whole(m, order);
    return OK;
}

/* Reading */

static uint32_t word_at(const char *p) {
    uint32_t w;
    memcpy(&w, p, sizeof w);
    return w;
}

uint8_t packed_at(const packed_numbers *b, int64_t item, int64_t index) {
    int per_word = 32 / b->bits;
    int64_t bit = b->dense ? index * b->bits : index / per_word * 32 + index % per_word * b->bits;
    const char *p = b->p + item * b->item_step + bit / 32 * b->word_step;
    int shift = (int)(bit % 32);
    uint32_t v = word_at(p) >> shift;
    if (shift + b->bits > 32) v |= word_at(p + b->word_step) << (32 - shift);
    return (uint8_t)(v & ((1u << b->bits) - 1));
}

static int64_t picked(row_view v, int64_t r) {
    return v.start + r / v.run * v.stride + r % v.run;
}

static void read_scale(const quant_module *m, int64_t row, int64_t g, void *out) {
    size_t bytes = dtype_bytes(m->spec.scale_dt);
    int64_t at = row / m->scale_div * m->scale_row + g * m->scale_step;
    if (m->scale_flat) at = (row * m->k + g * m->spec.group) / m->scale_flat;
    if (!m->nested) {
        memcpy(out, m->scales + at * (int64_t)bytes, bytes);
        return;
    }
    float value = dtype_to_f32(DT_F32, m->nested_table + 4 * (uint8_t)m->scales[at]);
    value = value * dtype_to_f32(DT_F32, m->nested + 4 * (at / m->nested_block)) + m->nested_offset;
    memcpy(out, &value, sizeof value);
}

/* Rows [row0, row0+n) of the module as stored rows (quant.h), n at most CHUNK. */
static void read_stored(const quant_module *m, int64_t row0, int32_t n, char *scratch, void *out) {
    size_t k = (size_t)m->k, groups = (size_t)quant_groups(&m->spec, m->k);
    size_t scale_bytes = dtype_bytes(m->spec.scale_dt);
    uint8_t *codes = (uint8_t *)scratch, *zeros = codes + CHUNK * k;
    char *scales = (char *)zeros + CHUNK * groups;
    m->codes(m, row0, n, codes);
    for (size_t r = 0; r < (size_t)n; r++)
        for (size_t g = 0; g < groups; g++) {
            int64_t row = row0 + (int64_t)r;
            read_scale(m, row, (int64_t)g, scales + (r * groups + g) * scale_bytes);
            if (m->zero) zeros[r * groups + g] = m->zero(m, row, (int64_t)g);
        }
    quant_rows rows = {.codes = codes, .scales = scales, .zeros = zeros};
    quant_pack_rows(m->dt, &m->spec, m->k, &rows, n, out);
}

static size_t scratch_bytes(const quant_module *m) {
    size_t groups = (size_t)quant_groups(&m->spec, m->k);
    return CHUNK * ((size_t)m->k + groups * (1 + sizeof(float)));
}

/* The module's rows that rows [row0, ...) of the view are, as far as they lie together. */
static int32_t together(const quant_module *m, int32_t row, int32_t rest) {
    return (int32_t)MIN(MIN((int64_t)rest, CHUNK), m->view.run - row % m->view.run);
}

static void read_codes(const row_source *s, int32_t row0, int32_t n, void *out) {
    const quant_module *m = (const quant_module *)s;
    size_t row_bytes = quant_row_bytes(m->dt, &m->spec, m->k);
    char *scratch = mem_alloc(scratch_bytes(m));
    for (int32_t r = 0, run; r < n; r += run) {
        run = together(m, row0 + r, n - r);
        read_stored(m, picked(m->view, row0 + r), run, scratch,
                    (char *)out + (size_t)r * row_bytes);
    }
    mem_free(scratch);
}

typedef struct float_reader {
    const quant_module *m;
    char *scratch, *stored, *side;
} float_reader;

static float_reader reader_new(const quant_module *m) {
    float_reader f = {.m = m, .scratch = mem_alloc(scratch_bytes(m))};
    f.stored = mem_alloc(CHUNK * quant_row_bytes(m->dt, &m->spec, m->k));
    f.side = mem_alloc(quant_side_bytes(m->dt, &m->spec, m->k) + 1);
    quant_pack_side(m->dt, &m->spec, m->k, m->order, m->table, f.side);
    return f;
}

static void reader_free(float_reader *f) {
    mem_free(f->scratch), mem_free(f->stored), mem_free(f->side);
}

/* Rows of the module as floats, n at most CHUNK. */
static void read_values(const float_reader *f, int64_t row0, int32_t n, float *out) {
    const quant_module *m = f->m;
    size_t row_bytes = quant_row_bytes(m->dt, &m->spec, m->k);
    read_stored(m, row0, n, f->scratch, f->stored);
    for (int32_t r = 0; r < n; r++)
        quant_row_f32(m->dt, &m->spec, m->k, f->side, f->stored + (size_t)r * row_bytes, 0, m->k,
                      out + (int64_t)r * m->k);
}

static void read_floats(const row_source *s, int32_t row0, int32_t n, void *out) {
    const quant_module *m = (const quant_module *)s;
    float_reader f = reader_new(m);
    for (int32_t r = 0, run; r < n; r += run) {
        run = together(m, row0 + r, n - r);
        read_values(&f, picked(m->view, row0 + r), run, (float *)out + (int64_t)r * m->k);
    }
    reader_free(&f);
}

/* Our columns are rows of the module. */
static void read_transposed(const row_source *s, int32_t row0, int32_t n, void *out) {
    const quant_module *m = (const quant_module *)s;
    float_reader f = reader_new(m);
    float *values = mem_alloc(CHUNK * (size_t)m->k * sizeof *values), *to = out;
    for (int32_t c = 0, run; c < s->cols; c += run) {
        run = together(m, c, s->cols - c);
        read_values(&f, picked(m->view, c), run, values);
        for (int32_t i = 0; i < run; i++)
            for (int32_t r = 0; r < n; r++)
                to[(int64_t)r * s->cols + c + i] = values[(int64_t)i * m->k + row0 + r];
    }
    mem_free(values);
    reader_free(&f);
}

static void module_done(row_source *s) {
    quant_module *m = (quant_module *)s;
    mem_free(m->order);
    mem_free(m);
}

/* Binding */

typedef status (*bind_fn)(module_binder *b, quant_module *m);

static dtype stored_type(const checkpoint *c, const char *module, const char *suffix) {
    const st_tensor *st = module_find(c, module, suffix);
    return st ? st->dt : DT_COUNT;
}

/* How the module is stored, by its tensors; NULL: plain. */
static bind_fn format_of(const checkpoint *c, const char *module) {
    dtype weight = stored_type(c, module, ".weight");
    switch (c->quant->method) {
    case QUANT_GPTQ: return module_has(c, module, ".qweight") ? quant_bind_gptq : NULL;
    case QUANT_AWQ: return module_has(c, module, ".qweight") ? quant_bind_awq : NULL;
    case QUANT_MXFP4: return module_has(c, module, "_blocks") ? quant_bind_experts : NULL;
    case QUANT_FP8: return weight == DT_F8_E4M3 || weight == DT_F8_E5M2 ? quant_bind_bytes : NULL;
    case QUANT_BNB:
        if (module_has(c, module, ".SCB")) return quant_bind_bnb8;
        return module_has(c, module, ".weight.absmax") ? quant_bind_bnb4 : NULL;
    case QUANT_COMPRESSED: {
        dtype packed = stored_type(c, module, ".weight_packed");
        if (packed != DT_COUNT) return packed == DT_U8 ? quant_bind_fp4 : quant_bind_packed;
        bool bytes = weight == DT_I8 || weight == DT_F8_E4M3;
        return bytes ? quant_bind_bytes : NULL;
    }
    }
    return NULL;
}

/* A copy of the name before ".weight" (of a stack of experts: the name). */
static char *module_of(const char *name) {
    str s = str_z(name);
    char *module = mem_strdup(name);
    if (str_ends(s, STR(".weight"))) module[s.n - strlen(".weight")] = 0;
    return module;
}

bool quant_module_serves(const checkpoint *c, const char *name) {
    if (!c->quant) return false;
    char *module = module_of(name);
    bool serves = format_of(c, module) != NULL;
    mem_free(module);
    return serves;
}

const char *quant_module_instead(const checkpoint *c, const char *name) {
    static const char *const suffixes[] = {".qweight", ".weight_packed", "_blocks"};
    char *module = module_of(name);
    const st_tensor *st = NULL;
    for (size_t i = 0; i < ARRAY_LEN(suffixes) && !st; i++)
        st = module_find(c, module, suffixes[i]);
    mem_free(module);
    return st ? st->name : NULL;
}

static status bind_module(module_binder *b, bind_fn bind, bool floats, row_source **ret) {
    const arch_tensor *t = b->t;
    quant_module *m = mem_calloc(1, sizeof *m);
    m->n = (int32_t)t->src_rows;
    m->k = t->transpose_view ? t->rows : t->cols;
    m->spec.scale_mul = 1;
    m->view = t->view;
    m->transposed = t->transpose_view;
    m->floats = floats || t->transpose_view || t->xform != XFORM_NONE;
    m->s = (row_source){.rows = t->rows, .cols = t->cols, .done = module_done};
    status st = bind(b, m);
    if (st != OK) {
        module_done(&m->s);
        return st;
    }
    m->s.dt = m->floats ? DT_F32 : m->dt;
    if (!m->floats) {
        m->s.spec = m->spec;
        m->s.order = m->order;
        m->s.table = m->dt == DT_TABLE4 ? m->table : NULL;
    }
    m->s.read = m->transposed ? read_transposed : m->floats ? read_floats : read_codes;
    *ret = &m->s;
    return OK;
}

/* The tensor that stands for the module. */
static const st_tensor *first_of(const checkpoint *c, const char *module) {
    static const char *const names[] = {".qweight", ".weight_packed", "_blocks", ".weight"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        const st_tensor *st = module_find(c, module, names[i]);
        if (st) return st;
    }
    return NULL;
}

static status bind_named(module_binder *b, bool floats, row_source **ret,
                         const st_tensor **ret_first) {
    bind_fn bind = format_of(b->c, b->module);
    *ret = NULL;
    if (!bind) return OK;
    b->scheme = quant_config_scheme(b->q, b->module);
    *ret_first = first_of(b->c, b->module);
    if (!b->scheme)
        return error_set(b->err, ERR_FORMAT,
                         "%s: module \"%s\" is stored quantised, but %s lists it as left out",
                         b->c->files[(*ret_first)->file], b->module, b->q->path);
    if (b->t->src_rows > INT32_MAX || !b->t->cols)
        return module_error(b, ".weight", "a quantised module is no vector");
    return bind_module(b, bind, floats, ret);
}

status quant_module_bind(checkpoint *c, const arch_tensor *t, bool floats, uint8_t *used,
                         row_source **ret, const st_tensor **ret_first, error *err) {
    *ret = NULL;
    if (!c->quant) return OK;
    module_binder b = {
        .c = c, .q = c->quant, .t = t, .module = module_of(t->name), .used = used, .err = err};
    status st = bind_named(&b, floats, ret, ret_first);
    mem_free(b.module);
    return st;
}

static bool all_zero(checkpoint *c, const st_tensor *st) {
    const char *file;
    if (checkpoint_map(c, st->file, &file, NULL) != OK) return false;
    for (uint64_t i = 0; i < st->bytes; i++)
        if (file[st->off + i]) return false;
    return true;
}

bool quant_module_spare(checkpoint *c, const st_tensor *st) {
    static const char *const scales[] = {".k_scale", ".v_scale", ".q_scale", ".kv_scale",
                                         ".output_scale"};
    str name = str_z(st->name);
    if (!c->quant) return false;
    for (size_t i = 0; i < ARRAY_LEN(scales) && c->quant->kv_scales; i++)
        if (str_ends(name, str_z(scales[i]))) return true;
    if (!str_ends(name, STR(".bias"))) return false;
    char *module = mem_strdup(st->name);
    module[name.n - strlen(".bias")] = 0;
    bool spare = module_has(c, module, ".qweight") && all_zero(c, st);
    mem_free(module);
    return spare;
}
