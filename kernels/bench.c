/* Weights and pages are rotated through a buffer far larger than the caches, so that what decode
 * reads from memory is read from memory here. The limit of a line is the larger of bytes over
 * probed bandwidth and flops over probed peak; both probes run right before the line. Fractions
 * are of the median repetition and of the best one: on a machine shared with others the second
 * tells what the code can do, the first what it got. */
#include "kernels/bench.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/probe.h"
#include "kernels/kv8.h"

#define POOL_BYTES ((size_t)512 << 20)
#define PROBE_MS   60
#define LINE_NS    400000000ull
#define REPS_MAX   4000

typedef struct bench {
    cpu_backend *c;
    FILE *out;
    const char *op;
    char *pool; /* POOL_BYTES */
    uint64_t times[REPS_MAX];
} bench;

/* One line: `run(ctx, i)` is repetition i. */
typedef struct bench_line {
    char name[64];
    double bytes, flops; /* of one repetition */
    bool bf16;           /* peak is the better of f32 and bf16 */
    void (*run)(void *ctx, int rep);
    void *ctx;
} bench_line;

static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* One thread is timed by its own CPU time, which leaves out what others took of the machine. */
static uint64_t bench_ns(const bench *b) {
    if (team_size(b->c->team) > 1) return clock_ns();
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void line_run(bench *b, const bench_line *l) {
    if (b->op && !strstr(l->name, b->op)) return;
    probe_limits p = probe_run(b->c->team, b->c->isa, b->pool, POOL_BYTES, PROBE_MS);
    uint64_t end = clock_ns() + LINE_NS;
    int n = 0;
    l->run(l->ctx, 0);
    while (n < REPS_MAX && (n < 5 || clock_ns() < end)) {
        uint64_t start = bench_ns(b);
        l->run(l->ctx, n + 1);
        b->times[n++] = bench_ns(b) - start;
    }
    qsort(b->times, (size_t)n, sizeof b->times[0], by_value);
    double ns = (double)b->times[n / 2], best = (double)b->times[0];
    double peak = l->bf16 ? MAX(p.bf16_gflops, p.f32_gflops) : p.f32_gflops;
    double limit = MAX(l->bytes / p.read_gbs, l->flops / peak);
    fprintf(b->out, "%-44s %10.1f %10.1f %7.1f %8.1f %6.1f %6.1f  %-9s %6.1f %6.0f\n", l->name,
            ns * 1e-3, best * 1e-3, l->bytes / ns, l->flops / ns, 100 * limit / ns,
            100 * limit / best, l->bytes / p.read_gbs > l->flops / peak ? "bandwidth" : "peak",
            p.read_gbs, peak);
    fflush(b->out);
}

/* ---- gemm ---- */

typedef struct gemm_bench {
    backend *b;
    wmat *w; /* [n_copies] */
    int n_copies;
    op_gemm op;
} gemm_bench;

static void gemm_rep(void *ctx, int rep) {
    gemm_bench *g = ctx;
    g->op.w = &g->w[rep % g->n_copies];
    g->b->v->gemm(g->b, &g->op);
}

/* Values of the size of real weights: bf16/f16/f32 bit patterns around 0.03. */
static void fill_weights(char *pool, dtype dt) {
    uint64_t s = 1;
    for (size_t i = 0; i < POOL_BYTES / dtype_bytes(dt); i++) {
        s = s * 6364136223846793005u + 1442695040888963407u;
        float v = ((float)(s >> 40) * 0x1p-23f - 1) * 0.05f;
        if (dt == DT_F32)
            ((float *)pool)[i] = v;
        else
            ((uint16_t *)pool)[i] = dt == DT_F16 ? f32_to_f16(v) : f32_to_bf16(v);
    }
}

static void bench_gemm_shape(bench *b, dtype dt, int32_t n, int32_t k) {
    static const int32_t rows[] = {1, 4, 8, 16, 32, 64, 512};
    static const quant_spec spec = {.group = 128, .scale_dt = DT_F16, .scale_mul = 1};
    backend *be = &b->c->base;
    bool quant = dtype_is_quant(dt);
    size_t need = quant ? be->v->quant_bytes(be, n, k, dt, &spec) : be->v->wmat_bytes(be, n, k, dt);
    size_t bytes = ALIGN_UP(need, 64);
    gemm_bench g = {.b = be, .n_copies = (int)(POOL_BYTES / bytes)};
    g.w = mem_calloc((size_t)g.n_copies, sizeof *g.w);
    for (int i = 0; i < g.n_copies; i++) {
        char *data = b->pool + (size_t)i * bytes;
        if (quant)
            be->v->quant_init(be, &g.w[i], n, k, dt, &spec, data);
        else
            be->v->wmat_init(be, &g.w[i], n, k, dt, data);
    }
    float *a = mem_alloc(512 * (size_t)k * 4), *out = mem_alloc(512 * (size_t)n * 4);
    for (size_t i = 0; i < 512 * (size_t)k; i++) a[i] = (float)((i * 7919) % 2048) / 1024 - 1;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        g.op = (op_gemm){rows[i], a, k, NULL, NULL, out, n, false};
        bench_line l = {.bytes = (double)bytes, .flops = 2.0 * rows[i] * n * k, .run = gemm_rep};
        l.bf16 = dt == DT_BF16;
        l.ctx = &g;
        snprintf(l.name, sizeof l.name, "%sgemm %s m=%d n=%d k=%d", quant ? "quant " : "",
                 dtype_name(dt), rows[i], n, k);
        line_run(b, &l);
    }
    mem_free(a), mem_free(out), mem_free(g.w);
}

static void bench_gemm(bench *b) {
    static const dtype types[] = {DT_BF16, DT_F16, DT_F32};
    if (b->op && !strstr(b->op, "gemm")) return;
    for (size_t t = 0; t < ARRAY_LEN(types); t++) {
        fill_weights(b->pool, types[t]);
        bench_gemm_shape(b, types[t], 1152, 896); /* qkv of a 0.5B model */
        bench_gemm_shape(b, types[t], 9728, 896); /* gate and up */
        bench_gemm_shape(b, types[t], 896, 4864); /* down */
    }
}

/* One shape of quantised storage each; the values do not matter to the time. */
static void bench_quant(bench *b) {
    static const dtype types[] = {DT_INT4, DT_INT8, DT_INT3, DT_E2M1, DT_F8_E4M3,
                                  DT_Q4_0, DT_Q8_0, DT_Q4_K, DT_Q6_K};
    if (b->op && !strstr(b->op, "quant")) return;
    memset(b->pool, 0x21, POOL_BYTES);
    for (size_t t = 0; t < ARRAY_LEN(types); t++) bench_gemm_shape(b, types[t], 4864, 1024);
}

/* ---- attention: K in the lower half of the pool, V in the upper ---- */

#define PAGE_TOKENS 16

typedef struct attn_bench {
    backend *b;
    op_attention op;
    attn_seq *seqs;
    int32_t *pages;      /* [n_seqs][pages_per_seq], filled anew for every repetition */
    int32_t n_pages_seq; /* pages of one sequence */
    int32_t n_pool;      /* pages in the pool */
} attn_bench;

/* Pages in an order with jumps, as a running server has them, and others than last time. */
static void attn_rep(void *ctx, int rep) {
    attn_bench *g = ctx;
    int32_t n = g->op.seqs.n * g->n_pages_seq;
    for (int32_t i = 0; i < n; i++)
        g->pages[i] = (int32_t)(((int64_t)rep * n + i) * 7919 % g->n_pool);
    g->b->v->attention(g->b, &g->op);
}

static void bench_attention_line(bench *b, dtype kv, int32_t heads, int32_t kv_heads, int32_t d,
                                 int32_t n_seqs, int32_t ctx, int32_t n_rows) {
    size_t page_bytes = kv_page_bytes(kv, PAGE_TOKENS, kv_heads * d, kv_heads);
    int32_t n_tokens = n_seqs * n_rows, width = heads * d;
    attn_bench g = {.b = &b->c->base, .n_pages_seq = CEIL_DIV(ctx, PAGE_TOKENS)};
    g.n_pool = (int32_t)(POOL_BYTES / 2 / page_bytes);
    g.seqs = mem_calloc((size_t)n_seqs, sizeof *g.seqs);
    g.pages = mem_calloc((size_t)n_seqs * (size_t)g.n_pages_seq, sizeof *g.pages);
    for (int32_t i = 0; i < n_seqs; i++)
        g.seqs[i] = (attn_seq){i * n_rows, n_rows, ctx - n_rows, 0, (int64_t)i * g.n_pages_seq};
    float *q = mem_alloc((size_t)n_tokens * (size_t)width * 4);
    float *out = mem_alloc((size_t)n_tokens * (size_t)width * 4);
    for (size_t i = 0; i < (size_t)n_tokens * (size_t)width; i++)
        q[i] = (float)((i * 7919) % 2048) / 1024 - 1;
    g.op = (op_attention){{n_seqs, g.seqs, g.seqs, g.pages},
                          heads,
                          kv_heads,
                          d,
                          q,
                          width,
                          out,
                          width,
                          0.125f,
                          0,
                          0,
                          NULL,
                          b->pool,
                          b->pool + POOL_BYTES / 2,
                          kv,
                          PAGE_TOKENS};
    double keys = (double)n_seqs * n_rows * (ctx - n_rows + (n_rows + 1) / 2.0); /* over all rows */
    bench_line l = {.run = attn_rep, .ctx = &g, .flops = keys * 4 * heads * d};
    l.bytes = (double)n_seqs * ctx * 2 * (double)page_bytes / PAGE_TOKENS;
    snprintf(l.name, sizeof l.name, "attention %s %dx%d/%d B=%d ctx=%d rows=%d", dtype_name(kv), d,
             heads, kv_heads, n_seqs, ctx, n_rows);
    line_run(b, &l);
    mem_free(q), mem_free(out), mem_free(g.seqs), mem_free(g.pages);
}

static void bench_attention(bench *b) {
    static const dtype types[] = {DT_BF16, DT_INT8, DT_F8_E4M3, DT_F32};
    if (b->op && !strstr(b->op, "attention")) return;
    for (size_t t = 0; t < ARRAY_LEN(types); t++) {
        fill_weights(b->pool, types[t] == DT_F32 ? DT_F32 : DT_BF16); /* any bytes are codes */
        bench_attention_line(b, types[t], 14, 2, 64, 1, 512, 512);
        bench_attention_line(b, types[t], 14, 2, 64, 1, 2048, 2048);
        bench_attention_line(b, types[t], 14, 2, 64, 1, 4096, 1);
        bench_attention_line(b, types[t], 14, 2, 64, 16, 512, 1);
        bench_attention_line(b, types[t], 32, 8, 128, 1, 2048, 2048);
        bench_attention_line(b, types[t], 32, 8, 128, 1, 4096, 1);
        bench_attention_line(b, types[t], 32, 8, 128, 16, 512, 1);
    }
}

/* ---- latent attention: rows of the pool ---- */

typedef struct latent_bench {
    backend *b;
    op_latent_attention op;
    int32_t *pages; /* [n_seqs][n_pages_seq], filled anew for every repetition */
    int32_t n_pages_seq, n_pool;
} latent_bench;

static void latent_rep(void *ctx, int rep) {
    latent_bench *g = ctx;
    int32_t n = g->op.seqs.n * g->n_pages_seq;
    for (int32_t i = 0; i < n; i++)
        g->pages[i] = (int32_t)(((int64_t)rep * n + i) * 7919 % g->n_pool);
    g->b->v->latent_attention(g->b, &g->op);
}

static void bench_latent_line(bench *b, dtype kv, int32_t heads, int32_t n_seqs, int32_t ctx,
                              int32_t n_rows) {
    enum { L = 512, R = 64, W = L + R };
    size_t page_bytes = kv_page_bytes(kv, PAGE_TOKENS, W, KV8_LATENT_SCALES);
    int32_t n_tokens = n_seqs * n_rows;
    latent_bench g = {.b = &b->c->base, .n_pages_seq = CEIL_DIV(ctx, PAGE_TOKENS)};
    g.n_pool = (int32_t)(POOL_BYTES / page_bytes);
    g.pages = mem_calloc((size_t)n_seqs * (size_t)g.n_pages_seq, sizeof *g.pages);
    attn_seq *seqs = mem_calloc((size_t)n_seqs, sizeof *seqs);
    for (int32_t i = 0; i < n_seqs; i++)
        seqs[i] = (attn_seq){i * n_rows, n_rows, ctx - n_rows, 0, (int64_t)i * g.n_pages_seq};
    size_t cells = (size_t)n_tokens * (size_t)heads * W;
    float *q = mem_alloc(cells * 4), *out = mem_alloc(cells * 4);
    for (size_t i = 0; i < cells; i++) q[i] = (float)((i * 7919) % 2048) / 1024 - 1;
    g.op = (op_latent_attention){{n_seqs, seqs, seqs, g.pages},
                                 heads,
                                 L,
                                 R,
                                 q,
                                 heads * W,
                                 out,
                                 heads * L,
                                 0.05f,
                                 b->pool,
                                 kv,
                                 PAGE_TOKENS};
    double keys = (double)n_seqs * n_rows * (ctx - n_rows + (n_rows + 1) / 2.0);
    bench_line l = {.run = latent_rep, .ctx = &g, .flops = keys * 2 * heads * (W + L)};
    l.bytes = (double)n_seqs * ctx * (double)page_bytes / PAGE_TOKENS;
    snprintf(l.name, sizeof l.name, "latent_attention %s %d+%dx%d B=%d ctx=%d rows=%d",
             dtype_name(kv), L, R, heads, n_seqs, ctx, n_rows);
    line_run(b, &l);
    mem_free(q), mem_free(out), mem_free(seqs), mem_free(g.pages);
}

static void bench_latent(bench *b) {
    static const dtype types[] = {DT_BF16, DT_INT8, DT_F8_E4M3};
    if (b->op && !strstr(b->op, "latent")) return;
    fill_weights(b->pool, DT_BF16);
    for (size_t t = 0; t < ARRAY_LEN(types); t++) {
        bench_latent_line(b, types[t], 16, 1, 1024, 1024);
        bench_latent_line(b, types[t], 16, 1, 4096, 1);
        bench_latent_line(b, types[t], 16, 16, 512, 1);
        bench_latent_line(b, types[t], 128, 1, 4096, 1);
    }
}

/* ---- experts: layers of a 3B model with 40 experts, 8 per token ---- */

typedef struct experts_bench {
    backend *b;
    op_experts op;
    wmat *up, *down; /* [n_layers][E] */
    int32_t *ids;
    int n_layers;
} experts_bench;

/* Tokens take experts e, e+s, e+2s, ...: spread evenly, others in every repetition. */
static void experts_rep(void *ctx, int rep) {
    experts_bench *g = ctx;
    int32_t e = g->op.n_experts, k = g->op.top_k;
    for (int32_t t = 0; t < g->op.n_tokens; t++)
        for (int32_t j = 0; j < k; j++) g->ids[t * k + j] = ((t + rep) * 3 + j * (e / k)) % e;
    g->op.up = g->up + rep % g->n_layers * e;
    g->op.down = g->down + rep % g->n_layers * e;
    g->b->v->experts(g->b, &g->op);
}

static void bench_experts(bench *b) {
    enum { E = 40, K = 8, C = 1536, F = 512, T = 512 };
    static const int32_t rows[] = {1, 4, 16, 64, 512};
    if (b->op && !strstr(b->op, "experts")) return;
    backend *be = &b->c->base;
    size_t up_bytes = ALIGN_UP(be->v->wmat_bytes(be, 2 * F, C, DT_BF16), 64);
    size_t down_bytes = ALIGN_UP(be->v->wmat_bytes(be, C, F, DT_BF16), 64);
    experts_bench g = {.b = be, .n_layers = (int)(POOL_BYTES / (E * (up_bytes + down_bytes)))};
    g.up = mem_calloc((size_t)g.n_layers * E, sizeof *g.up);
    g.down = mem_calloc((size_t)g.n_layers * E, sizeof *g.down);
    g.ids = mem_calloc(T * K, sizeof *g.ids);
    fill_weights(b->pool, DT_BF16);
    char *at = b->pool;
    for (int i = 0; i < g.n_layers * E; i++, at += up_bytes + down_bytes) {
        be->v->wmat_init(be, &g.up[i], 2 * F, C, DT_BF16, at);
        be->v->wmat_init(be, &g.down[i], C, F, DT_BF16, at + up_bytes);
    }
    float *x = mem_alloc(T * C * 4), *out = mem_alloc(T * C * 4), *weights = mem_alloc(T * K * 4);
    for (int i = 0; i < T * C; i++) x[i] = (float)(i * 7919LL % 2048) / 1024 - 1;
    for (int i = 0; i < T * K; i++) weights[i] = 0.125f;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int32_t n = rows[i];
        g.op = (op_experts){n, E,     K,     C,       F,        x,    C,    out,
                            C, false, g.ids, weights, ACT_SILU, true, NULL, NULL};
        bench_line l = {.flops = 6.0 * n * K * C * F, .bf16 = true, .run = experts_rep, .ctx = &g};
        experts_rep(&g, 0);
        bool seen[E] = {0};
        int n_seen = 0;
        for (int32_t p = 0; p < n * K; p++)
            if (!seen[g.ids[p]]) seen[g.ids[p]] = true, n_seen++;
        l.bytes = (double)n_seen * (double)(up_bytes + down_bytes);
        snprintf(l.name, sizeof l.name, "experts bf16 %dx%d E=%d k=%d rows=%d", C, F, E, K, n);
        line_run(b, &l);
    }
    mem_free(x), mem_free(out), mem_free(weights);
    mem_free(g.up), mem_free(g.down), mem_free(g.ids);
}

/* ---- the small ops, in caches, as a step finds them ---- */

typedef struct ops_bench {
    backend *b;
    op_norm norm;
    op_act act;
    op_logsumexp lse;
    int which;
} ops_bench;

static void ops_rep(void *ctx, int rep) {
    ops_bench *g = ctx;
    (void)rep;
    switch (g->which) {
    case 0: g->b->v->norm(g->b, &g->norm); break;
    case 1: g->b->v->act(g->b, &g->act); break;
    default: g->b->v->logsumexp(g->b, &g->lse); break;
    }
}

static void bench_ops(bench *b) {
    enum { C = 896, F = 4864, V = 151936 };
    static const int32_t rows[] = {1, 16, 512};
    if (b->op && !strstr(b->op, "norm") && !strstr(b->op, "act") && !strstr(b->op, "logsumexp"))
        return;
    float *x = (float *)b->pool, *y = x + 512 * 2 * F, max[16], lse[16];
    int32_t arg[16];
    fill_weights(b->pool, DT_F32);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int32_t n = rows[i];
        ops_bench g = {.b = &b->c->base};
        g.norm = (op_norm){NORM_RMS, n, 1, C, x, C, y, C, y, NULL, 1e-6f, y + 512 * C, C};
        g.act = (op_act){ACT_SILU, true, n, F, x, 2 * F, y, F};
        g.lse = (op_logsumexp){MIN(n, 16), V, x, V, max, lse, arg};
        const char *const names[] = {"norm add", "act silu gated", "logsumexp"};
        const double bytes[] = {4.0 * n * C * 4, 4.0 * n * F * 3, 4.0 * MIN(n, 16) * V};
        for (g.which = 0; g.which < 3; g.which++) {
            bench_line l = {.bytes = bytes[g.which], .run = ops_rep, .ctx = &g};
            snprintf(l.name, sizeof l.name, "%s rows=%d", names[g.which],
                     g.which == 2 ? MIN(n, 16) : n);
            line_run(b, &l);
        }
    }
}

status bench_kernels(const bench_options *o, FILE *out, error *err) {
    cpu_options co = {o->n_threads, o->isa};
    backend *be;
    TRY(backend_cpu_open(&co, &be, err));
    bench *b = mem_calloc(1, sizeof *b);
    b->c = (cpu_backend *)be;
    b->out = out;
    b->op = o->op;
    b->pool = mem_map(POOL_BYTES);
    status st = OK;
    if (b->pool) {
        fprintf(out, "%s%s\n%-44s %10s %10s %7s %8s %6s %6s  %-9s %6s %6s\n", be->device,
                be->n_threads == 1 ? ", CPU time" : "", "line", "median us", "best us", "GB/s",
                "GFLOP/s", "%", "best %", "of limit", "GB/s", "GFLOP/s");
        bench_gemm(b);
        bench_quant(b);
        bench_attention(b);
        bench_latent(b);
        bench_experts(b);
        bench_ops(b);
        mem_unmap(b->pool, POOL_BYTES);
    } else
        st = error_set(err, ERR_NOMEM, "the system refused %zu bytes for the bench's weights",
                       POOL_BYTES);
    mem_free(b);
    backend_close(be);
    return st;
}
