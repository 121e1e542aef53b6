/* Guesses at tokens on a core without threads over the fake engine, of a vocabulary of one or two
 * tokens, so that they are all right or half of them: what a plan holds, what they must not take,
 * what comes back. tests/sim checks what holds in any mixture. */
#include "tests/unit/scheduler/bed.h"
#include "tests/unit/suite.h"

enum { FEW = 2 };

static void spend(void *ctx, const batch_plan *plan) {
    bed *b = ctx;
    b->now_us += 1000 + (uint64_t)(b->token_us * (float)plan->n_tokens);
}

/* vocab 1: whatever is guessed is right. */
static void open_bed(bed *b, int32_t vocab, int32_t n_pages, scheduler_options o) {
    bed_fake(b, n_pages, o);
    b->fake.vocab = vocab;
    b->fake.spend = spend;
    b->fake.ctx = b;
    bed_open(b);
}

static request *ask(bed *b, int32_t n_prompt, int32_t max_tokens) {
    request *r = request_new(1 << 20);
    int32_t *p = arena_array(r->mem, (size_t)n_prompt, sizeof *p);
    for (int32_t i = 0; i < n_prompt; i++) p[i] = 0;
    r->prompt = p;
    r->n_prompt = n_prompt;
    r->max_tokens = max_tokens;
    return add(b, r);
}

static int32_t n_read(request *r, finish_reason *ret_why) {
    int32_t n = 0;
    token_event e;
    *ret_why = FINISH_NONE;
    while (spsc_pop(r->events, &e)) {
        n += e.token >= 0;
        *ret_why = e.finish;
    }
    return n;
}

static scheduler_options with_drafts(bed *b, int32_t most) {
    scheduler_options o = neutral(b);
    o.max_drafts = most;
    return o;
}

static int32_t run(bed *b) {
    int32_t n = 0;
    while (core_n_requests(b->c) > 0) {
        ck_assert(step(b));
        n++;
    }
    return n;
}

/* Rows cost nothing and guesses are right: as many as are allowed, and no token too many. */
START_TEST(right_ones_save_steps) {
    for (int32_t most = 0; most <= 7; most += 7) {
        bed b;
        finish_reason why;
        open_bed(&b, 1, 40, with_drafts(&b, most));
        request *r = ask(&b, 10, 41);
        int32_t n = run(&b);
        if (most)
            ck_assert_int_le(n, 1 + 5 + 2); /* 8 tokens a step but for the first few */
        else
            ck_assert_int_eq(n, 41);
        ck_assert_int_eq(n_read(r, &why), 41);
        ck_assert_int_eq(why, FINISH_LENGTH);
        ck_assert_uint_eq(b.c->stats.draft_tokens_right, b.c->stats.draft_tokens);
        ck_assert_int_eq(r->sched == NULL, 1);
        ck_assert_int_eq(r->times.n_accepted, (int32_t)b.c->stats.draft_tokens_right);
        request_unref(r);
        bed_done(&b);
    }
}
END_TEST

/* Each row takes as long as a step of one: nothing pays, and only a try now and then is made. */
START_TEST(none_where_rows_cost) {
    bed b;
    open_bed(&b, FEW, 80, with_drafts(&b, 7));
    b.token_us = 100000;
    request *r = ask(&b, 10, 200);
    int32_t n = run(&b);
    ck_assert_uint_le(b.c->stats.draft_tokens, (uint64_t)(2 * (1 + n / 32 + 8)));
    request_unref(r);
    bed_done(&b);
}
END_TEST

/* A stop id among right guesses ends it there: what stands behind is not told. */
START_TEST(a_stop_inside) {
    static const int32_t stop[] = {0};
    bed b;
    finish_reason why;
    open_bed(&b, 1, 40, with_drafts(&b, 7));
    request *r = request_new(1 << 20);
    int32_t *p = arena_array(r->mem, 8, sizeof *p);
    for (int32_t i = 0; i < 8; i++) p[i] = 0;
    r->prompt = p;
    r->n_prompt = 8;
    r->max_tokens = 60;
    r->params.stop_ids = stop;
    r->params.n_stop_ids = 1;
    r->params.min_tokens = 20;
    add(&b, r);
    (void)run(&b);
    ck_assert_int_eq(n_read(r, &why), 21);
    ck_assert_int_eq(why, FINISH_STOP);
    request_unref(r);
    bed_done(&b);
}
END_TEST

/* Steps of others' tokens are full: no guess goes before them; nor into the last pages. */
START_TEST(they_take_what_is_left) {
    bed b;
    scheduler_options o = with_drafts(&b, 7);
    o.token_budget = 9;
    open_bed(&b, 1, 13, o);
    request *r[3];
    for (int32_t i = 0; i < 3; i++) r[i] = ask(&b, 6, 30 + i);
    while (core_n_requests(b.c) > 0) {
        int32_t n_before = b.c->n_running;
        ck_assert(step(&b));
        const batch_plan *p = &b.c->last->plan;
        ck_assert_int_le(p->n_tokens, 9);
        if (p->n_drafts > 0 && b.c->n_running == n_before && p->n_seqs < n_before)
            ck_assert_msg(false, "%d of %d run beside %d drafts", p->n_seqs, n_before, p->n_drafts);
    }
    for (int32_t i = 0; i < 3; i++) request_unref(r[i]);
    ck_assert_uint_gt(b.c->stats.draft_tokens_right, 0);
    bed_done(&b);
}
END_TEST

/* Wrong ones leave no page behind, and no wrong page in the cache: the same text again is found and
 * goes on alike (the fake engine compares). */
START_TEST(wrong_ones_leave_nothing) {
    bed b;
    open_bed(&b, FEW, 200, with_drafts(&b, 30));
    for (int32_t round = 0; round < 3; round++) {
        request *r = ask(&b, 12, 150);
        while (core_n_requests(b.c) > 0) {
            ck_assert(step(&b));
            if (core_n_requests(b.c) == 0) break;
            const seq *s = &((const group *)r->sched)->seqs[0];
            ck_assert_int_le(s->n_pages, CEIL_DIV(s->n_known, S));
        }
        request_unref(r);
    }
    ck_assert_uint_gt(b.c->stats.draft_tokens, b.c->stats.draft_tokens_right + 50);
    ck_assert_uint_gt(b.c->stats.draft_tokens_right, 50);
    ck_assert_uint_gt(b.c->stats.prompt_tokens_cached, 8);
    bed_done(&b);
}
END_TEST

int main(void) {
    Suite *s = suite_create("drafts");
    TCase *t = tcase_create("all");
    tcase_add_test(t, right_ones_save_steps);
    tcase_add_test(t, none_where_rows_cost);
    tcase_add_test(t, a_stop_inside);
    tcase_add_test(t, they_take_what_is_left);
    tcase_add_test(t, wrong_ones_leave_nothing);
    suite_add_tcase(s, t);
    return suite_run(s);
}
