/* Weights and pages are rotated through a buffer far larger than the caches, so that what decode
 * reads from memory is read from memory here. The limit of a line is the larger of bytes over
 * probed bandwidth and flops over probed peak; both probes run right before the line. The median
 * of the repetitions is reported. */
#include "kernels/bench.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/probe.h"

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

static void line_run(bench *b, const bench_line *l) {
    if (b->op && !strstr(l->name, b->op)) return;
    probe_limits p = probe_run(b->c->team, b->c->isa, b->pool, POOL_BYTES, PROBE_MS);
    uint64_t end = clock_ns() + LINE_NS;
    int n = 0;
    l->run(l->ctx, 0);
    while (n < REPS_MAX && (n < 5 || clock_ns() < end)) {
        uint64_t start = clock_ns();
        l->run(l->ctx, n + 1);
        b->times[n++] = clock_ns() - start;
    }
    qsort(b->times, (size_t)n, sizeof b->times[0], by_value);
    double ns = (double)b->times[n / 2];
    double peak = l->bf16 ? MAX(p.bf16_gflops, p.f32_gflops) : p.f32_gflops;
    double limit = MAX(l->bytes / p.read_gbs, l->flops / peak);
    fprintf(b->out,
            "%-36s %10.1f us %7.1f GB/s %8.1f GFLOP/s  %5.1f %% of %s (%.1f GB/s, %.0f GFLOP/s)\n",
            l->name, ns * 1e-3, l->bytes / ns, l->flops / ns, 100 * limit / ns,
            l->bytes / p.read_gbs > l->flops / peak ? "bandwidth" : "peak", p.read_gbs, peak);
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
    backend *be = &b->c->base;
    size_t bytes = ALIGN_UP(be->v->wmat_bytes(be, n, k, dt), 64);
    gemm_bench g = {.b = be, .n_copies = (int)(POOL_BYTES / bytes)};
    g.w = mem_calloc((size_t)g.n_copies, sizeof *g.w);
    for (int i = 0; i < g.n_copies; i++)
        be->v->wmat_init(be, &g.w[i], n, k, dt, b->pool + (size_t)i * bytes);
    float *a = mem_alloc(512 * (size_t)k * 4), *out = mem_alloc(512 * (size_t)n * 4);
    for (size_t i = 0; i < 512 * (size_t)k; i++) a[i] = (float)((i * 7919) % 2048) / 1024 - 1;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        g.op = (op_gemm){rows[i], a, k, NULL, NULL, out, n, false};
        bench_line l = {.bytes = (double)bytes, .flops = 2.0 * rows[i] * n * k, .run = gemm_rep};
        l.bf16 = dt == DT_BF16;
        l.ctx = &g;
        snprintf(l.name, sizeof l.name, "gemm %s m=%d n=%d k=%d", dtype_name(dt), rows[i], n, k);
        line_run(b, &l);
    }
    mem_free(a), mem_free(out), mem_free(g.w);
}

static void bench_gemm(bench *b) {
    static const dtype types[] = {DT_BF16, DT_F16, DT_F32};
    if (b->op && !strstr("gemm bf16 f16 f32", b->op) && !strstr(b->op, "gemm")) return;
    for (size_t t = 0; t < ARRAY_LEN(types); t++) {
        fill_weights(b->pool, types[t]);
        bench_gemm_shape(b, types[t], 1152, 896); /* qkv of a 0.5B model */
        bench_gemm_shape(b, types[t], 9728, 896); /* gate and up */
        bench_gemm_shape(b, types[t], 896, 4864); /* down */
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
        fprintf(out, "%s\n", be->device);
        bench_gemm(b);
        mem_unmap(b->pool, POOL_BYTES);
    } else
        st = error_set(err, ERR_NOMEM, "the system refused %zu bytes for the bench's weights",
                       POOL_BYTES);
    mem_free(b);
    backend_close(be);
    return st;
}
