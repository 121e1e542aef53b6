/* Quantised weights, repacked for products of codes (narrow.h) and of values (values.h). A stored
 * row is read span by span (narrow_read.c): codes to a byte each, scales and offsets as the numbers
 * that the panel keeps; all of them are kept exactly. Then codes go into the row's column of the
 * panel a word at a time. */
#include "engine/base/check.h"
#include "kernels/cpu/narrow_read.h"
#include "kernels/quant_tables.h"

#define SPAN_LEAST 128 /* activations that share a scale, if the weights do not ask for more */
#define K_SPAN     256 /* of the K types: a superblock */

/* ---- Which storage is served, and how ---- */

static int32_t sub_of(int32_t group, int32_t k) {
    if (group >= k) return SPAN_LEAST;
    if (group == NARROW_SUB) return group;
    if (group % NARROW_PAD) return 0;
    for (int32_t parts = 1;; parts++) {
        int32_t sub = group / parts;
        if (group % parts == 0 && sub % NARROW_PAD == 0 && sub <= NARROW_SPAN) return sub;
    }
}

static const float e2m1[16] = {E2M1_VALUES}, iq4[16] = {IQ4_VALUES};

/* Four bits that stand for `values`, which are whole numbers times `unit`, from -zero on. */
static void set_table(narrow_panel *p, const float *values, float unit, int zero) {
    p->bits = NARROW_TABLE;
    p->zero = zero;
    p->mul *= unit;
    for (int i = 0; i < 16; i++) p->table[i] = (uint8_t)(values[i] / unit + (float)zero);
}

static narrow_bits bits_of_codes(dtype dt) {
    switch (dt) {
    case DT_INT2: return NARROW_TWO;
    case DT_INT3: return NARROW_THREE;
    case DT_INT8: return NARROW_BYTES;
    case DT_TABLE4: return NARROW_FLOATS;
    case DT_F8_E4M3: return NARROW_E4M3;
    case DT_F8_E5M2: return NARROW_E5M2;
    default: return NARROW_FOUR;
    }
}

/* Codes with scales apart. */
static bool panel_of_codes(dtype dt, const quant_spec *q, narrow_panel *p) {
    if (q->zero < -NARROW_ZERO_MAX || q->zero > NARROW_ZERO_MAX) return false;
    if (q->has_order && !q->whole_order) return false;
    p->bits = bits_of_codes(dt);
    p->sub = sub_of(q->group, p->k);
    p->mul = q->scale_mul;
    p->zero = q->zero;
    p->offsets = q->has_zeros ? NARROW_ZEROS : NARROW_CENTRED;
    p->scales = q->scale_dt == DT_F32                                 ? NARROW_F32
                : q->scale_dt == DT_F16 || q->scale_dt == DT_F8_E4M3  ? NARROW_F16
                : q->scale_dt == DT_BF16 || q->scale_dt == DT_F8_E8M0 ? NARROW_BF16
                                                                      : NARROW_SIX_S;
    if (dt == DT_E2M1 || p->bits > NARROW_BYTES) { /* floats have no zeros */
        p->zero = 0;
        p->offsets = NARROW_CENTRED;
    }
    if (dt == DT_E2M1) set_table(p, e2m1, 0.5f, 12);
    if (dt == DT_F8_E4M3) p->mul *= 256; /* see values_body.inc */
    return p->sub && p->scales != NARROW_SIX_S;
}

/* Types of 256. */
static bool panel_of_superblocks(dtype dt, narrow_panel *p) {
    bool is_16 = dt == DT_Q2_K || dt == DT_Q3_K || dt == DT_Q6_K;
    bool has_min = dt == DT_Q2_K || dt == DT_Q4_K || dt == DT_Q5_K;
    p->sub = is_16 ? 16 : 32;
    p->scales = has_min ? NARROW_SIX_U : NARROW_SIX_S;
    p->offsets = has_min ? NARROW_SIX_MIN : NARROW_CENTRED;
    switch (dt) {
    case DT_Q2_K: p->bits = NARROW_TWO; return true;
    case DT_Q3_K: p->bits = NARROW_THREE, p->zero = 4; return true;
    case DT_Q4_K: return true;
    case DT_Q5_K: p->bits = NARROW_FIVE; return true;
    case DT_Q6_K: p->bits = NARROW_SIX, p->zero = 32; return true;
    case DT_IQ4_XS: set_table(p, iq4, 1, 127); return true;
    default: break;
    }
    p->sub = K_SPAN; /* one scale for all */
    p->scales = dt == DT_Q8_K ? NARROW_F32 : NARROW_F16;
    p->bits = dt == DT_Q8_K ? NARROW_BYTES : NARROW_TWO;
    p->zero = dt == DT_Q8_K ? 128 : 1;
    return dt == DT_Q8_K || dt == DT_TQ1_0 || dt == DT_TQ2_0;
}

static bool panel_of_blocks(dtype dt, narrow_panel *p) {
    p->sub = 32;
    p->scales = NARROW_F16;
    switch (dt) {
    case DT_Q4_0: p->zero = 8; return true;
    case DT_Q4_1: p->offsets = NARROW_ADD_F16; return true;
    case DT_Q5_0: p->bits = NARROW_FIVE, p->zero = 16; return true;
    case DT_Q5_1: p->bits = NARROW_FIVE, p->offsets = NARROW_ADD_F16; return true;
    case DT_Q8_0:
    case DT_Q8_1: p->bits = NARROW_BYTES, p->zero = 128; return true;
    case DT_IQ4_NL: set_table(p, iq4, 1, 127); return true;
    case DT_MXFP4:
    case DT_NVFP4:
        set_table(p, e2m1, 0.5f, 12);
        p->scales = dt == DT_MXFP4 ? NARROW_BF16 : NARROW_F16;
        p->sub = dt == DT_MXFP4 ? 32 : 16;
        return true;
    default: return panel_of_superblocks(dt, p);
    }
}

static size_t side_bytes(const narrow_panel *p, int32_t subs) {
    static const size_t each[] = {0, 1, 2, 1};
    size_t bytes = narrow_scale_bytes(p, subs) + NARROW_COLS * each[p->offsets] * (size_t)subs;
    if (p->offsets == NARROW_SIX_MIN) bytes += NARROW_COLS * sizeof(uint16_t);
    return ALIGN_UP(bytes, (size_t)NARROW_ALIGN);
}

bool narrow_panel_of(dtype dt, const quant_spec *q, int32_t k, int32_t max_code,
                     narrow_panel *ret) {
    narrow_panel p = {.k = k, .mul = 1};
    bool ok =
        dtype_kind_of(dt) == DTYPE_GGUF ? panel_of_blocks(dt, &p) : q && panel_of_codes(dt, q, &p);
    bool by_codes = p.bits < NARROW_BYTES || (dt == DT_Q8_0 && max_code >= 255);
    if (!ok || (!by_codes && max_code != NARROW_VALUES)) return false;
    if (p.bits == NARROW_TABLE)
        for (int i = 0; i < 16; i++)
            if (p.table[i] > max_code) return false;
    int32_t least = p.sub == NARROW_SUB ? MAX(NARROW_PAD, dtype_block(dt)) : SPAN_LEAST;
    p.span = p.scales >= NARROW_SIX_U ? K_SPAN : p.sub * CEIL_DIV(least, p.sub);
    if (p.span > NARROW_SPAN) p.span = p.sub;
    p.n_spans = CEIL_DIV(k, p.span);
    p.unit = narrow_unit_cols(p.bits);
    p.unit_bytes = (size_t)narrow_unit_bytes(p.bits);
    p.side = quant_side_bytes(dt, q, k);
    p.span_bytes = narrow_code_bytes(&p, p.span) + side_bytes(&p, p.span / p.sub);
    int32_t last = narrow_cols(&p, p.n_spans - 1);
    p.bytes = (size_t)(p.n_spans - 1) * p.span_bytes + narrow_code_bytes(&p, last) +
              side_bytes(&p, narrow_subs(&p, last));
    *ret = p;
    return true;
}

size_t narrow_bytes(const narrow_panel *p, int32_t n) {
    return p->side + (size_t)CEIL_DIV(n, NARROW_COLS) * p->bytes;
}

/* ---- Into a panel ---- */

static uint32_t four_codes(const uint8_t *codes) {
    uint32_t four;
    memcpy(&four, codes, sizeof four);
    return four;
}

/* Bits [shift, shift + width) of n codes in the bytes of a word. */
static void put_bits(const uint8_t *codes, int32_t n, int shift, int width, uint8_t *to) {
    uint32_t word = 0, mask = 0x01010101u * ((1u << width) - 1);
    for (int32_t k = 0; k < n; k += 4)
        word |= (four_codes(codes + k) >> shift & mask) << k / 4 * width;
    memcpy(to, &word, sizeof word);
}

/* The words of a column of one unit. */
static void put_unit(const narrow_panel *p, const uint8_t *codes, int32_t col, uint8_t *to) {
    if (p->bits >= NARROW_E4M3) {
        for (int32_t k = 0; k < p->unit; k += 2)
            memcpy(to + k * NARROW_COLS + 2 * col, codes + k, 2);
        return;
    }
    to += 4 * col;
    if (p->bits == NARROW_BYTES) {
        for (int32_t k = 0; k < p->unit; k += 4) memcpy(to + k * NARROW_COLS, codes + k, 4);
        return;
    }
    if (p->bits == NARROW_TWO || p->bits == NARROW_THREE) {
        for (int32_t k = 0; k < p->unit; k += 16, to += 4 * NARROW_COLS)
            put_bits(codes + k, 16, 0, 2, to);
        if (p->bits == NARROW_THREE) put_bits(codes, 32, 2, 1, to);
        return;
    }
    for (int32_t k = 0; k < p->unit; k += 8, to += 4 * NARROW_COLS) {
        uint32_t low = four_codes(codes + k), high = four_codes(codes + k + 4);
        low = (low & 0x0F0F0F0F) | (high & 0x0F0F0F0F) << 4;
        memcpy(to, &low, sizeof low);
    }
    if (p->bits == NARROW_FIVE) put_bits(codes, 32, 4, 1, to);
    if (p->bits == NARROW_SIX) put_bits(codes, 16, 4, 2, to);
}

static void put_scales(const narrow_panel *p, const narrow_span *v, int32_t subs, int32_t col,
                       uint8_t *to) {
    if (p->scales >= NARROW_SIX_U) {
        memcpy(to + 2 * col, &v->d, sizeof v->d);
        to += 2 * NARROW_COLS;
        for (int32_t s = 0; s < subs; s++) to[s * NARROW_COLS + col] = v->six[s];
        return;
    }
    for (int32_t s = 0; s < subs; s++) {
        int32_t at = s * NARROW_COLS + col;
        uint16_t half =
            p->scales == NARROW_F16 ? f32_to_f16(v->scales[s]) : f32_to_bf16(v->scales[s]);
        if (p->scales == NARROW_F32)
            memcpy(to + 4 * at, &v->scales[s], sizeof v->scales[s]);
        else
            memcpy(to + 2 * at, &half, sizeof half);
    }
}

static void put_offsets(const narrow_panel *p, const narrow_span *v, int32_t subs, int32_t col,
                        uint8_t *to) {
    if (p->offsets == NARROW_CENTRED) return;
    if (p->offsets == NARROW_SIX_MIN) {
        memcpy(to + 2 * col, &v->dmin, sizeof v->dmin);
        to += 2 * NARROW_COLS;
    }
    for (int32_t s = 0; s < subs; s++) {
        int32_t at = s * NARROW_COLS + col;
        if (p->offsets == NARROW_ADD_F16)
            memcpy(to + 2 * at, &v->adds[s], sizeof v->adds[s]);
        else
            to[at] = v->offsets[s];
    }
}

static void put_span(const narrow_panel *p, const narrow_span *v, int32_t cols, int32_t col,
                     uint8_t *to) {
    int32_t subs = narrow_subs(p, cols);
    for (int32_t k = 0; k < cols; k += p->unit, to += p->unit_bytes)
        put_unit(p, v->codes + k, col, to);
    put_scales(p, v, subs, col, to);
    put_offsets(p, v, subs, col, to + narrow_scale_bytes(p, subs));
}

void narrow_side(const wmat *w, const int32_t *order, const float *table) {
    quant_pack_side(w->dt, &w->q, w->k, order, table, w->data);
    if (w->q.has_order) CHECK(quant_sort_columns(&w->q, w->k, order, w->data));
}

void narrow_pack(const narrow_panel *p, const wmat *w, int32_t row0, int32_t n_rows,
                 const void *rows) {
    size_t row_bytes = quant_row_bytes(w->dt, &w->q, w->k);
    const uint8_t *row = rows;
    for (int32_t r = row0; r < row0 + n_rows; r++, row += row_bytes) {
        uint8_t *panel = (uint8_t *)w->data + p->side + (size_t)(r / NARROW_COLS) * p->bytes;
        for (int32_t i = 0; i < p->n_spans; i++) {
            narrow_span v = {0};
            int32_t k0 = i * p->span;
            narrow_read(p, w, row, k0, MIN(p->span, p->k - k0), &v);
            put_span(p, &v, narrow_cols(p, i), r % NARROW_COLS, panel + (size_t)i * p->span_bytes);
        }
    }
}
