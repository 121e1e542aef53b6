/* Every adapter of this folder, beside its base and merged into it, against what the peft library
 * computed (golden.json); a batch in which all adapters of a base are mixed against each alone, bit
 * for bit, and one of those that only add low-rank parts, also in 16 bits; and loading and
 * unloading. With --table prints the Markdown table of README.md; --brief leaves out what is slow
 * on an emulated device. */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/engine_internal.h"
#include "tests/golden/expect.h"
#include "tests/golden/model_run.h"

#define ROOT         "tests/adapters"
#define LIMIT        2e-5 /* of logits, relative, f32 */
#define LIMIT_MERGED 1e-3
#define LIMIT_NARROW 6e-2 /* base and adapters in bf16: tiny random models, whose errors grow */
#define NEW          16
#define MAX_ADAPTERS 32

static bool table, brief;

static const sample_params greedy = {
    .top_p = 1, .typical_p = 1, .repetition_penalty = 1, .n_logprobs = 3};

typedef struct trial {
    char name[300]; /* "tests/adapters/llama/dora" */
    json_t *golden;
    adapter_info info;
    int32_t *prompt, n_prompt; /* virtual tokens first */
    int32_t *want;             /* [NEW] */
    int32_t ids[NEW];
    sample_out out[NEW];
    double worst, worst_merged; /* worst_merged < 0: cannot be merged */
} trial;

static status open_base(const char *dir, const char *type, const char *isa, const char *merge,
                        engine **ret, error *err) {
    engine_options o = {.model_dir = dir,
                        .dtype = type,
                        .device = test_device(),
                        .isa = isa,
                        .n_threads = 2,
                        .max_seqs = 80,
                        .max_batched_tokens = 256,
                        .kv_bytes = (size_t)8 << 20,
                        .adapters_max = merge ? 0 : MAX_ADAPTERS,
                        .lora_rank_max = 8,
                        .merge_lora = merge};
    return engine_open(&o, ret, err);
}

/* Worst relative error of the golden's rows; ids are those behind the virtual tokens. */
static double compare_rows(engine *e, const trial *t) {
    size_t v = (size_t)engine_info(e)->vocab;
    int32_t n = t->n_prompt - t->info.n_virtual, n_rows;
    int32_t *rows = read_ids(js_get(t->golden, "rows"), &n_rows);
    float *all = mem_alloc((size_t)n * v * sizeof *all);
    error err;
    double worst = 0;
    status st = engine_logits(e, t->prompt + t->info.n_virtual, n, true, 0, all, &err);
    EXPECT(st == OK && n_rows > 0, "%s: %s", t->name, err.text);
    for (int32_t i = 0; st == OK && i < n_rows; i++) {
        int32_t m;
        float *want = read_floats(json_array_get(js_get(t->golden, "logits"), (size_t)i), &m);
        worst = fmax(worst, relative_error(all + (size_t)rows[i] * v, want, v));
        mem_free(want);
    }
    mem_free(all);
    mem_free(rows);
    return worst;
}

static void check_chunks(engine *e, const trial *t) {
    static const int32_t chunks[] = {0, 1, 3, 7};
    size_t n = (size_t)(t->n_prompt - t->info.n_virtual) * (size_t)engine_info(e)->vocab;
    float *x[2] = {mem_alloc(n * sizeof **x), mem_alloc(n * sizeof **x)};
    error err;
    for (size_t k = 0; k < (brief ? 2 : ARRAY_LEN(chunks)); k++) {
        status st = engine_logits(e, t->prompt + t->info.n_virtual, t->n_prompt - t->info.n_virtual,
                                  true, chunks[k], x[k > 0], &err);
        EXPECT(st == OK, "%s: %s", t->name, err.text);
        EXPECT(k == 0 || memcmp(x[0], x[1], n * sizeof **x) == 0,
               "%s: prefill in chunks of %d gives other bits", t->name, chunks[k]);
    }
    mem_free(x[0]);
    mem_free(x[1]);
}

static run_seq seq_of(trial *t) {
    return (run_seq){.prompt = t->prompt,
                     .n_prompt = t->n_prompt,
                     .n_new = NEW,
                     .params = &greedy,
                     .adapter = t->info.id,
                     .ret_ids = t->ids,
                     .ret_out = t->out};
}

static void check_alone(engine *e, trial *t) {
    error err;
    engine_use_adapter(e, &t->info);
    t->worst = compare_rows(e, t);
    EXPECT(t->worst <= LIMIT, "%s: relative error %g", t->name, t->worst);
    check_chunks(e, t);
    engine_use_adapter(e, NULL);
    run_seq q = seq_of(t);
    status st = run_batch(e, &q, 1, (run_options){.chunk = 5, .page_seed = 3}, &err);
    EXPECT(st == OK, "%s: %s", t->name, err.text);
    for (int32_t i = 0; st == OK && i < NEW; i++)
        EXPECT(t->ids[i] == t->want[i], "%s: greedy token %d is %d, not %d", t->name, i, t->ids[i],
               t->want[i]);
}

/* All of them at once, joining one after another, twice each, with the base in between. */
static void check_mixed(engine *e, trial *t, int32_t n) {
    run_seq q[2 * MAX_ADAPTERS + 2];
    int32_t ids[2 * MAX_ADAPTERS + 2][NEW], m = 0;
    sample_out out[2 * MAX_ADAPTERS + 2][NEW], base[NEW];
    error err;
    for (int32_t i = 0; i < 2 * n + 2; i++, m++) {
        q[m] = seq_of(&t[i % n]);
        if (i >= 2 * n) { /* the base, on the tokens of the first prompt */
            q[m].prompt += t[i % n].info.n_virtual;
            q[m].n_prompt -= t[i % n].info.n_virtual;
            q[m].adapter = 0;
        }
        q[m].start_step = i * 5 % 7;
        q[m].ret_ids = ids[m];
        q[m].ret_out = out[m];
    }
    run_seq alone = q[2 * n];
    alone.start_step = 0;
    alone.ret_out = base;
    EXPECT(run_batch(e, &alone, 1, (run_options){0}, &err) == OK, "%s", err.text);
    static const run_options ways[] = {{0, 0}, {4, 9}};
    for (size_t k = 0; k < (brief ? 1 : ARRAY_LEN(ways)); k++) {
        status st = run_batch(e, q, m, ways[k], &err);
        EXPECT(st == OK, "mixed: %s", err.text);
        for (int32_t i = 0; st == OK && i < 2 * n; i++)
            EXPECT(memcmp(out[i], t[i % n].out, sizeof t->out) == 0,
                   "%s: other bits in a batch with other adapters", t[i % n].name);
        EXPECT(memcmp(out[2 * n], base, sizeof base) == 0,
               "%s: the base gives other bits beside "
               "adapters",
               t->name);
    }
}

static void check_merged(const char *dir, trial *t) {
    engine *e = NULL;
    error err;
    status st = open_base(dir, "f32", NULL, t->name, &e, &err);
    bool soft = t->info.n_virtual > 0, bias = strstr(t->name, "/lora-bias") != NULL;
    t->worst_merged = -1;
    if (soft || bias) {
        EXPECT(st == ERR_UNSUPPORTED, "%s: merged?", t->name);
        EXPECT(strstr(err.text, "merged"), "%s", err.text);
    } else {
        EXPECT(st == OK, "%s: %s", t->name, err.text);
    }
    if (st != OK) return;
    t->worst_merged = compare_rows(e, t);
    EXPECT(t->worst_merged <= LIMIT_MERGED, "%s merged: relative error %g", t->name,
           t->worst_merged);
    engine_free(e);
}

static bool load_trial(engine *e, const char *dir, const char *name, trial *t) {
    error err;
    snprintf(t->name, sizeof t->name, "%s/%s", dir, name);
    char *golden = path_join(t->name, "golden.json");
    adapter_host host = engine_adapters(e);
    status st = js_parse_file(golden, (size_t)1 << 20, &t->golden, &err);
    if (st == OK) st = host.load(host.self, t->name, &t->info, &err);
    mem_free(golden);
    EXPECT(st == OK, "%s: %s", t->name, err.text);
    if (st != OK) {
        json_decref(t->golden);
        return false;
    }
    int32_t n, m, vocab = engine_info(e)->vocab, v = t->info.n_virtual;
    int32_t *ids = read_ids(js_get(t->golden, "prompt"), &n);
    t->want = read_ids(js_get(t->golden, "greedy"), &m);
    EXPECT(m == NEW, "%s: %d greedy tokens", t->name, m);
    t->n_prompt = v + n;
    t->prompt = mem_alloc((size_t)t->n_prompt * sizeof *t->prompt);
    for (int32_t i = 0; i < t->n_prompt; i++) t->prompt[i] = i < v ? vocab + i : ids[i - v];
    mem_free(ids);
    return true;
}

static int32_t load_all(engine *e, const char *dir, trial *list) {
    int32_t n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *f; d && (f = readdir(d));) {
        char *path = path_join(dir, f->d_name);
        if (f->d_name[0] != '.' && dir_exists(path) && n < MAX_ADAPTERS)
            n += load_trial(e, dir, f->d_name, &list[n]);
        mem_free(path);
    }
    if (d) closedir(d);
    return n;
}

/* Ids are given again, and a class never is. */
static void check_reload(engine *e, trial *t) {
    adapter_host host = engine_adapters(e);
    stepper s = engine_stepper(e);
    error err;
    uint64_t class = s.kv_class(s.self, 10, 20, t->info.id);
    int32_t id = t->info.id;
    host.unload(host.self, id);
    EXPECT(host.load(host.self, t->name, &t->info, &err) == OK, "%s", err.text);
    EXPECT(t->info.id == id, "%d", t->info.id);
    EXPECT(s.kv_class(s.self, 10, 20, id) != class, "%s: an old class again", t->name);
    EXPECT(s.kv_class(s.self, 10, 20, 0) != s.kv_class(s.self, 10, 20, id), "%s", t->name);
}

static void free_trial(trial *t) {
    json_decref(t->golden);
    mem_free(t->prompt);
    mem_free(t->want);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const trial *)a)->name, ((const trial *)b)->name);
}

/* Does it only add low-rank parts? */
static bool is_plain(const char *name) {
    static const char *const more[] = {"bias", "dora", "embed", "saved"};
    bool plain = strstr(name, "lora") || strstr(name, "layer");
    for (size_t i = 0; i < ARRAY_LEN(more); i++) plain &= !strstr(strrchr(name, '/'), more[i]);
    return plain && !strstr(name, "/larger/");
}

/* Those that the op alone serves, in front. */
static int32_t plain_first(trial *t, int32_t n) {
    int32_t n_plain = 0;
    for (int32_t i = 0; i < n; i++) {
        if (!is_plain(t[i].name)) continue;
        trial first = t[i];
        t[i] = t[n_plain];
        t[n_plain++] = first;
    }
    return n_plain;
}

/* A base in bf16 and the plain adapters of `dir`: near the golden logits, and the bits of a mixed
 * batch are those of each alone. */
static void check_narrow(const char *dir) {
    engine *e = NULL;
    error err;
    trial *t = mem_calloc(MAX_ADAPTERS, sizeof *t);
    status st = open_base(dir, "bf16", NULL, NULL, &e, &err);
    EXPECT(st == OK, "%s: %s", dir, err.text);
    int32_t n = st == OK ? load_all(e, dir, t) : 0, n_plain;
    qsort(t, (size_t)n, sizeof *t, by_name);
    n_plain = plain_first(t, n);
    EXPECT(n == 0 || n_plain > 0, "%s: no plain adapters", dir);
    for (int32_t i = 0; i < n_plain; i++) {
        engine_use_adapter(e, &t[i].info);
        double worst = compare_rows(e, &t[i]);
        engine_use_adapter(e, NULL);
        EXPECT(worst <= LIMIT_NARROW, "%s in bf16: relative error %g", t[i].name, worst);
        if (!table) printf("%-36s bf16 %.1e\n", t[i].name, worst);
        run_seq q = seq_of(&t[i]);
        st = run_batch(e, &q, 1, (run_options){0}, &err);
        EXPECT(st == OK, "%s: %s", t[i].name, err.text);
    }
    if (n_plain) check_mixed(e, t, n_plain);
    for (int32_t i = 0; i < n; i++) free_trial(&t[i]);
    engine_free(e);
    mem_free(t);
}

/* The base of `dir` with the adapters under `from`. */
static void check_base(const char *dir, const char *from, const char *isa) {
    engine *e = NULL;
    error err;
    trial *t = mem_calloc(MAX_ADAPTERS, sizeof *t);
    status st = open_base(dir, "f32", isa, NULL, &e, &err);
    EXPECT(st == OK, "%s: %s", dir, err.text);
    int32_t n = st == OK ? load_all(e, from, t) : 0;
    EXPECT(n > 0, "%s: no adapters", from);
    qsort(t, (size_t)n, sizeof *t, by_name);
    for (int32_t i = 0; i < n; i++) check_alone(e, &t[i]);
    if (n) check_mixed(e, t, n);
    int32_t n_plain = plain_first(t, n);
    int64_t replayed = e && e->f.graphs ? e->f.graphs->n_replayed : 0;
    if (n_plain) check_mixed(e, t, n_plain);
    EXPECT(!e || !n_plain || !e->f.graphs || e->f.graphs->n_replayed > replayed + NEW,
           "%s: steps with plain adapters were not replayed", dir);
    if (n) check_reload(e, &t[0]);
    qsort(t, (size_t)n, sizeof *t, by_name);
    for (int32_t i = 0; i < n; i++) {
        if (!isa && !brief) check_merged(dir, &t[i]);
        char merged[32] = "no";
        if (t[i].worst_merged >= 0) snprintf(merged, sizeof merged, "%.1e", t[i].worst_merged);
        if (table && !isa)
            printf("| %s | %s | %d | %.1e | %s |\n", t[i].name + strlen(ROOT) + 1, t[i].info.kind,
                   t[i].info.n_virtual ? t[i].info.n_virtual : t[i].info.rank, t[i].worst, merged);
        else if (!table)
            printf("%-36s %-4s %.1e merged %s\n", t[i].name, isa ? isa : "best", t[i].worst,
                   isa || brief ? "-" : merged);
        free_trial(&t[i]);
    }
    engine_free(e);
    mem_free(t);
}

/* More tokens than the base has: merged only. */
static void check_grown(void) {
    trial t = {.name = ROOT "/larger/grown"};
    engine *e = NULL;
    error err;
    status st = open_base(ROOT "/llama", "f32", NULL, NULL, &e, &err);
    adapter_host host = engine_adapters(e);
    EXPECT(st == OK, "%s", err.text);
    EXPECT(host.load(host.self, t.name, &t.info, &err) == ERR_FORMAT, "loaded?");
    EXPECT(strstr(err.text, "--merge-lora"), "%s", err.text);
    engine_free(e);
    st = js_parse_file(ROOT "/larger/grown/golden.json", (size_t)1 << 20, &t.golden, &err);
    if (st == OK) st = open_base(ROOT "/llama", "f32", NULL, t.name, &e, &err);
    EXPECT(st == OK, "%s", err.text);
    if (st != OK) return;
    EXPECT(engine_info(e)->vocab == 70, "vocabulary %d", engine_info(e)->vocab);
    t.prompt = read_ids(js_get(t.golden, "prompt"), &t.n_prompt);
    double worst = compare_rows(e, &t);
    EXPECT(worst <= LIMIT, "%s: relative error %g", t.name, worst);
    if (!table) printf("%-36s best merged %.1e\n", t.name, worst);
    mem_free(t.prompt);
    json_decref(t.golden);
    engine_free(e);
}

int main(int argc, char **argv) {
    static const char *const bases[] = {"llama",
                                        "qwen2",
                                        "tied",
                                        "gpt2",
                                        "gpt_neox",
                                        "phi3",
                                        "remote/chatglm-6b",
                                        "remote/chatglm2",
                                        "remote/internlm2",
                                        "remote/baichuan-7b",
                                        "remote/qwen1",
                                        "remote/moss"};
    table = argc > 1 && strcmp(argv[1], "--table") == 0;
    brief = argc > 1 && strcmp(argv[1], "--brief") == 0;
    if (table)
        printf(
            "| adapter | kind | rank or tokens | worst error | merged |\n|---|---|---|---|---|\n");
    for (size_t i = 0; i < ARRAY_LEN(bases); i++) {
        char dir[128], from[128];
        if (brief && i > 0 && strcmp(bases[i], "phi3") != 0) continue; /* all kinds; packs */
        bool own = strncmp(bases[i], "remote/", 7) != 0;
        snprintf(from, sizeof from, ROOT "/%s", bases[i]);
        snprintf(dir, sizeof dir, "%s/%s", own ? ROOT : "tests/archs", bases[i] + (own ? 0 : 7));
        check_base(dir, from, NULL);
        if (!table && !brief) check_base(dir, from, "ref");
    }
    check_narrow(ROOT "/llama");
    if (!brief) check_grown();
    return n_failed ? 1 : 0;
}
