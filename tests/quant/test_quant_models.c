/* Every quantised checkpoint of this folder against transformers on its dequantised weights: logits
 * on the best level and the reference, the same bits for chunks; and that the weights are still
 * quantised in memory. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "tests/golden/expect.h"
#include "tests/golden/model_run.h"

#define ROOT  "tests/quant"
#define LIMIT 2e-5 /* relative, of a position's logits */

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

static status open_model(const char *dir, const char *isa, engine **ret, error *err) {
    engine_options o = {.model_dir = dir,
                        .dtype = "auto",
                        .kv_dtype = "f32",
                        .quant_math = "exact",
                        .device = test_device(),
                        .isa = isa,
                        .n_threads = 2,
                        .max_seqs = 4,
                        .max_batched_tokens = 64,
                        .kv_bytes = (size_t)4 << 20};
    return engine_open(&o, ret, err);
}

static void check_model(const char *name, const char *isa) {
    char *dir = path_join(ROOT, name), *path = path_join(dir, "golden.json");
    json_t *golden = NULL;
    engine *e = NULL;
    error err;
    status st = js_parse_file(path, (size_t)4 << 20, &golden, &err);
    if (st == OK) st = open_model(dir, isa, &e, &err);
    EXPECT(st == OK, "%s: %s", name, err.text);
    if (st == OK) {
        const model_info *m = engine_info(e);
        EXPECT((double)m->weight_bytes < 1.6 * (double)m->n_params,
               "%s: %zu bytes for %lld weights", name, m->weight_bytes, (long long)m->n_params);
        check_case(e, name, isa, json_array_get(js_get(golden, "cases"), 0));
    }
    engine_free(e);
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
            check_model(list[i]->d_name, NULL);
            check_model(list[i]->d_name, "ref");
            n_run++;
        }
        free(list[i]);
    }
    free(list);
    EXPECT(n_run > 0, "no checkpoints under " ROOT " (run from the project's root)");
    return n_failed ? 1 : 0;
}
