/* Steps of decoding as recorded launches (engine/forward_graph.h) against the same steps launched
 * op by op: the same bits for every size of batch with its padding, with attention cut and not,
 * after scratch has moved; and a replay that fails ends the step with a sentence. For a device with
 * graphs (PAGODA_TEST_DEVICE); elsewhere it is skipped. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/engine_internal.h"
#include "tests/golden/expect.h"
#include "tests/golden/model_run.h"

#define ROOT      "tests/archs"
#define SEQS_MOST 9
#define NEW_MOST  5
#define SKIPPED   77

static status open_with(const char *dir, const char *record, const char *type, engine **ret,
                        error *err) {
    engine_options o = {.model_dir = dir,
                        .dtype = type,
                        .kv_dtype = type,
                        .device = test_device(),
                        .graphs = record,
                        .max_seqs = 16,
                        .max_batched_tokens = 256,
                        .kv_bytes = (size_t)8 << 20};
    return engine_open(&o, ret, err);
}

typedef struct answers {
    sample_out out[SEQS_MOST][NEW_MOST];
} answers;

/* n sequences at once, of different lengths, each NEW_MOST tokens: the first greedy, others drawn;
 * `least` tokens of prompt at least. */
static void run(engine *e, const char *name, int32_t n, int32_t least, answers *ret) {
    static int32_t prompts[SEQS_MOST][2048];
    int32_t made[SEQS_MOST][NEW_MOST];
    sample_params params[SEQS_MOST];
    run_seq seqs[SEQS_MOST];
    error err;
    memset(ret, 0, sizeof *ret);
    for (int32_t i = 0; i < n; i++) {
        int32_t len = least + 3 + 5 * i;
        for (int32_t k = 0; k < len; k++)
            prompts[i][k] = (int32_t)(rng_philox((uint64_t)i, 7, (uint64_t)k).x[0] %
                                      (uint32_t)engine_info(e)->vocab);
        params[i] = (sample_params){.temperature = i ? 0.9f : 0,
                                    .top_p = 1,
                                    .typical_p = i == 3 ? 0.8f : 1, /* the host's choice */
                                    .repetition_penalty = 1,
                                    .seed = (uint64_t)i,
                                    .n_logprobs = 2};
        seqs[i] = (run_seq){.prompt = prompts[i],
                            .n_prompt = len,
                            .n_new = NEW_MOST,
                            .params = &params[i],
                            .ret_ids = made[i],
                            .ret_out = ret->out[i]};
    }
    status st = run_batch(e, seqs, n, (run_options){.page_seed = 5}, &err);
    EXPECT(st == OK, "%s: %s", name, err.text);
}

static void same(const char *name, const char *what, int32_t n, const answers *a,
                 const answers *b) {
    for (int32_t i = 0; i < n; i++)
        EXPECT(memcmp(a->out[i], b->out[i], sizeof a->out[i]) == 0,
               "%s, %s: sequence %d of %d has other bits", name, what, i, n);
}

/* Sizes of batches up to SEQS_MOST, twice: the first time steps are recorded. */
static void check_sizes(const char *name, engine *with, engine *without, int32_t step) {
    static answers want, got;
    const forward_graphs *g = with->f.graphs;
    for (int32_t n = 1; n <= SEQS_MOST; n += step) {
        run(without, name, n, 0, &want);
        run(with, name, n, 0, &got);
        same(name, "recorded", n, &want, &got);
        int64_t before = g->n_replayed;
        run(with, name, n, 0, &got);
        same(name, "replayed", n, &want, &got);
        EXPECT(g->n_replayed == before + NEW_MOST - 1, "%s: %d of %d steps were replayed", name,
               (int)(g->n_replayed - before), NEW_MOST - 1);
    }
    EXPECT(without->f.graphs == NULL, "%s: graphs, though off", name);
}

/* Scratch that moves takes the graphs with it: they are recorded anew. */
static void check_growth(const char *name, engine *with, engine *without) {
    static answers want, got;
    const forward_graphs *g = with->f.graphs;
    int64_t before = g->n_recorded;
    with->b->v->graphs->drop(with->b);
    run(without, name, 4, 0, &want);
    run(with, name, 4, 0, &got);
    same(name, "recorded again", 4, &want, &got);
    EXPECT(g->n_recorded > before, "%s: nothing was recorded again", name);
}

/* Batches of 1, 1 + step, ... sequences. */
static void check_family(const char *name, const char *type, int32_t step) {
    char *dir = path_join(ROOT, name);
    engine *with = NULL, *without = NULL;
    error err;
    status st = open_with(dir, "auto", type, &with, &err);
    if (st == OK) st = open_with(dir, "off", type, &without, &err);
    EXPECT(st == OK, "%s: %s", name, err.text);
    if (st == OK) {
        check_sizes(name, with, without, step);
        check_growth(name, with, without);
        printf("%-20s %-5s %d recorded, %d replayed\n", name, type, (int)with->f.graphs->n_recorded,
               (int)with->f.graphs->n_replayed);
    }
    engine_free(with);
    engine_free(without);
    mem_free(dir);
}

/* The model with more positions than its config has, in a directory of its own. */
static char *longer(const char *name, int32_t positions) {
    char text[512], to[64] = "/tmp/pagoda-graphs-XXXXXX", *dir = path_join(ROOT, name);
    char *root = realpath(dir, NULL);
    snprintf(text, sizeof text, "%s/config.json", root);
    json_t *config = NULL;
    error err;
    if (!mkdtemp(to) || js_parse_file(text, 1 << 20, &config, &err) != OK) abort();
    json_object_set_new(config, "max_position_embeddings", json_integer(positions));
    char *path = path_join(to, "config.json"), *link = path_join(to, "model.safetensors");
    json_dump_file(config, path, 0);
    snprintf(text, sizeof text, "%s/model.safetensors", root);
    if (symlink(text, link) != 0) abort();
    json_decref(config);
    mem_free(path);
    mem_free(link);
    mem_free(dir);
    free(root);
    return mem_strdup(to);
}

static void remove_longer(char *dir) {
    char *path = path_join(dir, "config.json"), *link = path_join(dir, "model.safetensors");
    unlink(path);
    unlink(link);
    rmdir(dir);
    mem_free(path);
    mem_free(link);
    mem_free(dir);
}

/* Keys of several chunks: the division of attention changes from step to step, and short and long
 * batches are different graphs. */
static void check_cuts(const char *name, const char *type) {
    static const int32_t lengths[] = {505, 1100, 0};
    static answers want, got;
    char *dir = longer(name, 2048);
    engine *with = NULL, *without = NULL;
    error err;
    status st = open_with(dir, "auto", type, &with, &err);
    if (st == OK) st = open_with(dir, "off", type, &without, &err);
    EXPECT(st == OK, "%s: %s", name, err.text);
    for (size_t i = 0; st == OK && i < ARRAY_LEN(lengths); i++) {
        run(without, name, 2, lengths[i], &want);
        run(with, name, 2, lengths[i], &got);
        same(name, "long", 2, &want, &got);
    }
    if (st == OK) {
        const forward_graphs *g = with->f.graphs;
        EXPECT(g->n_recorded >= 2 && g->n_replayed >= 8, "%s: %d recorded, %d replayed", name,
               (int)g->n_recorded, (int)g->n_replayed);
        int32_t cut = forward_bucket_index(2) * GRAPH_FORMS + 1;
        EXPECT(g->kinds[cut * 4].warm, "%s: no step had its attention cut", name);
    }
    engine_free(with);
    engine_free(without);
    remove_longer(dir);
}

/* The third replay fails: the step says so, and the device stays failed. */
static void check_failure(const char *name) {
    char *dir = path_join(ROOT, name);
    engine *e = NULL;
    error err;
    setenv("PAGODA_CUDA_FAULT", "graph:3", 1);
    status st = open_with(dir, "auto", "f32", &e, &err);
    unsetenv("PAGODA_CUDA_FAULT");
    EXPECT(st == OK, "%s: %s", name, err.text);
    int32_t prompt[] = {1, 2, 3}, made[NEW_MOST];
    sample_params p = {.top_p = 1, .typical_p = 1, .repetition_penalty = 1, .n_logprobs = -1};
    run_seq q = {.prompt = prompt, .n_prompt = 3, .n_new = NEW_MOST, .params = &p, .ret_ids = made};
    if (st == OK) st = run_batch(e, &q, 1, (run_options){0}, &err);
    EXPECT(st == ERR_DEVICE && strstr(err.text, "failed in graph"), "%s: status %d, %s", name,
           (int)st, err.text);
    if (e) EXPECT(e->b->v->sync(e->b, &err) == ERR_DEVICE, "%s: the failure is forgotten", name);
    engine_free(e);
    mem_free(dir);
}

int main(int argc, char **argv) {
    static const char *const names[] = {
        "llama-gqa",  "mistral-window", "gemma2",  "falcon-7b",
        "qwen2-moe",  "deepseek-v3",    "gpt-oss", "bloom",
        "chatglm-6b", "phi3-longrope",  "opt",     "internlm2-dynamic"};
    engine *e = NULL;
    error err;
    status st = open_with(ROOT "/llama-gqa", "auto", "f32", &e, &err);
    EXPECT(st == OK, "%s", err.text);
    bool able = st == OK && e->f.graphs;
    engine_free(e);
    if (st == OK && !able) {
        printf("skipped: device %s records nothing (PAGODA_TEST_DEVICE)\n", test_device());
        return SKIPPED;
    }
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (argc < 2 || strcmp(argv[1], names[i]) == 0) check_family(names[i], "f32", i ? 4 : 1);
    check_family("llama-gqa", "bf16", 2);
    check_family("deepseek-v3", "bf16", 6);
    check_cuts("llama-gqa", "bf16");
    check_failure("llama-gqa");
    if (n_failed) fprintf(stderr, "%d checks failed\n", n_failed);
    return n_failed ? 1 : 0;
}
