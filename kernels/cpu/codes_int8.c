/* Packing of 8-bit codes. Rows arrive as they are stored (quant.h) and are scattered into their
 * column of the panel, four columns of K at a time. q8_0's signed bytes become unsigned ones with
 * the zero 128, which is how a spec says int8 too. */
#include "engine/base/check.h"
#include "kernels/cpu/codes.h"

#define Q8_ZERO 128

static const quant_spec q8_0 = {.group = 32, .scale_dt = DT_F16, .zero = Q8_ZERO, .scale_mul = 1};

static const quant_spec *spec_of(dtype dt, const quant_spec *q) {
    return dt == DT_Q8_0 ? &q8_0 : q;
}

codes_panel codes_int8_panel(dtype dt, const quant_spec *q, int32_t k) {
    return codes_panel_of(8, spec_of(dt, q), k);
}

int32_t codes_int8_chunk(dtype dt, const quant_spec *q, int32_t k) {
    if (dt != DT_INT8 && dt != DT_Q8_0) return 0;
    q = spec_of(dt, q);
    return codes_panel_ok(q) ? codes_chunk(q->group, k) : 0;
}

int32_t codes_int8_alone_chunk(dtype dt, const quant_spec *q, int32_t k) {
    return dt == DT_INT8 ? codes_int8_chunk(dt, q, k) : 0;
}

size_t codes_int8_bytes(dtype dt, const quant_spec *q, int32_t n, int32_t k) {
    codes_panel p = codes_int8_panel(dt, q, k);
    return (size_t)CEIL_DIV(n, CODES_COLS) * p.bytes;
}

/* A chunk's codes into column `col`; columns of K past the last are padded. */
static void put_codes(const uint8_t *codes, int32_t n, int32_t cols, uint8_t flip, uint8_t *to) {
    for (int32_t k = 0; k < cols; k += 4, to += 4 * CODES_COLS)
        for (int32_t i = 0; i < 4; i++) to[i] = k + i < n ? codes[k + i] ^ flip : flip;
}

static void pack_q8_0(const codes_panel *p, const uint8_t *row, int32_t col, uint8_t *panel) {
    for (int32_t i = 0; i < p->n_chunks; i++, row += dtype_block_bytes(DT_Q8_0)) {
        put_codes(row + 2, CODES_UNIT, CODES_UNIT, Q8_ZERO,
                  panel + (size_t)i * p->chunk_bytes + 4 * col);
        codes_panel_put(p, panel, i, col, dtype_to_f32(DT_F16, row), Q8_ZERO);
    }
}

static void pack_int8(const codes_panel *p, const quant_spec *q, const uint8_t *row, int32_t col,
                      uint8_t *panel) {
    const uint8_t *scales = row + p->k;
    const uint8_t *zeros = scales + dtype_bytes(q->scale_dt) * (size_t)quant_groups(q, p->k);
    for (int32_t i = 0; i < p->n_chunks; i++) {
        int32_t k = i * p->chunk, g = k / q->group;
        put_codes(row + k, MIN(p->chunk, p->k - k), codes_chunk_cols(p->k, p->chunk, i), 0,
                  panel + (size_t)i * p->chunk_bytes + 4 * col);
        const uint8_t *scale = scales + dtype_bytes(q->scale_dt) * (size_t)g;
        codes_panel_put(p, panel, i, col, dtype_to_f32(q->scale_dt, scale) * q->scale_mul,
                        q->zero + (q->has_zeros ? zeros[g] : 0));
    }
}

void codes_int8_pack(const wmat *w, int32_t row0, int32_t n_rows, const void *rows) {
    codes_panel p = codes_int8_panel(w->dt, &w->q, w->k);
    size_t row_bytes = quant_row_bytes(w->dt, &w->q, w->k);
    const uint8_t *row = rows;
    for (int32_t r = row0; r < row0 + n_rows; r++, row += row_bytes) {
        uint8_t *panel = (uint8_t *)w->data + (size_t)(r / CODES_COLS) * p.bytes;
        if (w->dt == DT_Q8_0)
            pack_q8_0(&p, row, r % CODES_COLS, panel);
        else
            pack_int8(&p, &w->q, row, r % CODES_COLS, panel);
    }
}
