/* Matrix product, the part above the rows: pack `a` once for all threads, then give each member a
 * rectangle of (tiles of a) x (panels of w).
 *
 * Small products run on the caller; packing of a small `a` is done by the caller before the team
 * starts, which saves the barrier between packing and multiplying. */
#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/cpu/product.h"

/* Multiply-adds below which a second thread does not pay, and elements of `a` that the caller
 * packs alone. */
#define SMALL_MACS (64 * 1024)
#define SMALL_PACK (6 * 1024)
/* Expanding a weight takes as long as so many of them. */
#define EXPAND_MACS 4

typedef struct gemm_call {
    product p;
    team *team;
    gemm_grid grid;
    bool pack_in_team;
    char *scratch;
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

gemm_part gemm_share(const gemm_grid *g, int member, int32_t n_tiles, int32_t n_panels) {
    int64_t t0, t1, p0, p1;
    if (member >= g->m_parts * g->n_parts) return (gemm_part){0};
    team_range(n_tiles, 1, member % g->m_parts, g->m_parts, &t0, &t1);
    team_range(n_panels, 1, member / g->m_parts, g->n_parts, &p0, &p1);
    return (gemm_part){(int32_t)t0, (int32_t)t1, (int32_t)p0, (int32_t)p1};
}

static void gemm_member(void *ctx, int member) {
    const gemm_call *c = ctx;
    const product *p = &c->p;
    void *scratch = c->scratch + (size_t)member * p->scratch_bytes;
    if (c->pack_in_team) {
        int64_t t0, t1;
        team_range(p->n_tiles, 1, member, team_size(c->team), &t0, &t1);
        if (t0 < t1) product_prepare(p, (int32_t)t0, (int32_t)t1, scratch);
        team_barrier(c->team);
    }
    gemm_part own = gemm_share(&c->grid, member, p->n_tiles, p->n_panels);
    product_run(p, own.t0, own.t1, own.p0, own.p1, scratch);
}

void cpu_gemm(backend *b, const op_gemm *g) {
    cpu_backend *c = (cpu_backend *)b;
    if (g->m <= 0) return;
    if (g->a_dt != DT_F32) {
        cpu_feed_gemm(b, g);
        return;
    }
    gemm_call call = {.p = product_of(c, g, NULL), .team = c->team};
    product *p = &call.p;
    int64_t macs = p->expands ? EXPAND_MACS * g->w->n * g->w->k : product_macs(p);
    int n_threads = macs < SMALL_MACS ? 1 : team_size(c->team);
    call.grid = gemm_grid_choose(p->expands ? 1 : p->n_tiles, p->n_panels, n_threads);
    p->a = cpu_workspace(c, p->a_bytes + p->scratch_bytes * (size_t)n_threads);
    call.scratch = (char *)p->a + p->a_bytes;
    call.pack_in_team =
        p->a_bytes && n_threads > 1 && p->n_tiles > 1 && (int64_t)g->m * g->w->k > SMALL_PACK;
    if (p->a_bytes && !call.pack_in_team) product_prepare(p, 0, p->n_tiles, call.scratch);
    if (n_threads == 1)
        gemm_member(&call, 0);
    else
        team_run(c->team, gemm_member, &call);
}
