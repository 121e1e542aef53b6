/* Rows stored as the next product rounds them (engine/forward_feed.h) against f32 rows: the same
 * bits of every result. Room for adapters makes every buffer wide enough for f32, so one engine
 * runs both. For a device whose products round (PAGODA_TEST_DEVICE); elsewhere it is skipped. */
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/engine_internal.h"
#include "tests/golden/expect.h"
#include "tests/golden/model_run.h"

#define SKIPPED 77
#define SEQS    3
#define NEW     3
#define PROMPT  41

typedef struct answers {
    sample_out prompt[SEQS][PROMPT], out[SEQS][NEW];
} answers;

/* Prompts of several lengths, then tokens one by one. */
static void run(engine *e, const char *name, answers *ret) {
    static const int32_t lens[SEQS] = {PROMPT, 1, 12};
    int32_t prompts[SEQS][PROMPT], made[SEQS][NEW];
    sample_params params = {.top_p = 1, .typical_p = 1, .repetition_penalty = 1, .n_logprobs = 5};
    run_seq seqs[SEQS];
    error err;
    memset(ret, 0, sizeof *ret);
    for (int32_t i = 0; i < SEQS; i++) {
        for (int32_t k = 0; k < lens[i]; k++)
            prompts[i][k] = (11 + 7 * i + 5 * k) % engine_info(e)->vocab;
        seqs[i] = (run_seq){.prompt = prompts[i],
                            .n_prompt = lens[i],
                            .n_new = NEW,
                            .params = &params,
                            .prompt_out = ret->prompt[i],
                            .ret_ids = made[i],
                            .ret_out = ret->out[i]};
    }
    status st = run_batch(e, seqs, SEQS, (run_options){0}, &err);
    EXPECT(st == OK, "%s: %s", name, err.text);
}

/* Feeds that are not f32. */
static int count_narrow(const engine *e) {
    int n = 0;
    for (int32_t l = 0; l < e->a->n_layers; l++) {
        const layer_feeds *f = &e->f.feeds[l];
        n += (f->attn_in != DT_F32) + (f->mlp_in != DT_F32) + (f->att != DT_F32) +
             (f->act != DT_F32);
    }
    return n;
}

/* False where the device's products round nothing. */
static bool check_model(const char *root, const char *name, const char *type) {
    static answers narrow, wide;
    char *dir = path_join(root, name);
    engine_options o = {.model_dir = dir,
                        .dtype = type,
                        .device = test_device(),
                        .graphs = "off",
                        .max_seqs = 4,
                        .max_batched_tokens = 64,
                        .adapters_max = 1,
                        .lora_rank_max = 1,
                        .kv_bytes = (size_t)4 << 20};
    engine *e = NULL;
    error err;
    status st = engine_open(&o, &e, &err);
    EXPECT(st == OK, "%s: %s", name, err.text);
    bool rounds = st == OK && e->b->v->feed_dt;
    if (rounds) {
        int n = count_narrow(e);
        EXPECT(n > 0, "%s: all rows are f32", name);
        run(e, name, &narrow);
        memset(e->f.feeds, 0, (size_t)e->a->n_layers * sizeof *e->f.feeds); /* DT_F32 */
        run(e, name, &wide);
        EXPECT(memcmp(&narrow, &wide, sizeof wide) == 0, "%s: other bits with f32 rows", name);
        printf("%-20s %-5s %d of %d buffers\n", name, type, n, 4 * e->a->n_layers);
    }
    engine_free(e);
    mem_free(dir);
    return rounds;
}

int main(void) {
    static const char *const names[] = {"llama-gqa",   "gemma2",   "falcon-7b", "qwen2-moe",
                                        "deepseek-v3", "gpt-oss",  "bloom",     "olmo2",
                                        "mixtral",     "minicpm3", "glm4-moe",  "opt"};
    if (!check_model("tests/archs", names[0], "bf16")) {
        printf("skipped: products of device %s round nothing (PAGODA_TEST_DEVICE)\n",
               test_device());
        return SKIPPED;
    }
    for (size_t i = 1; i < ARRAY_LEN(names); i++)
        check_model("tests/archs", names[i], i % 3 ? "bf16" : "f16");
    check_model("tests/quant", "ct-w8a8", "auto");
    check_model("tests/quant", "ct-fp8-channel", "auto");
    check_model("tests/quant", "gptq-b4-g32", "auto");
    if (n_failed) fprintf(stderr, "%d checks failed\n", n_failed);
    return n_failed ? 1 : 0;
}
