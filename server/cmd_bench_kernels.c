/* Kernel bench. Shapes are those of a 0.5B model (hidden 896, 14 query and 2 kv heads of 64,
 * ffn 4864); weights and KV pages rotate over a set larger than the caches, as in a real step. A
 * row gives the median time, bytes and flops per second, and the fraction of the limit: the larger
 * of bytes / read bandwidth and flops / peak, both probed right before, over the time taken. */
#include "server/cmd_bench_kernels.h"

#include <stdio.h>
#include <stdlib.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "kernels/backend.h"
#include "kernels/cpu/probe.h"
#include "server/cmd.h"

#define HIDDEN     896
#define HEADS      14
#define KV_HEADS   2
#define HEAD_DIM   64
#define FFN        4864
#define PAGE       16
#define CONTEXT    1024
#define ROWS_MAX   256 /* tokens in the largest case */
#define COLD_BYTES ((size_t)192 << 20)
#define REPEATS    9
#define BATCH_NS   4000000 /* least time of one repeat */
#define PROBE_MS   30

typedef struct bench {
    const conf *c;
    backend *b;
    team *team;
    cpu_isa isa;
    void *cold; /* [COLD_BYTES]: weights or pages, also what the probe reads */
    float *in, *out;
    bool first;
} bench;

/* One case: run() does the op once with the i-th slice of the cold memory. */
typedef struct work {
    char name[48];
    double bytes, flops;
    bool bf16_math; /* the flop limit is that of bf16 dot products */
    void (*run)(bench *b, struct work *w, int64_t i);
    int32_t m, n, k; /* rows; gemm's N and K, or the width */
    dtype dt;
    wmat *mats; /* [n_mats] */
    int32_t n_mats;
    op_attention attention;
    int32_t n_pages;
} work;

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median nanoseconds of one run. */
static double measure(bench *b, work *w) {
    double t[REPEATS];
    int64_t i = 0, n = 1;
    w->run(b, w, i++);
    for (int r = 0; r < REPEATS;) {
        uint64_t start = clock_ns();
        for (int64_t k = 0; k < n; k++) w->run(b, w, i++);
        uint64_t took = clock_ns() - start;
        if (took < BATCH_NS && r == 0 && n < (1 << 20)) {
            n *= 2; /* still finding out how many make a measurable batch */
            continue;
        }
        t[r++] = (double)took / (double)n;
    }
    qsort(t, REPEATS, sizeof *t, by_value);
    return t[REPEATS / 2];
}

static void print_row(bench *b, const work *w, double ns, const probe_limits *lim) {
    double peak = w->bf16_math ? lim->bf16_gflops : lim->f32_gflops;
    double bytes_ns = w->bytes / lim->read_gbs, flops_ns = w->flops / peak;
    double fraction = MAX(bytes_ns, flops_ns) / ns;
    if (b->c->json)
        printf("%s  {\"op\": \"%s\", \"us\": %.3f, \"gb_s\": %.2f, \"gflop_s\": %.2f, \"limit\": "
               "\"%s\", \"fraction\": %.3f, \"read_gb_s\": %.2f, \"peak_gflop_s\": %.1f}",
               b->first ? "" : ",\n", w->name, ns / 1e3, w->bytes / ns, w->flops / ns,
               bytes_ns > flops_ns ? "read" : "flops", fraction, lim->read_gbs, peak);
    else
        printf("%-34s %11.2f %9.2f %10.1f   %4.0f %% of %s\n", w->name, ns / 1e3, w->bytes / ns,
               w->flops / ns, 100 * fraction, bytes_ns > flops_ns ? "read" : "flops");
    fflush(stdout);
    b->first = false;
}

static void run_case(bench *b, work *w, const char *op) {
    if (b->c->op && strcmp(b->c->op, op) != 0) return;
    probe_limits lim = probe_run(b->team, b->isa, b->cold, COLD_BYTES, PROBE_MS);
    print_row(b, w, measure(b, w), &lim);
}

static void run_gemm(bench *b, work *w, int64_t i) {
    op_gemm a = {.m = w->m,
                 .a = b->in,
                 .a_stride = w->k,
                 .w = &w->mats[i % w->n_mats],
                 .out = b->out,
                 .out_stride = w->n};
    b->b->v->gemm(b->b, &a);
}

static void gemm_case(bench *b, const char *what, int32_t n, int32_t k, dtype dt, int32_t m) {
    size_t each = ALIGN_UP(b->b->v->wmat_bytes(b->b, n, k, dt), (size_t)64);
    work w = {.run = run_gemm, .m = m, .n = n, .k = k, .dt = dt, .bf16_math = dt == DT_BF16};
    w.n_mats = (int32_t)MAX(COLD_BYTES / each, (size_t)1);
    w.mats = mem_calloc((size_t)w.n_mats, sizeof *w.mats);
    for (int32_t i = 0; i < w.n_mats; i++)
        b->b->v->wmat_init(b->b, &w.mats[i], n, k, dt, (char *)b->cold + (size_t)i * each);
    snprintf(w.name, sizeof w.name, "gemm %s %s M=%d N=%d K=%d", what, dtype_name(dt), m, n, k);
    w.bytes = (double)n * k * (double)dtype_bytes(dt) + 4.0 * m * ((double)n + k);
    w.flops = 2.0 * m * n * k;
    run_case(b, &w, "gemm");
    mem_free(w.mats);
}

/* B sequences decode one token each over CONTEXT tokens of their own, scattered pages. */
static void run_attention(bench *b, work *w, int64_t i) {
    b->b->v->attention(b->b, &w->attention);
}

static void attention_case(bench *b, int32_t n_seqs, int32_t n_rows, dtype kv) {
    size_t row = (size_t)KV_HEADS * HEAD_DIM * dtype_bytes(kv);
    int32_t per_seq = CONTEXT / PAGE, n_pages = n_seqs * per_seq;
    int32_t *pages = mem_alloc((size_t)n_pages * sizeof *pages);
    attn_seq *seqs = mem_calloc((size_t)n_seqs, sizeof *seqs);
    for (int32_t p = 0; p < n_pages; p++) pages[p] = (int32_t)((int64_t)p * 7919 % n_pages);
    for (int32_t s = 0; s < n_seqs; s++)
        seqs[s] = (attn_seq){.row0 = s * n_rows,
                             .n_rows = n_rows,
                             .pos0 = CONTEXT - n_rows,
                             .pages = pages + s * per_seq};
    work w = {.run = run_attention, .m = n_seqs * n_rows};
    size_t half = (size_t)n_pages * PAGE * row;
    w.attention = (op_attention){.n_seqs = n_seqs,
                                 .n_heads = HEADS,
                                 .n_kv_heads = KV_HEADS,
                                 .head_dim = HEAD_DIM,
                                 .seqs = seqs,
                                 .q = b->in,
                                 .q_stride = (int64_t)HEADS * HEAD_DIM,
                                 .out = b->out,
                                 .out_stride = (int64_t)HEADS * HEAD_DIM,
                                 .scale = 0.125f,
                                 .k_pages = b->cold,
                                 .v_pages = (char *)b->cold + half,
                                 .kv_dt = kv,
                                 .page_tokens = PAGE};
    snprintf(w.name, sizeof w.name, "attention %s B=%d rows=%d ctx=%d", dtype_name(kv), n_seqs,
             n_rows, CONTEXT);
    w.bytes = 2.0 * (double)half;
    w.flops = 4.0 * w.m * HEADS * HEAD_DIM * (CONTEXT - n_rows / 2.0);
    if (2 * half <= COLD_BYTES) run_case(b, &w, "attention");
    mem_free(seqs);
    mem_free(pages);
}

static void run_norm(bench *b, work *w, int64_t i) {
    op_norm a = {.kind = NORM_RMS,
                 .n_rows = w->m,
                 .n_groups = 1,
                 .width = w->n,
                 .x = b->in,
                 .x_stride = w->n,
                 .eps = 1e-6f,
                 .out = b->out,
                 .out_stride = w->n};
    b->b->v->norm(b->b, &a);
}

static void run_act(bench *b, work *w, int64_t i) {
    op_act a = {.kind = ACT_SILU,
                .gated = true,
                .n_rows = w->m,
                .width = w->n,
                .in = b->in,
                .in_stride = 2 * (int64_t)w->n,
                .out = b->out,
                .out_stride = w->n};
    b->b->v->act(b->b, &a);
}

static void run_add(bench *b, work *w, int64_t i) {
    op_add a = {
        .n_rows = w->m, .width = w->n, .x = b->out, .x_stride = w->n, .y = b->in, .y_stride = w->n};
    b->b->v->add(b->b, &a);
}

static void row_case(bench *b, const char *op, void (*run)(bench *, work *, int64_t), int32_t m,
                     int32_t n, double floats) {
    work w = {.run = run, .m = m, .n = n, .bytes = 4.0 * floats * m * n};
    snprintf(w.name, sizeof w.name, "%s rows=%d width=%d", op, m, n);
    run_case(b, &w, op);
}

static void all_cases(bench *b) {
    static const int32_t rows[] = {1, 4, 16, 64, ROWS_MAX};
    for (size_t d = 0; d < 2; d++) {
        dtype dt = d ? DT_F32 : DT_BF16;
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
            gemm_case(b, "qkv", (HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN, dt, rows[i]);
            gemm_case(b, "gate-up", 2 * FFN, HIDDEN, dt, rows[i]);
            gemm_case(b, "down", HIDDEN, FFN, dt, rows[i]);
        }
    }
    for (size_t d = 0; d < 2; d++) {
        dtype dt = d ? DT_F32 : DT_BF16;
        attention_case(b, 1, 1, dt);
        attention_case(b, 16, 1, dt);
        attention_case(b, 1, ROWS_MAX, dt);
    }
    row_case(b, "norm", run_norm, 16, HIDDEN, 2);
    row_case(b, "act", run_act, 16, FFN, 3);
    row_case(b, "add", run_add, 16, HIDDEN, 3);
}

static status prepare(bench *b, error *err) {
    const conf *c = b->c;
    cpu_options o = {.n_threads = (int)c->threads, .isa = c->isa};
    TRY(isa_parse(c->isa, &b->isa, err));
    TRY(backend_cpu_open(&o, &b->b, err));
    b->team = team_new(b->b->n_threads);
    size_t floats = (size_t)ROWS_MAX * 2 * FFN;
    b->cold = mem_map(COLD_BYTES);
    b->in = mem_map(floats * sizeof(float));
    b->out = mem_map(floats * sizeof(float));
    if (!b->cold || !b->in || !b->out)
        return error_set(err, ERR_NOMEM, "no memory for the bench's buffers (%zu MiB)",
                         (COLD_BYTES >> 20) + 2 * (floats >> 18));
    memset(b->cold, 0x11, COLD_BYTES); /* small finite numbers, in f32 and in bf16 */
    for (size_t i = 0; i < floats; i++) b->in[i] = 0.01f * (float)(i % 97);
    return OK;
}

static void release(bench *b) {
    size_t bytes = (size_t)ROWS_MAX * 2 * FFN * sizeof(float);
    if (b->cold) mem_unmap(b->cold, COLD_BYTES);
    if (b->in) mem_unmap(b->in, bytes);
    if (b->out) mem_unmap(b->out, bytes);
    team_free(b->team);
    backend_close(b->b);
}

int bench_kernels(const conf *c) {
    error err;
    bench b = {.c = c, .first = true};
    status st = prepare(&b, &err);
    if (st == OK) {
        if (c->json)
            printf("[\n");
        else
            printf("%s\n\n%-34s %11s %9s %10s   fraction of limit\n", b.b->device, "", "us", "GB/s",
                   "GFLOP/s");
        all_cases(&b);
        if (c->json) printf("\n]\n");
    }
    release(&b);
    return st == OK ? 0 : cmd_fail(&err);
}
