/* The simulator's records: one episode = one random configuration of core, fake engine, virtual
 * clock and clients, run for some thousand steps and then drained. Everything is drawn from one
 * seed. */
#ifndef TESTS_SIM_SIM_H
#define TESTS_SIM_SIM_H

#include "scheduler/core.h"
#include "scheduler/state.h"
#include "tests/sim/fake.h"

enum { CLIENTS_MAX = 48, N_MAX = 5, POOL_MAX = 6, POOL_LEN = 96, LEN_MAX = 160 };

typedef struct rnd {
    uint64_t s;
} rnd;
uint64_t rnd_next(rnd *r);
static inline int32_t rnd_in(rnd *r, int32_t lo, int32_t hi) { /* inclusive */
    return lo + (int32_t)(rnd_next(r) % (uint64_t)(hi - lo + 1));
}
static inline bool rnd_one_in(rnd *r, int32_t n) {
    return n > 0 && rnd_next(r) % (uint64_t)n == 0;
}

/* What the simulator expects of one choice. */
typedef struct choice {
    uint64_t history; /* of all tokens so far */
    int32_t n_out;
    bool is_ended;
    bool done_set;   /* choice_done was set: FINISH_STOP is due */
    bool done_due;   /* it was set before the step under way */
    int32_t done_at; /* set it after so many tokens; -1: never */
} choice;

/* One front end's view of one request. */
typedef struct client {
    request *r; /* NULL: a free place */
    choice c[N_MAX];
    int32_t len_max; /* where the context or the cache ends a choice */
    int32_t n_ended;
    int32_t read_one_in; /* reads its ring every so many steps; 0: never again */
    int32_t cancel_in;   /* steps; -1: never */
    bool cancel_set;
    bool leaves;  /* drops its reference together with the cancel */
    bool saw_end; /* on_ready told of it after its end */
    uint64_t id;
} client;

/* A sequence before a step, to compare with after it. */
typedef struct before {
    client *cl;
    uint64_t id;
    int32_t choice, n_launched, n_deferred;
    uint8_t state;
    bool is_returning;
    bool is_over;     /* nothing can be planned for it before a step in flight is done */
    bool is_promised; /* its ring may have room but for what is promised */
} before;

typedef struct sim {
    uint64_t seed, now_us, now_us_max; /* the clock may jump back a little */
    rnd rnd;
    core *core;
    fake fake, model; /* model: the one that guesses, where has_model */
    bool has_model;
    scheduler_options o;
    stepper st, model_st;
    client clients[CLIENTS_MAX];
    int32_t pool[POOL_MAX][POOL_LEN];
    int32_t n_pool, n_tenants, n_max, prompt_max, output_max, priorities;
    /* one in so many; 0: never */
    int32_t arrive, slow, cancels, dones, deadlines, device_faults, seq_faults, jumps, echoes;
    int32_t token_us, model_us; /* what a token of a step takes, one of the model's */
    bool poked, device_failed, aborted;
    uint64_t n_steps, n_requests, n_tokens, n_seq_faults;
    uint64_t trace; /* all events seen and all plans */
    scheduler_stats st_end;
    before was[CLIENTS_MAX * N_MAX];
    int32_t n_was;
    uint64_t n_preemptions_was, n_ended_was;
    char problem[512];
} sim;

#define SIM_FAIL(s, ...)                                                                           \
    do {                                                                                           \
        if (!(s)->problem[0]) snprintf((s)->problem, sizeof(s)->problem, __VA_ARGS__);             \
    } while (0)

/* client.c */
void clients_arrive(sim *s); /* maybe submit a new request */
void clients_act(sim *s);    /* read, cancel, set choice_done */
void client_read(sim *s, client *c);
void clients_ready(sim *s, request **ready, int32_t n);
bool clients_idle(const sim *s); /* every request ended and was read */

/* invariants.c */
void invariants_before(sim *s); /* remember */
void invariants_after(sim *s);
void invariants_end(sim *s); /* nothing is in flight: all has come back */

#endif
