/* What the tests of the scheduler's core stand on: a core without threads over the fake engine
 * (tests/sim/fake.h), which checks every read and write, with a clock that the test moves. */
#ifndef TESTS_UNIT_SCHEDULER_BED_H
#define TESTS_UNIT_SCHEDULER_BED_H

#include <check.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "scheduler/core.h"
#include "scheduler/state.h"
#include "tests/sim/fake.h"

enum { VOCAB = 50000, S = 4 }; /* S tokens a page */

typedef struct bed {
    fake fake;
    uint64_t now_us;
    core *c;
    scheduler_options o;
    float token_us; /* test_swap: a step takes this, each token */
} bed;

static inline uint64_t bed_now(void *ctx) {
    return ((bed *)ctx)->now_us;
}

static inline scheduler_options neutral(bed *b) {
    return (scheduler_options){.max_running = 8,
                               .token_budget = 32,
                               .prefix_cache = true,
                               .stall_us = 1000000,
                               .clock = {bed_now, b}};
}

/* Set up the fake; then change what the test wants of it; then bed_open. */
static inline void bed_fake(bed *b, int32_t n_pages, scheduler_options o) {
    *b = (bed){.o = o};
    fake_init(&b->fake, S, n_pages, VOCAB);
    b->o.clock.ctx = b;
}

static inline void bed_open(bed *b) {
    b->c = core_new(&b->o, fake_stepper(&b->fake, 1000, 64, 1000), (hash_key){{5, 6}});
}

static inline void bed_done(bed *b) {
    core_abort(b->c);
    ck_assert_int_eq(b->c->pages.n_free, b->c->pages.n);
    ck_assert_int_eq(b->c->swap.slots.n_free, b->c->swap.slots.n);
    ck_assert(b->c->swap.slots.n == 0 || pages_consistent(&b->c->swap.slots));
    ck_assert_str_eq(b->fake.problem, "");
    core_free(b->c);
    fake_done(&b->fake);
}

/* Prompt: n_shared tokens of text `text`, then tokens of its own. */
static inline request *make(uint64_t id, uint64_t text, int32_t n_shared, int32_t n_prompt,
                            int32_t max_tokens) {
    request *r = request_new(1 << 20);
    int32_t *p = arena_array(r->mem, (size_t)n_prompt, sizeof *p);
    for (int32_t i = 0; i < n_prompt; i++)
        p[i] = (int32_t)(rng_philox(i < n_shared ? text : 1000 + id, 0, (uint64_t)i).x[0] % VOCAB);
    r->id = id;
    r->prompt = p;
    r->n_prompt = n_prompt;
    r->max_tokens = max_tokens;
    r->stream = true;
    return r;
}

static inline request *add(bed *b, request *r) {
    error e;
    request_arm(r);
    ck_assert_msg(core_prepare(b->c, r, &e) == OK, "%s", e.text);
    core_add(b->c, request_ref(r));
    return r;
}

static inline bool step(bed *b) {
    b->now_us += 100;
    bool worked = core_step(b->c, true);
    ck_assert_str_eq(b->fake.problem, "");
    return worked;
}

/* The entry of r's choice in the last plan; NULL: not planned. */
static inline const batch_seq *planned(const bed *b, const request *r, int32_t choice) {
    for (int32_t i = 0; i < b->c->last->plan.n_seqs; i++)
        if (b->c->last->plan.seqs[i].params == &r->params &&
            b->c->last->plan.seqs[i].choice == choice)
            return &b->c->last->plan.seqs[i];
    return NULL;
}

static inline int32_t n_planned(const bed *b, const request *r) {
    const batch_seq *s = planned(b, r, 0);
    return s ? s->n_tokens : 0;
}

#endif
