/* Both ways from logits to tokens, over one engine: by the backend's op where it has one (the CPU's
 * reference level; a device) and by the host's sampler. Same logits, so the same tokens, logprobs
 * and ranks, also of the prompt. The op's sums are rounded elsewhere than the host's: a draw may
 * fall between the two once in millions, and the seeds here are fixed. */
#include <stdio.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/engine_internal.h"
#include "tests/golden/expect.h"
#include "tests/golden/model_run.h"

#define DIR "tests/archs/llama-gqa"

enum { N_SEQS = 20, N_NEW = 12, PROMPT = 9 };

typedef struct runs {
    int32_t prompts[N_SEQS][PROMPT], stop[2], allowed[6], ids[N_SEQS][N_NEW];
    logit_bias bias[3];
    sample_params params[N_SEQS];
    sample_out out[N_SEQS][N_NEW], prompt_out[N_SEQS][PROMPT];
    run_seq seqs[N_SEQS];
} runs;

static sample_params params_of(runs *r, int32_t i) {
    sample_params p = {.temperature = i % 5 ? 0.8f : 0,
                       .top_p = 1,
                       .typical_p = 1,
                       .repetition_penalty = 1,
                       .seed = 400 + (uint64_t)i,
                       .n_logprobs = i % 3 ? i % 6 : -1};
    if (i % 2) p.top_k = 30;
    if (i % 7 == 1) p.top_p = 0.8f;
    if (i % 7 == 2) p.min_p = 0.02f;
    if (i % 7 == 3) p.typical_p = 0.7f; /* the host's, beside the others */
    if (i % 7 == 4) p.repetition_penalty = 1.4f, p.frequency_penalty = 0.3f;
    if (i % 7 == 5) p.bias = r->bias, p.n_bias = 3, p.no_repeat_ngram = 2;
    if (i % 7 == 6) p.stop_ids = r->stop, p.n_stop_ids = 2, p.min_tokens = 5;
    if (i % 4 == 3) p.allowed_ids = r->allowed, p.n_allowed = 6;
    return p;
}

static void make(runs *r, int32_t vocab) {
    for (int32_t k = 0; k < 6; k++) r->allowed[k] = 90 - 13 * k;
    for (int32_t k = 0; k < 3; k++) r->bias[k] = (logit_bias){20 + k, 4.0f - (float)(4 * k)};
    r->stop[1] = 7;
    for (int32_t i = 0; i < N_SEQS; i++) {
        for (int32_t k = 0; k < PROMPT; k++)
            r->prompts[i][k] = (int32_t)(rng_uniform(7, (uint64_t)k, (uint32_t)i) * vocab);
        r->params[i] = params_of(r, i);
        r->seqs[i] = (run_seq){.prompt = r->prompts[i],
                               .n_prompt = PROMPT,
                               .n_new = N_NEW,
                               .params = &r->params[i],
                               .prompt_out = i % 3 == 2 ? r->prompt_out[i] : NULL,
                               .choice = i % 3,
                               .start_step = i % 4,
                               .ret_ids = r->ids[i],
                               .ret_out = r->out[i]};
    }
}

static void compare(const sample_out *a, const sample_out *b, const char *what, int32_t i,
                    int32_t k) {
    bool yes = a->token == b->token && memcmp(&a->logprob, &b->logprob, 4) == 0 &&
               a->rank == b->rank && a->n_top == b->n_top;
    for (int32_t t = 0; yes && t < a->n_top; t++)
        yes =
            a->top[t].id == b->top[t].id && memcmp(&a->top[t].logprob, &b->top[t].logprob, 4) == 0;
    EXPECT(yes, "sequence %d, %s %d: %d (%a, rank %d), by the host %d (%a, rank %d)", i, what, k,
           a->token, a->logprob, a->rank, b->token, b->logprob, b->rank);
}

int main(void) {
    engine *e = NULL;
    error err;
    runs *device = mem_calloc(1, sizeof *device), *host = mem_calloc(1, sizeof *host);
    if (model_open(DIR, "f32", strcmp(test_device(), "cpu") == 0 ? "ref" : NULL, &e, &err) != OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    EXPECT(e->device_sampler, "%s samples on the host", e->info.backend);
    make(device, e->info.vocab);
    make(host, e->info.vocab);
    status st = run_batch(e, device->seqs, N_SEQS, (run_options){.chunk = 4}, &err);
    EXPECT(st == OK, "%s", err.text);
    sample_device *d = e->device_sampler;
    e->device_sampler = NULL; /* and then nothing can be chosen ahead */
    e->ahead = false;
    st = run_batch(e, host->seqs, N_SEQS, (run_options){.chunk = 4}, &err);
    EXPECT(st == OK, "%s", err.text);
    e->device_sampler = d;
    for (int32_t i = 0; i < N_SEQS; i++) {
        for (int32_t k = 0; k < N_NEW; k++)
            compare(&device->out[i][k], &host->out[i][k], "token", i, k);
        for (int32_t k = 1; k < PROMPT; k++)
            compare(&device->prompt_out[i][k], &host->prompt_out[i][k], "of the prompt", i, k);
    }
    printf("%s: %d sequences, sampled by the backend and by the host: the same\n", e->info.backend,
           N_SEQS);
    engine_free(e);
    mem_free(device);
    mem_free(host);
    return n_failed ? 1 : 0;
}
