/* Rows that are gathered or rounded first go through the member's scratch, a tile at a time, so
 * they are in its cache when they are packed; a level that reads rows as they are (ref) has them
 * copied. */
#include "kernels/cpu/product.h"

#include <string.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/cpu/codes.h"

static const gemm_row *row_of(const cpu_backend *c, const wmat *w) {
    if (w->layout == WMAT_QUANT) return c->rows.gemm_f32;
    if (w->layout != WMAT_CODES) return cpu_gemm_row(c, w->dt);
    const code_row *row = cpu_code_row(c, w->dt, &w->q, w->k);
    CHECK(row);
    return &row->gemm;
}

/* Rows of codes round for themselves. */
static bool rounds(const product *p) {
    return p->expands && p->g.w->q.act != ACT_ROUND_NONE;
}

static size_t row_bytes(const product *p) {
    return (size_t)p->g.w->k * sizeof(float);
}

product product_of(const cpu_backend *c, const op_gemm *g, const int32_t *pick) {
    const wmat *w = g->w;
    product p = {.g = *g, .pick = pick, .row = row_of(c, w), .expands = w->layout == WMAT_QUANT};
    const gemm_row *row = p.row;
    CHECK(p.expands || w->layout == (int32_t)row->layout);
    bool copies = pick || rounds(&p);
    p.n_tiles = CEIL_DIV(g->m, row->tile_rows);
    p.n_panels = CEIL_DIV(w->n, row->pack_rows);
    if (row->a_bytes)
        p.a_bytes = ALIGN_UP(row->a_bytes(g->m, w->k), (size_t)64);
    else if (copies)
        p.a_bytes = ALIGN_UP((size_t)g->m * row_bytes(&p), (size_t)64);
    size_t copy = row->a_bytes && copies ? (size_t)row->tile_rows * row_bytes(&p) : 0;
    size_t run = p.expands ? gemm_quant_scratch(&p) : row->scratch_bytes(g->m, w->n, w->k);
    p.scratch_bytes = ALIGN_UP(MAX(copy, run), (size_t)64);
    return p;
}

bool product_same_rows(const product *x, const product *y) {
    const wmat *v = x->g.w, *w = y->g.w;
    const quant_spec *q = &v->q, *r = &w->q;
    if (x->row != y->row || x->expands != y->expands || v->k != w->k) return false;
    if (v->layout != WMAT_CODES && !x->expands) return true;
    return v->dt == w->dt && q->group == r->group && q->has_zeros == r->has_zeros &&
           q->zero == r->zero && q->act == r->act && q->act_zero == r->act_zero &&
           q->act_scale == r->act_scale && q->act_group == r->act_group;
}

/* Rows [r0, r1) as the product multiplies them, to [r1-r0, K]. */
static void copy_rows(const product *p, int32_t r0, int32_t r1, float *to) {
    int32_t k = p->g.w->k;
    for (int64_t r = r0; r < r1; r++, to += k) {
        const float *from = (const float *)p->g.a + (p->pick ? p->pick[r] : r) * p->g.a_stride;
        memcpy(to, from, row_bytes(p));
        if (rounds(p)) quant_round_acts(&p->g.w->q, k, to);
    }
}

void product_prepare(const product *p, int32_t tile0, int32_t tile1, void *scratch) {
    const gemm_row *row = p->row;
    int32_t k = p->g.w->k;
    if (!p->pick && !rounds(p)) {
        row->pack_a(&p->g, p->n_tiles, tile0, tile1, p->a);
        return;
    }
    for (int32_t t = tile0; t < tile1; t++) {
        int32_t r0 = gemm_tile_row(p->g.m, p->n_tiles, t);
        int32_t r1 = gemm_tile_row(p->g.m, p->n_tiles, t + 1);
        if (!row->a_bytes) {
            copy_rows(p, r0, r1, (float *)p->a + (int64_t)r0 * k);
            continue;
        }
        op_gemm g = p->g;
        copy_rows(p, r0, r1, scratch);
        g.a_stride = k;
        g.a = (const void *)((uintptr_t)scratch - (uintptr_t)r0 * row_bytes(p)); /* row r0 there */
        row->pack_a(&g, p->n_tiles, t, t + 1, p->a);
    }
}

void product_run(const product *p, int32_t tile0, int32_t tile1, int32_t panel0, int32_t panel1,
                 void *scratch) {
    op_gemm g = p->g;
    if (!p->row->a_bytes && p->a_bytes) {
        g.a = p->a;
        g.a_stride = g.w->k;
    }
    if (tile0 >= tile1 || panel0 >= panel1) return;
    if (p->expands) {
        for (int32_t i = panel0; i < panel1; i++) gemm_quant_panel(p, &g, tile0, tile1, i, scratch);
        return;
    }
    gemm_job j = {&g,     p->row->a_bytes ? p->a : NULL, p->n_tiles, tile0, tile1, panel0, panel1,
                  scratch};
    p->row->run(&j);
}
