/* The scheduler as a front end sees it: submit, events, cancel, drain, stop, failures; with the
 * fake engine behind it and several threads in front. Run under TSan too. */
#include <check.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/base/thread.h"
#include "scheduler/scheduler.h"
#include "tests/sim/fake.h"

enum { VOCAB = 50000 };

typedef struct setup {
    fake fake;
    scheduler *s;
    _Atomic int n_ready;
    waker news;
} setup;

static void on_ready(void *ctx, request **ready, int32_t n) {
    setup *t = ctx;
    atomic_fetch_add(&t->n_ready, n);
    waker_signal(&t->news);
}

static void setup_init(setup *t, int32_t n_pages, int32_t max_waiting) {
    *t = (setup){0};
    fake_init(&t->fake, 4, n_pages, VOCAB);
    waker_init(&t->news);
    scheduler_options o = {.max_running = 16,
                           .max_waiting = max_waiting,
                           .token_budget = 64,
                           .prefix_cache = true,
                           .stall_us = 50000,
                           .clock = clock_monotonic(),
                           .on_ready = on_ready,
                           .ctx = t};
    t->s = scheduler_new(&o, fake_stepper(&t->fake, 64, 16, 4000));
}

static void setup_done(setup *t) {
    scheduler_free(t->s);
    ck_assert_str_eq(t->fake.problem, "");
    waker_done(&t->news);
    fake_done(&t->fake);
}

static request *make(uint64_t id, int32_t n_prompt, int32_t max_tokens, int32_t n) {
    request *r = request_new(1 << 20);
    int32_t *p = arena_array(r->mem, (size_t)n_prompt, sizeof *p);
    for (int32_t i = 0; i < n_prompt; i++)
        p[i] = (int32_t)(rng_philox(i < 8 ? 1 : id, 0, (uint64_t)i).x[0] % VOCAB);
    r->id = id;
    r->prompt = p;
    r->n_prompt = n_prompt;
    r->max_tokens = max_tokens;
    r->n = n;
    r->stream = true;
    r->params.seed = id;
    r->arrival_us = clock_us();
    request_arm(r);
    return r;
}

typedef struct answer {
    int32_t n_tokens, n_finished;
    finish_reason last;
} answer;

/* Read what is there; check each token of a choice against the fake's own answer. */
static void take(const setup *t, request *r, answer *a, uint64_t *history) {
    token_event e;
    while (spsc_pop(r->events, &e)) {
        ck_assert(e.choice >= 0 && e.choice < r->n);
        if (e.token >= 0) {
            uint64_t *h = &history[e.choice];
            if (!*h)
                for (int32_t i = 0; i < r->n_prompt; i++) *h = fake_history(*h, r->prompt[i]);
            ck_assert_int_eq(e.token, fake_next(&t->fake, *h, &r->params, e.choice));
            *h = fake_history(*h, e.token);
            a->n_tokens++;
        }
        if (e.finish != FINISH_NONE) a->n_finished++, a->last = e.finish;
    }
}

static answer finish(setup *t, request *r) {
    answer a = {0};
    uint64_t history[16] = {0};
    uint64_t until = clock_us() + 20000000;
    while (a.n_finished < r->n) {
        take(t, r, &a, history);
        if (a.n_finished < r->n) (void)waker_wait(&t->news, 10000);
        ck_assert_msg(clock_us() < until, "request %llu does not end", (unsigned long long)r->id);
    }
    return a;
}

START_TEST(one_request_from_submit_to_finish) {
    setup t;
    setup_init(&t, 64, 4);
    scheduler_start(t.s);
    request *r = make(1, 21, 10, 3);
    ck_assert(scheduler_submit(t.s, r, NULL) == OK);
    answer a = finish(&t, r);
    ck_assert_int_eq(a.n_tokens, 30);
    ck_assert_int_eq(a.last, FINISH_LENGTH);
    ck_assert(r->times.scheduled_us && r->times.first_token_us >= r->times.scheduled_us);
    ck_assert(r->times.finished_us >= r->times.first_token_us);
    request_unref(r);
    while (!scheduler_drain(t.s)) sched_yield();
    scheduler_stats st;
    scheduler_stats_get(t.s, &st);
    ck_assert_uint_eq(st.generation_tokens, 30);
    ck_assert_uint_eq(st.finished[FINISH_LENGTH], 3);
    ck_assert_int_eq(st.pages_used, 0);
    setup_done(&t);
}
END_TEST

int main(void) {
    Suite *s = suite_create("scheduler/loop");
    TCase *tc = tcase_create("loop");
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, one_request_from_submit_to_finish);
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    int n = srunner_ntests_failed(sr);
    srunner_free(sr);
    return n != 0;
}
