/* Matrix product with quantised weights: a panel of rows is dequantised into the layout of the
 * level's f32 row in the member's own scratch, then that row multiplies it with all of `a`.
 *
 * So the arithmetic is that of f32 weights, bit for bit, whatever the number of rows, the threads
 * or the storage. Members take whole panels: sharing rows of `a` instead would dequantise every
 * panel more than once. Each weight is expanded once a call, which bounds decoding of single rows
 * by that work and not by memory. Storage that is multiplied code by code does not come here
 * (codes.h). */
#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/cpu/cpu.h"

/* Weights below which a second thread does not pay. */
#define SMALL_WEIGHTS (16 * 1024)

typedef struct quant_call {
    const op_gemm *g; /* a: rounded already if the matrix wants that */
    const gemm_row *row;
    int32_t n_tiles, n_panels, n_members;
    void *a;
    char *scratch;
    size_t panel_bytes, member_bytes;
} quant_call;

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

static void expand_panel(const quant_call *c, int32_t row0, int32_t n_rows, float *strip,
                         float *panel) {
    const wmat *w = c->g->w;
    size_t row_bytes = quant_row_bytes(w->dt, &w->q, w->k);
    const char *first =
        (const char *)w->data + quant_side_bytes(w->dt, &w->q, w->k) + (size_t)row0 * row_bytes;
    memset(strip, 0, strip_bytes(c->row));
    for (int32_t k0 = 0; k0 < w->k; k0 += QUANT_STRIP) {
        int32_t n = MIN(QUANT_STRIP, w->k - k0);
        for (int32_t r = 0; r < n_rows; r++)
            quant_row_f32(w->dt, &w->q, w->k, w->data, first + (size_t)r * row_bytes, k0, n,
                          strip + r * QUANT_STRIP);
        put_strip(c->row, w->k, n_rows, k0, n, strip, panel);
    }
}

static void run_panel(const quant_call *c, int32_t panel, char *scratch) {
    int32_t row0 = panel * c->row->pack_rows, n = MIN(c->row->pack_rows, c->g->w->n - row0);
    float *strip = (float *)scratch, *values = (float *)(scratch + strip_bytes(c->row));
    expand_panel(c, row0, n, strip, values);
    wmat w = {n, c->g->w->k, DT_F32, (int32_t)c->row->layout, values, c->panel_bytes, {0}};
    op_gemm g = *c->g;
    g.w = &w;
    g.out += row0;
    if (g.bias) g.bias += row0;
    gemm_job j = {&g, c->a, c->n_tiles, 0, c->n_tiles, 0, 1, (char *)values + c->panel_bytes};
    c->row->run(&j);
}

static void quant_member(void *ctx, int member) {
    const quant_call *c = ctx;
    int64_t from, to;
    if (member >= c->n_members) return;
    team_range(c->n_panels, 1, member, c->n_members, &from, &to);
    for (int64_t p = from; p < to; p++)
        run_panel(c, (int32_t)p, c->scratch + (size_t)member * c->member_bytes);
}

static void round_acts(const op_gemm *g, float *to) {
    int32_t k = g->w->k;
    for (int32_t r = 0; r < g->m; r++, to += k) {
        memcpy(to, (const float *)g->a + r * g->a_stride, (size_t)k * sizeof(float));
        quant_round_acts(&g->w->q, k, to);
    }
}

void cpu_gemm_quant(cpu_backend *c, const op_gemm *g) {
    const wmat *w = g->w;
    op_gemm rounded = *g;
    quant_call q = {.g = &rounded, .row = c->rows.gemm_f32};
    bool is_small = (int64_t)w->n * w->k < SMALL_WEIGHTS;
    q.n_panels = CEIL_DIV(w->n, q.row->pack_rows);
    q.n_members = is_small ? 1 : MIN(team_size(c->team), q.n_panels);
    q.n_tiles = CEIL_DIV(g->m, q.row->tile_rows);
    q.panel_bytes = ALIGN_UP((size_t)q.row->pack_rows * (size_t)w->k * sizeof(float), (size_t)64);
    q.member_bytes = strip_bytes(q.row) + q.panel_bytes +
                     ALIGN_UP(q.row->scratch_bytes(g->m, q.row->pack_rows, w->k), (size_t)64);
    size_t a_bytes = q.row->a_bytes ? ALIGN_UP(q.row->a_bytes(g->m, w->k), (size_t)64) : 0;
    size_t acts = w->q.act ? ALIGN_UP((size_t)g->m * (size_t)w->k * sizeof(float), (size_t)64) : 0;
    char *ws = cpu_workspace(c, acts + a_bytes + q.member_bytes * (size_t)q.n_members);
    if (acts) {
        round_acts(g, (float *)ws);
        rounded.a = (const float *)ws;
        rounded.a_stride = w->k;
    }
    if (a_bytes) {
        q.a = ws + acts;
        q.row->pack_a(&rounded, q.n_tiles, 0, q.n_tiles, q.a);
    }
    q.scratch = ws + acts + a_bytes;
    if (q.n_members == 1)
        quant_member(&q, 0);
    else
        team_run(c->team, quant_member, &q);
}
