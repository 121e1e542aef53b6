/* Packing runs once per weight at load time, and most of a start is spent in it. It goes panel by
 * panel in strips of K: a strip of a panel (at most 16 KB) stays in L1 while all its columns are
 * scattered into it. The zero padding of the last panel and of an odd K is written whenever its
 * column is, so that packed bytes are the same for any split into ranges. */
#include "kernels/cpu/pack.h"

#include <string.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"

#define STRIP 128 /* elements of K converted at a time, even */

size_t pack_panel_bytes(int32_t k, dtype dt) {
    return (size_t)PANEL_COLS * dtype_bytes(dt) *
           (size_t)(dt == DT_BF16 ? ALIGN_UP((int64_t)k, 2) : k);
}

size_t pack_bytes(wmat_layout layout, int32_t n, int32_t k, dtype dt) {
    CHECK(n > 0 && k > 0);
    CHECK(dt == DT_F32 || dt == DT_F16 || dt == DT_BF16);
    if (layout == WMAT_ROWS) return (size_t)n * (size_t)k * dtype_bytes(dt);
    if (layout == WMAT_HALVES)
        return (size_t)CEIL_DIV(n, PANEL_COLS) *
               (pack_panel_bytes(k, DT_BF16) + PANEL_COLS * sizeof(float));
    return (size_t)CEIL_DIV(n, PANEL_COLS) * pack_panel_bytes(k, dt);
}

/* n elements of src from src_dt to dt. */
static void convert(const void *src, dtype src_dt, void *dst, dtype dt, int32_t n) {
    if (src_dt == dt) {
        memcpy(dst, src, (size_t)n * dtype_bytes(dt));
        return;
    }
    float f[STRIP];
    for (int32_t i = 0; i < n; i++)
        f[i] = src_dt == DT_F32   ? ((const float *)src)[i]
               : src_dt == DT_F16 ? f16_to_f32(((const uint16_t *)src)[i])
                                  : bf16_to_f32(((const uint16_t *)src)[i]);
    for (int32_t i = 0; i < n; i++)
        if (dt == DT_F32)
            ((float *)dst)[i] = f[i];
        else
            ((uint16_t *)dst)[i] = dt == DT_F16 ? f32_to_f16(f[i]) : f32_to_bf16(f[i]);
}

/* Put n converted elements, k0 .. k0+n-1 of column `col`, into its panel. */
static void scatter(void *panel, dtype dt, int32_t col, int32_t k0, int32_t n, const void *src) {
    if (dt == DT_F32) {
        float *p = (float *)panel + (int64_t)k0 * PANEL_COLS + col;
        for (int32_t i = 0; i < n; i++) p[(int64_t)i * PANEL_COLS] = ((const float *)src)[i];
    } else if (dt == DT_F16) {
        uint16_t *p = (uint16_t *)panel + (int64_t)k0 * PANEL_COLS + col;
        for (int32_t i = 0; i < n; i++) p[(int64_t)i * PANEL_COLS] = ((const uint16_t *)src)[i];
    } else { /* pairs; k0 is even, an odd n is the end of K */
        uint32_t *p = (uint32_t *)panel + (int64_t)(k0 / 2) * PANEL_COLS + col;
        const uint16_t *h = src;
        for (int32_t i = 0; i + 1 < n; i += 2) {
            uint32_t pair;
            memcpy(&pair, h + i, sizeof pair);
            p[(int64_t)(i / 2) * PANEL_COLS] = pair;
        }
        if (n % 2 == 1) {
            uint16_t last[2] = {h[n - 1], 0};
            memcpy(&p[(int64_t)(n / 2) * PANEL_COLS], last, sizeof last);
        }
    }
}

/* Columns [col0, col1) of a panel; src is row col0 of the source, NULL for zeros. */
static void pack_panel(const wmat *w, void *panel, int32_t col0, int32_t col1, const char *src,
                       dtype src_dt, size_t src_row) {
    _Alignas(64) char strip[STRIP * 4] = {0};
    for (int32_t k = 0; k < w->k; k += STRIP) {
        int32_t n = MIN(STRIP, w->k - k);
        for (int32_t col = col0; col < col1; col++) {
            const char *from = strip;
            if (src) {
                from = src + (size_t)(col - col0) * src_row + (size_t)k * dtype_bytes(src_dt);
                if (src_dt != w->dt) {
                    convert(from, src_dt, strip, w->dt, n);
                    from = strip;
                }
            }
            scatter(panel, w->dt, col, k, n, from);
        }
    }
}

void pack_rows_into(wmat *w, int32_t row0, int32_t n_rows, const void *src, dtype src_dt,
                    int64_t src_stride) {
    CHECK(row0 >= 0 && n_rows >= 0 && row0 + n_rows <= w->n);
    CHECK(src_dt == DT_F32 || src_dt == DT_F16 || src_dt == DT_BF16);
    const char *from = src;
    size_t src_row = (size_t)src_stride * dtype_bytes(src_dt);
    if (w->layout == WMAT_ROWS) {
        size_t dst_row = (size_t)w->k * dtype_bytes(w->dt);
        for (int32_t r = 0; r < n_rows; r++)
            for (int32_t k = 0; k < w->k; k += STRIP)
                convert(from + (size_t)r * src_row + (size_t)k * dtype_bytes(src_dt), src_dt,
                        (char *)w->data + (size_t)(row0 + r) * dst_row +
                            (size_t)k * dtype_bytes(w->dt),
                        w->dt, MIN(STRIP, w->k - k));
        return;
    }
    int32_t end = row0 + n_rows;
    for (int32_t row = row0, next; row < end; row = next) {
        next = MIN(end, (row / PANEL_COLS + 1) * PANEL_COLS);
        void *panel = (char *)w->data + (size_t)(row / PANEL_COLS) * pack_panel_bytes(w->k, w->dt);
        pack_panel(w, panel, row % PANEL_COLS, row % PANEL_COLS + next - row,
                   from + (size_t)(row - row0) * src_row, src_dt, src_row);
        if (next == w->n && next % PANEL_COLS) /* the columns after the last */
            pack_panel(w, panel, next % PANEL_COLS, PANEL_COLS, NULL, w->dt, 0);
    }
}

void pack_row_f32(const wmat *w, int32_t row, int32_t k0, int32_t n, float *ret) {
    const char *data = w->data;
    size_t size = dtype_bytes(w->dt);
    if (w->layout == WMAT_ROWS) {
        floats_f32(w->dt, data + ((size_t)row * (size_t)w->k + (size_t)k0) * size, (size_t)n, ret);
        return;
    }
    bool halves = w->layout == WMAT_HALVES;
    CHECK(halves || w->layout == WMAT_PANELS);
    dtype dt = halves ? DT_F16 : w->dt;
    size_t bytes = pack_bytes((wmat_layout)w->layout, PANEL_COLS, w->k, w->dt); /* of a panel */
    const char *panel = data + (size_t)(row / PANEL_COLS) * bytes;
    size_t pair = halves || dt == DT_BF16 ? 2 : 1, col = (size_t)(row % PANEL_COLS);
    float scale = 1;
    if (halves) memcpy(&scale, panel + bytes - (PANEL_COLS - col) * sizeof scale, sizeof scale);
    for (size_t k = (size_t)k0, end = k + (size_t)n; k < end; k++) {
        size_t at = k / pair * PANEL_COLS * pair + col * pair + k % pair;
        *ret++ = scale * dtype_to_f32(dt, panel + at * (halves ? 2 : size));
    }
}
