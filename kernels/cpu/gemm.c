/* Matrix product, the part above the rows: pack `a` once for all threads, then give each member a
 * rectangle of (tiles of a) x (panels of w).
 *
 * Small products run on the caller; packing of a small `a` is done by the caller before the team
 * starts, which saves the barrier between packing and multiplying. */
#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/cpu/codes.h"

/* Multiply-adds below which a second thread does not pay, and elements of `a` that the caller
 * packs alone. */
#define SMALL_MACS (64 * 1024)
#define SMALL_PACK (16 * 1024)

typedef struct gemm_call {
    const op_gemm *g;
    const gemm_row *row;
    team *team;
    gemm_grid grid;
    int32_t n_tiles, n_panels;
    void *a;
    bool pack_in_team;
    char *scratch;
    size_t scratch_bytes;
} gemm_call;

/* The grid with the least work for its busiest member; among equals the one that cuts panels
 * rather than rows, because every row part reads the weights again. */
gemm_grid gemm_grid_choose(int32_t n_tiles, int32_t n_panels, int32_t n_threads) {
    gemm_grid best = {1, MIN(n_threads, n_panels)};
    int64_t best_cost = INT64_MAX;
    for (int32_t mp = 1; mp <= MIN(n_threads, n_tiles); mp++) {
        int32_t np = MIN(n_threads / mp, n_panels);
        int64_t cost = (int64_t)CEIL_DIV(n_tiles, mp) * CEIL_DIV(n_panels, np) * 32 + mp;
        if (cost >= best_cost) continue;
        best_cost = cost;
        best = (gemm_grid){mp, np};
    }
    return best;
}

static void gemm_member(void *ctx, int member) {
    const gemm_call *c = ctx;
    int64_t t0, t1, p0, p1;
    if (c->pack_in_team) {
        team_range(c->n_tiles, 1, member, team_size(c->team), &t0, &t1);
        if (t0 < t1) c->row->pack_a(c->g, c->n_tiles, (int32_t)t0, (int32_t)t1, c->a);
        team_barrier(c->team);
    }
    if (member >= c->grid.m_parts * c->grid.n_parts) return;
    team_range(c->n_tiles, 1, member / c->grid.n_parts, c->grid.m_parts, &t0, &t1);
    team_range(c->n_panels, 1, member % c->grid.n_parts, c->grid.n_parts, &p0, &p1);
    gemm_job j = {
        c->g,        c->a,        c->n_tiles,  (int32_t)t0,
        (int32_t)t1, (int32_t)p0, (int32_t)p1, c->scratch + (size_t)member * c->scratch_bytes};
    if (t0 < t1 && p0 < p1) c->row->run(&j);
}

static const gemm_row *row_of(const cpu_backend *c, const wmat *w) {
    if (w->layout != WMAT_CODES) return cpu_gemm_row(c, w->dt);
    const code_row *row = cpu_code_row(c, w->dt, &w->q, w->k);
    CHECK(row);
    return &row->gemm;
}

void cpu_gemm(backend *b, const op_gemm *g) {
    cpu_backend *c = (cpu_backend *)b;
    const wmat *w = g->w;
    if (g->m <= 0) return;
    if (g->a_dt != DT_F32) {
        cpu_feed_gemm(b, g);
        return;
    }
    if (w->layout == WMAT_QUANT) {
        cpu_gemm_quant(c, g);
        return;
    }
    gemm_call call = {.g = g, .row = row_of(c, w), .team = c->team};
    CHECK(w->layout == (int32_t)call.row->layout);
    int n_threads = (int64_t)g->m * w->n * w->k < SMALL_MACS ? 1 : team_size(c->team);
    call.n_tiles = CEIL_DIV(g->m, call.row->tile_rows);
    call.n_panels = CEIL_DIV(w->n, call.row->pack_rows);
    call.grid = gemm_grid_choose(call.n_tiles, call.n_panels, n_threads);
    size_t a_bytes = call.row->a_bytes ? ALIGN_UP(call.row->a_bytes(g->m, w->k), 64) : 0;
    call.scratch_bytes = ALIGN_UP(call.row->scratch_bytes(g->m, w->n, w->k), 64);
    call.a = cpu_workspace(c, a_bytes + call.scratch_bytes * (size_t)n_threads);
    call.scratch = (char *)call.a + a_bytes;
    if (!a_bytes)
        call.a = NULL;
    else if (n_threads > 1 && (int64_t)g->m * w->k > SMALL_PACK)
        call.pack_in_team = true;
    else
        call.row->pack_a(g, call.n_tiles, 0, call.n_tiles, call.a);
    if (n_threads == 1)
        gemm_member(&call, 0);
    else
        team_run(c->team, gemm_member, &call);
}
