/* Weights of four to eight bits, repacked for products of codes (narrow.h). A stored row is read
 * span by span: codes to a byte each, scales and offsets as the numbers that the panel keeps; all
 * of them are kept exactly. Then codes go into the row's column of the panel a word at a time. */
#include "kernels/cpu/narrow.h"

#include "engine/base/check.h"

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

/* Codes with scales apart. */
static bool panel_of_codes(dtype dt, const quant_spec *q, narrow_panel *p) {
    static const uint8_t e2m1_doubled[16] = {12, 13, 14, 15, 16, 18, 20, 24,
                                             12, 11, 10, 9,  8,  6,  4,  0};
    if (dt != DT_INT4 && dt != DT_E2M1) return false;
    if (q->has_order || q->zero < -NARROW_ZERO_MAX || q->zero > NARROW_ZERO_MAX) return false;
    p->sub = sub_of(q->group, p->k);
    p->mul = q->scale_mul;
    p->zero = q->zero;
    p->offsets = q->has_zeros ? NARROW_ZEROS : NARROW_CENTRED;
    p->scales = q->scale_dt == DT_F32                                 ? NARROW_F32
                : q->scale_dt == DT_F16 || q->scale_dt == DT_F8_E4M3  ? NARROW_F16
                : q->scale_dt == DT_BF16 || q->scale_dt == DT_F8_E8M0 ? NARROW_BF16
                                                                      : NARROW_SIX_S;
    if (dt == DT_E2M1) {
        if (q->has_zeros || q->zero) return false;
        p->bits = NARROW_TABLE;
        p->zero = 12;
        p->mul *= 0.5f;
        memcpy(p->table, e2m1_doubled, sizeof e2m1_doubled);
    }
    return p->sub && p->scales != NARROW_SIX_S;
}

static void set_table(narrow_panel *p, const int8_t *values, int zero) {
    p->bits = NARROW_TABLE;
    p->zero = zero;
    for (int i = 0; i < 16; i++) p->table[i] = (uint8_t)(values[i] + zero);
}

static bool panel_of_blocks(dtype dt, narrow_panel *p) {
    static const int8_t iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                   1,    13,   25,  38,  53,  69,  89,  113};
    static const int8_t e2m1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    bool is_k = dtype_block(dt) == K_SPAN;
    p->sub = dt == DT_Q6_K ? 16 : 32;
    p->scales = !is_k ? NARROW_F16 : dt == DT_Q6_K ? NARROW_SIX_S : NARROW_SIX_U;
    switch (dt) {
    case DT_Q4_0: p->zero = 8; return true;
    case DT_Q4_1: p->offsets = NARROW_ADD_F16; return true;
    case DT_Q5_0: p->bits = NARROW_FIVE, p->zero = 16; return true;
    case DT_Q5_1: p->bits = NARROW_FIVE, p->offsets = NARROW_ADD_F16; return true;
    case DT_Q4_K: p->offsets = NARROW_SIX_MIN; return true;
    case DT_Q5_K: p->bits = NARROW_FIVE, p->offsets = NARROW_SIX_MIN; return true;
    case DT_Q6_K: p->bits = NARROW_SIX, p->zero = 32; return true;
    case DT_Q8_0: p->bits = NARROW_BYTES, p->zero = 128; return true;
    case DT_IQ4_NL: set_table(p, iq4, 127); return true;
    case DT_MXFP4:
        set_table(p, e2m1, 12);
        p->scales = NARROW_BF16;
        p->mul = 0.5f;
        return true;
    default: return false;
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
    static const int32_t units[] = {16, 16, 32, 16, 16};
    static const int32_t widths[] = {4, 4, 5, 6, 8};
    narrow_panel p = {.k = k, .mul = 1};
    bool ok =
        dtype_kind_of(dt) == DTYPE_GGUF ? panel_of_blocks(dt, &p) : q && panel_of_codes(dt, q, &p);
    if (!ok) return false;
    if (p.bits == NARROW_TABLE)
        for (int i = 0; i < 16; i++)
            if (p.table[i] > max_code) return false;
    if (p.bits == NARROW_BYTES && max_code < 255) return false;
    int32_t least = p.sub == NARROW_SUB ? NARROW_PAD : SPAN_LEAST;
    p.span = p.scales >= NARROW_SIX_U ? K_SPAN : p.sub * CEIL_DIV(least, p.sub);
    if (p.span > NARROW_SPAN) p.span = p.sub;
    p.n_spans = CEIL_DIV(k, p.span);
    p.unit = units[p.bits];
    p.unit_bytes = (size_t)(p.unit * NARROW_COLS * widths[p.bits] / 8);
    p.span_bytes = narrow_code_bytes(&p, p.span) + side_bytes(&p, p.span / p.sub);
    int32_t last = narrow_cols(&p, p.n_spans - 1);
    p.bytes = (size_t)(p.n_spans - 1) * p.span_bytes + narrow_code_bytes(&p, last) +
              side_bytes(&p, narrow_subs(&p, last));
    *ret = p;
    return true;
}

size_t narrow_bytes(const narrow_panel *p, int32_t n) {
    return (size_t)CEIL_DIV(n, NARROW_COLS) * p->bytes;
}

/* ---- A span of a stored row ---- */

typedef struct span_values {
    uint8_t codes[NARROW_SPAN]; /* zeros behind the last */
    float scales[NARROW_SUBS];  /* of F16, BF16, F32 */
    uint8_t six[NARROW_SUBS];   /* of SIX_U and SIX_S, and d and dmin as f16 */
    uint16_t d, dmin;
    uint8_t offsets[NARROW_SUBS]; /* zeros, or SIX_MIN */
    uint16_t adds[NARROW_SUBS];   /* ADD_F16 */
} span_values;

static uint16_t half_at(const uint8_t *b) {
    return (uint16_t)(b[0] | b[1] << 8);
}

/* 32 codes whose low halves come first. */
static void halves(const uint8_t *b, int n, uint8_t *to) {
    for (int i = 0; i < n; i++) to[i] = b[i] & 15;
    for (int i = 0; i < n; i++) to[n + i] = b[i] >> 4;
}

static void read_codes(const narrow_panel *p, dtype dt, const quant_spec *q, const uint8_t *row,
                       int32_t k0, int32_t n, span_values *v) {
    const uint8_t *codes = row + k0 / 2, *scales = row + dtype_row_bytes(dt, p->k);
    size_t bytes = dtype_bytes(q->scale_dt);
    const uint8_t *zeros = scales + bytes * (size_t)quant_groups(q, p->k);
    for (int32_t i = 0; i < n; i++) v->codes[i] = codes[i / 2] >> 4 * (i % 2) & 15;
    for (int32_t s = 0; s * p->sub < n; s++) {
        int32_t g = (k0 + s * p->sub) / q->group;
        v->scales[s] = dtype_to_f32(q->scale_dt, scales + bytes * (size_t)g);
        if (q->has_zeros) v->offsets[s] = zeros[g];
    }
}

/* Blocks of 32: d, then signed bytes of q8_0, whose zero becomes 128; or a minimum of the types
 * .._1, the fifth bits, halves. */
static void read_block32(dtype dt, const uint8_t *b, int32_t s, span_values *v) {
    if (dt == DT_Q8_0) {
        v->scales[s] = f16_to_f32(half_at(b));
        for (int i = 0; i < 32; i++) v->codes[32 * s + i] = b[2 + i] ^ 128;
        return;
    }
    bool is_five = dt == DT_Q5_0 || dt == DT_Q5_1, has_min = dt == DT_Q4_1 || dt == DT_Q5_1;
    v->scales[s] = dt == DT_MXFP4 ? f8_e8m0_to_f32(b[0]) : f16_to_f32(half_at(b));
    b += dt == DT_MXFP4 ? 1 : 2;
    if (has_min) v->adds[s] = half_at(b), b += 2;
    uint8_t *codes = v->codes + 32 * s;
    halves(b + (is_five ? 4 : 0), 16, codes);
    for (int i = 0; is_five && i < 32; i++) codes[i] |= (uint8_t)((b[i / 8] >> i % 8 & 1) << 4);
}

/* q4_K and q5_K: d, dmin, 12 bytes of scales and minima, fifth bits of q5_K, halves of 64. */
static void read_q45_k(dtype dt, const uint8_t *b, span_values *v) {
    const uint8_t *s = b + 4, *high = b + 16, *low = high + (dt == DT_Q5_K ? 32 : 0);
    v->d = half_at(b);
    v->dmin = half_at(b + 2);
    for (int i = 0; i < 4; i++) {
        v->six[i] = s[i] & 63;
        v->offsets[i] = s[i + 4] & 63;
        v->six[i + 4] = (uint8_t)((s[i + 8] & 15) | (s[i] >> 6) << 4);
        v->offsets[i + 4] = (uint8_t)(s[i + 8] >> 4 | (s[i + 4] >> 6) << 4);
    }
    for (int i = 0; i < 4; i++) halves(low + 32 * i, 32, v->codes + 64 * i);
    for (int i = 0; dt == DT_Q5_K && i < 8; i++)
        for (int l = 0; l < 32; l++) v->codes[32 * i + l] |= (uint8_t)((high[l] >> i & 1) << 4);
}

/* q6_K: low halves, two bits above them, a signed scale for each 16, d. */
static void read_q6_k(const uint8_t *b, span_values *v) {
    for (int half = 0; half < 2; half++) {
        const uint8_t *low = b + 64 * half, *high = b + 128 + 32 * half;
        uint8_t *to = v->codes + 128 * half;
        halves(low, 64, to);
        for (int i = 0; i < 4; i++)
            for (int l = 0; l < 32; l++) to[32 * i + l] |= (uint8_t)((high[l] >> 2 * i & 3) << 4);
    }
    memcpy(v->six, b + 192, NARROW_SUBS);
    v->d = half_at(b + 208);
}

static void read_span(const narrow_panel *p, const wmat *w, const uint8_t *row, int32_t k0,
                      int32_t n, span_values *v) {
    const uint8_t *b = row + (dtype_kind_of(w->dt) == DTYPE_GGUF ? dtype_row_bytes(w->dt, k0) : 0);
    if (dtype_kind_of(w->dt) == DTYPE_CODES)
        read_codes(p, w->dt, &w->q, row, k0, n, v);
    else if (w->dt == DT_Q6_K)
        read_q6_k(b, v);
    else if (p->scales == NARROW_SIX_U)
        read_q45_k(w->dt, b, v);
    else
        for (int32_t s = 0; s < n / 32; s++, b += dtype_block_bytes(w->dt))
            read_block32(w->dt, b, s, v);
}

/* ---- Into a panel ---- */

static uint32_t four_codes(const uint8_t *codes) {
    uint32_t four;
    memcpy(&four, codes, sizeof four);
    return four;
}

/* The words of a column of one unit. */
static void put_unit(const narrow_panel *p, const uint8_t *codes, int32_t col, uint8_t *to) {
    to += 4 * col;
    if (p->bits == NARROW_BYTES) {
        for (int32_t k = 0; k < p->unit; k += 4, to += 4 * NARROW_COLS) memcpy(to, codes + k, 4);
        return;
    }
    for (int32_t k = 0; k < p->unit; k += 8, to += 4 * NARROW_COLS) {
        uint32_t low = four_codes(codes + k), high = four_codes(codes + k + 4);
        low = (low & 0x0F0F0F0F) | (high & 0x0F0F0F0F) << 4;
        memcpy(to, &low, sizeof low);
    }
    if (p->bits != NARROW_FIVE && p->bits != NARROW_SIX) return;
    int width = p->bits == NARROW_FIVE ? 1 : 2;
    uint32_t above = 0, mask = p->bits == NARROW_FIVE ? 0x01010101 : 0x03030303;
    for (int32_t k = 0; k < p->unit; k += 4)
        above |= (four_codes(codes + k) >> 4 & mask) << k / 4 * width;
    memcpy(to, &above, sizeof above);
}

static void put_scales(const narrow_panel *p, const span_values *v, int32_t subs, int32_t col,
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

static void put_offsets(const narrow_panel *p, const span_values *v, int32_t subs, int32_t col,
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

static void put_span(const narrow_panel *p, const span_values *v, int32_t cols, int32_t col,
                     uint8_t *to) {
    int32_t subs = narrow_subs(p, cols);
    for (int32_t k = 0; k < cols; k += p->unit, to += p->unit_bytes)
        put_unit(p, v->codes + k, col, to);
    put_scales(p, v, subs, col, to);
    put_offsets(p, v, subs, col, to + narrow_scale_bytes(p, subs));
}

void narrow_pack(const narrow_panel *p, const wmat *w, int32_t row0, int32_t n_rows,
                 const void *rows) {
    size_t row_bytes = quant_row_bytes(w->dt, &w->q, w->k);
    const uint8_t *row = rows;
    for (int32_t r = row0; r < row0 + n_rows; r++, row += row_bytes) {
        uint8_t *panel = (uint8_t *)w->data + (size_t)(r / NARROW_COLS) * p->bytes;
        for (int32_t i = 0; i < p->n_spans; i++) {
            span_values v = {0};
            int32_t k0 = i * p->span;
            read_span(p, w, row, k0, MIN(p->span, p->k - k0), &v);
            put_span(p, &v, narrow_cols(p, i), r % NARROW_COLS, panel + (size_t)i * p->span_bytes);
        }
    }
}
