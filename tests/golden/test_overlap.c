/* Steps launched ahead of their results, on what PAGODA_TEST_DEVICE names: every kind of sampling,
 * prompt logprobs and whole crowds give the same tokens and logprobs, bit for bit, as one step at a
 * time. The sequences come one after another, so that prompts stand beside chained tokens; in the
 * second model's steps they have more rows than one block of logits. */
#include <stdio.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/engine_internal.h"
#include "tests/golden/expect.h"
#include "tests/golden/model_run.h"

enum { N_SEQS = 18, N_NEW = 9, PROMPT = 30, ROWS = 8 };

typedef struct crowd {
    int32_t prompts[N_SEQS][PROMPT];
    sample_params params[N_SEQS];
    int32_t ids[N_SEQS][N_NEW];
    sample_out out[N_SEQS][N_NEW], prompt_out[N_SEQS][PROMPT];
    int32_t stop[2], allowed[5];
    logit_bias bias[2];
    run_seq seqs[N_SEQS];
} crowd;

static void make_params(crowd *c, int32_t i) {
    sample_params *p = &c->params[i];
    *p = (sample_params){.temperature = i % 3 ? 0.9f : 0,
                         .top_p = 1,
                         .typical_p = 1,
                         .repetition_penalty = 1,
                         .seed = 10 + (uint64_t)i,
                         .n_logprobs = i % 4 - 1,
                         .stop_ids = c->stop,
                         .n_stop_ids = 2};
    switch (i % 9) {
    case 1: p->top_k = 20, p->top_p = 0.9f; break;
    case 2: p->typical_p = 0.8f; break;
    case 3: p->repetition_penalty = 1.3f; break;
    case 4: p->no_repeat_ngram = 2; break;
    case 5: p->typical_p = 0.9f, p->frequency_penalty = 0.7f; break;
    case 6: p->min_tokens = 5; break;
    case 7: p->allowed_ids = c->allowed, p->n_allowed = 5, p->presence_penalty = 0.5f; break;
    case 8: p->bias = c->bias, p->n_bias = 2; break;
    }
}

static void make(crowd *c, int32_t vocab) {
    *c = (crowd){.stop = {3, 7}, .allowed = {4, 9, 16, 25, 36}, .bias = {{5, 3}, {6, -2}}};
    for (int32_t i = 0; i < N_SEQS; i++) {
        make_params(c, i);
        for (int32_t k = 0; k < PROMPT; k++)
            c->prompts[i][k] = (int32_t)(rng_uniform(5, (uint64_t)k, (uint32_t)i) * vocab);
        c->seqs[i] = (run_seq){.prompt = c->prompts[i],
                               .n_prompt = 1 + i * 7 % PROMPT,
                               .n_new = 1 + i % N_NEW,
                               .params = &c->params[i],
                               .prompt_out = i % 3 == 1 ? c->prompt_out[i] : NULL,
                               .choice = i % 2,
                               .start_step = i / 2,
                               .ret_ids = c->ids[i],
                               .ret_out = c->out[i]};
    }
}

static engine *open_model(const char *dir, int32_t depth, int32_t max_seqs) {
    engine *e = NULL;
    error err;
    engine_options o = {.model_dir = dir,
                        .dtype = "f32",
                        .kv_dtype = "f32",
                        .device = test_device(),
                        .n_threads = 2,
                        .max_seqs = max_seqs,
                        .max_batched_tokens = 128,
                        .kv_bytes = (size_t)8 << 20,
                        .depth = depth};
    status st = engine_open(&o, &e, &err);
    EXPECT(st == OK, "%s: %s", dir, err.text);
    return e;
}

/* guess: what is answered, for drafts; or NULL. */
static void run(engine *e, crowd *c, run_options o, const crowd *guess) {
    error err;
    make(c, engine_info(e)->vocab);
    for (int32_t i = 0; guess && i < N_SEQS; i++) c->seqs[i].guess = guess->ids[i];
    status st = run_batch(e, c->seqs, N_SEQS, o, &err);
    EXPECT(st == OK, "%s", err.text);
}

static bool same(const sample_out *a, const sample_out *b) {
    bool yes = a->token == b->token && memcmp(&a->logprob, &b->logprob, 4) == 0 &&
               a->rank == b->rank && a->n_top == b->n_top;
    for (int32_t i = 0; yes && i < a->n_top; i++)
        yes =
            a->top[i].id == b->top[i].id && memcmp(&a->top[i].logprob, &b->top[i].logprob, 4) == 0;
    return yes;
}

static void compare(const char *dir, size_t way, const crowd *a, const crowd *b) {
    for (int32_t i = 0; i < N_SEQS; i++) {
        for (int32_t k = 0; k < N_NEW; k++)
            EXPECT(same(&a->out[i][k], &b->out[i][k]),
                   "%s, way %zu: sequence %d, token %d: %d (%a), ahead %d (%a)", dir, way, i, k,
                   a->out[i][k].token, a->out[i][k].logprob, b->out[i][k].token,
                   b->out[i][k].logprob);
        for (int32_t k = 0; k < PROMPT; k++)
            EXPECT(same(&a->prompt_out[i][k], &b->prompt_out[i][k]),
                   "%s, way %zu: sequence %d, logprob of the prompt's %d", dir, way, i, k);
    }
}

static void check_model(const char *dir, int32_t max_seqs) {
    static crowd one, two;
    engine *a = open_model(dir, 1, max_seqs), *b = open_model(dir, 2, max_seqs);
    if (!a || !b) return;
    EXPECT(engine_stepper(b).depth == 2 && b->ahead == !b->b->host_memory, "nothing is ahead");
    run(a, &one, (run_options){.chunk = 11}, NULL);
    int32_t n_right = 0;
    const run_options ways[] = {{11, 0, 2},
                                {0, 3, 2},
                                {4, 0, 1},
                                {11, 0, 2, .drafts = 3, .ret_right = &n_right},
                                {0, 0, 1, .drafts = 5, .ret_right = &n_right}};
    for (size_t k = 0; k < ARRAY_LEN(ways); k++) {
        run(b, &two, ways[k], &one);
        compare(dir, k, &one, &two);
    }
    EXPECT(n_right > N_SEQS, "only %d drafts were right", n_right);
    printf("%s: one step in flight and two, %d drafts right: the same\n", dir, n_right);
    engine_free(a);
    engine_free(b);
}

int main(void) {
    check_model("tests/archs/llama-gqa", N_SEQS);
    check_model("tests/archs/qwen3-tied", ROWS);
    return n_failed ? 1 : 0;
}
