/* Time of the host's sampler per row of 151,936 logits, one thread: what it costs to choose a token
 * by each filter. "peaked" rows fall off exponentially, as those of trained models do; "flat" ones
 * are normal, as those of random weights are, where a nucleus is most of the vocabulary. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/sampler.h"

enum { VOCAB = 151936, KNOWN = 1000, REPS = 300 };

static const sample_params off = {
    .temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1, .n_logprobs = -1};

static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static logits_row row_new(bool flat) {
    logits_row r = {.x = mem_alloc(VOCAB * sizeof *r.x)};
    double sum = 0;
    for (int32_t i = 0; i < VOCAB; i++) {
        double u = 1e-9 + rng_uniform(5, (uint64_t)i, 0), v = rng_uniform(6, (uint64_t)i, 0);
        r.x[i] = flat ? (float)(sqrt(-2 * log(u)) * cos(2 * M_PI * v)) : -1.5f * (float)log(u);
        if (r.x[i] > r.x[r.argmax]) r.argmax = i;
    }
    for (int32_t i = 0; i < VOCAB; i++) sum += exp((double)r.x[i] - r.x[r.argmax]);
    r.lse = r.x[r.argmax] + (float)log(sum);
    return r;
}

static void line(const char *name, sample_params p, bool flat) {
    static uint64_t times[REPS];
    int32_t *ids = mem_alloc(KNOWN * sizeof *ids);
    for (int32_t i = 0; i < KNOWN; i++) ids[i] = (int32_t)((int64_t)i * 7919 % VOCAB);
    sampler *s = sampler_new(VOCAB);
    logits_row row = row_new(flat);
    batch_seq q = {.ids = ids, .n_known = KNOWN, .n_prompt = KNOWN / 2, .params = &p};
    for (int i = 0; i < REPS; i++) {
        sample_out out;
        p.seed = (uint64_t)i;
        uint64_t start = clock_ns();
        if (sampler_choose(s, &q, &row, &out) != OK) exit(1);
        times[i] = clock_ns() - start;
    }
    qsort(times, REPS, sizeof times[0], by_value);
    printf("%-32s %10.1f %10.1f\n", name, (double)times[REPS / 2] / 1e3, (double)times[0] / 1e3);
    sampler_free(s);
    mem_free(row.x);
    mem_free(ids);
}

int main(void) {
    sample_params p = off;
    printf("%-32s %10s %10s\n", "line", "median us", "best us");
    p.temperature = 0;
    line("greedy", p, false);
    p.n_logprobs = 0;
    line("greedy, its logprob", p, false);
    p.n_logprobs = -1;
    p.repetition_penalty = 1.05f;
    line("greedy, repetition penalty", p, false);
    p = off;
    line("temperature", p, false);
    p.top_p = 0.95f;
    line("top_p 0.95", p, false);
    line("top_p 0.95, flat", p, true);
    p.repetition_penalty = 1.05f;
    p.top_k = 20;
    line("top_k 20, top_p, penalty", p, false);
    p.n_logprobs = 20;
    line("the same, 20 logprobs", p, false);
    p = off;
    p.top_k = 2000;
    line("top_k 2000", p, false);
    p = off;
    p.min_p = 0.05f;
    line("min_p 0.05", p, false);
    p = off;
    p.typical_p = 0.9f;
    line("typical_p 0.9", p, false);
    return 0;
}
