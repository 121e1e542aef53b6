/* The engine's path through op_sample, on the CPU's reference level: the same tokens, logprobs and
 * statuses as engine/sampler.c, whatever else is in the step. */
#include "engine/sample_device.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/sampler.h"
#include "tests/unit/suite.h"

#define N_ROWS 24 /* rows of a block */
#define N_IDS  64

static uint64_t drawn;

static double uniform(void) {
    return rng_uniform(17, drawn++, 0);
}

static int32_t below(int32_t n) {
    return (int32_t)(uniform() * n);
}

static bool chance(double p) {
    return uniform() < p;
}

/* Logits of some shape and the statistics that the device has of them. */
static void fill_logits(float *x, int32_t vocab, float *lse, int32_t *argmax) {
    double spread = 0.5 + 6 * uniform(), step = chance(0.3) ? 0.5 : 0x1p-12, sum = 0;
    int32_t best = 0;
    for (int32_t i = 0; i < vocab; i++) { /* steps make ties */
        double g = spread * (uniform() + uniform() + uniform() - 1.5);
        x[i] = chance(0.01) ? -INFINITY : (float)(floor(g / step) * step);
        if (x[i] > x[best]) best = i;
    }
    for (int32_t i = 0; i < vocab; i++) sum += exp((double)x[i] - x[best]);
    *argmax = best;
    *lse = x[best] + (float)log(sum);
}

typedef struct one_row {
    sample_params p;
    logit_bias bias[8];
    int32_t ids[N_IDS], stop[8], allowed[32];
    batch_seq q;
} one_row;

static void draw_row(one_row *r, int32_t vocab) {
    sample_params *p = &r->p;
    *p = (sample_params){.temperature = chance(0.3) ? 0 : (float)(0.2 + 1.5 * uniform()),
                         .top_p = chance(0.5) ? 1 : (float)(0.02 + 0.97 * uniform()),
                         .top_k = chance(0.5) ? 0 : 1 + below(chance(0.5) ? 5 : 2 * vocab),
                         .min_p = chance(0.6) ? 0 : (float)(0.3 * uniform()),
                         .typical_p = 1,
                         .repetition_penalty = chance(0.6) ? 1 : (float)(0.5 + uniform()),
                         .frequency_penalty = chance(0.7) ? 0 : (float)(2 * uniform() - 1),
                         .presence_penalty = chance(0.7) ? 0 : (float)(2 * uniform() - 1),
                         .no_repeat_ngram = chance(0.8) ? 0 : 1 + below(3),
                         .min_tokens = chance(0.7) ? 0 : below(N_IDS),
                         .seed = drawn,
                         .n_logprobs = below(22) - 1,
                         .bias = r->bias,
                         .n_bias = chance(0.6) ? 0 : 1 + below(8),
                         .stop_ids = r->stop,
                         .n_stop_ids = below(8),
                         .allowed_ids = chance(0.8) ? NULL : r->allowed,
                         .n_allowed = 1 + below(32)};
    for (int32_t i = 0; i < 8; i++) {
        r->bias[i] =
            (logit_bias){below(vocab + 2), chance(0.2) ? -INFINITY : (float)(8 * uniform() - 4)};
        r->stop[i] = below(vocab + 2);
    }
    for (int32_t i = 0; i < 32; i++) r->allowed[i] = below(vocab + 2);
    for (int32_t i = 0; i < N_IDS; i++) r->ids[i] = below(MIN(vocab, 40) + 1);
    int32_t n_known = 1 + below(N_IDS);
    r->q = (batch_seq){.ids = r->ids,
                       .n_known = n_known,
                       .n_prompt = below(n_known + 1),
                       .choice = below(3),
                       .params = p,
                       .sample = true};
}

static backend *open_ref(void) {
    cpu_options o = {.n_threads = 1, .isa = "ref"};
    backend *b;
    error err;
    ck_assert_msg(backend_cpu_open(&o, &b, &err) == OK, "%s", err.text);
    return b;
}

static void same_out(const sample_out *want, const sample_out *got) {
    ck_assert_int_eq(got->token, want->token);
    ck_assert_int_eq(got->rank, want->rank);
    ck_assert_int_eq(got->n_top, want->n_top);
    ck_assert_int_eq(memcmp(&got->logprob, &want->logprob, sizeof(float)), 0);
    for (int32_t i = 0; i < want->n_top; i++) {
        ck_assert_int_eq(got->top[i].id, want->top[i].id);
        ck_assert_int_eq(memcmp(&got->top[i].logprob, &want->top[i].logprob, sizeof(float)), 0);
    }
}

typedef struct block {
    int32_t vocab;
    float *x, lse[N_ROWS];
    int32_t argmax[N_ROWS], given[N_ROWS], result[N_ROWS];
    one_row rows[N_ROWS];
} block;

static void list_rows(block *b, sample_device *d) {
    logits_block l = {b->x, b->lse, b->argmax};
    for (int32_t i = 0; i < N_ROWS; i++) {
        fill_logits(b->x + (size_t)i * (size_t)b->vocab, b->vocab, &b->lse[i], &b->argmax[i]);
        draw_row(&b->rows[i], b->vocab);
        b->given[i] = chance(0.2) ? below(b->vocab) : -1;
        if (chance(0.03)) b->lse[i] = chance(0.5) ? NAN : -INFINITY;
    }
    sample_device_open(d, &l);
    for (int32_t i = N_ROWS; i-- > 0;)
        b->result[i] = b->given[i] >= 0
                           ? sample_device_describe(d, b->given[i], b->rows[i].p.n_logprobs, i)
                           : sample_device_choose(d, &b->rows[i].q, i);
    sample_device_run(d);
}

static int32_t check_rows(const block *b, const sample_device *d, sampler *s) {
    int32_t n_bad = 0;
    for (int32_t i = 0; i < N_ROWS; i++) {
        logits_row row = {b->x + (size_t)i * (size_t)b->vocab, b->lse[i], b->argmax[i]};
        sample_out want, got;
        status st = b->given[i] >= 0
                        ? sampler_describe(s, &row, b->given[i], b->rows[i].p.n_logprobs, &want)
                        : sampler_choose(s, &b->rows[i].q, &row, &want);
        ck_assert_int_eq(sample_device_result(d, b->result[i], &got), st);
        if (st == OK) same_out(&want, &got);
        n_bad += st != OK;
    }
    return n_bad;
}

/* Steps of two blocks; the seeds are fixed, and no draw falls between the two sums of weights. */
static void check_vocab(int32_t vocab, int n_steps) {
    backend *ref = open_ref();
    sampler *s = sampler_new(vocab);
    sample_device *d = NULL;
    error err;
    int32_t n_bad = 0;
    block *b = mem_calloc(2, sizeof *b);
    /* n_rows 4: fewer masks than rows want, so that the lists begin anew within a step. */
    ck_assert_int_eq(sample_device_new(ref, vocab, 2 * N_ROWS, 4, 2, &d, &err), OK);
    for (int i = 0; i < 2; i++) {
        b[i].vocab = vocab;
        b[i].x = mem_alloc((size_t)N_ROWS * (size_t)vocab * sizeof(float));
    }
    for (int step = 0; step < n_steps; step++) {
        sample_device_begin(d);
        for (int i = 0; i < 2; i++) list_rows(&b[i], d);
        sample_device_fetch(d);
        for (int i = 0; i < 2; i++) n_bad += check_rows(&b[i], d, s);
    }
    ck_assert_int_gt(n_bad, 0);
    for (int i = 0; i < 2; i++) mem_free(b[i].x);
    mem_free(b);
    sample_device_free(d);
    sampler_free(s);
    backend_close(ref);
}

START_TEST(chooses_as_the_sampler) {
    check_vocab(7, 40);
    check_vocab(33, 40);
    check_vocab(500, 20);
    check_vocab(6001, 6);
}
END_TEST

START_TEST(typical_p_is_the_hosts) {
    sample_params p = {.temperature = 1, .typical_p = 0.5f};
    ck_assert(!sample_device_can(&p));
    p.temperature = 0;
    ck_assert(sample_device_can(&p));
    p = (sample_params){.temperature = 1, .typical_p = 1};
    ck_assert(sample_device_can(&p));
}
END_TEST

int main(void) {
    Suite *s = suite_create("sample_device");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, chooses_as_the_sampler);
    tcase_add_test(t, typical_p_is_the_hosts);
    suite_add_tcase(s, t);
    return suite_run(s);
}
