/* Small trained models of the shared test data against an f64 forward pass written apart from
 * this engine: first logits, greedy ids wherever the margin allows, prompt logprobs. Skips where
 * the data is not there. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "tests/golden/expect.h"
#include "tests/golden/model_run.h"

#define DATA      "../shared/data/models/"
#define TOLERANCE 1e-4 /* of logits, relative */
#define EXIT_SKIP 77

typedef struct worst {
    double logits, logprobs;
    int n_ids, n_cases;
} worst;

static float absolute_max(const float *x, int32_t n) {
    float m = 0;
    for (int32_t i = 0; i < n; i++) m = fmaxf(m, fabsf(x[i]));
    return m;
}

static void check_first(engine *e, const json_t *c, const int32_t *ids, int32_t n, worst *w) {
    int32_t m;
    error err;
    float *want = read_floats(js_get(c, "first_logits"), &m);
    float *got = mem_alloc((size_t)engine_info(e)->vocab * sizeof *got);
    status st = engine_logits(e, ids, n, false, 0, got, &err);
    EXPECT(st == OK && m == engine_info(e)->vocab, "%s", err.text);
    double r = st == OK ? relative_error(got, want, (size_t)m) : 1;
    EXPECT(r <= TOLERANCE, "first logits: relative error %g", r);
    for (int32_t i = 0; st == OK && i < m; i++)
        EXPECT(fabsf(got[i] - want[i]) <= TOLERANCE * absolute_max(want, m), "logit %d: %g, not %g",
               i, got[i], want[i]);
    w->logits = fmax(w->logits, r);
    mem_free(got);
    mem_free(want);
}

static void check_path(engine *e, const json_t *c, const int32_t *ids, int32_t n, worst *w) {
    static const sample_params p = {.top_p = 1, .typical_p = 1, .repetition_penalty = 1};
    int32_t m, got[256];
    int32_t *want = read_ids(js_get(c, "greedy_ids"), &m);
    const json_t *logprobs = js_get(c, "prompt_logprobs");
    sample_out *out = mem_calloc((size_t)n, sizeof *out);
    error err;
    run_seq q = {.prompt = ids,
                 .n_prompt = n,
                 .n_new = MIN(m, 256),
                 .params = &p,
                 .prompt_out = out,
                 .ret_ids = got};
    status st = run_batch(e, &q, 1, (run_options){.chunk = 4, .page_seed = 9}, &err);
    EXPECT(st == OK, "%s", err.text);
    bool exact = js_get_real(c, "min_margin", 0) > 2 * TOLERANCE * 20;
    for (int32_t i = 0; st == OK && exact && i < q.n_new; i++, w->n_ids++)
        EXPECT(got[i] == want[i], "greedy id %d: %d, not %d", i, got[i], want[i]);
    for (int32_t i = 1; st == OK && logprobs && i < n; i++) {
        double d = fabs(out[i].logprob - json_number_value(json_array_get(logprobs, (size_t)i)));
        EXPECT(d <= 1e-3, "prompt logprob %d is off by %g", i, d);
        w->logprobs = fmax(w->logprobs, d);
    }
    mem_free(out);
    mem_free(want);
}

static void check_model(const char *dir, const char *golden_path) {
    json_t *golden = NULL;
    engine *e = NULL;
    error err;
    worst w = {0};
    status st = js_parse_file(golden_path, (size_t)64 << 20, &golden, &err);
    if (st == OK)
        st = model_open(dir, "auto", strcmp(test_device(), "cpu") == 0 ? "exact" : NULL, &e, &err);
    EXPECT(st == OK, "%s", err.text);
    const json_t *c;
    size_t i;
    json_array_foreach(js_get(golden, "cases"), i, c) {
        int32_t n;
        if (st != OK) break;
        int32_t *ids = read_ids(js_get(c, "prompt_ids"), &n);
        check_first(e, c, ids, n, &w);
        check_path(e, c, ids, n, &w);
        w.n_cases++;
        mem_free(ids);
    }
    EXPECT(w.n_cases > 0 && w.n_ids > 0, "%s: nothing was compared", golden_path);
    printf("%s: %d cases, logits %.1e, prompt logprobs %.1e, %d greedy ids\n", dir, w.n_cases,
           w.logits, w.logprobs, w.n_ids);
    engine_free(e);
    json_decref(golden);
}

int main(void) {
    if (!dir_exists(DATA "goldens")) {
        printf("SKIP: no " DATA "goldens\n");
        return EXIT_SKIP;
    }
    check_model(DATA "tinystories-656k-hf", DATA "goldens/tinystories-656k-hf.dev.json");
    check_model(DATA "derived/stories260K-hf-f32", DATA "goldens/stories260K-hf-f32.dev.json");
    check_model(DATA "derived/gguf/stories260K-f32.gguf",
                DATA "goldens/stories260K-hf-f32.dev.json");
    for (int bits = 4; bits <= 8; bits += 4) {
        char dir[160], golden[160];
        const char *name = bits == 4 ? "b4-g32" : "b8-g128";
        snprintf(dir, sizeof dir, DATA "derived/tinystories-656k-gptq-%s-sym", name);
        snprintf(golden, sizeof golden, DATA "goldens/tinystories-656k-gptq-%s-sym.dev.json", name);
        check_model(dir, golden);
    }
    return n_failed ? 1 : 0;
}
