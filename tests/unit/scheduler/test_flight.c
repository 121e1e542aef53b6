/* Steps in flight, on a core without threads with a fake engine that takes two: what a step names
 * of the one before, and what becomes of those that end, leave, are thrown back or fail meanwhile.
 * tests/sim checks what holds in any mixture. */
#include "tests/unit/scheduler/bed.h"
#include "tests/unit/suite.h"

static void bed_ahead(bed *b, int32_t n_pages, scheduler_options o) {
    bed_fake(b, n_pages, o);
    b->fake.depth = 2;
    bed_open(b);
}

static int32_t n_tokens_read(request *r, finish_reason *ret_why) {
    int32_t n = 0;
    token_event e;
    *ret_why = FINISH_NONE;
    while (spsc_pop(r->events, &e)) {
        n += e.token >= 0;
        *ret_why = e.finish;
    }
    return n;
}

/* The step after a prompt is launched before the prompt's token is known; it says whose it takes.
 */
START_TEST(a_token_in_flight_is_chained) {
    bed b;
    finish_reason why;
    bed_ahead(&b, 40, neutral(&b));
    request *x = add(&b, make(1, 1, 0, 5, 4)), *y = add(&b, make(2, 2, 0, 40, 4));
    ck_assert(core_step(b.c, false));
    ck_assert_int_eq(b.c->n_flight, 1);
    ck_assert(!planned(&b, x, 0)->chained);
    ck_assert_int_eq(n_planned(&b, y), 27);
    ck_assert(core_step(b.c, false));
    const batch_seq *s = planned(&b, x, 0);
    ck_assert(s->chained);
    ck_assert_int_eq(s->chain, 0);
    ck_assert_int_eq(s->pos, 5);
    ck_assert_int_eq(s->n_known, 6);
    ck_assert_int_eq(planned(&b, y, 0)->pos, 27); /* where the step in flight stops */
    ck_assert(!planned(&b, y, 0)->chained);
    ck_assert_int_eq(n_tokens_read(x, &why), 1); /* of the first step only */
    while (core_step(b.c, false)) {
    }
    ck_assert_int_eq(n_tokens_read(x, &why), 3);
    ck_assert_int_eq(why, FINISH_LENGTH);
    /* the last token's step is the last that x is in: it is known to be the last */
    ck_assert_uint_eq(b.fake.n_tokens, 5 + 3 + 40 + 3);
    request_unref(x);
    request_unref(y);
    bed_done(&b);
}
END_TEST

/* A stop id ends it while its next step computes: that result is dropped, its pages are free at
 * once, the records stay as long as the step names them. */
START_TEST(a_stop_drops_what_is_in_flight) {
    bed b;
    finish_reason why;
    bed_ahead(&b, 40, neutral(&b));
    request *x = make(1, 1, 0, 6, 20);
    uint64_t h = fake_start(&b.fake, x->prompt, 6, 26, 0);
    for (int32_t i = 0; i < 6; i++) h = fake_history(h, x->prompt[i]);
    int32_t stop = fake_next(&b.fake, h, &x->params, 0);
    x->params.stop_ids = &stop;
    x->params.n_stop_ids = 1;
    x = add(&b, x);
    ck_assert(core_step(b.c, false));
    ck_assert(core_step(b.c, false)); /* launches the second, collects the first */
    ck_assert_int_eq(n_tokens_read(x, &why), 1);
    ck_assert_int_eq(why, FINISH_STOP);
    ck_assert_int_eq(b.c->n_flight, 1);
    ck_assert_int_eq(b.c->pages.n_free, b.c->pages.n);
    ck_assert_int_eq(core_n_requests(b.c), 1);
    ck_assert_ptr_nonnull(x->sched);
    ck_assert(core_step(b.c, false));
    ck_assert_int_eq(core_n_requests(b.c), 0);
    ck_assert_ptr_null(x->sched);
    ck_assert_int_eq(n_tokens_read(x, &why), 0);
    ck_assert(!core_step(b.c, false));
    request_unref(x);
    bed_done(&b);
}
END_TEST

/* A cancel is obeyed before the next plan, with a step in flight too. */
START_TEST(a_cancel_drops_what_is_in_flight) {
    bed b;
    finish_reason why;
    bed_ahead(&b, 40, neutral(&b));
    request *x = add(&b, make(1, 1, 0, 6, 20));
    for (int i = 0; i < 3; i++) ck_assert(core_step(b.c, false));
    ck_assert_int_eq(n_tokens_read(x, &why), 2);
    atomic_store(&x->cancel, true);
    ck_assert(core_step(b.c, true));
    ck_assert_int_eq(n_tokens_read(x, &why), 0);
    ck_assert_int_eq(why, FINISH_CANCEL);
    ck_assert_int_eq(b.c->n_flight, 0);
    ck_assert_int_eq(core_n_requests(b.c), 0);
    request_unref(x);
    bed_done(&b);
}
END_TEST

/* Thrown back while a step computes its next token: the token counts, the pages are gone. */
START_TEST(a_victim_keeps_its_token) {
    bed b;
    finish_reason why;
    bed_ahead(&b, 5, neutral(&b));
    request *x = add(&b, make(1, 1, 0, 7, 12)), *y = add(&b, make(2, 2, 0, 6, 12));
    int32_t n_y = 0;
    while (y->times.n_preempted == 0) {
        ck_assert(core_step(b.c, false));
        n_y += n_tokens_read(y, &why);
    }
    group *g = y->sched;
    ck_assert_int_eq(g->seqs[0].n_pages, 0);
    ck_assert_int_eq(g->seqs[0].n_known, 6 + n_y);
    ck_assert_int_eq(g->seqs[0].n_flight, 0); /* it was not in the step that threw it back */
    while (core_step(b.c, false)) n_y += n_tokens_read(y, &why);
    n_y += n_tokens_read(y, &why);
    ck_assert_int_eq(n_y, 12);
    ck_assert_int_eq(n_tokens_read(x, &why), 12);
    request_unref(x);
    request_unref(y);
    bed_done(&b);
}
END_TEST

static bool always(void *ctx) {
    return true;
}

/* Both steps in flight are lost with the device, and both are collected. */
START_TEST(a_failed_device_takes_all_flights) {
    bed b;
    finish_reason why;
    bed_ahead(&b, 40, neutral(&b));
    request *x = add(&b, make(1, 1, 0, 6, 20));
    ck_assert(core_step(b.c, false));
    b.fake.fail_device = always;
    ck_assert(core_step(b.c, false));
    ck_assert_int_eq(n_tokens_read(x, &why), 0);
    ck_assert_int_eq(why, FINISH_ERROR);
    ck_assert_int_eq(b.c->n_flight, 0);
    ck_assert_uint_eq(b.fake.n_collected, 2);
    ck_assert_int_eq(core_n_requests(b.c), 0);
    ck_assert_ptr_nonnull(core_failure(b.c));
    request_unref(x);
    bed_done(&b);
}
END_TEST

int main(void) {
    Suite *s = suite_create("scheduler/flight");
    TCase *tc = tcase_create("flight");
    tcase_add_test(tc, a_token_in_flight_is_chained);
    tcase_add_test(tc, a_stop_drops_what_is_in_flight);
    tcase_add_test(tc, a_cancel_drops_what_is_in_flight);
    tcase_add_test(tc, a_victim_keeps_its_token);
    tcase_add_test(tc, a_failed_device_takes_all_flights);
    suite_add_tcase(s, tc);
    return suite_run(s);
}
