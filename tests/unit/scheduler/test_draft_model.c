/* Guesses by a second fake engine, which agrees with the first where a request's seed is 0 and
 * checks every read and write of its own pages: what they save, that they stop where they cost,
 * what is read again and what is not. tests/sim checks what holds in any mixture. */
#include "tests/unit/scheduler/bed.h"
#include "tests/unit/suite.h"

enum { STEP_US = 1000, MODEL_LEN = 1000 };

typedef struct pair {
    bed b;
    fake model;
    stepper st;
    uint64_t model_us, model_token_us; /* a step of the model, and each token of it */
    int32_t most_read;                 /* tokens in one step of the model */
} pair;

static void spend(void *ctx, const batch_plan *plan) {
    ((bed *)ctx)->now_us += STEP_US + (uint64_t)plan->n_tokens;
}

static void model_spend(void *ctx, const batch_plan *plan) {
    pair *p = ctx;
    p->b.now_us += p->model_us + p->model_token_us * (uint64_t)plan->n_tokens;
    p->most_read = MAX(p->most_read, plan->n_tokens);
}

static void open_pair(pair *p, int32_t n_pages, int32_t vocab, int32_t len, uint64_t model_us) {
    *p = (pair){.model_us = model_us};
    bed_fake(&p->b, n_pages, (scheduler_options){0});
    p->b.o = neutral(&p->b);
    p->b.o.max_drafts = 7;
    p->b.o.token_budget = 200;
    p->b.fake.spend = spend;
    p->b.fake.ctx = &p->b;
    fake_init(&p->model, S, n_pages, vocab);
    p->model.spend = model_spend;
    p->model.ctx = p;
    p->st = fake_stepper(&p->model, 300, 64, len);
    p->b.o.draft_model = &p->st;
    bed_open(&p->b);
}

static void close_pair(pair *p) {
    ck_assert_str_eq(p->model.problem, "");
    bed_done(&p->b);
    fake_done(&p->model);
}

static request *ask(pair *p, uint64_t text, int32_t n_prompt, int32_t max_tokens, uint64_t seed) {
    request *r = make(text, text, n_prompt, n_prompt, max_tokens);
    r->stream = false;
    r->params.seed = seed;
    return add(&p->b, r);
}

/* Run to the end; how many steps. Every token is the one without guesses. */
static int32_t finish(pair *p, request *r) {
    token_event e;
    int32_t n = 0, n_tokens = 0;
    while (core_n_requests(p->b.c) > 0) {
        ck_assert(step(&p->b));
        ck_assert_str_eq(p->model.problem, "");
        n++;
    }
    uint64_t h = fake_start(&p->b.fake, r->prompt, r->n_prompt, r->n_prompt + r->max_tokens, 0);
    for (int32_t i = 0; i < r->n_prompt; i++) h = fake_history(h, r->prompt[i]);
    while (spsc_pop(r->events, &e)) {
        ck_assert_int_eq(e.token, fake_next(&p->b.fake, h, &r->params, 0));
        h = fake_history(h, e.token);
        n_tokens++;
    }
    ck_assert_int_eq(n_tokens, r->max_tokens);
    request_unref(r);
    return n;
}

/* A small part of the time goes into trials: a hundredth, and the first. */
static void check_cheap(const pair *p) {
    const scheduler_stats *t = &p->b.c->stats;
    ck_assert_uint_le(t->draft_us_total * 80, t->step_us_total);
}

START_TEST(right_ones_save_steps) {
    pair p;
    open_pair(&p, 100, VOCAB, MODEL_LEN, 50);
    ck_assert_int_le(finish(&p, ask(&p, 1, 10, 200, 0)), 200 / 7 + 8);
    const scheduler_stats *t = &p.b.c->stats;
    ck_assert_uint_gt(t->draft_tokens, 150);
    ck_assert_uint_eq(t->draft_tokens_right, t->draft_tokens);
    ck_assert_uint_eq(t->draft_steps, p.model.n_steps);
    /* what it guessed right it need not read again, but for the last of them */
    ck_assert_uint_le(t->draft_read, 10 + 2 * t->n_drafts);
    close_pair(&p);
}
END_TEST

START_TEST(many_at_once) {
    pair p;
    request *r[6];
    open_pair(&p, 300, VOCAB, MODEL_LEN, 50);
    for (uint64_t i = 0; i < 6; i++) r[i] = ask(&p, i, 5 + 9 * (int32_t)i, 80, 0);
    for (int32_t i = 1; i < 6; i++) request_ref(r[i]);
    int32_t n = finish(&p, r[0]);
    ck_assert_int_le(n, 40);
    for (int32_t i = 1; i < 6; i++) (void)finish(&p, r[i]), request_unref(r[i]);
    /* one step of the model guesses for all */
    ck_assert_uint_gt(p.b.c->stats.draft_tokens, 3 * p.b.c->stats.draft_steps);
    close_pair(&p);
}
END_TEST

/* Guessing takes as long as computing. */
START_TEST(none_where_the_model_is_slow) {
    pair p;
    open_pair(&p, 300, VOCAB, MODEL_LEN, STEP_US);
    for (uint64_t i = 0; i < 3; i++) (void)finish(&p, ask(&p, i, 10, 600, 0));
    ck_assert_uint_le(p.b.c->stats.draft_tokens, 100);
    check_cheap(&p);
    close_pair(&p);
}
END_TEST

START_TEST(none_where_it_is_wrong) {
    pair p;
    open_pair(&p, 300, VOCAB, MODEL_LEN, 100);
    for (uint64_t i = 0; i < 3; i++) (void)finish(&p, ask(&p, i, 10, 800, 9));
    ck_assert_uint_eq(p.b.c->stats.draft_tokens_right, 0);
    ck_assert_uint_gt(p.b.c->stats.draft_tokens, 0);
    check_cheap(&p);
    close_pair(&p);
}
END_TEST

/* The prompt's pages have been read for the first who sent it. */
START_TEST(shared_pages_are_read_once) {
    pair p;
    open_pair(&p, 300, VOCAB, MODEL_LEN, 50);
    (void)finish(&p, ask(&p, 1, 121, 60, 0));
    uint64_t before = p.b.c->stats.draft_read, drafts = p.b.c->stats.n_drafts;
    (void)finish(&p, ask(&p, 1, 121, 60, 0));
    ck_assert_uint_gt(p.b.c->stats.n_drafts, drafts);
    ck_assert_uint_le(p.b.c->stats.draft_read - before, S + 2 * (p.b.c->stats.n_drafts - drafts));
    close_pair(&p);
}
END_TEST

/* Beside each step no more is read than takes as long as the step. */
START_TEST(long_texts_are_read_in_pieces) {
    pair p;
    open_pair(&p, 300, VOCAB, MODEL_LEN, 50);
    p.model_token_us = 10;
    (void)finish(&p, ask(&p, 1, 20, 100, 0)); /* learn what it takes */
    p.most_read = 0;
    (void)finish(&p, ask(&p, 2, 600, 100, 0));
    ck_assert_int_le(p.most_read, 150);
    ck_assert_uint_gt(p.b.c->stats.draft_read, 600);
    close_pair(&p);
}
END_TEST

/* Ids that it has not, or places: such texts go without. */
START_TEST(what_it_cannot_read) {
    pair p;
    open_pair(&p, 300, VOCAB / 2, MODEL_LEN, 50);
    (void)finish(&p, ask(&p, 1, 40, 60, 0));
    ck_assert_uint_eq(p.b.c->stats.draft_tokens, 0);
    close_pair(&p);
    open_pair(&p, 300, VOCAB, 50, 50);
    (void)finish(&p, ask(&p, 1, 20, 100, 0));
    ck_assert_uint_gt(p.b.c->stats.draft_tokens_right, 10);
    ck_assert_uint_le(p.b.c->stats.draft_tokens_right, 30);
    close_pair(&p);
}
END_TEST

static bool always(void *ctx) {
    (void)ctx;
    return true;
}

START_TEST(a_failed_guess_is_wrong) {
    pair p;
    open_pair(&p, 300, VOCAB, MODEL_LEN, 50);
    p.model.fail_seq = always;
    (void)finish(&p, ask(&p, 1, 20, 60, 0));
    ck_assert_uint_eq(p.b.c->stats.draft_tokens_right, 0);
    close_pair(&p);
}
END_TEST

START_TEST(a_lost_device_ends_all) {
    pair p;
    token_event e = {.finish = FINISH_NONE};
    open_pair(&p, 300, VOCAB, MODEL_LEN, 50);
    p.model.fail_device = always;
    request *r = ask(&p, 1, 20, 60, 0);
    while (core_n_requests(p.b.c) > 0) ck_assert(step(&p.b));
    while (spsc_pop(r->events, &e)) continue;
    ck_assert_int_eq(e.finish, FINISH_ERROR);
    ck_assert(core_failure(p.b.c));
    request_unref(r);
    close_pair(&p);
}
END_TEST

int main(void) {
    Suite *s = suite_create("draft model");
    TCase *t = tcase_create("all");
    tcase_add_test(t, right_ones_save_steps);
    tcase_add_test(t, many_at_once);
    tcase_add_test(t, none_where_the_model_is_slow);
    tcase_add_test(t, none_where_it_is_wrong);
    tcase_add_test(t, shared_pages_are_read_once);
    tcase_add_test(t, long_texts_are_read_in_pieces);
    tcase_add_test(t, what_it_cannot_read);
    tcase_add_test(t, a_failed_guess_is_wrong);
    tcase_add_test(t, a_lost_device_ends_all);
    suite_add_tcase(s, t);
    return suite_run(s);
}
