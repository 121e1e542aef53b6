/* The scheduler's simulator.
 *
 *     sim [--steps N] [--seed S] [--episode-steps N]
 *
 * Episodes with seeds S, S+1, ... until N steps are done (at least one). Each draws a configuration
 * (few pages or many, tiny budgets, both admission modes, one tenant or several, faults), runs
 * clients against the core, drains or aborts it at any moment, and checks the invariants of
 * invariants.c after every step and every event against the answer that the request gets alone.
 * Every eighth episode runs twice and must leave the same trace. A failure prints the seed to start
 * with. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "tests/sim/sim.h"

enum { TWICE_EVERY = 8, DRAIN_STEPS_MAX = 200000 };

uint64_t rnd_next(rnd *r) { /* splitmix64, Steele et al. 2014 */
    uint64_t x = r->s += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

static uint64_t sim_now(void *ctx) {
    return ((sim *)ctx)->now_us;
}

static void sim_ready(void *ctx, request **ready, int32_t n) {
    clients_ready(ctx, ready, n);
}

static int32_t sim_refs(void *ctx, int32_t id) {
    return ((sim *)ctx)->core->pages.p[id].refs;
}

/* Tokens cost the same each, moves what the stepper says. */
static void sim_spend(void *ctx, const batch_plan *plan) {
    sim *s = ctx;
    int32_t n_waited = 0;
    for (int32_t i = 0; i < plan->n_moves; i++) n_waited += !plan->moves[i].aside;
    float us = s->fake.page_move_us * (float)n_waited;
    s->now_us += 20 + (uint64_t)s->token_us * (uint64_t)plan->n_tokens + (uint64_t)us;
}

static void sim_model_spend(void *ctx, const batch_plan *plan) {
    sim *s = ctx;
    s->now_us += 5 + (uint64_t)s->model_us * (uint64_t)plan->n_tokens;
}

/* A guess that fails is a wrong one. */
static bool sim_model_fail_seq(void *ctx) {
    sim *s = ctx;
    return rnd_one_in(&s->rnd, s->seq_faults);
}

static bool sim_fail_device(void *ctx) {
    sim *s = ctx;
    if (!rnd_one_in(&s->rnd, s->device_faults)) return false;
    return s->device_failed = true;
}

static bool sim_eager(void *ctx) {
    return rnd_one_in(&((sim *)ctx)->rnd, 2);
}

static bool sim_fail_seq(void *ctx) {
    sim *s = ctx;
    if (!rnd_one_in(&s->rnd, s->seq_faults)) return false;
    s->n_seq_faults++;
    return true;
}

/* One in how often, or never. */
static int32_t maybe(sim *s, int32_t never_in, int32_t lo, int32_t hi) {
    return rnd_one_in(&s->rnd, never_in) ? 0 : rnd_in(&s->rnd, lo, hi);
}

static void draw_load(sim *s) {
    rnd *r = &s->rnd;
    s->n_pool = rnd_in(r, 1, POOL_MAX);
    for (int32_t i = 0; i < POOL_MAX; i++)
        for (int32_t j = 0; j < POOL_LEN; j++) s->pool[i][j] = rnd_in(r, 0, s->fake.vocab - 1);
    s->n_tenants = rnd_one_in(r, 2) ? 1 : rnd_in(r, 2, 5);
    s->priorities = rnd_one_in(r, 2) ? 1 : rnd_in(r, 2, 3);
    s->n_max = rnd_in(r, 1, N_MAX);
    s->prompt_max = rnd_in(r, 1, 90);
    s->output_max = rnd_in(r, 1, 60);
    s->arrive = rnd_in(r, 1, 12);
    s->slow = maybe(s, 2, 2, 20);
    s->cancels = maybe(s, 3, 2, 30);
    s->dones = maybe(s, 3, 2, 30);
    s->deadlines = maybe(s, 3, 2, 30);
    s->echoes = maybe(s, 3, 3, 30);
    s->jumps = maybe(s, 2, 50, 1000);
    s->seq_faults = rnd_one_in(r, 4) ? rnd_in(r, 100, 3000) : 0;
    s->device_faults = rnd_one_in(r, 4) ? rnd_in(r, 500, 8000) : 0;
}

/* A model that agrees with the stepper where a request's seed and choice are 0, and else by chance;
 * of a few ids less or more, and of another context. */
static void draw_model(sim *s, int32_t max_tokens, int32_t max_seqs) {
    rnd *r = &s->rnd;
    fake_init(&s->model, s->fake.page_tokens, s->fake.n_pages,
              MAX(1, s->fake.vocab + rnd_in(r, -1, 1)));
    s->has_model = true;
    s->model_us = rnd_in(r, 0, 3);
    s->model.ctx = s;
    s->model.class_len = s->fake.class_len;
    s->model.spend = sim_model_spend;
    s->model.fail_device = sim_fail_device;
    s->model.fail_seq = sim_model_fail_seq;
    s->model_st =
        fake_stepper(&s->model, rnd_in(r, max_seqs, max_tokens), max_seqs, rnd_in(r, 2, LEN_MAX));
    s->o.draft_model = &s->model_st;
}

static void draw_core(sim *s) {
    static const int32_t sizes[] = {1, 2, 3, 4, 8, 16, 48};
    rnd *r = &s->rnd;
    int32_t S = sizes[rnd_in(r, 0, (int32_t)ARRAY_LEN(sizes) - 1)];
    int32_t n_pages = rnd_in(r, 2, rnd_one_in(r, 2) ? 30 : 300);
    /* of few tokens drafts are often right, and cheap where a step of many takes no longer */
    bool drafts = rnd_one_in(r, 2);
    fake_init(&s->fake, S, n_pages, drafts ? rnd_in(r, 1, 6) : 50000);
    s->token_us = drafts ? rnd_in(r, 0, 5) : 5;
    s->fake.ctx = s;
    s->fake.class_len = maybe(s, 2, 10, 100);
    s->fake.whole_prompt = rnd_one_in(r, 4);
    if (rnd_one_in(r, 2))
        fake_host(&s->fake, rnd_in(r, 1, rnd_one_in(r, 3) ? 8 : 2 * n_pages),
                  rnd_one_in(r, 2) ? 0 : (float)rnd_in(r, 1, 5 * S));
    s->fake.spend = sim_spend;
    s->fake.refs = sim_refs;
    s->fake.fail_device = sim_fail_device;
    s->fake.fail_launch = rnd_one_in(r, 2) ? sim_fail_device : NULL;
    s->fake.depth = rnd_in(r, 1, FAKE_DEPTH_MAX);
    s->fake.eager = sim_eager;
    s->fake.fail_seq = sim_fail_seq;
    int32_t max_running = rnd_in(r, 1, 20), budget = max_running + rnd_in(r, 0, 80);
    s->st = fake_stepper(&s->fake, budget, max_running, rnd_in(r, 2, LEN_MAX));
    s->o = (scheduler_options){
        .max_running = max_running,
        .token_budget = budget,
        .prefill_chunk = rnd_one_in(r, 2) ? 0 : rnd_in(r, 1, rnd_one_in(r, 2) ? 3 : budget),
        .target_us = rnd_one_in(r, 3)   ? PACE_OFF
                     : rnd_one_in(r, 2) ? PACE_AUTO
                                        : (uint64_t)rnd_in(r, 1, 600),
        .admit = rnd_one_in(r, 3) ? ADMIT_RESERVE : ADMIT_OPTIMISTIC,
        .max_drafts = drafts ? rnd_in(r, 1, 20) : 0,
        .prefix_cache = !rnd_one_in(r, 5),
        .stall_us = (uint64_t)rnd_in(r, 1000, 200000),
        .clock = {sim_now, s},
        .on_ready = sim_ready,
        .ctx = s,
    };
    if (drafts && rnd_one_in(r, 2)) draw_model(s, budget, max_running);
    s->core = core_new(&s->o, s->st, (hash_key){{s->seed, 1}});
}

static void pass_time(sim *s) {
    s->now_us += (uint64_t)rnd_in(&s->rnd, 50, 2000);
    if (!rnd_one_in(&s->rnd, s->jumps)) return;
    if (rnd_one_in(&s->rnd, 2))
        s->now_us += (uint64_t)rnd_in(&s->rnd, 0, 5000000);
    else
        s->now_us -= MIN(s->now_us, (uint64_t)rnd_in(&s->rnd, 0, 5000));
}

/* One turn: clients act, the core steps. False when the core had nothing to do. */
static bool turn(sim *s) {
    s->now_us_max = MAX(s->now_us_max, s->now_us);
    clients_act(s);
    invariants_before(s);
    bool look = s->poked;
    s->poked = false;
    bool worked = core_step(s->core, look);
    s->n_steps++;
    invariants_after(s);
    if (!worked && core_n_requests(s->core) && !s->core->plan_stalled)
        SIM_FAIL(s, "%d requests in flight and nothing to do", core_n_requests(s->core));
    pass_time(s);
    return worked;
}

static void finish(sim *s) {
    if (rnd_one_in(&s->rnd, 4)) {
        s->aborted = true;
        core_abort(s->core);
    }
    /* readers that stopped for ever are cut after stall_us: time passes by itself */
    for (int32_t i = 0; (!clients_idle(s) || core_n_requests(s->core)) && !s->problem[0]; i++) {
        if (!turn(s)) s->now_us += 1000;
        if (i > DRAIN_STEPS_MAX) SIM_FAIL(s, "does not drain");
    }
    if (!s->problem[0]) invariants_end(s);
}

static void episode_free(sim *s) {
    core_stats(s->core, &s->st_end);
    core_free(s->core);
    fake_done(&s->fake);
    if (s->has_model) fake_done(&s->model);
}

/* Run one; the trace and counts stay in *s. */
static void episode(sim *s, uint64_t seed, uint64_t n_steps) {
    *s = (sim){.seed = seed, .rnd = {seed}, .now_us = 1000};
    draw_core(s);
    draw_load(s);
    while (s->n_steps < n_steps && !s->problem[0] && !s->device_failed) {
        clients_arrive(s);
        (void)turn(s);
    }
    finish(s);
    s->trace ^= s->fake.trace ^ s->model.trace;
    if (!s->problem[0]) episode_free(s); /* else the records may be anything: leave them */
}

typedef struct totals {
    uint64_t n_episodes, n_steps, n_requests, n_tokens, n_copies, n_device_faults, n_seq_faults;
    uint64_t n_preemptions, n_cached, n_out, n_aside, n_in, n_fetched, n_finished[5], trace;
    uint64_t n_drafts, n_right, n_model_steps, n_model_drafts, n_model_right;
} totals;

static void add_up(totals *t, const sim *s) {
    t->n_episodes++;
    t->n_steps += s->n_steps;
    t->n_requests += s->n_requests;
    t->n_tokens += s->n_tokens;
    t->n_copies += s->fake.n_copies;
    t->n_out += s->fake.n_out;
    t->n_aside += s->fake.n_aside;
    t->n_in += s->fake.n_in;
    t->n_fetched += s->fake.n_fetched;
    t->n_drafts += s->fake.n_drafts;
    t->n_right += s->fake.n_right;
    t->n_model_steps += s->model.n_steps;
    t->n_model_drafts += s->has_model ? s->fake.n_drafts : 0;
    t->n_model_right += s->has_model ? s->fake.n_right : 0;
    t->n_device_faults += s->device_failed;
    t->n_seq_faults += s->n_seq_faults;
    t->n_preemptions += s->st_end.n_preemptions;
    t->n_cached += s->st_end.prefix_hits;
    for (int i = 0; i < 5; i++) t->n_finished[i] += s->st_end.finished[i];
    t->trace = t->trace * 31 + s->trace;
}

static void print_totals(const totals *t, uint64_t us) {
#define U(x) ((unsigned long long)(x))
    printf("%llu steps in %llu episodes, %.2f us a step, trace %016llx\n", U(t->n_steps),
           U(t->n_episodes), (double)us / (double)t->n_steps, U(t->trace));
    printf("%llu requests, %llu tokens read, %llu from the prefix cache, %llu page copies\n",
           U(t->n_requests), U(t->n_tokens), U(t->n_cached), U(t->n_copies));
    printf("%llu pages moved to the host (%llu beside steps), %llu back (%llu)\n", U(t->n_out),
           U(t->n_aside), U(t->n_in), U(t->n_fetched));
    printf("%llu drafts, %llu of them right; %llu and %llu of a model in %llu steps\n",
           U(t->n_drafts), U(t->n_right), U(t->n_model_drafts), U(t->n_model_right),
           U(t->n_model_steps));
    printf("%llu preemptions, %llu device faults, %llu sequence faults\n", U(t->n_preemptions),
           U(t->n_device_faults), U(t->n_seq_faults));
    printf("choices ended: %llu stop, %llu length, %llu cancel, %llu error\n",
           U(t->n_finished[FINISH_STOP]), U(t->n_finished[FINISH_LENGTH]),
           U(t->n_finished[FINISH_CANCEL]), U(t->n_finished[FINISH_ERROR]));
#undef U
}

static int failed(const sim *s, const char *what, uint64_t episode_steps) {
    printf("FAILED at seed %llu step %llu: %s\nrepeat with: sim --seed %llu --steps 1 "
           "--episode-steps %llu\n",
           (unsigned long long)s->seed, (unsigned long long)s->n_steps, what,
           (unsigned long long)s->seed, (unsigned long long)episode_steps);
    return 1;
}

static int run(uint64_t steps, uint64_t seed, uint64_t episode_steps) {
    static sim s;
    totals t = {0};
    uint64_t start = clock_us();
    for (; t.n_steps < steps; seed++) {
        episode(&s, seed, episode_steps);
        if (s.problem[0]) return failed(&s, s.problem, episode_steps);
        add_up(&t, &s);
        if (seed % TWICE_EVERY) continue;
        uint64_t trace = s.trace;
        episode(&s, seed, episode_steps);
        if (s.trace != trace) return failed(&s, "the same seed left another trace", episode_steps);
        add_up(&t, &s);
    }
    print_totals(&t, clock_us() - start);
    return 0;
}

int main(int argc, char **argv) {
    struct {
        const char *name;
        uint64_t value;
    } opt[] = {{"--steps", 100000}, {"--seed", 1}, {"--episode-steps", 3000}};
    for (int i = 1; i < argc; i += 2) {
        size_t k = 0;
        while (k < ARRAY_LEN(opt) && strcmp(argv[i], opt[k].name) != 0) k++;
        if (k == ARRAY_LEN(opt) || i + 1 == argc) {
            fprintf(stderr, "usage: sim [--steps N] [--seed S] [--episode-steps N]\n");
            return 2;
        }
        opt[k].value = strtoull(argv[i + 1], NULL, 10);
    }
    return run(opt[0].value, opt[1].value, opt[2].value);
}
