/* Attention over pages of 16 tokens that lie shuffled in memory, as in a server that has run for a
 * while: 32 query and 8 key heads of 128, keys and values in bf16. */
#include "tests/gpu/gpu_bench.h"

#define PAGE 16

typedef struct attn_ctx {
    backend *be;
    op_attention op;
} attn_ctx;

static void attn_launch(void *ctx, int i) {
    attn_ctx *a = ctx;
    a->be->v->attention(a->be, &a->op);
}

typedef struct attn_shape {
    const char *line, *name;
    int32_t n_seqs, n_rows; /* rows of each sequence */
    const int32_t *len;     /* [n_seqs], rows included */
    goal goal;
    double target;
} attn_shape;

/* A shuffle of 0..n-1 by a step that has no divisor in common with n. */
static int32_t *shuffled(int32_t n) {
    int32_t *ids = mem_alloc((size_t)n * sizeof *ids), step = 7919;
    while (n % step == 0) step += 2;
    for (int32_t i = 0; i < n; i++) ids[i] = (int32_t)((int64_t)i * step % n);
    return ids;
}

static void attn_case(gpu_bench *g, const attn_shape *s) {
    int32_t heads = g->tiny ? 4 : 32, kv_heads = g->tiny ? 1 : 8, d = g->tiny ? 64 : 128;
    attn_seq *seqs = mem_calloc((size_t)s->n_seqs, sizeof *seqs);
    int32_t n_pages = 0, n_rows = s->n_seqs * s->n_rows;
    double keys = 0, seen = 0; /* tokens held; (query, key) pairs */
    for (int32_t i = 0; i < s->n_seqs; i++) {
        seqs[i] = (attn_seq){i * s->n_rows, s->n_rows, s->len[i] - s->n_rows, 0, n_pages};
        n_pages += CEIL_DIV(s->len[i], PAGE);
        keys += s->len[i];
        seen += (double)s->n_rows * (s->len[i] - (s->n_rows - 1) / 2.0);
    }
    int32_t *table = shuffled(n_pages);
    size_t cells = (size_t)n_pages * PAGE * (size_t)(kv_heads * d);
    size_t row = (size_t)heads * (size_t)d, rows = (size_t)n_rows;
    void *k = bench_normal(g, cells, DT_BF16), *v = bench_normal(g, cells, DT_BF16);
    float *q = bench_normal(g, rows * row, DT_F32), *out = bench_alloc(g, rows * row * 4);
    void *dev_seqs = bench_upload(g, seqs, (size_t)s->n_seqs * sizeof *seqs);
    void *dev_table = bench_upload(g, table, (size_t)n_pages * sizeof *table);
    attn_ctx a = {.be = g->be};
    a.op = (op_attention){.seqs = {s->n_seqs, seqs, dev_seqs, dev_table},
                          .n_heads = heads,
                          .n_kv_heads = kv_heads,
                          .head_dim = d,
                          .q = q,
                          .q_stride = (int64_t)row,
                          .out = out,
                          .out_stride = (int64_t)row,
                          .scale = 0.08838835f,
                          .k_pages = k,
                          .v_pages = v,
                          .kv_dt = DT_BF16,
                          .page_tokens = PAGE};
    gpu_case c = {.line = s->line, .goal = s->goal, .target = s->target, .run = attn_launch};
    c.ctx = &a, c.out = out, c.n_out = rows * row;
    c.flops = 4.0 * heads * d * seen;
    c.bytes = keys * kv_heads * d * 4 + (double)(rows * row) * 8;
    snprintf(c.name, sizeof c.name, "%s", s->name);
    bench_case(g, &c);
    bench_free(g, k, cells * 2), bench_free(g, v, cells * 2);
    bench_free(g, q, rows * row * 4), bench_free(g, out, rows * row * 4);
    bench_free(g, dev_seqs, (size_t)s->n_seqs * sizeof *seqs);
    bench_free(g, dev_table, (size_t)n_pages * sizeof *table);
    mem_free(table), mem_free(seqs);
}

static void same_length(gpu_bench *g, attn_shape s, int32_t len) {
    int32_t lens[32];
    if (!bench_wants(g, s.line)) return;
    for (int i = 0; i < s.n_seqs; i++) lens[i] = len;
    s.len = lens;
    attn_case(g, &s);
}

/* Lengths as 32768 over the rank, at least 64: few long ones, many short ones. */
static void zipf(gpu_bench *g) {
    int32_t lens[256], n = g->tiny ? 6 : 256;
    if (!bench_wants(g, "G5")) return;
    for (int32_t i = 0; i < n; i++) lens[i] = g->tiny ? 60 / (i + 1) : MAX(32768 / (i + 1), 64);
    attn_shape s = {"G5", "decode B=256 Zipf lengths to 32k", n, 1, lens, GOAL_READ, 0.90};
    attn_case(g, &s);
}

void bench_attentions(gpu_bench *g) {
    int32_t r2k = g->tiny ? 40 : 2048, r16k = g->tiny ? 70 : 16384, b32 = g->tiny ? 3 : 32;
    same_length(g, (attn_shape){"G1", "prefill causal 2k", 1, r2k, NULL, GOAL_TFLOPS, 600}, r2k);
    same_length(g, (attn_shape){"G1", "prefill causal 16k", 1, r16k, NULL, GOAL_TFLOPS, 600}, r16k);
    same_length(g, (attn_shape){"G3", "decode B=32 4k", b32, 1, NULL, GOAL_READ, 0.94},
                g->tiny ? 50 : 4096);
    same_length(g, (attn_shape){"G4", "decode B=1 64k", 1, 1, NULL, GOAL_US, 80},
                g->tiny ? 90 : 65536);
    zipf(g);
}
