/* Cost of the scheduler's own work per step, with a stepper that does nothing but name tokens:
 *
 *     bench_sched [running sequences, default 512] [steps, default 2000]
 *
 * Loads: steady decoding, with one step in flight and with two; decoding with requests that come
 * and go, prompts sharing a prefix; and the same with a long prompt waiting that does not fit.
 * Prints mean and worst CPU microseconds of a whole core_step (plan, results, events, telling the
 * front ends). */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "scheduler/core.h"

enum { S = 16, VOCAB = 32000, PREFIX = 512, LONG = 65536 };

/* Of this thread alone: other work on the machine does not count. */
static uint64_t cpu_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

enum { DEPTH_MAX = 2 };

typedef struct null {
    const batch_plan *ring[DEPTH_MAX];
    uint64_t n_launched, n_collected, n_tokens;
    uint64_t depth;
} null;

static status null_launch(void *self, const batch_plan *plan, error *err) {
    null *n = self;
    n->ring[n->n_launched++ % n->depth] = plan;
    return OK;
}

static status null_collect(void *self, step_result *ret, error *err) {
    null *n = self;
    const batch_plan *plan = n->ring[n->n_collected++ % n->depth];
    for (int32_t i = 0; i < plan->n_seqs; i++)
        if (plan->seqs[i].sample)
            ret->out[i].token = (int32_t)(++n->n_tokens * 2654435761u % VOCAB);
    return OK;
}

static void read_all(void *ctx, request **ready, int32_t n) {
    int32_t *n_ended = ctx;
    token_event e;
    for (int32_t i = 0; i < n; i++)
        while (spsc_pop(ready[i]->events, &e)) *n_ended += e.finish != FINISH_NONE;
}

static void submit(core *c, uint64_t id, int32_t n_prompt, int32_t n_shared, int32_t max_tokens) {
    request *r = request_new((size_t)1 << 28);
    int32_t *p = arena_array(r->mem, (size_t)n_prompt, sizeof *p);
    for (int32_t i = 0; i < n_prompt; i++)
        p[i] = (int32_t)(rng_philox(i < n_shared ? 1 : id, 0, (uint64_t)i).x[0] % VOCAB);
    r->prompt = p;
    r->n_prompt = n_prompt;
    r->max_tokens = max_tokens;
    r->stream = true;
    request_arm(r);
    error e;
    if (core_prepare(c, r, &e) != OK) {
        fprintf(stderr, "bench_sched: %s\n", e.text);
        exit(1);
    }
    core_add(c, r);
}

typedef struct load {
    const char *name;
    int32_t n_prompt, max_tokens;
    bool churns, blocks;
    int32_t depth;
} load;

static void bench(const load *l, int32_t n_seqs, int32_t n_steps) {
    null n = {.depth = (uint64_t)l->depth};
    uint64_t id = 0, total_ns = 0, worst_ns = 0;
    int32_t n_ended = 0, n_live = 0;
    int32_t per_seq = (l->n_prompt + l->max_tokens) / S + 2 + (l->blocks ? LONG / S / n_seqs : 0);
    stepper st = {.self = &n,
                  .depth = l->depth,
                  .launch = null_launch,
                  .collect = null_collect,
                  .page_tokens = S,
                  .n_pages = n_seqs * per_seq,
                  .max_tokens = 8192,
                  .max_seqs = n_seqs,
                  .max_model_len = 1 << 24,
                  .vocab = VOCAB};
    scheduler_options o = {.max_running = l->blocks ? n_seqs + 2 : n_seqs,
                           .token_budget = 2048 + n_seqs,
                           .prefix_cache = true,
                           .stall_us = 1000000,
                           .clock = clock_monotonic(),
                           .on_ready = read_all,
                           .ctx = &n_ended};
    st.max_seqs = o.max_running;
    core *c = core_new(&o, st, hash_key_random());
    if (l->blocks) submit(c, ++id, LONG, LONG, l->max_tokens); /* its pages are the prefix */
    /* lengths differ, so that ends are spread over the steps */
    for (; n_live < n_seqs; n_live++)
        submit(c, ++id, l->n_prompt, PREFIX,
               l->max_tokens - (l->churns ? n_live % l->max_tokens / 2 : 0));
    scheduler_stats s;
    do {
        (void)core_step(c, false);
        core_stats(c, &s);
    } while (s.n_waiting > 0);
    if (l->blocks) submit(c, ++id, (n_seqs * per_seq - 1) * S, LONG, 1);
    n_ended = 0;
    for (int32_t i = 0; i < n_steps; i++) {
        if (l->churns)
            for (; n_ended > 0; n_ended--) submit(c, ++id, l->n_prompt, PREFIX, l->max_tokens);
        uint64_t t = cpu_ns();
        (void)core_step(c, false);
        t = cpu_ns() - t;
        total_ns += t;
        worst_ns = MAX(worst_ns, t);
    }
    core_stats(c, &s);
    printf(
        "%-28s %5d running  mean %6.1f us  worst %7.1f us  (%.0f ns a sequence, %llu preempted)\n",
        l->name, s.n_running, (double)total_ns / n_steps / 1e3, (double)worst_ns / 1e3,
        (double)total_ns / n_steps / n_seqs, (unsigned long long)s.n_preemptions);
    core_abort(c);
    core_free(c);
}

int main(int argc, char **argv) {
    int32_t n_seqs = argc > 1 ? atoi(argv[1]) : 512, n_steps = argc > 2 ? atoi(argv[2]) : 2000;
    if (n_seqs < 1 || n_steps < 1) {
        fprintf(stderr, "usage: bench_sched [SEQUENCES] [STEPS]\n");
        return 2;
    }
    const load loads[] = {
        {"decoding", 100, n_steps + 200, false, false, 1},
        {"decoding, two in flight", 100, n_steps + 200, false, false, 2},
        {"coming and going", 700, 128, true, false, 1},
        {"the same, two in flight", 700, 128, true, false, 2},
        {"a long prompt does not fit", 700, n_steps + 2000, false, true, 1},
    };
    for (size_t i = 0; i < ARRAY_LEN(loads); i++) bench(&loads[i], n_seqs, n_steps);
    return 0;
}
