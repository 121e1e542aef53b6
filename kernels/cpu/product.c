/* Rows that are gathered or rounded first go through the member's scratch, a tile at a time, so
 * they are in its cache when they are packed; a level that reads rows as they are (ref) has them
 * copied. */
#include "kernels/cpu/product.h"

#include <string.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/cpu/codes.h"
#include "kernels/cpu/narrow.h"

static const gemm_row *row_of(const cpu_backend *c, const wmat *w) {
    if (w->layout == WMAT_QUANT || w->layout == WMAT_VALUES) return c->rows.gemm_f32;
    if (w->layout != WMAT_CODES) return cpu_gemm_row(c, w->dt);
    const code_row *row = cpu_code_row(c, w->dt, &w->q, w->k);
    CHECK(row);
    return &row->gemm;
}

/* Rows of codes round and sort for themselves. */
static bool rounds(const product *p) {
    return p->expands && p->g.w->q.act != ACT_ROUND_NONE;
}
static bool sorts(const product *p) {
    return p->values && p->g.w->q.has_order;
}

/* Numbers of a row that is copied: zeros behind the last column fill whole pads of a panel. */
static int32_t copy_cols(const product *p) {
    return p->values ? ALIGN_UP(p->g.w->k, NARROW_PAD) : p->g.w->k;
}
static size_t row_bytes(const product *p) {
    return (size_t)copy_cols(p) * sizeof(float);
}

/* Are rows copied before they are packed? */
static bool copies(const product *p) {
    return p->pick || rounds(p) || sorts(p) || p->few;
}
/* Is there anything to pack them for? Else copies are what is multiplied. */
static bool packs(const product *p) {
    return p->row->a_bytes && !p->few;
}

product product_of(const cpu_backend *c, const op_gemm *g, const int32_t *pick) {
    const wmat *w = g->w;
    product p = {.g = *g, .pick = pick, .row = row_of(c, w)};
    const gemm_row *row = p.row;
    p.expands = w->layout == WMAT_QUANT || w->layout == WMAT_VALUES;
    p.values = w->layout == WMAT_VALUES ? c->rows.values : NULL;
    p.few = p.values && g->m <= p.values->few_rows;
    CHECK(p.expands || w->layout == (int32_t)row->layout);
    p.n_tiles = p.few ? 1 : CEIL_DIV(g->m, row->tile_rows);
    p.n_panels = CEIL_DIV(w->n, row->pack_rows);
    if (packs(&p))
        p.a_bytes = ALIGN_UP(row->a_bytes(g->m, w->k), (size_t)64);
    else if (copies(&p))
        p.a_bytes = ALIGN_UP((size_t)g->m * row_bytes(&p), (size_t)64);
    size_t copy = copies(&p) ? (size_t)(packs(&p) ? row->tile_rows : 0) * row_bytes(&p) : 0;
    if (sorts(&p)) copy += row_bytes(&p); /* a row before its columns are sorted */
    size_t run = p.few       ? 0
                 : p.expands ? gemm_quant_scratch(&p)
                             : row->scratch_bytes(g->m, w->n, w->k);
    p.scratch_bytes = ALIGN_UP(MAX(copy, run), (size_t)64);
    return p;
}

bool product_same_rows(const product *x, const product *y) {
    const wmat *v = x->g.w, *w = y->g.w;
    const quant_spec *q = &v->q, *r = &w->q;
    if (x->row != y->row || x->expands != y->expands || v->k != w->k) return false;
    if (v->layout != WMAT_CODES && !x->expands) return true;
    if (x->values != y->values || q->has_order || r->has_order) return false;
    return v->dt == w->dt && q->group == r->group && q->has_zeros == r->has_zeros &&
           q->zero == r->zero && q->act == r->act && q->act_zero == r->act_zero &&
           q->act_scale == r->act_scale && q->act_group == r->act_group;
}

/* A row whose columns go into the order of panels; row: [K] to work in. */
static void sort_row(const wmat *w, const float *from, float *row, float *to) {
    const int32_t *columns = narrow_columns(w);
    quant_spec q = w->q;
    bool by_group = q.act == ACT_ROUND_INT8_GROUP; /* whose groups are of sorted columns */
    memcpy(row, from, (size_t)w->k * sizeof(float));
    if (!by_group) quant_round_acts(&q, w->k, columns, row);
    for (int32_t i = 0; i < w->k; i++) to[i] = row[columns[i]];
    q.whole_order = false;
    if (by_group) quant_round_acts(&q, w->k, NULL, to);
}

/* Rows [r0, r1) as the product multiplies them, to [r1-r0][copy_cols]. */
static void copy_rows(const product *p, int32_t r0, int32_t r1, float *row, float *to) {
    const wmat *w = p->g.w;
    int32_t k = w->k, cols = copy_cols(p);
    for (int64_t r = r0; r < r1; r++, to += cols) {
        const float *from = (const float *)p->g.a + (p->pick ? p->pick[r] : r) * p->g.a_stride;
        if (sorts(p)) {
            sort_row(w, from, row, to);
        } else {
            memcpy(to, from, (size_t)k * sizeof(float));
            if (rounds(p)) quant_round_acts(&w->q, k, w->q.has_order ? w->data : NULL, to);
        }
        for (int32_t i = k; i < cols; i++) to[i] = 0;
    }
}

void product_prepare(const product *p, int32_t tile0, int32_t tile1, void *scratch) {
    const gemm_row *row = p->row;
    int32_t cols = copy_cols(p);
    if (!copies(p)) {
        row->pack_a(&p->g, p->n_tiles, tile0, tile1, p->a);
        return;
    }
    float *copy = scratch;
    if (sorts(p)) copy += cols;
    for (int32_t t = tile0; t < tile1; t++) {
        int32_t r0 = gemm_tile_row(p->g.m, p->n_tiles, t);
        int32_t r1 = gemm_tile_row(p->g.m, p->n_tiles, t + 1);
        if (!packs(p)) {
            copy_rows(p, r0, r1, scratch, (float *)p->a + (int64_t)r0 * cols);
            continue;
        }
        op_gemm g = p->g;
        copy_rows(p, r0, r1, scratch, copy);
        g.a_stride = cols;
        g.a = (const void *)((uintptr_t)copy - (uintptr_t)r0 * row_bytes(p)); /* row r0 there */
        row->pack_a(&g, p->n_tiles, t, t + 1, p->a);
    }
}

void product_run(const product *p, int32_t tile0, int32_t tile1, int32_t panel0, int32_t panel1,
                 void *scratch) {
    op_gemm g = p->g;
    if (!packs(p) && p->a_bytes) {
        g.a = p->a;
        g.a_stride = copy_cols(p);
    }
    if (tile0 >= tile1 || panel0 >= panel1) return;
    if (p->few) {
        p->values->few(&g, panel0, panel1);
        return;
    }
    if (p->expands) {
        for (int32_t i = panel0; i < panel1; i++) gemm_quant_panel(p, &g, tile0, tile1, i, scratch);
        return;
    }
    gemm_job j = {&g, packs(p) ? p->a : NULL, p->n_tiles, tile0, tile1, panel0, panel1, scratch};
    p->row->run(&j);
}
