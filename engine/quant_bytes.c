/* Formats whose rows lie one after another: a byte a weight (int8, FP8), or two 4-bit floats a byte
 * (NVFP4, MXFP4, bitsandbytes' NF4 and FP4).
 *
 * Formats: compressed-tensors, DeepSeek's block FP8, gpt-oss' MXFP4 experts, bitsandbytes. */
#include <math.h>

#include "conf/limits.h"
#include "engine/quant_formats.h"

#define TYPES_SCALE (TYPES_FLOAT | TYPE_MASK(DT_F8_E8M0) | TYPE_MASK(DT_U8))

static float scalar(const module_tensor *t) {
    return dtype_to_f32(t->st->dt, t->p);
}

/* How activations are rounded for 8-bit units. FP8 checkpoints that say static and bring no scale
 * are computed unrounded. */
status quant_bind_acts(module_binder *b, quant_module *m) {
    module_tensor scale, zero;
    uint64_t ints = TYPE_MASK(DT_I8) | TYPE_MASK(DT_I32);
    bool is_static = b->scheme->act == ACT_ROUND_INT8_STATIC;
    m->spec.act = b->scheme->act;
    TRY(module_take_scalar(b, ".input_scale", TYPES_FLOAT, !is_static, &scale));
    if (b->scheme->act == ACT_ROUND_FP8_STATIC) {
        is_static = scale.st != NULL;
        if (!is_static) m->spec.act = ACT_ROUND_NONE;
    }
    TRY(module_take_scalar(b, ".input_zero_point", ints, true, &zero));
    TRY(module_take_scalar(b, ".input_scale_ub", TYPES_FLOAT, true, &(module_tensor){0}));
    TRY(module_take_scalar(b, ".input_global_scale", TYPES_FLOAT, true, &(module_tensor){0}));
    if (!is_static) return OK;
    m->spec.act_scale = scalar(&scale);
    float zero_at = zero.st ? scalar(&zero) : 0;
    if (!(zero_at >= -128 && zero_at <= 127))
        return module_error(b, ".input_zero_point", "%g is no number of 8 bits", zero_at);
    m->spec.act_zero = (int16_t)zero_at;
    if (!(m->spec.act_scale > 0) || isinf(m->spec.act_scale))
        return module_error(b, ".input_scale", "%g is no scale", m->spec.act_scale);
    return OK;
}

/* Bytes */

static void byte_codes(const quant_module *m, int64_t row0, int32_t n, uint8_t *codes) {
    memcpy(codes, m->bytes + row0 * m->k, (size_t)n * (size_t)m->k);
}

/* int8 as codes of 0 .. 255. */
static void int8_codes(const quant_module *m, int64_t row0, int32_t n, uint8_t *codes) {
    size_t count = (size_t)n * (size_t)m->k;
    const uint8_t *p = (const uint8_t *)m->bytes + row0 * m->k;
    for (size_t i = 0; i < count; i++) codes[i] = p[i] ^ 0x80;
}

static uint8_t int8_zero(const quant_module *m, int64_t row, int64_t group) {
    const uint8_t *p = (const uint8_t *)m->zero_words.p;
    return p[row / m->scale_div * m->scale_row + group * m->scale_step] ^ 0x80;
}

static status int8_zeros(module_binder *b, quant_module *m, const module_tensor *scales) {
    module_tensor zeros;
    m->spec.zero = 128;
    if (b->scheme->symmetric) return OK;
    const st_tensor *s = scales->st;
    TRY(module_take(b, ".weight_zero_point", TYPE_MASK(DT_I8), s->n_dims, s->dims, false, &zeros));
    m->zero_words.p = zeros.p;
    m->zero = int8_zero;
    m->spec.has_zeros = true;
    m->spec.zero = 0;
    return OK;
}

/* weight_scale, or weight_scale_inv, which is no inverse for all its name. */
static status take_scales(module_binder *b, const char **ret_suffix, module_tensor *ret) {
    static const char *const names[] = {".weight_scale_inv", ".weight_scale"};
    size_t i = !module_has(b->c, b->module, names[0]);
    const st_tensor *st = module_find(b->c, b->module, names[i]);
    int32_t n_dims = st ? st->n_dims : 2;
    *ret_suffix = names[i];
    if (n_dims > 2) n_dims = 2;
    return module_take(b, names[i], TYPES_SCALE, n_dims, (int64_t[]){-1, -1}, false, ret);
}

status quant_bind_bytes(module_binder *b, quant_module *m) {
    const quant_scheme *s = b->scheme;
    int64_t dims[2] = {m->n, m->k};
    const char *suffix;
    module_tensor weight, scales;
    bool is_int = s->format == FORMAT_INT8;
    uint64_t types = is_int ? TYPE_MASK(DT_I8) : TYPE_MASK(DT_F8_E4M3) | TYPE_MASK(DT_F8_E5M2);
    if (!is_int && s->format != FORMAT_FP8)
        return module_error(b, ".weight", "the config's format has no weights of a byte each");
    TRY(module_take(b, ".weight", types, 2, dims, false, &weight));
    TRY(take_scales(b, &suffix, &scales));
    bool blocks = s->block_n > 0;
    TRY(module_set_scales(b, m, suffix, &scales, blocks ? s->block_k : s->group,
                          blocks ? s->block_n : 1));
    m->dt = is_int ? DT_INT8 : weight.st->dt;
    m->bytes = weight.p;
    m->codes = is_int ? int8_codes : byte_codes;
    if (is_int) TRY(int8_zeros(b, m, &scales));
    return quant_bind_acts(b, m);
}

/* Two codes a byte */

static void low_first(const quant_module *m, int64_t row0, int32_t n, uint8_t *codes) {
    size_t count = (size_t)n * (size_t)m->k;
    const uint8_t *p = (const uint8_t *)m->bytes + row0 * (m->k / 2);
    for (size_t i = 0; i < count; i++) codes[i] = p[i / 2] >> 4 * (i % 2) & 15;
}

static void high_first(const quant_module *m, int64_t row0, int32_t n, uint8_t *codes) {
    size_t count = (size_t)n * (size_t)m->k, at = (size_t)row0 * (size_t)m->k;
    const uint8_t *p = (const uint8_t *)m->bytes;
    for (size_t i = 0; i < count; i++, at++) codes[i] = p[at / 2] >> (at % 2 ? 0 : 4) & 15;
}

/* NVFP4: E4M3 scales of 16, divided by the matrix' own; MXFP4: E8M0 scales of 32. */
status quant_bind_fp4(module_binder *b, quant_module *m) {
    int64_t dims[2] = {m->n, m->k / 2};
    module_tensor weight, scales, global;
    uint64_t types = TYPE_MASK(DT_F8_E4M3) | TYPE_MASK(DT_F8_E8M0) | TYPE_MASK(DT_U8);
    if (b->scheme->format != FORMAT_FP4 || m->k % 2)
        return module_error(b, ".weight_packed",
                            "bytes, but the config's format is not of 4-bit "
                            "floats, or an odd number of columns");
    TRY(module_take(b, ".weight_packed", TYPE_MASK(DT_U8), 2, dims, false, &weight));
    TRY(module_take(b, ".weight_scale", types, 2, (int64_t[]){-1, -1}, false, &scales));
    TRY(module_set_scales(b, m, ".weight_scale", &scales, b->scheme->group, 1));
    bool nv = scales.st->dt == DT_F8_E4M3;
    TRY(module_take_scalar(b, ".weight_global_scale", TYPES_FLOAT, !nv, &global));
    if (global.st) m->spec.scale_mul = 1 / scalar(&global);
    if (isinf(m->spec.scale_mul) || isnan(m->spec.scale_mul))
        return module_error(b, ".weight_global_scale", "%g is no scale", scalar(&global));
    m->dt = DT_E2M1;
    m->bytes = weight.p;
    m->codes = low_first;
    return quant_bind_acts(b, m);
}

/* A stack of experts: blocks [E,N,K/32,16], scales [E,N,K/32]. */
status quant_bind_experts(module_binder *b, quant_module *m) {
    int64_t n_stack = b->t->n_stack, n_blocks = m->k / 32;
    int64_t dims[4] = {n_stack, m->n, n_blocks, 16};
    module_tensor weight, scales;
    if (!n_stack || m->k % 32)
        return module_error(b, "_blocks",
                            "expected a stack of experts with inputs in blocks of 32");
    TRY(module_take(b, "_blocks", TYPE_MASK(DT_U8), 4, dims, false, &weight));
    TRY(module_take(b, "_scales", TYPE_MASK(DT_U8), 3, dims, false, &scales));
    int64_t at = (int64_t)b->t->stack * m->n * n_blocks;
    m->dt = DT_E2M1;
    m->spec.group = 32;
    m->spec.scale_dt = DT_F8_E8M0;
    m->bytes = weight.p + at * 16;
    m->codes = low_first;
    m->scales = scales.p + at;
    m->scale_div = 1;
    m->scale_row = n_blocks;
    m->scale_step = 1;
    return OK;
}

/* bitsandbytes */

/* The JSON in the bytes of the quant_state tensor. */
static status bnb_state(module_binder *b, const char **ret_suffix, json_t **ret) {
    static const char *const names[] = {".weight.quant_state.bitsandbytes__nf4",
                                        ".weight.quant_state.bitsandbytes__fp4"};
    module_tensor t;
    size_t i = module_has(b->c, b->module, names[1]);
    TRY(module_take(b, names[i], TYPE_MASK(DT_U8), 1, (int64_t[]){-1}, false, &t));
    *ret_suffix = names[i];
    if (js_parse(str_n(t.p, t.st->bytes), ret, b->err) != OK)
        return module_error(b, names[i], "its bytes are no JSON");
    return OK;
}

typedef struct bnb_layout {
    int64_t block, nested;
    float offset;
} bnb_layout;

static status bnb_read_state(module_binder *b, const quant_module *m, bnb_layout *l) {
    const char *suffix;
    json_t *state;
    TRY(bnb_state(b, &suffix, &state));
    const json_t *shape = js_get(state, "shape");
    int64_t n = json_integer_value(json_array_get(shape, 0));
    int64_t k = json_integer_value(json_array_get(shape, 1));
    l->block = js_get_int(state, "blocksize", 64);
    l->nested = js_get_int(state, "nested_blocksize", 256);
    l->offset = (float)js_get_real(state, "nested_offset", 0);
    json_decref(state);
    if (n != m->n || k != m->k)
        return module_error(b, suffix, "its shape is [%lld, %lld], expected [%d, %d]", (long long)n,
                            (long long)k, m->n, m->k);
    if (l->block < 1 || l->block > INT32_MAX || l->nested < 1)
        return module_error(b, suffix, "its block sizes are %lld and %lld", (long long)l->block,
                            (long long)l->nested);
    return OK;
}

/* Scales of the blocks: as they are, or bytes that a table and one scale for `nested` of them
 * make. */
static status bnb_scales(module_binder *b, quant_module *m, const bnb_layout *l) {
    int64_t count = ((int64_t)m->n * m->k + l->block - 1) / l->block, table_dims[1] = {256};
    int64_t dims[1] = {count}, nested_dims[1] = {(count + l->nested - 1) / l->nested};
    uint64_t f32 = TYPE_MASK(DT_F32);
    module_tensor absmax, table, nested;
    TRY(module_take(b, ".weight.absmax", f32 | TYPE_MASK(DT_U8), 1, dims, false, &absmax));
    m->scales = absmax.p;
    if (absmax.st->dt == DT_F32) return OK;
    TRY(module_take(b, ".weight.nested_quant_map", f32, 1, table_dims, false, &table));
    TRY(module_take(b, ".weight.nested_absmax", f32, 1, nested_dims, false, &nested));
    m->nested = nested.p;
    m->nested_table = table.p;
    m->nested_block = l->nested;
    m->nested_offset = l->offset;
    return OK;
}

/* Blocks run through all weights: where they do not divide the rows, a row has groups as large as
 * both sides allow. */
static int32_t common_divisor(int32_t a, int32_t b) {
    while (b) {
        int32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

status quant_bind_bnb4(module_binder *b, quant_module *m) {
    bnb_layout l = {0};
    int64_t map_dims[1] = {16}, total = (int64_t)m->n * m->k;
    module_tensor weight, values;
    const st_tensor *st = module_find(b->c, b->module, ".weight");
    TRY(bnb_read_state(b, m, &l));
    /* Bytes, whatever type they are kept as. */
    int64_t any[LIMIT_TENSOR_DIMS];
    for (int i = 0; i < LIMIT_TENSOR_DIMS; i++) any[i] = -1;
    uint64_t types = TYPES_FLOAT | TYPE_MASK(DT_U8) | TYPE_MASK(DT_I8);
    TRY(module_take(b, ".weight", types, st ? st->n_dims : 2, any, false, &weight));
    if (weight.st->bytes != (uint64_t)((total + 1) / 2))
        return module_error(b, ".weight", "has %llu bytes, %d x %d weights of 4 bits need %lld",
                            (unsigned long long)weight.st->bytes, m->n, m->k,
                            (long long)((total + 1) / 2));
    TRY(module_take(b, ".weight.quant_map", TYPE_MASK(DT_F32), 1, map_dims, false, &values));
    memcpy(m->table, values.p, sizeof m->table);
    TRY(bnb_scales(b, m, &l));
    m->dt = DT_TABLE4;
    m->spec.group = common_divisor(m->k, (int32_t)l.block);
    m->spec.scale_dt = DT_F32;
    m->bytes = weight.p;
    m->codes = high_first;
    m->scale_div = 1;
    m->scale_flat = l.block;
    return OK;
}

/* weight int8 [N,K], SCB [N]: the largest of each row, which is 127. */
status quant_bind_bnb8(module_binder *b, quant_module *m) {
    int64_t dims[2] = {m->n, m->k};
    module_tensor weight, scb, format;
    TRY(module_take(b, ".weight", TYPE_MASK(DT_I8), 2, dims, false, &weight));
    TRY(module_take(b, ".SCB", TYPE_MASK(DT_F32), 1, dims, false, &scb));
    TRY(module_take_scalar(b, ".weight_format", TYPE_MASK(DT_U8), true, &format));
    if (format.st && format.p[0] != 0)
        return module_error(b, ".weight_format", "%d, expected 0 (rows)", (uint8_t)format.p[0]);
    m->dt = DT_INT8;
    m->spec.group = m->k;
    m->spec.scale_dt = DT_F32;
    m->spec.scale_mul = 1.0f / 127;
    m->spec.zero = 128;
    m->bytes = weight.p;
    m->codes = int8_codes;
    m->scales = scb.p;
    m->scale_div = 1;
    m->scale_row = 1;
    m->scale_step = 1;
    return OK;
}
