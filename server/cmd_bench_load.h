/* Load on a running server over /v1/completions, streaming: what a client sees. */
#ifndef SERVER_CMD_BENCH_LOAD_H
#define SERVER_CMD_BENCH_LOAD_H

#include "conf/conf.h"

/* `pagoda bench serve`: for each number of --concurrency (closed loop), or once at --rate (open
 * loop, Poisson arrivals), sends the requests and prints throughput, TTFT, ITL and TPOT percentiles
 * and the server's CPU time per token: a table, a line each for several numbers, or JSON, one
 * object a line. The exit status is 1 if any request failed. */
int bench_load(const conf *c);

#endif
