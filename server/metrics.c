/* Everything is a relaxed atomic: a scrape may see one request counted in one family and not yet
 * in another, never a torn number. Sums are kept in whole micro-units so that they can be added
 * without a lock.
 *
 * Two sources: what the front end sees (HTTP, latencies, sizes) is counted here; what the
 * scheduler counts is read from its snapshot when the page is written (metrics_text.c). */
#include "server/metrics_internal.h"

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "server/exchange.h"

/* Upper bounds, +Inf not listed. */
#define LATENCY                                                                                    \
    .3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680
#define PER_TOKEN .01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80
#define SIZES                                                                                      \
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000,     \
        500000, 1000000, 2000000, 5000000, 10000000

const hist_def hist_defs[HIST_COUNT] = {
    [HIST_TTFT] = {"vllm:time_to_first_token_seconds",
                   "Time from arrival to the first generated token.",
                   {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                    1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560}},
    [HIST_ITL] = {"vllm:inter_token_latency_seconds",
                  "Time between two tokens of a choice.",
                  {PER_TOKEN}},
    [HIST_TPOT] = {"vllm:request_time_per_output_token_seconds",
                   "Mean time per token after the first, per request.",
                   {PER_TOKEN}},
    [HIST_E2E] = {"vllm:e2e_request_latency_seconds", "Time from arrival to the end.", {LATENCY}},
    [HIST_QUEUE] = {"vllm:request_queue_time_seconds", "Time spent waiting.", {LATENCY}},
    [HIST_INFERENCE] = {"vllm:request_inference_time_seconds", "Time spent running.", {LATENCY}},
    [HIST_PREFILL] = {"vllm:request_prefill_time_seconds",
                      "Time from start to first token.",
                      {LATENCY}},
    [HIST_DECODE] = {"vllm:request_decode_time_seconds",
                     "Time from first to last token.",
                     {LATENCY}},
    [HIST_PROMPT] = {"vllm:request_prompt_tokens", "Prompt tokens per request.", {SIZES}, true},
    [HIST_GENERATION] = {"vllm:request_generation_tokens",
                         "Generated tokens per request.",
                         {SIZES},
                         true},
    [HIST_MAX_TOKENS] = {"vllm:request_params_max_tokens",
                         "max_tokens of requests.",
                         {SIZES},
                         true},
    [HIST_N] = {"vllm:request_params_n", "n of requests.", {1, 2, 5, 10, 20}},
};

metrics *metrics_new(void) {
    return mem_calloc(1, sizeof(metrics));
}

void metrics_free(metrics *m) {
    mem_free(m);
}

static void count(_Atomic uint64_t *c, uint64_t by) {
    atomic_fetch_add_explicit(c, by, memory_order_relaxed);
}

static void observe(metrics *m, hist_id id, double v, uint64_t micro) {
    hist *h = &m->hists[id];
    const double *le = hist_defs[id].le;
    int b = 0;
    while (b < HIST_BUCKETS && le[b] > 0 && v > le[b]) b++;
    count(&h->count[b], 1);
    count(&h->sum_micro, micro);
}

static void observe_us(metrics *m, hist_id id, uint64_t from, uint64_t to) {
    uint64_t us = from && to > from ? to - from : 0;
    observe(m, id, (double)us * 1e-6, us);
}

static void observe_n(metrics *m, hist_id id, int32_t n) {
    uint64_t v = n > 0 ? (uint64_t)n : 0;
    observe(m, id, (double)v, v * 1000000);
}

void metrics_token_gap(metrics *m, uint64_t us) {
    observe(m, HIST_ITL, (double)us * 1e-6, us);
}

void metrics_reject(metrics *m, reject_reason why) {
    count(&m->rejects[why], 1);
}

void metrics_request(metrics *m, const request *r, int32_t n_generated, int32_t n_choices) {
    const request_times *t = &r->times;
    uint64_t end = t->finished_us ? t->finished_us : clock_us();
    observe_us(m, HIST_E2E, r->arrival_us, end);
    observe_n(m, HIST_PROMPT, r->n_prompt - r->n_virtual);
    observe_n(m, HIST_GENERATION, n_generated);
    observe_n(m, HIST_MAX_TOKENS, r->max_tokens);
    observe_n(m, HIST_N, n_choices);
    observe_us(m, HIST_QUEUE, r->arrival_us, t->scheduled_us ? t->scheduled_us : end);
    if (!t->scheduled_us) return;
    observe_us(m, HIST_INFERENCE, t->scheduled_us, end);
    if (!t->first_token_us) return;
    observe_us(m, HIST_TTFT, r->arrival_us, t->first_token_us);
    observe_us(m, HIST_PREFILL, t->scheduled_us, t->first_token_us);
    observe_us(m, HIST_DECODE, t->first_token_us, end);
    int32_t per_choice = n_generated / MAX(1, n_choices);
    if (per_choice > 1 && end > t->first_token_us) {
        uint64_t us = (end - t->first_token_us) / (uint64_t)(per_choice - 1);
        observe(m, HIST_TPOT, (double)us * 1e-6, us);
    }
}

const int http_statuses[HTTP_STATUSES] = {200, 204, 400, 401, 403, 404, 405, 408,
                                          413, 415, 429, 431, 499, 500, 503};

void metrics_http(metrics *m, const exchange *x, bool left, uint64_t now_us) {
    int code = left && x->http_status < 400 ? 499 : x->http_status;
    int s = 0;
    while (s < HTTP_STATUSES && http_statuses[s] != code) s++;
    count(&m->http[x->route->id][x->method][s], 1);
    uint64_t us = now_us - x->start_us;
    static const double le[HTTP_BUCKETS] = HTTP_LE;
    int b = 0;
    while (b < HTTP_BUCKETS && (double)us * 1e-6 > le[b]) b++;
    count(&m->http_time[x->route->id].count[b], 1);
    count(&m->http_time[x->route->id].sum_micro, us);
}
