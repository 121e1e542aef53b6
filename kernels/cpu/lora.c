/* Low-rank parts: each run of neighbouring rows with one adapter is a product with its A, scaled,
 * and one for each part with its B, all by the rows of gemm. So bits are those of gemm, which do
 * not depend on how rows are cut.
 *
 * The products of all runs are one list of items that the members take from, first all of A, then
 * all of B, with one barrier between them: calling gemm for each would wake the team for work of a
 * few microseconds, twice and more a run. Members pack the rows of their own items. Where two
 * members share the rows of a run both pack them, which is small beside the 32 columns of a panel;
 * a pass that packs would be one more barrier. */
#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/cpu/cpu.h"

/* Multiply-adds of one item at least, and of a call that is worth waking the team. */
#define ITEM_MACS (32 * 1024)
#define TEAM_MACS (64 * 1024)

/* One product, cut into m_parts x n_parts items. */
typedef struct product {
    op_gemm g;
    const gemm_row *row;
    const float *s; /* factors of the result's columns, NULL: none */
    int32_t m_parts, n_parts;
    int32_t item0; /* number of its first item in the stage */
} product;

typedef struct stage {
    product *list;
    int32_t n, n_items;
} stage;

typedef struct lora_call {
    const op_lora *op;
    cpu_backend *c;
    int n_members;
    stage down, up;
    float *low; /* [T,rank] */
    char *scratch;
    size_t scratch_bytes; /* of a member */
    int64_t next;         /* where one member works alone */
} lora_call;

typedef struct run {
    const lora_slot *l;
    int32_t row0, n;
} run;

/* The next run from row *io_t on that has something to add. */
static bool next_run(const op_lora *a, int32_t *io_t, run *ret) {
    const lora_slot *l = NULL;
    int32_t t = *io_t;
    while (t < a->n_rows && !(l = lora_of_row(a, t))) t++;
    *ret = (run){l, t, 0};
    while (t < a->n_rows && lora_of_row(a, t) == l) t++;
    ret->n = t - ret->row0;
    *io_t = t;
    return l && ret->n > 0;
}

static product down_of(const lora_call *c, const run *r) {
    const op_lora *a = c->op;
    CHECK(r->l->a.k == a->k && r->l->a.n <= a->rank);
    product p = {.g = {.m = r->n,
                       .a = (const float *)a->x + r->row0 * a->x_stride,
                       .a_stride = a->x_stride,
                       .w = &r->l->a,
                       .out_stride = a->rank},
                 .row = cpu_gemm_row(c->c, r->l->a.dt),
                 .s = r->l->s};
    if (c->low) p.g.out = c->low + (int64_t)r->row0 * a->rank;
    return p;
}

static product up_of(const lora_call *c, const run *r, const lora_part *part) {
    const op_lora *a = c->op;
    CHECK(part->row0 + part->b.n <= a->n && part->col0 + part->b.k <= r->l->a.n);
    product p = {.g = {.m = r->n,
                       .a_stride = a->rank,
                       .w = &part->b,
                       .out = a->out + r->row0 * a->out_stride + part->row0,
                       .out_stride = a->out_stride,
                       .accumulate = true},
                 .row = cpu_gemm_row(c->c, part->b.dt)};
    if (c->low) p.g.a = c->low + (int64_t)r->row0 * a->rank + part->col0;
    return p;
}

static int64_t macs_of(const product *p) {
    return (int64_t)p->g.m * p->g.w->n * p->g.w->k;
}

/* Rows are cut first: members then pack apart. */
static void add(stage *s, product p, int n_members) {
    int32_t n_tiles = CEIL_DIV(p.g.m, p.row->tile_rows);
    int32_t n_panels = CEIL_DIV(p.g.w->n, p.row->pack_rows);
    int32_t want = (int32_t)MIN(n_members, macs_of(&p) / ITEM_MACS + 1);
    p.m_parts = MIN(want, n_tiles);
    p.n_parts = MIN(CEIL_DIV(want, p.m_parts), n_panels);
    p.item0 = s->n_items;
    s->n_items += p.m_parts * p.n_parts;
    s->list[s->n++] = p;
}

/* Item i of a stage: some rows of a product times some panels. */
static void run_item(const lora_call *c, const stage *s, int32_t i, int member) {
    int32_t k = 0;
    while (k + 1 < s->n && s->list[k + 1].item0 <= i) k++;
    const product *p = &s->list[k];
    int64_t r0, r1, p0, p1;
    i -= p->item0;
    team_range(p->g.m, p->row->tile_rows, i / p->n_parts, p->m_parts, &r0, &r1);
    team_range(CEIL_DIV(p->g.w->n, p->row->pack_rows), 1, i % p->n_parts, p->n_parts, &p0, &p1);
    if (r0 >= r1 || p0 >= p1) return;
    op_gemm g = p->g;
    g.m = (int32_t)(r1 - r0);
    g.a = (const float *)g.a + r0 * g.a_stride;
    g.out += r0 * g.out_stride;
    int32_t n_tiles = CEIL_DIV(g.m, p->row->tile_rows), col1 = (int32_t)p1 * p->row->pack_rows;
    char *ws = c->scratch + (size_t)member * c->scratch_bytes;
    size_t a_bytes = ALIGN_UP(p->row->a_bytes(g.m, g.w->k), 64);
    p->row->pack_a(&g, n_tiles, 0, n_tiles, ws);
    gemm_job j = {&g, ws, n_tiles, 0, n_tiles, (int32_t)p0, (int32_t)p1, ws + a_bytes};
    p->row->run(&j);
    for (int32_t r = 0; p->s && r < g.m; r++)
        for (int32_t n = (int32_t)p0 * p->row->pack_rows; n < MIN(col1, g.w->n); n++)
            g.out[r * g.out_stride + n] *= p->s[n];
}

static int64_t take(lora_call *c) {
    return c->n_members > 1 ? team_next(c->c->team) : c->next++;
}

static void member_run(void *ctx, int member) {
    lora_call *c = ctx;
    int64_t i = take(c);
    for (; i < c->down.n_items; i = take(c)) run_item(c, &c->down, (int32_t)i, member);
    if (c->n_members > 1) team_barrier(c->c->team);
    for (; i < c->down.n_items + c->up.n_items; i = take(c))
        run_item(c, &c->up, (int32_t)i - c->down.n_items, member);
}

typedef struct lora_need {
    int32_t n_down, n_up;
    int64_t macs;
    size_t scratch;
} lora_need;

static void count(lora_need *n, const product *p) {
    const gemm_row *row = p->row;
    size_t a = ALIGN_UP(row->a_bytes(p->g.m, p->g.w->k), 64);
    size_t bytes = a + ALIGN_UP(row->scratch_bytes(p->g.m, p->g.w->n, p->g.w->k), 64);
    CHECK(p->g.w->layout == (int32_t)row->layout);
    n->scratch = MAX(n->scratch, bytes);
    n->macs += macs_of(p);
}

static lora_need measure(const lora_call *c) {
    lora_need n = {0};
    run r;
    for (int32_t t = 0; next_run(c->op, &t, &r);) {
        product p = down_of(c, &r);
        count(&n, &p);
        for (int32_t i = 0; i < r.l->n_parts; i++) {
            p = up_of(c, &r, &r.l->parts[i]);
            count(&n, &p);
        }
        n.n_down++;
        n.n_up += r.l->n_parts;
    }
    return n;
}

static void cut(lora_call *c, const lora_need *n) {
    size_t down = ALIGN_UP((size_t)n->n_down * sizeof(product), 64);
    size_t up = ALIGN_UP((size_t)n->n_up * sizeof(product), 64);
    size_t low = ALIGN_UP((size_t)c->op->n_rows * (size_t)c->op->rank * sizeof(float), 64);
    c->scratch_bytes = n->scratch;
    char *ws = cpu_workspace(c->c, down + up + low + n->scratch * (size_t)c->n_members);
    c->down.list = (product *)ws;
    c->up.list = (product *)(ws + down);
    c->low = (float *)(ws + down + up);
    c->scratch = ws + down + up + low;
}

void cpu_lora(backend *b, const op_lora *a) {
    cpu_backend *cpu = (cpu_backend *)b;
    lora_call c = {.op = a, .c = cpu};
    lora_need need = measure(&c);
    run r;
    if (need.n_down == 0) return;
    if (a->x_dt != DT_F32) {
        cpu_feed_lora(b, a);
        return;
    }
    c.n_members = need.macs < TEAM_MACS ? 1 : team_size(cpu->team);
    cut(&c, &need);
    for (int32_t t = 0; next_run(a, &t, &r);) {
        add(&c.down, down_of(&c, &r), c.n_members);
        for (int32_t i = 0; i < r.l->n_parts; i++)
            add(&c.up, up_of(&c, &r, &r.l->parts[i]), c.n_members);
    }
    if (c.n_members == 1)
        member_run(&c, 0);
    else
        team_run(cpu->team, member_run, &c);
}
