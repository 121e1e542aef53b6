/* Pace: what is learned of steps whose true cost is known, and what budgets come of it; alone, and
 * in a core whose steps take what a machine model says. */
#include "tests/unit/scheduler/bed.h"
#include "tests/unit/suite.h"

/* Weights for 30 ms, arithmetic of 2 ms a token, 0.2 us for each position read. */
static double true_us(double n, double reads) {
    return MAX(30000, 6000 + 2000 * n) + 0.2 * reads;
}

static void see(pace *p, int32_t n, double reads) {
    pace_add(p, (pace_step){n, reads}, true_us(n, reads));
}

static void close_to(double got, double want, double part) {
    ck_assert_msg(got > want * (1 - part) && got < want * (1 + part), "%g, expected %g", got, want);
}

START_TEST(sizes_cover_all) {
    for (int32_t i = 1; i < PACE_SIZES; i++)
        ck_assert_int_gt(pace_size_tokens(i), pace_size_tokens(i - 1));
    ck_assert_int_eq(pace_size_tokens(7), 8);
    ck_assert_int_eq(pace_size_tokens(8), 12);
    ck_assert_int_eq(pace_size_tokens(21), 64);
    ck_assert_int_eq(pace_size_tokens(22), 80);
    ck_assert_int_gt(pace_size_tokens(PACE_SIZES - 1), 65536);
}
END_TEST

START_TEST(nothing_known_no_limit) {
    pace p = {.target_us = 1000};
    pace_load l = {.decoding = {4, 400}, .n_prompts = 1, .fresh = 1000, .most = 256};
    ck_assert_int_eq(pace_budget(&p, &l), 256);
    ck_assert(pace_us(&p, (pace_step){5, 0}) == 0);
}
END_TEST

START_TEST(learns_curve_and_reads) {
    pace p = {.target_us = PACE_AUTO};
    for (int32_t i = 0; i < 200; i++) see(&p, 1 + i % 60, 100 * (i % 7) + 20 * i);
    close_to(p.read_us, 0.2, 0.3);
    for (int32_t n = 1; n <= 60; n += 7)
        close_to(pace_us(&p, (pace_step){n, 0}), true_us(n, 0), 0.07);
    close_to(pace_us(&p, (pace_step){120, 5000}), true_us(120, 5000),
             0.1); /* beyond: in proportion */
}
END_TEST

START_TEST(one_slow_step_does_not_count_for_ever) {
    pace p = {.target_us = PACE_AUTO};
    for (int32_t i = 0; i < 50; i++) see(&p, 4, 0), see(&p, 20, 0);
    pace_add(&p, (pace_step){20, 0}, 60e6); /* the machine stood still */
    close_to(pace_us(&p, (pace_step){20, 0}), true_us(20, 0), 0.04);
    see(&p, 20, 0);
    pace_add(&p, (pace_step){20, 0}, 60e6); /* and again, but not twice in a row */
    close_to(pace_us(&p, (pace_step){20, 0}), true_us(20, 0), 0.06);
    for (int32_t i = 0; i < 3; i++) pace_add(&p, (pace_step){20, 0}, 2 * true_us(20, 0));
    ck_assert(pace_us(&p, (pace_step){20, 0}) > 1.2 * true_us(20, 0)); /* that is no moment */
    for (int32_t i = 0; i < 40; i++) see(&p, 20, 0);
    close_to(pace_us(&p, (pace_step){20, 0}), true_us(20, 0), 0.04);
}
END_TEST

START_TEST(follows_the_machine) {
    pace p = {.target_us = PACE_AUTO};
    for (int32_t i = 0; i < 300; i++) see(&p, 1 + i % 40, 0);
    for (int32_t i = 0; i < 80; i++)
        pace_add(&p, (pace_step){1 + i % 40, 0}, 3 * true_us(1 + i % 40, 0));
    close_to(pace_us(&p, (pace_step){30, 0}), 3 * true_us(30, 0), 0.35);
    for (int32_t i = 0; i < 400; i++) see(&p, 1 + i % 40, 0);
    close_to(pace_us(&p, (pace_step){30, 0}), true_us(30, 0), 0.1);
}
END_TEST

/* A size that was once too slow to be used is pulled down by those below as they are seen. */
START_TEST(too_slow_once_is_tried_again) {
    pace p = {.target_us = 60000};
    pace_load l = {.decoding = {4, 0}, .n_prompts = 1, .fresh = 100000, .most = 256};
    for (int32_t i = 0; i < 8; i++) see(&p, 4, 0);
    for (int32_t n = 5; n < 60; n++) pace_add(&p, (pace_step){n, 0}, 3 * true_us(n, 0));
    for (int32_t i = 0; i < 300; i++) see(&p, pace_budget(&p, &l), 0);
    ck_assert_int_ge(pace_budget(&p, &l), 24); /* 27 tokens take 60 ms */
    ck_assert_int_le(pace_budget(&p, &l), 28);
}
END_TEST

START_TEST(targets) {
    pace p = {.target_us = PACE_AUTO};
    for (int32_t i = 0; i < 2000; i++) see(&p, 1 + i % 256, 0);
    pace_load l = {.decoding = {4, 0}, .n_prompts = 1, .fresh = 3000, .most = 256};
    close_to(pace_budget(&p, &l), 25, 0.05); /* 57 ms */
    l.n_prompts = 2;
    close_to(pace_budget(&p, &l), 37, 0.05); /* 81 ms */
    l.n_prompts = 50;
    close_to(pace_budget(&p, &l), 87, 0.1); /* 180 ms */
    l.n_prompts = 1;
    l.fresh = 240; /* three such steps */
    close_to(pace_budget(&p, &l), 87, 0.1);
    l.decoding.n_tokens = 0; /* nobody waits for a token */
    ck_assert_int_eq(pace_budget(&p, &l), 256);
    p.target_us = 100000;
    l = (pace_load){.decoding = {4, 0}, .n_prompts = 9, .fresh = 3000, .most = 256};
    close_to(pace_budget(&p, &l), 47, 0.1);
    p.target_us = 1; /* cannot be had: prompts come to an end all the same */
    ck_assert_int_eq(pace_budget(&p, &l), 12);
    l.decoding.n_tokens = 255;
    ck_assert_int_eq(pace_budget(&p, &l), 256);
    l.decoding.n_tokens = 300;
    ck_assert_int_eq(pace_budget(&p, &l), 256);
}
END_TEST

/* --- in a core --- */

static void spend(void *ctx, const batch_plan *plan) {
    bed *b = ctx;
    double reads = 0;
    for (int32_t i = 0; i < plan->n_seqs; i++)
        reads += pace_reads(plan->seqs[i].pos, plan->seqs[i].n_tokens);
    b->now_us += (uint64_t)true_us(plan->n_tokens, reads);
}

static void bed_paced(bed *b, uint64_t target_us, int32_t depth) {
    scheduler_options o = neutral(b);
    o.token_budget = 256;
    o.target_us = target_us;
    bed_fake(b, 1000, o);
    b->fake.ctx = b;
    b->fake.spend = spend;
    b->fake.depth = depth;
    bed_open(b);
}

static void decode_some(bed *b, request **r, int32_t n, int32_t n_steps) {
    for (int32_t i = 0; i < n; i++) r[i] = add(b, make((uint64_t)i + 1, 0, 0, 20, 900));
    for (int32_t i = 0; i < n_steps; i++) ck_assert(step(b));
}

static void check_long_prompt(uint64_t target_us, uint64_t most_us, int32_t depth) {
    bed b;
    request *r[4];
    bed_paced(&b, target_us, depth);
    decode_some(&b, r, 4, 50);
    request *prompt = add(&b, make(9, 0, 0, 900, 1));
    uint64_t start = b.now_us, slowest = 0;
    int32_t n_steps = 0;
    while (!prompt->times.first_token_us) {
        uint64_t before = b.now_us;
        ck_assert(step(&b));
        if (n_steps++ < 4) continue; /* it has to see such steps first */
        slowest = MAX(slowest, b.now_us - before);
        for (int32_t i = 0; i < 4; i++) ck_assert_int_eq(n_planned(&b, r[i]), 1);
    }
    ck_assert_msg(slowest <= most_us, "%llu us", (unsigned long long)slowest);
    /* 900 tokens take 1.8 s by themselves, beside the others not longer than the share says */
    double took = (double)(b.now_us - start) * 1e-6, share = 1 - 30000.0 / (double)most_us;
    ck_assert_msg(took < 2.1 / share, "%g s", took);
    for (int32_t i = 0; i < 4; i++) request_unref(r[i]);
    request_unref(prompt);
    bed_done(&b);
}

START_TEST(a_long_prompt_keeps_the_pace) {
    check_long_prompt(PACE_AUTO, 62000, 1);
    check_long_prompt(PACE_AUTO, 62000, 2);
}
END_TEST

START_TEST(a_long_prompt_keeps_the_users_target) {
    check_long_prompt(45000, 49000, 1);
    check_long_prompt(100000, 107000, 1);
    check_long_prompt(100000, 107000, 2);
}
END_TEST

START_TEST(a_short_prompt_goes_first) {
    bed b;
    request *r[4];
    bed_paced(&b, PACE_AUTO, 1);
    decode_some(&b, r, 4, 50);
    for (uint64_t i = 0; i < 10; i++) {
        request *prompt = add(&b, make(10 + i, 0, 0, 128, 1));
        int32_t n_steps = 0;
        while (!prompt->times.first_token_us) n_steps++, ck_assert(step(&b));
        ck_assert_msg(i < 3 || n_steps <= 3, "%d steps", n_steps);
        request_unref(prompt);
    }
    for (int32_t i = 0; i < 4; i++) request_unref(r[i]);
    bed_done(&b);
}
END_TEST

/* What waits for pages that are not there is no reason to hurry. */
START_TEST(the_queue_counts_while_there_is_room) {
    bed b;
    request *r[2], *wait[20];
    scheduler_options o = neutral(&b);
    o.token_budget = 256;
    o.target_us = PACE_AUTO;
    bed_fake(&b, 190, o); /* 760 tokens */
    b.fake.ctx = &b;
    b.fake.spend = spend;
    bed_open(&b);
    for (int32_t i = 0; i < 2; i++) r[i] = add(&b, make((uint64_t)i + 1, 0, 0, 20, 60));
    for (int32_t i = 0; i < 30; i++) ck_assert(step(&b));
    request *prompt = add(&b, make(9, 0, 0, 560, 1));
    for (int32_t i = 0; i < 20; i++) wait[i] = add(&b, make((uint64_t)i + 20, 0, 0, 300, 1));
    for (int32_t i = 0; i < 4; i++) ck_assert(step(&b));
    uint64_t before = b.now_us;
    ck_assert(step(&b));
    ck_assert(!prompt->times.first_token_us && b.c->wait.n == 20);
    ck_assert_uint_le(b.now_us - before, 60000); /* as if nobody waited */
    for (int32_t i = 0; i < 2; i++) request_unref(r[i]);
    for (int32_t i = 0; i < 20; i++) request_unref(wait[i]);
    request_unref(prompt);
    bed_done(&b);
}
END_TEST

/* Rows that are described cost what the curve does not know. */
START_TEST(steps_with_prompt_logprobs_are_no_example) {
    bed b;
    bed_paced(&b, PACE_AUTO, 1);
    request *r = make(1, 0, 0, 20, 5);
    r->prompt_out = arena_array(r->mem, 20, sizeof *r->prompt_out);
    add(&b, r);
    ck_assert(step(&b));
    ck_assert_int_eq(b.c->pace.n_curve, 0);
    ck_assert(step(&b));
    ck_assert_int_eq(b.c->pace.n_curve, 1);
    request_unref(r);
    bed_done(&b);
}
END_TEST

int main(void) {
    Suite *s = suite_create("scheduler/pace");
    TCase *t = tcase_create("pace");
    tcase_add_test(t, sizes_cover_all);
    tcase_add_test(t, nothing_known_no_limit);
    tcase_add_test(t, learns_curve_and_reads);
    tcase_add_test(t, one_slow_step_does_not_count_for_ever);
    tcase_add_test(t, follows_the_machine);
    tcase_add_test(t, too_slow_once_is_tried_again);
    tcase_add_test(t, targets);
    tcase_add_test(t, a_long_prompt_keeps_the_pace);
    tcase_add_test(t, a_long_prompt_keeps_the_users_target);
    tcase_add_test(t, a_short_prompt_goes_first);
    tcase_add_test(t, the_queue_counts_while_there_is_room);
    tcase_add_test(t, steps_with_prompt_logprobs_are_no_example);
    suite_add_tcase(s, t);
    return suite_run(s);
}
