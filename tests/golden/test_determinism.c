/* Same request, same seed: same tokens and the same logprobs, bit for bit, whatever else is in the
 * batch and however the request got there. Real forward passes under the real scheduler:
 *
 *     alone           one request at a time, no prefix cache (the reference)
 *     crowd           all of them among 64 others, admitted at once
 *     cold, warm      twice over one prefix cache: the second run computes only last tokens
 *     chunked         prompts in chunks of 5, steps of 24 tokens
 *     preempted       so few pages that requests are thrown back and recomputed
 *     swapped         so few pages that they are moved to the host and back
 *     guesses         tokens guessed from the text, right ones and wrong ones
 *     drafts          tokens guessed by a second model: the same one, and its weights in int8
 *     choices         n = 4 under greedy decoding: all the same, and the same as n = 1
 *     threads         one, two and three threads in the team
 *
 * Each variant checks that it happened (cached tokens, preemptions, steps), not only that the
 * tokens agree. */
#include <check.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/engine.h"
#include "scheduler/scheduler.h"
#include "tests/unit/suite.h"
#include "tests/golden/model_run.h"

enum { SUBJECTS = 6, CROWD = 64, N_NEW = 24, SHARED = 40, TOP = 3 };

typedef struct answer {
    int32_t n;
    int32_t ids[N_NEW];
    float logprobs[N_NEW], top[N_NEW][TOP];
} answer;

typedef struct variant {
    const char *name;
    int32_t n_threads, chunk, budget, n_pages; /* 0: no bound */
    int32_t n_others, rounds;
    bool prefix_cache;
    int32_t n_slots; /* of the host */
    int32_t drafts;
    const char *draft; /* NULL: no model guesses; "none", "int8": the same one, quantised so */
} variant;

static void on_ready(void *ctx, request **ready, int32_t n) {
    (void)ctx, (void)ready, (void)n; /* the test polls */
}

/* Prompts share their first SHARED ids, so that the cache and the crowd have something to share.
 * Odd ones are sampled, even ones greedy with penalties on the last. */
static request *make(uint64_t id, int32_t vocab, bool subject) {
    request *r = request_new(1 << 20);
    r->n_prompt = (int32_t)(SHARED + 3 + id * 7 % 61);
    int32_t *p = arena_array(r->mem, (size_t)r->n_prompt, sizeof *p);
    for (int32_t i = 0; i < r->n_prompt; i++) {
        uint64_t stream = i < SHARED ? 0 : id + 1;
        p[i] = (int32_t)(rng_philox(stream, 0, (uint64_t)i).x[0] % (uint32_t)vocab);
    }
    r->id = id;
    r->prompt = p;
    r->max_tokens = subject ? N_NEW : 1 + (int32_t)(id % N_NEW);
    r->ignore_eos = true;
    r->params.temperature = id % 2 ? 0.9f : 0;
    r->params.top_k = id % 2 ? 50 : 0;
    r->params.top_p = id % 2 ? 0.95f : 1;
    r->params.repetition_penalty = id % 3 == 2 ? 1.3f : 1;
    r->params.n_logprobs = TOP;
    r->params.seed = 1000 + id;
    r->arrival_us = clock_us();
    return r;
}

/* Take what is there into answers[choice]; returns how many choices ended. */
static int32_t take_choices(request *r, answer *answers) {
    _Alignas(token_event) unsigned char raw[sizeof(token_event) + TOP * sizeof(token_logprob)];
    token_event *e = (token_event *)raw;
    int32_t n_ended = 0;
    while (spsc_pop(r->events, raw)) {
        if (e->token >= 0 && answers) {
            answer *a = &answers[e->choice];
            ck_assert_int_lt(a->n, N_NEW);
            a->ids[a->n] = e->token;
            a->logprobs[a->n] = e->logprob;
            for (int i = 0; i < TOP; i++) a->top[a->n][i] = e->top[i].logprob;
            a->n++;
        }
        if (e->finish == FINISH_NONE) continue;
        ck_assert_msg(e->finish == FINISH_LENGTH, "request %d ended with %d: %s", (int)r->id,
                      e->finish, r->err.text);
        n_ended++;
    }
    return n_ended;
}

static void submit_and_wait(scheduler *s, int32_t vocab, const uint64_t *ids, int32_t n,
                            answer *answers) {
    request *r[SUBJECTS + CROWD];
    bool done[SUBJECTS + CROWD] = {0};
    uint64_t until = clock_us() + 120000000;
    for (int32_t i = 0; i < n; i++) {
        error e;
        r[i] = make(ids[i], vocab, ids[i] < SUBJECTS);
        request_arm(r[i]);
        ck_assert_msg(scheduler_submit(s, r[i], &e) == OK, "%s", e.text);
    }
    for (int32_t left = n; left;) {
        for (int32_t i = 0; i < n; i++) {
            if (done[i]) continue;
            answer *a = ids[i] < SUBJECTS ? &answers[ids[i]] : NULL;
            if ((done[i] = take_choices(r[i], a) > 0)) left--;
        }
        sched_yield();
        ck_assert(clock_us() < until);
    }
    for (int32_t i = 0; i < n; i++) request_unref(r[i]);
}

static engine *open_model(const char *dir, const char *kv, int n_threads, bool swap,
                          const char *draft) {
    engine_options o = {.model_dir = dir,
                        .dtype = "auto",
                        .kv_dtype = kv,
                        .device = test_device(),
                        .n_threads = n_threads,
                        .max_model_len = 128,
                        .max_seqs = 80,
                        .max_batched_tokens = 512,
                        .kv_bytes = 96 << 20,
                        .draft_dir = draft ? dir : NULL,
                        .draft_quantize = draft,
                        .kv_swap_bytes = swap ? 8 << 20 : 0,
                        .kv_swap_forced = swap};
    engine *e;
    error err;
    ck_assert_msg(engine_open(&o, &e, &err) == OK, "%s", err.text);
    return e;
}

static scheduler_stats run(const char *dir, const char *kv, const variant *v, answer *answers) {
    memset(answers, 0, SUBJECTS * sizeof *answers);
    engine *e = open_model(dir, kv, v->n_threads, v->n_slots > 0, v->draft);
    stepper st = engine_stepper(e), draft;
    ck_assert(engine_draft(e, &draft) == (v->draft != NULL));
    if (v->n_pages) st.n_pages = v->n_pages;
    ck_assert_int_ge(st.n_host_pages, v->n_slots);
    st.n_host_pages = v->n_slots;
    st.page_move_us = 0; /* always worth it */
    scheduler_options o = {.max_running = 72,
                           .max_waiting = 256,
                           .token_budget = v->budget ? v->budget : st.max_tokens,
                           .prefill_chunk = v->chunk,
                           .target_us = strcmp(v->name, "paced") == 0 ? 1 : PACE_OFF,
                           .prefix_cache = v->prefix_cache,
                           .max_drafts = v->drafts,
                           .draft_model = v->draft ? &draft : NULL,
                           .drafts_forced = v->draft != NULL,
                           .clock = clock_monotonic(),
                           .on_ready = on_ready};
    scheduler *s = scheduler_new(&o, st);
    scheduler_start(s);
    uint64_t ids[SUBJECTS + CROWD];
    for (int32_t round = 0; round < v->rounds; round++) {
        memset(answers, 0, SUBJECTS * sizeof *answers);
        int32_t n = 0;
        for (int32_t i = 0; i < v->n_others; i++) ids[n++] = 100 + (uint64_t)i;
        for (uint64_t i = 0; i < SUBJECTS; i++) {
            if (v->n_others || v->n_pages)
                ids[n++] = i;
            else
                submit_and_wait(s, st.vocab, &i, 1, answers);
        }
        if (n) submit_and_wait(s, st.vocab, ids, n, answers);
    }
    scheduler_stats stats;
    while (!scheduler_drain(s)) sched_yield();
    scheduler_stats_get(s, &stats);
    scheduler_free(s);
    engine_free(e);
    return stats;
}

static const variant variants[] = {
    {"alone", 2, 0, 0, 0, 0, 1, false, 0},
    {"crowd", 2, 0, 0, 0, CROWD, 1, false, 0},
    {"cold", 2, 0, 0, 0, 0, 1, true, 0},
    {"warm", 2, 0, 0, 0, 0, 2, true, 0},
    {"warm crowd", 2, 0, 0, 0, CROWD, 2, true, 0},
    {"paced", 2, 0, 0, 0, CROWD, 1, true, 0},
    {"chunked", 2, 5, 24, 0, 0, 1, false, 0},
    {"preempted", 2, 0, 0, 13, 0, 1, false, 0},
    {"preempted, cached", 2, 16, 64, 13, 0, 2, true, 0},
    {"guesses", 2, 0, 0, 0, 0, 2, true, 0, 6},
    {"guesses, crowd", 2, 0, 0, 0, CROWD, 1, true, 0, 6},
    {"guesses, preempted", 2, 16, 64, 13, 0, 2, true, 0, 20},
    {"drafts", 2, 0, 0, 0, 0, 2, true, 0, 6, "none"},
    {"drafts, crowd", 2, 0, 0, 0, CROWD, 1, true, 0, 3, "int8"},
    {"drafts, few pages", 2, 0, 0, 13, 0, 2, false, 0, 2, "none"},
    {"one thread", 1, 0, 0, 0, CROWD, 1, false, 0},
    {"three threads", 3, 0, 0, 0, 0, 1, false, 0},
};

/* A variant that did not do what its name says proves nothing. */
static void check_happened(const char *dir, const variant *v, const scheduler_stats *s) {
    if (strstr(v->name, "warm")) ck_assert_uint_gt(s->prompt_tokens_cached, SUBJECTS * SHARED);
    /* random weights repeat nothing to guess from; tests/golden/test_steps gives them guesses */
    if (strcmp(v->name, "guesses") == 0 && strcmp(dir, "conf/demo-model") == 0)
        ck_assert_uint_gt(s->draft_tokens, 0);
    if (v->draft) {
        ck_assert_uint_gt(s->draft_tokens, SUBJECTS * N_NEW / 4);
        ck_assert_uint_gt(s->draft_tokens_right, s->draft_tokens / 8);
    }
    if (strstr(v->name, "preempted"))
        ck_assert_msg(s->n_preemptions > 0, "%s, %s: nobody was thrown back", dir, v->name);
    if (v->n_slots) {
        ck_assert_uint_gt(s->pages_out, 0);
        ck_assert_uint_gt(s->pages_out_aside, 0);
        ck_assert_uint_gt(s->pages_in, 0);
    }
    if (strcmp(v->name, "alone") == 0) ck_assert_uint_eq(s->prompt_tokens_cached, 0);
    ck_assert_int_eq(s->pages_used, 0);
}

static void check_same(const char *dir, const variant *v, const answer *a, const answer *ref) {
    for (int i = 0; i < SUBJECTS; i++) {
        ck_assert_int_eq(a[i].n, N_NEW);
        for (int t = 0; t < N_NEW; t++)
            ck_assert_msg(a[i].ids[t] == ref[i].ids[t], "%s, %s: request %d differs at token %d",
                          dir, v->name, i, t);
        ck_assert_msg(memcmp(&a[i], &ref[i], sizeof a[i]) == 0,
                      "%s, %s: request %d: same tokens, other logprobs", dir, v->name, i);
    }
}

static void check_model(const char *dir, const char *kv) {
    answer ref[SUBJECTS], got[SUBJECTS];
    for (size_t i = 0; i < ARRAY_LEN(variants); i++) {
        scheduler_stats s = run(dir, kv, &variants[i], i ? got : ref);
        check_happened(dir, &variants[i], &s);
        if (i) check_same(dir, &variants[i], got, ref);
    }
}

/* Choices share the prompt's pages and copy the last one; each computes its first token from a row
 * of its own. */
static void check_choices(const char *dir, const char *kv) {
    enum { N = 4 };
    answer got[N] = {0}, ref = {0};
    engine *e = open_model(dir, kv, 2, false, NULL);
    stepper st = engine_stepper(e);
    scheduler_options o = {
        .max_running = 8, .max_waiting = 8, .token_budget = 64, .clock = clock_monotonic()};
    scheduler *s = scheduler_new(&o, st);
    scheduler_start(s);
    for (int32_t n = 1; n <= N; n += N - 1) {
        request *r = make(0, st.vocab, true);
        r->n = n;
        request_arm(r);
        ck_assert(scheduler_submit(s, r, NULL) == OK);
        for (int32_t n_done = 0; n_done < n; sched_yield())
            n_done += take_choices(r, n == 1 ? &ref : got);
        request_unref(r);
    }
    for (int k = 0; k < N; k++)
        ck_assert_msg(ref.n == N_NEW && memcmp(&got[k], &ref, sizeof ref) == 0,
                      "%s: choice %d of %d differs from the only one", dir, k, N);
    scheduler_free(s);
    engine_free(e);
}

/* Greedy, by the same model: each guess is right, in whatever company it was computed. */
START_TEST(drafts_of_itself) {
    static const char *const dirs[] = {"tests/archs/llama-gqa", "conf/demo-model"};
    engine *e = open_model(dirs[_i], "auto", 2, false, "none");
    stepper st = engine_stepper(e), draft;
    ck_assert(engine_draft(e, &draft));
    scheduler_options o = {.max_running = 8,
                           .max_waiting = 8,
                           .token_budget = 64,
                           .prefix_cache = true,
                           .max_drafts = 5,
                           .draft_model = &draft,
                           .drafts_forced = true,
                           .clock = clock_monotonic(),
                           .on_ready = on_ready};
    scheduler *s = scheduler_new(&o, st);
    scheduler_start(s);
    answer got[SUBJECTS] = {0};
    uint64_t ids[] = {0, 4}; /* greedy, without penalties */
    submit_and_wait(s, st.vocab, ids, 2, got);
    while (!scheduler_drain(s)) sched_yield();
    scheduler_stats stats;
    scheduler_stats_get(s, &stats);
    ck_assert_uint_ge(stats.draft_tokens, N_NEW);
    ck_assert_uint_eq(stats.draft_tokens_right, stats.draft_tokens);
    scheduler_free(s);
    engine_free(e);
}
END_TEST

/* For an emulated device too, where one model is enough. */
START_TEST(swapped) {
    static const variant v[] = {{"alone", 2, 0, 0, 0, 0, 1, false, 0},
                                {"swapped, preempted", 2, 16, 64, 13, 0, 2, true, 200},
                                {"swapped, few slots", 2, 16, 64, 13, 0, 2, true, 20}};
    answer ref[SUBJECTS], got[SUBJECTS];
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        scheduler_stats s = run(_i ? "conf/demo-model" : "tests/archs/llama-gqa",
                                _i == 2 ? "int8" : "auto", &v[i], i ? got : ref);
        check_happened("", &v[i], &s);
        if (i) check_same("swapped", &v[i], got, ref);
    }
}
END_TEST

START_TEST(choices) {
    check_choices("tests/archs/llama-gqa", "auto");
    check_choices("tests/archs/mistral-window", "auto");
    check_choices("conf/demo-model", "auto");
    check_choices("conf/demo-model", "int8"); /* copied pages bring their scales */
    check_choices("tests/archs/deepseek-v2", "fp8");
}
END_TEST
START_TEST(f32_gqa) {
    check_model("tests/archs/llama-gqa", "auto");
}
END_TEST
START_TEST(sliding_window) {
    check_model("tests/archs/mistral-window", "auto");
}
END_TEST
/* Keys depend on how long the request may get: what may be shared depends on it too. */
START_TEST(dynamic_rope) {
    check_model("tests/archs/llama-rope-dynamic", "auto");
}
END_TEST
START_TEST(bf16_demo_model) {
    check_model("conf/demo-model", "auto");
}
END_TEST

START_TEST(eight_bit_pages) {
    check_model("tests/archs/mistral-window", "int8");
    check_model("tests/archs/deepseek-v2", "int8");
    check_model("conf/demo-model", "fp8");
}
END_TEST

int main(void) {
    Suite *s = suite_create("determinism");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 240);
    tcase_add_test(t, choices);
    tcase_add_loop_test(t, drafts_of_itself, 0, 2);
    tcase_add_test(t, f32_gqa);
    tcase_add_test(t, sliding_window);
    tcase_add_test(t, dynamic_rope);
    tcase_add_test(t, bf16_demo_model);
    tcase_add_test(t, eight_bit_pages);
    suite_add_tcase(s, t);
    t = tcase_create("swap"); /* CK_RUN_CASE=swap: this alone */
    tcase_set_timeout(t, 240);
    tcase_add_loop_test(t, swapped, 0, strcmp(test_device(), "cpu") == 0 ? 3 : 1);
    suite_add_tcase(s, t);
    return suite_run(s);
}
