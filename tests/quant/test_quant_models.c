/* Every quantised checkpoint of this folder against transformers on its dequantised weights: logits
 * on the best level and the reference, the same bits for chunks; and that the weights are still
 * quantised in memory. Then in the checkpoint's own arithmetic, on a device against the CPU, which
 * rounds activations alike and computes in f32. On a device exact logits need plain weights in f32
 * too. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "tests/golden/expect.h"
#include "tests/golden/model_run.h"

#define ROOT  "tests/quant"
#define LIMIT 2e-5 /* relative, of a position's logits */
/* In the checkpoint's arithmetic: of 16 bits against f32; of activations rounded to E4M3 against
 * the unrounded goldens. Where those are rounded, most positions are within the first limit; an
 * activation that comes out as the neighbouring code, an eighth off, moves a position by less than
 * the second. */
#define LIMIT_HALF 5e-3
#define LIMIT_FP8  0.15
/* By products of codes on the CPU, whose activations are rounded to int8 in groups. */
#define LIMIT_CODES 3e-2
#define GAP         0.05 /* of the two best logits from which on the best must be the same */

static double row_error(const json_t *want, const float *got, size_t v) {
    int32_t m;
    float *w = read_floats(want, &m);
    double r = (size_t)m == v ? relative_error(got, w, v) : 1;
    mem_free(w);
    return r;
}

static void check_case(engine *e, const char *name, const char *isa, const json_t *c) {
    int32_t n;
    int32_t *ids = read_ids(js_get(c, "prompt"), &n);
    size_t v = (size_t)engine_info(e)->vocab, bytes = (size_t)n * v * sizeof(float);
    float *got = mem_calloc(1, bytes), *again = mem_calloc(1, bytes);
    const json_t *at = js_get(c, "logits_at"), *rows = js_get(c, "logits");
    error err;
    double worst = 0;
    EXPECT(engine_logits(e, ids, n, true, 0, got, &err) == OK, "%s: %s", name, err.text);
    for (size_t i = 0; i <= json_array_size(at); i++) {
        bool last = i == json_array_size(at);
        int64_t pos = last ? n - 1 : json_integer_value(json_array_get(at, i));
        const json_t *want = last ? js_get(c, "logits_last") : json_array_get(rows, i);
        double r = row_error(want, got + (size_t)pos * v, v);
        EXPECT(r <= LIMIT, "%s: position %lld: relative error %g", name, (long long)pos, r);
        worst = MAX(worst, r);
    }
    EXPECT(engine_logits(e, ids, n, true, 3, again, &err) == OK, "%s: %s", name, err.text);
    EXPECT(memcmp(got, again, bytes) == 0, "%s: chunks give other bits", name);
    printf("%-20s %-5s logits %.1e (%s)\n", name, isa ? isa : "best", worst,
           dtype_name(engine_info(e)->weight_dt));
    mem_free(ids), mem_free(got), mem_free(again);
}

static bool on_device(void) {
    return strcmp(test_device(), "cpu") != 0;
}

static status open_model(const char *dir, const char *device, const char *isa, const char *math,
                         engine **ret, error *err) {
    bool widen = on_device() && strcmp(math, "exact") == 0;
    engine_options o = {.model_dir = dir,
                        .dtype = widen ? "f32" : "auto",
                        .kv_dtype = "f32",
                        .quant_math = math,
                        .device = device,
                        .isa = isa,
                        .n_threads = 2,
                        .max_seqs = 4,
                        .max_batched_tokens = 64,
                        .kv_bytes = (size_t)4 << 20};
    return engine_open(&o, ret, err);
}

static void check_exact(const char *dir, const char *name, const char *isa, const json_t *c) {
    engine *e = NULL;
    error err;
    status st = open_model(dir, test_device(), isa, "exact", &e, &err);
    EXPECT(st == OK, "%s: %s", name, err.text);
    if (st == OK) {
        const model_info *m = engine_info(e);
        EXPECT(on_device() || (double)m->weight_bytes < 1.6 * (double)m->n_params,
               "%s: %zu bytes for %lld weights", name, m->weight_bytes, (long long)m->n_params);
        check_case(e, name, isa, c);
    }
    engine_free(e);
}

/* Logits of all positions in the checkpoint's arithmetic; NULL after a failure. */
static float *native_logits(const char *dir, const char *device, const char *isa,
                            const int32_t *ids, int32_t n, size_t *ret_vocab, bool *ret_codes) {
    engine *e = NULL;
    error err;
    float *got = NULL;
    status st = open_model(dir, device, isa, "native", &e, &err);
    if (st == OK) {
        *ret_vocab = (size_t)engine_info(e)->vocab;
        *ret_codes = engine_info(e)->quant_codes;
        got = mem_calloc((size_t)n * *ret_vocab, sizeof *got);
        st = engine_logits(e, ids, n, true, 0, got, &err);
    }
    EXPECT(st == OK, "%s on %s: %s", dir, device, err.text);
    engine_free(e);
    return got;
}

static size_t best_of(const float *x, size_t n, float *ret_gap) {
    size_t best = x[1] > x[0], second = !best;
    for (size_t i = 2; i < n; i++)
        if (x[i] > x[best])
            second = best, best = i;
        else if (x[i] > x[second])
            second = i;
    *ret_gap = x[best] - x[second];
    return best;
}

/* The CPU's best level, which may multiply codes. */
static void check_codes(const char *dir, const char *name, const json_t *c, const int32_t *ids,
                        int32_t n, double limit) {
    size_t v = 0;
    bool codes = false;
    float *got = native_logits(dir, "cpu", NULL, ids, n, &v, &codes);
    if (!got) return;
    double r = row_error(js_get(c, "logits_last"), got + (size_t)(n - 1) * v, v);
    limit = codes ? LIMIT_CODES : MAX(limit, LIMIT_HALF); /* 16-bit weights may be rounded */
    EXPECT(r <= limit, "%s: native on the CPU: %g", name, r);
    printf("%-20s best  native %.1e%s\n", name, r, codes ? " (int8 codes)" : "");
    mem_free(got);
}

static void check_native(const char *dir, const char *name, const json_t *c) {
    int32_t n;
    int32_t *ids = read_ids(js_get(c, "prompt"), &n);
    size_t v = 0;
    bool fp8 = strstr(name, "fp8") != NULL, codes;
    /* The reference has no products of codes: it rounds what the checkpoint asks for. */
    float *host = native_logits(dir, "cpu", "ref", ids, n, &v, &codes), *got = NULL;
    if (host && on_device()) got = native_logits(dir, test_device(), NULL, ids, n, &v, &codes);
    check_codes(dir, name, c, ids, n, fp8 ? LIMIT_FP8 : LIMIT);
    if (host) {
        double r = row_error(js_get(c, "logits_last"), host + (size_t)(n - 1) * v, v);
        EXPECT(r <= (fp8 ? LIMIT_FP8 : LIMIT), "%s: native on the CPU: %g", name, r);
        printf("%-20s ref   native %.1e\n", name, r);
    }
    double worst = 0;
    int32_t n_close = 0;
    for (int32_t i = 0; i < n && got; i++) {
        float gap, other;
        const float *want = host + (size_t)i * v, *row = got + (size_t)i * v;
        double r = relative_error(row, want, v);
        worst = MAX(worst, r);
        n_close += r <= LIMIT_HALF;
        size_t id = best_of(want, v, &gap), id2 = best_of(row, v, &other);
        EXPECT(gap <= GAP || id == id2, "%s: position %d: token %zu, not %zu", name, i, id2, id);
    }
    if (got) printf("%-20s %-5s native %.1e\n", name, test_device(), worst);
    EXPECT(worst <= (fp8 ? LIMIT_FP8 : LIMIT_HALF), "%s: native: relative error %g", name, worst);
    EXPECT(!got || 2 * n_close > n, "%s: native: %d of %d positions are close", name, n_close, n);
    mem_free(ids), mem_free(host), mem_free(got);
}

static void check_model(const char *name) {
    char *dir = path_join(ROOT, name), *path = path_join(dir, "golden.json");
    json_t *golden = NULL;
    error err;
    status st = js_parse_file(path, (size_t)4 << 20, &golden, &err);
    EXPECT(st == OK, "%s: %s", name, err.text);
    if (st == OK) {
        const json_t *c = json_array_get(js_get(golden, "cases"), 0);
        check_exact(dir, name, "exact", c);
        if (!on_device()) check_exact(dir, name, "ref", c);
        check_native(dir, name, c);
    }
    json_decref(golden);
    mem_free(path);
    mem_free(dir);
}

static int is_model(const struct dirent *d) {
    char *dir = path_join(ROOT, d->d_name), *path = path_join(dir, "golden.json");
    bool yes = file_exists(path);
    mem_free(path);
    mem_free(dir);
    return yes;
}

int main(int argc, char **argv) {
    struct dirent **list = NULL;
    int n = scandir(ROOT, &list, is_model, alphasort), n_run = 0;
    for (int i = 0; i < n; i++) {
        if (argc < 2 || strstr(list[i]->d_name, argv[1])) {
            check_model(list[i]->d_name);
            n_run++;
        }
        free(list[i]);
    }
    free(list);
    EXPECT(n_run > 0, "no checkpoints under " ROOT " (run from the project's root)");
    return n_failed ? 1 : 0;
}
