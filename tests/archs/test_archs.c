/* Every tiny checkpoint of this folder against what transformers computed (golden.json): logits,
 * prompt logprobs, greedy ids; and bit equality of every way to cut the same work: chunks, batches,
 * permuted pages. With --table prints the Markdown table of engine/README.md. */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/engine_internal.h"
#include "kernels/select.h"
#include "tests/golden/expect.h"
#include "tests/golden/model_run.h"

#define ROOT         "tests/archs"
#define LOGITS_LIMIT 2e-5 /* relative, f32 */
#define AUTO_LIMIT   2e-2 /* the checkpoint's own types, bf16 pages */
#define ROUNDS_LIMIT 3e-2 /* the same where all products round activations to bf16 or f16 */
/* And where products of quantised weights round them to int8 codes: 3.8e-2 of the one such
 * checkpoint here, which mixes all the types of 32 to a block. What it costs a trained model is in
 * engine/README.md. */
#define CODES_LIMIT 5e-2
/* Pages of eight bits. These models are tiny and random, and feel every rounding: of 142 the median
 * is 1e-2 with int8 and 5e-2 with fp8, and the worst 0.05 and 0.35, where a
 * router near a tie chooses another expert. What the rounding costs a trained model is in
 * engine/README.md; that the kernels compute what is defined shows against the reference rows. */
#define INT8_LIMIT   6e-2
#define FP8_LIMIT    4e-1
#define LEVELS_LIMIT 5e-3 /* between rows of two levels: a few codes at ties differ */
#define N_GREEDY     32

static bool table, brief;

/* On slow devices pages of eight bits are checked with these: windows, slopes, latent rows, sinks,
 * a soft cap, norms of queries and keys. */
static char *const eight_bit_brief[] = {"mistral-window", "bloom",  "deepseek-v2",
                                        "gpt-oss",        "gemma2", "qwen3-tied"};

typedef struct result {
    double logits, logprobs; /* worst relative, worst absolute error */
} result;

static const sample_params greedy = {
    .top_p = 1, .typical_p = 1, .repetition_penalty = 1, .n_logprobs = 0};

/* The golden logits after position i, NULL when they are not stored: "logits" has a row for each
 * position, or for those that "logits_at" lists. */
static const json_t *wanted_row(const json_t *c, int32_t i, int32_t n) {
    const json_t *rows = js_get(c, "logits"), *at = js_get(c, "logits_at");
    if (i == n - 1) return js_get(c, "logits_last");
    for (size_t k = 0; k < json_array_size(at); k++)
        if (json_integer_value(json_array_get(at, k)) == i) return json_array_get(rows, k);
    return at ? NULL : json_array_get(rows, (size_t)i);
}

static void check_logits(engine *e, const char *name, const json_t *c, const int32_t *ids,
                         int32_t n, result *worst) {
    size_t v = (size_t)engine_info(e)->vocab;
    float *got = mem_alloc((size_t)n * v * sizeof *got);
    float *again = mem_alloc((size_t)n * v * sizeof *again);
    error err;
    int32_t m;
    status st = engine_logits(e, ids, n, true, 0, got, &err);
    EXPECT(st == OK, "%s: %s", name, err.text);
    for (int32_t i = 0; st == OK && i < n; i++) {
        const json_t *want = wanted_row(c, i, n);
        if (!want) continue;
        float *w = read_floats(want, &m);
        double r = relative_error(got + (size_t)i * v, w, v);
        EXPECT((size_t)m == v && r <= LOGITS_LIMIT, "%s: position %d: relative error %g", name, i,
               r);
        worst->logits = fmax(worst->logits, r);
        mem_free(w);
    }
    static const int32_t chunks[] = {7, 1, 3, 16};
    for (size_t k = 0; k < (brief ? 1 : ARRAY_LEN(chunks)); k++) {
        st = engine_logits(e, ids, n, true, chunks[k], again, &err);
        EXPECT(st == OK && memcmp(got, again, (size_t)n * v * sizeof *got) == 0,
               "%s: prefill in chunks of %d gives other bits", name, chunks[k]);
    }
    mem_free(got);
    mem_free(again);
}

static void check_logprobs(engine *e, const char *name, const json_t *c, const int32_t *ids,
                           int32_t n, int32_t n_new, result *worst) {
    int32_t m, made[N_GREEDY];
    float *want = read_floats(js_get(c, "prompt_logprobs"), &m);
    sample_out *out = mem_calloc((size_t)n, sizeof *out);
    error err;
    run_seq q = {.prompt = ids,
                 .n_prompt = n,
                 .n_new = n_new,
                 .params = &greedy,
                 .prompt_out = out,
                 .ret_ids = made};
    status st = run_batch(e, &q, 1, (run_options){.chunk = 5}, &err);
    EXPECT(st == OK, "%s: %s", name, err.text);
    for (int32_t i = 0; st == OK && i < m; i++) {
        double d = fabs((double)out[i + 1].logprob - want[i]);
        EXPECT(d < 1e-4, "%s: logprob of prompt token %d: %g, expected %g", name, i + 1,
               out[i + 1].logprob, want[i]);
        worst->logprobs = fmax(worst->logprobs, d);
    }
    mem_free(out);
    mem_free(want);
}

static void check_greedy(engine *e, const char *name, const json_t *c, const int32_t *ids,
                         int32_t n) {
    int32_t m, got[N_GREEDY];
    int32_t *want = read_ids(js_get(c, "greedy"), &m);
    error err;
    static const run_options ways[] = {{16, 5}, {0, 0}, {3, 0}, {0, 77}};
    for (size_t k = 0; k < (brief ? 1 : ARRAY_LEN(ways)); k++) {
        run_seq q = {.prompt = ids, .n_prompt = n, .n_new = m, .params = &greedy, .ret_ids = got};
        status st = run_batch(e, &q, 1, ways[k], &err);
        EXPECT(st == OK && m == N_GREEDY, "%s: %s", name, err.text);
        for (int32_t i = 0; st == OK && i < m; i++)
            EXPECT(got[i] == want[i], "%s: greedy token %d is %d, expected %d", name, i, got[i],
                   want[i]);
    }
    mem_free(want);
}

static void check_case(engine *e, const char *name, const json_t *c, result *worst) {
    int32_t n, total = (int32_t)js_get_int(c, "rope_total_len", 0);
    int32_t *ids = read_ids(js_get(c, "prompt"), &n);
    if (js_get(c, "logits_last") && (total == 0 || total == n))
        check_logits(e, name, c, ids, n, worst);
    if (js_get(c, "prompt_logprobs"))
        check_logprobs(e, name, c, ids, n, total ? total - n : 0, worst);
    if (js_get(c, "greedy")) check_greedy(e, name, c, ids, n);
    mem_free(ids);
}

static const char *reference_of(const json_t *golden) {
    str r = js_get_str(golden, "reference");
    return r.n ? r.p : "transformers";
}

/* golden.json or hidden.json of a folder, or of the one that it names: the same weights in another
 * container. */
static status read_golden(const char *dir, const char *file, json_t **ret, error *err) {
    char *path = path_join(dir, file), other[256];
    status st = js_parse_file(path, (size_t)64 << 20, ret, err);
    mem_free(path);
    str same = st == OK ? js_get_str(*ret, "golden") : (str){0};
    if (!same.n) return st;
    snprintf(other, sizeof other, ROOT "/" STR_FMT "/%s", STR_ARG(same), file);
    json_decref(*ret);
    *ret = NULL;
    return js_parse_file(other, (size_t)64 << 20, ret, err);
}

static void check_model(const char *name, const char *isa) {
    char *dir = path_join(ROOT, name);
    json_t *golden = NULL;
    engine *e = NULL;
    error err;
    result worst = {0};
    status st = read_golden(dir, "golden.json", &golden, &err);
    if (st == OK) st = model_open(dir, "f32", isa, &e, &err);
    EXPECT(st == OK, "%s: %s", name, err.text);
    const json_t *cases = js_get(golden, "cases");
    for (size_t i = 0; st == OK && i < (brief ? 1 : json_array_size(cases)); i++)
        check_case(e, name, json_array_get(cases, i), &worst);
    if (table)
        printf("| %s | %s | %s | %s | %.1e | %.1e |\n", js_get_str(golden, "family").p, name,
               reference_of(golden), js_get_str(golden, "dtype").p, worst.logits, worst.logprobs);
    else
        printf("%-24s %-5s logits %.1e, logprobs %.1e\n", name, isa ? isa : "best", worst.logits,
               worst.logprobs);
    engine_free(e);
    json_decref(golden);
    mem_free(dir);
}

static bool rounds_activations(void) {
    cpu_isa isa = isa_best();
    return strcmp(test_device(), "cpu") != 0 || isa == ISA_AVX512BF16 || isa == ISA_NEONBF16;
}

/* As served: weights in the checkpoint's type, its KV type, the best kernels. */
static void check_as_served(const char *name) {
    char *dir = path_join(ROOT, name);
    json_t *golden = NULL;
    engine *e = NULL;
    error err;
    int32_t n, m;
    status st = read_golden(dir, "golden.json", &golden, &err);
    if (st == OK) st = model_open(dir, "auto", NULL, &e, &err);
    EXPECT(st == OK, "%s: %s", name, err.text);
    const json_t *c = json_array_get(js_get(golden, "cases"), 0);
    int32_t *ids = read_ids(js_get(c, "prompt"), &n);
    float *want = read_floats(js_get(c, "logits_last"), &m);
    float *got = mem_calloc((size_t)m + 1, sizeof *got);
    if (st == OK) st = engine_logits(e, ids, n, false, 0, got, &err);
    double r = st == OK ? relative_error(got, want, (size_t)m) : 1;
    bool by_codes = e && engine_info(e)->is_quant && strcmp(test_device(), "cpu") == 0;
    double limit = by_codes ? CODES_LIMIT : rounds_activations() ? ROUNDS_LIMIT : AUTO_LIMIT;
    EXPECT(r <= limit, "%s as served: relative error %g", name, r);
    if (!table)
        printf("%-24s %-5s logits %.1e (%s weights, %s pages)\n", name, "auto", r,
               dtype_name(engine_info(e)->weight_dt), dtype_name(engine_info(e)->kv_dt));
    engine_free(e);
    json_decref(golden);
    mem_free(ids);
    mem_free(want);
    mem_free(got);
    mem_free(dir);
}

/* Pages in eight bits under weights of f32, so that what they cost is all that differs: the last
 * logits of the first case, and the same bits in chunks. */
static void last_logits(const char *name, const char *kv, const char *isa, const int32_t *ids,
                        int32_t n, int32_t chunk, float *ret) {
    char *dir = path_join(ROOT, name);
    engine *e = NULL;
    error err;
    status st = model_open_kv(dir, "f32", kv, isa, &e, &err);
    if (st == OK) st = engine_logits(e, ids, n, false, chunk, ret, &err);
    EXPECT(st == OK, "%s: %s", name, err.text);
    engine_free(e);
    mem_free(dir);
}

static void check_eight_bits(const char *name, const char *kv, double limit) {
    char *dir = path_join(ROOT, name);
    json_t *golden = NULL;
    error err;
    int32_t n, m;
    status st = read_golden(dir, "golden.json", &golden, &err);
    EXPECT(st == OK, "%s: %s", name, err.text);
    const json_t *c = json_array_get(js_get(golden, "cases"), 0);
    int32_t *ids = read_ids(js_get(c, "prompt"), &n);
    float *want = read_floats(js_get(c, "logits_last"), &m);
    size_t bytes = ((size_t)m + 1) * sizeof(float);
    float *got = mem_calloc(1, bytes), *other = mem_calloc(1, bytes);
    last_logits(name, kv, NULL, ids, n, 0, got);
    double r = relative_error(got, want, (size_t)m), levels = 0;
    EXPECT(r <= limit, "%s with pages of %s: relative error %g", name, kv, r);
    if (!brief) {
        last_logits(name, kv, NULL, ids, n, 5, other);
        EXPECT(memcmp(got, other, bytes) == 0, "%s with pages of %s: other bits in chunks", name,
               kv);
        last_logits(name, kv, "ref", ids, n, 0, other);
        levels = relative_error(got, other, (size_t)m);
        EXPECT(levels <= LEVELS_LIMIT, "%s with pages of %s: %g from the reference rows", name, kv,
               levels);
    }
    printf("%-24s %-5s logits %.1e", name, kv, r);
    printf(brief ? "\n" : ", between levels %.1e\n", levels);
    json_decref(golden);
    mem_free(ids), mem_free(want), mem_free(got), mem_free(other);
    mem_free(dir);
}

/* Rows of the hidden states after the last norm, all of the prompt in one step. */
static void check_hidden_case(engine *e, const char *name, const json_t *c) {
    int32_t n, m, width = e->a->hidden;
    int32_t *ids = read_ids(js_get(c, "prompt"), &n);
    int32_t *rows = read_ids(js_get(c, "hidden_at"), &m);
    int32_t pages[16];
    for (int32_t i = 0; i < (int32_t)ARRAY_LEN(pages); i++) pages[i] = i;
    batch_seq s = {
        .ids = ids, .n_known = n, .n_prompt = n, .n_tokens = n, .pages = pages, .max_len = n};
    batch_plan plan = {.n_seqs = 1, .n_tokens = n, .seqs = &s};
    forward_run(&e->f, &plan);
    forward_final(&e->f, rows, m);
    forward_fetch_rows(&e->f, m);
    for (int32_t i = 0; i < m; i++) {
        int32_t got_n;
        float *want = read_floats(json_array_get(js_get(c, "hidden"), (size_t)i), &got_n);
        double r = relative_error(e->f.got.rows + (size_t)i * (size_t)width, want, (size_t)width);
        EXPECT(got_n == width && r <= LOGITS_LIMIT, "%s: hidden row %d: relative error %g", name,
               rows[i], r);
        mem_free(want);
    }
    mem_free(rows);
    mem_free(ids);
}

static void check_hidden(const char *name) {
    char *dir = path_join(ROOT, name);
    json_t *golden = NULL;
    engine *e = NULL;
    error err;
    status st = read_golden(dir, "hidden.json", &golden, &err);
    if (st == OK) st = model_open(dir, "f32", NULL, &e, &err);
    EXPECT(st == OK, "%s: %s", name, err.text);
    const json_t *cases = js_get(golden, "cases");
    for (size_t i = 0; st == OK && i < json_array_size(cases); i++)
        check_hidden_case(e, name, json_array_get(cases, i));
    engine_free(e);
    json_decref(golden);
    mem_free(dir);
}

static bool has_file(const char *name, const char *file) {
    char *dir = path_join(ROOT, name), *path = path_join(dir, file);
    bool yes = file_exists(path);
    mem_free(path);
    mem_free(dir);
    return yes;
}

static int is_model(const struct dirent *d) {
    return has_file(d->d_name, "golden.json") || has_file(d->d_name, "hidden.json");
}

static bool chosen(const char *name, char *const *exact, int n_exact, const char *part) {
    if (part) return strstr(name, part) != NULL;
    for (int i = 0; i < n_exact; i++)
        if (strcmp(name, exact[i]) == 0) return true;
    return n_exact == 0;
}

static void check_all(const char *name) {
    if (has_file(name, "hidden.json") && !table) check_hidden(name);
    if (!has_file(name, "golden.json")) return;
    check_model(name, NULL);
    if (!table && !brief) check_model(name, "ref");
    check_as_served(name);
    if (table || (brief && !chosen(name, eight_bit_brief, ARRAY_LEN(eight_bit_brief), NULL)))
        return;
    check_eight_bits(name, "int8", INT8_LIMIT);
    check_eight_bits(name, "fp8", FP8_LIMIT);
}

/* test_archs [TEXT]: all checkpoints, or those whose name contains the text. --table. --brief
 * [NAME...]: these checkpoints, with one way to cut the work: for slow devices. */
int main(int argc, char **argv) {
    struct dirent **list = NULL;
    table = argc > 1 && strcmp(argv[1], "--table") == 0;
    brief = argc > 1 && strcmp(argv[1], "--brief") == 0;
    const char *part = argc > 1 && !table && !brief ? argv[1] : NULL;
    int n = scandir(ROOT, &list, is_model, alphasort), n_run = 0, n_exact = brief ? argc - 2 : 0;
    if (table)
        printf("| family | checkpoint | reference | stored | logits, worst relative error | "
               "logprobs, worst difference |\n|---|---|---|---|---|---|\n");
    for (int i = 0; i < n; i++) {
        if (chosen(list[i]->d_name, argv + 2, n_exact, part)) {
            check_all(list[i]->d_name);
            n_run++;
        }
        free(list[i]);
    }
    free(list);
    EXPECT(n_run > 0 && (!n_exact || n_run == n_exact),
           "%d checkpoints of %d under " ROOT " (run from the project's root)", n_run, n_exact);
    if (n_failed) fprintf(stderr, "%d checks failed\n", n_failed);
    return n_failed ? 1 : 0;
}
