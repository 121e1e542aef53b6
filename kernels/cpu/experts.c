/* Experts: the pairs (token, choice) are sorted by expert; an expert that was chosen is a net of
 * two or three products over the rows that chose it. The products of all nets are one list, cut
 * into items of about the same cost that members take from a counter: so there is one barrier for a
 * kind of product, however many experts, and work for many members though each matrix is small.
 *
 *   rows of x, packed | up (and gate), activated | those rows, packed | down | sums of the choices
 *
 * An expert's weights are read once however many rows chose it. An item has the same columns of
 * gate and up, so its member activates what is still in its cache. Which other rows there are
 * changes no bit of a row: products do not depend on their number of rows or on how they are cut,
 * and results are added token by token in the order of the choices.
 *
 * Results of all pairs are kept until they are added, so a call with many rows is cut into pieces
 * of tokens of about PIECE_BYTES. */
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/cpu/product.h"

#define PIECE_BYTES ((int64_t)128 << 20)
/* Items that a member takes, about, so that no one waits long for the last. */
#define ITEMS_EACH 8
/* Reading a weight takes as long as multiplying it with so many rows. */
#define READ_ROWS   20
#define EXPAND_ROWS 160 /* and expanding one */
/* Of what an item activates. */
#define ITEM_BYTES (512 * 1024)
/* Multiply-adds of a call that is worth waking the team, elements that the caller packs alone, and
 * columns of one sum of choices. */
#define TEAM_MACS  (64 * 1024)
#define SMALL_PACK (6 * 1024)
#define SUM_COLS   1024

/* An expert that was chosen. */
typedef struct net {
    product gate, up, down; /* gate: where it is stored apart */
    bool packs_gate;        /* its rows are not up's */
    bool packs_up;          /* its rows are not those of the first net */
    int32_t first, m;       /* places of its pairs */
} net;

enum { PACK_UP, UP, PACK_DOWN, DOWN, SUM, STAGES };

/* One piece: tokens [t0, t0+n). */
typedef struct piece {
    const op_experts *a;
    cpu_backend *c;
    int32_t t0, n;
    int32_t *first; /* [E+1]: first place of each expert's pairs */
    int32_t *token; /* [n*k]: token of the pair at a place */
    int32_t *place; /* [n*k]: place of pair (token, choice) */
    net *nets;      /* [E] */
    int32_t n_nets;
    float *mid;             /* [n*k, gated ? 2F : F], activated in place */
    float *result;          /* [n*k, C], by place */
    int32_t *item0[STAGES]; /* [nets+1]: the first item of each net; not of SUM */
    int32_t n_items[STAGES];
    char *scratch;
    size_t scratch_bytes; /* of a member */
    int n_members;
    int64_t next; /* where one member works alone */
} piece;

static int32_t mid_width(const op_experts *a) {
    return a->gated ? 2 * a->ffn : a->ffn;
}

/* Counting sort: within an expert in the order of the tokens. */
static void sort_pairs(const piece *p) {
    const op_experts *a = p->a;
    const int32_t *ids = a->ids + (int64_t)p->t0 * a->top_k;
    int32_t n_pairs = p->n * a->top_k;
    for (int32_t e = 0; e <= a->n_experts; e++) p->first[e] = 0;
    for (int32_t i = 0; i < n_pairs; i++) {
        CHECK(ids[i] >= 0 && ids[i] < a->n_experts);
        p->first[ids[i] + 1]++;
    }
    for (int32_t e = 0; e < a->n_experts; e++) p->first[e + 1] += p->first[e];
    for (int32_t i = 0; i < n_pairs; i++) { /* first[e] runs ahead to first[e+1] */
        int32_t at = p->first[ids[i]]++;
        p->place[i] = at;
        p->token[at] = p->t0 + i / a->top_k;
    }
    for (int32_t e = a->n_experts; e > 0; e--) p->first[e] = p->first[e - 1];
    p->first[0] = 0;
}

/* ---- Nets ---- */

static op_gemm up_gemm(const piece *p, int32_t e, int32_t m, const wmat *w, int32_t col) {
    const op_experts *a = p->a;
    int32_t mid = mid_width(a), place = p->first[e];
    const float *bias = a->up_bias ? a->up_bias[e] : NULL;
    op_gemm g = {.m = m,
                 .a = a->x,
                 .a_stride = a->x_stride,
                 .w = w,
                 .bias = bias ? bias + col : NULL,
                 .out = p->mid + (int64_t)place * mid + col,
                 .out_stride = mid};
    if (m == 1) g.a = (const float *)a->x + p->token[place] * a->x_stride;
    return g;
}

static op_gemm down_gemm(const piece *p, int32_t e, int32_t m) {
    const op_experts *a = p->a;
    int32_t mid = mid_width(a), place = p->first[e];
    return (op_gemm){.m = m,
                     .a = p->mid + (int64_t)place * mid,
                     .a_stride = mid,
                     .w = &a->down[e],
                     .bias = a->down_bias ? a->down_bias[e] : NULL,
                     .out = p->result + (int64_t)place * a->width,
                     .out_stride = a->width};
}

static net net_of(const piece *p, int32_t e) {
    const op_experts *a = p->a;
    net x = {.first = p->first[e], .m = p->first[e + 1] - p->first[e]};
    const int32_t *pick = x.m == 1 ? NULL : p->token + x.first;
    op_gemm up = up_gemm(p, e, x.m, &a->up[e], a->gate ? a->ffn : 0), down = down_gemm(p, e, x.m);
    x.up = product_of(p->c, &up, pick);
    x.down = product_of(p->c, &down, NULL);
    /* One token: all experts see the same row. */
    bool is_first = p->n > 1 || p->n_nets == 0 || !product_same_rows(&x.up, &p->nets[0].up);
    x.packs_up = x.up.a_bytes > 0 && is_first;
    if (!a->gate) return x;
    op_gemm gate = up_gemm(p, e, x.m, &a->gate[e], 0);
    x.gate = product_of(p->c, &gate, pick);
    x.packs_gate = x.gate.a_bytes > 0 && !product_same_rows(&x.gate, &x.up);
    CHECK(x.gate.n_panels == x.up.n_panels);
    return x;
}

static void list_nets(piece *p) {
    p->n_nets = 0;
    for (int32_t e = 0; e < p->a->n_experts; e++)
        if (p->first[e] < p->first[e + 1]) {
            p->nets[p->n_nets] = net_of(p, e);
            p->n_nets++;
        }
}

/* Memory for packed rows, those of down over those of up, and for the members. */
static void give_memory(piece *p) {
    size_t up = 0, down = 0, scratch = 0;
    for (int32_t i = 0; i < p->n_nets; i++) {
        const net *x = &p->nets[i];
        up += (x->packs_up ? x->up.a_bytes : 0) + (x->packs_gate ? x->gate.a_bytes : 0);
        down += x->down.a_bytes;
        scratch = MAX(scratch, MAX(x->up.scratch_bytes, x->down.scratch_bytes));
        scratch = MAX(scratch, x->gate.scratch_bytes);
    }
    size_t a_bytes = MAX(up, down);
    char *ws = cpu_workspace(p->c, a_bytes + scratch * (size_t)p->n_members);
    char *to_up = ws, *to_down = ws;
    for (int32_t i = 0; i < p->n_nets; i++) {
        net *x = &p->nets[i];
        x->up.a = x->packs_up ? to_up : p->nets[0].up.a;
        to_up += x->packs_up ? x->up.a_bytes : 0;
        x->gate.a = x->packs_gate ? to_up : x->up.a;
        to_up += x->packs_gate ? x->gate.a_bytes : 0;
        x->down.a = to_down;
        to_down += x->down.a_bytes;
    }
    p->scratch = ws + a_bytes;
    p->scratch_bytes = scratch;
}

/* ---- Items ---- */

/* Can an item have the same columns of gate and up? Else all is activated before it is packed. */
static bool acts_in_up(const piece *p, const net *x) {
    const op_experts *a = p->a;
    return !a->gated || a->gate || a->ffn % x->up.row->pack_rows == 0;
}

/* What a stage of a net is divided by: panels, or tiles. */
static int32_t units_of(const piece *p, const net *x, int stage) {
    switch (stage) {
    case PACK_UP: return (x->packs_up ? x->up.n_tiles : 0) + (x->packs_gate ? x->gate.n_tiles : 0);
    case UP: {
        bool halves = p->a->gated && !p->a->gate && acts_in_up(p, x);
        return halves ? x->up.n_panels / 2 : x->up.n_panels;
    }
    case PACK_DOWN: return x->down.a_bytes || !acts_in_up(p, x) ? x->down.n_tiles : 0;
    default: return x->down.n_panels;
    }
}

static int64_t cost_of(const piece *p, const net *x, int stage) {
    const product *one = stage == UP ? &x->up : &x->down;
    int64_t weights = (int64_t)p->a->width * (stage == UP ? mid_width(p->a) : p->a->ffn);
    return weights * (x->m + (one->expands && !one->few ? EXPAND_ROWS : READ_ROWS));
}

static int32_t items_of(const piece *p, const net *x, int stage, int64_t item_cost) {
    int32_t units = units_of(p, x, stage);
    if (stage == PACK_UP || stage == PACK_DOWN) return units;
    int64_t n = CEIL_DIV(cost_of(p, x, stage), item_cost);
    if (stage == UP)
        n = MAX(n, CEIL_DIV((int64_t)x->m * mid_width(p->a) * (int64_t)sizeof(float), ITEM_BYTES));
    return (int32_t)MIN(n, units);
}

static void list_items(piece *p, int stage) {
    int64_t cost = 0;
    for (int32_t i = 0; i < p->n_nets; i++) cost += cost_of(p, &p->nets[i], stage);
    int64_t item_cost = cost / (p->n_members * ITEMS_EACH) + 1;
    p->item0[stage][0] = 0;
    for (int32_t i = 0; i < p->n_nets; i++)
        p->item0[stage][i + 1] = p->item0[stage][i] + items_of(p, &p->nets[i], stage, item_cost);
    p->n_items[stage] = p->item0[stage][p->n_nets];
}

static void pack_up(const net *x, int32_t tile, char *scratch) {
    int32_t n = x->packs_up ? x->up.n_tiles : 0;
    if (tile < n)
        product_prepare(&x->up, tile, tile + 1, scratch);
    else
        product_prepare(&x->gate, tile - n, tile - n + 1, scratch);
}

/* Rows [row0, row1) of a net, in place. */
static void activate(const piece *p, const net *x, int32_t row0, int32_t row1, int32_t col0,
                     int32_t col1) {
    const op_experts *a = p->a;
    int32_t mid = mid_width(a);
    float *rows = p->mid + (int64_t)x->first * mid;
    op_act act = {a->act, a->gated, x->m, a->ffn, rows, mid, rows, mid};
    p->c->rows.act->run(&act, row0, row1, col0, col1);
}

/* Panels [p0, p1) of the activated columns. */
static void run_up(const piece *p, const net *x, int32_t p0, int32_t p1, char *scratch) {
    const product *up = &x->up;
    int32_t cols = up->row->pack_rows, halves = up->n_panels / 2;
    bool acts = acts_in_up(p, x);
    if (p->a->gate) product_run(&x->gate, 0, x->gate.n_tiles, p0, p1, scratch);
    product_run(up, 0, up->n_tiles, p0, p1, scratch);
    if (p->a->gated && !p->a->gate && acts)
        product_run(up, 0, up->n_tiles, halves + p0, halves + p1, scratch);
    if (acts) activate(p, x, 0, x->m, p0 * cols, MIN(p1 * cols, p->a->ffn));
}

static void pack_down(const piece *p, const net *x, int32_t tile, char *scratch) {
    const product *down = &x->down;
    int32_t row0 = gemm_tile_row(x->m, down->n_tiles, tile);
    int32_t row1 = gemm_tile_row(x->m, down->n_tiles, tile + 1);
    if (!acts_in_up(p, x)) activate(p, x, row0, row1, 0, p->a->ffn);
    if (down->a_bytes) product_prepare(down, tile, tile + 1, scratch);
}

/* out = (out +) the weighted results, in the order of the choices: cells are blocks of SUM_COLS. */
static void sum_cells(const piece *p, int64_t cell0, int64_t cell1) {
    const op_experts *a = p->a;
    int32_t blocks = CEIL_DIV(a->width, SUM_COLS);
    for (int64_t cell = cell0; cell < cell1; cell++) {
        int64_t r = cell / blocks;
        int32_t col0 = (int32_t)(cell % blocks) * SUM_COLS, col1 = MIN(col0 + SUM_COLS, a->width);
        op_add add = {.n_rows = 1, .width = a->width, .x_scale = a->accumulate ? 1 : 0};
        add.x = a->out + (p->t0 + r) * a->out_stride;
        for (int32_t j = 0; j < a->top_k; j++, add.x_scale = 1) {
            add.y = p->result + (int64_t)p->place[r * a->top_k + j] * a->width;
            add.y_scale = a->weights[(p->t0 + r) * a->top_k + j];
            p->c->rows.add->run(&add, 0, 1, col0, col1);
        }
    }
}

static int64_t n_cells(const piece *p) {
    return (int64_t)p->n * CEIL_DIV(p->a->width, SUM_COLS);
}

static void run_item(const piece *p, int stage, int32_t i, int member) {
    char *scratch = p->scratch + (size_t)member * p->scratch_bytes;
    int64_t from, to;
    if (stage == SUM) {
        team_range(n_cells(p), 1, i, p->n_items[SUM], &from, &to);
        sum_cells(p, from, to);
        return;
    }
    const int32_t *item0 = p->item0[stage];
    int32_t low = 0, high = p->n_nets; /* item0[low] <= i < item0[high] */
    while (high - low > 1) {
        int32_t at = (low + high) / 2;
        if (item0[at] <= i)
            low = at;
        else
            high = at;
    }
    const net *x = &p->nets[low];
    team_range(units_of(p, x, stage), 1, i - item0[low], item0[low + 1] - item0[low], &from, &to);
    switch (stage) {
    case PACK_UP: pack_up(x, (int32_t)from, scratch); break;
    case UP: run_up(p, x, (int32_t)from, (int32_t)to, scratch); break;
    case PACK_DOWN: pack_down(p, x, (int32_t)from, scratch); break;
    default: product_run(&x->down, 0, x->down.n_tiles, (int32_t)from, (int32_t)to, scratch);
    }
}

static int64_t take(piece *p) {
    return p->n_members > 1 ? team_next(p->c->team) : p->next++;
}

/* Items of all stages have one numbering: what a member took beyond a stage is its first of the
 * next. */
static void member_run(void *ctx, int member) {
    piece *p = ctx;
    int64_t i = take(p), base = 0;
    for (int stage = 0; stage < STAGES; stage++) {
        for (; i < base + p->n_items[stage]; i = take(p))
            run_item(p, stage, (int32_t)(i - base), member);
        base += p->n_items[stage];
        if (p->n_members > 1 && p->n_items[stage] > 0 && stage + 1 < STAGES)
            team_barrier(p->c->team);
    }
}

static void run_piece(piece *p) {
    const op_experts *a = p->a;
    int64_t pairs = (int64_t)p->n * a->top_k;
    sort_pairs(p);
    list_nets(p);
    p->n_members = pairs * a->width * a->ffn < TEAM_MACS ? 1 : team_size(p->c->team);
    p->next = 0;
    give_memory(p);
    for (int stage = PACK_UP; stage < SUM; stage++) list_items(p, stage);
    p->n_items[SUM] = (int32_t)MIN(n_cells(p), (int64_t)p->n_members * ITEMS_EACH);
    if (pairs * a->width <= SMALL_PACK) { /* saves a barrier */
        for (int32_t i = 0; i < p->n_items[PACK_UP]; i++) run_item(p, PACK_UP, i, 0);
        p->n_items[PACK_UP] = 0;
    }
    if (p->n_members == 1)
        member_run(p, 0);
    else
        team_run(p->c->team, member_run, p);
}

static void check_args(const op_experts *a) {
    int32_t f = a->ffn, n_up = a->gated && !a->gate ? 2 * f : f;
    CHECK(a->top_k > 0 && a->n_experts > 0 && a->width > 0 && f > 0);
    CHECK(!a->gate || a->gated);
    for (int32_t e = 0; e < a->n_experts; e++) {
        CHECK(a->up[e].n == n_up && a->up[e].k == a->width);
        CHECK(a->down[e].n == a->width && a->down[e].k == f);
        CHECK(!a->gate || (a->gate[e].n == f && a->gate[e].k == a->width));
    }
}

/* Cut the workspace for pieces of n tokens. */
static void cut(piece *p, int32_t n) {
    const op_experts *a = p->a;
    size_t pairs = (size_t)n * (size_t)a->top_k, nets = (size_t)a->n_experts + 1;
    size_t bytes[] = {nets * sizeof(int32_t),
                      pairs * sizeof(int32_t),
                      pairs * sizeof(int32_t),
                      nets * sizeof(net),
                      SUM * nets * sizeof(int32_t),
                      pairs * (size_t)mid_width(a) * sizeof(float),
                      pairs * (size_t)a->width * sizeof(float)};
    size_t at[ARRAY_LEN(bytes) + 1] = {0};
    for (size_t i = 0; i < ARRAY_LEN(bytes); i++) at[i + 1] = at[i] + ALIGN_UP(bytes[i], 64);
    char *ws = cpu_held_workspace(p->c, at[ARRAY_LEN(bytes)]);
    p->first = (int32_t *)ws;
    p->token = (int32_t *)(ws + at[1]);
    p->place = (int32_t *)(ws + at[2]);
    p->nets = (net *)(ws + at[3]);
    for (size_t i = 0; i < SUM; i++) p->item0[i] = (int32_t *)(ws + at[4]) + i * nets;
    p->mid = (float *)(ws + at[5]);
    p->result = (float *)(ws + at[6]);
}

void cpu_experts(backend *b, const op_experts *a) {
    if (a->n_tokens <= 0) return;
    check_args(a);
    if (a->x_dt != DT_F32) {
        cpu_feed_experts(b, a);
        return;
    }
    piece p = {.a = a, .c = (cpu_backend *)b};
    int64_t width = (int64_t)a->width + mid_width(a) + MAX(a->width, a->ffn); /* the last: packed */
    int64_t token_bytes = (int64_t)a->top_k * width * (int64_t)sizeof(float);
    int32_t most = (int32_t)MIN(a->n_tokens, MAX(1, PIECE_BYTES / token_bytes));
    cut(&p, most);
    for (; p.t0 < a->n_tokens; p.t0 += p.n) {
        p.n = MIN(most, a->n_tokens - p.t0);
        run_piece(&p);
    }
}
