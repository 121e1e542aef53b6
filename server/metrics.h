/* Counters and histograms, and their Prometheus text. Names are vLLM's, so that its dashboards and
 * the Kubernetes gateway's endpoint picker read them; pagoda's own begin with "pagoda:".
 *
 * Counting is lock-free and may be done from any thread. */
#ifndef SERVER_METRICS_H
#define SERVER_METRICS_H

#include <stdint.h>

#include "scheduler/request.h"

typedef struct server server;
typedef struct metrics metrics;
typedef struct exchange exchange;

typedef enum reject_reason {
    REJECT_QUEUE_FULL,
    REJECT_UNAVAILABLE, /* loading, draining, unhealthy */
    REJECT_RATE_LIMIT,
    REJECT_CAPACITY, /* can never run: longer than the context or the cache */
    REJECT_COUNT
} reject_reason;

metrics *metrics_new(void);
void metrics_free(metrics *m);

void metrics_http(metrics *m, const exchange *x, bool left, uint64_t now_us);
void metrics_reject(metrics *m, reject_reason why);
/* One request of the scheduler has ended with an answer: its times and sizes. */
void metrics_request(metrics *m, const request *r, int32_t n_generated, int32_t n_choices);
void metrics_token_gap(metrics *m, uint64_t us); /* between two tokens of one choice */
/* The whole page. Works before a model is attached, with less in it. */
void metrics_write(server *s, strbuf *out);

#endif
