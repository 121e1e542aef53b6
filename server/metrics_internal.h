/* The counters behind metrics.h, shared by the file that counts and the file that prints. */
#ifndef SERVER_METRICS_INTERNAL_H
#define SERVER_METRICS_INTERNAL_H

#include <stdatomic.h>

#include "server/metrics.h"
#include "server/routes.h"

enum { HIST_BUCKETS = 24, HTTP_STATUSES = 15, HTTP_BUCKETS = 11 };
#define HTTP_LE                                                                                    \
    { .0005, .001, .005, .01, .05, .1, .5, 1, 5, 30, 120 }

typedef enum hist_id {
    HIST_TTFT,
    HIST_ITL,
    HIST_TPOT,
    HIST_E2E,
    HIST_QUEUE,
    HIST_INFERENCE,
    HIST_PREFILL,
    HIST_DECODE,
    HIST_PROMPT,
    HIST_GENERATION,
    HIST_MAX_TOKENS,
    HIST_N,
    HIST_COUNT
} hist_id;

typedef struct hist_def {
    const char *name, *help;
    double le[HIST_BUCKETS]; /* ascending, ends at the first 0 */
    bool to_model_len;       /* print bounds up to max_model_len only */
} hist_def;

typedef struct hist {
    _Atomic uint64_t count[HIST_BUCKETS + 1]; /* not cumulative; the last is +Inf */
    _Atomic uint64_t sum_micro;
} hist;

struct metrics {
    hist hists[HIST_COUNT];
    hist http_time[ROUTE_ID_COUNT];
    _Atomic uint64_t http[ROUTE_ID_COUNT][METHOD_COUNT][HTTP_STATUSES + 1]; /* last: other */
    _Atomic uint64_t rejects[REJECT_COUNT];
};

extern const hist_def hist_defs[HIST_COUNT];
extern const int http_statuses[HTTP_STATUSES];

#endif
