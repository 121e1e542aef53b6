/* bench_gpu: the lines of a GPU's table, `bench_gpu --help`.
 *
 * Data is normal, not zeros, which flatter; outputs are poisoned and must be finite after. A case
 * is a graph of launches that rotate through more memory than the L2 cache holds, replayed; its
 * time is the median replay over the launches. Fractions are of the ceilings that the same run
 * measured before the cases and again after them. Bytes and operations are counted by formula: each
 * input once, each output once. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/rng.h"
#include "kernels/device.h"
#include "tests/gpu/gpu_bench.h"

#define LAUNCHES    20
#define REPLAYS     30
#define CASE_US     700000.0            /* a case is shortened to take about this long */
#define COLD_BYTES  ((size_t)192 << 20) /* past three times the largest L2 of today's chips */
#define POISON_BITS 0x7FC5A5A5u
#define CHUNK       ((size_t)8 << 20)

static _Noreturn void die(const char *what, const error *err) {
    fprintf(stderr, "bench_gpu: %s%s%s\n", what, err ? ": " : "", err ? err->text : "");
    exit(1);
}

/* ---- memory and data ---- */

void *bench_alloc(gpu_bench *g, size_t bytes) {
    error err;
    void *p = NULL;
    if (g->be->v->mem_alloc(g->be, bytes, &p, &err) != OK) die("memory", &err);
    return p;
}

void bench_free(gpu_bench *g, void *p, size_t bytes) {
    if (p) g->be->v->mem_free(g->be, p, bytes);
}

void *bench_upload(gpu_bench *g, const void *src, size_t bytes) {
    void *p = bench_alloc(g, bytes);
    error err;
    g->be->v->upload(g->be, p, src, bytes);
    if (g->be->v->sync(g->be, &err) != OK) die("upload", &err);
    return p;
}

void *bench_normal(gpu_bench *g, size_t n, dtype dt) {
    size_t each = dtype_bytes(dt), part = g->n_normals / 2;
    char *p = bench_alloc(g, n * each);
    const char *pool = dt == DT_F32 ? (const char *)g->normals : (const char *)g->normals16;
    for (size_t at = 0; at < n; at += part) {
        size_t from = (size_t)(rng_uniform(7, g->n_drawn++, 0) * (double)part) & ~(size_t)7;
        g->be->v->upload(g->be, p + at * each, pool + from * each, MIN(part, n - at) * each);
    }
    error err;
    if (g->be->v->sync(g->be, &err) != OK) die("upload", &err);
    return p;
}

void *bench_codes(gpu_bench *g, size_t n) {
    size_t part = MIN(n, g->n_normals);
    char *p = bench_alloc(g, n);
    uint8_t *codes = mem_alloc(part);
    for (size_t i = 0; i < part; i++) codes[i] = (uint8_t)(g->normals16[i] & 0x8f) | 0x30;
    for (size_t at = 0; at < n; at += part)
        g->be->v->upload(g->be, p + at, codes, MIN(part, n - at));
    error err;
    if (g->be->v->sync(g->be, &err) != OK) die("upload", &err);
    mem_free(codes);
    return p;
}

/* Pinned, so that uploads run at the link's speed. */
static void make_normals(gpu_bench *g) {
    error err;
    void *p = NULL, *p16 = NULL;
    g->n_normals = g->tiny ? 1u << 14 : 1u << 23;
    if (g->be->v->host_alloc(g->be, g->n_normals * 4, &p, &err) != OK) die("memory", &err);
    if (g->be->v->host_alloc(g->be, g->n_normals * 2, &p16, &err) != OK) die("memory", &err);
    g->normals = p, g->normals16 = p16;
    for (size_t i = 0; i < g->n_normals; i += 4) { /* Box and Muller */
        rng_block r = rng_philox(11, 0, i);
        for (int j = 0; j < 4; j += 2) {
            float u = ((float)r.x[j] + 1.0f) * 0x1p-32f, a = (float)r.x[j + 1] * 0x1p-32f;
            float radius = sqrtf(-2 * logf(u)), angle = 6.2831853f * a;
            g->normals[i + (size_t)j] = radius * cosf(angle);
            g->normals[i + (size_t)j + 1] = radius * sinf(angle);
        }
    }
    for (size_t i = 0; i < g->n_normals; i++) g->normals16[i] = f32_to_bf16(g->normals[i]);
}

int bench_copies(const gpu_bench *g, size_t bytes) {
    size_t cold = g->tiny ? 0 : COLD_BYTES;
    return (int)MIN(MAX(CEIL_DIV(cold, bytes), 1), LAUNCHES);
}

static void poison(gpu_bench *g, const gpu_case *c) {
    uint32_t *bits = mem_alloc(CHUNK);
    for (size_t i = 0; i < CHUNK / 4; i++) bits[i] = POISON_BITS;
    for (size_t at = 0; at < c->n_out * 4; at += CHUNK)
        g->be->v->upload(g->be, (char *)c->out + at, bits, MIN(CHUNK, c->n_out * 4 - at));
    error err;
    if (g->be->v->sync(g->be, &err) != OK) die("upload", &err);
    mem_free(bits);
}

/* Elements that are not finite, or were never written. */
static size_t bad_outputs(gpu_bench *g, const gpu_case *c) {
    float *host = mem_alloc(CHUNK);
    size_t bad = 0;
    for (size_t at = 0; at < c->n_out * 4; at += CHUNK) {
        size_t bytes = MIN(CHUNK, c->n_out * 4 - at);
        g->be->v->download(g->be, host, (char *)c->out + at, bytes);
        for (size_t i = 0; i < bytes / 4; i++) bad += !isfinite(host[i]);
    }
    mem_free(host);
    return bad;
}

/* ---- timing ---- */

typedef struct times {
    double median, least, most; /* us of one launch */
    int launches, replays;
    bool graph;
} times;

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static status time_it(gpu_bench *g, void (*run)(void *, int), void *ctx, times *ret, error *err) {
    const measure *m = g->be->v->measure;
    double us[REPLAYS];
    measure_plan p = {run, ctx, 2, 1};
    TRY(m->time(g->be, &p, us, &ret->graph, err));
    double each = MAX(us[0] / 2, 0.5), budget = g->quick ? CASE_US / 10 : CASE_US;
    p.n = g->tiny ? 2 : (int)MAX(MIN(budget / (each * 10), LAUNCHES), 1);
    p.replays = g->tiny ? 2 : (int)MAX(MIN(budget / (each * p.n), REPLAYS), 5);
    TRY(m->time(g->be, &p, us, &ret->graph, err));
    qsort(us, (size_t)p.replays, sizeof us[0], by_value);
    ret->median = us[p.replays / 2] / p.n;
    ret->least = us[0] / p.n, ret->most = us[p.replays - 1] / p.n;
    ret->launches = p.n, ret->replays = p.replays;
    return OK;
}

/* ---- the report ---- */

bool bench_wants(const gpu_bench *g, const char *line) {
    return !g->line || strcmp(g->line, line) == 0;
}

/* What the target is compared with, in the target's unit; 0: its ceiling was not measured. */
static double reached(const gpu_bench *g, const gpu_case *c, double us) {
    double gbs = c->bytes / us * 1e-3, tflops = c->flops / us * 1e-6;
    switch (c->goal) {
    case GOAL_READ: return g->read_gbs > 0 ? gbs / g->read_gbs : 0;
    case GOAL_COPY: return g->copy_gbs > 0 ? gbs / g->copy_gbs : 0;
    case GOAL_BF16: return g->bf16_tflops > 0 ? tflops / g->bf16_tflops : 0;
    case GOAL_TFLOPS: return tflops;
    case GOAL_US: return us;
    case GOAL_NONE: break;
    }
    return 0;
}

static const char *goal_text(goal k) {
    static const char *const texts[] = {"", "of read", "of copy", "of bf16", "TFLOP/s", "us"};
    return texts[k];
}

static void json_number(strbuf *b, const char *key, double v) {
    strbuf_addf(b, ", \"%s\": %.6g", key, isfinite(v) ? v : 0);
}

static void report(gpu_bench *g, const gpu_case *c, const times *t, size_t bad) {
    double gbs = c->bytes / t->median * 1e-3, tflops = c->flops / t->median * 1e-6;
    double value = reached(g, c, t->median);
    bool met = c->goal == GOAL_US ? value <= c->target : value >= c->target;
    printf("%-4s %-44s %10.2f %10.2f %10.2f %8.0f %8.1f", c->line, c->name, t->median, t->least,
           t->most, gbs, tflops);
    bool with_goal = c->goal != GOAL_NONE && value > 0 && !g->tiny;
    if (with_goal)
        printf("  %6.3g %s, target %.4g%s", value, goal_text(c->goal), c->target, met ? "" : " -");
    if (c->beside_us > 0) printf("  cuBLASLt %.2f us", c->beside_us);
    printf("%s%s\n", t->graph ? "" : "  no graph", bad ? "  NOT FINITE" : "");
    fflush(stdout);

    strbuf *b = &g->json;
    strbuf_addf(b, "%s\n  {\"line\": \"%s\", \"name\": \"%s\"", g->n_cases ? "," : "", c->line,
                c->name);
    json_number(b, "us_median", t->median), json_number(b, "us_min", t->least);
    json_number(b, "us_max", t->most), json_number(b, "bytes", c->bytes);
    json_number(b, "flops", c->flops), json_number(b, "gb_s", gbs);
    json_number(b, "tflop_s", tflops);
    strbuf_addf(b, ", \"launches\": %d, \"replays\": %d, \"graph\": %s, \"finite\": %s",
                t->launches, t->replays, t->graph ? "true" : "false", bad ? "false" : "true");
    if (c->beside_us > 0) json_number(b, "cublaslt_us", c->beside_us);
    if (with_goal) {
        json_number(b, "reached", value), json_number(b, "target", c->target);
        strbuf_addf(b, ", \"unit\": \"%s\", \"met\": %s", goal_text(c->goal),
                    met ? "true" : "false");
        g->n_with_goal++, g->n_met += met;
    }
    strbuf_addc(b, '}');
    g->n_cases++;
}

void bench_absent(gpu_bench *g, const char *line, const char *name, const char *why) {
    printf("%-4s %-44s not there: %s\n", line, name, why);
    strbuf_addf(&g->json,
                "%s\n  {\"line\": \"%s\", \"name\": \"%s\", \"absent\": ", g->n_cases ? "," : "",
                line, name);
    strbuf_add_json(&g->json, str_z(why));
    strbuf_addc(&g->json, '}');
    g->n_cases++;
}

double bench_case(gpu_bench *g, const gpu_case *c) {
    times t = {0};
    error err;
    if (c->out) poison(g, c);
    if (time_it(g, c->run, c->ctx, &t, &err) != OK) die(c->name, &err);
    size_t bad = c->out ? bad_outputs(g, c) : 0;
    g->n_failed += bad != 0;
    report(g, c, &t, bad);
    return t.median;
}

/* ---- ceilings ---- */

typedef struct probe_run {
    backend *be;
    const probe_work *w;
    status st;
    error err;
} probe_run;

static void probe_launch(void *ctx, int i) {
    probe_run *p = ctx;
    if (p->st == OK) p->st = p->be->v->measure->probe(p->be, p->w, &p->err);
}

double bench_probe(gpu_bench *g, const char *name, const probe_work *w) {
    probe_run p = {.be = g->be, .w = w, .st = OK};
    times t = {0};
    error err;
    p.st = g->be->v->measure->probe(g->be, w, &p.err);
    if (p.st == OK && time_it(g, probe_launch, &p, &t, &err) != OK) die(name, &err);
    if (p.st != OK) {
        bench_absent(g, "G0", name, p.err.text);
        return 0;
    }
    gpu_case c = {.line = "G0", .bytes = (double)w->bytes * (w->kind == PROBE_COPY ? 2 : 1)};
    snprintf(c.name, sizeof c.name, "%s", name);
    if (w->kind == PROBE_MATMUL) {
        double m = w->m, n = w->n, k = w->k;
        c.flops = 2 * m * n * k;
        c.bytes = (m + n) * k * (double)dtype_bytes(w->dt) + m * n * 2;
    }
    report(g, &c, &t, 0);
    return t.median;
}

/* A product of the vendor's library, of operands near one. */
static double matmul_ceiling(gpu_bench *g, dtype dt, int32_t size) {
    size_t cells = (size_t)size * (size_t)size, each = dtype_bytes(dt);
    bool bf16 = dt == DT_BF16;
    void *a = bf16 ? bench_normal(g, cells, dt) : bench_codes(g, cells);
    void *w = bf16 ? bench_normal(g, cells, dt) : bench_codes(g, cells);
    void *out = bench_alloc(g, cells * 2);
    probe_work work = {.kind = PROBE_MATMUL, .m = size, .n = size, .k = size, .dt = dt};
    work.a = a, work.w = w, work.out = out;
    char name[64];
    snprintf(name, sizeof name, "cuBLASLt %s %d^3", dtype_name(dt), size);
    double us = bench_probe(g, name, &work);
    bench_free(g, a, cells * each), bench_free(g, w, cells * each), bench_free(g, out, cells * 2);
    return us > 0 ? 2.0 * (double)cells * size / us * 1e-6 : 0;
}

void bench_ceilings(gpu_bench *g) {
    size_t bytes = g->tiny ? 1 << 16 : (size_t)2 << 30;
    void *from = bench_normal(g, bytes / 2, DT_BF16), *to = bench_alloc(g, bytes);
    probe_work read = {.kind = PROBE_READ, .src = from, .dst = to, .bytes = bytes};
    probe_work copy = {.kind = PROBE_COPY, .src = from, .dst = to, .bytes = bytes};
    double us = bench_probe(g, "read-only stream", &read);
    g->read_gbs = (double)bytes / us * 1e-3;
    us = bench_probe(g, "copy, read and written", &copy);
    g->copy_gbs = 2 * (double)bytes / us * 1e-3;
    bench_free(g, from, bytes), bench_free(g, to, bytes);
    int32_t size = g->tiny ? 64 : 8192;
    g->bf16_tflops = matmul_ceiling(g, DT_BF16, size);
    matmul_ceiling(g, DT_F8_E4M3, size);
}

/* ---- the program ---- */

static const char usage[] =
    "usage: bench_gpu [--device cuda:N] [--line NAME] [--quick] [--tiny] [--json FILE]\n"
    "  --line NAME  G0 (ceilings), G1, G3, G4, G5 (attention), G6 (bf16), G7 (W4A16), G8 (8 "
    "bits),\n"
    "               G9 (rows), G10 (sampling); the ceilings are measured with every line\n"
    "  --quick      a tenth of the time\n"
    "  --tiny       tiny shapes, as on an emulated device: shows that it runs, no figures\n"
    "Exit status 0: every case ran and gave finite numbers, whether a target was met or not.\n";

static void write_json(const gpu_bench *g, const char *path, double seconds) {
    FILE *f = fopen(path, "w");
    if (!f) die(path, NULL);
    fprintf(f, "{\"device\": \"%s\", \"tiny\": %s, \"seconds\": %.1f, \"read_gb_s\": %.6g,\n",
            g->be->device, g->tiny ? "true" : "false", seconds, g->read_gbs);
    fprintf(f, " \"copy_gb_s\": %.6g, \"bf16_tflop_s\": %.6g, \"cases\": [%.*s\n]}\n", g->copy_gbs,
            g->bf16_tflops, (int)g->json.n, g->json.p);
    if (fclose(f) != 0) die(path, NULL);
}

static backend *open_device(const char *name) {
    error err;
    backend *be = NULL;
    device_options o = {.device = name};
    if (device_open(&o, &be, &err) != OK) die(name, &err);
    if (!be->v->measure)
        die("this device has no clock of its own; checkkern --bench times the CPU", NULL);
    return be;
}

static void run_lines(gpu_bench *g) {
    printf("%-4s %-44s %10s %10s %10s %8s %8s\n", "line", g->be->device, "us", "min", "max", "GB/s",
           "TFLOP/s");
    bench_ceilings(g);
    double read = g->read_gbs, bf16 = g->bf16_tflops;
    bench_gemms(g);
    bench_attentions(g);
    bench_rows(g);
    if (g->line || g->quick || g->tiny) return;
    bench_ceilings(g); /* how much they moved meanwhile */
    printf("ceilings again: read %+.1f %%, bf16 %+.1f %%\n", 100 * (g->read_gbs / read - 1),
           bf16 > 0 ? 100 * (g->bf16_tflops / bf16 - 1) : 0);
}

int main(int argc, char **argv) {
    gpu_bench g = {0};
    const char *device = "cuda", *json = NULL;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(a, "--quick") == 0)
            g.quick = true;
        else if (strcmp(a, "--tiny") == 0)
            g.tiny = true;
        else if (value && strcmp(a, "--line") == 0)
            g.line = value, i++;
        else if (value && strcmp(a, "--device") == 0)
            device = value, i++;
        else if (value && strcmp(a, "--json") == 0)
            json = value, i++;
        else
            return fputs(usage, strcmp(a, "--help") == 0 ? stdout : stderr),
                   strcmp(a, "--help") != 0;
    }
    uint64_t start = clock_ns();
    g.be = open_device(device);
    g.tiny |= strstr(g.be->device, "emulated") != NULL;
    make_normals(&g);
    run_lines(&g);
    double seconds = (double)(clock_ns() - start) * 1e-9;
    if (json) write_json(&g, json, seconds);
    printf("%d of %d targets met, %.1f s\n", g.n_met, g.n_with_goal, seconds);
    printf("%d passed, %d failed, 0 skipped\n", g.n_cases - g.n_failed, g.n_failed);
    g.be->v->host_free(g.be, g.normals, g.n_normals * 4);
    g.be->v->host_free(g.be, g.normals16, g.n_normals * 2);
    backend_close(g.be);
    strbuf_done(&g.json);
    return g.n_failed != 0;
}
