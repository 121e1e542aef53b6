/* The planner's rules one by one, on a core without threads, with the fake engine that checks every
 * read and write. tests/sim checks what holds in any mixture. */
#include "tests/unit/scheduler/bed.h"
#include "tests/unit/suite.h"

static void bed_init(bed *b, int32_t n_pages, scheduler_options o) {
    bed_fake(b, n_pages, o);
    bed_open(b);
}

/* A stepper that needs prompts whole. */
static void bed_whole(bed *b, int32_t n_pages, scheduler_options o) {
    bed_fake(b, n_pages, o);
    b->fake.whole_prompt = true;
    bed_open(b);
}

/* Run to the end; tokens of choice 0 into ret (may be NULL). */
static int32_t drain(bed *b, request *r, int32_t *ret) {
    int32_t n = 0;
    token_event e;
    for (bool more = true; more;) {
        more = step(b);
        while (spsc_pop(r->events, &e))
            if (e.token >= 0 && e.choice == 0) {
                if (ret) ret[n] = e.token;
                n++;
            }
    }
    return n;
}

START_TEST(a_long_prompt_does_not_stop_decoding) {
    bed b;
    bed_init(&b, 200, neutral(&b));
    request *first = add(&b, make(1, 0, 0, 10, 100));
    ck_assert(step(&b));
    request *longer = add(&b, make(2, 0, 0, 200, 10));
    for (int i = 0; i < 5; i++) {
        ck_assert(step(&b));
        ck_assert_int_eq(n_planned(&b, first), 1);
        ck_assert_int_eq(n_planned(&b, longer), 31);
    }
    request_unref(first);
    request_unref(longer);
    bed_done(&b);
}
END_TEST

/* The same when the long prompt is more important: everyone behind keeps one token. */
START_TEST(an_important_prompt_does_not_either) {
    bed b;
    bed_init(&b, 200, neutral(&b));
    request *first = make(1, 0, 0, 10, 100), *longer = make(2, 0, 0, 200, 10);
    first->priority = 1;
    add(&b, first);
    ck_assert(step(&b));
    add(&b, longer);
    for (int i = 0; i < 5; i++) {
        ck_assert(step(&b));
        ck_assert_int_eq(n_planned(&b, first), 1);
        ck_assert_int_eq(n_planned(&b, longer), 31);
    }
    request_unref(first);
    request_unref(longer);
    bed_done(&b);
}
END_TEST

START_TEST(chunks_are_capped) {
    bed b;
    scheduler_options o = neutral(&b);
    o.prefill_chunk = 7;
    bed_init(&b, 200, o);
    request *r = add(&b, make(1, 0, 0, 20, 5));
    static const int32_t want[] = {7, 7, 6, 1};
    for (size_t i = 0; i < ARRAY_LEN(want); i++) {
        ck_assert(step(&b));
        ck_assert_int_eq(n_planned(&b, r), want[i]);
    }
    request_unref(r);
    bed_done(&b);
}
END_TEST

START_TEST(the_second_waits_for_the_first_ones_prefix) {
    bed b;
    bed_init(&b, 200, neutral(&b));
    request *x = add(&b, make(1, 7, 12, 14, 5)), *y = add(&b, make(2, 7, 12, 15, 5));
    request *other = add(&b, make(3, 8, 4, 6, 5));
    ck_assert(step(&b));
    ck_assert_int_eq(n_planned(&b, x), 14);
    ck_assert(!planned(&b, y, 0));
    ck_assert_int_eq(n_planned(&b, other), 6);
    ck_assert(step(&b));
    ck_assert_int_eq(n_planned(&b, y), 3);
    ck_assert_int_eq(planned(&b, y, 0)->pos, 12);
    ck_assert_int_eq(y->times.n_cached, 12);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(planned(&b, x, 0)->pages[i], planned(&b, y, 0)->pages[i]);
    request_unref(x);
    request_unref(y);
    request_unref(other);
    bed_done(&b);
}
END_TEST

/* A prefix of many chunks: the crowd waits until the last of it, and computes only what differs. */
START_TEST(a_crowd_waits_for_a_long_prefix) {
    bed b;
    scheduler_options o = neutral(&b);
    o.prefill_chunk = 2;
    bed_init(&b, 200, o);
    request *r[5];
    for (uint64_t i = 0; i < 5; i++) r[i] = add(&b, make(i, 7, 100, 102, 2));
    (void)drain(&b, r[4], NULL);
    for (int i = 1; i < 5; i++) ck_assert_int_eq(r[i]->times.n_cached, 100);
    ck_assert_uint_le(b.fake.n_tokens, 102 + 4 * 2 + 5);
    for (int i = 0; i < 5; i++) request_unref(r[i]);
    bed_done(&b);
}
END_TEST

START_TEST(the_last_token_is_never_cached) {
    bed b;
    bed_init(&b, 200, neutral(&b));
    for (uint64_t id = 1; id <= 3; id++) {
        request *r = add(&b, make(id, 7, 12, 12, 3));
        ck_assert(step(&b));
        ck_assert_int_eq(n_planned(&b, r), id == 1 ? 12 : 4);
        ck_assert_int_eq(drain(&b, r, NULL), 3);
        request_unref(r);
    }
    bed_done(&b);
}
END_TEST

START_TEST(an_answer_is_a_prefix_of_the_next_turn) {
    bed b;
    bed_init(&b, 200, neutral(&b));
    request *r = add(&b, make(1, 7, 6, 6, 11));
    int32_t out[11];
    ck_assert_int_eq(drain(&b, r, out), 11);
    request *next = make(2, 7, 6, 20, 3);
    for (int i = 0; i < 11; i++) ((int32_t *)next->prompt)[6 + i] = out[i];
    add(&b, next);
    ck_assert(step(&b));
    ck_assert_int_eq(next->times.n_cached, 16); /* 6 + 10 computed */
    request_unref(r);
    request_unref(next);
    bed_done(&b);
}
END_TEST

static int32_t cached_after(bed *b, request *first, request *second) {
    add(b, first);
    (void)drain(b, first, NULL);
    add(b, second);
    (void)drain(b, second, NULL);
    int32_t n = second->times.n_cached;
    request_unref(first);
    request_unref(second);
    return n;
}

START_TEST(what_may_not_be_shared_is_not) {
    bed b;
    bed_init(&b, 400, neutral(&b));
    b.fake.class_len = 30;
    ck_assert_int_eq(cached_after(&b, make(1, 1, 16, 20, 3), make(2, 1, 16, 20, 3)), 16);
    request *salted = make(3, 1, 16, 20, 3);
    salted->cache_salt[1] = 1;
    ck_assert_int_eq(cached_after(&b, make(4, 1, 16, 20, 3), salted), 0);
    ck_assert_int_eq(cached_after(&b, make(5, 1, 16, 20, 3), make(6, 1, 16, 20, 30)), 0);
    request *echo = make(7, 1, 16, 20, 3);
    echo->prompt_out = arena_array(echo->mem, 20, sizeof *echo->prompt_out);
    ck_assert_int_eq(cached_after(&b, make(8, 1, 16, 20, 3), echo), 0);
    bed_done(&b);
}
END_TEST

START_TEST(without_the_cache_nothing_is_shared) {
    bed b;
    scheduler_options o = neutral(&b);
    o.prefix_cache = false;
    bed_init(&b, 200, o);
    ck_assert_int_eq(cached_after(&b, make(1, 1, 16, 16, 3), make(2, 1, 16, 16, 3)), 0);
    bed_done(&b);
}
END_TEST

static bool seq_fails(void *ctx) {
    return *(bool *)ctx;
}

START_TEST(a_failed_sequence_leaves_no_prefix) {
    bed b;
    bed_init(&b, 200, neutral(&b));
    bool fails = true;
    b.fake.fail_seq = seq_fails;
    b.fake.ctx = &fails;
    request *bad = add(&b, make(1, 1, 16, 20, 3));
    ck_assert(step(&b));
    token_event e;
    ck_assert(spsc_pop(bad->events, &e) && e.finish == FINISH_ERROR && e.token == -1);
    ck_assert_int_eq(bad->err.code, ERR_INTERNAL);
    fails = false;
    request *good = add(&b, make(2, 1, 16, 20, 3));
    ck_assert_int_eq(drain(&b, good, NULL), 3);
    ck_assert_int_eq(good->times.n_cached, 0);
    request_unref(bad);
    request_unref(good);
    bed_done(&b);
}
END_TEST

START_TEST(choices_share_the_prompt_and_copy_its_last_page) {
    bed b;
    bed_init(&b, 200, neutral(&b));
    request *r = make(1, 0, 0, 10, 5);
    r->n = 3;
    add(&b, r);
    ck_assert(step(&b));
    ck_assert_int_eq(b.c->last->plan.n_seqs, 1);
    ck_assert(step(&b));
    ck_assert_int_eq(b.c->last->plan.n_seqs, 3);
    ck_assert_int_eq(b.c->last->plan.n_copies, 2); /* 10 = 2 pages and a half */
    const batch_seq *lead = planned(&b, r, 0);
    for (int32_t k = 1; k < 3; k++) {
        const batch_seq *s = planned(&b, r, k);
        ck_assert(s->pos == 9 && s->n_tokens == 1 && s->sample);
        ck_assert(s->pages[0] == lead->pages[0] && s->pages[1] == lead->pages[1]);
        ck_assert_int_ne(s->pages[2], lead->pages[2]);
    }
    request_unref(r);
    bed_done(&b);
}
END_TEST

/* 10 pages: two of 4 pages each, growing; the newer goes and comes back, and both get the text
 * that they get alone (the fake checks every token's history). */
START_TEST(the_newest_is_thrown_back) {
    bed b;
    bed_init(&b, 10, neutral(&b));
    request *old = add(&b, make(1, 0, 0, 12, 20)), *new = add(&b, make(2, 0, 0, 12, 20));
    int32_t n = drain(&b, new, NULL);
    ck_assert_int_eq(n, 20);
    ck_assert_int_eq(old->times.n_preempted, 0);
    ck_assert_int_ge(new->times.n_preempted, 1);
    ck_assert_uint_gt(b.c->stats.prompt_tokens_recomputed, 0);
    ck_assert_uint_lt(old->times.finished_us, new->times.finished_us);
    request_unref(old);
    request_unref(new);
    bed_done(&b);
}
END_TEST

START_TEST(the_less_important_is_thrown_back) {
    bed b;
    bed_init(&b, 10, neutral(&b));
    request *low = make(1, 0, 0, 12, 20), *high = make(2, 0, 0, 12, 20);
    low->priority = 5;
    add(&b, low);
    add(&b, high);
    ck_assert_int_eq(drain(&b, low, NULL), 20);
    ck_assert_int_ge(low->times.n_preempted, 1);
    ck_assert_int_eq(high->times.n_preempted, 0);
    request_unref(low);
    request_unref(high);
    bed_done(&b);
}
END_TEST

START_TEST(reserved_pages_are_never_taken_back) {
    bed b;
    scheduler_options o = neutral(&b);
    o.admit = ADMIT_RESERVE;
    bed_init(&b, 10, o);
    request *x = add(&b, make(1, 0, 0, 12, 20)), *y = add(&b, make(2, 0, 0, 12, 20));
    ck_assert(step(&b));
    ck_assert(planned(&b, x, 0) && !planned(&b, y, 0));
    ck_assert_int_eq(drain(&b, y, NULL), 20);
    ck_assert_uint_eq(b.c->stats.n_preemptions, 0);
    request_unref(x);
    request_unref(y);
    bed_done(&b);
}
END_TEST

START_TEST(a_large_one_is_not_starved_by_small_ones) {
    bed b;
    bed_init(&b, 10, neutral(&b));
    request *runs = add(&b, make(1, 0, 0, 12, 10));
    ck_assert(step(&b));
    request *large = add(&b, make(2, 0, 0, 32, 2)), *small = add(&b, make(3, 0, 0, 2, 2));
    (void)drain(&b, small, NULL);
    ck_assert_uint_lt(large->times.scheduled_us, small->times.scheduled_us);
    request_unref(runs);
    request_unref(large);
    request_unref(small);
    bed_done(&b);
}
END_TEST

START_TEST(the_cache_ends_a_choice_that_outgrows_it) {
    bed b;
    bed_init(&b, 3, neutral(&b));
    request *r = add(&b, make(1, 0, 0, 5, 500));
    ck_assert_int_eq(drain(&b, r, NULL), 8); /* 12 computed, the 13th known */
    request_unref(r);
    bed_done(&b);
}
END_TEST

/* --- fairness: requests of 8 + 8 tokens, one at a time --- */

typedef struct crowd {
    request *r[400];
    int n;
} crowd;

static void crowd_add(bed *b, crowd *w, int n, int32_t tenant, float weight, int32_t priority) {
    for (int i = 0; i < n; i++) {
        request *r = make((uint64_t)w->n, 0, 0, 8, 8);
        r->tenant = tenant;
        r->tenant_weight = weight;
        r->priority = priority;
        w->r[w->n++] = add(b, r);
    }
}

/* How many of the first n that started belong to the tenant. */
static int crowd_share(const crowd *w, int n, int32_t tenant) {
    int share = 0;
    for (int i = 0; i < w->n; i++) {
        int before = 0;
        for (int j = 0; j < w->n; j++)
            before += w->r[j]->times.scheduled_us < w->r[i]->times.scheduled_us;
        share += before < n && w->r[i]->tenant == tenant;
    }
    return share;
}

static void crowd_run(bed *b, crowd *w) {
    while (step(b)) {
    }
    for (int i = 0; i < w->n; i++) ck_assert_uint_gt(w->r[i]->times.finished_us, 0);
}

static void crowd_done(bed *b, crowd *w) {
    for (int i = 0; i < w->n; i++) request_unref(w->r[i]);
    bed_done(b);
}

static void one_at_a_time(bed *b) {
    scheduler_options o = neutral(b);
    o.max_running = 1;
    bed_init(b, 50, o);
}

START_TEST(tenants_share_by_weight) {
    bed b;
    crowd w = {.n = 0};
    one_at_a_time(&b);
    crowd_add(&b, &w, 100, 0, 1, 0);
    crowd_add(&b, &w, 100, 1, 3, 0);
    crowd_run(&b, &w);
    int share = crowd_share(&w, 100, 1);
    ck_assert_msg(share >= 73 && share <= 77, "tenant of weight 3 had %d of 100", share);
    crowd_done(&b, &w);
}
END_TEST

START_TEST(a_flood_does_not_delay_another_tenant) {
    bed b;
    crowd w = {.n = 0};
    one_at_a_time(&b);
    crowd_add(&b, &w, 100, 0, 1, 0);
    crowd_add(&b, &w, 1, 1, 1, 0);
    crowd_run(&b, &w);
    ck_assert_int_eq(crowd_share(&w, 2, 1), 1);
    crowd_done(&b, &w);
}
END_TEST

START_TEST(idleness_earns_no_credit) {
    bed b;
    crowd w = {.n = 0};
    one_at_a_time(&b);
    crowd_add(&b, &w, 100, 0, 1, 0);
    crowd_run(&b, &w); /* tenant 0 was alone for long */
    crowd late = {.n = 0};
    crowd_add(&b, &late, 40, 0, 1, 0);
    crowd_add(&b, &late, 40, 1, 1, 0);
    crowd_run(&b, &late);
    int share = crowd_share(&late, 40, 1);
    ck_assert_msg(share >= 18 && share <= 22, "the newcomer had %d of 40", share);
    for (int i = 0; i < w.n; i++) request_unref(w.r[i]);
    crowd_done(&b, &late);
}
END_TEST

START_TEST(priority_comes_before_fairness) {
    bed b;
    crowd w = {.n = 0};
    one_at_a_time(&b);
    crowd_add(&b, &w, 20, 0, 1, 0);
    crowd_add(&b, &w, 20, 1, 1, -1);
    crowd_run(&b, &w);
    ck_assert_int_eq(crowd_share(&w, 20, 1), 20);
    crowd_done(&b, &w);
}
END_TEST

START_TEST(adapters_share_no_pages_and_are_counted) {
    bed b;
    bed_init(&b, 100, neutral(&b));
    request *r[4];
    for (int i = 0; i < 4; i++) { /* the same text under adapters 0, 2, 2, 70 */
        r[i] = make((uint64_t)i, 0, 20, 20, 3);
        r[i]->adapter = (int32_t[]){0, 2, 2, 70}[i];
        add(&b, r[i]);
        scheduler_stats st;
        core_stats(b.c, &st);
        ck_assert_uint_eq(st.adapters_waiting[0], i == 1 || i == 2 ? 2 : 0);
        ck_assert_uint_eq(st.adapters_waiting[1], i == 3 ? 32 : 0);
        ck_assert(step(&b));
        const batch_seq *q = planned(&b, r[i], 0);
        ck_assert(q && q->adapter == r[i]->adapter);
        core_stats(b.c, &st);
        ck_assert_uint_eq(st.adapters_running[0], i == 1 || i == 2 ? 2 : 0);
        ck_assert_uint_eq(st.adapters_running[1], i == 3 ? 32 : 0);
        drain(&b, r[i], NULL);
        core_stats(b.c, &st);
        ck_assert_uint_eq(st.adapters_running[0] | st.adapters_running[1], 0);
        ck_assert_int_eq(r[i]->times.n_cached, i == 2 ? 16 : 0);
        request_unref(r[i]);
    }
    bed_done(&b);
}
END_TEST

START_TEST(virtual_tokens_come_first_and_in_order) {
    bed b;
    bed_init(&b, 100, neutral(&b));
    int32_t good[] = {VOCAB, VOCAB + 1, VOCAB + 2, 5, 6},
            bad[] = {VOCAB, VOCAB + 2, VOCAB + 1, 5, 6},
            late[] = {5, VOCAB, VOCAB + 1, VOCAB + 2, 6};
    const int32_t *prompts[] = {good, bad, late, good};
    for (int i = 0; i < 4; i++) {
        error e;
        request *r = request_new(1000);
        r->prompt = prompts[i];
        r->n_prompt = 5;
        r->n_virtual = i == 3 ? 0 : 3;
        r->max_tokens = 2;
        r->adapter = 1;
        request_arm(r);
        status st = core_prepare(b.c, r, &e);
        ck_assert_int_eq(st, i == 0 ? OK : ERR_INVALID);
        if (st == OK) {
            core_add(b.c, request_ref(r));
            ck_assert_int_eq(drain(&b, r, NULL), 2);
            scheduler_stats stats;
            core_stats(b.c, &stats);
            ck_assert_uint_eq(stats.prompt_tokens, 2);
        }
        request_unref(r);
    }
    bed_done(&b);
}
END_TEST

/* Budget 32, chunks of 8: the second prompt waits for a step that has room for all of it. */
START_TEST(prompts_that_must_be_whole_are) {
    bed b;
    scheduler_options o = neutral(&b);
    o.prefill_chunk = 8;
    bed_whole(&b, 200, o);
    request *first = add(&b, make(1, 7, 20, 20, 4)), *second = add(&b, make(2, 7, 20, 30, 4));
    request *third = add(&b, make(3, 7, 2, 2, 4));
    ck_assert(step(&b));
    ck_assert_int_eq(n_planned(&b, first), 20);
    ck_assert_int_eq(n_planned(&b, second), 0);
    ck_assert_int_eq(n_planned(&b, third), 0);
    ck_assert(step(&b));
    ck_assert_int_eq(n_planned(&b, first), 1);
    ck_assert_int_eq(n_planned(&b, second), 30);
    ck_assert_int_eq(n_planned(&b, third), 0);
    ck_assert(step(&b));
    ck_assert_int_eq(n_planned(&b, third), 2);
    ck_assert_int_eq(b.c->stats.prefix_hits, 0);
    (void)drain(&b, first, NULL);
    request_unref(first);
    request_unref(second);
    request_unref(third);
    bed_done(&b);
}
END_TEST

START_TEST(choices_share_a_whole_prompt) {
    bed b;
    bed_whole(&b, 200, neutral(&b));
    request *r = make(1, 0, 0, 30, 4);
    r->n = 3;
    add(&b, r);
    ck_assert(step(&b));
    ck_assert_int_eq(n_planned(&b, r), 30);
    ck_assert(step(&b));
    for (int32_t k = 1; k < 3; k++) ck_assert_int_eq(planned(&b, r, k)->n_tokens, 1);
    (void)drain(&b, r, NULL);
    request_unref(r);
    bed_done(&b);
}
END_TEST

START_TEST(a_whole_prompt_must_fit_a_step) {
    bed b;
    error e;
    bed_whole(&b, 200, neutral(&b));
    request *r = make(1, 0, 0, 33, 4);
    request_arm(r);
    ck_assert_int_eq(core_prepare(b.c, r, &e), ERR_INVALID);
    ck_assert_str_eq(e.text, "the prompt has 33 tokens, but this model takes a prompt in one step, "
                             "which holds 32 (max_num_batched_tokens)");
    request_unref(r);
    bed_done(&b);
}
END_TEST

START_TEST(options_are_clamped) {
    bed b;
    scheduler_options o = neutral(&b);
    o.max_running = 100000;
    o.token_budget = 100000;
    bed_init(&b, 10, o);
    ck_assert_int_eq(b.c->o.max_running, 64);
    ck_assert_int_eq(b.c->o.token_budget, 1000);
    ck_assert_int_eq(b.c->o.prefill_chunk, 1000);
    bed_done(&b);
}
END_TEST

int main(void) {
    Suite *s = suite_create("scheduler/plan");
    TCase *tc = tcase_create("plan");
    tcase_add_test(tc, a_long_prompt_does_not_stop_decoding);
    tcase_add_test(tc, an_important_prompt_does_not_either);
    tcase_add_test(tc, chunks_are_capped);
    tcase_add_test(tc, the_second_waits_for_the_first_ones_prefix);
    tcase_add_test(tc, a_crowd_waits_for_a_long_prefix);
    tcase_add_test(tc, the_last_token_is_never_cached);
    tcase_add_test(tc, an_answer_is_a_prefix_of_the_next_turn);
    tcase_add_test(tc, what_may_not_be_shared_is_not);
    tcase_add_test(tc, without_the_cache_nothing_is_shared);
    tcase_add_test(tc, a_failed_sequence_leaves_no_prefix);
    tcase_add_test(tc, choices_share_the_prompt_and_copy_its_last_page);
    tcase_add_test(tc, the_newest_is_thrown_back);
    tcase_add_test(tc, the_less_important_is_thrown_back);
    tcase_add_test(tc, reserved_pages_are_never_taken_back);
    tcase_add_test(tc, a_large_one_is_not_starved_by_small_ones);
    tcase_add_test(tc, the_cache_ends_a_choice_that_outgrows_it);
    tcase_add_test(tc, tenants_share_by_weight);
    tcase_add_test(tc, a_flood_does_not_delay_another_tenant);
    tcase_add_test(tc, idleness_earns_no_credit);
    tcase_add_test(tc, priority_comes_before_fairness);
    tcase_add_test(tc, adapters_share_no_pages_and_are_counted);
    tcase_add_test(tc, virtual_tokens_come_first_and_in_order);
    tcase_add_test(tc, prompts_that_must_be_whole_are);
    tcase_add_test(tc, choices_share_a_whole_prompt);
    tcase_add_test(tc, a_whole_prompt_must_fit_a_step);
    tcase_add_test(tc, options_are_clamped);
    suite_add_tcase(s, tc);
    return suite_run(s);
}
