/* The scheduler as a front end sees it: submit, events, cancel, drain, stop, failures; with the
 * fake engine behind it and several threads in front. Run under TSan too. */
#include <check.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/base/thread.h"
#include "scheduler/scheduler.h"
#include "tests/unit/suite.h"
#include "tests/sim/fake.h"

enum { VOCAB = 50000 };

typedef struct setup {
    fake fake;
    scheduler *s;
    _Atomic int n_ready;
    _Atomic bool fails; /* the device, from now on */
    waker news;
} setup;

static bool device_fails(void *ctx) {
    return atomic_load(&((setup *)ctx)->fails);
}

static void on_ready(void *ctx, request **ready, int32_t n) {
    setup *t = ctx;
    atomic_fetch_add(&t->n_ready, n);
    waker_signal(&t->news);
}

static int32_t depth; /* steps in flight: all tests are run with one and with two */

static void one_at_a_time(void) {
    depth = 1;
}

static void two_at_a_time(void) {
    depth = 2;
}

static void setup_init(setup *t, int32_t n_pages, int32_t max_waiting) {
    *t = (setup){0};
    fake_init(&t->fake, 4, n_pages, VOCAB);
    t->fake.depth = depth;
    t->fake.ctx = t;
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

static answer finish_from(setup *t, request *r, answer a, uint64_t *history) {
    uint64_t until = clock_us() + 20000000;
    while (a.n_finished < r->n) {
        take(t, r, &a, history);
        if (a.n_finished < r->n) (void)waker_wait(&t->news, 10000);
        ck_assert_msg(clock_us() < until, "request %llu does not end", (unsigned long long)r->id);
    }
    return a;
}

static answer finish(setup *t, request *r) {
    uint64_t history[16] = {0};
    return finish_from(t, r, (answer){0}, history);
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
    ck_assert_uint_eq(st.step_tokens_total, 21 + 3 * 9 + 2); /* two choices fork at a token */
    ck_assert_uint_eq(st.finished[FINISH_LENGTH], 3);
    ck_assert_int_eq(st.pages_used, 0);
    setup_done(&t);
}
END_TEST

START_TEST(what_cannot_run_is_refused) {
    setup t;
    setup_init(&t, 8, 4); /* 32 tokens of cache */
    error e;
    request *r = make(1, 33, 1, 1);
    ck_assert(scheduler_submit(t.s, r, &e) == ERR_INVALID);
    ck_assert_str_eq(e.param, "prompt");
    ck_assert(strstr(e.text, "33") && strstr(e.text, "32"));
    request_unref(r);
    r = make(2, 4, 1, 1);
    ((int32_t *)r->prompt)[2] = VOCAB;
    ck_assert(scheduler_submit(t.s, r, &e) == ERR_INVALID);
    request_unref(r);
    r = make(3, 1, 1, 1);
    r->n_prompt = 0;
    ck_assert(scheduler_submit(t.s, r, &e) == ERR_INVALID);
    request_unref(r);
    scheduler_stats st;
    scheduler_stats_get(t.s, &st);
    ck_assert_uint_eq(st.n_rejected, 3);
    setup_done(&t);
}
END_TEST

START_TEST(full_queue_is_an_answer) {
    setup t;
    setup_init(&t, 64, 3);
    request *r[4];
    error e;
    for (int i = 0; i < 4; i++) {
        r[i] = make((uint64_t)i + 1, 9, 5, 1);
        ck_assert(scheduler_submit(t.s, r[i], &e) == (i < 3 ? OK : ERR_BUSY));
    }
    scheduler_start(t.s);
    for (int i = 0; i < 3; i++) ck_assert_int_eq(finish(&t, r[i]).n_tokens, 5);
    ck_assert(scheduler_submit(t.s, r[3], &e) == OK);
    ck_assert_int_eq(finish(&t, r[3]).n_tokens, 5);
    for (int i = 0; i < 4; i++) request_unref(r[i]);
    setup_done(&t);
}
END_TEST

/* A request that goes on for long: the cache of 800 pages holds it. */
static request *start_long(setup *t, int32_t n) {
    setup_init(t, 800, 4);
    request *r = make(1, 20, 3000, n);
    ck_assert(scheduler_submit(t->s, r, NULL) == OK);
    scheduler_start(t->s);
    while (spsc_count(r->events) == 0) (void)waker_wait(&t->news, 10000);
    return r;
}

static int32_t pages_used_after(setup *t) {
    while (!scheduler_drain(t->s)) sched_yield();
    scheduler_stats st;
    scheduler_stats_get(t->s, &st);
    return st.pages_used;
}

START_TEST(cancel_frees_at_once) {
    setup t;
    request *r = start_long(&t, 2);
    atomic_store(&r->cancel, true);
    scheduler_poke(t.s);
    answer a = finish(&t, r);
    ck_assert_int_eq(a.last, FINISH_CANCEL);
    ck_assert_int_eq(r->err.code, ERR_CANCELLED);
    ck_assert_int_eq(pages_used_after(&t), 0);
    request_unref(r);
    setup_done(&t);
}
END_TEST

START_TEST(one_choice_is_done) {
    setup t;
    request *r = start_long(&t, 2);
    atomic_store(&r->choice_done[0], 1);
    scheduler_poke(t.s);
    answer a = {0};
    uint64_t history[16] = {0};
    while (a.n_finished < 1) take(&t, r, &a, history);
    ck_assert_int_eq(a.last, FINISH_STOP);
    ck_assert_int_eq(finish_from(&t, r, a, history).last, FINISH_LENGTH);
    request_unref(r);
    setup_done(&t);
}
END_TEST

START_TEST(drain_lets_finish_and_takes_no_more) {
    setup t;
    request *r = start_long(&t, 1), *late = make(2, 5, 5, 1);
    error e;
    (void)scheduler_drain(t.s);
    ck_assert(scheduler_submit(t.s, late, &e) == ERR_UNAVAILABLE);
    ck_assert_int_eq(finish(&t, r).n_tokens, 3000);
    ck_assert_int_eq(pages_used_after(&t), 0);
    request_unref(late);
    request_unref(r);
    setup_done(&t);
}
END_TEST

START_TEST(stop_ends_what_runs) {
    setup t;
    request *r = start_long(&t, 1);
    scheduler_stop(t.s);
    ck_assert_int_eq(finish(&t, r).last, FINISH_CANCEL);
    ck_assert_int_eq(r->err.code, ERR_UNAVAILABLE);
    request_unref(r);
    setup_done(&t);
}
END_TEST

START_TEST(failed_device_ends_all_and_says_so) {
    setup t;
    setup_init(&t, 64, 4);
    t.fake.fail_device = device_fails;
    scheduler_start(t.s);
    request *r = make(1, 9, 20, 2), *late = make(2, 9, 20, 1);
    atomic_store(&t.fails, true);
    ck_assert(scheduler_submit(t.s, r, NULL) == OK);
    ck_assert_int_eq(finish(&t, r).last, FINISH_ERROR);
    ck_assert_int_eq(r->err.code, ERR_DEVICE);
    ck_assert_int_eq(pages_used_after(&t), 0);
    scheduler_stats st;
    scheduler_stats_get(t.s, &st);
    ck_assert(!st.healthy);
    ck_assert(scheduler_submit(t.s, late, NULL) == ERR_UNAVAILABLE);
    request_unref(r);
    request_unref(late);
    setup_done(&t);
}
END_TEST

START_TEST(stalled_reader_is_cut) {
    setup t;
    setup_init(&t, 800, 4);
    request *r = request_new(1 << 20);
    static const int32_t prompt[] = {1, 2, 3};
    r->prompt = prompt;
    r->n_prompt = 3;
    r->max_tokens = 1000;
    r->ring_max = 8;
    r->stream = true;
    request_arm(r);
    scheduler_start(t.s);
    ck_assert(scheduler_submit(t.s, r, NULL) == OK);
    while (!scheduler_drain(t.s)) usleep(1000); /* nobody reads */
    answer a = finish(&t, r);
    ck_assert_int_eq(a.n_tokens, 7);
    ck_assert_int_eq(a.last, FINISH_CANCEL);
    ck_assert_int_eq(r->err.code, ERR_TIMEOUT);
    request_unref(r);
    setup_done(&t);
}
END_TEST

/* A reader that is slow but reads gets everything. */
START_TEST(slow_reader_gets_all) {
    setup t;
    setup_init(&t, 800, 4);
    request *r = request_new(1 << 20);
    static const int32_t prompt[] = {1, 2, 3};
    r->prompt = prompt;
    r->n_prompt = 3;
    r->max_tokens = 100;
    r->ring_max = 4;
    request_arm(r);
    scheduler_start(t.s);
    ck_assert(scheduler_submit(t.s, r, NULL) == OK);
    answer a = {0};
    uint64_t history[16] = {0};
    while (a.n_finished < 1) {
        usleep(500);
        take(&t, r, &a, history);
    }
    ck_assert_int_eq(a.n_tokens, 100);
    request_unref(r);
    setup_done(&t);
}
END_TEST

START_TEST(deadline_ends_it) {
    setup t;
    setup_init(&t, 800, 4);
    request *r = make(1, 20, 3000, 1);
    r->deadline_us = clock_us() + 2000;
    r->ring_max = 16; /* full at once: it waits for its reader until the deadline */
    scheduler_start(t.s);
    ck_assert(scheduler_submit(t.s, r, NULL) == OK);
    while (!scheduler_drain(t.s)) usleep(1000);
    ck_assert_uint_ge(clock_us(), r->deadline_us);
    answer a = finish(&t, r);
    ck_assert_int_eq(a.last, FINISH_CANCEL);
    ck_assert_int_eq(r->err.code, ERR_TIMEOUT);
    request_unref(r);
    setup_done(&t);
}
END_TEST

START_TEST(echo_only_ends_after_the_prompt) {
    setup t;
    setup_init(&t, 64, 4);
    request *r = make(1, 30, 0, 2);
    r->prompt_out = arena_array(r->mem, 30, sizeof *r->prompt_out);
    scheduler_start(t.s);
    ck_assert(scheduler_submit(t.s, r, NULL) == OK);
    answer a = finish(&t, r);
    ck_assert_int_eq(a.n_tokens, 0);
    ck_assert_int_eq(a.last, FINISH_LENGTH);
    for (int p = 1; p < 30; p++) ck_assert_int_eq(r->prompt_out[p].token, r->prompt[p]);
    request_unref(r);
    setup_done(&t);
}
END_TEST

START_TEST(a_request_that_does_not_stream_is_told_once) {
    setup t;
    setup_init(&t, 64, 4);
    request *r = make(1, 9, 50, 2);
    r->stream = false;
    r->ring_max = 1000;
    scheduler_start(t.s);
    ck_assert(scheduler_submit(t.s, r, NULL) == OK);
    while (!scheduler_drain(t.s)) usleep(1000);
    ck_assert_int_eq(finish(&t, r).n_tokens, 100);
    ck_assert_int_le(atomic_load(&t.n_ready), 52); /* half full: the second half tells */
    request_unref(r);
    setup_done(&t);
}
END_TEST

START_TEST(idle_costs_nothing) {
    setup t;
    setup_init(&t, 64, 4);
    scheduler_start(t.s);
    usleep(20000);
    clock_t before = clock();
    usleep(200000);
    ck_assert_int_lt((int)((clock() - before) * 1000 / CLOCKS_PER_SEC), 20);
    setup_done(&t);
}
END_TEST

/* --- several front ends at once --- */

enum { FRONTS = 4, EACH = 60 };

static void *front_run(void *arg) {
    setup *t = ((void **)arg)[0];
    uint64_t me = (uint64_t)(uintptr_t)((void **)arg)[1];
    for (uint64_t i = 0; i < EACH; i++) {
        rng_block x = rng_philox(me, 7, i);
        request *r = make(me * 1000 + i, 1 + (int32_t)(x.x[0] % 40), 1 + (int32_t)(x.x[1] % 40),
                          1 + (int32_t)(x.x[2] % 3));
        while (scheduler_submit(t->s, r, NULL) != OK) usleep(200);
        if (x.x[3] % 4 == 0) {
            usleep(x.x[3] % 300);
            atomic_store(&r->cancel, true);
            scheduler_poke(t->s);
        }
        if (x.x[3] % 8 != 0) { /* else it leaves without reading */
            answer a = finish(t, r);
            ck_assert(a.last != FINISH_ERROR);
        }
        request_unref(r);
    }
    return NULL;
}

START_TEST(many_fronts_one_engine) {
    setup t;
    setup_init(&t, 60, 8);
    scheduler_start(t.s);
    pthread_t th[FRONTS];
    void *arg[FRONTS][2];
    for (int i = 0; i < FRONTS; i++) {
        arg[i][0] = &t;
        arg[i][1] = (void *)(uintptr_t)(i + 1);
        th[i] = thread_start("front", front_run, arg[i]);
    }
    for (int i = 0; i < 50; i++) {
        scheduler_stats st;
        scheduler_stats_get(t.s, &st);
        ck_assert_int_le(st.pages_used + st.pages_cached, st.pages_total);
        usleep(1000);
    }
    for (int i = 0; i < FRONTS; i++) pthread_join(th[i], NULL);
    ck_assert_int_eq(pages_used_after(&t), 0);
    setup_done(&t);
}
END_TEST

static TCase *cases(const char *name, void (*setup_depth)(void)) {
    TCase *tc = tcase_create(name);
    tcase_add_checked_fixture(tc, setup_depth, NULL);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, one_request_from_submit_to_finish);
    tcase_add_test(tc, what_cannot_run_is_refused);
    tcase_add_test(tc, full_queue_is_an_answer);
    tcase_add_test(tc, cancel_frees_at_once);
    tcase_add_test(tc, one_choice_is_done);
    tcase_add_test(tc, drain_lets_finish_and_takes_no_more);
    tcase_add_test(tc, stop_ends_what_runs);
    tcase_add_test(tc, failed_device_ends_all_and_says_so);
    tcase_add_test(tc, stalled_reader_is_cut);
    tcase_add_test(tc, slow_reader_gets_all);
    tcase_add_test(tc, deadline_ends_it);
    tcase_add_test(tc, echo_only_ends_after_the_prompt);
    tcase_add_test(tc, a_request_that_does_not_stream_is_told_once);
    tcase_add_test(tc, idle_costs_nothing);
    tcase_add_test(tc, many_fronts_one_engine);
    return tc;
}

int main(void) {
    Suite *s = suite_create("scheduler/loop");
    suite_add_tcase(s, cases("one step in flight", one_at_a_time));
    suite_add_tcase(s, cases("two", two_at_a_time));
    return suite_run(s);
}
