/* Load on a running server over /v1/completions, streaming: what a client sees. */
#ifndef SERVER_CMD_BENCH_LOAD_H
#define SERVER_CMD_BENCH_LOAD_H

#include "conf/conf.h"

/* `pagoda bench serve`: sends c->requests requests, closed loop (c->concurrency in flight) or open
 * loop (c->rate > 0: Poisson arrivals), and prints throughput, TTFT, ITL and TPOT percentiles as
 * text or JSON. The exit status is 1 if any request failed. */
int bench_load(const conf *c);

#endif
