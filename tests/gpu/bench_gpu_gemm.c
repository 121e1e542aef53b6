/* Matrix products at the shapes of a model of 8B parameters: rows of a decode step, which read the
 * weights at the memory's speed, and of prompts, which the tensor cores bound. */
#include <string.h>

#include "tests/gpu/gpu_bench.h"

#define ROWS_MOST 4096

typedef struct gemm_ctx {
    backend *be;
    wmat *w; /* [n_w], rotated */
    int n_w;
    op_gemm op;
} gemm_ctx;

static void gemm_launch(void *ctx, int i) {
    gemm_ctx *g = ctx;
    g->op.w = &g->w[i % g->n_w];
    g->be->v->gemm(g->be, &g->op);
}

typedef struct lt_ctx {
    backend *be;
    probe_work work;
    const char *w; /* [n_w] matrices of w_bytes, rotated */
    size_t w_bytes;
    int n_w;
} lt_ctx;

static void lt_launch(void *ctx, int i) {
    lt_ctx *l = ctx;
    error err;
    l->work.w = l->w + (size_t)(i % l->n_w) * l->w_bytes;
    (void)!l->be->v->measure->probe(l->be, &l->work, &err); /* the first call succeeded */
}

/* The library's time for the same product, bf16 or E4M3, out in bf16; 0 where there is no library.
 */
static double beside(gpu_bench *g, const char *line, dtype dt, int32_t m, int32_t n, int32_t k) {
    if (g->bf16_tflops <= 0) return 0;
    bool bf16 = dt == DT_BF16;
    size_t each = dtype_bytes(dt), a_n = (size_t)m * (size_t)k, w_n = (size_t)n * (size_t)k;
    lt_ctx l = {.be = g->be, .w_bytes = w_n * each};
    l.n_w = bench_copies(g, l.w_bytes);
    size_t w_all = w_n * (size_t)l.n_w;
    void *a = bf16 ? bench_normal(g, a_n, dt) : bench_codes(g, a_n);
    void *w = bf16 ? bench_normal(g, w_all, dt) : bench_codes(g, w_all);
    void *out = bench_alloc(g, (size_t)m * (size_t)n * 2);
    l.w = w;
    l.work = (probe_work){.kind = PROBE_MATMUL, .m = m, .n = n, .k = k, .dt = dt, .a = a, .w = w};
    l.work.out = out;
    error err;
    double us = 0;
    if (g->be->v->measure->probe(g->be, &l.work, &err) == OK) {
        gpu_case c = {.line = line, .flops = 2.0 * m * n * k, .run = lt_launch, .ctx = &l};
        c.bytes = (double)each * ((double)n * k + (double)m * k) + 2.0 * m * n;
        snprintf(c.name, sizeof c.name, "cuBLASLt %s M=%d %dx%d", dtype_name(dt), m, n, k);
        us = bench_case(g, &c);
    }
    bench_free(g, a, a_n * each), bench_free(g, w, w_all * each);
    bench_free(g, out, (size_t)m * (size_t)n * 2);
    return us;
}

/* Cases of one matrix for each number of rows. few: the target of rows that the weights' bytes
 * bound, as a fraction of the stream; many: of rows past 256, of the peak, or where it is above one
 * in TFLOP/s; 0: none. */
typedef struct gemm_shape {
    const char *line;
    dtype dt;
    int32_t n, k;
    const int32_t *rows;
    int n_rows;
    double few, middle, many;
} gemm_shape;

/* Rows as the op before the product leaves them (backend.h: feed_dt): f32, 16 bits, or codes with
 * scales of one. */
typedef struct fed_rows {
    dtype dt;
    size_t n, n_scales;
    void *a;
    float *scales;
} fed_rows;

static fed_rows feed(gpu_bench *g, const wmat *w, int32_t rows) {
    const backend_vtbl *v = g->be->v;
    fed_rows f = {.dt = v->feed_dt ? v->feed_dt(g->be, w) : DT_F32};
    f.n = (size_t)rows * (size_t)w->k;
    if (dtype_bytes(f.dt) > 1) {
        f.a = bench_normal(g, f.n, f.dt == DT_F32 ? DT_F32 : DT_BF16); /* as f16: 1 to 2.25 */
        return f;
    }
    float *ones = mem_alloc((size_t)rows * sizeof *ones);
    for (int32_t i = 0; i < rows; i++) ones[i] = 1;
    f.n_scales = (size_t)rows;
    f.scales = bench_upload(g, ones, f.n_scales * sizeof *ones);
    f.a = bench_codes(g, f.n);
    mem_free(ones);
    return f;
}

static void gemm_cases(gpu_bench *g, gemm_ctx *c, const gemm_shape *s) {
    int32_t most = s->rows[s->n_rows - 1];
    size_t out_n = (size_t)most * (size_t)s->n;
    fed_rows f = feed(g, c->w, most);
    float *out = bench_alloc(g, out_n * 4);
    for (int i = 0; i < s->n_rows; i++) {
        int32_t m = s->rows[i];
        c->op = (op_gemm){.m = m, .a = f.a, .a_dt = f.dt, .a_scale = f.scales, .a_stride = s->k};
        c->op.w = c->w, c->op.out = out, c->op.out_stride = s->n;
        gpu_case k = {.line = s->line, .run = gemm_launch, .ctx = c, .out = out};
        k.flops = 2.0 * m * s->n * s->k;
        k.bytes = (double)c->w[0].bytes + (double)dtype_bytes(f.dt) * m * s->k + 4.0 * m * s->n;
        k.n_out = (size_t)m * (size_t)s->n;
        k.goal = m > 256 ? GOAL_BF16 : GOAL_READ;
        k.target = m > 256 ? s->many : m > 16 ? s->middle : s->few;
        if (k.target > 1) k.goal = GOAL_TFLOPS;
        if (k.target <= 0) k.goal = GOAL_NONE;
        snprintf(k.name, sizeof k.name, "gemm %s M=%d %dx%d, a %s", dtype_name(s->dt), m, s->n,
                 s->k, dtype_name(f.dt));
        if (s->dt == DT_BF16 || strcmp(s->line, "G8") == 0)
            k.beside_us =
                beside(g, s->line, s->dt == DT_BF16 ? DT_BF16 : DT_F8_E4M3, m, s->n, s->k);
        bench_case(g, &k);
    }
    bench_free(g, f.a, f.n * dtype_bytes(f.dt)), bench_free(g, f.scales, f.n_scales * 4);
    bench_free(g, out, out_n * 4);
}

static void bf16_shape(gpu_bench *g, const gemm_shape *s) {
    gemm_ctx c = {.be = g->be};
    size_t bytes = ALIGN_UP(g->be->v->wmat_bytes(g->be, s->n, s->k, s->dt), (size_t)256);
    c.n_w = bench_copies(g, bytes);
    size_t all = bytes * (size_t)c.n_w;
    char *data = bench_normal(g, all / 2, DT_BF16);
    c.w = mem_calloc((size_t)c.n_w, sizeof *c.w);
    for (int i = 0; i < c.n_w; i++)
        g->be->v->wmat_init(g->be, &c.w[i], s->n, s->k, s->dt, data + (size_t)i * bytes);
    gemm_cases(g, &c, s);
    bench_free(g, data, all);
    mem_free(c.w);
}

/* Rows of random codes whose scales keep the values near one. */
#define PACK_ROWS 64
static void *random_rows(gpu_bench *g, const gemm_shape *s, const quant_spec *spec, int seed) {
    size_t n = (size_t)PACK_ROWS * (size_t)s->k;
    size_t groups = (size_t)PACK_ROWS * (size_t)quant_groups(spec, s->k);
    uint8_t *codes = mem_alloc(n), mask = (uint8_t)((1u << quant_bits(s->dt)) - 1);
    float *scales = mem_alloc(groups * sizeof *scales);
    uint16_t *scales16 = (uint16_t *)scales;
    for (size_t i = 0; i < n; i++) {
        uint16_t bits = g->normals16[(i + (size_t)seed * 977) % g->n_normals];
        codes[i] = s->dt == DT_F8_E4M3 ? (uint8_t)((bits & 0x8f) | 0x30) : (uint8_t)(bits & mask);
    }
    for (size_t i = 0; i < groups; i++) {
        float scale = 0.01f + 0.001f * (float)(i % 16);
        if (spec->scale_dt == DT_F16)
            scales16[i] = f32_to_f16(scale);
        else
            scales[i] = scale;
    }
    quant_rows rows = {codes, scales, NULL};
    void *stored = mem_alloc(PACK_ROWS * quant_row_bytes(s->dt, spec, s->k));
    quant_pack_rows(s->dt, spec, s->k, &rows, PACK_ROWS, stored);
    mem_free(codes), mem_free(scales);
    return stored;
}

static void quant_shape(gpu_bench *g, const gemm_shape *s, const quant_spec *spec) {
    gemm_ctx c = {.be = g->be};
    const backend_vtbl *v = g->be->v;
    size_t bytes = ALIGN_UP(v->quant_bytes(g->be, s->n, s->k, s->dt, spec), (size_t)256);
    c.n_w = bench_copies(g, bytes);
    char *data = bench_alloc(g, bytes * (size_t)c.n_w);
    c.w = mem_calloc((size_t)c.n_w, sizeof *c.w);
    for (int i = 0; i < c.n_w; i++) {
        void *stored = random_rows(g, s, spec, i);
        v->quant_init(g->be, &c.w[i], s->n, s->k, s->dt, spec, data + (size_t)i * bytes);
        v->quant_side(g->be, &c.w[i], NULL, NULL);
        for (int32_t r = 0; r < s->n; r += PACK_ROWS)
            v->quant_pack(g->be, &c.w[i], r, MIN(PACK_ROWS, s->n - r), stored);
        mem_free(stored);
    }
    gemm_cases(g, &c, s);
    bench_free(g, data, bytes * (size_t)c.n_w);
    mem_free(c.w);
}

void bench_gemms(gpu_bench *g) {
    static const int32_t rows6[] = {1, 4, 8, 16, 64, 256, 512, 4096}, tiny[] = {1, 4, 33, 300};
    static const int32_t rows7[] = {1, 16, 64, 4096}, rows8[] = {1, 16, 64, 256, 4096};
    static const int32_t shapes[][2] = {
        {4096, 4096}, {6144, 4096}, {28672, 4096}, {4096, 14336}, {128256, 4096}};
    gemm_shape s = {.rows = g->tiny ? tiny : rows6, .n_rows = g->tiny ? 4 : ARRAY_LEN(rows6)};
    int n_shapes = g->tiny ? 1 : (int)ARRAY_LEN(shapes);
    for (int i = 0; i < n_shapes && bench_wants(g, "G6"); i++) {
        s.line = "G6", s.dt = DT_BF16, s.few = 0.92;
        s.n = g->tiny ? 96 : shapes[i][0], s.k = g->tiny ? 128 : shapes[i][1];
        bf16_shape(g, &s);
    }
    quant_spec w4 = {.group = 128, .scale_dt = DT_F16, .zero = 8, .scale_mul = 1};
    w4.math = DT_F16;
    s.n = g->tiny ? 96 : 28672, s.k = g->tiny ? 256 : 4096;
    if (!g->tiny) s.rows = rows7, s.n_rows = ARRAY_LEN(rows7);
    s.line = "G7", s.dt = DT_INT4, s.few = 0.88, s.middle = 0.60, s.many = 0.85;
    if (bench_wants(g, "G7")) quant_shape(g, &s, &w4);
    /* W8A8: a scale for each row of weights and of activations; both against the library's FP8. */
    quant_spec w8 = {.group = g->tiny ? 256 : 7168, .scale_dt = DT_F32, .scale_mul = 1};
    w8.math = DT_BF16, w8.act = ACT_ROUND_FP8_TOKEN;
    s.n = g->tiny ? 96 : 4096, s.k = w8.group, s.line = "G8";
    if (!g->tiny) s.rows = rows8, s.n_rows = ARRAY_LEN(rows8);
    s.few = s.middle = 0, s.many = 1350;
    s.dt = DT_F8_E4M3;
    if (bench_wants(g, "G8")) quant_shape(g, &s, &w8);
    s.dt = DT_INT8, w8.zero = 128, w8.act = ACT_ROUND_INT8_TOKEN, s.many = 0;
    if (bench_wants(g, "G8")) quant_shape(g, &s, &w8);
}
