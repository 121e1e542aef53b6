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
#include "kernels/cpu/product.h"

/* Multiply-adds of one item at least, and of a call that is worth waking the team. */
#define ITEM_MACS (32 * 1024)
#define TEAM_MACS (64 * 1024)

/* One product, cut into m_parts x n_parts items. */
typedef struct cut_product {
    product p;
    const float *s; /* factors of the result's columns, NULL: none */
    int32_t m_parts, n_parts;
    int32_t item0; /* number of its first item in the stage */
} cut_product;

typedef struct stage {
    cut_product *list;
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
    op_gemm g = {.m = r->n,
                 .a = (const float *)a->x + r->row0 * a->x_stride,
                 .a_stride = a->x_stride,
                 .w = &r->l->a,
                 .out_stride = a->rank};
    if (c->low) g.out = c->low + (int64_t)r->row0 * a->rank;
    return product_of(c->c, &g, NULL);
}

static product up_of(const lora_call *c, const run *r, const lora_part *part) {
    const op_lora *a = c->op;
    CHECK(part->row0 + part->b.n <= a->n && part->col0 + part->b.k <= r->l->a.n);
    op_gemm g = {.m = r->n,
                 .a_stride = a->rank,
                 .w = &part->b,
                 .out = a->out + r->row0 * a->out_stride + part->row0,
                 .out_stride = a->out_stride,
                 .accumulate = true};
    if (c->low) g.a = c->low + (int64_t)r->row0 * a->rank + part->col0;
    return product_of(c->c, &g, NULL);
}

/* Rows are cut first: members then prepare apart. */
static void add(stage *s, product p, const float *factors, int n_members) {
    cut_product x = {.p = p, .s = factors, .item0 = s->n_items};
    int32_t want = (int32_t)MIN(n_members, product_macs(&p) / ITEM_MACS + 1);
    x.m_parts = MIN(want, p.n_tiles);
    x.n_parts = MIN(CEIL_DIV(want, x.m_parts), p.n_panels);
    s->n_items += x.m_parts * x.n_parts;
    s->list[s->n++] = x;
}

/* Item i of a stage: some rows of a product times some panels. The rows are a product of their own:
 * one of a single tile is faster than a tile of several. */
static void run_item(const lora_call *c, const stage *s, int32_t i, int member) {
    int32_t k = 0;
    while (k + 1 < s->n && s->list[k + 1].item0 <= i) k++;
    const cut_product *x = &s->list[k];
    op_gemm g = x->p.g;
    int32_t pack_rows = x->p.row->pack_rows;
    int64_t r0, r1, p0, p1;
    i -= x->item0;
    team_range(g.m, x->p.row->tile_rows, i / x->n_parts, x->m_parts, &r0, &r1);
    team_range(x->p.n_panels, 1, i % x->n_parts, x->n_parts, &p0, &p1);
    if (r0 >= r1 || p0 >= p1) return;
    g.m = (int32_t)(r1 - r0);
    g.a = (const float *)g.a + r0 * g.a_stride;
    g.out += r0 * g.out_stride;
    product p = product_of(c->c, &g, NULL);
    p.a = c->scratch + (size_t)member * c->scratch_bytes;
    char *scratch = (char *)p.a + p.a_bytes;
    if (p.a_bytes) product_prepare(&p, 0, p.n_tiles, scratch);
    product_run(&p, 0, p.n_tiles, (int32_t)p0, (int32_t)p1, scratch);
    int32_t col0 = (int32_t)p0 * pack_rows, col1 = MIN((int32_t)p1 * pack_rows, g.w->n);
    for (int32_t r = 0; x->s && r < g.m; r++)
        for (int32_t n = col0; n < col1; n++) g.out[r * g.out_stride + n] *= x->s[n];
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
    n->scratch = MAX(n->scratch, p->a_bytes + p->scratch_bytes);
    n->macs += product_macs(p);
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
    size_t down = ALIGN_UP((size_t)n->n_down * sizeof(cut_product), 64);
    size_t up = ALIGN_UP((size_t)n->n_up * sizeof(cut_product), 64);
    size_t low = ALIGN_UP((size_t)c->op->n_rows * (size_t)c->op->rank * sizeof(float), 64);
    c->scratch_bytes = n->scratch;
    char *ws = cpu_workspace(c->c, down + up + low + n->scratch * (size_t)c->n_members);
    c->down.list = (cut_product *)ws;
    c->up.list = (cut_product *)(ws + down);
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
        add(&c.down, down_of(&c, &r), r.l->s, c.n_members);
        for (int32_t i = 0; i < r.l->n_parts; i++)
            add(&c.up, up_of(&c, &r, &r.l->parts[i]), NULL, c.n_members);
    }
    if (c.n_members == 1)
        member_run(&c, 0);
    else
        team_run(cpu->team, member_run, &c);
}
