/* The small ops: widths around the lanes of every level, strides, in place, special values, and
 * the same bits whatever the number of rows and threads. */
#include <math.h>
#include <string.h>

#include "tests/kernels/checkkern.h"

static const int32_t widths[] = {1, 2, 7, 8, 15, 16, 17, 31, 33, 64, 100, 896, 5000};

/* Runs an op on rows [row0, row0+n) of its inputs; `seed_case` selects variants. */
typedef struct op_case {
    const char *name;
    int32_t rows, width, variant;
    mat x, y; /* inputs */
    mat w;    /* 2 rows of parameters: weight, bias */
} op_case;
typedef mat (*op_fn)(backend *b, const op_case *o, int32_t row0, int32_t n);

/* Variants: storage type + 3 * accumulate. */
static mat run_embed(backend *b, const op_case *o, int32_t row0, int32_t n) {
    static const dtype types[] = {DT_F32, DT_F16, DT_BF16};
    dtype dt = types[o->variant % 3];
    size_t cells = (size_t)o->rows * (size_t)o->width;
    uint16_t *half = packed_alloc(cells * dtype_bytes(dt));
    for (int32_t r = 0; r < o->rows; r++)
        for (int32_t i = 0; i < o->width; i++) {
            float v = o->x.p[r * o->x.stride + i];
            if (dt == DT_F32)
                ((float *)half)[r * o->width + i] = v;
            else
                half[r * o->width + i] = dt == DT_F16 ? f32_to_f16(v) : f32_to_bf16(v);
        }
    int32_t *ids = fenced_alloc((size_t)n * sizeof *ids);
    for (int32_t r = 0; r < n; r++) ids[r] = (row0 + r) * 7 % o->rows;
    mat out = mat_new(n, o->width, o->width);
    bool accumulate = o->variant >= 3;
    for (int32_t r = 0; accumulate && r < n; r++)
        memcpy(out.p + r * out.stride, o->y.p + (row0 + r) * o->y.stride, (size_t)o->width * 4);
    op_embed a = {.ids = ids,
                  .n_tokens = n,
                  .width = o->width,
                  .rows = o->rows,
                  .table = half,
                  .table_dt = dt,
                  .scale = 1.7f,
                  .out = out.p,
                  .accumulate = accumulate};
    CALL(b, embed, &a);
    fenced_free(half), fenced_free(ids);
    return out;
}

/* Variants: bit 0 layer norm, bit 1 add, bit 2 no weight, bit 3 in place. */
static mat run_norm(backend *b, const op_case *o, int32_t row0, int32_t n) {
    mat x = mat_new(n, o->width, o->x.stride), out = mat_new(n, o->width, o->width + 9);
    for (int32_t r = 0; r < n; r++)
        memcpy(x.p + r * x.stride, o->x.p + (row0 + r) * o->x.stride, (size_t)o->width * 4);
    bool in_place = (o->variant & 8) != 0;
    op_norm a = {o->variant & 1 ? NORM_LAYER : NORM_RMS,
                 n,
                 1,
                 o->width,
                 x.p,
                 x.stride,
                 o->variant & 2 ? o->y.p + row0 * o->y.stride : NULL,
                 o->y.stride,
                 o->variant & 4 ? NULL : o->w.p,
                 o->variant & 1 ? o->w.p + o->w.stride : NULL,
                 1e-5f,
                 in_place ? x.p : out.p,
                 in_place ? x.stride : out.stride};
    CALL(b, norm, &a);
    mat_free(in_place ? &out : &x);
    return in_place ? x : out;
}

/* Heads of one row normalised apart: the width is cut into groups of 4. Variants: bit 0 layer norm
 * with a bias, bit 1 weights of their own for every head. */
static mat run_qk_norm(backend *b, const op_case *o, int32_t row0, int32_t n) {
    mat x = mat_new(n, o->width, o->x.stride);
    for (int32_t r = 0; r < n; r++)
        memcpy(x.p + r * x.stride, o->x.p + (row0 + r) * o->x.stride, (size_t)o->width * 4);
    bool layer = o->variant & 1;
    op_norm a = {.kind = layer ? NORM_LAYER : NORM_RMS,
                 .n_rows = n,
                 .n_groups = o->width / 4,
                 .width = 4,
                 .x = x.p,
                 .x_stride = x.stride,
                 .weight = o->w.p,
                 .bias = layer ? o->w.p + o->w.stride : NULL,
                 .eps = 1e-6f,
                 .out = x.p,
                 .out_stride = x.stride,
                 .weight_stride = o->variant & 2 ? 4 : 0};
    CALL(b, norm, &a);
    return x;
}

/* Variants: kind + ACT_COUNT * gated. Even widths in place. */
static mat run_act(backend *b, const op_case *o, int32_t row0, int32_t n) {
    bool gated = o->variant >= ACT_COUNT, in_place = o->width % 2 == 0;
    mat in = mat_new(n, gated ? 2 * o->width : o->width, 2 * o->width + 3);
    mat out = mat_new(n, o->width, o->width + 2);
    for (int32_t r = 0; r < n; r++) {
        const float *x = o->x.p + (row0 + r) * o->x.stride, *y = o->y.p + (row0 + r) * o->y.stride;
        memcpy(in.p + r * in.stride, x, (size_t)o->width * 4);
        if (gated) memcpy(in.p + r * in.stride + o->width, y, (size_t)o->width * 4);
    }
    op_act a = {o->variant % ACT_COUNT, gated, n, o->width, in.p, in.stride, out.p, out.stride};
    if (in_place) a.out = in.p, a.out_stride = in.stride;
    CALL(b, act, &a);
    if (in_place) mat_copy(&out, &(mat){n, o->width, in.stride, in.p});
    mat_free(&in);
    return out;
}

/* A copy of rows of x that an op may change. */
static mat rows_in(const op_case *o, int32_t row0, int32_t n) {
    mat x = mat_new(n, o->width, o->width + 1);
    for (int32_t r = 0; r < n; r++)
        memcpy(x.p + r * x.stride, o->x.p + (row0 + r) * o->x.stride, (size_t)o->width * 4);
    return x;
}

/* Variants: bit 0 row factors, bit 1 through a sigmoid, bit 2 column factors. */
static mat run_scale(backend *b, const op_case *o, int32_t row0, int32_t n) {
    mat x = rows_in(o, row0, n);
    op_scale a = {.n_rows = n,
                  .width = o->width,
                  .x = x.p,
                  .x_stride = x.stride,
                  .scale = 0.37f,
                  .row = o->variant & 1 ? o->y.p + row0 * o->y.stride : NULL,
                  .row_stride = o->y.stride,
                  .row_sigmoid = (o->variant & 2) != 0,
                  .col = o->variant & 4 ? o->w.p : NULL};
    CALL(b, scale, &a);
    return x;
}

static mat run_limit(backend *b, const op_case *o, int32_t row0, int32_t n) {
    mat x = rows_in(o, row0, n);
    op_limit a = {o->variant, n, o->width, x.p, x.stride, 1.25f};
    CALL(b, limit, &a);
    return x;
}

static mat run_add(backend *b, const op_case *o, int32_t row0, int32_t n) {
    static const float scales[][2] = {{1, 1}, {0.7f, 1}, {1, -0.3f}, {2.6f, 0.21f}, {0, 3}};
    const float *s = scales[o->variant];
    mat x = rows_in(o, row0, n);
    op_add a = {n, o->width, x.p, x.stride, o->y.p + row0 * o->y.stride, o->y.stride, s[0], s[1]};
    CALL(b, add, &a);
    return x;
}

static mat run_logsumexp(backend *b, const op_case *o, int32_t row0, int32_t n) {
    mat out = mat_new(n, 3, 3);
    float *max = fenced_alloc((size_t)n * 4), *lse = fenced_alloc((size_t)n * 4);
    int32_t *arg = fenced_alloc((size_t)n * 4);
    op_logsumexp a = {n, o->width, o->x.p + row0 * o->x.stride, o->x.stride, max, lse, arg};
    CALL(b, logsumexp, &a);
    for (int32_t r = 0; r < n; r++) {
        out.p[r * 3] = max[r];
        out.p[r * 3 + 1] = lse[r];
        out.p[r * 3 + 2] = (float)arg[r];
    }
    fenced_free(max), fenced_free(lse), fenced_free(arg);
    return out;
}

static void check_op(check_ctx *c, const char *name, op_fn run, int32_t width, int32_t variant,
                     int special) {
    const char *op = strcmp(name, "qk_norm") == 0 ? "norm" : name;
    if (!check_wanted(c, op)) return;
    op_case o = {name,
                 40,
                 width,
                 variant,
                 mat_new(40, width, width + 5),
                 mat_new(40, width, width + 6),
                 mat_new(2, width, width)};
    mat_random(c, &o.x, 3);
    mat_random(c, &o.y, 2);
    mat_random(c, &o.w, 1);
    if (special) {
        o.x.p[width / 2] = NAN;
        o.x.p[3 * o.x.stride] = INFINITY;
        o.x.p[4 * o.x.stride + width - 1] = -INFINITY;
        for (int32_t i = 0; i < width; i++) {
            o.x.p[5 * o.x.stride + i] = 0;
            o.x.p[6 * o.x.stride + i] = i % 2 ? 200.0f : -200.0f;
            o.x.p[7 * o.x.stride + i] = 1.5f; /* ties */
        }
    }
    mat want = run(c->ref, &o, 0, o.rows), base = run(c->be[0], &o, 0, o.rows);
    check_close(c, &want, &base, check_tol(op, false), "%s width=%d variant=%d special=%d", name,
                width, variant, special);
    for (int t = 0; t < c->n_be; t++) {
        static const int32_t counts[] = {1, 2, 7, 40};
        for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
            int32_t row0 = check_int(c, 0, 40 - counts[i]);
            mat part = run(c->be[t], &o, row0, counts[i]);
            check_same(c, &base, row0, &part, "%s bits width=%d variant=%d rows=%d threads=%d",
                       name, width, variant, counts[i], t + 1);
            mat_free(&part);
        }
    }
    mat_free(&want), mat_free(&base), mat_free(&o.x), mat_free(&o.y), mat_free(&o.w);
}

static void check_copy_pages(check_ctx *c) {
    enum { PAGES = 9, BYTES = 1000, BUFFERS = 5 };
    static const int32_t src[] = {0, 3, 8, 8}, dst[] = {3, 8, 1, 8};
    if (!check_wanted(c, "copy_pages")) return;
    uint8_t *want = mem_alloc(BUFFERS * PAGES * BYTES);
    uint8_t *got = packed_alloc(BUFFERS * PAGES * BYTES);
    for (int t = 0; t < c->n_be; t++) {
        void *buffers[BUFFERS];
        for (int i = 0; i < BUFFERS; i++) buffers[i] = got + i * PAGES * BYTES;
        for (int i = 0; i < BUFFERS * PAGES * BYTES; i++)
            want[i] = got[i] = (uint8_t)check_int(c, 0, 255);
        for (int i = 0; i < BUFFERS; i++)
            for (int j = 0; j < 4; j++)
                memmove(want + (i * PAGES + dst[j]) * BYTES, want + (i * PAGES + src[j]) * BYTES,
                        BYTES);
        op_copy_pages a = {4, src, dst, BUFFERS, buffers, BYTES};
        CALL(c->be[t], copy_pages, &a);
        check_that(c, memcmp(want, got, BUFFERS * PAGES * BYTES) == 0, "bytes differ",
                   "copy_pages threads=%d", t + 1);
    }
    mem_free(want), fenced_free(got);
}

/* More rows than a block of threads has; sources in any order, some twice, some of failed rows. */
static void check_chain(check_ctx *c) {
    enum { TOKENS = 300, RESULTS = 40, VOCAB = 1000 };
    if (!check_wanted(c, "chain")) return;
    int32_t want[TOKENS];
    int32_t *ids = fenced_alloc(sizeof want), *src = fenced_alloc(sizeof want);
    sample_result *from = packed_alloc(RESULTS * sizeof *from);
    for (int i = 0; i < RESULTS; i++)
        from[i].token = i % 9 ? check_int(c, 0, VOCAB - 1) : i % 2 ? VOCAB : -1;
    for (int i = 0; i < TOKENS; i++) src[i] = check_int(c, -4, RESULTS - 1);
    for (int t = 0; t < c->n_be; t++) {
        for (int i = 0; i < TOKENS; i++) {
            want[i] = ids[i] = check_int(c, 0, VOCAB - 1);
            if (src[i] >= 0) want[i] = src[i] % 9 ? from[src[i]].token : 0;
        }
        op_chain a = {TOKENS, VOCAB, src, from, ids};
        CALL(c->be[t], chain, &a);
        check_that(c, memcmp(want, ids, sizeof want) == 0, "ids differ", "chain threads=%d", t + 1);
    }
    fenced_free(ids), fenced_free(src), fenced_free(from);
}

void check_ops(check_ctx *c) {
    for (size_t i = 0; i < ARRAY_LEN(widths); i++) {
        int32_t w = widths[i];
        if (c->small && w == 5000) continue;
        for (int special = 0; special < 2; special++) {
            for (int v = 0; v < 6; v++) check_op(c, "embed", run_embed, w, v, special);
            for (int v = 0; v < 16; v++) check_op(c, "norm", run_norm, w, v, special);
            for (int v = 0; v < 4 && w % 4 == 0; v++)
                check_op(c, "qk_norm", run_qk_norm, w, v, special);
            for (int v = 0; v < 2 * ACT_COUNT; v++)
                if (v != ACT_SWIGLU_OAI) check_op(c, "act", run_act, w, v, special);
            for (int v = 0; v < 5; v++) check_op(c, "add", run_add, w, v, special);
            for (int v = 0; v < 8; v++) check_op(c, "scale", run_scale, w, v, special);
            for (int v = 0; v < 2; v++) check_op(c, "limit", run_limit, w, v, special);
            check_op(c, "logsumexp", run_logsumexp, w, 0, special);
        }
    }
    for (int special = 0; special < 2; special++) {
        check_op(c, "logsumexp", run_logsumexp, 8192, 0, special);
        check_op(c, "logsumexp", run_logsumexp, 20000, 0, special);
        check_op(c, "act", run_act, 9000, ACT_COUNT, special);
        check_op(c, "scale", run_scale, 9000, 7, special);
    }
    check_copy_pages(c);
    check_chain(c);
}
