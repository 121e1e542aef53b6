/* Weights and pages are rotated through a buffer far larger than the caches, so that what decode
 * reads from memory is read from memory here. The limit of a line is the larger of bytes over
 * probed bandwidth and flops over probed peak; both probes run right before the line. Fractions
 * are of the median repetition and of the best one: on a machine shared with others the second
 * tells what the code can do, the first what it got.
 *
 * A device brings its own clock and probes (measure.h): repetitions are launches of a replayed
 * graph. Its peak is that of the vendor's bf16 product, measured once; without the library, and of
 * lines in f32, only bandwidth is a limit. */
#include "kernels/bench.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/probe.h"
#include "kernels/device.h"
#include "kernels/kv8.h"
#include "kernels/measure.h"

#define POOL_BYTES ((size_t)512 << 20)
#define PROBE_MS   60
#define LINE_NS    400000000ull
#define REPS_MAX   4000
#define CHUNK      ((size_t)4 << 20)
#define GROUP      128
#define TINY_POOL  ((size_t)64 << 20)
#define TINY_WORK  6e6 /* bytes and flops of lines that an emulated device can do */

typedef struct bench {
    backend *be;
    cpu_backend *c; /* be, or NULL on a device */
    FILE *out;
    const char *op;
    char *pool; /* [pool_bytes] of the backend's memory */
    size_t pool_bytes;
    bool tiny;          /* an emulated device: short lines only, no figures */
    double bf16_gflops; /* of a device; 0: not known */
    uint64_t times[REPS_MAX];
} bench;

/* Memory of the backend; a bench that gets none ends the program. */
static void *room(bench *b, size_t bytes) {
    void *p = NULL;
    error err;
    if (b->be->v->mem_alloc(b->be, bytes, &p, &err) == OK) return p;
    fprintf(stderr, "bench kernels: %s\n", err.text);
    exit(1);
}

static void give(bench *b, void *p, size_t bytes) {
    b->be->v->mem_free(b->be, p, bytes);
}

static void *sent(bench *b, const void *src, size_t bytes) {
    void *p = room(b, bytes);
    b->be->v->upload(b->be, p, src, bytes);
    return p;
}

/* n activations of different size. */
static float *activations(bench *b, size_t n) {
    float *x = mem_alloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = (float)((i * 7919) % 2048) / 1024 - 1;
    float *p = sent(b, x, n * sizeof *x);
    mem_free(x);
    return p;
}

/* One line: `run(ctx, i)` is repetition i. */
typedef struct bench_line {
    char name[64];
    double bytes, flops; /* of one repetition */
    bool bf16;           /* peak is the better of f32 and bf16 */
    bool codes;          /* peak is that of products of codes */
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

typedef struct limits {
    double read_gbs, peak_gflops; /* peak 0: not known */
} limits;

static limits cpu_limits(const bench *b, const bench_line *l) {
    probe_limits p = probe_run(b->c->team, b->c->isa, b->pool, b->pool_bytes, PROBE_MS);
    if (l->codes) return (limits){p.read_gbs, p.code_gops};
    return (limits){p.read_gbs, l->bf16 ? MAX(p.bf16_gflops, p.f32_gflops) : p.f32_gflops};
}

/* Repetitions into b->times in ns, sorted; how many. */
static int time_cpu(bench *b, const bench_line *l) {
    uint64_t end = clock_ns() + LINE_NS;
    int n = 0;
    l->run(l->ctx, 0);
    while (n < REPS_MAX && (n < 5 || clock_ns() < end)) {
        uint64_t start = bench_ns(b);
        l->run(l->ctx, n + 1);
        b->times[n++] = bench_ns(b) - start;
    }
    return n;
}

/* The same of a plan on a device: replays of some launches each. */
static int time_device(bench *b, void (*run)(void *, int), void *ctx) {
    double us[64] = {0};
    bool graph;
    error err;
    measure_plan p = {run, ctx, b->tiny ? 1 : 20, b->tiny ? 2 : 30};
    if (b->be->v->measure->time(b->be, &p, us, &graph, &err) != OK) {
        fprintf(stderr, "bench kernels: %s\n", err.text);
        exit(1);
    }
    for (int i = 0; i < p.replays; i++) b->times[i] = (uint64_t)(us[i] * 1e3 / p.n) + 1;
    return p.replays;
}

typedef struct probe_ctx {
    backend *be;
    probe_work work;
    status st;
} probe_ctx;

static void probe_rep(void *ctx, int rep) {
    probe_ctx *p = ctx;
    error err;
    (void)rep;
    if (p->st == OK) p->st = p->be->v->measure->probe(p->be, &p->work, &err);
}

/* The best time of a probe in ns, 0 where there is none. */
static double probe_ns(bench *b, probe_work work) {
    probe_ctx p = {b->be, work, OK};
    probe_rep(&p, 0);
    if (p.st != OK) return 0;
    int n = time_device(b, probe_rep, &p);
    qsort(b->times, (size_t)n, sizeof b->times[0], by_value);
    return (double)b->times[0];
}

static limits device_limits(bench *b, const bench_line *l) {
    size_t half = b->pool_bytes / 2;
    void *dst = room(b, 16);
    double ns =
        probe_ns(b, (probe_work){.kind = PROBE_READ, .src = b->pool, .dst = dst, .bytes = half});
    give(b, dst, 16);
    return (limits){(double)half / ns, l->bf16 ? b->bf16_gflops : 0};
}

static double device_peak(bench *b) {
    int32_t n = b->tiny ? 64 : 4096;
    size_t bytes = (size_t)n * (size_t)n * 2;
    probe_work w = {.kind = PROBE_MATMUL, .m = n, .n = n, .k = n, .dt = DT_BF16};
    w.a = b->pool, w.w = b->pool + bytes, w.out = b->pool + 2 * bytes;
    double ns = probe_ns(b, w);
    return ns > 0 ? 2.0 * n * n * n / ns : 0;
}

static void line_run(bench *b, const bench_line *l) {
    if (b->op && !strstr(l->name, b->op)) return;
    if (b->tiny && l->bytes + l->flops > TINY_WORK) return;
    limits p = b->c ? cpu_limits(b, l) : device_limits(b, l);
    int n = b->c ? time_cpu(b, l) : time_device(b, l->run, l->ctx);
    qsort(b->times, (size_t)n, sizeof b->times[0], by_value);
    double ns = (double)b->times[n / 2], best = (double)b->times[0];
    double by_bytes = l->bytes / p.read_gbs;
    double by_flops = p.peak_gflops > 0 ? l->flops / p.peak_gflops : 0;
    double limit = MAX(by_bytes, by_flops);
    fprintf(b->out, "%-44s %10.1f %10.1f %7.1f %8.1f %6.1f %6.1f  %-9s %6.1f %6.0f\n", l->name,
            ns * 1e-3, best * 1e-3, l->bytes / ns, l->flops / ns, 100 * limit / ns,
            100 * limit / best, by_bytes > by_flops ? "bandwidth" : "peak", p.read_gbs,
            p.peak_gflops);
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

/* The pool, of a pattern of CHUNK bytes. */
static void fill(bench *b, const char *pattern) {
    for (size_t at = 0; at < b->pool_bytes; at += CHUNK)
        b->be->v->upload(b->be, b->pool + at, pattern, CHUNK);
}

/* Values of the size of real weights: bf16/f16/f32 bit patterns around 0.03. */
static void fill_weights(bench *b, dtype dt) {
    uint64_t s = 1;
    char *part = mem_alloc(CHUNK);
    for (size_t i = 0; i < CHUNK / dtype_bytes(dt); i++) {
        s = s * 6364136223846793005u + 1442695040888963407u;
        float v = ((float)(s >> 40) * 0x1p-23f - 1) * 0.05f;
        if (dt == DT_F32)
            ((float *)part)[i] = v;
        else
            ((uint16_t *)part)[i] = dt == DT_F16 ? f32_to_f16(v) : f32_to_bf16(v);
    }
    fill(b, part);
    mem_free(part);
}

/* Groups as checkpoints of the type have them. */
static quant_spec bench_spec(dtype dt, int32_t group, bool order) {
    quant_spec spec = {.group = group, .scale_dt = DT_F16, .zero = 128, .scale_mul = 1};
    if (dt == DT_TABLE4) spec.group = 64, spec.scale_dt = DT_F32;
    if (dt == DT_F8_E4M3) spec.scale_dt = DT_F32;
    spec.has_order = spec.whole_order = order;
    return spec;
}

/* Neighbours of other groups, as act-order makes them. */
static int32_t *bench_order(int32_t k, int32_t group) {
    int32_t *order = mem_alloc((size_t)k * sizeof *order);
    for (int32_t i = 0; i < k; i++) order[i] = i % (k / group);
    return order;
}

/* group: of codes with scales apart. */
static void bench_gemm_shape(bench *b, dtype dt, int32_t group, int32_t n, int32_t k,
                             bool is_ordered) {
    static const int32_t rows[] = {1, 4, 8, 12, 16, 24, 32, 48, 64, 96, 512};
    static const float table[16] = {-1, -0.5f, 0, 0.5f, 1};
    quant_spec spec = bench_spec(dt, group, is_ordered);
    int32_t *order = is_ordered ? bench_order(k, spec.group) : NULL;
    backend *be = b->be;
    bool quant = dtype_is_quant(dt);
    if (quant && be->v->native_act) {
        act_rounding act = be->v->native_act(be, dt, &spec, k);
        spec.act = act.act;
        spec.act_group = act.act_group;
    }
    size_t need = quant ? be->v->quant_bytes(be, n, k, dt, &spec) : be->v->wmat_bytes(be, n, k, dt);
    size_t bytes = ALIGN_UP(need, 256);
    gemm_bench g = {.b = be, .n_copies = (int)(b->pool_bytes / bytes)};
    g.w = mem_calloc((size_t)g.n_copies, sizeof *g.w);
    for (int i = 0; i < g.n_copies; i++) {
        char *data = b->pool + (size_t)i * bytes;
        if (quant)
            be->v->quant_init(be, &g.w[i], n, k, dt, &spec, data);
        else
            be->v->wmat_init(be, &g.w[i], n, k, dt, data);
        if (order || dt == DT_TABLE4) be->v->quant_side(be, &g.w[i], order, table);
    }
    mem_free(order);
    float *a = activations(b, 512 * (size_t)k), *out = room(b, 512 * (size_t)n * 4);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        g.op = (op_gemm){rows[i], a, k, NULL, NULL, out, n, false};
        bench_line l = {.bytes = (double)bytes, .flops = 2.0 * rows[i] * n * k, .run = gemm_rep};
        l.bf16 = dt == DT_BF16;
        l.codes = spec.act == ACT_ROUND_INT8_GROUP;
        l.ctx = &g;
        const char *kind = is_ordered ? " ordered" : group != GROUP ? " g32" : "";
        snprintf(l.name, sizeof l.name, "%sgemm %s%s m=%d n=%d k=%d", quant ? "quant " : "",
                 dtype_name(dt), kind, rows[i], n, k);
        line_run(b, &l);
    }
    give(b, a, 512 * (size_t)k * 4), give(b, out, 512 * (size_t)n * 4), mem_free(g.w);
}

static void bench_gemm(bench *b) {
    static const dtype types[] = {DT_BF16, DT_F16, DT_F32};
    if (b->op && !strstr(b->op, "gemm")) return;
    for (size_t t = 0; t < ARRAY_LEN(types); t++) {
        fill_weights(b, types[t]);
        bench_gemm_shape(b, types[t], GROUP, 1152, 896, false); /* qkv of a 0.5B model */
        bench_gemm_shape(b, types[t], GROUP, 9728, 896, false); /* gate and up */
        bench_gemm_shape(b, types[t], GROUP, 896, 4864, false); /* down */
    }
}

/* Quantised storage, the shapes of models for the usual kinds; values do not matter to the time. */
static void bench_quant(bench *b) {
    static const dtype types[] = {DT_INT4,   DT_INT8,    DT_INT2, DT_INT3,  DT_E2M1,
                                  DT_TABLE4, DT_F8_E4M3, DT_Q4_0, DT_Q8_0,  DT_Q2_K,
                                  DT_Q3_K,   DT_Q4_K,    DT_Q6_K, DT_IQ4_XS};
    if (b->op && !strstr(b->op, "quant")) return;
    char *pattern = mem_alloc(CHUNK);
    memset(pattern, 0x21, CHUNK);
    fill(b, pattern);
    mem_free(pattern);
    static const int32_t shapes[][2] = {/* of a 0.5B and of a 1B model */
                                        {1152, 896},   {9728, 896},  {896, 4864}, {2560, 2048},
                                        {16384, 2048}, {2048, 8192}, {4864, 1024}};
    for (size_t t = 0; t < ARRAY_LEN(types); t++) {
        bool codes = types[t] == DT_INT4 || types[t] == DT_INT8 || types[t] == DT_Q8_0;
        for (size_t i = codes ? 0 : ARRAY_LEN(shapes) - 1; i < ARRAY_LEN(shapes); i++)
            bench_gemm_shape(b, types[t], GROUP, shapes[i][0], shapes[i][1], false);
    }
    bench_gemm_shape(b, DT_INT4, GROUP, 4864, 1024, true);
    bench_gemm_shape(b, DT_INT4, 32, 4864, 1024, false); /* as --quantize int4 makes them */
    bench_gemm_shape(b, DT_INT4, 32, 16384, 2048, false);
}

/* ---- attention: K in the lower half of the pool, V in the upper ---- */

#define PAGE_TOKENS 16
#define TABLES_MAX  1024

/* Sequences of equal length, and page tables in turn: pages in an order with jumps, as a running
 * server has them, and others than last time until the pool was gone through. */
typedef struct crowd {
    attn_seq *host, *dev; /* [n] */
    int32_t *pages;       /* backend [n_tables][n][n_pages_seq] */
    int32_t n, n_pages_seq, n_tables;
} crowd;

static crowd crowd_new(bench *b, int32_t n, int32_t ctx, int32_t n_rows, int32_t n_pool) {
    crowd c = {.n = n, .n_pages_seq = CEIL_DIV(ctx, PAGE_TOKENS)};
    int32_t each = n * c.n_pages_seq;
    c.n_tables = MAX(1, MIN(TABLES_MAX, CEIL_DIV(n_pool, each)));
    size_t cells = (size_t)c.n_tables * (size_t)each;
    int32_t *pages = mem_calloc(cells, sizeof *pages);
    for (size_t i = 0; i < cells; i++) pages[i] = (int32_t)((int64_t)i * 7919 % n_pool);
    c.pages = sent(b, pages, cells * sizeof *pages);
    mem_free(pages);
    c.host = mem_calloc((size_t)n, sizeof *c.host);
    for (int32_t i = 0; i < n; i++)
        c.host[i] = (attn_seq){i * n_rows, n_rows, ctx - n_rows, 0, (int64_t)i * c.n_pages_seq};
    c.dev = sent(b, c.host, (size_t)n * sizeof *c.host);
    return c;
}

static const int32_t *crowd_pages(const crowd *c, int rep) {
    return c->pages + (size_t)(rep % c->n_tables) * (size_t)c->n * (size_t)c->n_pages_seq;
}

static attn_seqs crowd_seqs(const crowd *c) {
    return (attn_seqs){c->n, c->host, c->dev, c->pages};
}

static void crowd_done(bench *b, crowd *c) {
    size_t cells = (size_t)c->n_tables * (size_t)c->n * (size_t)c->n_pages_seq;
    give(b, c->pages, cells * sizeof *c->pages);
    give(b, c->dev, (size_t)c->n * sizeof *c->dev);
    mem_free(c->host);
}

typedef struct attn_bench {
    backend *b;
    op_attention op;
    crowd c;
} attn_bench;

static void attn_rep(void *ctx, int rep) {
    attn_bench *g = ctx;
    g->op.seqs.page_table = crowd_pages(&g->c, rep);
    g->b->v->attention(g->b, &g->op);
}

static void bench_attention_line(bench *b, dtype kv, int32_t heads, int32_t kv_heads, int32_t d,
                                 int32_t n_seqs, int32_t ctx, int32_t n_rows) {
    size_t page_bytes = kv_page_bytes(kv, PAGE_TOKENS, kv_heads * d, kv_heads);
    int32_t n_tokens = n_seqs * n_rows, width = heads * d;
    size_t cells = (size_t)n_tokens * (size_t)width;
    attn_bench g = {.b = b->be};
    g.c = crowd_new(b, n_seqs, ctx, n_rows, (int32_t)(b->pool_bytes / 2 / page_bytes));
    float *q = activations(b, cells), *out = room(b, cells * 4);
    g.op = (op_attention){.seqs = crowd_seqs(&g.c),
                          .n_heads = heads,
                          .n_kv_heads = kv_heads,
                          .head_dim = d,
                          .q = q,
                          .q_stride = width,
                          .out = out,
                          .out_stride = width,
                          .scale = 0.125f,
                          .k_pages = b->pool,
                          .v_pages = b->pool + b->pool_bytes / 2,
                          .kv_dt = kv,
                          .page_tokens = PAGE_TOKENS};
    double keys = (double)n_seqs * n_rows * (ctx - n_rows + (n_rows + 1) / 2.0); /* over all rows */
    bench_line l = {.run = attn_rep, .ctx = &g, .flops = keys * 4 * heads * d};
    l.bytes = (double)n_seqs * ctx * 2 * (double)page_bytes / PAGE_TOKENS;
    snprintf(l.name, sizeof l.name, "attention %s %dx%d/%d B=%d ctx=%d rows=%d", dtype_name(kv), d,
             heads, kv_heads, n_seqs, ctx, n_rows);
    line_run(b, &l);
    give(b, q, cells * 4), give(b, out, cells * 4);
    crowd_done(b, &g.c);
}

static void bench_attention(bench *b) {
    static const dtype types[] = {DT_BF16, DT_INT8, DT_F8_E4M3, DT_F32};
    if (b->op && !strstr(b->op, "attention")) return;
    for (size_t t = 0; t < ARRAY_LEN(types); t++) {
        fill_weights(b, types[t] == DT_F32 ? DT_F32 : DT_BF16); /* any bytes are codes */
        bench_attention_line(b, types[t], 14, 2, 64, 1, 512, 512);
        bench_attention_line(b, types[t], 14, 2, 64, 1, 2048, 2048);
        bench_attention_line(b, types[t], 14, 2, 64, 1, 4096, 1);
        bench_attention_line(b, types[t], 14, 2, 64, 16, 128, 1);
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
    crowd c;
} latent_bench;

static void latent_rep(void *ctx, int rep) {
    latent_bench *g = ctx;
    g->op.seqs.page_table = crowd_pages(&g->c, rep);
    g->b->v->latent_attention(g->b, &g->op);
}

static void bench_latent_line(bench *b, dtype kv, int32_t heads, int32_t n_seqs, int32_t ctx,
                              int32_t n_rows) {
    enum { L = 512, R = 64, W = L + R };
    size_t page_bytes = kv_page_bytes(kv, PAGE_TOKENS, W, KV8_LATENT_SCALES);
    int32_t n_tokens = n_seqs * n_rows;
    latent_bench g = {.b = b->be};
    g.c = crowd_new(b, n_seqs, ctx, n_rows, (int32_t)(b->pool_bytes / page_bytes));
    size_t cells = (size_t)n_tokens * (size_t)heads * W;
    float *q = activations(b, cells), *out = room(b, cells * 4);
    g.op = (op_latent_attention){.seqs = crowd_seqs(&g.c),
                                 .n_heads = heads,
                                 .latent = L,
                                 .rope_dim = R,
                                 .q = q,
                                 .q_stride = heads * W,
                                 .out = out,
                                 .out_stride = heads * L,
                                 .scale = 0.05f,
                                 .pages = b->pool,
                                 .kv_dt = kv,
                                 .page_tokens = PAGE_TOKENS};
    double keys = (double)n_seqs * n_rows * (ctx - n_rows + (n_rows + 1) / 2.0);
    bench_line l = {.run = latent_rep, .ctx = &g, .flops = keys * 2 * heads * (W + L)};
    l.bytes = (double)n_seqs * ctx * (double)page_bytes / PAGE_TOKENS;
    snprintf(l.name, sizeof l.name, "latent_attention %s %d+%dx%d B=%d ctx=%d rows=%d",
             dtype_name(kv), L, R, heads, n_seqs, ctx, n_rows);
    line_run(b, &l);
    give(b, q, cells * 4), give(b, out, cells * 4);
    crowd_done(b, &g.c);
}

static void bench_latent(bench *b) {
    static const dtype types[] = {DT_BF16, DT_INT8, DT_F8_E4M3};
    if (b->op && !strstr(b->op, "latent")) return;
    fill_weights(b, DT_BF16);
    for (size_t t = 0; t < ARRAY_LEN(types); t++) {
        bench_latent_line(b, types[t], 16, 1, 1024, 1024);
        bench_latent_line(b, types[t], 16, 1, 4096, 1);
        bench_latent_line(b, types[t], 16, 16, 512, 1);
        bench_latent_line(b, types[t], 128, 1, 4096, 1);
    }
}

/* ---- experts: layers of a 3B model with 40 experts, 8 per token ---- */

enum { E = 40, K = 8, C = 1536, F = 512, T = 512 };

typedef struct experts_bench {
    backend *b;
    op_experts op;
    wmat *up, *down;    /* [n_layers][E] */
    const int32_t *ids; /* [E][T*K] */
    int n_layers;
} experts_bench;

/* Tokens take experts e, e+s, e+2s, ...: spread evenly, others in every repetition. */
static void experts_rep(void *ctx, int rep) {
    experts_bench *g = ctx;
    g->op.ids = g->ids + (size_t)(rep % E) * T * K;
    g->op.up = g->up + rep % g->n_layers * E;
    g->op.down = g->down + rep % g->n_layers * E;
    g->b->v->experts(g->b, &g->op);
}

static int32_t expert_of(int rep, int32_t token, int32_t choice) {
    return ((token + rep) * 3 + choice * (E / K)) % E;
}

static const int32_t *experts_ids(bench *b) {
    int32_t *ids = mem_calloc((size_t)E * T * K, sizeof *ids);
    for (int32_t i = 0; i < E * T * K; i++) ids[i] = expert_of(i / (T * K), i / K % T, i % K);
    const int32_t *p = sent(b, ids, (size_t)E * T * K * sizeof *ids);
    mem_free(ids);
    return p;
}

/* Experts that the rows of a repetition choose. */
static int experts_seen(int32_t n_rows) {
    bool seen[E] = {0};
    int n = 0;
    for (int32_t i = 0; i < n_rows * K; i++) {
        int32_t e = expert_of(0, i / K, i % K);
        n += !seen[e];
        seen[e] = true;
    }
    return n;
}

/* Layers of matrices over the pool. */
static void experts_layers(bench *b, experts_bench *g, size_t up_bytes, size_t down_bytes) {
    backend *be = b->be;
    char *at = b->pool;
    g->n_layers = (int)(b->pool_bytes / (E * (up_bytes + down_bytes)));
    g->up = mem_calloc((size_t)g->n_layers * E, sizeof *g->up);
    g->down = mem_calloc((size_t)g->n_layers * E, sizeof *g->down);
    for (int i = 0; i < g->n_layers * E; i++, at += up_bytes + down_bytes) {
        be->v->wmat_init(be, &g->up[i], 2 * F, C, DT_BF16, at);
        be->v->wmat_init(be, &g->down[i], C, F, DT_BF16, at + up_bytes);
    }
}

static void bench_experts(bench *b) {
    static const int32_t rows[] = {1, 4, 16, 64, 512};
    if (b->tiny || (b->op && !strstr(b->op, "experts"))) return; /* a layer is beyond a tiny pool */
    backend *be = b->be;
    size_t up_bytes = ALIGN_UP(be->v->wmat_bytes(be, 2 * F, C, DT_BF16), 256);
    size_t down_bytes = ALIGN_UP(be->v->wmat_bytes(be, C, F, DT_BF16), 256);
    experts_bench g = {.b = be, .ids = experts_ids(b)};
    float share[T * K];
    for (int i = 0; i < T * K; i++) share[i] = 0.125f;
    experts_layers(b, &g, up_bytes, down_bytes);
    fill_weights(b, DT_BF16);
    float *x = activations(b, T * C), *out = room(b, T * C * 4);
    float *weights = sent(b, share, sizeof share);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int32_t n = rows[i];
        g.op = (op_experts){.n_tokens = n,
                            .n_experts = E,
                            .top_k = K,
                            .width = C,
                            .ffn = F,
                            .x = x,
                            .x_stride = C,
                            .out = out,
                            .out_stride = C,
                            .weights = weights,
                            .act = ACT_SILU,
                            .gated = true};
        bench_line l = {.flops = 6.0 * n * K * C * F, .bf16 = true, .run = experts_rep, .ctx = &g};
        l.bytes = (double)experts_seen(n) * (double)(up_bytes + down_bytes);
        snprintf(l.name, sizeof l.name, "experts bf16 %dx%d E=%d k=%d rows=%d", C, F, E, K, n);
        line_run(b, &l);
    }
    give(b, x, T * C * 4), give(b, out, T * C * 4), give(b, weights, sizeof share);
    give(b, (void *)(uintptr_t)g.ids, (size_t)E * T * K * sizeof *g.ids);
    mem_free(g.up), mem_free(g.down);
}

/* ---- low-rank parts of four adapters, other ones in every repetition ---- */

enum { LORA_ADAPTERS = 4, LORA_RANK = 16, LORA_WIDTH = 4096, LORA_ROWS = 512 };

typedef struct lora_bench {
    backend *b;
    op_lora op;
    int n_slots;
    lora_slot *slots[LORA_ADAPTERS]; /* [n_slots] each, as parts */
    lora_part *parts[LORA_ADAPTERS];
} lora_bench;

static void lora_rep(void *ctx, int rep) {
    lora_bench *g = ctx;
    g->op.slot = rep % g->n_slots;
    g->b->v->lora(g->b, &g->op);
}

/* The slots of adapter i over a part of the pool; *io_at: its place in it. */
static void lora_adapter(bench *b, lora_bench *g, int i, size_t each, const float *s,
                         char **io_at) {
    backend *be = b->be;
    size_t n = (size_t)g->n_slots;
    lora_slot *slots = mem_calloc(n, sizeof *slots);
    lora_part *parts = mem_calloc(n, sizeof *parts);
    for (size_t k = 0; k < n; k++, *io_at += 2 * each) {
        be->v->wmat_init(be, &slots[k].a, LORA_RANK, LORA_WIDTH, DT_BF16, *io_at);
        be->v->wmat_init(be, &parts[k].b, LORA_WIDTH, LORA_RANK, DT_BF16, *io_at + each);
    }
    g->parts[i] = sent(b, parts, n * sizeof *parts);
    for (size_t k = 0; k < n; k++) {
        slots[k].s = s;
        slots[k].n_parts = 1;
        slots[k].parts = g->parts[i] + k;
    }
    g->slots[i] = sent(b, slots, n * sizeof *slots);
    mem_free(slots), mem_free(parts);
}

static void bench_lora_line(bench *b, lora_bench *g, int32_t n, double adapter_bytes) {
    int32_t of_row[LORA_ROWS];
    for (int32_t t = 0; t < n; t++) of_row[t] = 1 + t * LORA_ADAPTERS / n;
    int32_t *ids = sent(b, of_row, (size_t)n * sizeof *of_row);
    g->op.n_rows = n;
    g->op.of_row = ids;
    bench_line l = {.flops = 4.0 * n * LORA_RANK * LORA_WIDTH, .bf16 = true, .run = lora_rep};
    l.ctx = g;
    l.bytes = MIN(n, LORA_ADAPTERS) * adapter_bytes + 3.0 * n * LORA_WIDTH * 4;
    snprintf(l.name, sizeof l.name, "lora bf16 %dx%d rank=%d adapters=%d rows=%d", LORA_WIDTH,
             LORA_WIDTH, LORA_RANK, (int)MIN(n, LORA_ADAPTERS), n);
    line_run(b, &l);
    give(b, ids, (size_t)n * sizeof *of_row);
}

static void bench_lora(bench *b) {
    static const int32_t rows[] = {1, 4, 16, 64, LORA_ROWS};
    const size_t w = LORA_WIDTH, bytes = (size_t)LORA_ROWS * LORA_WIDTH * 4;
    if (b->tiny || (b->op && !strstr(b->op, "lora"))) return;
    backend *be = b->be;
    const lora_slot *table[LORA_ADAPTERS + 1] = {0};
    size_t each = ALIGN_UP(MAX(be->v->wmat_bytes(be, LORA_RANK, LORA_WIDTH, DT_BF16),
                               be->v->wmat_bytes(be, LORA_WIDTH, LORA_RANK, DT_BF16)),
                           256);
    lora_bench g = {.b = be, .n_slots = (int)MIN(b->pool_bytes / (2 * LORA_ADAPTERS * each), 256)};
    char *at = b->pool;
    float ones[LORA_RANK];
    for (int i = 0; i < LORA_RANK; i++) ones[i] = 1;
    float *s = sent(b, ones, sizeof ones);
    fill_weights(b, DT_BF16);
    for (int i = 0; i < LORA_ADAPTERS; i++) {
        lora_adapter(b, &g, i, each, s, &at);
        table[i + 1] = g.slots[i];
    }
    const lora_slot **dev_table = sent(b, table, sizeof table);
    float *x = activations(b, LORA_ROWS * w), *out = room(b, bytes);
    g.op = (op_lora){.n = LORA_WIDTH,
                     .k = LORA_WIDTH,
                     .rank = LORA_RANK,
                     .x = x,
                     .x_stride = LORA_WIDTH,
                     .out = out,
                     .out_stride = LORA_WIDTH,
                     .n_adapters = LORA_ADAPTERS + 1,
                     .table = dev_table};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        bench_lora_line(b, &g, rows[i], 4.0 * LORA_RANK * LORA_WIDTH);
    for (int i = 0; i < LORA_ADAPTERS; i++) {
        give(b, g.slots[i], (size_t)g.n_slots * sizeof **g.slots);
        give(b, g.parts[i], (size_t)g.n_slots * sizeof **g.parts);
    }
    give(b, dev_table, sizeof table), give(b, s, sizeof ones);
    give(b, x, bytes), give(b, out, bytes);
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
    enum { WIDTH = 896, FFN = 4864, VOCAB = 151936 };
    static const int32_t rows[] = {1, 16, 512};
    if (b->op && !strstr(b->op, "norm") && !strstr(b->op, "act") && !strstr(b->op, "logsumexp"))
        return;
    float *x = (float *)b->pool, *y = x + 512 * 2 * FFN, *found = room(b, 3 * 16 * 4);
    fill_weights(b, DT_F32);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int32_t n = rows[i];
        ops_bench g = {.b = b->be};
        g.norm = (op_norm){.kind = NORM_RMS,
                           .n_rows = n,
                           .n_groups = 1,
                           .width = WIDTH,
                           .x = x,
                           .x_stride = WIDTH,
                           .add = y,
                           .add_stride = WIDTH,
                           .weight = y,
                           .eps = 1e-6f,
                           .out = y + 512 * WIDTH,
                           .out_stride = WIDTH};
        g.act = (op_act){.kind = ACT_SILU,
                         .gated = true,
                         .n_rows = n,
                         .width = FFN,
                         .in = x,
                         .in_stride = 2 * FFN,
                         .out = y,
                         .out_stride = FFN};
        g.lse =
            (op_logsumexp){MIN(n, 16), VOCAB, x, VOCAB, found, found + 16, (int32_t *)found + 32};
        const char *const names[] = {"norm add", "act silu gated", "logsumexp"};
        const double bytes[] = {4.0 * n * WIDTH * 4, 4.0 * n * FFN * 3, 4.0 * MIN(n, 16) * VOCAB};
        for (g.which = 0; g.which < 3; g.which++) {
            bench_line l = {.bytes = bytes[g.which], .run = ops_rep, .ctx = &g};
            snprintf(l.name, sizeof l.name, "%s rows=%d", names[g.which],
                     g.which == 2 ? MIN(n, 16) : n);
            line_run(b, &l);
        }
    }
    give(b, found, 3 * 16 * 4);
}

static status open_bench(bench *b, const bench_options *o, error *err) {
    device_options d = {.device = o->device ? o->device : "cpu", .cpu = {o->n_threads, o->isa}};
    TRY(device_open(&d, &b->be, err));
    b->pool_bytes = POOL_BYTES;
    if (b->be->host_memory) {
        b->c = (cpu_backend *)b->be;
        b->pool = mem_map(b->pool_bytes);
        if (b->pool) return OK;
        return error_set(err, ERR_NOMEM, "the system refused %zu bytes for the bench's weights",
                         b->pool_bytes);
    }
    b->tiny = strstr(b->be->device, "emulated") != NULL;
    if (b->tiny) b->pool_bytes = TINY_POOL;
    void *p = NULL;
    TRY(b->be->v->mem_alloc(b->be, b->pool_bytes, &p, err));
    b->pool = p;
    return OK;
}

static void close_bench(bench *b) {
    if (b->pool && b->c) mem_unmap(b->pool, b->pool_bytes);
    if (b->pool && !b->c) give(b, b->pool, b->pool_bytes);
    backend_close(b->be);
    mem_free(b);
}

status bench_kernels(const bench_options *o, FILE *out, error *err) {
    bench *b = mem_calloc(1, sizeof *b);
    b->out = out;
    b->op = o->op;
    status st = open_bench(b, o, err);
    if (st == OK) {
        fprintf(out, "%s%s\n%-44s %10s %10s %7s %8s %6s %6s  %-9s %6s %6s\n", b->be->device,
                b->c && b->be->n_threads == 1 ? ", CPU time" : "", "line", "median us", "best us",
                "GB/s", "GFLOP/s", "%", "best %", "of limit", "GB/s", "GFLOP/s");
        fill_weights(b, DT_BF16);
        if (!b->c) b->bf16_gflops = device_peak(b);
        bench_gemm(b);
        bench_quant(b);
        bench_attention(b);
        bench_latent(b);
        bench_experts(b);
        bench_lora(b);
        bench_ops(b);
    }
    close_bench(b);
    return st;
}
