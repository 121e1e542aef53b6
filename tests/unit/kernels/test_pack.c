/* Packed layouts element by element, ranges in any split, and the choice of rows and grids. */
#include <check.h>
#include <math.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/pack.h"
#include "tests/unit/suite.h"

/* The value of row n, column k: different for each, exact in f16 and bf16. */
static float value(int32_t n, int32_t k) {
    return (float)((n * 7 + k * 3) % 251 + 1);
}

static float stored(const wmat *w, int64_t at) {
    if (w->dt == DT_F32) return ((const float *)w->data)[at];
    uint16_t h = ((const uint16_t *)w->data)[at];
    return w->dt == DT_F16 ? f16_to_f32(h) : bf16_to_f32(h);
}

/* Element (n,k) by the layout as rows.h states it. */
static float element(const wmat *w, int32_t n, int32_t k) {
    if (w->layout == WMAT_ROWS) return stored(w, (int64_t)n * w->k + k);
    int64_t k_padded = w->dt == DT_BF16 ? (w->k + 1) / 2 * 2 : w->k, panel = n / 32 * k_padded * 32;
    if (w->dt == DT_BF16) return stored(w, panel + (int64_t)(k / 2) * 64 + n % 32 * 2 + k % 2);
    return stored(w, panel + (int64_t)k * 32 + n % 32);
}

static void check_packed(wmat_layout layout, dtype dt, dtype src_dt, int32_t n, int32_t k,
                         int32_t cut) {
    size_t bytes = pack_bytes(layout, n, k, dt);
    wmat w = {n, k, dt, layout, mem_alloc(bytes), bytes, {0}};
    memset(w.data, 0x5A, bytes);
    int64_t stride = k + 3;
    char *src = mem_calloc((size_t)(n * stride), 4);
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < k; j++) {
            int64_t at = i * stride + j;
            if (src_dt == DT_F32)
                ((float *)src)[at] = value(i, j);
            else
                ((uint16_t *)src)[at] =
                    src_dt == DT_F16 ? f32_to_f16(value(i, j)) : f32_to_bf16(value(i, j));
        }
    size_t skip = (size_t)(cut * stride) * dtype_bytes(src_dt);
    pack_rows_into(&w, cut, n - cut, src + skip, src_dt, stride);
    pack_rows_into(&w, 0, cut, src, src_dt, stride);
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < k; j++)
            if (element(&w, i, j) != value(i, j)) ck_abort_msg("element %d,%d is wrong", i, j);
    float *row = mem_alloc((size_t)k * sizeof *row);
    for (int32_t i = 0; i < n; i++) {
        int32_t k0 = i % k;
        pack_row_f32(&w, i, k0, k - k0, row);
        for (int32_t j = k0; j < k; j++) ck_assert(row[j - k0] == value(i, j));
    }
    mem_free(row);
    if (layout == WMAT_PANELS) { /* padding is zero: all of it is added up */
        double sum = 0, want = 0;
        for (size_t i = 0; i < bytes / dtype_bytes(dt); i++) sum += stored(&w, (int64_t)i);
        for (int32_t i = 0; i < n; i++)
            for (int32_t j = 0; j < k; j++) want += value(i, j);
        ck_assert_double_eq(sum, want);
    }
    mem_free(w.data), mem_free(src);
}

START_TEST(layouts_hold_every_element) {
    static const dtype types[] = {DT_F32, DT_F16, DT_BF16};
    for (int layout = 0; layout < 2; layout++)
        for (int d = 0; d < 3; d++)
            for (int s = 0; s < 3; s++) {
                check_packed(layout, types[d], types[s], 1, 1, 0);
                check_packed(layout, types[d], types[s], 70, 257, 13);
                check_packed(layout, types[d], types[s], 64, 128, 32);
                check_packed(layout, types[d], types[s], 33, 301, 32);
            }
}
END_TEST

/* WMAT_HALVES as rows.h states it: exact for such values whatever the row's scale, in any split. */
static void check_halves(const gemm_row *row, dtype dt, dtype src_dt, int32_t n, int32_t k,
                         int32_t cut) {
    size_t bytes = pack_bytes(WMAT_HALVES, n, k, dt);
    wmat w = {n, k, dt, WMAT_HALVES, mem_alloc(bytes), bytes, {0}};
    memset(w.data, 0x5A, bytes);
    char *src = mem_calloc((size_t)n * (size_t)k, 4);
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < k; j++) {
            float v = ldexpf(value(i, j), i % 9 - 12);
            int32_t at = i * k + j;
            if (src_dt == DT_F32)
                ((float *)src)[at] = v;
            else
                ((uint16_t *)src)[at] = src_dt == DT_F16 ? f32_to_f16(v) : f32_to_bf16(v);
        }
    row->pack(&w, cut, n - cut, src + (size_t)(cut * k) * dtype_bytes(src_dt), src_dt, k);
    row->pack(&w, 0, cut, src, src_dt, k);
    int32_t pairs = (k + 1) / 2, n_cols = ALIGN_UP(n, PANEL_COLS);
    size_t panel_bytes = (size_t)pairs * PANEL_COLS * 4 + PANEL_COLS * sizeof(float);
    for (int32_t i = 0; i < n_cols; i++) {
        const char *panel = (const char *)w.data + (size_t)(i / PANEL_COLS) * panel_bytes;
        float inverse = ((const float *)(panel + (size_t)pairs * PANEL_COLS * 4))[i % PANEL_COLS];
        float largest = 0;
        for (int32_t j = 0; j < 2 * pairs; j++) {
            float h = f16_to_f32(
                ((const uint16_t *)panel)[(j / 2 * PANEL_COLS + i % PANEL_COLS) * 2 + j % 2]);
            float want = i < n && j < k ? ldexpf(value(i, j), i % 9 - 12) : 0;
            if (h * inverse != want) ck_abort_msg("element %d,%d is %g", i, j, h * inverse);
            largest = fmaxf(largest, fabsf(h));
        }
        ck_assert(i >= n || (largest >= 8 && largest < 16));
        float first[2];
        if (i < n) pack_row_f32(&w, i, k / 2, MIN(2, k - k / 2), first);
        for (int32_t j = k / 2; i < n && j < MIN(k, k / 2 + 2); j++)
            ck_assert(first[j - k / 2] == ldexpf(value(i, j), i % 9 - 12));
    }
    mem_free(w.data), mem_free(src);
}

START_TEST(halves_hold_every_element) {
    static const dtype types[] = {DT_F32, DT_F16, DT_BF16};
    cpu_rows rows;
    select_rows(ISA_AVX512FP16, &rows);
    if (!isa_usable(ISA_AVX512FP16)) return;
    for (int d = 1; d < 3; d++)
        for (int s = 0; s < 3; s++) {
            check_halves(rows.gemm_bf16, types[d], types[s], 1, 1, 0);
            check_halves(rows.gemm_bf16, types[d], types[s], 70, 257, 13);
            check_halves(rows.gemm_bf16, types[d], types[s], 64, 128, 32);
            check_halves(rows.gemm_f16, types[d], types[s], 33, 301, 32);
        }
}
END_TEST

START_TEST(every_level_fills_every_slot) {
    for (cpu_isa isa = 0; isa < ISA_COUNT; isa++) {
        cpu_rows rows;
        select_rows(isa, &rows);
#define CODE_ROW(slot, type, op, dtypes)
#define ROW(slot, type, op, dtypes) ck_assert_ptr_nonnull(rows.slot);
#include "kernels/ref/rows.def"
#undef ROW
        /* pages are written and read in one layout, weights packed as they are read */
        bool ref_kv = rows.rope_kv->name[0] == 'r';
        ck_assert((rows.attention_f32->name[0] == 'r') == ref_kv);
        ck_assert((rows.attention_bf16->name[0] == 'r') == ref_kv);
        ck_assert((rows.gemm_bf16->layout == WMAT_ROWS) == (rows.gemm_bf16->name[0] == 'r'));
    }
    ck_assert(isa_usable(ISA_REF) && isa_usable(isa_best()));
}
END_TEST

START_TEST(grids_use_their_threads) {
    for (int32_t threads = 1; threads <= 128; threads += 9)
        for (int32_t tiles = 1; tiles < 60; tiles += 7)
            for (int32_t panels = 1; panels < 400; panels += 37) {
                gemm_grid g = gemm_grid_choose(tiles, panels, threads);
                ck_assert(g.m_parts >= 1 && g.n_parts >= 1);
                ck_assert(g.m_parts * g.n_parts <= threads);
                ck_assert(g.m_parts <= tiles && g.n_parts <= panels);
                if (panels >= threads * 8) /* plenty of columns: rows stay whole */
                    ck_assert_int_eq(g.n_parts * g.m_parts > threads / 2, 1);
            }
    gemm_grid one_panel = gemm_grid_choose(40, 1, 8);
    ck_assert(one_panel.m_parts == 8 && one_panel.n_parts == 1);
    gemm_grid decode = gemm_grid_choose(1, 300, 2);
    ck_assert(decode.m_parts == 1 && decode.n_parts == 2);
}
END_TEST

int main(void) {
    Suite *s = suite_create("pack");
    TCase *tc = tcase_create("pack");
    tcase_add_test(tc, layouts_hold_every_element);
    tcase_add_test(tc, halves_hold_every_element);
    tcase_add_test(tc, every_level_fills_every_slot);
    tcase_add_test(tc, grids_use_their_threads);
    suite_add_tcase(s, tc);
    return suite_run(s);
}
