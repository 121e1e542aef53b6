/* Matrix product with quantised weights by their values in f32. Where the level has a value row and
 * it serves the storage, few rows are multiplied as codes are read (values_body.inc). More rows,
 * and what it does not serve: a panel of weights is expanded into the layout of the level's f32 row
 * in the member's own scratch, then that row multiplies it with all of `a`.
 *
 * So the arithmetic is that of f32 weights, bit for bit, whatever the number of rows, the threads
 * or the storage. Members take whole panels: sharing rows of `a` instead would expand every panel
 * more than once. Rows are rounded as the matrix asks when they are prepared (product.c). Storage
 * that is multiplied code by code does not come here (codes.h). */
#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/cpu/narrow.h"
#include "kernels/cpu/product.h"

static size_t strip_bytes(const gemm_row *row) {
    return (size_t)row->pack_rows * QUANT_STRIP * sizeof(float);
}

/* Four columns of four rows, by shuffles: a plain loop would move one float at a time. */
typedef float four __attribute__((vector_size(16)));

static void transpose4(const float *src, float *to) {
    four r[4], low[2], high[2];
    for (int i = 0; i < 4; i++) memcpy(&r[i], src + i * QUANT_STRIP, sizeof r[i]);
    for (int i = 0; i < 2; i++) {
        low[i] = __builtin_shufflevector(r[i], r[i + 2], 0, 4, 1, 5);
        high[i] = __builtin_shufflevector(r[i], r[i + 2], 2, 6, 3, 7);
    }
    four out[4] = {__builtin_shufflevector(low[0], low[1], 0, 4, 1, 5),
                   __builtin_shufflevector(low[0], low[1], 2, 6, 3, 7),
                   __builtin_shufflevector(high[0], high[1], 0, 4, 1, 5),
                   __builtin_shufflevector(high[0], high[1], 2, 6, 3, 7)};
    for (int i = 0; i < 4; i++) memcpy(to + i * PANEL_COLS, &out[i], sizeof out[i]);
}

/* Columns [k0, k0+n) of the panel's rows, strips [rows][QUANT_STRIP] -> panel. Rows past the last
 * are zeros in panels; a row-major layout is not read past its last row. */
static void put_strip(const gemm_row *row, int32_t k, int32_t n_rows, int32_t k0, int32_t n,
                      const float *strip, float *panel) {
    if (row->layout == WMAT_ROWS) {
        for (int32_t r = 0; r < n_rows; r++)
            memcpy(panel + (int64_t)r * k + k0, strip + r * QUANT_STRIP, (size_t)n * sizeof(float));
        return;
    }
    float *to = panel + (int64_t)k0 * PANEL_COLS;
    int32_t i = 0;
    for (; i + 4 <= n; i += 4, to += 4 * PANEL_COLS)
        for (int32_t r = 0; r < PANEL_COLS; r += 4) transpose4(strip + r * QUANT_STRIP + i, to + r);
    for (; i < n; i++, to += PANEL_COLS)
        for (int32_t r = 0; r < PANEL_COLS; r++) to[r] = strip[r * QUANT_STRIP + i];
}

/* Bytes of a panel in the f32 layout. */
static size_t panel_bytes(const gemm_row *row, int32_t k) {
    size_t cols = (size_t)ALIGN_UP(k, NARROW_PAD); /* up to which value rows expand */
    return (size_t)row->pack_rows * cols * sizeof(float);
}

/* A panel of stored rows. */
static void expand_panel(const product *p, int32_t row0, int32_t n_rows, float *strip,
                         float *panel) {
    const wmat *w = p->g.w;
    size_t row_bytes = quant_row_bytes(w->dt, &w->q, w->k);
    const char *first =
        (const char *)w->data + quant_side_bytes(w->dt, &w->q, w->k) + (size_t)row0 * row_bytes;
    memset(strip, 0, strip_bytes(p->row));
    for (int32_t k0 = 0; k0 < w->k; k0 += QUANT_STRIP) {
        int32_t n = MIN(QUANT_STRIP, w->k - k0);
        for (int32_t r = 0; r < n_rows; r++)
            quant_row_f32(w->dt, &w->q, w->k, w->data, first + (size_t)r * row_bytes, k0, n,
                          strip + r * QUANT_STRIP);
        put_strip(p->row, w->k, n_rows, k0, n, strip, panel);
    }
}

size_t gemm_quant_scratch(const product *p) {
    const gemm_row *row = p->row;
    int32_t k = p->g.w->k;
    return strip_bytes(row) + panel_bytes(row, k) + row->scratch_bytes(p->g.m, row->pack_rows, k);
}

void gemm_quant_panel(const product *p, const op_gemm *given, int32_t tile0, int32_t tile1,
                      int32_t panel, char *scratch) {
    const wmat *w = p->g.w;
    int32_t row0 = panel * p->row->pack_rows, n = MIN(p->row->pack_rows, w->n - row0);
    size_t bytes = panel_bytes(p->row, w->k);
    float *strip = (float *)scratch, *values = (float *)(scratch + strip_bytes(p->row));
    if (p->values)
        p->values->expand(w, panel, values);
    else
        expand_panel(p, row0, n, strip, values);
    wmat wide = {n, w->k, DT_F32, (int32_t)p->row->layout, values, bytes, {0}};
    op_gemm g = *given;
    g.w = &wide;
    g.out += row0;
    if (g.bias) g.bias += row0;
    gemm_job j = {&g, p->row->a_bytes ? p->a : NULL, p->n_tiles, tile0, tile1, 0,
                  1,  (char *)values + bytes};
    p->row->run(&j);
}

bool cpu_has_values(const cpu_backend *c, dtype dt, const quant_spec *q, int32_t k) {
    narrow_panel p;
    return c->rows.values && narrow_panel_of(dt, q, k, NARROW_VALUES, &p);
}
