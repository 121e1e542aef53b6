/* A long prompt arrives while others decode: what they wait between two tokens, and what the prompt
 * waits for its first one, against each alone. Scheduler and engine without a server.
 *
 *     bench_mixed MODEL [--dtype T] [--quantize Q] [--threads N] [--streams N] [--prompt N]
 *                 [--rounds N] [--target-ms N] [--trace]
 *
 * Times of the first round are those of a scheduler that has not seen such steps yet. The last line
 * is the bound: steps of twice the time of decoding, in which every token takes what it takes in
 * the prompt alone, and nothing else takes time. --trace: every step, its tokens, positions read,
 * milliseconds, and what the pace thought that it would take. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/engine.h"
#include "scheduler/core.h"
#include "scheduler/state.h"

enum { GAPS_MAX = 20000, STREAM_PROMPT = 128, BEFORE = 60, BETWEEN = 20, BUDGET = 256 };

typedef struct gaps {
    int32_t n;
    double ms[GAPS_MAX];
} gaps;

typedef struct setup {
    engine_options eo;
    int32_t n_streams, n_prompt, rounds;
    uint64_t target_us;
    bool trace;
    stepper inner;
    const batch_plan *plan; /* the step under way */
    core *c;
    uint64_t last_id;
    int32_t n_ended;
    gaps *gaps; /* where gaps between tokens go; NULL: nowhere */
} setup;

/* The stepper's self stays the engine's, whatever else is asked of it. */
static setup *of_steps;

static double ms_since(uint64_t ns) {
    return (double)(clock_ns() - ns) * 1e-6;
}

static status note_launch(void *self, const batch_plan *plan, error *err) {
    of_steps->plan = plan;
    return of_steps->inner.launch(self, plan, err);
}

static status note_collect(void *self, step_result *ret, error *err) {
    setup *u = of_steps;
    uint64_t start = clock_ns();
    status st = u->inner.collect(self, ret, err);
    if (!u->trace) return st;
    pace_step s = {.n_tokens = u->plan->n_tokens};
    for (int32_t i = 0; i < u->plan->n_seqs; i++)
        s.n_reads += pace_reads(u->plan->seqs[i].pos, u->plan->seqs[i].n_tokens);
    printf("  %4d tokens %8.0f reads %8.2f ms, thought %8.2f (%.2f for reads)\n", s.n_tokens,
           s.n_reads, ms_since(start), pace_us(&u->c->pace, s) * 1e-3,
           u->c->pace.read_us * s.n_reads * 1e-3);
    return st;
}

/* A stream's owner is when its last token came. */
static void read_all(void *ctx, request **ready, int32_t n) {
    setup *u = ctx;
    token_event e;
    uint64_t now = clock_ns();
    for (int32_t i = 0; i < n; i++)
        while (spsc_pop(ready[i]->events, &e)) {
            uint64_t *last = ready[i]->owner;
            u->n_ended += e.finish != FINISH_NONE;
            if (!last) continue;
            if (u->gaps && *last && u->gaps->n < GAPS_MAX)
                u->gaps->ms[u->gaps->n++] = (double)(now - *last) * 1e-6;
            *last = now;
        }
}

static void submit(setup *u, int32_t n_prompt, int32_t max_tokens, uint64_t *last) {
    request *r = request_new((size_t)1 << 24);
    int32_t *p = arena_array(r->mem, (size_t)n_prompt, sizeof *p);
    u->last_id++;
    for (int32_t i = 0; i < n_prompt; i++)
        p[i] = (int32_t)(rng_philox(u->last_id, 0, (uint64_t)i).x[0] % (uint32_t)u->inner.vocab);
    r->prompt = p;
    r->n_prompt = n_prompt;
    r->max_tokens = max_tokens;
    r->ignore_eos = r->stream = true;
    r->owner = last;
    request_arm(r);
    error e;
    if (core_prepare(u->c, r, &e) != OK) {
        fprintf(stderr, "bench_mixed: %s\n", e.text);
        exit(1);
    }
    core_add(u->c, r);
}

/* Until the prompt just submitted has its token; milliseconds. */
static double first_token(setup *u) {
    int32_t want = u->n_ended + 1;
    uint64_t start = clock_ns();
    submit(u, u->n_prompt, 1, NULL);
    while (u->n_ended < want) (void)core_step(u->c, false);
    return ms_since(start);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double quantile(const gaps *g, double q) {
    int32_t i = (int32_t)(q * g->n + 0.999999) - 1; /* nearest rank */
    return g->n ? g->ms[MIN(MAX(i, 0), g->n - 1)] : 0;
}

static void print_gaps(const char *what, gaps *g) {
    qsort(g->ms, (size_t)g->n, sizeof *g->ms, by_value);
    printf("%-22s p50 %7.1f  p99 %7.1f  most %7.1f ms between tokens (%d)", what, quantile(g, 0.5),
           quantile(g, 0.99), quantile(g, 1), g->n);
}

static void run(setup *u) {
    gaps *before = mem_calloc(1, sizeof *before), *beside = mem_calloc(1, sizeof *beside);
    uint64_t *last = mem_calloc((size_t)u->n_streams, sizeof *last);
    double alone = first_token(u);
    alone = MIN(alone, first_token(u));
    for (int32_t i = 0; i < u->n_streams; i++) submit(u, STREAM_PROMPT, 1 << 20, &last[i]);
    for (int32_t i = 0; i < 2 * u->n_streams; i++) (void)core_step(u->c, false);
    u->gaps = before;
    for (int32_t i = 0; i < BEFORE; i++) (void)core_step(u->c, false);
    print_gaps("decoding alone", before);
    printf("\nprompt alone           %.0f ms\n", alone);
    double p99 = quantile(before, 0.99);
    for (int32_t k = 0; k < u->rounds; k++) {
        beside->n = 0;
        u->gaps = beside;
        double took = first_token(u);
        print_gaps("beside the prompt", beside);
        printf(", p99 %.2f times; prompt %.0f ms, %.2f times\n", quantile(beside, 0.99) / p99, took,
               took / alone);
        u->gaps = NULL;
        for (int32_t i = 0; i < BETWEEN; i++) (void)core_step(u->c, false);
    }
    double per_token = alone / u->n_prompt, own = u->n_streams * per_token;
    printf("bound                  prompt %.2f times\n", 2 * p99 / MAX(2 * p99 - own, own));
    u->gaps = NULL;
    core_abort(u->c); /* tells of the streams' ends: they still name their last tokens */
    mem_free(before);
    mem_free(beside);
    mem_free(last);
}

static status open_model(setup *u, engine **e, error *err) {
    u->eo.max_seqs = u->n_streams + 2;
    u->eo.max_batched_tokens = BUDGET;
    u->eo.max_model_len = MAX(u->n_prompt, 8192);
    u->eo.kv_bytes = (size_t)1 << 30;
    TRY(engine_open(&u->eo, e, err));
    u->inner = engine_stepper(*e);
    stepper s = u->inner;
    of_steps = u;
    s.launch = note_launch;
    s.collect = note_collect;
    scheduler_options o = {.max_running = u->eo.max_seqs,
                           .token_budget = BUDGET,
                           .target_us = u->target_us,
                           .stall_us = 1000000,
                           .clock = clock_monotonic(),
                           .on_ready = read_all,
                           .ctx = u};
    u->c = core_new(&o, s, hash_key_random());
    if (s.enter) s.enter(u->inner.self);
    return OK;
}

static bool parse(setup *u, int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(a, "--trace") == 0)
            u->trace = true;
        else if (a[0] != '-')
            u->eo.model_dir = a;
        else if (i++, strcmp(a, "--dtype") == 0)
            u->eo.dtype = v;
        else if (strcmp(a, "--quantize") == 0)
            u->eo.quantize = v;
        else if (strcmp(a, "--threads") == 0)
            u->eo.n_threads = atoi(v);
        else if (strcmp(a, "--streams") == 0)
            u->n_streams = atoi(v);
        else if (strcmp(a, "--prompt") == 0)
            u->n_prompt = atoi(v);
        else if (strcmp(a, "--rounds") == 0)
            u->rounds = atoi(v);
        else if (strcmp(a, "--target-ms") == 0)
            u->target_us = (uint64_t)(atof(v) * 1e3);
        else
            return false;
    }
    return u->eo.model_dir && u->n_streams > 0 && u->n_prompt > 0;
}

int main(int argc, char **argv) {
    setup u = {.n_streams = 4, .n_prompt = 3000, .rounds = 1, .target_us = PACE_AUTO};
    if (!parse(&u, argc, argv)) {
        fprintf(stderr,
                "usage: bench_mixed MODEL [--dtype T] [--quantize Q] [--threads N] [--streams N]\n"
                "                   [--prompt N] [--rounds N] [--target-ms N] [--trace]\n");
        return 2;
    }
    engine *e;
    error err;
    if (open_model(&u, &e, &err) != OK) {
        fprintf(stderr, "bench_mixed: %s\n", err.text);
        return 1;
    }
    run(&u);
    core_free(u.c);
    engine_free(e);
    return 0;
}
