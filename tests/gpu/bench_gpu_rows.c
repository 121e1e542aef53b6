/* What stands between the products: norm with the residual sum, rope with the write of keys and
 * values, SwiGLU, statistics of logits, sampling. Many rows are bound by memory; with few rows a
 * launch is all there is. Buffers of few rows stay in the L2 cache, as in a decode step. */
#include <math.h>

#include "engine/base/rng.h"
#include "tests/gpu/gpu_bench.h"

#define FEW_US 2.5

typedef struct rows_ctx {
    backend *be;
    op_norm norm;
    op_act act;
    op_rope_kv rope;
    op_logsumexp lse;
} rows_ctx;

typedef struct sample_ctx {
    backend *be;
    op_sample op;
} sample_ctx;

static void norm_launch(void *ctx, int i) {
    rows_ctx *r = ctx;
    r->be->v->norm(r->be, &r->norm);
}
static void act_launch(void *ctx, int i) {
    rows_ctx *r = ctx;
    r->be->v->act(r->be, &r->act);
}
static void rope_launch(void *ctx, int i) {
    rows_ctx *r = ctx;
    r->be->v->rope_kv(r->be, &r->rope);
}
static void lse_launch(void *ctx, int i) {
    rows_ctx *r = ctx;
    r->be->v->logsumexp(r->be, &r->lse);
}

/* A case of t rows; few of them have a target in us. */
static gpu_case row_case(int32_t t, const char *what, void (*run)(void *, int), rows_ctx *r) {
    gpu_case c = {.line = "G9", .run = run, .ctx = r, .goal = t > 64 ? GOAL_COPY : GOAL_US};
    c.target = t > 64 ? 0.90 : FEW_US;
    snprintf(c.name, sizeof c.name, "%s, %d rows", what, t);
    return c;
}

/* x grows by y in every launch and stays finite: thousands of sums of numbers near one. */
static void norm_case(gpu_bench *g, int32_t t, int32_t width) {
    size_t n = (size_t)t * (size_t)width;
    float *x = bench_normal(g, n, DT_F32), *y = bench_normal(g, n, DT_F32);
    float *out = bench_alloc(g, n * 4), *weight = bench_normal(g, (size_t)width, DT_F32);
    rows_ctx r = {.be = g->be};
    r.norm = (op_norm){.kind = NORM_RMS,
                       .n_rows = t,
                       .n_groups = 1,
                       .width = width,
                       .x = x,
                       .x_stride = width,
                       .add = y,
                       .add_stride = width,
                       .weight = weight,
                       .eps = 1e-5f,
                       .out = out,
                       .out_stride = width};
    gpu_case c = row_case(t, "add + RMSNorm", norm_launch, &r);
    c.bytes = 16.0 * (double)n, c.out = out, c.n_out = n;
    bench_case(g, &c);
    bench_free(g, x, n * 4), bench_free(g, y, n * 4), bench_free(g, out, n * 4);
    bench_free(g, weight, (size_t)width * 4);
}

static void act_case(gpu_bench *g, int32_t t, int32_t width) {
    size_t n = (size_t)t * (size_t)width;
    float *in = bench_normal(g, 2 * n, DT_F32), *out = bench_alloc(g, n * 4);
    rows_ctx r = {.be = g->be};
    r.act = (op_act){ACT_SILU, true, t, width, in, 2 * width, out, width};
    gpu_case c = row_case(t, "SwiGLU", act_launch, &r);
    c.bytes = 12.0 * (double)n, c.out = out, c.n_out = n;
    bench_case(g, &c);
    bench_free(g, in, n * 8), bench_free(g, out, n * 4);
}

/* Tokens at positions of their own, in pages that lie in order. */
static void rope_case(gpu_bench *g, int32_t t) {
    enum { D = 128, PAGE = 16 };
    int32_t heads = g->tiny ? 4 : 32, kv_heads = g->tiny ? 1 : 8,
            width = (heads + 2 * kv_heads) * D;
    size_t n = (size_t)t * (size_t)width, half = (size_t)t * D / 2;
    size_t pages = (size_t)CEIL_DIV(t, PAGE) * PAGE * (size_t)(kv_heads * D) * 2;
    int32_t *pos = mem_alloc((size_t)t * 4);
    int64_t *slot = mem_alloc((size_t)t * 8);
    float *angles = mem_alloc(half * 8);
    for (int32_t i = 0; i < t; i++) pos[i] = i, slot[i] = i;
    for (size_t i = 0; i < half; i++) {
        double angle = (double)(i / (D / 2)) * pow(5e5, -2.0 * (double)(i % (D / 2)) / D);
        angles[i] = (float)cos(angle), angles[half + i] = (float)sin(angle);
    }
    float *qkv = bench_normal(g, n, DT_F32), *table = bench_upload(g, angles, half * 8);
    void *k = bench_alloc(g, pages), *v = bench_alloc(g, pages);
    void *dev_pos = bench_upload(g, pos, (size_t)t * 4);
    void *dev_slot = bench_upload(g, slot, (size_t)t * 8);
    rows_ctx r = {.be = g->be};
    r.rope = (op_rope_kv){t,        heads, kv_heads,     D, D, ROPE_HALF, qkv, width, dev_pos,
                          dev_slot, table, table + half, k, v, DT_BF16,   PAGE};
    gpu_case c = row_case(t, "rope + KV write", rope_launch, &r);
    /* q and k are read and written, v is read; keys and values go to pages. */
    c.bytes = (double)t * D * (8.0 * (heads + kv_heads) + 4.0 * kv_heads + 4.0 * kv_heads);
    bench_case(g, &c);
    bench_free(g, qkv, n * 4), bench_free(g, table, half * 8);
    bench_free(g, k, pages), bench_free(g, v, pages);
    bench_free(g, dev_pos, (size_t)t * 4), bench_free(g, dev_slot, (size_t)t * 8);
    mem_free(pos), mem_free(slot), mem_free(angles);
}

static void lse_case(gpu_bench *g, int32_t t, int32_t width) {
    size_t n = (size_t)t * (size_t)width;
    float *x = bench_normal(g, n, DT_F32), *out = bench_alloc(g, (size_t)t * 8);
    int32_t *argmax = bench_alloc(g, (size_t)t * 4);
    rows_ctx r = {.be = g->be};
    r.lse = (op_logsumexp){t, width, x, width, out, out + t, argmax};
    gpu_case c = {.line = "G10", .run = lse_launch, .ctx = &r, .out = out, .n_out = (size_t)t * 2};
    snprintf(c.name, sizeof c.name, "logsumexp + argmax V=%d B=%d", width, t);
    c.bytes = 4.0 * (double)n;
    bench_case(g, &c);
    bench_free(g, x, n * 4), bench_free(g, out, (size_t)t * 8);
    bench_free(g, argmax, (size_t)t * 4);
}

/* Choice of a token from each row with top-k 50 and top-p 0.9. Where the device has no such op the
 * engine fetches the logits and chooses on the host. */
static void sample_launch(void *ctx, int i) {
    sample_ctx *s = ctx;
    s->be->v->sample(s->be, &s->op);
}

static void sample_case(gpu_bench *g, int32_t t, int32_t width, double target) {
    size_t n = (size_t)t * (size_t)width, results = (size_t)t * sizeof(sample_result);
    char name[96];
    snprintf(name, sizeof name, "sample top-k 50, top-p 0.9, V=%d B=%d", width, t);
    if (!g->be->v->sample) {
        bench_absent(g, "G10", name, "the host chooses tokens");
        return;
    }
    float *x = bench_normal(g, n, DT_F32), *stats = bench_alloc(g, (size_t)t * 8);
    int32_t *argmax = bench_alloc(g, (size_t)t * 4);
    op_logsumexp lse = {t, width, x, width, stats, stats + t, argmax};
    g->be->v->logsumexp(g->be, &lse);
    sample_row *rows = mem_calloc((size_t)t, sizeof *rows);
    for (int32_t i = 0; i < t; i++)
        rows[i] = (sample_row){.row = i,
                               .given = -1,
                               .n_logprobs = -1,
                               .temperature = 0.8f,
                               .top_k = 50,
                               .top_p = 0.9f,
                               .repetition_penalty = 1,
                               .key = rng_philox(5, 0, (uint64_t)i).x[0]};
    void *dev_rows = bench_upload(g, rows, (size_t)t * sizeof *rows);
    sample_result *out = bench_alloc(g, results);
    sample_ctx s = {g->be, {t, width, x, width, stats + t, argmax, rows, dev_rows, NULL, 0, out}};
    gpu_case c = {.line = "G10", .run = sample_launch, .ctx = &s, .goal = GOAL_US};
    c.target = target, c.bytes = 4.0 * (double)n;
    snprintf(c.name, sizeof c.name, "%s", name);
    bench_case(g, &c);
    bench_free(g, x, n * 4), bench_free(g, stats, (size_t)t * 8);
    bench_free(g, argmax, (size_t)t * 4), bench_free(g, out, results);
    bench_free(g, dev_rows, (size_t)t * sizeof *rows);
    mem_free(rows);
}

void bench_rows(gpu_bench *g) {
    const int32_t rows[] = {g->tiny ? 70 : 4096, g->tiny ? 3 : 64};
    for (int i = 0; i < 2 && bench_wants(g, "G9"); i++) {
        norm_case(g, rows[i], g->tiny ? 320 : 4096);
        rope_case(g, rows[i]);
        act_case(g, rows[i], g->tiny ? 96 : 14336);
    }
    if (!bench_wants(g, "G10")) return;
    lse_case(g, g->tiny ? 5 : 256, g->tiny ? 1000 : 128256);
    lse_case(g, 1, g->tiny ? 1000 : 128256);
    sample_case(g, g->tiny ? 5 : 256, g->tiny ? 1000 : 128256, 60);
    sample_case(g, 1, g->tiny ? 1000 : 128256, 8);
}
