/* checkkern: every row of every usable level against the reference rows.
 *
 * `checkkern --help` names the options.
 * Inputs are random, outputs poisoned and guarded; NaN and infinities are compared by place before
 * any number is. Batch invariance is compared by bits. The seed is printed and accepted. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/rng.h"
#include "kernels/bench.h"
#include "kernels/device.h"
#include "kernels/select.h"
#include "tests/kernels/checkkern.h"

#define GUARD  64
#define POISON 0x7FC5A5A5u

static float poison(void) {
    uint32_t u = POISON;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

mat mat_new(int32_t rows, int32_t width, int64_t stride) {
    mat m = {rows, width, stride, NULL, NULL, 0};
    m.n = (size_t)((rows - 1) * stride + width) + GUARD;
    m.base = fenced_alloc(m.n * sizeof(float));
    for (size_t i = 0; i < m.n; i++) m.base[i] = poison();
    m.p = m.base + GUARD;
    return m;
}

void mat_free(mat *m) {
    fenced_free(m->base);
    *m = (mat){0};
}

double check_uniform(check_ctx *c) {
    static uint64_t position;
    return rng_uniform(c->seed, position++, 0);
}

int32_t check_int(check_ctx *c, int32_t from, int32_t to) {
    return from + (int32_t)(check_uniform(c) * (to - from + 1));
}

/* A sum of three uniforms: normal enough, cheap, bounded. Drawn from a small generator seeded by
 * the run's, since large matrices need many. */
void mat_random(check_ctx *c, mat *m, float scale) {
    uint64_t s = (uint64_t)(check_uniform(c) * 0x1p53) | 1;
    for (int32_t r = 0; r < m->rows; r++)
        for (int32_t i = 0; i < m->width; i++) {
            float sum = 0;
            for (int j = 0; j < 3; j++) {
                s = s * 6364136223846793005u + 1442695040888963407u;
                sum += (float)(s >> 40) * 0x1p-23f - 1;
            }
            m->p[r * m->stride + i] = sum * scale;
        }
}

void mat_copy(mat *to, const mat *from) {
    for (int32_t r = 0; r < to->rows; r++)
        memcpy(to->p + r * to->stride, from->p + r * from->stride, (size_t)to->width * 4);
}

bool mat_guards_ok(const mat *m) {
    float want = poison();
    for (size_t i = 0; i < m->n; i++) {
        int64_t at = (int64_t)i - GUARD;
        bool inside = at >= 0 && at / m->stride < m->rows && at % m->stride < m->width;
        if (!inside && memcmp(&m->base[i], &want, 4) != 0) return false;
    }
    return true;
}

mat mat_rows(const mat *m, int32_t row0, int32_t n) {
    float *p = m->p + row0 * m->stride;
    return (mat){n, m->width, m->stride, p, p, 0};
}

static bool report(check_ctx *c, bool ok, const char *what, const char *fmt, va_list ap) {
    if (ok) {
        c->n_passed++;
        return true;
    }
    char name[256];
    vsnprintf(name, sizeof name, fmt, ap);
    printf("FAIL %s %s: %s\n", c->isa, name, what);
    c->n_failed++;
    return false;
}

bool check_that(check_ctx *c, bool ok, const char *what, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    report(c, ok, what, fmt, ap);
    va_end(ap);
    return ok;
}

bool check_close(check_ctx *c, const mat *want, const mat *got, double tol, const char *fmt, ...) {
    char what[200] = "";
    double diff = 0, norm = 0;
    for (int32_t r = 0; r < want->rows && !what[0]; r++)
        for (int32_t i = 0; i < want->width && !what[0]; i++) {
            float w = want->p[r * want->stride + i], g = got->p[r * got->stride + i];
            if (isnan(w) != isnan(g) || isinf(w) != isinf(g) || (isinf(w) && w != g))
                snprintf(what, sizeof what, "row %d col %d is %g, expected %g", r, i, g, w);
            if (!isfinite(w)) continue;
            diff += ((double)g - w) * ((double)g - w);
            norm += (double)w * w;
        }
    if (!what[0] && !(sqrt(diff) <= tol * sqrt(norm)))
        snprintf(what, sizeof what, "relative error %.3g, allowed %.3g", sqrt(diff / norm), tol);
    if (!what[0] && !mat_guards_ok(got)) snprintf(what, sizeof what, "wrote outside its rows");
    va_list ap;
    va_start(ap, fmt);
    bool ok = report(c, !what[0], what, fmt, ap);
    va_end(ap);
    return ok;
}

bool check_same(check_ctx *c, const mat *want, int32_t row0, const mat *got, const char *fmt, ...) {
    char what[200] = "";
    for (int32_t r = 0; r < got->rows && !what[0]; r++) {
        const float *w = want->p + (row0 + r) * want->stride, *g = got->p + r * got->stride;
        for (int32_t i = 0; i < got->width && !what[0]; i++)
            if (memcmp(&w[i], &g[i], 4) != 0)
                snprintf(what, sizeof what, "row %d col %d is %.9g, in the larger batch %.9g", r, i,
                         g[i], w[i]);
    }
    va_list ap;
    va_start(ap, fmt);
    bool ok = report(c, !what[0], what, fmt, ap);
    va_end(ap);
    return ok;
}

double check_tol(const char *op, bool narrow) {
#define OP(name, tol32, tol16, what)                                                               \
    if (strcmp(op, #name) == 0) return narrow ? tol16 : tol32;
#include "kernels/ops.def"
#undef OP
    return 0;
}

void check_wait(backend *b) {
    error err;
    if (b->v->sync(b, &err) == OK) return;
    fprintf(stderr, "checkkern: %s\n", err.text);
    exit(1);
}

static backend *open_or_die(const char *isa, int n_threads) {
    cpu_options o = {n_threads, isa};
    backend *b;
    error err;
    if (backend_cpu_open(&o, &b, &err) == OK) return b;
    fprintf(stderr, "checkkern: %s\n", err.text);
    exit(2);
}

/* What --op takes: a group, or one of its ops. */
static const struct {
    const char *name;
    void (*run)(check_ctx *c);
    const char *ops[10];
} groups[] = {
    {"gemm", check_gemm, {"gemm"}},
    {"lora", check_lora, {"lora"}},
    {"quant", check_quant, {"quant"}},
    {"feed", check_feed, {"feed"}},
    {"attention", check_attention, {"attention", "rope_kv"}},
    {"latent", check_latent, {"latent", "latent_kv", "latent_attention"}},
    {"ops",
     check_ops,
     {"embed", "norm", "act", "add", "scale", "limit", "logsumexp", "copy_pages", "chain"}},
    {"experts", check_experts, {"experts", "route"}},
    {"sample", check_sample, {"sample"}},
    {"quantize", check_quantize, {"quantize"}},
};

static bool in_group(const char *op, size_t i, const char **ret_only) {
    *ret_only = NULL;
    if (!op || strcmp(op, groups[i].name) == 0) return true;
    for (size_t j = 0; j < ARRAY_LEN(groups[i].ops) && groups[i].ops[j]; j++)
        if (strcmp(op, groups[i].ops[j]) == 0) {
            *ret_only = groups[i].ops[j];
            return true;
        }
    return false;
}

bool check_wanted(const check_ctx *c, const char *op) {
    return !c->only || strcmp(c->only, op) == 0;
}

static void check_level(check_ctx *c, const char *op) {
    uint64_t start = clock_us();
    int passed = c->n_passed, failed = c->n_failed;
    for (size_t i = 0; i < ARRAY_LEN(groups); i++)
        if (in_group(op, i, &c->only)) groups[i].run(c);
    printf("%-10s %d passed, %d failed, %.1f s\n", c->isa, c->n_passed - passed,
           c->n_failed - failed, (double)(clock_us() - start) * 1e-6);
}

static void check_isa(check_ctx *c, const char *op) {
    c->n_be = 3;
    for (int i = 0; i < 3; i++)
        c->be[i] = open_or_die(c->isa, i == 2 && c->n_threads ? c->n_threads : i + 1);
    check_level(c, op);
    for (int i = 0; i < 3; i++) backend_close(c->be[i]);
}

static void check_device(check_ctx *c, const char *name, const char *op) {
    device_options o = {.device = name};
    backend *b;
    error err;
    if (device_open(&o, &b, &err) != OK) {
        fprintf(stderr, "checkkern: %s\n", err.text);
        exit(2);
    }
    printf("%s: %s\n", name, b->device);
    fences_for(b);
    c->isa = name;
    c->device = true;
    c->n_be = 1;
    for (int i = 0; i < 3; i++) c->be[i] = b;
    check_level(c, op);
    backend_close(b);
}

/* Every level that this CPU has, or the one that is asked for; how many were skipped. */
static int check_levels(check_ctx *c, const char *only_isa, const char *op) {
    int n_skipped = 0;
    for (cpu_isa isa = 0; isa < ISA_COUNT; isa++) {
        c->isa = isa_name(isa);
        if (only_isa && strcmp(only_isa, c->isa) != 0) continue;
        if (isa_usable(isa)) {
            check_isa(c, op);
            continue;
        }
        if (!only_isa && !isa_built(isa)) continue;
        printf("%-10s skipped: this CPU or build does not have it\n", c->isa);
        n_skipped++;
    }
    return n_skipped;
}

typedef struct args {
    const char *isa, *op, *device;
    uint64_t seed;
    int threads, n_draws;
    bool full, small, bench;
} args;

static const char help[] =
    "usage: checkkern [--isa LEVEL | --device NAME] [--op NAME] [--seed N] [--full | --small]\n"
    "       checkkern --bench [--isa LEVEL] [--op TEXT] [--threads N]\n"
    "\n"
    "Compares every row of every usable level, or the ops of a device, with the reference rows, "
    "or\n"
    "times the rows.\n"
    "\n"
    "  --isa LEVEL   only this level: ref, avx2, avxvnni, avx512, avx512vnni, avx512bf16, amx, "
    "neon..;\n"
    "                with --bench one, default the best\n"
    "  --device NAME cuda or cuda:N instead of the CPU\n"
    "  --library PATH the device's plugin, as PAGODA_CUDA_LIBRARY names it; an emulated device\n"
    "                reaches fenced memory with SIMT_HOST_POINTERS=1\n"
    "  --op NAME     only this group: gemm, lora, quant, feed, attention, latent, ops, experts, "
    "sample\n"
    "                or quantize; or this op; with --bench the lines whose name contains the text\n"
    "  --seed N      of the random inputs; default 1\n"
    "  --full        more and larger shapes; takes minutes\n"
    "  --small       fewer and smaller shapes: for an emulated device\n"
    "  --draws N     of each distribution of sample; default 2000, small 400\n"
    "  --bench       time and fraction of the limit, a line per shape\n"
    "  --threads N   of --bench; default one per CPU. Else of the largest of three teams that must "
    "agree,\n"
    "                default 3\n";

static void check_names(const args *a) {
    const char *only;
    bool isa_known = !a->isa, op_known = !a->op || a->bench;
    for (cpu_isa i = 0; i < ISA_COUNT; i++) isa_known |= a->isa && !strcmp(a->isa, isa_name(i));
    for (size_t i = 0; i < ARRAY_LEN(groups); i++) op_known |= a->op && in_group(a->op, i, &only);
    if (isa_known && op_known) return;
    fprintf(stderr, "checkkern: there is no %s %s; --help names them\n",
            isa_known ? "group or op" : "level", isa_known ? a->op : a->isa);
    exit(2);
}

static args parse(int argc, char **argv) {
    args a = {.seed = 1};
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--full") == 0)
            a.full = true;
        else if (strcmp(argv[i], "--bench") == 0)
            a.bench = true;
        else if (strcmp(argv[i], "--isa") == 0 && value)
            a.isa = value, i++;
        else if (strcmp(argv[i], "--small") == 0)
            a.small = true;
        else if (strcmp(argv[i], "--device") == 0 && value)
            a.device = value, i++;
        else if (strcmp(argv[i], "--library") == 0 && value)
            setenv("PAGODA_CUDA_LIBRARY", value, 1), i++;
        else if (strcmp(argv[i], "--op") == 0 && value)
            a.op = value, i++;
        else if (strcmp(argv[i], "--seed") == 0 && value)
            a.seed = strtoull(value, NULL, 10), i++;
        else if (strcmp(argv[i], "--threads") == 0 && value)
            a.threads = atoi(value), i++;
        else if (strcmp(argv[i], "--draws") == 0 && value)
            a.n_draws = atoi(value), i++;
        else if (strcmp(argv[i], "--help") == 0) {
            fputs(help, stdout);
            exit(0);
        } else {
            fprintf(stderr, "checkkern: %s is not an option or lacks its value\n%s", argv[i], help);
            exit(2);
        }
    }
    check_names(&a);
    return a;
}

int main(int argc, char **argv) {
    args a = parse(argc, argv);
    if (a.bench) {
        bench_options o = {.device = a.device, .isa = a.isa, .n_threads = a.threads, .op = a.op};
        error err;
        if (bench_kernels(&o, stdout, &err) == OK) return 0;
        fprintf(stderr, "checkkern: %s\n", err.text);
        return 1;
    }
    check_ctx c = {.seed = a.seed, .full = a.full, .small = a.small, .n_threads = a.threads};
    c.n_draws = a.n_draws > 0 ? a.n_draws : a.small ? 400 : 2000;
    int n_skipped = 0;
    printf("seed %llu\n", (unsigned long long)a.seed);
    c.ref = open_or_die("ref", 1);
    if (a.device)
        check_device(&c, a.device, a.op);
    else
        n_skipped = check_levels(&c, a.isa, a.op);
    backend_close(c.ref);
    printf("%d passed, %d failed, %d skipped\n", c.n_passed, c.n_failed, n_skipped);
    return c.n_failed ? 1 : 0;
}
