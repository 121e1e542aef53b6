/* lora: adapters of several ranks, parts and types in one call against the reference; then the same
 * bits for a row whoever else is in the call and in whatever order. */
#include <math.h>
#include <string.h>

#include "kernels/feed.h"
#include "tests/kernels/checkkern.h"

#define ADAPTERS_MAX 9
#define PARTS_MAX    3
#define SLOT         1 /* of two that every adapter has: the other would be noticed */

typedef struct setting {
    int32_t t, n, k, n_adapters, rank; /* of a part at most */
    dtype dt;
    bool mixed; /* types differ between adapters, and between A and B */
    dtype x_dt;
} setting;

/* One adapter as numbers: parts share A's rows where module says so, as q and k of a pack do. */
typedef struct numbers {
    mat a, s, b[PARTS_MAX];
    int32_t n_parts, row0[PARTS_MAX], col0[PARTS_MAX];
    dtype a_dt, b_dt;
} numbers;

typedef struct world {
    setting s;
    mat x, old;
    int32_t *of_row;
    int32_t rank; /* largest R */
    numbers ad[ADAPTERS_MAX];
} world;

/* The same on a backend, where its ops read it. */
typedef struct bound {
    backend *b;
    const lora_slot **table;
    lora_slot *slots[ADAPTERS_MAX];
    lora_part *parts[ADAPTERS_MAX];
} bound;

static dtype type_of(const setting *s, int32_t i) {
    static const dtype types[] = {DT_F32, DT_F16, DT_BF16};
    return s->mixed ? types[i % 3] : s->dt;
}

/* Parts of columns that do not meet; adapter 3 adds nothing here, adapter 4 is not loaded. */
static numbers numbers_new(check_ctx *c, const setting *s, int32_t i) {
    numbers d = {.a_dt = type_of(s, i), .b_dt = type_of(s, i + i / 3)};
    int32_t ranks = 0, row = 0, want = i == 3 ? 0 : 1 + i % PARTS_MAX;
    for (int32_t p = 0; p < want && row < s->n; p++) {
        int32_t room = s->n - row, rows = p + 1 == want ? room : MAX(1, room / (want - p));
        int32_t skip = check_int(c, 0, MIN(room - rows, 20));
        bool shares = p == 1 && i % 2 == 0;
        int32_t r = shares ? d.b[0].width : check_int(c, 1, s->rank);
        d.row0[p] = row + skip;
        d.col0[p] = shares ? 0 : ranks;
        d.b[p] = mat_new(rows, r, r + 1);
        mat_random(c, &d.b[p], 0.3f);
        row += skip + rows;
        if (!shares) ranks += r;
        d.n_parts++;
    }
    d.a = mat_new(MAX(ranks, 1), s->k, s->k + 3);
    d.s = mat_new(1, MAX(ranks, 1), MAX(ranks, 1));
    mat_random(c, &d.a, 0.2f), mat_random(c, &d.s, 1);
    return d;
}

static world world_new(check_ctx *c, setting s) {
    world w = {.s = s, .x = mat_new(s.t, s.k, mat_stride(s.k)), .old = mat_new(s.t, s.n, s.n + 5)};
    mat_random(c, &w.x, 1), mat_random(c, &w.old, 1);
    w.of_row = fenced_alloc((size_t)s.t * sizeof *w.of_row);
    int32_t last = 0;
    for (int32_t t = 0; t < s.t; t++) { /* neighbours mostly have the same */
        if (t == 0 || check_int(c, 0, 3) == 0) last = check_int(c, 0, s.n_adapters);
        w.of_row[t] = last;
    }
    for (int32_t i = 1; i <= s.n_adapters; i++) {
        w.ad[i] = numbers_new(c, &s, i);
        w.rank = MAX(w.rank, w.ad[i].a.rows);
    }
    return w;
}

static void world_free(world *w) {
    for (int32_t i = 1; i <= w->s.n_adapters; i++) {
        for (int32_t p = 0; p < w->ad[i].n_parts; p++) mat_free(&w->ad[i].b[p]);
        mat_free(&w->ad[i].a), mat_free(&w->ad[i].s);
    }
    fenced_free(w->of_row);
    mat_free(&w->x), mat_free(&w->old);
}

static bound bind(backend *b, const world *w) {
    int32_t n = w->s.n_adapters + 1;
    bound d = {.b = b, .table = fenced_alloc((size_t)n * sizeof *d.table)};
    d.table[0] = NULL;
    for (int32_t i = 1; i < n; i++) {
        const numbers *x = &w->ad[i];
        d.table[i] = NULL;
        if (i == 4) continue;
        d.slots[i] = fenced_alloc((SLOT + 1) * sizeof *d.slots[i]);
        d.parts[i] = fenced_alloc((size_t)MAX(x->n_parts, 1) * sizeof *d.parts[i]);
        memset(d.slots[i], 0, (SLOT + 1) * sizeof *d.slots[i]);
        for (int32_t p = 0; p < x->n_parts; p++)
            d.parts[i][p] = (lora_part){x->row0[p], x->col0[p], wmat_new(b, &x->b[p], x->b_dt)};
        d.slots[i][SLOT] = (lora_slot){wmat_new(b, &x->a, x->a_dt), x->s.p, x->n_parts, d.parts[i]};
        d.table[i] = d.slots[i];
    }
    return d;
}

static void bound_free(bound *d, const world *w) {
    for (int32_t i = 1; i <= w->s.n_adapters; i++) {
        if (!d->slots[i]) continue;
        for (int32_t p = 0; p < w->ad[i].n_parts; p++) wmat_free(&d->parts[i][p].b);
        wmat_free(&d->slots[i][SLOT].a);
        fenced_free(d->parts[i]), fenced_free(d->slots[i]);
    }
    fenced_free(d->table);
}

/* x as its type; fenced_free. */
static void *stored(const mat *x, dtype dt) {
    size_t n = (size_t)((x->rows - 1) * x->stride + x->width);
    char *to = fenced_alloc(n * dtype_bytes(dt));
    memset(to, 0x7F, n * dtype_bytes(dt));
    for (int32_t r = 0; r < x->rows; r++)
        feed_store(dt, x->p + r * x->stride, x->width,
                   to + (size_t)(r * x->stride) * dtype_bytes(dt), NULL);
    return to;
}

/* Row i of the result is row rows[i] of the world; NULL: rows 0 .. n-1, without pick. */
static mat run(const bound *d, const world *w, const int32_t *rows, int32_t n) {
    mat out = mat_new(n, w->s.n, w->old.stride), x = mat_new(n, w->s.k, w->x.stride);
    int32_t *pick = rows ? fenced_alloc((size_t)n * sizeof *pick) : NULL;
    for (int32_t i = 0; i < n; i++) {
        int32_t t = rows ? rows[i] : i;
        memcpy(out.p + i * out.stride, w->old.p + t * w->old.stride, (size_t)w->s.n * 4);
        memcpy(x.p + i * x.stride, w->x.p + t * w->x.stride, (size_t)w->s.k * 4);
        if (pick) pick[i] = t;
    }
    void *rows_of_x = stored(&x, w->s.x_dt);
    op_lora a = {.n_rows = n,
                 .n = w->s.n,
                 .k = w->s.k,
                 .rank = w->rank,
                 .slot = SLOT,
                 .x = rows_of_x,
                 .x_stride = x.stride,
                 .x_dt = w->s.x_dt,
                 .out = out.p,
                 .out_stride = out.stride,
                 .n_adapters = w->s.n_adapters + 1,
                 .table = d->table,
                 .of_row = w->of_row,
                 .pick = pick};
    CALL(d->b, lora, &a);
    fenced_free(pick), fenced_free(rows_of_x);
    mat_free(&x);
    return out;
}

/* Some rows, in another order. */
static void same_bits(check_ctx *c, const bound *d, const world *w, const mat *all, int32_t n,
                      int threads) {
    int32_t *rows = mem_alloc((size_t)n * sizeof *rows);
    mat want = mat_new(n, all->width, all->width);
    for (int32_t i = 0; i < n; i++) {
        rows[i] = check_int(c, 0, w->s.t - 1);
        memcpy(want.p + i * want.stride, all->p + rows[i] * all->stride, (size_t)all->width * 4);
    }
    mat got = run(d, w, rows, n);
    check_same(c, &want, 0, &got, "lora bits %s T=%d of %d N=%d K=%d threads=%d",
               dtype_name(w->s.dt), n, w->s.t, w->s.n, w->s.k, threads);
    check_that(c, mat_guards_ok(&got), "wrote outside its rows", "lora T=%d", n);
    mat_free(&want), mat_free(&got);
    mem_free(rows);
}

static void compare(check_ctx *c, setting s, bool special) {
    world w = world_new(c, s);
    if (special) {
        w.x.p[0] = NAN;
        w.x.p[(s.t - 1) * w.x.stride + s.k / 2] = INFINITY;
        for (int32_t i = 1; i <= s.n_adapters; i++) w.ad[i].s.p[0] = 0;
    }
    bound ref = bind(c->ref, &w);
    mat want = run(&ref, &w, NULL, s.t);
    for (int t = 0; t < c->n_be; t++) {
        bound d = bind(c->be[t], &w);
        mat got = run(&d, &w, NULL, s.t);
        check_close(
            c, &want, &got, check_tol("lora", s.dt != DT_F32 || s.mixed),
            "lora %s of %s T=%d N=%d K=%d adapters=%d rank=%d mixed=%d special=%d threads=%d",
            dtype_name(s.dt), dtype_name(s.x_dt), s.t, s.n, s.k, s.n_adapters, s.rank, s.mixed,
            special, t + 1);
        static const int32_t counts[] = {1, 2, 9, 40};
        for (size_t i = 0; i < ARRAY_LEN(counts); i++) same_bits(c, &d, &w, &got, counts[i], t + 1);
        mat_free(&got);
        bound_free(&d, &w);
    }
    mat_free(&want);
    bound_free(&ref, &w);
    world_free(&w);
}

void check_lora(check_ctx *c) {
    static const dtype types[] = {DT_F32, DT_F16, DT_BF16};
    static const setting shapes[] = {
        {1, 1, 1, 1, 1},     {2, 16, 8, 1, 4},      {5, 70, 33, 3, 9},   {17, 130, 300, 8, 17},
        {33, 65, 515, 5, 8}, {40, 300, 100, 8, 40}, {9, 40, 2100, 4, 8}, {12, 257, 64, 2, 130},
    };
    for (size_t t = 0; t < ARRAY_LEN(types); t++) {
        for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
            setting s = shapes[i];
            s.dt = types[t];
            s.x_dt = types[(t + i) % 3];
            compare(c, s, false);
        }
        compare(c, (setting){20, 50, 70, 4, 8, types[t], false}, true);
        for (int i = 0; i < (c->full ? 40 : 3); i++) {
            setting s = {check_int(c, 1, 60),     check_int(c, 1, 200),     check_int(c, 1, 400),
                         check_int(c, 1, 8),      check_int(c, 1, 40),      types[t],
                         check_int(c, 0, 1) == 1, types[check_int(c, 0, 2)]};
            compare(c, s, false);
        }
        /* So many rows that a device takes larger tiles, and K in several chunks. */
        compare(c, (setting){300, 40, 2100, 5, 20, types[t], t == 1}, false);
        compare(c, (setting){300, 40, 200, 5, 70, types[t], false, types[t]}, false);
        if (c->full) compare(c, (setting){700, 1152, 4864, 8, 64, types[t], false}, false);
    }
}
