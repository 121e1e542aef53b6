/* Real forward passes through the stepper, as a scheduler drives it: a request gives the same
 * tokens and the same logprobs, bit for bit, alone and in a crowd of 64, chunked, on other pages,
 * in bf16 and f32, and with drafts, right ones and wrong ones; seeds repeat; a step allocates
 * nothing. */
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "tests/golden/expect.h"
#include "tests/golden/model_run.h"

#define N_CROWD 64
#define N_NEW   24
#define PROMPT  40

/* Every allocation of the process is counted: these take the place of libc's. */
static _Atomic long n_allocs;

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define COUNTS_ALLOCS 1
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
void *malloc(size_t n) {
    n_allocs++;
    return __libc_malloc(n);
}
void *calloc(size_t n, size_t m) {
    n_allocs++;
    return __libc_calloc(n, m);
}
void *realloc(void *p, size_t n) {
    n_allocs++;
    return __libc_realloc(p, n);
}
#else
#define COUNTS_ALLOCS 0
#endif

typedef struct crowd {
    int32_t prompts[N_CROWD][PROMPT];
    sample_params params[N_CROWD];
    int32_t ids[N_CROWD][N_NEW];
    sample_out out[N_CROWD][N_NEW];
    run_seq seqs[N_CROWD];
} crowd;

/* Sequence i: its own length, parameters and start. Every fourth is greedy; the rest exercise
 * one filter or penalty each. */
static void make_crowd(crowd *c, int32_t vocab) {
    for (int32_t i = 0; i < N_CROWD; i++) {
        int32_t n = 1 + i * 7 % PROMPT;
        for (int32_t k = 0; k < n; k++)
            c->prompts[i][k] = (int32_t)(rng_uniform(99, (uint64_t)k, (uint32_t)i) * vocab);
        sample_params p = {.temperature = i % 4 ? 0.9f : 0,
                           .top_p = 1,
                           .typical_p = 1,
                           .repetition_penalty = 1,
                           .seed = 1000 + (uint64_t)i,
                           .n_logprobs = 3};
        if (i % 8 == 1) p.top_k = 20;
        if (i % 8 == 2) p.top_p = 0.9f;
        if (i % 8 == 3) p.min_p = 0.05f;
        if (i % 8 == 5) p.typical_p = 0.8f;
        if (i % 8 == 6) p.repetition_penalty = 1.3f, p.no_repeat_ngram = 3;
        if (i % 8 == 7) p.frequency_penalty = 0.5f, p.presence_penalty = 0.5f;
        c->params[i] = p;
        c->seqs[i] = (run_seq){.prompt = c->prompts[i],
                               .n_prompt = n,
                               .n_new = N_NEW,
                               .params = &c->params[i],
                               .start_step = i % 5,
                               .ret_ids = c->ids[i],
                               .ret_out = c->out[i]};
    }
}

static bool same(const sample_out *a, const sample_out *b) {
    bool yes = a->token == b->token && memcmp(&a->logprob, &b->logprob, 4) == 0 &&
               a->rank == b->rank && a->n_top == b->n_top;
    for (int32_t i = 0; yes && i < a->n_top; i++)
        yes =
            a->top[i].id == b->top[i].id && memcmp(&a->top[i].logprob, &b->top[i].logprob, 4) == 0;
    return yes;
}

static void compare(const char *model, const char *way, const crowd *a, const crowd *b) {
    for (int32_t i = 0; i < N_CROWD; i++)
        for (int32_t k = 0; k < N_NEW; k++)
            EXPECT(same(&a->out[i][k], &b->out[i][k]),
                   "%s, %s: sequence %d, token %d: %d (%a) and %d (%a)", model, way, i, k,
                   a->out[i][k].token, a->out[i][k].logprob, b->out[i][k].token,
                   b->out[i][k].logprob);
}

static void check_model(const char *dir, const char *want, const char *isa) {
    engine *e = NULL;
    error err;
    int32_t n_right = 0;
    crowd *alone = mem_calloc(1, sizeof *alone), *other = mem_calloc(1, sizeof *other);
    status st = model_open(dir, want, isa, &e, &err);
    EXPECT(st == OK, "%s: %s", dir, err.text);
    if (st != OK) return;
    make_crowd(alone, engine_info(e)->vocab);
    for (int32_t i = 0; st == OK && i < N_CROWD; i++) {
        run_seq one = alone->seqs[i];
        one.start_step = 0;
        st = run_batch(e, &one, 1, (run_options){0}, &err);
    }
    EXPECT(st == OK, "%s: %s", dir, err.text);
    const struct {
        const char *name;
        run_options o;
    } ways[] = {{"in a crowd", {0, 0}},
                {"crowd, chunks of 3", {3, 0}},
                {"crowd, chunks of 16, other pages", {16, 4711}},
                {"crowd with drafts", {.drafts = 3, .ret_right = &n_right}},
                {"many drafts", {.chunk = 5, .drafts = 12, .ret_right = &n_right}}};
    for (size_t k = 0; k < ARRAY_LEN(ways); k++) {
        make_crowd(other, engine_info(e)->vocab);
        for (int32_t i = 0; i < N_CROWD; i++) other->seqs[i].guess = alone->ids[i];
        st = run_batch(e, other->seqs, N_CROWD, ways[k].o, &err);
        EXPECT(st == OK, "%s: %s", dir, err.text);
        compare(dir, ways[k].name, alone, other);
    }
    EXPECT(n_right > N_CROWD * N_NEW / 2, "only %d drafts were right", n_right);
    printf("%s %s %s: alone and in a crowd of %d the same; %d drafts were right\n", dir, want,
           isa ? isa : "best", N_CROWD, n_right);
    engine_free(e);
    mem_free(alone);
    mem_free(other);
}

/* The allocations of two runs of the same batch differ by nothing but the test's own, which are
 * the same: so the longer run, with more steps, must not have more. */
static void check_allocations(const char *dir) {
    engine *e = NULL;
    error err;
    int32_t prompt[8] = {1, 2, 3, 4, 5, 6, 7, 8}, ids[200];
    sample_out prompt_out[8];
    sample_params p = {.temperature = 1,
                       .top_k = 30,
                       .top_p = 0.9f,
                       .typical_p = 0.9f,
                       .repetition_penalty = 1.1f,
                       .frequency_penalty = 0.1f,
                       .n_logprobs = 5};
    status st = model_open(dir, "auto", NULL, &e, &err);
    EXPECT(st == OK, "%s", err.text);
    if (st != OK) return;
    long counts[2] = {0};
    for (int k = 0; k < 2; k++) {
        run_seq q = {.prompt = prompt,
                     .n_prompt = 8,
                     .n_new = k ? 80 : 2,
                     .params = &p,
                     .prompt_out = prompt_out,
                     .ret_ids = ids};
        long before = n_allocs;
        st = run_batch(e, &q, 1, (run_options){.chunk = 3}, &err);
        EXPECT(st == OK, "%s", err.text);
        counts[k] = n_allocs - before;
    }
    EXPECT(!COUNTS_ALLOCS || counts[0] > 0, "the counter does not count");
    EXPECT(counts[0] == counts[1], "2 tokens: %ld allocations, 80 tokens: %ld", counts[0],
           counts[1]);
    printf("%s: %ld allocations of the test around 4 steps and around 82\n", dir, counts[1]);
    engine_free(e);
}

int main(void) {
    check_model("tests/archs/llama-gqa", "auto", NULL);
    check_model("tests/archs/llama-gqa", "f32", "ref");
    check_model("tests/archs/qwen3-tied", "f32", NULL);
    check_model("tests/archs/mistral-window", "bf16", NULL);
    check_model("tests/archs/llama-head-dim", "f16", NULL);
    check_allocations("tests/archs/llama-rope-dynamic");
    check_allocations("tests/archs/qwen2");
    if (n_failed) fprintf(stderr, "%d checks failed\n", n_failed);
    return n_failed ? 1 : 0;
}
