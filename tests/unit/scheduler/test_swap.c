/* The second tier: what a token costs, when moving pays, and what the core moves when. */
#include "tests/unit/scheduler/bed.h"
#include "tests/unit/suite.h"

/* --- the decision --- */

START_TEST(a_token_costs_the_slope) {
    token_cost t = {0};
    for (int i = 0; i < 40; i++) {
        int n = 1 + i * 37 % 200;
        token_cost_add(&t, n, 5000 + 20.0 * n);
        if (i < 4) ck_assert_double_eq(t.us, 0); /* too few to tell */
    }
    ck_assert_double_eq_tol(t.us, 20, 1e-6);
    for (int i = 0; i < 2000; i++) token_cost_add(&t, i % 2 ? 10 : 300, i % 2 ? 500 : 3400);
    ck_assert_double_eq_tol(t.us, 10, 0.1); /* the past is forgotten */
}
END_TEST

/* Steps of one size do not tell what a token costs, whatever they take: what was known stays. */
START_TEST(equal_steps_say_nothing) {
    token_cost t = {0};
    for (int i = 0; i < 100; i++) token_cost_add(&t, 64, 20000);
    ck_assert_double_eq(t.us, 0);
    for (int i = 0; i < 20; i++) token_cost_add(&t, 64 + i * 16, 20000 + i * 16 * 30.0);
    ck_assert_double_eq_tol(t.us, 30, 0.5);
    double before = t.us;
    for (int i = 0; i < 5000; i++) token_cost_add(&t, 64 + i % 3, 90000 + i);
    ck_assert_double_eq_tol(t.us, before, before * 0.5);
    before = t.us;
    for (int i = 0; i < 5000; i++) token_cost_add(&t, 64, 90000);
    ck_assert_double_eq(t.us, before);
    for (int i = 0; i < 100; i++) token_cost_add(&t, i % 2 ? 100 : 200, i % 2 ? 9000 : 1000);
    ck_assert_double_gt(t.us, 0); /* a slope below zero is noise */
}
END_TEST

START_TEST(both_ways_against_computing) {
    ck_assert(swap_pays(79, 10, 16));
    ck_assert(!swap_pays(80, 10, 16));
    ck_assert(swap_pays(0, 10, 16));
    ck_assert(swap_pays(1e9, 0, 16)); /* nothing known yet */
}
END_TEST

/* --- the core --- */

static void bed_spend(void *ctx, const batch_plan *plan) {
    bed *b = ctx;
    int32_t n_waited = 0;
    for (int32_t i = 0; i < plan->n_moves; i++) n_waited += !plan->moves[i].aside;
    b->now_us += 10 + (uint64_t)(b->token_us * (float)plan->n_tokens) +
                 (uint64_t)(b->fake.page_move_us * (float)n_waited);
}

static void bed_swap(bed *b, int32_t n_pages, int32_t n_slots, float move_us, bool prefix_cache) {
    scheduler_options o = neutral(b);
    o.token_budget = 64;
    o.prefix_cache = prefix_cache;
    bed_fake(b, n_pages, o);
    fake_host(&b->fake, n_slots, move_us);
    b->token_us = 10;
    b->fake.spend = bed_spend;
    b->fake.ctx = b;
    bed_open(b);
}

static void bed_init(bed *b, int32_t n_pages, int32_t n_slots, float move_us) {
    bed_swap(b, n_pages, n_slots, move_us, true);
}

/* A prompt of so many tokens of text `text`. */
static request *of(uint64_t text, int32_t n_prompt, int32_t max_tokens) {
    static uint64_t id;
    return make(++id, text, n_prompt, n_prompt, max_tokens);
}

static void drain(bed *b) {
    while (step(b)) {
    }
}

/* Runs one request to its end; how many prompt tokens came from the cache. */
static int32_t run(bed *b, request *r) {
    add(b, r);
    drain(b);
    int32_t n = r->times.n_cached;
    ck_assert_int_eq(r->err.code, OK);
    request_unref(r);
    return n;
}

/* 10 pages, texts of 8: the second pushes the first out, the first comes back. */
START_TEST(evicted_pages_come_back) {
    bed b;
    bed_init(&b, 10, 20, 1);
    ck_assert_int_eq(run(&b, of(1, 32, 1)), 0);
    ck_assert_int_eq(b.fake.n_out, 0);
    ck_assert_int_eq(run(&b, of(2, 32, 1)), 0);
    ck_assert_int_eq(b.fake.n_out, 8); /* 6, since 2 were blank, and the others ahead */
    ck_assert_int_eq(b.fake.n_aside, 2);
    ck_assert_int_eq(run(&b, of(1, 32, 1)), 28);
    ck_assert_int_eq(b.fake.n_in, 5); /* 2 were still there, the last is computed */
    ck_assert_uint_eq(b.c->stats.prefix_hits, 28);
    bed_done(&b);
}
END_TEST

/* What the host has already is not moved there again. */
START_TEST(moved_out_once) {
    bed b;
    bed_init(&b, 8, 20, 1);
    for (int i = 0; i < 10; i++) run(&b, of((uint64_t)i % 2, 32, 1));
    ck_assert_int_eq(b.fake.n_out, 16);
    ck_assert_int_eq(b.c->swap.slots.n_cached, 16);
    ck_assert_int_eq(b.fake.n_in, 8 * 7);
    bed_done(&b);
}
END_TEST

/* A preempted sequence computes again what was in its last, partly filled page, no more. */
START_TEST(preempted_sequences_come_back) {
    bed with, without;
    bed_init(&with, 16, 64, 1);
    bed_init(&without, 16, 0, 0);
    bed *beds[] = {&with, &without};
    for (int k = 0; k < 2; k++) {
        request *r[3];
        for (uint64_t i = 0; i < 3; i++) r[i] = add(beds[k], of(10 + i, 8, 30));
        drain(beds[k]);
        for (int i = 0; i < 3; i++) {
            ck_assert_int_eq(r[i]->err.code, OK);
            request_unref(r[i]);
        }
        ck_assert_uint_gt(beds[k]->c->stats.n_preemptions, 0);
    }
    uint64_t n = with.c->stats.n_preemptions;
    ck_assert_uint_gt(with.fake.n_in, 0);
    ck_assert_uint_lt(with.c->stats.prompt_tokens_recomputed, n * S);
    ck_assert_uint_gt(without.c->stats.prompt_tokens_recomputed,
                      with.c->stats.prompt_tokens_recomputed);
    bed_done(&with);
    bed_done(&without);
}
END_TEST

/* What the next plans will take is moved out beside the steps: none has to wait. */
START_TEST(moved_ahead) {
    bed b;
    bed_init(&b, 24, 100, 1);
    for (int i = 0; i < 3; i++) run(&b, of((uint64_t)i, 32, 1));
    request *r = add(&b, of(9, 32, 40)); /* 18 pages */
    drain(&b);
    request_unref(r);
    ck_assert_uint_eq(b.fake.n_out, 24);
    ck_assert_uint_eq(b.fake.n_aside, 24);
    bed_done(&b);
}
END_TEST

/* A text of many pages comes back page by page beside the steps of one that runs. */
START_TEST(fetched_beside_others) {
    bed b;
    bed_init(&b, 40, 100, 10);
    request *runs = add(&b, of(50, 4, 100));
    for (uint64_t i = 1; i <= 7; i++) {
        bool is_back = i == 7;
        ck_assert(step(&b)); /* of one token: short, so there is time for one page */
        request *r = add(&b, of(is_back ? 1 : i, 32, 1));
        uint64_t n_steps = b.fake.n_steps, n_in = b.fake.n_in;
        while (r->sched) ck_assert(step(&b));
        ck_assert_int_eq(r->times.n_cached, is_back ? 28 : 0);
        ck_assert_uint_eq(b.fake.n_in - n_in, is_back ? 7 : 0);
        if (is_back) ck_assert_uint_ge(b.fake.n_steps - n_steps, 8);
        request_unref(r);
    }
    ck_assert_uint_eq(b.fake.n_fetched, 7);
    ck_assert(runs->sched);
    request_unref(runs);
    bed_done(&b);
}
END_TEST

/* The slots not used for longest are given away. */
START_TEST(full_host_drops_the_oldest) {
    bed b;
    bed_init(&b, 8, 16, 1);
    run(&b, of(1, 32, 1));
    run(&b, of(2, 32, 1)); /* 1 goes out */
    run(&b, of(3, 32, 1)); /* 2 goes out: full */
    run(&b, of(1, 32, 1)); /* 3 goes out in place of 2, since 1 is wanted just now */
    ck_assert_int_eq(b.c->swap.slots.n_cached, 16);
    ck_assert_int_eq(run(&b, of(3, 32, 1)), 28);
    ck_assert_int_eq(run(&b, of(1, 32, 1)), 28);
    ck_assert_int_eq(run(&b, of(2, 32, 1)), 0);
    bed_done(&b);
}
END_TEST

START_TEST(a_slow_link_is_left_alone) {
    bed b;
    bed_init(&b, 10, 50, 20);
    b.token_us = 1;
    for (int i = 0; i < 30; i++) run(&b, of(100 + (uint64_t)i, 5 + i % 26, 2));
    uint64_t n_out = b.fake.n_out; /* while nothing was known */
    ck_assert_double_eq_tol(b.c->swap.cost.us, 1, 0.2);
    for (int i = 0; i < 5; i++) run(&b, of(7 + (uint64_t)i, 32, 1));
    ck_assert_uint_eq(b.fake.n_out, n_out);
    ck_assert_int_eq(run(&b, of(7, 32, 1)), 0);
    ck_assert_uint_eq(b.fake.n_in, 0);
    bed_done(&b);
}
END_TEST

/* A plan in which a sequence takes pages and is then thrown back itself: nothing runs, but what was
 * evicted must still be moved before the pages are written. */
START_TEST(moves_outlive_an_empty_plan) {
    bed b;
    bed_init(&b, 8, 20, 1);
    run(&b, of(1, 32, 1));
    request *r = add(&b, of(2, 4, 1));
    plan_build(b.c); /* launched by nobody */
    apply_nothing(b.c, b.c->last);
    ck_assert_int_eq(b.c->last->plan.n_seqs, 1);
    ck_assert_int_gt(b.c->last->plan.n_moves, 1);
    ck_assert(!b.c->last->plan.moves[0].aside);
    ck_assert(b.c->last->plan.moves[1].aside);
    int32_t id = b.c->last->plan.moves[1].page;
    seq_preempt(b.c, b.c->running[0]);
    request *longer = of(3, 30, 1); /* takes what was to be moved aside */
    longer->priority = -1;
    add(&b, longer);
    plan_build(b.c);
    apply_nothing(b.c, b.c->last);
    ck_assert(b.c->last->plan.moves[1].page == id && !b.c->last->plan.moves[1].aside);
    while (b.c->n_running) seq_preempt(b.c, b.c->running[0]);
    drain(&b);
    request_unref(r);
    request_unref(longer);
    ck_assert_int_eq(run(&b, of(1, 32, 1)), 28);
    bed_done(&b);
}
END_TEST

START_TEST(other_tenants_and_adapters_find_nothing) {
    bed b;
    bed_init(&b, 8, 50, 1);
    run(&b, of(1, 32, 1));
    run(&b, of(2, 32, 1));
    request *other = of(1, 32, 1), *adapted = of(1, 32, 1);
    other->cache_salt[1] = 1;
    adapted->adapter = 1;
    ck_assert_int_eq(run(&b, other), 0);
    ck_assert_int_eq(run(&b, adapted), 0);
    ck_assert_int_eq(run(&b, of(1, 32, 1)), 28);
    bed_done(&b);
}
END_TEST

static bool fail_now(void *ctx) {
    return true;
}

/* What a failed sequence held is suspect in the host's memory as well. */
START_TEST(failed_sequences_leave_no_slots) {
    bed b;
    bed_init(&b, 8, 50, 1);
    run(&b, of(1, 32, 1));
    run(&b, of(2, 32, 1));
    b.fake.fail_seq = fail_now;
    request *r = add(&b, of(1, 32, 1));
    drain(&b);
    ck_assert_int_eq(r->err.code, ERR_INTERNAL);
    ck_assert_int_eq(r->times.n_cached, 28);
    request_unref(r);
    b.fake.fail_seq = NULL;
    ck_assert_int_eq(run(&b, of(1, 32, 1)), 0);
    bed_done(&b);
}
END_TEST

/* A sequence that waits to come back holds nothing: a cancel ends it at once. */
START_TEST(cancelled_while_away) {
    bed b;
    bed_init(&b, 16, 64, 1);
    request *r[3];
    for (uint64_t i = 0; i < 3; i++) r[i] = add(&b, of(10 + i, 8, 30));
    while (b.c->stats.n_preemptions == 0) ck_assert(step(&b));
    atomic_store(&r[2]->cancel, true);
    ck_assert(step(&b));
    ck_assert(!r[2]->sched);
    for (int i = 0; i < 3; i++) request_unref(r[i]);
    bed_done(&b);
}
END_TEST

START_TEST(no_second_tier_without_hashes) {
    bed b;
    bed_swap(&b, 8, 20, 1, false);
    run(&b, of(1, 32, 1));
    run(&b, of(2, 32, 1));
    scheduler_stats st;
    core_stats(b.c, &st);
    ck_assert_int_eq(st.host_pages_total, 0);
    ck_assert_uint_eq(b.fake.n_out, 0);
    bed_done(&b);
}
END_TEST

int main(void) {
    Suite *s = suite_create("swap");
    TCase *t = tcase_create("all");
    tcase_add_test(t, a_token_costs_the_slope);
    tcase_add_test(t, equal_steps_say_nothing);
    tcase_add_test(t, both_ways_against_computing);
    tcase_add_test(t, evicted_pages_come_back);
    tcase_add_test(t, moved_out_once);
    tcase_add_test(t, preempted_sequences_come_back);
    tcase_add_test(t, moved_ahead);
    tcase_add_test(t, fetched_beside_others);
    tcase_add_test(t, full_host_drops_the_oldest);
    tcase_add_test(t, a_slow_link_is_left_alone);
    tcase_add_test(t, moves_outlive_an_empty_plan);
    tcase_add_test(t, other_tenants_and_adapters_find_nothing);
    tcase_add_test(t, failed_sequences_leave_no_slots);
    tcase_add_test(t, cancelled_while_away);
    tcase_add_test(t, no_second_tier_without_hashes);
    suite_add_tcase(s, t);
    return suite_run(s);
}
