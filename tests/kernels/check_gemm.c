/* gemm: tails of M, N and K, strides, bias, accumulation, packing in pieces, special values; then
 * the same bits for any number of rows and threads. */
#include <math.h>
#include <string.h>

#include "tests/kernels/checkkern.h"

typedef struct shape {
    int32_t m, n, k;
} shape;

typedef struct gemm_case {
    mat a, w, bias, old;
    wmat ref, fast;
} gemm_case;

static gemm_case case_empty(shape s) {
    gemm_case g = {.a = mat_new(s.m, s.k, mat_stride(s.k)), .w = mat_new(s.n, s.k, s.k + 1)};
    g.bias = mat_new(1, s.n, s.n);
    g.old = mat_new(s.m, s.n, s.n + 5);
    return g;
}

static void case_pack(check_ctx *c, gemm_case *g, dtype dt) {
    g->ref = wmat_new(c->ref, &g->w, dt);
    g->fast = wmat_new(c->be[0], &g->w, dt);
}

static gemm_case case_new(check_ctx *c, shape s, dtype dt) {
    gemm_case g = case_empty(s);
    mat_random(c, &g.a, 1);
    mat_random(c, &g.w, 0.1f);
    mat_random(c, &g.bias, 1);
    mat_random(c, &g.old, 1);
    case_pack(c, &g, dt);
    return g;
}

static void case_free(gemm_case *g) {
    mat_free(&g->a), mat_free(&g->w), mat_free(&g->bias), mat_free(&g->old);
    wmat_free(&g->ref), wmat_free(&g->fast);
}

/* Rows [row0, row0+m) of the case; bit 0 of `how`: bias, bit 1: accumulate. */
static mat run(backend *b, const gemm_case *g, const wmat *w, int32_t row0, int32_t m, int how) {
    mat out = mat_new(m, g->w.rows, g->old.stride);
    if (how & 2)
        for (int32_t r = 0; r < m; r++)
            memcpy(out.p + r * out.stride, g->old.p + (row0 + r) * g->old.stride,
                   (size_t)out.width * 4);
    op_gemm op = {m,
                  g->a.p + row0 * g->a.stride,
                  g->a.stride,
                  w,
                  how & 1 ? g->bias.p : NULL,
                  out.p,
                  out.stride,
                  (how & 2) != 0};
    CALL(b, gemm, &op);
    return out;
}

static void compare(check_ctx *c, shape s, dtype dt, int how, bool special) {
    gemm_case g = case_new(c, s, dt);
    if (special) { /* a NaN, an infinity and a row of zeros */
        g.a.p[0] = NAN;
        if (s.m > 2) g.a.p[2 * g.a.stride + s.k / 2] = INFINITY;
        if (s.m > 3) memset(g.a.p + 3 * g.a.stride, 0, (size_t)s.k * 4);
    }
    mat want = run(c->ref, &g, &g.ref, 0, s.m, how);
    for (int t = 0; t < c->n_be; t++) {
        mat got = run(c->be[t], &g, &g.fast, 0, s.m, how);
        check_close(c, &want, &got, check_tol("gemm", dt != DT_F32),
                    "gemm %s m=%d n=%d k=%d how=%d special=%d threads=%d", dtype_name(dt), s.m, s.n,
                    s.k, how, special, t + 1);
        mat_free(&got);
    }
    mat_free(&want);
    case_free(&g);
}

/* Between (1 - spread) * top and top. */
static void fill_top(check_ctx *c, mat *m, double top, double spread) {
    for (int32_t r = 0; r < m->rows; r++)
        for (int32_t i = 0; i < m->width; i++)
            m->p[r * m->stride + i] = (float)(top * (1 - spread * check_uniform(c)));
}

/* No product of two numbers of a row and a column can be larger than all of these, and none cancels
 * another: what rows add in a narrow type must hold them. */
static void largest(check_ctx *c, dtype dt, int32_t m, double top_a, double spread) {
    gemm_case g = case_empty((shape){m, 70, 1100});
    fill_top(c, &g.a, top_a, spread);
    fill_top(c, &g.w, 255, spread);
    case_pack(c, &g, dt);
    mat want = run(c->ref, &g, &g.ref, 0, m, 0);
    for (int t = 0; t < c->n_be; t++) {
        mat got = run(c->be[t], &g, &g.fast, 0, m, 0);
        check_close(c, &want, &got, check_tol("gemm", dt != DT_F32),
                    "gemm %s largest m=%d top=%g spread=%g threads=%d", dtype_name(dt), m, top_a,
                    spread, t + 1);
        mat_free(&got);
    }
    mat_free(&want);
    case_free(&g);
}

/* Every row count gives the bits of the 256-row product. */
static void invariance(check_ctx *c, dtype dt, int32_t n, int32_t k) {
    static const int32_t counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 25, 64, 255};
    gemm_case g = case_new(c, (shape){256, n, k}, dt);
    mat all = run(c->be[0], &g, &g.fast, 0, 256, 3);
    for (int t = 0; t < c->n_be; t++)
        for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
            int32_t row0 = check_int(c, 0, 256 - counts[i]);
            mat part = run(c->be[t], &g, &g.fast, row0, counts[i], 3);
            check_same(c, &all, row0, &part, "gemm %s bits m=%d n=%d k=%d threads=%d",
                       dtype_name(dt), counts[i], n, k, t + 1);
            mat_free(&part);
        }
    mat_free(&all);
    case_free(&g);
}

void check_gemm(check_ctx *c) {
    static const dtype types[] = {DT_F32, DT_F16, DT_BF16};
    static const shape shapes[] = {{1, 1, 1},    {1, 31, 2},    {2, 33, 3},     {3, 64, 17},
                                   {4, 65, 255}, {5, 100, 257}, {12, 129, 511}, {13, 96, 513},
                                   {25, 40, 64}, {7, 300, 515}, {50, 33, 1025}, {1, 200, 1024}};
    for (size_t t = 0; t < ARRAY_LEN(types); t++) {
        for (size_t i = 0; i < ARRAY_LEN(shapes); i++)
            compare(c, shapes[i], types[t], (int)(i % 4), false);
        compare(c, (shape){9, 70, 100}, types[t], 0, true);
        compare(c, (shape){1, 70, 101}, types[t], 1, true);
        for (int i = 0; i < (c->full ? 60 : 6); i++) {
            shape s = {check_int(c, 1, 40), check_int(c, 1, 300), check_int(c, 1, 700)};
            compare(c, s, types[t], check_int(c, 0, 3), false);
        }
        double top = c->device && types[t] == DT_F16 ? 65504 : 0x1.fep100;
        for (int32_t m = 1; m <= 25; m += 12) {
            largest(c, types[t], m, 1.9990234375, 0);
            largest(c, types[t], m, top, 0.1);
        }
        invariance(c, types[t], 201, 603);
        compare(c, (shape){100, 70, 4300}, types[t], 3, false); /* K in several rounds */
        invariance(c, types[t], 70, 4300);
        if (c->full) {
            compare(c, (shape){130, 1000, 4864}, types[t], 0, false);
            invariance(c, types[t], 1152, 896);
        }
    }
}
