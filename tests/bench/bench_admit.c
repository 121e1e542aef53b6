/* What an admission rule costs, on a modelled machine: 1500 requests wait (prompts of 50-449
 * tokens, outputs of 20-619, nothing shared), a step takes 3 ms for the weights and 10 us a token,
 * a page moved to or from the host 20 us, beside the step where it may be. Prints steps, sequences
 * running on average, what was computed twice, and the modelled time, for both admission modes,
 * four sizes of the cache, and with a second tier of 4000 pages. Real core, no engine; about a
 * second.
 *
 *     bench_admit */
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "scheduler/core.h"

enum {
    S = 16,
    VOCAB = 32000,
    REQUESTS = 1500,
    SEQS = 256,
    STEP_US = 3000,
    TOKEN_US = 10,
    MOVE_US = 20
};

typedef struct model {
    uint64_t n_drawn, us;
    int32_t n_ended;
    const batch_plan *plan;
} model;

static status model_launch(void *self, const batch_plan *plan, error *err) {
    ((model *)self)->plan = plan;
    return OK;
}

static status model_collect(void *self, step_result *ret, error *err) {
    model *m = self;
    const batch_plan *plan = m->plan;
    int32_t n_aside = 0;
    for (int32_t i = 0; i < plan->n_moves; i++) n_aside += plan->moves[i].aside;
    int32_t step_us = STEP_US + TOKEN_US * plan->n_tokens;
    m->us += (uint64_t)(MAX(step_us, MOVE_US * n_aside) + MOVE_US * (plan->n_moves - n_aside));
    for (int32_t i = 0; i < plan->n_seqs; i++)
        if (plan->seqs[i].sample) ret->out[i].token = (int32_t)(++m->n_drawn * 2654435761u % VOCAB);
    return OK;
}

static uint64_t model_now(void *self) {
    return ((model *)self)->us;
}

static void read_all(void *ctx, request **ready, int32_t n) {
    token_event e;
    for (int32_t i = 0; i < n; i++)
        while (spsc_pop(ready[i]->events, &e)) ((model *)ctx)->n_ended += e.finish != FINISH_NONE;
}

static void submit(core *c, uint64_t id) {
    request *r = request_new(1 << 16);
    rng_block x = rng_philox(99, 1, id);
    r->n_prompt = 50 + (int32_t)(x.x[0] % 400);
    r->max_tokens = 20 + (int32_t)(x.x[1] % 600);
    int32_t *p = arena_array(r->mem, (size_t)r->n_prompt, sizeof *p);
    for (int32_t i = 0; i < r->n_prompt; i++)
        p[i] = (int32_t)(rng_philox(id, 0, (uint64_t)i).x[0] % VOCAB);
    r->prompt = p;
    r->stream = true;
    request_arm(r);
    error e;
    if (core_prepare(c, r, &e) != OK) {
        fprintf(stderr, "bench_admit: %s\n", e.text);
        exit(1);
    }
    core_add(c, r);
}

static void bench(admit_mode admit, int32_t n_pages, int32_t n_slots) {
    model m = {0};
    stepper st = {.self = &m,
                  .depth = 1,
                  .launch = model_launch,
                  .collect = model_collect,
                  .page_tokens = S,
                  .n_pages = n_pages,
                  .n_host_pages = n_slots,
                  .page_move_us = MOVE_US,
                  .max_tokens = 2048,
                  .max_seqs = SEQS,
                  .max_model_len = 4096,
                  .vocab = VOCAB};
    scheduler_options o = {.max_running = SEQS,
                           .token_budget = 2048,
                           .admit = admit,
                           .prefix_cache = true,
                           .stall_us = 1000000,
                           .clock = {model_now, &m},
                           .on_ready = read_all,
                           .ctx = &m};
    core *c = core_new(&o, st, (hash_key){{1, 2}});
    for (uint64_t id = 1; id <= REQUESTS; id++) submit(c, id);
    scheduler_stats s = {0};
    uint64_t n_running = 0;
    while (m.n_ended < REQUESTS) {
        (void)core_step(c, false);
        core_stats(c, &s);
        n_running += (uint64_t)s.n_running;
    }
    printf("%-10s %5d pages: %6.2f s, %5llu steps, %5.1f running, %4llu preempted, %4.1f %% twice, "
           "moved %llu out (%llu beside), %llu back\n",
           admit == ADMIT_RESERVE ? "reserve" : "optimistic", n_pages, (double)m.us / 1e6,
           (unsigned long long)s.n_steps, (double)n_running / (double)s.n_steps,
           (unsigned long long)s.n_preemptions,
           100.0 * (double)s.prompt_tokens_recomputed / (double)s.step_tokens_total,
           (unsigned long long)s.pages_out, (unsigned long long)s.pages_out_aside,
           (unsigned long long)s.pages_in);
    core_free(c);
}

int main(void) {
    static const admit_mode modes[] = {ADMIT_OPTIMISTIC, ADMIT_RESERVE};
    for (size_t k = 0; k < ARRAY_LEN(modes); k++)
        for (int32_t n_pages = 800; n_pages <= 6400; n_pages *= 2) bench(modes[k], n_pages, 0);
    for (int32_t n_pages = 800; n_pages <= 6400; n_pages *= 2)
        bench(ADMIT_OPTIMISTIC, n_pages, 4000);
    return 0;
}
