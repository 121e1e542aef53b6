/* The sampler against transformers' logits processors (sampler_cases.json), its draws against the
 * distribution, and what it promises of rows, seeds and errors. */
#include "engine/sampler.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/sampler_scan.h"
#include "tests/unit/suite.h"

#define CASES "tests/unit/engine/sampler_cases.json"

static const sample_params off = {
    .temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1, .n_logprobs = -1};

static logits_row row_of(float *x, int32_t n) {
    logits_row r = {.x = x};
    double sum = 0;
    for (int32_t i = 1; i < n; i++)
        if (x[i] > x[r.argmax]) r.argmax = i;
    for (int32_t i = 0; i < n; i++) sum += exp((double)x[i] - x[r.argmax]);
    r.lse = x[r.argmax] + (float)log(sum);
    return r;
}

typedef struct one_case {
    sample_params p;
    logit_bias bias[8];
    int32_t stop[16], allowed[16], ids[32], n_ids, n_prompt, vocab;
    float *logits;
} one_case;

static int32_t read_list(const json_t *list, int32_t *out) {
    int32_t n = (int32_t)json_array_size(list);
    for (int32_t i = 0; i < n; i++)
        out[i] = (int32_t)json_integer_value(json_array_get(list, (size_t)i));
    return n;
}

static void read_case(const json_t *c, one_case *k) {
    const json_t *p = js_get(c, "params"), *b = js_get(p, "bias"), *logits = js_get(c, "logits");
    *k = (one_case){.p = off, .vocab = (int32_t)json_array_size(logits)};
    k->p.temperature = (float)js_get_real(p, "temperature", 1);
    k->p.top_k = (int32_t)js_get_int(p, "top_k", 0);
    k->p.top_p = (float)js_get_real(p, "top_p", 1);
    k->p.min_p = (float)js_get_real(p, "min_p", 0);
    k->p.typical_p = (float)js_get_real(p, "typical_p", 1);
    k->p.repetition_penalty = (float)js_get_real(p, "repetition_penalty", 1);
    k->p.frequency_penalty = (float)js_get_real(p, "frequency_penalty", 0);
    k->p.presence_penalty = (float)js_get_real(p, "presence_penalty", 0);
    k->p.no_repeat_ngram = (int32_t)js_get_int(p, "no_repeat_ngram", 0);
    k->p.min_tokens = (int32_t)js_get_int(p, "min_tokens", 0);
    k->p.n_stop_ids = read_list(js_get(p, "stop_ids"), k->stop);
    k->p.stop_ids = k->stop;
    k->p.n_allowed = read_list(js_get(p, "allowed"), k->allowed);
    k->p.allowed_ids = k->p.n_allowed ? k->allowed : NULL;
    k->p.n_bias = (int32_t)json_array_size(b);
    k->p.bias = k->bias;
    for (int32_t i = 0; i < k->p.n_bias; i++) {
        const json_t *pair = json_array_get(b, (size_t)i), *value = json_array_get(pair, 1);
        k->bias[i] =
            (logit_bias){(int32_t)json_integer_value(json_array_get(pair, 0)),
                         json_is_null(value) ? -INFINITY : (float)json_number_value(value)};
    }
    k->n_ids = read_list(js_get(c, "ids"), k->ids);
    k->n_prompt = (int32_t)js_get_int(c, "n_prompt", 0);
    k->logits = mem_alloc((size_t)k->vocab * sizeof(float));
    for (int32_t i = 0; i < k->vocab; i++)
        k->logits[i] = (float)json_number_value(json_array_get(logits, (size_t)i));
}

static batch_seq seq_of(const one_case *k) {
    return (batch_seq){.ids = k->ids,
                       .n_known = k->n_ids,
                       .n_prompt = k->n_prompt,
                       .params = &k->p,
                       .sample = true};
}

static void check_distribution(const json_t *c, const one_case *k, int idx) {
    const json_t *keep = js_get(c, "keep"), *probs = js_get(c, "probs");
    int32_t *ids = mem_alloc((size_t)k->vocab * sizeof *ids), n = 0;
    double *p = mem_alloc((size_t)k->vocab * sizeof *p);
    sampler *s = sampler_new(k->vocab);
    batch_seq q = seq_of(k);
    logits_row row = row_of(k->logits, k->vocab);
    ck_assert_int_eq(sampler_distribution(s, &q, &row, ids, p, &n), OK);
    double sum[400] = {0};
    for (int32_t i = 0; i < n; i++) sum[ids[i]] = p[i];
    ck_assert_msg(n == (int32_t)json_array_size(keep), "case %d: %d ids kept, expected %zu", idx, n,
                  json_array_size(keep));
    for (size_t i = 0; i < json_array_size(keep); i++) {
        double want = json_number_value(json_array_get(probs, i));
        double got = sum[json_integer_value(json_array_get(keep, i))];
        ck_assert_msg(fabs(got - want) <= 2e-6 * want + 1e-9,
                      "case %d: id %d has probability %.9g, expected %.9g", idx,
                      (int)json_integer_value(json_array_get(keep, i)), got, want);
    }
    sampler_free(s);
    mem_free(ids);
    mem_free(p);
}

static void check_greedy(const json_t *c, one_case *k, int idx) {
    sampler *s = sampler_new(k->vocab);
    float *before = mem_alloc((size_t)k->vocab * sizeof *before);
    memcpy(before, k->logits, (size_t)k->vocab * sizeof *before);
    k->p.temperature = 0;
    batch_seq q = seq_of(k);
    logits_row row = row_of(k->logits, k->vocab);
    sample_out out;
    ck_assert_int_eq(sampler_choose(s, &q, &row, &out), OK);
    ck_assert_msg(out.token == js_get_int(c, "greedy", -1), "case %d: greedy %d, expected %d", idx,
                  out.token, (int)js_get_int(c, "greedy", -1));
    ck_assert_int_eq(memcmp(before, k->logits, (size_t)k->vocab * sizeof *before), 0);
    mem_free(before);
    sampler_free(s);
}

START_TEST(equals_transformers) {
    json_t *cases = NULL;
    error err;
    ck_assert_msg(js_parse_file(CASES, 1 << 22, &cases, &err) == OK, "%s", err.text);
    ck_assert_int_ge((int)json_array_size(cases), 60);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        one_case k;
        read_case(json_array_get(cases, i), &k);
        check_distribution(json_array_get(cases, i), &k, (int)i);
        check_greedy(json_array_get(cases, i), &k, (int)i);
        mem_free(k.logits);
    }
    json_decref(cases);
}
END_TEST

/* Upper 1e-6 quantile of chi-square with n degrees of freedom (Wilson and Hilferty). */
static double chi_square_limit(int n) {
    double a = 2.0 / (9.0 * n), z = 4.75;
    return n * pow(1 - a + z * sqrt(a), 3);
}

static void draws_fit(sample_params p, int32_t vocab, int n_draws) {
    float *x = mem_alloc((size_t)vocab * sizeof *x);
    int32_t *ids = mem_alloc((size_t)vocab * sizeof *ids), n = 0, known[1] = {0};
    int *seen = mem_calloc((size_t)vocab, sizeof *seen);
    double *probs = mem_alloc((size_t)vocab * sizeof *probs);
    for (int32_t i = 0; i < vocab; i++)
        x[i] = (float)(3 * rng_uniform(5, (uint64_t)i, 0) + 2 * rng_uniform(6, (uint64_t)i, 0));
    sampler *s = sampler_new(vocab);
    logits_row row = row_of(x, vocab);
    batch_seq q = {.ids = known, .n_known = 1, .n_prompt = 1, .params = &p};
    ck_assert_int_eq(sampler_distribution(s, &q, &row, ids, probs, &n), OK);
    for (int i = 0; i < n_draws; i++) {
        sample_out out;
        p.seed = 77 + (uint64_t)i;
        ck_assert_int_eq(sampler_choose(s, &q, &row, &out), OK);
        seen[out.token]++;
    }
    double chi = 0;
    int inside = 0;
    for (int32_t i = 0; i < n; i++) {
        double want = probs[i] * n_draws;
        chi += (seen[ids[i]] - want) * (seen[ids[i]] - want) / want;
        inside += seen[ids[i]];
    }
    ck_assert_int_eq(inside, n_draws);
    ck_assert_msg(n < 2 || chi < chi_square_limit(n - 1), "chi-square %g with %d ids", chi, n);
    sampler_free(s);
    mem_free(x);
    mem_free(ids);
    mem_free(seen);
    mem_free(probs);
}

START_TEST(draws_follow_the_distribution) {
    sample_params p = off;
    draws_fit(p, 200, 40000);
    p.temperature = 0.6f;
    p.top_k = 12;
    draws_fit(p, 5000, 40000);
    p = off;
    p.top_p = 0.3f;
    draws_fit(p, 500, 40000);
    p.min_p = 0.4f;
    draws_fit(p, 500, 40000);
    p = off;
    p.typical_p = 0.3f;
    draws_fit(p, 100, 40000);
}
END_TEST

START_TEST(seed_choice_and_position_decide) {
    float x[64];
    int32_t ids[8] = {0};
    for (int i = 0; i < 64; i++) x[i] = (float)rng_uniform(1, (uint64_t)i, 0);
    logits_row row = row_of(x, 64);
    sampler *s = sampler_new(64);
    sample_params p = off;
    int n_other = 0;
    for (int i = 0; i < 200; i++) {
        sample_out a, b, c, d, e;
        p.seed = (uint64_t)i;
        batch_seq q = {.ids = ids, .n_known = 3, .n_prompt = 1, .params = &p};
        ck_assert_int_eq(sampler_choose(s, &q, &row, &a), OK);
        ck_assert_int_eq(sampler_choose(s, &q, &row, &b), OK);
        ck_assert_int_eq(a.token, b.token);
        q.choice = 1;
        ck_assert_int_eq(sampler_choose(s, &q, &row, &c), OK);
        q.choice = 0;
        q.n_known = 4;
        ck_assert_int_eq(sampler_choose(s, &q, &row, &d), OK);
        p.seed += 1000;
        ck_assert_int_eq(sampler_choose(s, &q, &row, &e), OK);
        n_other += (c.token != a.token) + (d.token != a.token) + (e.token != d.token);
    }
    ck_assert_int_ge(n_other, 500); /* of 600; chance repeats one in 64 */
    sampler_free(s);
}
END_TEST

START_TEST(logprobs_are_of_the_raw_logits) {
    float x[30];
    int32_t ids[2] = {4, 7};
    for (int i = 0; i < 30; i++) x[i] = (float)((i * 7) % 30) * 0.25f;
    x[11] = x[13] = 7.5f; /* ties for the first place */
    logits_row row = row_of(x, 30);
    sampler *s = sampler_new(30);
    sample_params p = off;
    logit_bias bias = {2, 100};
    p.temperature = 0;
    p.n_logprobs = 20;
    p.bias = &bias;
    p.n_bias = 1;
    batch_seq q = {.ids = ids, .n_known = 2, .n_prompt = 2, .params = &p};
    sample_out out;
    ck_assert_int_eq(sampler_choose(s, &q, &row, &out), OK);
    ck_assert_int_eq(out.token, 2);
    ck_assert_float_eq(out.logprob, x[2] - row.lse);
    int rank = 1;
    for (int i = 0; i < 30; i++) rank += x[i] > x[2];
    ck_assert_int_eq(out.rank, rank);
    ck_assert_int_eq(out.n_top, 20);
    ck_assert_int_eq(out.top[0].id, 11);
    ck_assert_int_eq(out.top[1].id, 13);
    for (int i = 1; i < 20; i++) ck_assert(out.top[i].logprob <= out.top[i - 1].logprob);
    sampler_free(s);
}
END_TEST

START_TEST(bad_rows_fail_alone) {
    float x[64] = {0};
    int32_t ids[1] = {0}, all[64];
    sampler *s = sampler_new(64);
    sample_params p = off;
    sample_out out;
    batch_seq q = {.ids = ids, .n_known = 1, .n_prompt = 1, .params = &p};
    x[5] = NAN;
    logits_row row = {.x = x, .lse = NAN};
    ck_assert_int_eq(sampler_choose(s, &q, &row, &out), ERR_INTERNAL);
    x[5] = 1;
    row = row_of(x, 64);
    for (int i = 0; i < 64; i++) all[i] = i;
    p.stop_ids = all;
    p.n_stop_ids = 64;
    p.min_tokens = 1;
    ck_assert_int_eq(sampler_choose(s, &q, &row, &out), ERR_INVALID);
    p.temperature = 0;
    ck_assert_int_eq(sampler_choose(s, &q, &row, &out), ERR_INVALID);
    p.min_tokens = 0;
    ck_assert_int_eq(sampler_choose(s, &q, &row, &out), OK);
    ck_assert_int_eq(out.token, 5);
    sampler_free(s);
}
END_TEST

static int down(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

static int32_t first_of(const float *x, float value) {
    int32_t i = 0;
    while (x[i] != value) i++;
    return i;
}

START_TEST(scans_agree_with_plain_loops) {
    for (int32_t n = 1; n < 3000; n = n * 2 + 3) {
        float *x = mem_alloc((size_t)n * sizeof *x), *y = mem_alloc((size_t)n * sizeof *y);
        float *w = mem_alloc((size_t)n * sizeof *w);
        int32_t *at = mem_alloc((size_t)n * sizeof *at), *top = mem_alloc((size_t)n * sizeof *top);
        for (int32_t i = 0; i < n; i++)
            y[i] = x[i] = floorf(100 * (float)rng_uniform(3, (uint64_t)i, (uint32_t)n)) / 8;
        qsort(y, (size_t)n, sizeof *y, down);
        ck_assert_float_eq(scan_max(x, n), y[0]);
        for (int32_t k = 1; k <= n; k += 1 + n / 13) {
            ck_assert_float_eq(scan_kth(x, n, k, w), y[k - 1]);
            int32_t found = scan_at_least(x, n, y[k - 1], at), want = 0;
            for (int32_t i = 0; i < n; i++)
                if (x[i] >= y[k - 1]) ck_assert_int_eq(at[want++], i);
            ck_assert_int_eq(found, want);
            int32_t above = 0;
            for (int32_t i = 0; i < n; i++) above += x[i] > y[k - 1];
            ck_assert_int_eq(scan_count_above(x, n, y[k - 1]), above);
            ck_assert_int_eq(scan_top(x, n, k, w, top), found);
            ck_assert_mem_eq(top, at, (size_t)found * sizeof *at);
            ck_assert_int_eq(scan_first_equal(x, n, y[k - 1]), first_of(x, y[k - 1]));
            memcpy(w, x, (size_t)n * sizeof *w);
            ck_assert_int_eq(scan_take(w, n, y[k - 1], top), found);
            ck_assert_mem_eq(top, at, (size_t)found * sizeof *at);
            for (int32_t i = 0; i < found; i++) ck_assert_float_eq(w[i], x[at[i]]);
        }
        double sum = scan_exp(x, n, y[0], 0.8f, w), want = 0;
        for (int32_t i = 0; i < n; i++) {
            double e = exp((double)((x[i] - y[0]) * 0.8f));
            ck_assert_msg(fabs(w[i] - e) <= 3e-7 * e, "exp: %.9g, %.9g", w[i], e);
            want += e;
        }
        ck_assert(fabs(sum - want) <= 1e-6 * want);
        mem_free(x);
        mem_free(y);
        mem_free(w);
        mem_free(at);
        mem_free(top);
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("sampler");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, equals_transformers);
    tcase_add_test(t, draws_follow_the_distribution);
    tcase_add_test(t, seed_choice_and_position_decide);
    tcase_add_test(t, logprobs_are_of_the_raw_logits);
    tcase_add_test(t, bad_rows_fail_alone);
    tcase_add_test(t, scans_agree_with_plain_loops);
    suite_add_tcase(s, t);
    return suite_run(s);
}
