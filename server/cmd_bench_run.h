/* One load on a running server: how many requests, how they arrive, and what came of them. */
#ifndef SERVER_CMD_BENCH_RUN_H
#define SERVER_CMD_BENCH_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/vec.h"
#include "server/client.h"

typedef VEC(double) vec_f64;

/* The server, and how prompts for it are made. */
typedef struct bench_target {
    client_url url;
    const char *api_key; /* borrowed, or NULL */
    char *model;
    vec_i32 pool; /* token ids to draw prompts from; empty: words */
    int pid;      /* of the server on this machine, 0 = not told */
} bench_target;

typedef struct bench_load_options {
    int concurrency;    /* closed loop: requests in flight */
    double rate;        /* > 0: open loop, requests per second */
    int64_t n_requests; /* most to start */
    double duration_s;  /* > 0: and none is started later than this */
    double cancel;      /* part of the requests whose client leaves in mid-answer */
    int32_t input_len, output_len;
    uint64_t seed;
    int64_t first_request; /* prompts are those of requests first_request, +1, ... of the seed */
} bench_load_options;

/* What a process has used: of the server, told by its pid or by its /metrics. */
typedef struct bench_usage {
    double cpu_s;   /* user and system time, < 0 = not known */
    double rss_mib; /* resident memory, < 0 = not known */
} bench_usage;

/* Between two moments of a run: all streams open, that is from the first token of the last stream
 * to the end of the first one. */
typedef struct bench_steady {
    bool seen;
    double seconds, cpu_s, rss_mib;
    int64_t n_events;
} bench_steady;

typedef struct bench_result {
    int64_t n_ended, n_failed, n_cancelled;
    int64_t prompt_tokens, output_tokens, n_events;
    double seconds;
    bench_usage before, after;
    bench_steady steady;
    vec_f64 ttft, itl, tpot, e2e; /* milliseconds, unsorted */
    error first_error;
} bench_result;

/* Errors: ERR_IO when nothing can be measured (descriptors, epoll); a request that fails is counted
 * in *ret instead. The caller frees with bench_result_done, also after an error. */
NODISCARD status bench_run(const bench_target *t, const bench_load_options *o, bench_result *ret,
                           error *err);
void bench_result_done(bench_result *r);

#endif
