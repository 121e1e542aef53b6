/* Formats whose codes are packed in 32-bit words: GPTQ, AWQ, compressed-tensors' pack-quantized.
 * They differ in what runs along the words: GPTQ packs the inputs of an output, AWQ neighbouring
 * outputs in an order of its own, compressed-tensors each row by itself.
 *
 * Formats: GPTQModel (qweight/qzeros/scales/g_idx), AutoAWQ (gemm), compressed-tensors. */
#include "engine/base/mem.h"
#include "engine/quant_formats.h"

static dtype int_type(int bits) {
    return bits == 2 ? DT_INT2 : bits == 3 ? DT_INT3 : bits == 4 ? DT_INT4 : DT_INT8;
}

static int64_t words(int64_t numbers, int bits) {
    return (numbers * bits + 31) / 32;
}

static int32_t group_of(const quant_scheme *s, int32_t k) {
    return s->group > 0 ? s->group : k;
}

/* A line of words that hold whole numbers, word by word. */
static void whole_words(const packed_numbers *w, int64_t item, int32_t k, uint8_t *codes) {
    const char *p = w->p + item * w->item_step;
    int per_word = 32 / w->bits;
    uint32_t mask = (1u << w->bits) - 1;
    for (int32_t i = 0; i < k; p += w->word_step) {
        uint32_t word;
        memcpy(&word, p, sizeof word);
        for (int j = 0; j < per_word && i < k; j++, word >>= w->bits)
            codes[i++] = (uint8_t)(word & mask);
    }
}

/* Codes of a row: its line of words. */
static void row_codes(const quant_module *m, int64_t row0, int32_t n, uint8_t *codes) {
    const packed_numbers *w = &m->code_words;
    for (int32_t r = 0; r < n; r++) {
        uint8_t *to = codes + (size_t)r * (size_t)m->k;
        if (32 % w->bits == 0 || !w->dense)
            whole_words(w, row0 + r, m->k, to);
        else
            for (int32_t i = 0; i < m->k; i++) to[i] = packed_at(w, row0 + r, i);
    }
}

/* GPTQ: zeros [G, words of N]. */
static uint8_t gptq_zero(const quant_module *m, int64_t row, int64_t group) {
    return packed_at(&m->zero_words, group, row);
}

status quant_bind_gptq(module_binder *b, quant_module *m) {
    int bits = b->scheme->bits;
    int32_t group = group_of(b->scheme, m->k), n_groups = (m->k - 1) / group + 1;
    int64_t weight_dims[2] = {words(m->k, bits), m->n}, scale_dims[2] = {n_groups, m->n};
    int64_t zero_dims[2] = {n_groups, words(m->n, bits)}, order_dims[1] = {m->k};
    module_tensor weight, zeros, scales, order;
    TRY(module_take(b, ".qweight", TYPE_MASK(DT_I32), 2, weight_dims, false, &weight));
    TRY(module_take(b, ".scales", TYPES_FLOAT, 2, scale_dims, false, &scales));
    TRY(module_take(b, ".qzeros", TYPE_MASK(DT_I32), 2, zero_dims, false, &zeros));
    TRY(module_take(b, ".g_idx", TYPE_MASK(DT_I32), 1, order_dims, true, &order));
    m->dt = int_type(bits);
    m->spec.group = group;
    m->spec.scale_dt = scales.st->dt;
    m->spec.has_zeros = true;
    m->spec.zero = b->scheme->plus_one; /* after unpacking: a stored 15 is 16 */
    m->code_words = (packed_numbers){weight.p, 4, 4 * (int64_t)m->n, bits, true};
    m->zero_words = (packed_numbers){zeros.p, 4 * zero_dims[1], 4, bits, true};
    m->codes = row_codes;
    m->zero = gptq_zero;
    m->scales = scales.p;
    m->scale_div = 1;
    m->scale_row = 1;
    m->scale_step = m->n;
    return module_set_order(b, m, ".g_idx", &order);
}

/* AWQ: a line of words is one input (or group) over all outputs; the eight outputs of a word lie
 * in the order 0 2 4 6 1 3 5 7. */
static int64_t awq_place(int64_t col) {
    static const uint8_t place[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    return col / 8 * 8 + place[col % 8];
}

static void awq_codes(const quant_module *m, int64_t row0, int32_t n, uint8_t *codes) {
    const packed_numbers *w = &m->code_words;
    for (int32_t r = 0; r < n; r++) {
        int64_t place = awq_place(row0 + r);
        const char *p = w->p + place / 8 * 4;
        uint8_t *to = codes + (size_t)r * (size_t)m->k;
        for (int32_t i = 0; i < m->k; i++, p += w->item_step) {
            uint32_t word;
            memcpy(&word, p, sizeof word);
            to[i] = (uint8_t)(word >> place % 8 * 4 & 15);
        }
    }
}

static uint8_t awq_zero(const quant_module *m, int64_t row, int64_t group) {
    return packed_at(&m->zero_words, group, awq_place(row));
}

status quant_bind_awq(module_binder *b, quant_module *m) {
    int32_t group = group_of(b->scheme, m->k), n_groups = (m->k - 1) / group + 1;
    int64_t weight_dims[2] = {m->k, m->n / 8}, scale_dims[2] = {n_groups, m->n};
    int64_t zero_dims[2] = {n_groups, m->n / 8};
    module_tensor weight, zeros, scales;
    if (m->n % 8)
        return module_error(b, ".qweight", "%d outputs are no multiple of the 8 of a word", m->n);
    TRY(module_take(b, ".qweight", TYPE_MASK(DT_I32), 2, weight_dims, false, &weight));
    TRY(module_take(b, ".scales", TYPES_FLOAT, 2, scale_dims, false, &scales));
    TRY(module_take(b, ".qzeros", TYPE_MASK(DT_I32), 2, zero_dims, false, &zeros));
    m->dt = DT_INT4;
    m->spec.group = group;
    m->spec.scale_dt = scales.st->dt;
    m->spec.has_zeros = true;
    m->code_words = (packed_numbers){weight.p, m->n / 8 * (int64_t)4, 4, 4, true};
    m->zero_words = (packed_numbers){zeros.p, m->n / 8 * (int64_t)4, 4, 4, true};
    m->codes = awq_codes;
    m->zero = awq_zero;
    m->scales = scales.p;
    m->scale_div = 1;
    m->scale_row = 1;
    m->scale_step = m->n;
    return OK;
}

/* compressed-tensors: zeros are packed along the rows, [words of N, G]. */
static uint8_t packed_zero(const quant_module *m, int64_t row, int64_t group) {
    return packed_at(&m->zero_words, group, row);
}

/* Words of a line of n numbers: packed without gaps, or (3 bits, older files) 10 to a word. */
static bool line_words(int64_t n, int bits, int64_t found, bool *ret_dense) {
    int per_word = 32 / bits;
    *ret_dense = found == words(n, bits);
    return *ret_dense || found == (n + per_word - 1) / per_word;
}

/* weight_shape [2]: what the words hold. */
static status check_shape(module_binder *b, const quant_module *m) {
    int64_t two[1] = {2}, shape[2];
    module_tensor t;
    uint64_t types = TYPE_MASK(DT_I32) | TYPE_MASK(DT_I64);
    TRY(module_take(b, ".weight_shape", types, 1, two, true, &t));
    if (!t.st) return OK;
    for (int i = 0; i < 2; i++) {
        int32_t narrow;
        if (t.st->dt == DT_I64)
            memcpy(&shape[i], t.p + 8 * i, 8);
        else {
            memcpy(&narrow, t.p + 4 * i, 4);
            shape[i] = narrow;
        }
    }
    if (shape[0] == m->n && shape[1] == m->k) return OK;
    return module_error(b, ".weight_shape", "expected [%d, %d], found [%lld, %lld]", m->n, m->k,
                        (long long)shape[0], (long long)shape[1]);
}

static status packed_zeros(module_binder *b, quant_module *m) {
    int32_t n_groups = quant_groups(&m->spec, m->k);
    int64_t dims[2] = {-1, n_groups};
    bool dense;
    module_tensor zeros;
    m->spec.zero = (int16_t)(1 << (b->scheme->bits - 1));
    if (b->scheme->symmetric) return OK;
    TRY(module_take(b, ".weight_zero_point", TYPE_MASK(DT_I32), 2, dims, false, &zeros));
    if (!line_words(m->n, b->scheme->bits, zeros.st->dims[0], &dense))
        return module_error(b, ".weight_zero_point", "%lld lines cannot hold the zeros of %d rows",
                            (long long)zeros.st->dims[0], m->n);
    m->zero_words = (packed_numbers){zeros.p, 4, 4 * (int64_t)n_groups, b->scheme->bits, dense};
    m->zero = packed_zero;
    m->spec.has_zeros = true;
    m->spec.zero = 0; /* codes and zeros have the same offset */
    return OK;
}

/* -1 in an order: it was never set. */
static bool order_unset(const module_tensor *t) {
    int32_t first;
    if (!t->st) return true;
    memcpy(&first, t->p, sizeof first);
    return first == -1;
}

status quant_bind_packed(module_binder *b, quant_module *m) {
    int bits = b->scheme->bits;
    int64_t dims[2] = {m->n, -1}, order_dims[1] = {m->k};
    bool dense;
    module_tensor weight, scales, order;
    if (b->scheme->format != FORMAT_PACKED)
        return module_error(b, ".weight_packed", "the config's format is not pack-quantized");
    TRY(check_shape(b, m));
    TRY(module_take(b, ".weight_packed", TYPE_MASK(DT_I32), 2, dims, false, &weight));
    int64_t line = weight.st->dims[1];
    if (!line_words(m->k, bits, line, &dense))
        return module_error(b, ".weight_packed", "%lld words cannot hold %d codes of %d bits",
                            (long long)line, m->k, bits);
    TRY(module_take(b, ".weight_scale", TYPES_FLOAT, 2, (int64_t[]){-1, -1}, false, &scales));
    TRY(module_set_scales(b, m, ".weight_scale", &scales, b->scheme->group, 1));
    TRY(packed_zeros(b, m));
    TRY(module_take(b, ".weight_g_idx", TYPE_MASK(DT_I32), 1, order_dims, true, &order));
    m->dt = int_type(bits);
    m->code_words = (packed_numbers){weight.p, 4 * line, 4, bits, dense};
    m->codes = row_codes;
    if (!order_unset(&order)) TRY(module_set_order(b, m, ".weight_g_idx", &order));
    return quant_bind_acts(b, m);
}
